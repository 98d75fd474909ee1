//! Election safety. This openraft may elect two leaders in one term, told apart by their node ids; but nobody leads
//! twice under one (term, node id), before and after a restart: what it lost meanwhile it would number again.

use std::collections::BTreeMap;

use super::{Law, Seen};

#[derive(Default)]
pub(crate) struct Election(BTreeMap<(u64, u64), u64>);

impl Law for Election {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            let Some(term) = seen.leads else { continue };
            let first = *self.0.entry((term, seen.node_id)).or_insert(seen.life);
            if first != seen.life {
                return Err(format!("node {} leads in term {term} in two of its lives", seen.node_id));
            }
        }
        Ok(())
    }
}
