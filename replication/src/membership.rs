//! Who belongs to the cluster, and what is known of each.

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
}

/// What a replica shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voting {
    /// A voter, once it has caught up.
    Voter,
    /// One that gets everything and decides nothing.
    Learner,
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
}

/// All replicas' rows at one index have this sum, or one of them is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of the log.
    pub index: u64,
    /// Wrapping sum of the hashes of all rows.
    pub sum: [u8; 8],
}
