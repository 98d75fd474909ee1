//! `borealis job`: one file per verb, and what the verbs share.

pub(crate) mod create;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod restart;
pub(crate) mod source;
pub(crate) mod status;
pub(crate) mod why;
