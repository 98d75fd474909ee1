//! The replication room in one process, on one stopped clock, from one seed: the batcher, the adapter, the log and
//! its recovery, cuts, snapshots, the messages and openraft are the product's; files, the database of rows, the
//! network, threads and chance are simulated (`ground`).
//!
//! Each seed runs in a process of its own, since tokio and `std` seed themselves once a process. Replicas are harmed
//! for a while, with all laws looked at (`invariants`, `oracle`); then the harm ends, and the cluster must heal.
//! `SIM_SEED=7 cargo test -p replication --lib sim:: -- --nocapture` shows one run; `SIM_SEEDS=1000` tries so many.

pub(crate) mod breaks;
mod chance;
mod client;
pub(crate) mod disk;
pub(crate) mod faults;
pub(crate) mod files;
mod fork;
pub(crate) mod ground;
mod harm;
pub(crate) mod invariants;
mod keeper;
pub(crate) mod life;
pub(crate) mod machine;
pub(crate) mod net;
mod obeyer;
mod oracle;
pub(crate) mod rows;
mod runs;
mod runtime;
mod world;

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

thread_local! {
    /// Hash of all that was traced.
    static TRACE: Cell<u64> = const { Cell::new(0) };
    static BEGAN: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
}

/// Simulated time since the run began, in milliseconds.
pub(crate) fn now_ms() -> u128 {
    BEGAN.get().map_or(0, |began| began.elapsed().as_millis())
}

/// Notes what happened: for the eye with `SIM_TRACE=1`, and for the comparison of two runs of one seed.
pub(crate) fn trace(what: impl FnOnce() -> String) {
    let line = format!("{:>7} {}", now_ms(), what());
    let mut hasher = DefaultHasher::new();
    (TRACE.get(), &line).hash(&mut hasher);
    TRACE.set(hasher.finish());
    if std::env::var_os("SIM_TRACE").is_some() {
        println!("{line}");
    }
}

/// A law is broken: nothing after this moment means anything.
pub(crate) fn violated(what: &str) -> ! {
    println!("{:>7} BROKEN: {what}", now_ms());
    std::process::exit(3)
}
