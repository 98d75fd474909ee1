//! `borealis host`: one file per verb.

pub(crate) mod list;
pub(crate) mod maintenance;
