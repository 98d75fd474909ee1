//! Three replicas of the register map with many rows: restarts, snapshots under load, and a new replica that gets one.
//!
//! All are real processes with their data on one filesystem. Rows are random bytes, so that a snapshot is as large as
//! they are. Whatever was answered must be there in the end, and all rows equal: that is judged; times are not.

pub mod checkpoint;
pub mod install;
pub mod load;
pub mod memory;
pub mod restart;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use self::checkpoint::Checkpoints;
use self::install::Install;
use self::load::{Book, Writers};
use self::memory::Memory;
use self::restart::{Restart, Role};
use crate::registers::cluster::{Registers, Setup};
use crate::{figures, fsync};

/// The longest that any step may take.
const PHASE_MAX: Duration = Duration::from_secs(180);
/// Between the start of a load and the first thing that is measured under it.
const WARM_UP: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rows.
    pub rows: u64,
    /// Restarts of each kind, and a few more snapshots.
    pub rounds: usize,
    /// Writers of the load, each with one write at a time.
    pub writers: u64,
    /// Raft timers.
    pub profile: &'static str,
}

/// Measures all of it. `false`: something that was answered is not there, or a transfer began anew.
pub async fn run(plan: Plan) -> Result<(Value, bool)> {
    let Plan { rows, rounds, writers, profile } = plan;
    let mut cluster = Registers::start(&Setup { profile, ..Setup::default() }, None).await?;
    let disk = fsync::measure(cluster.dir(), Duration::from_secs(1))?;
    let memory = Memory::watch(&cluster);
    let mut peaks = Vec::new();
    let mut note = |name: &str, memory: &Memory| peaks.push((name.to_owned(), memory.peaks_kib()));
    note("empty", &memory);

    let begun = Instant::now();
    load::fill(&cluster, rows).await?;
    cluster.level().await?;
    let filled = begun.elapsed();
    eprintln!(
        "{rows} rows of {} random bytes were written in {:.1} s, {:.0}/s",
        load::VALUE_BYTES,
        filled.as_secs_f64(),
        rows as f64 / filled.as_secs_f64()
    );
    note("while it is filled", &memory);

    let (number, mut book) = (Arc::new(AtomicU64::new(0)), Book::default());
    let mut restarts = Vec::new();
    Restart::headline();
    for busy in [false, true] {
        let load = busy.then(|| Writers::start(&cluster, rows, writers, &number));
        if busy {
            tokio::time::sleep(WARM_UP).await;
        }
        for role in [Role::Follower, Role::Leader].repeat(rounds) {
            let restart = Restart::measure(&mut cluster, role, busy).await?;
            memory.follow(&cluster);
            restart.tell();
            restarts.push(restart);
            cluster.level().await?;
        }
        if let Some(load) = load {
            load.finish(&mut book).await?;
        }
        note(if busy { "restarts under load" } else { "restarts, idle" }, &memory);
    }

    let load = Writers::start(&cluster, rows, writers, &number);
    tokio::time::sleep(WARM_UP).await;
    note("under load", &memory);
    let checkpoints = Checkpoints::measure(&cluster, &load, 2 * rounds + 1).await?;
    note("snapshots under load", &memory);
    let installed = Install::measure(&mut cluster, &load, &memory).await?;
    installed.tell();
    note("a replica joins under load", &memory);
    load.finish(&mut book).await?;

    let sum = cluster.equal_sums().await?;
    note("after", &memory);
    let (read, wrong) = book.read_back(&cluster).await?;
    cluster.must_live()?;
    eprintln!("\n{:<28} the most memory of each replica, MiB", "");
    for (name, kib) in &peaks {
        let mib: Vec<String> = kib.iter().map(|kib| format!("{:>7}", kib / 1024)).collect();
        eprintln!("{name:<28} {}", mib.join(" "));
    }
    let slowest = restarts.iter().map(|restart| restart.took).max().unwrap_or_default();
    let checkpoint = checkpoints.figures();
    let machine = figures::machine();
    eprintln!("\nrecovery, {rows} rows, profile {profile}");
    let line = |name: &str, value: String| eprintln!("  {name:<44} {value}");
    line("slowest restart", format!("{:.2} s", slowest.as_secs_f64()));
    line("snapshot, median", format!("{} ms", checkpoint["checkpoint_ms"]));
    line("p99 of writes during it / else", checkpoint["stall_p99_ratio"].to_string());
    line("rows equal on all replicas", format!("at entry {}", sum.index));
    line("rows read back, wrong", format!("{read}, {wrong}"));
    line("4 KiB fdatasync, pre-written file", format!("{}/s", disk.prewritten_per_s));
    line("machine", format!("{} x {}, {} MiB", machine.cores, machine.cpu, machine.ram_mib));
    let held = wrong == 0 && installed.went_on();
    let mut figures = json!({
        "bench": "recovery", "rows": rows, "value_bytes": load::VALUE_BYTES, "profile": profile, "writers": writers,
        "fill_s": filled.as_secs_f64(), "restart_s": slowest.as_secs_f64(),
        "restarts": restarts.iter().map(Restart::figures).collect::<Vec<_>>(),
        "read_back": read, "wrong": wrong,
        "rss_peak_kib": peaks.iter().map(|(name, kib)| json!({ "when": name, "replicas": kib })).collect::<Vec<_>>(),
        "fsync_prewritten_per_s": disk.prewritten_per_s, "fsync_growing_per_s": disk.growing_per_s,
        "machine": machine,
    });
    for more in [checkpoint, installed.figures()] {
        if let (Value::Object(figures), Value::Object(more)) = (&mut figures, more) {
            figures.extend(more);
        }
    }
    cluster.stop()?;
    Ok((figures, held))
}
