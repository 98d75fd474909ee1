//! State machine safety: what one replica applied at an index, all apply there. (What the entries do to the machine
//! is compared by the oracle.)

use std::collections::BTreeMap;

use super::{Law, Seen};
use crate::raft::LogId;

#[derive(Default)]
pub(crate) struct Applied(BTreeMap<u64, LogId>);

impl Law for Applied {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            let upto = seen.applied.map_or(0, |id| id.index);
            let ids = seen.log.iter().map(|(id, _)| *id).filter(|id| id.index <= upto);
            for id in ids.chain(seen.applied) {
                let first = *self.0.entry(id.index).or_insert(id);
                if first != id {
                    let node = seen.node_id;
                    return Err(format!("node {node} applied {id}, where {first} was applied before"));
                }
            }
        }
        Ok(())
    }
}
