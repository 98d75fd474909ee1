//! Leader completeness: whoever begins to lead has all that was applied anywhere before.

use std::collections::{BTreeMap, BTreeSet};

use super::{Law, Seen};
use crate::raft::LogId;

#[derive(Default)]
pub(crate) struct Completeness {
    applied: BTreeMap<u64, LogId>,
    led: BTreeSet<(u64, u64)>,
}

impl Law for Completeness {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            let Some(term) = seen.leads else { continue };
            if !self.led.insert((term, seen.node_id)) {
                continue;
            }
            // What was applied in a later term is another leader's.
            let earlier = |id: &&LogId| id.leader_id.term < term;
            for id in self.applied.values().rev().filter(earlier) {
                if seen.purged.is_some_and(|purged| purged.index >= id.index) {
                    break;
                }
                let there = seen.id_at(id.index);
                if there != Some(*id) {
                    return Err(format!(
                        "node {} leads in term {term}, and has {there:?} where {id} was applied",
                        seen.node_id
                    ));
                }
            }
        }
        for seen in all {
            let upto = seen.applied.map_or(0, |id| id.index);
            let ids = seen.log.iter().map(|(id, _)| *id).filter(|id| id.index <= upto);
            self.applied.extend(ids.map(|id| (id.index, id)));
        }
        Ok(())
    }
}
