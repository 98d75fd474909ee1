//! The whole system under its largest load: simulated agents, three replicas, a million tasks; then a leader killed and
//! hosts drained. Every task goes through ASSIGNED, STARTING and RUNNING by its own id in the log.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use proto::wire;
use serde_json::{Value, json};

use crate::api::{Answer, Api, request};
use crate::cluster::{Cluster, PATIENCE, Setup};
use crate::{figures, fsync, jobs, processes, scrape, usage, wait};

/// What one task takes, executor included: 250 fit on a host.
const HOST_CPUS: u32 = 25;
const TASK: wire::Resources = wire::Resources { cpu_milli: 100, ram_mib: 60, disk_mib: 64, gpus: 0 };
/// Of a crowd.
const TASKS_PER_HOST: u64 = 200;
/// Submits under way at once.
const SUBMITTERS: usize = 8;
/// The longest that any phase may take.
const PHASE_MAX: Duration = Duration::from_secs(900);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Simulated hosts.
    pub agents: usize,
    /// Jobs.
    pub jobs: usize,
    /// Tasks of each.
    pub tasks_per_job: u32,
    /// Tasks of a job go to as many racks as there are; else hosts are filled one by one.
    pub spread: bool,
    /// Afterwards a leader is killed, and a tenth of the hosts drained.
    pub faults: bool,
}

/// Simulated tasks beside real ones, of jobs of a thousand each.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    load: Load,
}

impl Crowd {
    /// So many tasks, in whole thousands.
    pub fn of(tasks: u64) -> Crowd {
        let (jobs, agents) = (tasks.div_ceil(1000) as usize, Crowd::hosts(tasks));
        Crowd { load: Load { agents, jobs, tasks_per_job: 1000, spread: false, faults: false } }
    }

    /// Hosts that they need.
    pub fn hosts(tasks: u64) -> usize {
        tasks.div_ceil(TASKS_PER_HOST) as usize
    }

    /// CPUs of each of these hosts.
    pub fn cpus() -> u32 {
        HOST_CPUS
    }

    /// How many there are.
    pub fn tasks(self) -> u64 {
        self.load.tasks()
    }

    /// Submits all and waits until they run; `others` run already.
    pub async fn fill(self, cluster: &Cluster, others: u64) -> Result<Duration> {
        let begun = Instant::now();
        let watched = watch(cluster, self.tasks() + others, begun);
        let (submitted, filled) = tokio::join!(submit_all(cluster, self.load, true), watched);
        submitted?;
        Ok(filled?.running_after)
    }

    /// The ids of all that live.
    pub async fn ids(self, cluster: &Cluster) -> Result<BTreeSet<u64>> {
        ids(cluster, self.load).await
    }
}

impl Load {
    fn tasks(&self) -> u64 {
        self.jobs as u64 * u64::from(self.tasks_per_job)
    }

    /// `simulated`: it may go to simulated hosts only.
    fn job(&self, cluster: &Cluster, number: usize, simulated: bool) -> wire::JobSpec {
        let mut spec = jobs::sleeper(&cluster.key(&format!("job-{number}")), self.tasks_per_job);
        if simulated {
            spec = jobs::simulated(spec, true);
        }
        if let Some(config) = &mut spec.config {
            if let Some(task) = &mut config.task {
                task.resources = Some(TASK);
            }
            if self.spread {
                config.spreads = vec![wire::Spread { attribute: "rack".into(), targets: Vec::new() }];
            }
        }
        spec
    }
}

/// How many tasks are on a host, and how many of them RUNNING, as the leader's State has it.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    placed: u64,
    running: u64,
}

async fn seen(cluster: &Cluster) -> Result<Seen> {
    let jobs = wait::until("an answer about all jobs", PATIENCE, async || {
        cluster.any_api().list_jobs().await.done()
    });
    Ok(jobs.await?.jobs.iter().fold(Seen::default(), |sum, job| Seen {
        placed: sum.placed + u64::from(job.active) + u64::from(job.running),
        running: sum.running + u64::from(job.running),
    }))
}

/// Fills a cluster; gives back the figures, and whether nothing was lost or restarted.
pub async fn run(load: Load, profile: &'static str) -> Result<(Value, bool)> {
    let setup = Setup { agents: 1, simulated: load.agents, profile, cpus: HOST_CPUS, ..Setup::default() };
    let mut cluster = Cluster::start(setup).await?;
    let disk = fsync::measure(cluster.dir(), Duration::from_secs(1))?;
    // Heartbeats and streams have settled, and what start-up needed is given back.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let leader = cluster.leader().await?;
    let empty_kib = rss_kib(&cluster)?;
    let before = scraped(&cluster).await?;

    let begun = Instant::now();
    let submits = submit_all(&cluster, load, false);
    let watched = watch(&cluster, load.tasks(), begun);
    let (submitted, filled) = tokio::join!(submits, watched);
    submitted?;
    let Filled { placed_after, running_after } = filled?;
    let goal = load.tasks() as f64;
    let running_per_s = goal / running_after.as_secs_f64();
    let assigned_per_s = goal / placed_after.as_secs_f64();
    let after = scraped(&cluster).await?;
    let same_leader = cluster.leader().await? == leader;
    // Rows are written and buffers given back.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let full_kib = rss_kib(&cluster)?;
    let grown = |n: usize| (full_kib[n].saturating_sub(empty_kib[n])) as f64 * 1024.0 / goal;
    let sums = fingerprint(&cluster).await?;
    let delta = |name: &str| -> Vec<f64> {
        before.iter().zip(&after).map(|(before, after)| after.sum(name) - before.sum(name)).collect()
    };
    let fsyncs = delta("borealis_raft_fsync_seconds_count");
    let log_bytes = delta("borealis_raft_appended_bytes_total")[leader] / goal;
    let commit_p99_ms = after[leader]
        .quantile_since(&before[leader], "borealis_raft_commit_seconds", 0.99)
        .map(|seconds| seconds * 1e3);

    eprintln!(
        "\nmillion: {} jobs x {} tasks on {} simulated hosts, {}, profile {profile}",
        load.jobs,
        load.tasks_per_job,
        load.agents,
        if load.spread { "spread over racks" } else { "bin-packed" }
    );
    let line = |name: &str, value: String| eprintln!("  {name:<40} {value}");
    line("all assigned after", format!("{:.1} s, {assigned_per_s:.0}/s", placed_after.as_secs_f64()));
    line("all RUNNING after", format!("{:.1} s, {running_per_s:.0}/s", running_after.as_secs_f64()));
    line(
        "commit p99 on the leader, upper bound",
        commit_p99_ms.map_or("?".into(), |ms| format!("{ms:.1} ms")),
    );
    line("fsyncs of the log, per replica", format!("{fsyncs:.0?}"));
    line("bytes in the log per task", format!("{log_bytes:.0}"));
    line("memory per task, leader", format!("{:.0} bytes", grown(leader)));
    line("memory of replicas, empty and full", format!("{empty_kib:?} KiB, {full_kib:?} KiB"));
    line("leader as before", same_leader.to_string());
    line("State's sums", if sums { "equal" } else { "NOT EQUAL" }.to_owned());
    line("4 KiB fdatasync, pre-written file", format!("{}/s", disk.prewritten_per_s));

    let mut figures = json!({
        "tasks": load.tasks(), "jobs": load.jobs, "agents": load.agents, "profile": profile,
        "policy": if load.spread { "spread" } else { "bin-pack" },
        "running_per_s": running_per_s.round(), "assigned_per_s": assigned_per_s.round(),
        "bytes_per_task": grown(leader).round(), "log_bytes_per_task": log_bytes.round(),
        "fsyncs": fsyncs, "commit_p99_ms": commit_p99_ms, "rss_kib": full_kib, "rss_empty_kib": empty_kib,
        "sums_equal": sums, "same_leader": same_leader, "fsync_prewritten_per_s": disk.prewritten_per_s,
        "machine": figures::machine(), "commit": cluster.programs.commit,
    });
    let mut held = sums;
    if load.faults {
        let (more, whole) = faults(&mut cluster, load).await?;
        held &= whole;
        if let (Value::Object(figures), Value::Object(more)) = (&mut figures, more) {
            figures.extend(more);
        }
    }
    cluster.stop()?;
    Ok((figures, held))
}

struct Filled {
    placed_after: Duration,
    running_after: Duration,
}

/// Prints what is reached each second, until all run.
async fn watch(cluster: &Cluster, goal: u64, begun: Instant) -> Result<Filled> {
    eprintln!("{:>6} {:>10} {:>10} {:>10} {:>10}", "s", "assigned", "running", "assigned/s", "running/s");
    let (mut placed_after, mut last, mut shown) = (None, Seen::default(), Duration::ZERO);
    loop {
        let now = seen(cluster).await?;
        let at = begun.elapsed();
        if now.placed >= goal && placed_after.is_none() {
            placed_after = Some(at);
        }
        let step = at - shown;
        if step >= Duration::from_secs(2) || now.running >= goal {
            let per_s = |now: u64, last: u64| (now.saturating_sub(last)) as f64 / step.as_secs_f64();
            eprintln!(
                "{:>6.1} {:>10} {:>10} {:>10.0} {:>10.0}",
                at.as_secs_f64(),
                now.placed,
                now.running,
                per_s(now.placed, last.placed),
                per_s(now.running, last.running)
            );
            (last, shown) = (now, at);
        }
        if now.running >= goal {
            return Ok(Filled { placed_after: placed_after.unwrap_or(at), running_after: at });
        }
        ensure!(at < PHASE_MAX, "{} of {goal} tasks run after {at:?}", now.running);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn submit_all(cluster: &Cluster, load: Load, simulated: bool) -> Result<()> {
    let mut submitters = Vec::new();
    for first in 0..SUBMITTERS {
        let specs: Vec<_> =
            (first..load.jobs).step_by(SUBMITTERS).map(|n| load.job(cluster, n, simulated)).collect();
        let api = cluster.api(first % cluster.replicas.len()).clone();
        submitters.push(tokio::spawn(async move {
            for spec in specs {
                create(&api, &spec).await?;
            }
            anyhow::Ok(())
        }));
    }
    for submitter in submitters {
        submitter.await??;
    }
    Ok(())
}

/// Creates a job, whatever it takes: the same request is repeated until it is done.
async fn create(api: &Api, spec: &wire::JobSpec) -> Result<()> {
    let (ask, begun) = (request("million"), Instant::now());
    loop {
        match api.create_job(&ask, spec).await {
            Answer::Refused(tonic::Code::Unavailable | tonic::Code::ResourceExhausted, _)
            | Answer::Unknown(_)
                if begun.elapsed() < PHASE_MAX =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            answer => return answer.done().map(|_| ()),
        }
    }
}

/// Kills the leader and drains a tenth of the hosts.
async fn faults(cluster: &mut Cluster, load: Load) -> Result<(Value, bool)> {
    let before = ids(cluster, load).await?;
    let leader = cluster.leader().await?;
    let pid = cluster.replicas[leader].pid()?;
    let extra = jobs::sleeper(&cluster.key("after-the-kill"), 1);
    let others: Vec<Api> =
        (0..cluster.replicas.len()).filter(|n| *n != leader).map(|n| cluster.api(n).clone()).collect();
    let killed = Instant::now();
    processes::signal(pid, libc::SIGKILL)?;
    cluster.replicas[leader].reap()?;
    create(&others[0].within(Duration::from_secs(4)), &extra).await?;
    let key = cluster.key("after-the-kill");
    let failover = wait::until("the job submitted after the kill to run", PATIENCE, async || {
        let job = others[0].within(Duration::from_secs(2)).get_job(&key).await.done()?;
        ensure!(job.tasks.iter().any(|task| task.status() == wire::Status::Running), "{:?}", job.tasks);
        Ok(killed.elapsed())
    })
    .await?;
    // Long enough for a host that was not heard to count as silent.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let after = ids(cluster, load).await?;
    let restarted = after.difference(&before).count() + before.difference(&after).count();
    let running = seen(cluster).await?.running;
    let caught_up = Instant::now();
    cluster.replicas[leader].start()?;
    cluster.serves(leader).await?;
    let goal = cluster.api(cluster.leader().await?).status().await.done()?.applied_index;
    wait::until("the restarted replica to catch up", PHASE_MAX, async || {
        ensure!(cluster.api(leader).status().await.done()?.applied_index >= goal);
        Ok(())
    })
    .await?;
    let caught_up = caught_up.elapsed();

    // The hosts that carry most.
    let mut hosts = cluster.any_api().list_hosts().await.done()?.hosts;
    hosts.sort_by_key(|host| std::cmp::Reverse(host.tasks));
    hosts.truncate(load.agents / 10);
    let names: Vec<String> = hosts.iter().filter_map(|host| Some(host.spec.as_ref()?.name.clone())).collect();
    let moved: u64 = hosts.iter().map(|host| u64::from(host.tasks)).sum();
    let begun = Instant::now();
    for names in names.chunks(500) {
        let ask = request("million");
        wait::until("hosts to be drained", PATIENCE, async || {
            cluster.any_api().drain_hosts(&ask, names).await.done()
        })
        .await?;
    }
    let drained = wait::until("all tasks to run on other hosts", PHASE_MAX, async || {
        let now = seen(cluster).await?;
        ensure!(now.running > load.tasks(), "{} run", now.running);
        let hosts = cluster.any_api().list_hosts().await.done()?.hosts;
        let left: u64 = hosts
            .iter()
            .filter(|host| host.mode() != wire::HostMode::HostActive)
            .map(|host| u64::from(host.tasks))
            .sum();
        ensure!(left == 0, "{left} are left");
        Ok(begun.elapsed())
    })
    .await?;
    let sums = fingerprint(cluster).await?;
    let line = |name: &str, value: String| eprintln!("  {name:<40} {value}");
    line("leader killed -> next task RUNNING", format!("{:.0} ms", failover.as_secs_f64() * 1e3));
    line("tasks restarted by it", restarted.to_string());
    line("RUNNING after it", running.to_string());
    line("killed replica back and caught up", format!("{:.1} s", caught_up.as_secs_f64()));
    line(
        "a tenth of the hosts drained",
        format!(
            "{moved} tasks in {:.1} s, {:.0}/s",
            drained.as_secs_f64(),
            moved as f64 / drained.as_secs_f64()
        ),
    );
    let figures = json!({
        "failover_ms": failover.as_secs_f64() * 1e3, "restarted": restarted, "running_after_kill": running,
        "caught_up_s": caught_up.as_secs_f64(), "drained_tasks": moved, "drained_s": drained.as_secs_f64(),
        "sums_equal_after_faults": sums,
    });
    Ok((figures, sums && restarted == 0))
}

/// The live tasks of all jobs.
async fn ids(cluster: &Cluster, load: Load) -> Result<BTreeSet<u64>> {
    let mut ids = BTreeSet::new();
    for number in 0..load.jobs {
        let job = cluster.job(&cluster.key(&format!("job-{number}"))).await?;
        ids.extend(job.tasks.iter().map(|task| task.task_id));
    }
    Ok(ids)
}

/// Whether all replicas' sums at one point of the log are equal.
async fn fingerprint(cluster: &Cluster) -> Result<bool> {
    let reply = wait::until("the sums of all replicas", PATIENCE, async || {
        let reply = cluster.any_api().within(Duration::from_secs(30)).fingerprint().await.done()?;
        let missing = reply.replicas.iter().find(|replica| replica.sum.is_empty());
        ensure!(missing.is_none(), "{missing:?}");
        Ok(reply)
    })
    .await?;
    Ok(reply.replicas.iter().all(|replica| replica.sum == reply.replicas[0].sum))
}

async fn scraped(cluster: &Cluster) -> Result<Vec<scrape::Scrape>> {
    let mut all = Vec::new();
    for replica in &cluster.replicas {
        all.push(scrape::of(&replica.api).await?);
    }
    Ok(all)
}

/// Resident memory of each replica.
fn rss_kib(cluster: &Cluster) -> Result<Vec<u64>> {
    cluster.replicas.iter().map(|replica| usage::rss_kib(replica.pid()?)).collect()
}
