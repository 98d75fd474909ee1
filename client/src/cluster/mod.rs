//! `borealis cluster`: one file per verb; `init` and `join` share one.

pub(crate) mod backup;
pub(crate) mod birth;
pub(crate) mod clock;
pub(crate) mod fingerprint;
pub(crate) mod freeze;
pub(crate) mod member;
pub(crate) mod offline;
pub(crate) mod status;
