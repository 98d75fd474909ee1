//! The tonic services over `proto`'s messages, for those who speak: users and operators, agents, replicas.

/// For users, operators and agents.
#[allow(missing_docs, clippy::all, unreachable_pub)]
mod services {
    tonic::include_proto!("borealis.rpc");
}
pub use services::*;

/// Replica to replica.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod raft {
    tonic::include_proto!("borealis.raft.rpc");
}
