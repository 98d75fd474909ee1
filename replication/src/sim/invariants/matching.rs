//! Log matching: an entry's id says what it is and what stands before it, in every log and for ever.

use std::collections::BTreeMap;

use super::{Law, Seen};
use crate::raft::LogId;

#[derive(Default)]
pub(crate) struct Matching {
    /// By id: what the entry says, and the id before it where a log showed both.
    entries: BTreeMap<LogId, (u64, Option<LogId>)>,
    /// By life: what was looked at already.
    looked: BTreeMap<u64, BTreeMap<u64, LogId>>,
}

impl Law for Matching {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            let looked = self.looked.entry(seen.life).or_default();
            let mut before: Option<LogId> = None;
            for (id, says) in &seen.log {
                let known = looked.insert(id.index, *id) == Some(*id);
                if !known {
                    let entry = self.entries.entry(*id).or_insert((*says, before));
                    if entry.0 != *says {
                        return Err(format!(
                            "entry {id} of node {} says something else elsewhere",
                            seen.node_id
                        ));
                    }
                    match (entry.1, before) {
                        (Some(there), Some(here)) if there != here => {
                            return Err(format!(
                                "before entry {id} stands {here} on node {}, and {there} elsewhere",
                                seen.node_id
                            ));
                        }
                        (None, Some(_)) => entry.1 = before,
                        _ => {}
                    }
                }
                before = Some(*id);
            }
        }
        Ok(())
    }
}
