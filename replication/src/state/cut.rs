//! What apply has done and the rows do not show yet, and how it is frozen into cuts.
//!
//! A cut holds everything that belongs to one point of the log: its id, the membership there, the node ids given
//! out, and the rows changed since the cut before. It falls between two entries, never within one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use proto::wire::raft as wire;
use tokio::sync::Notify;

use crate::log::lock;
use crate::machine::{Changes, Corrupt, Row};
use crate::membership::Member;
use crate::raft::{
    LEVEL, LogId, Membership, StoredMembership, log_id_from_wire, log_id_to_wire, membership_from_wire,
    membership_to_wire,
};

/// Cuts that wait for the writer at most; then apply waits for it.
const CUTS_MAX: usize = 16;
/// Data directories that a cluster remembers at most.
const RESERVED_MAX: usize = 1024;

/// A point of the log and what belongs to it beside the rows.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Node ids below were given out.
    pub(crate) next_node_id: u64,
    /// Which store has which.
    pub(crate) reserved: BTreeMap<String, u64>,
    /// Members that were removed; ids are not used again.
    pub(crate) removed: BTreeSet<u64>,
}

impl Default for Point {
    /// Of a new cluster: node 1 began it.
    fn default() -> Self {
        Point {
            applied: None,
            membership: StoredMembership::default(),
            next_node_id: 2,
            reserved: BTreeMap::new(),
            removed: BTreeSet::new(),
        }
    }
}

impl Point {
    /// The node id for a store: the one it has, or the next.
    pub(crate) fn reserve(&mut self, store_uuid: &str) -> Result<u64, String> {
        if let Some(id) = self.reserved.get(store_uuid) {
            return Ok(*id);
        }
        let mut members = self.membership.membership().nodes();
        if let Some((id, _)) = members.find(|(_, node)| node.store_uuid == store_uuid) {
            return Ok(*id);
        }
        if self.reserved.len() >= RESERVED_MAX {
            return Err(format!("{RESERVED_MAX} directories have joined this cluster; no more can"));
        }
        let id = self.next_node_id;
        self.next_node_id += 1;
        self.reserved.insert(store_uuid.to_owned(), id);
        Ok(id)
    }

    pub(crate) fn index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index)
    }

    /// The first entry that is not in it.
    pub(crate) fn next_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index + 1)
    }

    /// Who belongs to the cluster. Nobody was heard: lag and time are not known.
    pub(crate) fn members(&self) -> Vec<Member> {
        let membership = self.membership.membership();
        let votes = |id: &u64| membership.get_joint_config().iter().all(|voters| voters.contains(id));
        membership.nodes().map(|(id, node)| node.member(*id, votes(id))).collect()
    }

    pub(crate) fn to_wire(&self, sum: u64) -> wire::RowsMeta {
        wire::RowsMeta {
            level: LEVEL,
            applied: self.applied.as_ref().map(log_id_to_wire),
            membership_at: self.membership.log_id().as_ref().map(log_id_to_wire),
            membership: Some(membership_to_wire(self.membership.membership())),
            next_node_id: self.next_node_id,
            reserved: self
                .reserved
                .iter()
                .map(|(uuid, id)| wire::Reserved { store_uuid: uuid.clone(), node_id: *id })
                .collect(),
            sum,
            removed: self.removed.iter().copied().collect(),
        }
    }

    /// Another membership holds from here on.
    pub(crate) fn change_membership(&mut self, at: LogId, membership: Membership) {
        let before = self.membership.membership();
        let gone = before.nodes().map(|(id, _)| *id).filter(|id| membership.get_node(id).is_none());
        self.removed.extend(gone);
        self.membership = StoredMembership::new(Some(at), membership);
    }

    pub(crate) fn from_wire(meta: &wire::RowsMeta) -> Result<Self, Corrupt> {
        let membership =
            membership_from_wire(meta.membership.as_ref().unwrap_or(&wire::Membership::default()))?;
        Ok(Point {
            applied: meta.applied.as_ref().map(log_id_from_wire),
            membership: StoredMembership::new(meta.membership_at.as_ref().map(log_id_from_wire), membership),
            next_node_id: meta.next_node_id,
            reserved: meta.reserved.iter().map(|r| (r.store_uuid.clone(), r.node_id)).collect(),
            removed: meta.removed.iter().copied().collect(),
        })
    }
}

/// Frozen: the writer's, unseen by apply.
pub(crate) struct Cut {
    pub(crate) at: Point,
    pub(crate) rows: BTreeMap<Vec<u8>, Option<Arc<dyn Row>>>,
    /// The sum at this cut is asked for.
    pub(crate) check: bool,
    /// Of commands applied since the cut before.
    pub(crate) log_bytes: u64,
}

/// Where apply works: the present point and what changed since the last cut.
#[derive(Default)]
pub(crate) struct Present {
    pub(crate) at: Point,
    pub(crate) changes: Changes,
    pub(crate) log_bytes: u64,
    /// Whether anything was applied since the last cut.
    pub(crate) moved: bool,
    cuts: VecDeque<Cut>,
}

/// The present, shared by apply and the writer.
#[derive(Default)]
pub(crate) struct Pending {
    present: Mutex<Present>,
    room: Notify,
}

impl Pending {
    pub(crate) fn new(at: Point) -> Self {
        Pending { present: Mutex::new(Present { at, ..Present::default() }), room: Notify::new() }
    }

    /// Work on the present: what happens within is never split by a cut.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Present) -> R) -> R {
        work(&mut lock(&self.present))
    }

    /// Freezes the present because its sum is asked for. Waits while too many cuts wait.
    pub(crate) async fn freeze_for_check(&self) {
        loop {
            let room = self.room.notified();
            {
                let mut present = lock(&self.present);
                if present.cuts.len() < CUTS_MAX {
                    let cut = freeze(&mut present, true);
                    present.cuts.push_back(cut);
                    return;
                }
            }
            room.await;
        }
    }

    /// The next cut to write: one that waits, or the present if it moved.
    pub(crate) fn next_cut(&self) -> Option<Cut> {
        let mut present = lock(&self.present);
        let cut = match present.cuts.pop_front() {
            Some(cut) => Some(cut),
            None if present.moved => Some(freeze(&mut present, false)),
            None => None,
        };
        self.room.notify_waiters();
        cut
    }

    /// Everything is replaced: a snapshot was installed.
    pub(crate) fn replace(&self, at: Point) {
        *lock(&self.present) = Present { at, ..Present::default() };
        self.room.notify_waiters();
    }
}

fn freeze(present: &mut Present, check: bool) -> Cut {
    present.moved = false;
    Cut {
        at: present.at.clone(),
        rows: std::mem::take(&mut present.changes).into_rows(),
        check,
        log_bytes: std::mem::take(&mut present.log_bytes),
    }
}
