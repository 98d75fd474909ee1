//! One small process per task: it runs the task's process graph (Thermos), writes what happened into a checkpoint,
//! and answers its agent on a control socket.
//!
//! The agent uses from here: [`records`] (its own journal too), [`layout`], [`launch`], [`claim`], [`checkpoint`],
//! [`control`], [`identity`] and [`cleanup`]. The decisions are in [`graph`], which knows no clock and no process;
//! the program itself is in [`run`]. Not here: cgroup files and users (see `isolation`), reports, the network.

pub mod checkpoint;
pub mod claim;
pub mod cleanup;
pub mod control;
pub mod graph;
pub mod identity;
pub mod launch;
pub mod layout;
pub mod records;
pub mod run;
pub mod template;
pub mod tree;

/// Format level of the records and files written by this version.
pub const LEVEL: u32 = 1;
