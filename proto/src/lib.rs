//! What Borealis says, on the wire and on disk: the messages (`wire`), and the values parsed from them.
//!
//! Everything persisted or sent is one of these messages. The values are what the rooms believe in: once a
//! `JobKey` or a `Resources` exists, it is well formed. Not here: services (see `rpc`), defaults, decisions.

pub mod digest;
pub mod ids;
pub mod job_key;
pub mod resources;

pub use ids::{Fence, HostId, JobId, NodeId, TaskId, WorkId};
pub use job_key::JobKey;
pub use resources::Resources;

/// The messages as generated from `proto/borealis/*.proto`; their comments are there.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/borealis.rs"));
    /// Messages between replicas.
    pub mod raft {
        include!(concat!(env!("OUT_DIR"), "/borealis.raft.rs"));
    }
}

/// A message that does not mean anything: which field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct BadField {
    /// Path of the field, as a person knows it.
    pub field: String,
    /// What is wrong, so that the sentence reads on from the field's name.
    pub problem: String,
}

impl BadField {
    /// A complaint about `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        BadField { field: field.into(), problem: problem.into() }
    }
}

/// The hash under which a task config is stored and named: SHA-256 of its encoding.
pub fn config_hash(config: &wire::TaskConfig) -> [u8; 32] {
    use prost::Message as _;
    use sha2::Digest as _;
    sha2::Sha256::digest(config.encode_to_vec()).into()
}
