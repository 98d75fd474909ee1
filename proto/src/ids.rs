//! The one registry of typed ids. An id is never a bare number; the prefix makes logs readable.
//!
//! Ids of jobs, hosts, tasks and work items are `epoch << 40 | counter`: a restored cluster has a higher epoch,
//! so it never gives out an id twice. Zero is never an id.

use std::fmt;
use std::str::FromStr;

use crate::{BadField, wire};

/// Bits of an id below the epoch.
pub const COUNTER_BITS: u32 = 40;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident => $prefix:literal),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "-{}-{}"), self.0 >> COUNTER_BITS, self.0 & ((1 << COUNTER_BITS) - 1))
            }
        }

        impl FromStr for $name {
            type Err = BadField;
            /// Reads what `Display` writes, or the bare number.
            fn from_str(text: &str) -> Result<Self, BadField> {
                let bad = || BadField::new(text, concat!("is not an id like ", $prefix, "-17-42"));
                if let Ok(number) = text.parse() {
                    return Ok($name(number));
                }
                let rest = text.strip_prefix(concat!($prefix, "-")).ok_or_else(bad)?;
                let (epoch, counter) = rest.split_once('-').ok_or_else(bad)?;
                let (epoch, counter): (u64, u64) =
                    (epoch.parse().map_err(|_| bad())?, counter.parse().map_err(|_| bad())?);
                if epoch >> (64 - COUNTER_BITS) != 0 || counter >> COUNTER_BITS != 0 {
                    return Err(bad());
                }
                Ok($name(epoch << COUNTER_BITS | counter))
            }
        }
    )+};
}

ids! {
    /// A job; a job killed and created anew has a new id under the same key.
    JobId => "job",
    /// One attempt to run an instance.
    TaskId => "task",
    /// A machine.
    HostId => "host",
    /// A change too large for one command, which the leader advances in steps.
    WorkId => "work",
}

/// A replica, counted from 1 within its cluster; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node-{}", self.0)
    }
}

/// Who may command an agent; a lower one is refused. The order of the fields is the order of comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Fence {
    /// Of the cluster's history; rises with restore and recover.
    pub epoch: u64,
    /// Raft's.
    pub term: u64,
    /// Node id of the leader, since two may lead in one term.
    pub leader: u64,
}

impl From<&wire::Fence> for Fence {
    fn from(fence: &wire::Fence) -> Self {
        Fence { epoch: fence.epoch, term: fence.term, leader: fence.leader }
    }
}

impl From<Fence> for wire::Fence {
    fn from(fence: Fence) -> Self {
        wire::Fence { epoch: fence.epoch, term: fence.term, leader: fence.leader }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} term {} leader {}", self.epoch, self.term, self.leader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_what_they_write() {
        let id = TaskId(17 << COUNTER_BITS | 42);
        assert_eq!(id.to_string(), "task-17-42");
        assert_eq!("task-17-42".parse(), Ok(id));
        assert_eq!(id.0.to_string().parse(), Ok(id));
        for bad in ["", "task-", "task-1", "host-1-2", "task-1-x", "task-99999999-1", "task-1-2199023255552"]
        {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_fence_compares_epoch_then_term_then_leader() {
        let fence = |epoch, term, leader| Fence { epoch, term, leader };
        assert!(fence(2, 1, 1) > fence(1, 9, 9));
        assert!(fence(1, 2, 1) > fence(1, 1, 9));
        assert!(fence(1, 1, 2) > fence(1, 1, 1));
    }
}
