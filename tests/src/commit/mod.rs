//! Committed writes a second through three replicas: the register map beside etcd, in one run.
//!
//! Both have three processes on 127.0.0.1 and their data on one filesystem, both sync what they answer (which is
//! counted), and one client program with the same connections and the same loop loads both: `store` and `load`. They
//! take turns: while one is measured, the other does not run. Every key is read back. Without etcd the rest is
//! measured all the same. `batched` is the engine behind the log, without clients.

pub mod batched;
pub mod etcd;
pub mod load;
pub mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use self::batched::Batched;
use self::etcd::Etcd;
use self::load::Load;
use self::store::{Ours, Theirs};
use crate::figures;
use crate::fsync;
use crate::registers::cluster::{Registers, Setup};
use crate::scrape::Scrape;
use crate::usage::{self, Usage};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Writes in flight.
    pub clients: Vec<usize>,
    /// Of each measurement.
    pub time: Duration,
    /// Turns of each store.
    pub rounds: usize,
}

/// A load of one kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Unary,
    Stream,
    Etcd,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::Stream => "stream",
            Kind::Etcd => "etcd unary",
        }
    }
}

/// What has been used and counted up to now.
#[derive(Clone, Debug)]
struct Count {
    at: Instant,
    leader: Usage,
    followers: Usage,
    client: Usage,
    /// The leader's processor time by its threads' names.
    threads: BTreeMap<String, u64>,
    leader_syncs: f64,
    syncs: f64,
    /// What the leader's syncs took in sum, in seconds.
    sync_s: f64,
    /// Bytes that the disk has written, for all.
    disk: u64,
}

/// One measurement.
#[derive(Clone, Debug, Default)]
struct Sample {
    per_s: f64,
    times: Vec<Duration>,
    /// Of one write: what each took of processors, in microseconds.
    leader_us: f64,
    followers_us: f64,
    client_us: f64,
    /// Of one write: times that a thread of a replica waited.
    waits: f64,
    /// Of one write: syncs of the log, by the leader and by all.
    leader_syncs: f64,
    syncs: f64,
    /// What one sync took the leader, in the mean.
    sync_ms: f64,
    /// Of one write: bytes that the disk wrote, for all replicas and whoever else there was.
    written: f64,
    /// Of one write: what the leader's threads took of processors, in microseconds.
    threads_us: BTreeMap<String, f64>,
}

impl Sample {
    fn of(load: Load, before: &Count, after: &Count) -> Sample {
        let count = load.times.len().max(1) as f64;
        let seconds = (after.at - before.at).as_secs_f64();
        let (leader, followers) = (after.leader - before.leader, after.followers - before.followers);
        let leader_syncs = after.leader_syncs - before.leader_syncs;
        let threads_us = after.threads.iter().map(|(name, us)| {
            let earlier = before.threads.get(name).copied().unwrap_or(0);
            (name.clone(), us.saturating_sub(earlier) as f64 / count)
        });
        Sample {
            per_s: load.times.len() as f64 / seconds,
            leader_us: leader.cpu_us as f64 / count,
            followers_us: followers.cpu_us as f64 / count,
            client_us: (after.client - before.client).cpu_us as f64 / count,
            waits: (leader.waits + followers.waits) as f64 / count,
            leader_syncs: leader_syncs / count,
            syncs: (after.syncs - before.syncs) / count,
            sync_ms: (after.sync_s - before.sync_s) * 1e3 / leader_syncs.max(1.0),
            written: (after.disk - before.disk) as f64 / count,
            threads_us: threads_us.filter(|(_, us)| *us >= 0.05).collect(),
            times: load.times,
        }
    }

    fn tell(&self, kind: Kind, clients: usize) {
        let times = figures::percentiles(&self.times);
        let ms = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.2}"));
        eprintln!(
            "{:<10} {clients:>5} {:>8.0} {:>7} {:>7} {:>6.3} {:>6.3} {:>7.3} {:>6.1} {:>6.1} {:>6.1} {:>6.2} {:>7.0}",
            kind.name(),
            self.per_s,
            ms(times.p50_ms),
            ms(times.p99_ms),
            self.leader_syncs,
            self.syncs,
            self.sync_ms,
            self.leader_us,
            self.followers_us,
            self.client_us,
            self.waits,
            self.written,
        );
    }

    fn tell_threads(&self, clients: usize) {
        let threads: Vec<_> = self.threads_us.iter().map(|(name, us)| format!("{name} {us:.1}")).collect();
        eprintln!("{:<10} {clients:>5} the leader's threads, us: {}", "", threads.join(", "));
    }
}

fn headline() {
    let lines = [
        [
            "", "in", "writes", "p50", "p99", "syncs", "syncs", "sync", "leader", "follow", "client",
            "waits", "disk",
        ],
        ["a write", "flight", "/s", "ms", "ms", "leader", "all", "ms", "us", "us", "us", "", "bytes"],
    ];
    for [first, rest @ ..] in lines {
        let widths = [5, 8, 7, 7, 6, 6, 7, 6, 6, 6, 6, 7];
        let columns = rest.iter().zip(widths).map(|(word, width)| format!(" {word:>width$}"));
        eprintln!("{first:<10}{}", columns.collect::<String>());
    }
}

/// Times that the engine's part is tried.
const BATCHED_TRIES: usize = 3;
/// Tasks of one host that a command of the engine is about, where it is about many.
const TOGETHER: usize = 20;

type Samples = BTreeMap<(Kind, usize), Vec<Sample>>;

/// Keys that were read back, and those among them that did not hold what was answered last.
#[derive(Clone, Copy, Debug, Default)]
struct Read {
    keys: u64,
    wrong: u64,
}

async fn ours(plan: &Plan, home: &Path, samples: &mut Samples, read: &mut Read) -> Result<()> {
    // etcd's own timers are those of `lan`.
    let setup = Setup { profile: "lan", ..Setup::default() };
    let mut cluster = Registers::start(&setup, Some(home)).await?;
    for &clients in &plan.clients {
        for kind in [Kind::Unary, Kind::Stream] {
            let leader = cluster.leader().await?;
            let pids = cluster.replicas.iter().map(|replica| replica.pid()).collect::<Result<Vec<_>>>()?;
            let count = async || {
                let mut scrapes = Vec::new();
                for n in 0..cluster.replicas.len() {
                    scrapes.push(cluster.scrape(n).await?);
                }
                anyhow::Ok(counted(home, &pids, leader, &scrapes, "borealis_raft_fsync_seconds"))
            };
            let address = &cluster.replicas[leader].api;
            let mut before = None;
            let begun = async || {
                before = Some(count().await?);
                anyhow::Ok(())
            };
            let load = match kind {
                Kind::Stream => load::stream(address, clients, plan.time, begun).await?,
                _ => load::unary::<Ours>(address, clients, plan.time, begun).await?,
            };
            let after = count().await?;
            let (keys, wrong) = load::read_back::<Ours>(address, &load).await?;
            (read.keys, read.wrong) = (read.keys + keys, read.wrong + wrong);
            let sample = Sample::of(load, &before.context("the load began")?, &after);
            sample.tell(kind, clients);
            sample.tell_threads(clients);
            samples.entry((kind, clients)).or_default().push(sample);
        }
    }
    cluster.must_live()?;
    cluster.stop()
}

async fn theirs(
    plan: &Plan,
    program: &Path,
    home: &Path,
    samples: &mut Samples,
    read: &mut Read,
) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("etcd-").tempdir_in(home)?;
    let cluster = Etcd::start(program, dir.path()).await?;
    for &clients in &plan.clients {
        let leader = cluster.leader().await?;
        let pids = cluster.members.iter().map(|member| member.pid()).collect::<Result<Vec<_>>>()?;
        let count = async || {
            let mut scrapes = Vec::new();
            for n in 0..cluster.members.len() {
                scrapes.push(cluster.scrape(n).await?);
            }
            anyhow::Ok(counted(home, &pids, leader, &scrapes, "etcd_disk_wal_fsync_duration_seconds"))
        };
        let address = &cluster.members[leader].api;
        let mut before = None;
        let begun = async || {
            before = Some(count().await?);
            anyhow::Ok(())
        };
        let load = load::unary::<Theirs>(address, clients, plan.time, begun).await?;
        let after = count().await?;
        let (keys, wrong) = load::read_back::<Theirs>(address, &load).await?;
        (read.keys, read.wrong) = (read.keys + keys, read.wrong + wrong);
        let sample = Sample::of(load, &before.context("the load began")?, &after);
        sample.tell(Kind::Etcd, clients);
        samples.entry((Kind::Etcd, clients)).or_default().push(sample);
    }
    Ok(())
}

/// `syncs`: the histogram of syncs of the log.
fn counted(home: &Path, pids: &[i32], leader: usize, scrapes: &[Scrape], syncs: &str) -> Count {
    let followers: Vec<i32> =
        pids.iter().enumerate().filter(|(n, _)| *n != leader).map(|(_, pid)| *pid).collect();
    let count = |scrape: &Scrape| scrape.sum(&format!("{syncs}_count"));
    Count {
        at: Instant::now(),
        leader: usage::of(&[pids[leader]]),
        followers: usage::of(&followers),
        client: usage::of(&[std::process::id() as i32]),
        threads: usage::threads(pids[leader]),
        leader_syncs: count(&scrapes[leader]),
        syncs: scrapes.iter().map(count).sum(),
        sync_s: scrapes[leader].sum(&format!("{syncs}_sum")),
        disk: usage::disk_written(home).unwrap_or(0),
    }
}

/// All samples of one kind as one figure.
struct Figure {
    /// The median of the turns.
    per_s: f64,
    p99_ms: Option<f64>,
    turns: Vec<f64>,
    leader_syncs: f64,
    sync_ms: f64,
    waits: f64,
    servers_us: f64,
    client_us: f64,
    disk_bytes: f64,
}

impl Figure {
    /// Where the time of one write goes.
    fn costs(&self) -> Value {
        json!({
            "leader_syncs": self.leader_syncs, "sync_ms": self.sync_ms, "waits": self.waits,
            "servers_us": self.servers_us, "client_us": self.client_us, "disk_bytes": self.disk_bytes,
        })
    }
}

fn figure(samples: &[Sample]) -> Option<Figure> {
    let middle = |of: &dyn Fn(&Sample) -> f64| {
        let mut all: Vec<f64> = samples.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let times: Vec<Duration> = samples.iter().flat_map(|sample| sample.times.iter().copied()).collect();
    (!samples.is_empty()).then(|| Figure {
        per_s: middle(&|sample| sample.per_s),
        p99_ms: figures::percentiles(&times).p99_ms,
        turns: samples.iter().map(|sample| sample.per_s.round()).collect(),
        leader_syncs: middle(&|sample| sample.leader_syncs),
        sync_ms: middle(&|sample| sample.sync_ms),
        waits: middle(&|sample| sample.waits),
        client_us: middle(&|sample| sample.client_us),
        disk_bytes: middle(&|sample| sample.written),
        servers_us: middle(&|sample| sample.leader_us + sample.followers_us),
    })
}

fn row(kind: Kind, clients: usize, samples: &Samples) -> Option<Value> {
    let of = |kind| samples.get(&(kind, clients)).and_then(|samples| figure(samples));
    let (ours, etcd) = (of(kind)?, of(Kind::Etcd));
    let ratio = etcd.as_ref().map(|etcd| (ours.per_s / etcd.per_s * 100.0).round() / 100.0);
    let ms = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.2}"));
    eprintln!(
        "{:<7} {clients:>6} {:>9.0} {:>9} {:>9} {:>9} {:>7}",
        kind.name(),
        ours.per_s,
        ms(ours.p99_ms),
        etcd.as_ref().map_or("-".into(), |etcd| format!("{:.0}", etcd.per_s)),
        ms(etcd.as_ref().and_then(|etcd| etcd.p99_ms)),
        ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")),
    );
    Some(json!({
        "mode": kind.name(), "clients": clients, "ratio": ratio,
        "ours_per_s": ours.per_s.round(), "ours_p99_ms": ours.p99_ms, "ours_turns_per_s": ours.turns,
        "ours_a_write": ours.costs(), "etcd_a_write": etcd.as_ref().map(Figure::costs),
        "etcd_per_s": etcd.as_ref().map(|etcd| etcd.per_s.round()),
        "etcd_p99_ms": etcd.as_ref().and_then(|etcd| etcd.p99_ms),
        "etcd_turns_per_s": etcd.as_ref().map(|etcd| etcd.turns.clone()),
    }))
}

/// An election in the middle, on a machine that has too much else to do, makes it begin anew.
async fn batched(home: &Path, together: usize) -> Result<Batched> {
    let mut tries = 0;
    let done = loop {
        let dir = tempfile::Builder::new().prefix("batched-").tempdir_in(home)?;
        tries += 1;
        match batched::run(dir.path(), together).await {
            Ok(done) => break done,
            Err(why) if tries < BATCHED_TRIES => eprintln!("the engine begins anew: {why:#}"),
            Err(why) => return Err(why),
        }
    };
    eprintln!(
        "the engine, {together} tasks a command: {:.0} commands/s, {:.0} assignments and reports/s, {:.1} us of processors a command",
        done.per_s(),
        done.changes_per_s(),
        done.us_a_command(),
    );
    Ok(done)
}

/// Measures all of it. `false`: something that was answered was not found again.
pub async fn run(plan: &Plan, etcd: bool) -> Result<(Value, bool)> {
    let program: Option<PathBuf> = match etcd.then(etcd::fetch) {
        Some(Ok(program)) => Some(program),
        Some(Err(why)) => {
            eprintln!("etcd is not measured: {why:#}");
            None
        }
        None => None,
    };
    let home = tempfile::Builder::new().prefix("borealis-commit-").tempdir()?;
    let disk = fsync::measure(home.path(), Duration::from_secs(1))?;
    let (mut samples, mut read) = (Samples::new(), Read::default());
    headline();
    for _ in 0..plan.rounds {
        ours(plan, home.path(), &mut samples, &mut read).await?;
        if let Some(program) = &program {
            theirs(plan, program, home.path(), &mut samples, &mut read).await?;
        }
    }
    eprintln!(
        "\n{:<7} {:>6} {:>9} {:>9} {:>9} {:>9} {:>7}   (medians of {} turns; etcd always unary)",
        "mode", "flight", "ours /s", "p99 ms", "etcd /s", "p99 ms", "ratio", plan.rounds
    );
    let mut rows = Vec::new();
    for kind in [Kind::Unary, Kind::Stream] {
        rows.extend(plan.clients.iter().filter_map(|clients| row(kind, *clients, &samples)));
    }
    let single = batched(home.path(), 1).await?;
    let by_host = batched(home.path(), TOGETHER).await?;
    let machine = figures::machine();
    eprintln!("{} keys were read back, {} did not hold what was answered last", read.keys, read.wrong);
    eprintln!(
        "4 KiB fdatasync: {}/s to a growing file, {}/s to a pre-written one; {} x {}, Linux {}",
        disk.growing_per_s, disk.prewritten_per_s, machine.cores, machine.cpu, machine.kernel
    );
    let figures = json!({
        "bench": "commit", "rows": rows, "etcd": program.as_ref().map(|_| "3.5.1"), "rounds": plan.rounds,
        "seconds": plan.time.as_secs_f64(), "value_bytes": load::VALUE_BYTES, "connections": load::CONNECTIONS,
        "batched_per_s": single.per_s().round(), "batched_us": single.us_a_command(), "batched_by_host_changes_per_s": by_host.changes_per_s().round(),
        "keys_read": read.keys, "keys_wrong": read.wrong, "fsync_per_s": disk.prewritten_per_s,
        "fsync_growing_per_s": disk.growing_per_s, "machine": machine,
    });
    Ok((figures, read.wrong == 0))
}
