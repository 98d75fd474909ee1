//! A replica is killed and started again: how long until it has applied what was committed when it was started, and
//! where that time goes, by its own log.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::PHASE_MAX;
use crate::registers::cluster::Registers;
use crate::wait;

/// What the log says when the machine is there.
const LOADED: &str = "the machine was loaded from its rows";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Whoever does not lead.
    Follower,
    /// Whoever leads.
    Leader,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Follower => "follower",
            Role::Leader => "leader",
        }
    }
}

/// One restart.
#[derive(Clone, Debug)]
pub struct Restart {
    role: Role,
    /// Writes went on.
    busy: bool,
    /// From exec to having applied the leader's commit index at exec.
    pub took: Duration,
    /// From exec to the first answer about itself.
    answers_after: Duration,
    /// Entries that it lacked, of its rows: it reads them from its own log and from the leader.
    behind: u64,
    /// Milliseconds by stage, as the log tells.
    stages: BTreeMap<String, u64>,
}

impl Restart {
    /// Kills, starts and waits.
    pub async fn measure(cluster: &mut Registers, role: Role, busy: bool) -> Result<Restart> {
        let leader = cluster.leader().await?;
        let victim = match role {
            Role::Leader => leader,
            Role::Follower => (leader + 1) % cluster.replicas.len(),
        };
        cluster.replicas[victim].kill()?;
        let leader = cluster.leader().await?;
        let log = cluster.replicas[victim].log.clone();
        let said = std::fs::metadata(&log)?.len();
        let goal = cluster.status(leader).await?.committed;
        let begun = Instant::now();
        cluster.replicas[victim].start()?;
        let mut answers_after = None;
        let took = wait::until("a restarted replica to catch up", PHASE_MAX, async || {
            cluster.replicas[victim].must_live()?;
            let applied = cluster.status(victim).await?.applied;
            answers_after.get_or_insert(begun.elapsed());
            ensure!(applied >= goal, "it has applied {applied} of {goal}");
            Ok(begun.elapsed())
        })
        .await?;
        let stages = stages(&log, said)?;
        Ok(Restart {
            role,
            busy,
            took,
            answers_after: answers_after.context("it has answered")?,
            behind: goal.saturating_sub(stages.get("stored").copied().unwrap_or(0)),
            stages,
        })
    }

    fn stage(&self, name: &str) -> u64 {
        self.stages.get(name).copied().unwrap_or(0)
    }

    /// Above the lines of `tell`.
    pub fn headline() {
        eprintln!(
            "\n{:<9} {:<7} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "restart",
            "load",
            "s",
            "disk ms",
            "log ms",
            "open ms",
            "rows ms",
            "other ms",
            "catch-up",
            "entries"
        );
    }

    /// One line for people.
    pub fn tell(&self) {
        let ms = |time: Duration| time.as_millis() as u64;
        let known = ["disk_ms", "log_ms", "open_ms", "load_ms"].map(|stage| self.stage(stage));
        let [disk, log, open, load] = known;
        let other = ms(self.answers_after).saturating_sub(known.iter().sum());
        let catch_up = ms(self.took - self.answers_after);
        eprintln!(
            "{:<9} {:<7} {:>8.2} {disk:>8} {log:>8} {open:>8} {load:>8} {other:>8} {catch_up:>8} {:>8}",
            self.role.name(),
            if self.busy { "writes" } else { "idle" },
            self.took.as_secs_f64(),
            self.behind,
        );
    }

    /// The same for machines.
    pub fn figures(&self) -> Value {
        json!({
            "role": self.role.name(), "busy": self.busy, "s": self.took.as_secs_f64(),
            "answers_after_s": self.answers_after.as_secs_f64(), "entries_behind": self.behind,
            "disk_ms": self.stage("disk_ms"), "log_ms": self.stage("log_ms"),
            "open_ms": self.stage("open_ms"), "load_ms": self.stage("load_ms"),
        })
    }
}

/// The numbers in the line about the loaded machine, behind what the log said before.
fn stages(log: &Path, said: u64) -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read(log)?;
    let new = String::from_utf8_lossy(text.get(said as usize..).unwrap_or_default()).into_owned();
    let line =
        new.lines().find(|line| line.contains(LOADED)).context("the log does not say what was loaded")?;
    Ok(numbers(line))
}

/// What stands in a line as NAME=NUMBER.
fn numbers(line: &str) -> BTreeMap<String, u64> {
    let pairs = line.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_from_a_line() {
        let found = numbers("2026 INFO replication: the machine was loaded node=3 id=x-1 load_ms=812");
        assert_eq!(found, BTreeMap::from([("node".to_owned(), 3), ("load_ms".to_owned(), 812)]));
    }
}
