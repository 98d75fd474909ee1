//! Cases that others measure, with their parameters, on clusters in memory: Aurora's own benchmarks (`src/jmh`, of which
//! no results are published) and those of kube-scheduler for which a floor is published (`scheduler_perf`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use engine::state::command::Report;
use engine::state::laws;
use engine::validate::check_job_spec;
use engine::{HostIdentity, Op, Round, Status, View, preemptions, round};
use proto::{HostId, Resources, wire};

use crate::decisions::{Memory, timed, wire_job};

/// Aurora's host and task.
const AURORA_HOST: Resources =
    Resources { cpu_milli: 8_000, ram_mib: 16 * 1024, disk_mib: 256 * 1024, gpus: 0 };
const AURORA_TASK: Resources =
    Resources { cpu_milli: 6_000, ram_mib: 8 * 1024, disk_mib: 128 * 1024, gpus: 0 };
/// kube-scheduler's node and pod.
const NODE: Resources = Resources { cpu_milli: 4_000, ram_mib: 32 * 1024, disk_mib: 1024 * 1024, gpus: 0 };
const POD: Resources = Resources { cpu_milli: 100, ram_mib: 500, disk_mib: 64, gpus: 0 };
const NODES: usize = 5_000;
/// Tasks that Aurora schedules in one attempt.
const BATCH: u32 = 5;
/// Placements of one round, where something happens between rounds.
const ROUND: usize = 500;

/// What a case took.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Whose case and which.
    pub case: String,
    /// Hosts.
    pub hosts: usize,
    /// Tasks that one operation is about.
    pub tasks: usize,
    /// One operation, the median of many; or all of it.
    pub time: Duration,
    /// What they publish as the least, a second.
    pub floor_per_s: Option<u32>,
}

/// The median time of `work`, done for a fifth of a second; making what it works on is not timed.
fn median_on<T>(mut make: impl FnMut() -> T, mut work: impl FnMut(&mut T)) -> Duration {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || (begun.elapsed() < Duration::from_millis(200) && times.len() < 10_000) {
        let (mut made, mut time) = (make(), Duration::ZERO);
        timed(&mut time, || work(&mut made));
        times.push(time);
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// The same, of what changes nothing.
fn median(mut work: impl FnMut()) -> Duration {
    median_on(|| (), |()| work())
}

fn config(spec: &mut wire::JobSpec) -> Result<&mut wire::TaskConfig> {
    spec.config.as_mut().context("a job has a config")
}

fn production(role: &str, name: &str, demand: Resources, instances: u32) -> Result<wire::JobSpec> {
    let mut spec = wire_job(role, name, demand, instances);
    config(&mut spec)?.tier = "preferred".into();
    Ok(spec)
}

fn constrain(spec: &mut wire::JobSpec, attribute: &str, rule: wire::constraint::Rule) -> Result<()> {
    let constraint = wire::Constraint { attribute: attribute.into(), rule: Some(rule) };
    config(spec)?.constraints.push(constraint);
    Ok(())
}

fn limit(count: u32) -> wire::constraint::Rule {
    wire::constraint::Rule::Limit(wire::LimitRule { count })
}

fn one_of(values: &[&str]) -> wire::constraint::Rule {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    wire::constraint::Rule::Value(wire::ValueRule { negated: false, values })
}

fn create(memory: &mut Memory, spec: &wire::JobSpec) -> Result<()> {
    memory.apply(Op::CreateJob(check_job_spec(spec)?))?;
    while let Some(work) = memory.state.next_work() {
        memory.apply(Op::AdvanceWork(work))?;
    }
    Ok(())
}

fn quota(memory: &mut Memory, role: &str) -> Result<()> {
    let quota = Resources { cpu_milli: 1 << 39, ram_mib: 1 << 39, disk_mib: 1 << 39, gpus: 0 };
    memory.apply(Op::SetQuota { role: role.into(), quota, increment: false }).map(drop)
}

/// A round with one pending task on a cluster full to 95%, when nothing else has changed.
pub fn one_task(hosts: usize) -> Result<Measured> {
    let mut memory = Memory::with_hosts(hosts)?;
    memory.fill(95)?;
    create(&mut memory, &wire_job("one", "one", POD, 1))?;
    let view = View::new(&memory.state);
    ensure!(round(&view, usize::MAX).report.placed == 1, "it fits");
    let time = median(|| drop(round(&view, usize::MAX)));
    Ok(Measured { case: "one task".into(), hosts, tasks: 1, time, floor_per_s: None })
}

/// Aurora's cases.
pub fn aurora() -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    let mut add = |case: &str, hosts: usize, tasks: usize, time: Duration| {
        all.push(Measured { case: format!("aurora: {case}"), hosts, tasks, time, floor_per_s: None });
    };

    // 1% of the hosts carry tasks of the same job, 1% those of others.
    let hosts = 200_000;
    let mut memory = Memory::of(hosts, AURORA_HOST)?;
    let some = memory.hosts[..hosts / 50].to_vec();
    let (siblings, others) = some.split_at(hosts / 100);
    memory.run_on(&wire_job("www", "victim", AURORA_TASK, others.len() as u32), others)?;
    let instances = siblings.len() as u32 + BATCH;
    memory.run_on(&wire_job("www", "app", AURORA_TASK, instances), siblings)?;
    let view = View::new(&memory.state);
    ensure!(round(&view, usize::MAX).report.placed == BATCH as usize, "a batch fits");
    let time = median(|| drop(round(&view, usize::MAX)));
    add("fill, one batch", hosts, BATCH as usize, time);
    create(&mut memory, &wire_job("www", "more", AURORA_TASK, 10_000))?;
    let view = View::new(&memory.state);
    let time = median(|| drop(round(&view, usize::MAX)));
    add("fill, one round", hosts, 10_000, time);
    drop(view);

    // One task that fits nowhere, for three reasons.
    for (case, cpu_milli, rule) in [
        ("insufficient resources", 32_000, None),
        ("value mismatch", 6_000, Some(("zone", one_of(&["nowhere"])))),
        ("limit mismatch", 2_000, Some(("host", limit(1)))),
    ] {
        let mut memory = Memory::of(1_000, AURORA_HOST)?;
        let demand = Resources { cpu_milli, ram_mib: 1024, disk_mib: 1024, gpus: 0 };
        // We have no limit of 0: each host has a task of the job instead.
        let everywhere = if case.starts_with("limit") { memory.hosts.clone() } else { Vec::new() };
        let mut spec = wire_job("www", "app", demand, everywhere.len() as u32 + 1);
        if let Some((attribute, rule)) = rule {
            constrain(&mut spec, attribute, rule)?;
        }
        memory.run_on(&spec, &everywhere)?;
        let view = View::new(&memory.state);
        let report = round(&view, usize::MAX).report;
        ensure!((report.placed, report.waiting) == (0, 1), "{case}: {report:?}");
        let time = median(|| drop(round(&view, usize::MAX)));
        add(case, 1_000, 1, time);
    }

    // Full: on 10% of the hosts production of the same role, on 90% what may be displaced.
    let hosts = 10_000;
    for pending in [1_u32, 10, 100, 1_000] {
        let mut memory = Memory::of(hosts, AURORA_HOST)?;
        quota(&mut memory, "www")?;
        let on = memory.hosts.clone();
        let (siblings, victims) = on.split_at(hosts / 10);
        memory.run_on(&production("www", "sibling", AURORA_TASK, siblings.len() as u32)?, siblings)?;
        memory.run_on(&wire_job("other", "victim", AURORA_TASK, victims.len() as u32), victims)?;
        for job in 0..pending.div_ceil(BATCH) {
            let instances = BATCH.min(pending);
            create(&mut memory, &production("www", &format!("app-{job}"), AURORA_TASK, instances)?)?;
        }
        let mut view = View::new(&memory.state);
        let decided = round(&view, usize::MAX);
        ensure!(decided.report.placed == 0, "the cluster is full");
        if pending == 1 {
            add("full cluster, the round", hosts, 1, median(|| drop(round(&view, usize::MAX))));
        }
        view.launch(&decided);
        let found = preemptions(&mut view.clone(), &memory.state, &decided, pending as usize);
        ensure!(found.len() == pending as usize, "{} of {pending} slots found", found.len());
        let search = |view: &mut View| {
            drop(preemptions(view, &memory.state, &decided, pending as usize));
        };
        let time = median_on(|| view.clone(), search);
        add("preemption slot search", hosts, pending as usize, time);
        for preempt in found {
            memory.apply(Op::Preempt(preempt))?;
        }
        laws::check(&memory.state)?;
    }
    Ok(all)
}

/// A cluster with a leader's view of it.
struct Running {
    memory: Memory,
    view: View,
    journals: BTreeMap<HostId, String>,
    sequence: u64,
    /// In rounds, in `apply` of what they decide, and in keeping the view.
    time: Duration,
    placed: usize,
}

impl Running {
    fn new(mut memory: Memory) -> Running {
        memory.hints.clear();
        let view = View::new(&memory.state);
        let journals = memory.state.hosts().map(|host| (host.id(), host.record.identity.journal.clone()));
        let journals = journals.collect();
        Running { memory, view, journals, sequence: 0, time: Duration::ZERO, placed: 0 }
    }

    fn see(&mut self) {
        let hints = std::mem::take(&mut self.memory.hints);
        timed(&mut self.time, || self.view.absorb(&self.memory.state, &hints));
    }

    fn round(&mut self, budget: usize) -> Result<Round> {
        self.see();
        let begun = Instant::now();
        let decided = round(&self.view, budget);
        self.view.launch(&decided);
        for assign in &decided.assigns {
            let done = self.memory.apply(Op::Assign(assign.clone()))?;
            ensure!(done.tasks as usize == assign.placements.len(), "apply took {done:?} of {assign:?}");
        }
        self.time += begun.elapsed();
        self.see();
        self.placed += decided.report.placed;
        Ok(decided)
    }

    /// Displaces for what waits; the victims end at once.
    fn displace(&mut self, decided: &Round) -> Result<()> {
        let begun = Instant::now();
        for preempt in preemptions(&mut self.view, &self.memory.state, decided, ROUND) {
            let (host, victims) = (preempt.host, preempt.victims.clone());
            self.memory.apply(Op::Preempt(preempt))?;
            let reports = victims.into_iter().map(|task| {
                self.sequence += 1;
                Report { task, status: Status::Killed, message: String::new(), sequence: self.sequence }
            });
            let (reports, journal) = (reports.collect(), self.journals[&host].clone());
            self.memory.apply(Op::ApplyReports { host, journal, reports })?;
        }
        self.time += begun.elapsed();
        Ok(())
    }

    /// Places `tasks` more, with something happening between rounds, which is not timed.
    fn place(
        &mut self,
        tasks: usize,
        mut between: impl FnMut(&mut Memory, usize) -> Result<()>,
    ) -> Result<()> {
        let until = self.placed + tasks;
        for number in 0.. {
            let before = self.placed;
            self.round(ROUND.min(until - before))?;
            if self.placed == until {
                break;
            }
            ensure!(self.placed > before, "{} of {until} tasks found a place", self.placed);
            between(&mut self.memory, number)?;
        }
        laws::check(&self.memory.state).map_err(Into::into)
    }
}

fn nothing(_: &mut Memory, _: usize) -> Result<()> {
    Ok(())
}

/// Every round: a job comes and goes, a host is drained and comes back, and another one registers anew.
fn churn(memory: &mut Memory, number: usize) -> Result<()> {
    let spec = wire_job("churn", &format!("churn-{number}"), POD, 5);
    create(memory, &spec)?;
    let job = check_job_spec(&spec)?.config.job.clone();
    memory.apply(Op::KillTasks { job, instances: Vec::new(), message: String::new() })?;
    let host = |memory: &Memory, at: usize| -> Result<(String, HostIdentity, engine::HostSpec)> {
        let host = memory.state.host(memory.hosts[at % memory.hosts.len()]).context("a host")?;
        let identity = HostIdentity { host: Some(host.id()), ..(*host.record.identity).clone() };
        Ok((host.name().to_string(), identity, (*host.record.spec).clone()))
    };
    let (name, ..) = host(memory, number * 7)?;
    memory.apply(Op::DrainHosts { hosts: vec![name.clone()], message: String::new() })?;
    memory.apply(Op::ActivateHosts { hosts: vec![name] })?;
    let (_, identity, spec) = host(memory, number * 7 + 1)?;
    let held = memory.state.host(identity.host.context("its id")?).context("a host")?.tasks().collect();
    memory.apply(Op::RegisterHost { identity, spec, held }).map(drop)
}

/// kube-scheduler's cases on 5,000 nodes; our time is that of rounds, `apply` and the view, all in memory.
pub fn kube() -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    let mut add = |case: &str, running: &Running, tasks: usize, floor_per_s: Option<u32>| {
        let case = format!("kube: {case}");
        all.push(Measured { case, hosts: NODES, tasks, time: running.time, floor_per_s });
    };
    /// A cluster on which so many pods run already.
    fn with_pods(pods: usize) -> Result<Running> {
        let mut memory = Memory::of(NODES, NODE)?;
        create(&mut memory, &wire_job("init", "init", POD, pods as u32))?;
        let mut running = Running::new(memory);
        running.place(pods, nothing)?;
        running.time = Duration::ZERO;
        Ok(running)
    }

    for (pods, floor) in [(10_000, 680), (50_000, 810)] {
        let mut running = with_pods(1_000)?;
        create(&mut running.memory, &wire_job("kube", "pods", POD, pods as u32))?;
        running.place(pods, nothing)?;
        add("basic", &running, pods, Some(floor));
    }

    let mut running = with_pods(1_000)?;
    create(&mut running.memory, &wire_job("kube", "pods", POD, 10_000))?;
    running.place(10_000, churn)?;
    add("mixed churn", &running, 10_000, Some(710));

    let mut running = with_pods(20_000)?;
    create(&mut running.memory, &wire_job("kube", "pods", POD, 10_000))?;
    running.place(10_000, |memory, number| {
        let huge = Resources { cpu_milli: 9_000, ..POD };
        create(memory, &wire_job("kube", &format!("huge-{number}"), huge, 5))
    })?;
    add("unschedulable present", &running, 10_000, Some(600));

    // 20,000 of low priority fill the nodes; each of 5,000 displaces three of them.
    let mut memory = Memory::of(NODES, NODE)?;
    create(&mut memory, &wire_job("low", "low", Resources { cpu_milli: 900, ..POD }, 20_000))?;
    let mut running = Running::new(memory);
    running.place(20_000, nothing)?;
    (running.time, running.placed) = (Duration::ZERO, 0);
    quota(&mut running.memory, "high")?;
    create(
        &mut running.memory,
        &production("high", "high", Resources { cpu_milli: 3_000, ..POD }, NODES as u32)?,
    )?;
    while running.placed < NODES {
        let before = (running.placed, running.sequence);
        let decided = running.round(usize::MAX)?;
        running.displace(&decided)?;
        ensure!((running.placed, running.sequence) != before, "{} were placed", running.placed);
    }
    laws::check(&running.memory.state)?;
    add("preemption", &running, NODES, None);

    let mut running = with_pods(1_000)?;
    let mut spec = wire_job("kube", "pods", POD, 5_000);
    config(&mut spec)?.spreads.push(wire::Spread { attribute: "zone".into(), targets: Vec::new() });
    create(&mut running.memory, &spec)?;
    running.place(5_000, nothing)?;
    add("spread", &running, 5_000, None);

    let mut running = with_pods(1_000)?;
    let mut spec = wire_job("kube", "pods", POD, 2_000);
    constrain(&mut spec, "host", limit(1))?;
    create(&mut running.memory, &spec)?;
    running.place(2_000, nothing)?;
    add("anti-affinity", &running, 2_000, Some(60));

    let mut running = with_pods(1_000)?;
    let mut spec = wire_job("kube", "pods", POD, 5_000);
    let constraint = Some(wire::Constraint { attribute: "zone".into(), rule: Some(one_of(&["z1"])) });
    config(&mut spec)?.preferences.push(wire::Preference { constraint, weight: 1 });
    create(&mut running.memory, &spec)?;
    running.place(5_000, nothing)?;
    add("preferred affinity", &running, 5_000, Some(90));

    let mut running = with_pods(1_000)?;
    let mut spec = wire_job("kube", "pods", POD, 10_000);
    constrain(&mut spec, "zone", one_of(&["z1", "z2"]))?;
    create(&mut running.memory, &spec)?;
    running.place(10_000, nothing)?;
    add("node affinity", &running, 10_000, Some(220));
    Ok(all)
}
