//! The replica process: leader loops, agents' gateway, API, pages and metrics.
//!
//! Thin shells around `engine` (decisions) and `replication` (order and durability). In reading order:
//! `server` wires it up; `machine` puts the engine's State behind the log; `leader` is what the elected replica
//! does; `route`, `gateway` and `outlet` carry agents' frames; `api` and `pages` are the doors.
//!
//! Not here: any decision about tasks (engine), any word of Raft's own (replication).

pub mod api;
pub mod backups;
pub mod clocks;
pub mod gateway;
pub mod leader;
pub mod limits;
pub mod machine;
pub mod offline;
pub mod options;
pub mod outlet;
pub mod pages;
pub mod peers;
pub mod route;
pub mod running;
pub mod server;
pub mod telemetry;
