//! What was committed or applied stays so: neither goes back while a replica runs, nor does what it has stored. (What
//! a new leader says of the whole cluster may lag behind what an old one said; that is not looked at.)

use std::collections::BTreeMap;

use super::{Law, Seen};

#[derive(Default)]
pub(crate) struct Commit(BTreeMap<u64, [u64; 3]>);

impl Law for Commit {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
            let now = [seen.committed, index(seen.applied), index(seen.stored)];
            let before = self.0.insert(seen.life, now).unwrap_or_default();
            if now.iter().zip(before).any(|(now, before)| *now < before) {
                let node = seen.node_id;
                return Err(format!(
                    "node {node} went from {before:?} back to {now:?} (committed, applied, stored)"
                ));
            }
        }
        Ok(())
    }
}
