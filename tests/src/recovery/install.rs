//! A new replica joins while writes go on and gets the leader's snapshot, is killed in the middle of it, and goes on
//! where it was: the counters of what was sent and received prove that.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::PHASE_MAX;
use super::load::Writers;
use super::memory::Memory;
use crate::registers::cluster::Registers;
use crate::registers::wire::TakeSnapshotRequest;
use crate::wait;

/// All that was sent may be so many times the snapshot.
pub const SENT_MAX: f64 = 1.3;
const BYTES: &str = "borealis_raft_snapshot_bytes_total";

/// What was measured.
#[derive(Clone, Debug)]
pub struct Install {
    snapshot_bytes: u64,
    /// In the receiver's directory when it was killed.
    arrived_bytes: u64,
    sent_bytes: u64,
    /// By the second process of the receiver.
    received_after_bytes: u64,
    /// From the first exec to the kill.
    killed_after: Duration,
    /// From the first exec to having applied the commit index at that exec.
    took: Duration,
    /// From there to a vote.
    votes_after: Duration,
    writes_per_s: f64,
}

impl Install {
    /// Adds a replica to the cluster.
    pub async fn measure(cluster: &mut Registers, writers: &Writers, memory: &Memory) -> Result<Install> {
        let leader = purged(cluster).await?;
        let home = cluster.data(leader).join("snapshots");
        let sent = async |cluster: &Registers| {
            let mut sum = 0.0;
            for n in 0..3 {
                sum += cluster.scrape(n).await?.value(&format!("{BYTES}{{what=\"sent\"}}")).unwrap_or(0.0);
            }
            anyhow::Ok(sum as u64)
        };
        let sent_before = sent(cluster).await?;
        let (snapshot_bytes, goal) = (newest_bytes(&home)?, cluster.status(leader).await?.committed);
        let (begun, answered) = (Instant::now(), writers.answered());
        let new = cluster.join()?;
        memory.follow(cluster);
        let snapshots = cluster.data(new).join("snapshots");
        let arrived_bytes = half_arrived(&snapshots, snapshot_bytes / 2).await?;
        cluster.replicas[new].kill()?;
        let killed_after = begun.elapsed();
        cluster.replicas[new].start()?;
        memory.follow(cluster);
        let took = wait::until("the new replica to catch up", PHASE_MAX, async || {
            cluster.replicas[new].must_live()?;
            let applied = cluster.status(new).await?.applied;
            ensure!(applied >= goal, "it has applied {applied} of {goal}");
            Ok(begun.elapsed())
        })
        .await?;
        let writes_per_s = (writers.answered() - answered) as f64 / took.as_secs_f64();
        let votes_after = wait::until("the new replica to vote", PHASE_MAX, async || {
            let voters = cluster.status(leader).await?.voters as usize;
            ensure!(voters == cluster.replicas.len(), "{voters} vote");
            Ok(begun.elapsed())
        })
        .await?;
        let received = cluster.scrape(new).await?.value(&format!("{BYTES}{{what=\"received\"}}"));
        Ok(Install {
            snapshot_bytes,
            arrived_bytes,
            sent_bytes: sent(cluster).await? - sent_before,
            received_after_bytes: received.unwrap_or(0.0) as u64,
            killed_after,
            took,
            votes_after,
            writes_per_s,
        })
    }

    fn sent_ratio(&self) -> f64 {
        self.sent_bytes as f64 / self.snapshot_bytes.max(1) as f64
    }

    /// It did not begin anew after the kill.
    pub fn went_on(&self) -> bool {
        self.sent_ratio() < SENT_MAX
    }

    /// For people.
    pub fn tell(&self) {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let line = |name: &str, value: String| eprintln!("  {name:<44} {value}");
        eprintln!("\na replica that joins anew, with {:.0} writes/s meanwhile", self.writes_per_s);
        line("snapshot", mib(self.snapshot_bytes));
        line(
            "killed after",
            format!("{:.2} s, with {}", self.killed_after.as_secs_f64(), mib(self.arrived_bytes)),
        );
        line("received after that", mib(self.received_after_bytes));
        line("sent in all", format!("{}, {:.2} x the snapshot", mib(self.sent_bytes), self.sent_ratio()));
        line("exec -> the commit index at exec", format!("{:.2} s, both runs", self.took.as_secs_f64()));
        line("exec -> it votes", format!("{:.2} s", self.votes_after.as_secs_f64()));
    }

    /// For machines.
    pub fn figures(&self) -> Value {
        json!({
            "install_s": self.took.as_secs_f64(), "install_votes_s": self.votes_after.as_secs_f64(),
            "install_killed_after_s": self.killed_after.as_secs_f64(), "snapshot_bytes": self.snapshot_bytes,
            "install_arrived_bytes": self.arrived_bytes, "install_sent_bytes": self.sent_bytes,
            "install_received_after_bytes": self.received_after_bytes,
            "install_sent_ratio": self.sent_ratio(), "install_went_on": self.went_on(),
            "install_writes_per_s": self.writes_per_s.round(),
        })
    }
}

/// The leader, once it has a new snapshot and its log begins behind the first entry: no new replica can do without.
async fn purged(cluster: &Registers) -> Result<usize> {
    wait::until("the leader to let go of its log's beginning", PHASE_MAX, async || {
        let leader = cluster.leader().await?;
        let before = cluster.status(leader).await?;
        cluster.client(leader)?.take_snapshot(TakeSnapshotRequest {}).await?;
        let taken = wait::until("a snapshot", PHASE_MAX, async || {
            let now = cluster.status(leader).await?;
            ensure!(now.snapshot > before.snapshot);
            Ok(now)
        });
        taken.await?;
        let purged = wait::until("its log to be shorter", Duration::from_secs(2), async || {
            let now = cluster.status(leader).await?;
            ensure!(now.purged > 0, "{now:?}");
            Ok(())
        });
        purged.await.map(|()| leader)
    })
    .await
}

/// Bytes of the newest snapshot's files.
fn newest_bytes(home: &Path) -> Result<u64> {
    let mut whole: Vec<_> = std::fs::read_dir(home)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    whole.retain(|path| path.extension().is_none());
    whole.sort();
    Ok(bytes_in(whole.last().context("the leader has no snapshot")?))
}

fn bytes_in(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

/// Waits until so much of a snapshot has arrived; how much has.
async fn half_arrived(home: &Path, goal: u64) -> Result<u64> {
    wait::until("half of a snapshot to arrive", PHASE_MAX, async || {
        let parts = std::fs::read_dir(home)?.filter_map(|entry| Some(entry.ok()?.path()));
        let incoming = parts.filter(|path| path.extension().is_some_and(|kind| kind == "incoming"));
        let arrived = incoming.map(|dir| bytes_in(&dir)).sum::<u64>();
        ensure!(arrived >= goal, "{arrived} of {goal} bytes have");
        Ok(arrived)
    })
    .await
}
