//! A plain count of what an API lists (jobs, tasks, hosts), beside the figures that the same API tells: quotas, gauges,
//! and why tasks wait. Pure: lists in, complaints out. It knows nothing of State, groups or views.
//!
//! Of a host it takes what its tasks ask for, not what it says is free; rooms that are kept or lent are not counted, so a
//! caller has neither.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use proto::Resources;
use proto::resources::{self, EXECUTOR_RAM_MIB};
use proto::wire::{self, GetJobReply, HostMode, HostView, QuotaView, Status, TaskConfig, Why};

use crate::scrape::Scrape;

/// All that the lists say, read at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Lists {
    /// With their configs.
    pub jobs: Vec<GetJobReply>,
    /// Of them all.
    pub hosts: Vec<HostView>,
}

/// Vetoes by kind, and how many hosts have each.
pub type Vetoes = BTreeMap<String, u32>;

fn config(job: &GetJobReply) -> TaskConfig {
    job.spec.clone().unwrap_or_default().config.unwrap_or_default()
}

fn amounts(amounts: Option<&wire::Resources>) -> Resources {
    amounts.and_then(|amounts| Resources::try_from(amounts).ok()).unwrap_or_default()
}

fn asked(config: &TaskConfig) -> Resources {
    amounts(config.task.as_ref().and_then(|task| task.resources.as_ref()))
}

fn demand(config: &TaskConfig) -> Resources {
    let asked = asked(config);
    Resources { ram_mib: asked.ram_mib + EXECUTOR_RAM_MIB, ..asked }
}

fn name(host: &HostView) -> &str {
    host.spec.as_ref().map_or("", |spec| &spec.name)
}

/// The values of one of a host's attributes.
fn values<'h>(host: &'h HostView, attribute: &str) -> Vec<&'h str> {
    let all = host.spec.iter().flat_map(|spec| &spec.attributes);
    all.filter(|of| of.name == attribute).map(|of| of.value.as_str()).collect()
}

fn is_dedicated(config: &TaskConfig) -> bool {
    config.constraints.iter().any(|constraint| constraint.attribute == "dedicated")
}

/// What a host has left, by the tasks that are listed on it.
fn free(lists: &Lists, host: &HostView) -> Resources {
    let mut free = amounts(host.spec.as_ref().and_then(|spec| spec.capacity.as_ref()));
    for job in &lists.jobs {
        let on_it = job.tasks.iter().filter(|task| task.host == name(host)).count();
        free = free.minus_or_zero(demand(&config(job)).times(on_it as u32));
    }
    free
}

/// Tasks of a job on hosts that share one of this host's values of an attribute: the most of any value.
fn sharing(lists: &Lists, job: &GetJobReply, host: &HostView, attribute: &str) -> usize {
    let with = |value: &str, task: &wire::TaskView| {
        let host = lists.hosts.iter().find(|host| name(host) == task.host);
        host.is_some_and(|host| values(host, attribute).contains(&value))
    };
    let counts =
        values(host, attribute).into_iter().map(|value| job.tasks.iter().filter(|t| with(value, t)).count());
    counts.max().unwrap_or(usize::MAX)
}

/// Every reason why a host takes no more of a job's tasks.
fn vetoes(lists: &Lists, job: &GetJobReply, host: &HostView) -> Vec<&'static str> {
    let config = config(job);
    if host.mode() != HostMode::HostActive {
        return vec!["maintenance"];
    }
    if !is_dedicated(&config) && !values(host, "dedicated").is_empty() {
        return vec!["dedicated"];
    }
    let mut found = Vec::new();
    for constraint in &config.constraints {
        let have = values(host, &constraint.attribute);
        match &constraint.rule {
            Some(wire::constraint::Rule::Value(rule)) => {
                let one = have.iter().any(|value| rule.values.iter().any(|wanted| wanted == value));
                if one == rule.negated {
                    return vec!["constraint"];
                }
            }
            Some(wire::constraint::Rule::Limit(rule)) => {
                if have.is_empty() {
                    return vec!["constraint"];
                }
                if sharing(lists, job, host, &constraint.attribute) >= rule.count as usize {
                    found.push("limit");
                }
            }
            _ => unreachable!("the caller's jobs have no other constraints"),
        }
    }
    let (wanted, free) = (demand(&config), free(lists, host));
    for (kind, wanted, free) in [
        ("cpu", wanted.cpu_milli, free.cpu_milli),
        ("ram", wanted.ram_mib, free.ram_mib),
        ("disk", wanted.disk_mib, free.disk_mib),
    ] {
        if wanted > free {
            found.push(kind);
        }
    }
    found
}

fn counted(lists: &Lists, job: &GetJobReply) -> Vetoes {
    let mut counts = Vetoes::new();
    for host in lists.hosts.iter().filter(|host| !host.silent) {
        for kind in vetoes(lists, job, host) {
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn pending(job: &GetJobReply) -> usize {
    job.tasks.iter().filter(|task| task.status() == Status::Pending).count()
}

/// What hosts say of themselves.
pub fn check_hosts(lists: &Lists) -> Result<()> {
    for host in &lists.hosts {
        let (own, said) = (free(lists, host), amounts(host.free.as_ref()));
        ensure!(own == said, "host {} says {said} free; its tasks leave {own}", name(host));
        let tasks = lists.jobs.iter().flat_map(|job| &job.tasks).filter(|task| task.host == name(host));
        let tasks = tasks.count();
        ensure!(
            tasks == host.tasks as usize,
            "host {} says {} tasks; {tasks} are listed",
            name(host),
            host.tasks
        );
    }
    Ok(())
}

/// The accounts of every role.
pub fn check_quotas(lists: &Lists, said: &[QuotaView]) -> Result<()> {
    let mut accounts: BTreeMap<String, [Resources; 3]> = BTreeMap::new();
    for job in &lists.jobs {
        let config = config(job);
        let role = config.job.clone().unwrap_or_default().role;
        let account = match (config.tier.as_str(), is_dedicated(&config)) {
            ("preferred", false) => 0,
            ("preferred", true) => 1,
            _ => 2,
        };
        let sum = &mut accounts.entry(role).or_default()[account];
        *sum = sum.plus(asked(&config).times(job.tasks.len() as u32));
    }
    for (role, own) in &accounts {
        let Some(said) = said.iter().find(|said| said.role == *role) else {
            anyhow::bail!("role {role} takes {own:?}, and no quota is told");
        };
        let told = [&said.charged, &said.production_dedicated, &said.other].map(|of| amounts(of.as_ref()));
        ensure!(told == *own, "role {role} takes {own:?}; it is told {told:?}");
        let promised = amounts(said.promised.as_ref());
        ensure!(
            promised == Resources::default(),
            "role {role} is promised {promised}, and nothing is to be made"
        );
    }
    Ok(())
}

/// Why the tasks of a job wait, and what `job status` says of each.
pub fn check_why(lists: &Lists, job: &GetJobReply, whys: &[Why]) -> Result<()> {
    let (config, waiting) = (config(job), pending(job));
    let key = config.job.clone().unwrap_or_default();
    let what = format!("{}/{}", key.role, key.name);
    if waiting == 0 {
        ensure!(whys.is_empty(), "nothing of {what} waits, and {whys:?} is told");
        return Ok(());
    }
    let [why] = whys else { anyhow::bail!("{waiting} of {what} wait, and {whys:?} is told") };
    ensure!(why.waiting as usize == waiting, "{waiting} of {what} wait, and {} are told", why.waiting);
    let heard: Vec<&HostView> = lists.hosts.iter().filter(|host| !host.silent).collect();
    ensure!(why.hosts as usize == heard.len(), "{} hosts are heard, and {} are told", heard.len(), why.hosts);
    let told: Vetoes = why.vetoes.iter().map(|veto| (veto.kind.clone(), veto.hosts)).collect();
    let own = counted(lists, job);
    ensure!(told == own, "{what} is told {told:?}; a count gives {own:?}");
    let open = || heard.iter().copied().filter(|host| host.mode() == HostMode::HostActive);
    let wanted = demand(&config);
    if config.all_or_nothing {
        let times = |host: &HostView| {
            let free = free(lists, host);
            (1..=waiting).take_while(|n| wanted.times(*n as u32).fits_in(&free)).count()
        };
        let fit: usize = open().map(times).sum();
        ensure!(why.fit == Some(fit as u32), "{fit} of {what} would fit; {:?} is told", why.fit);
        let words = format!("all {waiting} tasks need a place at once, and {fit} would find one now");
        ensure!(why.nearest_miss.starts_with(&words), "{what} is told {:?}, not {words:?}", why.nearest_miss);
    } else if config.constraints.is_empty() {
        // Short of cpu alone: the best host is the one that has most of it.
        let best = open().map(|host| free(lists, host).cpu_milli).max().unwrap_or_default();
        let (wanted, best) = (resources::cores(wanted.cpu_milli), resources::cores(best));
        let words = format!("needs {wanted} cpu; the best host has {best} free");
        ensure!(why.nearest_miss == words, "{what} is told {:?}, not {words:?}", why.nearest_miss);
    }
    for task in job.tasks.iter().filter(|task| task.status() == Status::Pending) {
        ensure!(
            task.message == why.nearest_miss,
            "the status of {what}/{} says {:?}, and why says {:?}",
            task.instance,
            task.message,
            why.nearest_miss
        );
    }
    Ok(())
}

/// The leader's gauges.
pub fn check_gauges(lists: &Lists, scrape: &Scrape) -> Result<()> {
    let gauge = |name: &str, label: &str, value: &str| {
        scrape.value(&format!("borealis_scheduler_{name}{{{label}=\"{value}\"}}"))
    };
    let live = || lists.jobs.iter().flat_map(|job| &job.tasks);
    for status in [Status::Pending, Status::Assigned, Status::Running, Status::Throttled, Status::Killing] {
        let (own, told) = (live().filter(|task| task.status() == status).count(), status.as_str_name());
        let told = gauge("tasks", "status", told);
        ensure!(told == Some(own as f64), "{own} tasks are {status:?}, and the gauge says {told:?}");
    }
    let silent = lists.hosts.iter().filter(|host| host.silent).count();
    for (label, own) in [("no", silent), ("yes", lists.hosts.len() - silent)] {
        let told = gauge("hosts", "heard", label);
        ensure!(told == Some(own as f64), "heard={label} are {own} hosts, and the gauge says {told:?}");
    }
    let jobs = lists.jobs.iter().filter(|job| !job.tasks.is_empty()).count();
    let told = scrape.value("borealis_scheduler_jobs");
    ensure!(told == Some(jobs as f64), "{jobs} jobs live, and the gauge says {told:?}");
    let mut own = Vetoes::new();
    for (kind, hosts) in lists.jobs.iter().filter(|job| pending(job) > 0).flat_map(|job| counted(lists, job))
    {
        *own.entry(kind).or_default() += hosts;
    }
    for kind in ["cpu", "ram", "disk", "gpu", "ports", "limit", "constraint", "dedicated", "maintenance"] {
        let (told, own) = (gauge("vetoes", "kind", kind), own.get(kind).copied().unwrap_or(0));
        ensure!(told == Some(f64::from(own)), "the veto {kind} is on {own}, and the gauge says {told:?}");
    }
    Ok(())
}
