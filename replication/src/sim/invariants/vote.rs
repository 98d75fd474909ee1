//! A vote is never taken back. This openraft orders votes by (term, node), so within a term a replica may turn to a
//! higher node and never to a lower one; and what it granted, or followed, it still knows after a restart.

use std::collections::BTreeMap;

use super::{Law, Seen};
use crate::raft::Vote;

#[derive(Default)]
pub(crate) struct Votes(BTreeMap<u64, Vote>);

impl Law for Votes {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            let Some(vote) = seen.vote else { continue };
            let before = *self.0.entry(seen.node_id).or_insert(vote);
            if vote < before {
                return Err(format!("node {} had voted {before}, and now has {vote}", seen.node_id));
            }
            self.0.insert(seen.node_id, vote);
        }
        Ok(())
    }
}
