//! Runs seeds, each in a process of its own, and sums up what happened.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::log::lock;
use crate::sim::faults::{self, Fault};
use crate::sim::{BEGAN, TRACE, breaks, chance, now_ms, oracle, violated, world};

/// Names the seed of a process that simulates.
const SEED: &str = "SIM_PROCESS_SEED";
/// A run takes a second or less; one that takes so long, of real time, hangs.
const HANGS_AFTER: Duration = Duration::from_secs(120);
/// Seeds of a short run.
const SEEDS: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

/// One seed, in this process. Only a process that was started for it does anything.
#[test]
fn one_seed() {
    let Some(seed) = number(SEED) else { return };
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    }
    chance::seed(seed);
    std::panic::set_hook(Box::new(|panic| violated(&format!("a panic: {panic}"))));
    // All runs on one thread: whoever blocks it holds up the clock too.
    std::thread::spawn(|| {
        std::thread::sleep(HANGS_AFTER);
        violated("the run hangs");
    });
    // A thread that has drawn nothing yet.
    let simulating = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            BEGAN.set(Some(tokio::time::Instant::now()));
            world::run(seed).await;
            println!("ran {} ms: {}", now_ms(), oracle::summary());
        });
        for (fault, count) in faults::counts() {
            println!("fired {count} {fault}");
        }
        println!("trace {:016x}", TRACE.get());
    });
    simulating.join().unwrap();
}

fn process(seed: u64, broken: Option<breaks::Break>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["sim::runs::one_seed", "--exact", "--nocapture"]).env(SEED, seed.to_string());
    match broken {
        Some(broken) => command.env(breaks::VARIABLE, broken.name()),
        None => &mut command,
    };
    command.stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// Runs `seeds`, two at a time, until `stop` says so of a seed's output.
fn run_all(
    seeds: std::ops::Range<u64>,
    broken: Option<breaks::Break>,
    each: impl Fn(u64, &Output) -> bool + Sync,
) {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let output = process(seed, broken).output().unwrap();
                    if !each(seed, &output) {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

#[test]
fn replicas_keep_their_promises_whatever_happens() {
    if let Some(seed) = number("SIM_SEED") {
        assert!(process(seed, None).status().unwrap().success(), "seed {seed} fails");
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let fired: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let failed: Mutex<Vec<u64>> = Mutex::default();
    run_all(1..seeds + 1, None, |seed, output| {
        let said = said(output);
        if !output.status.success() {
            let broken = said.lines().find(|line| line.contains("BROKEN")).unwrap_or(&said);
            println!("{broken}\n    SIM_SEED={seed} cargo test -p replication --lib sim:: -- --nocapture");
            lock(&failed).push(seed);
        }
        for line in said.lines().filter_map(|line| line.strip_prefix("fired ")) {
            if let Some((count, fault)) = line.split_once(' ') {
                *lock(&fired).entry(fault.to_owned()).or_insert(0) += count.parse::<u64>().unwrap();
            }
        }
        true
    });
    let fired = lock(&fired);
    println!("{seeds} seeds; faults that fired:");
    let counts = Fault::all().into_iter().map(|fault| {
        let name = fault.to_string();
        let count = fired.get(&name).copied().unwrap_or(0);
        println!("{count:>8} {name}");
        (name, count)
    });
    let never: Vec<String> = counts.filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    let failed = lock(&failed);
    assert!(failed.is_empty(), "{} of {seeds} seeds fail: {failed:?}", failed.len());
    assert!(seeds < SEEDS || never.is_empty(), "in {seeds} seeds these never fired: {never:?}");
}

/// Seeds within which each mistake must be found.
const BREAK_SEEDS: u64 = 200;

#[test]
fn mistakes_are_found() {
    let mut missed = Vec::new();
    for broken in breaks::Break::ALL {
        let found: Mutex<Option<(u64, String)>> = Mutex::default();
        run_all(1..BREAK_SEEDS + 1, Some(broken), |seed, output| {
            if output.status.success() {
                return true;
            }
            let said = said(output);
            let line = said.lines().find(|line| line.contains("BROKEN")).unwrap_or(&said).trim();
            lock(&found).get_or_insert((seed, line.to_owned()));
            false
        });
        let found = lock(&found).take();
        let line = |line: String| line.chars().take(160).collect::<String>();
        match found {
            Some((seed, said)) => println!("{broken:?} is found after {seed} seeds: {}", line(said)),
            None => missed.push(broken),
        }
    }
    assert!(missed.is_empty(), "not found within {BREAK_SEEDS} seeds: {missed:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let trace = |seed| {
        let said = said(&process(seed, None).output().unwrap());
        said.lines().find(|line| line.starts_with("trace ")).map(str::to_owned).ok_or(said)
    };
    for seed in 1..4 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}
