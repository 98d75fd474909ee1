//! Nothing is dropped from the log before it is safe elsewhere: purged <= min(snapshot, stored), stored <= applied.
//! And the log has no gap between what is purged and what is stored.

use super::{Law, Seen};

#[derive(Default)]
pub(crate) struct Stored;

impl Law for Stored {
    fn look(&mut self, all: &[Seen]) -> Result<(), String> {
        for seen in all {
            let Seen { node_id, purged, stored, snapshot, applied, .. } = seen;
            if stored > applied {
                return Err(format!("node {node_id} stored {stored:?}, and applied {applied:?}"));
            }
            if purged > stored {
                return Err(format!("node {node_id} purged {purged:?}, and stored {stored:?}"));
            }
            if purged > snapshot {
                return Err(format!("node {node_id} purged {purged:?}, and its snapshot is {snapshot:?}"));
            }
        }
        Ok(())
    }
}
