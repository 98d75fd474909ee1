//! What the simulation looks at.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::machine::Machine;
use crate::raft::LogId;
use crate::replica::Replica;
use crate::sim::invariants::Seen;

impl<M: Machine> Replica<M> {
    /// The replica as it is now.
    pub(crate) fn seen(&self, life: u64, hashed: &mut BTreeMap<LogId, u64>) -> Seen {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = self.inner.leadership.borrow();
        Seen {
            life,
            node_id: self.inner.identity.node_id,
            leads: leads.is_me.then_some(leads.term),
            log: self.inner.log.shown(hashed),
            purged: self.inner.log.ends().1,
            applied: self.inner.pending.with(|present| present.at.applied),
            stored: self.inner.writer.stored(),
            snapshot: metrics.snapshot,
            committed: metrics.local_committed.map_or(0, |id| id.index),
            vote: self.inner.log.vote(),
            full: self.inner.full.load(Ordering::Relaxed),
            ages: [self.inner.adapter.snapshot_age(), self.age()],
            now: Duration::from_millis(crate::sim::now_ms() as u64),
        }
    }
}
