//! Snapshots on the leader while writes go on: how long one takes, and what the writes feel of it.
//!
//! A round is a calm time, a snapshot, and a calm time again. A write that was under way at any moment of the
//! snapshot counts as one during it.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::PHASE_MAX;
use super::load::{Sample, Writers};
use crate::figures::{self, Percentiles};
use crate::registers::cluster::Registers;
use crate::registers::wire::TakeSnapshotRequest;
use crate::scrape::Scrape;
use crate::wait;

/// Before and after each snapshot.
const CALM: Duration = Duration::from_secs(3);
/// Rounds that may be repeated because another snapshot came between.
const REPEATED_MAX: usize = 10;
const BUILT: &str = "borealis_raft_snapshots_total{what=\"built\"}";

/// What was measured.
#[derive(Debug, Default)]
pub struct Checkpoints {
    took: Vec<Duration>,
    calm: Vec<Duration>,
    during: Vec<Duration>,
    rows: Vec<Value>,
}

impl Checkpoints {
    /// Takes so many snapshots on the leader.
    pub async fn measure(cluster: &Registers, writers: &Writers, rounds: usize) -> Result<Checkpoints> {
        let mut all = Checkpoints::default();
        eprintln!(
            "\n{:<11} {:>8} {:>9} {:>9} {:>9} {:>11} {:>9} {:>7}",
            "checkpoint", "ms", "before/s", "p99 ms", "p50 ms", "during: p99", "max ms", "ratio"
        );
        let mut repeated = 0;
        while all.took.len() < rounds {
            if !all.round(cluster, writers).await? {
                repeated += 1;
                ensure!(repeated <= REPEATED_MAX, "snapshots that nobody asked for come all the time");
                eprintln!("another snapshot came between; once more");
            }
        }
        Ok(all)
    }

    /// `false`: another snapshot was taken meanwhile.
    async fn round(&mut self, cluster: &Registers, writers: &Writers) -> Result<bool> {
        let leader = cluster.leader().await?;
        let (from, before) = (Instant::now(), scrapes(cluster).await?);
        tokio::time::sleep(CALM).await;
        let begun = Instant::now();
        cluster.client(leader)?.take_snapshot(TakeSnapshotRequest {}).await?;
        wait::until("a snapshot", PHASE_MAX, async || {
            let built = built(&cluster.scrape(leader).await?) - built(&before[leader]);
            ensure!(built > 0.0);
            Ok(())
        })
        .await?;
        let taken = |scrape: &Scrape| scrape.sum("borealis_raft_snapshot_seconds_sum");
        let took = taken(&cluster.scrape(leader).await?) - taken(&before[leader]);
        let took = Duration::from_secs_f64(took.max(0.0));
        tokio::time::sleep(CALM).await;
        let (until, after) = (Instant::now(), scrapes(cluster).await?);
        let alone =
            after.iter().zip(&before).map(|(after, before)| built(after) - built(before)).sum::<f64>();
        if alone != 1.0 || cluster.leader().await? != leader {
            return Ok(false);
        }
        let (calm, during) = split(&writers.samples(), from..until, begun..begun + took);
        let (quiet, loud) = (figures::percentiles(&calm), figures::percentiles(&during));
        let calm_time = (until - from).saturating_sub(took);
        let per_s = calm.len() as f64 / calm_time.as_secs_f64();
        let ratio = ratio(&loud, &quiet);
        let ms = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.2}"));
        eprintln!(
            "{:<11} {:>8.0} {per_s:>9.0} {:>9} {:>9} {:>11} {:>9} {:>7}",
            self.took.len() + 1,
            took.as_secs_f64() * 1e3,
            ms(quiet.p99_ms),
            ms(quiet.p50_ms),
            ms(loud.p99_ms),
            ms(loud.max_ms),
            ms(ratio),
        );
        self.rows.push(json!({
            "ms": took.as_secs_f64() * 1e3, "writes_per_s": per_s.round(), "calm": quiet, "during": loud, "ratio": ratio,
        }));
        self.took.push(took);
        self.calm.extend(calm);
        self.during.extend(during);
        Ok(true)
    }

    /// For machines: over all rounds.
    pub fn figures(&self) -> Value {
        let (quiet, loud) = (figures::percentiles(&self.calm), figures::percentiles(&self.during));
        json!({
            "checkpoint_ms": figures::percentiles(&self.took).p50_ms,
            "stall_p99_ratio": ratio(&loud, &quiet),
            "calm_p99_ms": quiet.p99_ms, "during_p99_ms": loud.p99_ms, "during_max_ms": loud.max_ms,
            "checkpoints": self.rows,
        })
    }
}

fn ratio(loud: &Percentiles, quiet: &Percentiles) -> Option<f64> {
    Some((loud.p99_ms? / quiet.p99_ms? * 100.0).round() / 100.0)
}

fn built(scrape: &Scrape) -> f64 {
    scrape.value(BUILT).unwrap_or(0.0)
}

async fn scrapes(cluster: &Registers) -> Result<Vec<Scrape>> {
    let mut all = Vec::new();
    for n in 0..cluster.replicas.len() {
        all.push(cluster.scrape(n).await?);
    }
    Ok(all)
}

/// Which writes of a round had nothing to do with the snapshot, and which did.
fn split(
    samples: &[Sample],
    round: Range<Instant>,
    snapshot: Range<Instant>,
) -> (Vec<Duration>, Vec<Duration>) {
    let (mut calm, mut during) = (Vec::new(), Vec::new());
    for sample in samples {
        let end = sample.at + sample.took;
        if sample.at < snapshot.end && end > snapshot.start {
            during.push(sample.took);
        } else if sample.at >= round.start && end < round.end {
            calm.push(sample.took);
        }
    }
    (calm, during)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_was_under_way_at_any_moment_of_a_snapshot_counts_as_one_during_it() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let sample = |from: u64, to: u64| Sample { at: at(from), took: Duration::from_millis(to - from) };
        let samples = [(0, 5), (10, 19), (15, 25), (20, 21), (29, 40), (18, 41), (31, 33), (45, 60)];
        let samples = samples.map(|(from, to)| sample(from, to));
        let ms = |times: Vec<Duration>| times.iter().map(|time| time.as_millis()).collect::<Vec<_>>();
        let (calm, during) = split(&samples, at(10)..at(50), at(20)..at(30));
        assert_eq!((ms(calm), ms(during)), (vec![9, 2], vec![10, 1, 11, 23]));
    }
}
