//! A replicated map of registers: the machine with which the replication room is tested and measured without the
//! engine. `machine` is what is replicated, `service` its gRPC door, `program` a replica as a process, `cluster`
//! starts and kills replicas, `clients` load them and write down a history, `storm` disturbs processes and
//! network meanwhile, `disks` disks and clocks. What a
//! history means is judged in `linearizable`. Nothing of it is shipped.

pub mod clients;
pub mod cluster;
pub mod damage;
pub mod disks;
pub mod machine;
pub mod program;
pub mod service;
pub mod storm;

/// Messages and service.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod wire {
    tonic::include_proto!("borealis.tests.registers");
}
