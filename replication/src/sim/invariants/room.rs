//! A replica whose disk is full takes no entries: once it has known for a while, its log grows no more. Only a leader's
//! first entry is its own, for somebody must lead.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Law, Seen};
use crate::raft::LogId;

/// What was taken before it knew is in its log by then.
const SETTLED: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(crate) struct Room {
    /// By life: since when it is full, and the end of its log when that had settled.
    full: BTreeMap<u64, (Duration, Option<LogId>)>,
}

impl Law for Room {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            if !seen.full {
                self.full.remove(&seen.life);
                continue;
            }
            let last = seen.log.last().map(|(id, _)| *id);
            let (since, end) = self.full.entry(seen.life).or_insert((seen.now, last));
            if seen.now < *since + SETTLED {
                *end = last;
                continue;
            }
            let own = last.is_some_and(|last| last.leader_id.node_id == seen.node_id);
            let begins = seen.log.iter().rev().nth(1).is_none_or(|(before, _)| {
                last.is_some_and(|last| before.leader_id != last.leader_id)
            });
            if last > *end && !(own && begins) {
                return Err(format!("node {} has no room, and its log grew from {end:?} to {last:?}", seen.node_id));
            }
            *end = last.max(*end);
        }
        Ok(())
    }
}
