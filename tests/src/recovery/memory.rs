//! The replicas' resident memory, looked at all the time, so that a peak is seen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

use crate::registers::cluster::Registers;
use crate::usage;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct Seen {
    pids: Vec<Option<i32>>,
    peak_kib: Vec<u64>,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Memory {
    seen: Arc<Mutex<Seen>>,
    looking: JoinHandle<()>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Memory {
    /// Watches the replicas that run now.
    pub fn watch(cluster: &Registers) -> Memory {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let looked = Arc::clone(&seen);
        let looking = tokio::spawn(async move {
            loop {
                look(&mut lock(&looked));
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        let memory = Memory { seen, looking };
        memory.follow(cluster);
        memory
    }

    /// Replicas were killed or started.
    pub fn follow(&self, cluster: &Registers) {
        let mut seen = lock(&self.seen);
        seen.pids = cluster.replicas.iter().map(|replica| replica.pid().ok()).collect();
        seen.peak_kib.resize(cluster.replicas.len(), 0);
    }

    /// The most of each replica since the last call, in KiB.
    pub fn peaks_kib(&self) -> Vec<u64> {
        let mut seen = lock(&self.seen);
        look(&mut seen);
        let all = seen.peak_kib.len();
        std::mem::replace(&mut seen.peak_kib, vec![0; all])
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn look(seen: &mut Seen) {
    for (pid, peak) in seen.pids.iter().zip(&mut seen.peak_kib) {
        let now: Result<u64> = pid.map_or(Ok(0), usage::rss_kib);
        *peak = now.unwrap_or(0).max(*peak);
    }
}
