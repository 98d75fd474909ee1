//! A replicated map of registers: the machine with which the replication room is tested and measured without the
//! engine. `machine` is what is replicated, `service` its gRPC door, `program` a replica as a process, `cluster`
//! starts and kills replicas. Not here: clients that judge; and nothing of it is shipped.

pub mod cluster;
pub mod machine;
pub mod program;
pub mod service;

/// Messages and service.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod wire {
    tonic::include_proto!("borealis.tests.registers");
}
