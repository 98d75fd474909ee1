//! The benchmarks: `bench failover`, `bench submit` and `bench million` on a real cluster, `bench commit` and
//! `bench recovery` on the replicated log, `bench engine` and `bench packing` in memory.
//!
//! Each prints its progress and a table for people on stderr and, as its last line on stdout, one JSON object. A
//! figure is never a verdict; but a task that was lost, launched twice or restarted makes the exit code 1.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use proto::wire;
use serde_json::{Value, json};
use tests::api::{Answer, request};
use tests::cases::{self, Measured};
use tests::cluster::{Cluster, PATIENCE, Setup};
use tests::decisions::{self, Demand, Memory};
use tests::failover::{self, Series, Way};
use tests::figures::{self, Percentiles};
use tests::million::Load;
use tests::packing::{self, Policy};
use tests::{fsync, jobs};

/// As the product has it: `bench commit` has replicas in this process.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Benchmarks on a local cluster of real processes.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Placements a second of the pure engine, on clusters in memory; `apply` accepts each. Then cases that others
    /// measure.
    Engine {
        /// Sizes of the cluster.
        #[arg(long, value_delimiter = ',', default_value = "1000,10000,50000,200000")]
        hosts: Vec<usize>,
    },
    /// The share of all cores in use when the first large task finds no place.
    Packing {
        /// Hosts.
        #[arg(long, default_value_t = 500)]
        hosts: usize,
        /// Mixes of jobs; each policy packs each of them.
        #[arg(long, default_value_t = 5)]
        mixes: u64,
    },
    /// Committed writes a second through three replicas, beside etcd in turns.
    Commit {
        /// Writes in flight.
        #[arg(long, value_delimiter = ',', default_value = "1,16,256,1024")]
        clients: Vec<usize>,
        /// Turns of each store; 0 = only the engine behind the log.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Without etcd.
        #[arg(long)]
        alone: bool,
    },
    /// Leader lost -> first launch commanded by the next leader, under a constant load of submits; with few tasks, then
    /// with many.
    Failover {
        /// Leaders to lose, in each way and with each state.
        #[arg(long, default_value_t = 12)]
        kills: usize,
        /// SIGKILL, SIGSTOP, and a cut network, which is left out where this is not root.
        #[arg(long, value_delimiter = ',', default_value = "kill,stop,cut")]
        by: Vec<Way>,
        /// Simulated tasks of the large state; 0 = only the small one.
        #[arg(long, visible_alias = "rows", default_value_t = 1_000_000)]
        tasks: u64,
        /// Real tasks that run all the while and must not notice.
        #[arg(long, default_value_t = 40)]
        base: u32,
        /// Agents that run real tasks.
        #[arg(long, default_value_t = 3)]
        agents: usize,
        /// Raft timers: `fast`, `lan` or both, one after the other.
        #[arg(long, value_delimiter = ',', default_value = "fast")]
        profile: Vec<String>,
        /// 20 of each with `fast` and `lan`: half an hour.
        #[arg(long)]
        full: bool,
    },
    /// Restarts, snapshots under load and a joining replica, with many rows.
    Recovery {
        /// Rows of about 300 bytes.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        /// Restarts of each kind.
        #[arg(long, default_value_t = 2)]
        rounds: usize,
        /// Writes in flight where there is load.
        #[arg(long, default_value_t = 16)]
        writers: u64,
        /// Raft timers: `fast` or `lan`.
        #[arg(long, default_value = "lan")]
        profile: String,
    },
    /// A million tasks on simulated agents, then a leader killed and hosts drained.
    Million {
        /// Simulated hosts.
        #[arg(long, default_value_t = 5_000)]
        agents: usize,
        /// Jobs.
        #[arg(long, default_value_t = 1_000)]
        jobs: usize,
        /// Tasks of each job.
        #[arg(long, default_value_t = 1_000)]
        tasks: u32,
        /// Only one of `bin-pack` and `spread`; else both, one after the other.
        #[arg(long)]
        policy: Option<String>,
        /// Raft timers: `fast` or `lan`.
        #[arg(long, default_value = "lan")]
        profile: String,
    },
    /// Submit -> RUNNING of jobs of one instance, one after another on an idle cluster.
    Submit {
        /// Jobs to submit.
        #[arg(long, default_value_t = 100)]
        jobs: usize,
        /// Raft timers: `fast` or `lan`.
        #[arg(long, default_value = "fast")]
        profile: String,
    },
}

/// Of each way with each state.
const FULL_KILLS: usize = 20;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    let work = async {
        match options.bench {
            Bench::Failover { kills, by, tasks, base, agents, profile, full } => {
                let (kills, profile) = match full {
                    true => (FULL_KILLS, vec!["fast".to_owned(), "lan".to_owned()]),
                    false => (kills, profile),
                };
                let profiles =
                    profile.iter().map(|profile| profile_name(profile)).collect::<Result<Vec<_>>>();
                // It has a runtime of its own, which lives in another network.
                let work = move || {
                    let plan = failover::Plan { kills, ways: by, tasks, base, agents, profile: "fast" };
                    failover(plan, &profiles?)
                };
                tokio::task::spawn_blocking(work).await?
            }
            Bench::Commit { clients, rounds, seconds, alone } => {
                commits(clients, rounds, seconds, !alone).await
            }
            Bench::Recovery { rows, rounds, writers, profile } => {
                recovery(rows, rounds, writers, &profile).await
            }
            Bench::Submit { jobs, profile } => submit(jobs, &profile).await,
            Bench::Engine { hosts } => engine(&hosts),
            Bench::Million { agents, jobs, tasks, policy, profile } => {
                million(agents, jobs, tasks, policy.as_deref(), &profile).await
            }
            Bench::Packing { hosts, mixes } => packing(hosts, mixes),
        }
    };
    // The cluster stops when its value is dropped, so an interrupted run leaves nothing either.
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok((figures, held)) => {
            println!("{figures}");
            if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("bench: {why:#}");
            ExitCode::from(2)
        }
    }
}

fn commit() -> String {
    std::env::var("BOREALIS_COMMIT").unwrap_or_else(|_| "unknown".into())
}

/// The goal is 1.2 times etcd's with one write in flight, twice from 16 up, and three times over the stream from 256.
async fn commits(clients: Vec<usize>, rounds: usize, seconds: f64, etcd: bool) -> Result<(Value, bool)> {
    ensure!(!clients.contains(&0) && seconds > 0.0, "there is nothing to measure");
    let plan = tests::commit::Plan { clients, time: Duration::from_secs_f64(seconds), rounds };
    let (mut figures, held) = tests::commit::run(&plan, etcd).await?;
    figures["commit"] = commit().into();
    Ok((figures, held))
}

/// The goal is a restart in 5 s, and a p99 of writes during a snapshot below twice the usual one.
async fn recovery(rows: u64, rounds: usize, writers: u64, profile: &str) -> Result<(Value, bool)> {
    ensure!(rows >= writers && writers > 0, "every writer needs a row");
    let plan = tests::recovery::Plan { rows, rounds, writers, profile: profile_name(profile)? };
    let (mut figures, held) = tests::recovery::run(plan).await?;
    figures["commit"] = commit().into();
    Ok((figures, held))
}

/// The goal is 500,000 a second plain and 100,000 with constraints on 10,000 hosts.
fn engine(sizes: &[usize]) -> Result<(Value, bool)> {
    let mut rows = Vec::new();
    // Nanoseconds a placement on the smallest cluster, by case.
    let mut smallest: BTreeMap<(&str, u64), (usize, f64)> = BTreeMap::new();
    eprintln!(
        "{:<8} {:>7} {:>6} {:>7} {:>14} {:>8} {:>10} {:>9} {:>10}",
        "case", "hosts", "full", "tasks", "placements/s", "growth", "apply us", "view ms", "absorb us"
    );
    for &hosts in sizes {
        for demand in Demand::ALL {
            for full in [0, 50, 95] {
                let tasks = if hosts < 10_000 { 10 * hosts } else { 100_000 };
                let mut memory = Memory::with_hosts(hosts)?;
                memory.fill(full)?;
                memory.submit(demand, 1_000.min(tasks), tasks)?;
                let placed = decisions::place_all(&mut memory)?;
                let us = |time: Duration| time.as_secs_f64() * 1e6 / placed.tasks.max(1) as f64;
                let per_s = placed.tasks as f64 / placed.round.as_secs_f64();
                let (first, least) =
                    *smallest.entry((demand.name(), full)).or_insert((hosts, us(placed.round)));
                let growth = us(placed.round) / least;
                let (apply_us, absorb_us) = (us(placed.apply), us(placed.absorb));
                let view_ms = placed.view.as_secs_f64() * 1e3;
                eprintln!(
                    "{:<8} {hosts:>7} {full:>5}% {:>7} {per_s:>14.0} {growth:>8.2} {apply_us:>10.2} {view_ms:>9.1} {absorb_us:>10.2}",
                    demand.name(),
                    placed.tasks
                );
                rows.push(json!({
                    "case": demand.name(), "hosts": hosts, "full_percent": full, "tasks": placed.tasks,
                    "waiting": placed.waiting, "rounds": placed.rounds, "placements_per_s": per_s.round(),
                    "cost_growth": growth, "hosts_growth": hosts as f64 / first as f64,
                    "apply_us": apply_us, "absorb_us": absorb_us, "view_ms": view_ms,
                }));
            }
        }
    }
    eprintln!("growth: of the cost of one placement, against the smallest cluster");
    let mut others: Vec<Measured> = Vec::new();
    for &hosts in sizes {
        others.push(cases::one_task(hosts)?);
    }
    others.extend(cases::aurora()?);
    eprintln!("\n{:<32} {:>7} {:>7} {:>14}", "one operation of", "hosts", "tasks", "us");
    for row in &others {
        let us = row.time.as_secs_f64() * 1e6;
        eprintln!("{:<32} {:>7} {:>7} {us:>14.1}", row.case, row.hosts, row.tasks);
        rows.push(json!({
            "case": row.case, "hosts": row.hosts, "tasks": row.tasks, "placements_per_s": null, "op_us": us,
        }));
    }
    let machine = figures::machine();
    eprintln!(
        "\nTheirs: the floor of kube-scheduler's CI (`ci-benchmark-scheduler-perf`; its machine is not published) for a"
    );
    eprintln!(
        "whole scheduler with its API server. Ours: rounds, `apply` and the view in memory, on {} cores of {}.",
        machine.cores, machine.cpu
    );
    eprintln!("{:<32} {:>7} {:>7} {:>14} {:>14}", "case", "hosts", "tasks", "ours /s", "their floor /s");
    for row in cases::kube()? {
        let per_s = (row.tasks as f64 / row.time.as_secs_f64()).round();
        let floor = row.floor_per_s.map_or("none".to_owned(), |floor| floor.to_string());
        eprintln!("{:<32} {:>7} {:>7} {per_s:>14} {floor:>14}", row.case, row.hosts, row.tasks);
        rows.push(json!({
            "case": row.case, "hosts": row.hosts, "tasks": row.tasks, "placements_per_s": per_s,
            "their_floor_per_s": row.floor_per_s, "their_machine": "their CI, not published",
        }));
    }
    Ok((json!({ "rows": rows, "machine": machine, "commit": commit() }), true))
}

fn packing(hosts: usize, mixes: u64) -> Result<(Value, bool)> {
    let mut rows = Vec::new();
    for policy in Policy::ALL {
        let used = (0..mixes).map(|seed| packing::packed(policy, hosts, seed));
        let used: Vec<packing::Used> = used.collect::<Result<_>>()?;
        let mean = |of: fn(&packing::Used) -> f64| used.iter().map(of).sum::<f64>() / mixes.max(1) as f64;
        let least = used.iter().map(|used| used.cpu).fold(1.0, f64::min);
        let (cpu, ram) = (mean(|used| used.cpu), mean(|used| used.ram));
        eprintln!(
            "{:<10} {cpu:.3} of all cores, {ram:.3} of all memory; at least {least:.3} of all cores",
            policy.name()
        );
        rows.push(json!({
            "policy": policy.name(), "used_share": cpu, "used_ram_share": ram, "least_used_share": least,
        }));
    }
    Ok((
        json!({ "rows": rows, "hosts": hosts, "mixes": mixes, "machine": figures::machine(), "commit": commit() }),
        true,
    ))
}

/// The goal is 10,000 tasks RUNNING a second, 600 bytes of the leader's memory per task, and nothing restarted.
async fn million(
    agents: usize,
    jobs: usize,
    tasks: u32,
    policy: Option<&str>,
    profile: &str,
) -> Result<(Value, bool)> {
    let profile = profile_name(profile)?;
    let policies: &[bool] = match policy {
        None => &[false, true],
        Some("bin-pack") => &[false],
        Some("spread") => &[true],
        Some(other) => bail!("no policy {other:?}; use `bin-pack` or `spread`"),
    };
    let (mut figures, mut held) = (json!({}), true);
    for &spread in policies {
        // The faults come after the first of them.
        let faults = figures == json!({});
        let load = Load { agents, jobs, tasks_per_job: tasks, spread, faults };
        let (found, whole) = tests::million::run(load, profile).await?;
        held &= whole;
        match faults {
            true => figures = found,
            false => figures["spread"] = found,
        }
    }
    Ok((figures, held))
}

fn profile_name(profile: &str) -> Result<&'static str> {
    match profile {
        "fast" => Ok("fast"),
        "lan" => Ok("lan"),
        _ => bail!("no profile {profile:?}; use `fast` or `lan`"),
    }
}

/// Adds what every benchmark says: where it ran, on what disk, from which commit.
fn signed(mut figures: Value, cluster: &Cluster, times: Percentiles, disk: fsync::Rates) -> Value {
    let more = json!({
        "p50_ms": times.p50_ms, "p90_ms": times.p90_ms, "p99_ms": times.p99_ms, "max_ms": times.max_ms,
        "fsync_growing_per_s": disk.growing_per_s, "fsync_prewritten_per_s": disk.prewritten_per_s,
        "machine": figures::machine(), "commit": cluster.programs.commit,
    });
    if let (Value::Object(figures), Value::Object(more)) = (&mut figures, more) {
        figures.extend(more);
    }
    figures
}

fn table(title: &str, times: &Percentiles, disk: &fsync::Rates, rows: &[(&str, String)]) {
    let machine = figures::machine();
    let ms = |ms: Option<f64>| ms.map_or("too few samples".into(), |ms| format!("{ms:.1} ms"));
    eprintln!("\n{title}");
    let line = |name: &str, value: String| eprintln!("  {name:<34} {value}");
    line("p50", ms(times.p50_ms));
    line("p90", ms(times.p90_ms));
    line("p99", ms(times.p99_ms));
    line("max", ms(times.max_ms));
    rows.iter().for_each(|(name, value)| line(name, value.clone()));
    line("4 KiB fdatasync, growing file", format!("{}/s", disk.growing_per_s));
    line("4 KiB fdatasync, pre-written file", format!("{}/s", disk.prewritten_per_s));
    line(
        "machine",
        format!("{} x {}, {} MiB, Linux {}", machine.cores, machine.cpu, machine.ram_mib, machine.kernel),
    );
}

/// The goal is a p50 below 600 ms and a p99 below 1.5 s with `fast`, with a million tasks as with few.
fn failover(plan: failover::Plan, profiles: &[&'static str]) -> Result<(Value, bool)> {
    let (mut series, mut disk) = (Vec::new(), None);
    for &profile in profiles {
        let ran = failover::run(&failover::Plan { profile, ..plan.clone() })?;
        series.extend(ran.series);
        disk = Some((ran.disk, ran.commit));
    }
    let (disk, commit) = disk.context("no profile, nothing to measure")?;
    eprintln!(
        "\nfailover: leader lost -> first launch intent under the next leader's fence (CLOCK_BOOTTIME of one machine)"
    );
    Series::headline();
    series.iter().for_each(Series::tell);
    let machine = figures::machine();
    eprintln!(
        "4 KiB fdatasync: {}/s to a growing file, {}/s to a pre-written one; {} x {}, {} MiB, Linux {}",
        disk.growing_per_s,
        disk.prewritten_per_s,
        machine.cores,
        machine.cpu,
        machine.ram_mib,
        machine.kernel
    );
    // The figure that others are compared with: the first profile's kills, with all tasks.
    let first = |series: &&Series| series.is(profiles[0], plan.ways[0]);
    let main = series.iter().rfind(first).context("nothing was measured")?;
    let mut figures = main.figures();
    let more = json!({
        "bench": "failover", "agents": plan.agents, "tls": false,
        "rows": series.iter().map(Series::figures).collect::<Vec<_>>(),
        "from": "CLOCK_BOOTTIME before the fault", "to": "first launch intent under a higher fence",
        "fsync_growing_per_s": disk.growing_per_s, "fsync_prewritten_per_s": disk.prewritten_per_s,
        "machine": machine, "commit": commit,
    });
    if let (Value::Object(figures), Value::Object(more)) = (&mut figures, more) {
        figures.extend(more);
    }
    Ok((figures, series.iter().all(Series::held)))
}

/// Repeats a request while there is no leader to take it.
async fn until_done<T>(mut ask: impl AsyncFnMut() -> Answer<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Answer::Refused(tonic::Code::Unavailable, _) | Answer::Unknown(_)
                if begun.elapsed() < PATIENCE => {}
            answer => return answer.done(),
        }
    }
}

async fn submit(count: usize, profile: &str) -> Result<(Value, bool)> {
    let profile = profile_name(profile)?;
    let mut cluster = Cluster::start(Setup { profile, ..Setup::default() }).await?;
    let disk = fsync::measure(cluster.dir(), Duration::from_secs(1))?;
    let api = cluster.api(cluster.leader().await?).clone();
    let (mut times, mut polls) = (Vec::new(), 0_u64);
    for n in 0..count {
        let key = cluster.key(&format!("job-{n}"));
        let (ask, spec) = (request("bench"), jobs::sleeper(&key, 1));
        let begun = Instant::now();
        until_done(async || api.create_job(&ask, &spec).await).await?;
        loop {
            polls += 1;
            let job = match api.get_job(&key).await {
                // An election: the time that it takes counts.
                Answer::Refused(tonic::Code::Unavailable, _) => wire::GetJobReply::default(),
                answer => answer.done()?,
            };
            if job.tasks.iter().any(|task| task.status() == wire::Status::Running) {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "{key} does not run after {PATIENCE:?}: {:?}", job.tasks);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(begun.elapsed());
        // The cluster is idle again before the next one.
        cluster.kill_tasks(&key, &[]).await?;
        cluster.all_gone(&key).await?;
    }
    let times = figures::percentiles(&times);
    table(
        "submit: call of CreateJob -> GetJob says RUNNING (asked of the leader again 1 ms after each answer)",
        &times,
        &disk,
        &[
            ("jobs", count.to_string()),
            ("profile", profile.to_string()),
            ("looks per job", format!("{:.1}", polls as f64 / count.max(1) as f64)),
        ],
    );
    let figures = json!({
        "bench": "submit", "jobs": count, "profile": profile, "agents": 2, "tls": false,
        "from": "before CreateJob", "to": "GetJob says RUNNING, asked 1 ms after each answer",
    });
    let figures = signed(figures, &cluster, times, disk);
    cluster.stop()?;
    Ok((figures, true))
}
