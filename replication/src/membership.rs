//! Who belongs to the cluster, and what is known of each.

use std::num::NonZeroU32;
use std::time::Duration;

/// A replica, as membership knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Never used again once given.
    pub node_id: u64,
    /// `address:port` for replicas.
    pub raft_address: String,
    /// `address:port` for everybody else.
    pub api_address: String,
    /// Which data directory this is.
    pub store_uuid: String,
    /// Whether it votes, by a committed change that is done; otherwise it learns.
    pub voter: bool,
    /// It learns because somebody wants it so, and is not made a voter by itself.
    pub learner: bool,
    /// Entries it is behind the leader's log; known to the leader only, once something of it matched.
    pub lag: Option<u64>,
    /// Time since it last answered, counted from when the answered message was sent; known to the leader only.
    pub heard: Option<Duration>,
    /// The highest level that its machine can act at, as it said with its newest answer; known to the leader only.
    pub acts_at: Option<NonZeroU32>,
    /// Its disk is nearly full, as it said with its newest answer: it takes no entries. Known to the leader only.
    pub full: bool,
}

/// What a replica shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voting {
    /// A voter, once it has caught up.
    Voter,
    /// One that gets everything and decides nothing.
    Learner,
}

/// Of those members that were heard within that time, and `me`: the level that all can act at; otherwise who is in the
/// way.
pub(crate) fn all_act_at(
    members: &[Member],
    (me, own): (u64, u32),
    lately: Duration,
) -> Result<u32, Vec<u64>> {
    let level = |m: &Member| match m.node_id == me {
        true => Some(own),
        false => {
            let said = m.acts_at.filter(|_| m.heard.is_some_and(|heard| heard < lately));
            said.map(NonZeroU32::get)
        }
    };
    let silent: Vec<u64> = members.iter().filter(|m| level(m).is_none()).map(|m| m.node_id).collect();
    if silent.is_empty() { Ok(members.iter().filter_map(level).min().unwrap_or(own)) } else { Err(silent) }
}

/// Who leads, as this replica knows it. A leader is named by term and node id together.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The leader, when one is known.
    pub leader: Option<Member>,
    /// Whether this replica is that leader.
    pub is_me: bool,
}

/// A replica was given its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// What the replica writes into its directory.
    pub identity: crate::Identity,
    /// The members at that moment, itself included.
    pub members: Vec<Member>,
}

/// How a replica is, in numbers and in words.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its own id.
    pub node_id: u64,
    /// Raft's term.
    pub term: u64,
    /// `leader`, `follower`, `candidate`, `learner`, or why it has stopped.
    pub state: String,
    /// The leader's id, when known.
    pub leader: Option<u64>,
    /// All members, by node id.
    pub members: Vec<Member>,
    /// Index of the last entry in the log.
    pub last_log: u64,
    /// Index up to which entries are committed, as known here.
    pub committed: u64,
    /// Index up to which they are applied to memory.
    pub applied: u64,
    /// Index up to which rows are flushed and synced.
    pub stored: u64,
    /// Index of the newest snapshot.
    pub snapshot: u64,
    /// Index up to which the log was dropped.
    pub purged: u64,
    /// 99th percentile of the time to sync the log, of its newest syncs.
    pub sync_p99: Option<Duration>,
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// Age of the newest snapshot.
    pub snapshot_age: Option<Duration>,
    /// Its disk is nearly full: it takes no entries.
    pub full: bool,
}

/// All replicas' rows at one index have this sum, or one of them is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of the log.
    pub index: u64,
    /// Wrapping sum of the hashes of all rows.
    pub sum: [u8; 8],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_can_act_at_what_the_least_of_those_heard_can() {
        let member = |node_id, acts_at: Option<u32>, heard| Member {
            node_id,
            raft_address: String::new(),
            api_address: String::new(),
            store_uuid: String::new(),
            voter: node_id < 4,
            learner: node_id >= 4,
            lag: None,
            heard,
            acts_at: acts_at.and_then(NonZeroU32::new),
            full: false,
        };
        let (now, long) = (Some(Duration::ZERO), Some(Duration::from_secs(9)));
        let (me, lately) = ((1, 3), Duration::from_secs(2));
        let leader = member(1, None, None);
        for (others, level) in [
            (vec![], Ok(3)),
            (vec![member(2, Some(3), now), member(3, Some(2), now)], Ok(2)),
            (vec![member(2, Some(9), now)], Ok(3)),
            (vec![member(2, Some(3), now), member(3, Some(3), long)], Err(vec![3])),
            (vec![member(2, None, now), member(4, Some(3), None)], Err(vec![2, 4])),
            (vec![member(2, Some(3), now), member(4, Some(1), now)], Ok(1)),
        ] {
            let members: Vec<Member> = [leader.clone()].into_iter().chain(others).collect();
            assert_eq!(all_act_at(&members, me, lately), level, "{members:?}");
        }
    }
}
