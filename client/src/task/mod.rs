//! `borealis task`: one file per verb.

pub(crate) mod logs;
