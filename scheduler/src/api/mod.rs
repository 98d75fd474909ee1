//! The door for people and their tools: checks what comes in, finds the leader, turns answers into words.
//!
//! `jobs` and `cluster` hold what each call does on the leader; `forward` finds it; `convert` is the only file that
//! turns State into messages. Nothing here changes State but through the session's `propose`.

pub mod cluster;
pub mod convert;
pub mod forward;
pub mod jobs;
pub mod why;
