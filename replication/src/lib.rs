//! A replicated, durable state machine of anything: openraft, a log of our own, and rows in RocksDB.
//!
//! It promises:
//! - a command that was answered is in the log of a quorum, synced, and applied; it is never lost;
//! - all replicas apply the same commands in the same order; what `read` shows after `barrier` is the newest;
//! - a proposal without an answer has an unknown fate and is reported so, promptly when leadership is lost;
//! - rows on disk are a cut: all of them and their index belong to one point of the log;
//! - damaged bytes are told apart from a torn tail, and a replica that finds them never votes again;
//! - every queue has a limit, and full means `Busy` at once.
//!
//! It knows nothing of what the commands mean, opens no port (the caller serves [`Replica::raft_service`]),
//! and lets no type of openraft or RocksDB out.

mod adapter;
mod backup;
mod batch;
mod disk;
mod error;
mod freshness;
mod ground;
mod identity;
mod log;
mod machine;
mod membership;
mod offline;
mod options;
mod quarantine;
mod raft;
mod reads;
mod replica;
mod service;
#[cfg(test)]
mod sim;
mod small_file;
mod snapshot;
mod state;
pub mod telemetry;
mod transport;

pub use adapter::applies;
pub use backup::Backup;
pub use batch::PendingAnswer;
pub use error::{MembershipError, ProposeError, RETRY_AFTER, ReadError, StartError, StoreError};
pub use identity::{Identity, adopt, identity, init, refuse_used, store_uuid};
pub use machine::{Changes, Corrupt, Machine, Row, Rows};
pub use membership::{Admitted, Fingerprint, Leadership, Member, Status, Voting};
pub use offline::{Inspection, LoggedEntry, inspect, recover, restore, skip, skippable};
pub use options::{Options, Profile, Timers};
pub use replica::{Proposed, Replica};
pub use service::RaftService;
