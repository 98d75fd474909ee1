//! A replica whose disk is full takes no entries: once it has known for a while, its log grows no more. A leader, which
//! cannot always hand over, adds its first entry, for somebody must lead, and ends a change of membership.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Law, Seen};
use crate::raft::LogId;

/// What was taken before it knew is in its log by then.
const SETTLED: Duration = Duration::from_secs(2);
/// So many entries a leader may add.
const OWN_MAX: u64 = 3;

/// A life without room.
struct Full {
    since: Duration,
    /// Of its log, when that had settled or whenever it added what it may.
    end: Option<LogId>,
    /// What it may add yet.
    left: u64,
}

#[derive(Default)]
pub(crate) struct Room(BTreeMap<u64, Full>);

impl Law for Room {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            if !seen.full {
                self.0.remove(&seen.life);
                continue;
            }
            // All of it may be dropped.
            let last = seen.log.last().map(|(id, _)| *id).max(seen.purged);
            let first = Full { since: seen.now, end: last, left: OWN_MAX };
            let full = self.0.entry(seen.life).or_insert(first);
            if seen.now >= full.since + SETTLED && last > full.end {
                let grown = last.map_or(0, |id| id.index) - full.end.map_or(0, |id| id.index);
                let own = last.is_some_and(|last| last.leader_id.node_id == seen.node_id);
                let Some(left) = full.left.checked_sub(grown).filter(|_| own) else {
                    let (node, end) = (seen.node_id, full.end);
                    return Err(format!(
                        "node {node} has no room, and its log grew from {end:?} to {last:?}"
                    ));
                };
                full.left = left;
            }
            full.end = last.max(full.end);
        }
        Ok(())
    }
}
