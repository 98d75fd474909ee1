//! What a host can hold a task to, and how: cgroups, users, limits.
//!
//! [`Host::detect`] finds out what is possible and says so in words; [`cgroup`] makes, fills, kills and removes the
//! cgroup of a task under v1 and v2; [`namespace`] shuts a task in; [`user`] finds a role's unix user and becomes it. Used by the agent (makes and
//! removes cgroups) and by the executor (joins them, changes the user). Nothing here decides what a task gets.
//! What is not permitted is an error that says what is missing; nothing here panics.

pub mod cgroup;
mod host;
pub mod namespace;
pub mod user;

pub use cgroup::{Cgroup, Cgroups, Limits, Used};
pub use host::{Hierarchy, Host, PID_NAMESPACE};

use std::io;
use std::path::Path;

/// What could not be done, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {cause}{hint}")]
pub struct Error {
    /// As a verb: `write 64 to`.
    pub what: String,
    /// File or directory.
    pub path: String,
    /// What the system said.
    pub cause: io::Error,
    /// What to do about it; empty or begins with `; `.
    pub hint: &'static str,
}

impl Error {
    fn new(what: impl Into<String>, path: &Path, cause: io::Error) -> Self {
        let hint = match cause.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => "; run the agent as root, or give its user this cgroup",
            Some(libc::EROFS) => "; cgroups are mounted read-only here, as in an unprivileged container",
            Some(libc::EBUSY) => "; processes or child cgroups are still in it",
            _ => "",
        };
        Error { what: what.into(), path: path.display().to_string(), cause, hint }
    }
}
