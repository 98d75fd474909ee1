//! What can go wrong, in words for the person who must act.

use std::path::PathBuf;
use std::time::Duration;

use crate::machine::Corrupt;
use crate::membership::Member;

/// When who was told that a queue is full may come again: in this time a leader with a sound disk empties it.
pub const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A data directory cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused a file operation.
    #[error("{action} {path} failed: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Bytes on disk are not what was written.
    #[error(
        "{0}; this store must not vote again: stop the replica, set its directory aside and let it join anew with an empty one"
    )]
    Corrupt(#[from] Corrupt),
    /// There is something where nothing may be.
    #[error("{path} is not empty; a cluster is begun, and a replica joins, only in an empty directory")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Nobody initialised this directory and it did not join.
    #[error(
        "{path} belongs to no cluster; run `cluster init` on the first replica or `cluster join` on this one"
    )]
    NoIdentity {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another cluster than the options say.
    #[error(
        "{path} belongs to cluster {found:?}, not to {wanted:?}; check the directory and the cluster's name"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// A running process uses it.
    #[error("{path} is used by another process; stop that replica first")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// RocksDB refused.
    #[error("rows in {path}: {problem}")]
    Rows {
        /// The rows' directory.
        path: PathBuf,
        /// What RocksDB said.
        problem: String,
    },
    /// The bytes are whole, but they say what this program does not know. The store is sound and stays so.
    #[error(
        "{0}; its bytes are whole, so another version of this program wrote them: use that one or a newer"
    )]
    Foreign(Corrupt),
    /// What came from elsewhere is not what was sent, or not what a backup's manifest says. The store is sound.
    #[error("{what} {why}")]
    Arrived {
        /// Which file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A directory cannot be made into what was asked. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The bytes were written by a newer version. The store is sound and stays so.
    #[error("{what} has format level {found}, this program knows levels up to {known}; use a newer program")]
    Level {
        /// Which file or record.
        what: String,
        /// Its level.
        found: u32,
        /// The newest level known here.
        known: u32,
    },
}

impl From<transfer::Error> for StoreError {
    fn from(error: transfer::Error) -> Self {
        match error {
            transfer::Error::Io { action, path, source } => StoreError::Io { action, path, source },
            transfer::Error::Bad { what, why } => StoreError::Arrived { what, why },
            transfer::Error::Level { what, found, known } => StoreError::Level { what, found, known },
        }
    }
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| StoreError::Io { action, path, source }
    }

    /// The same, said of something within `place`.
    pub(crate) fn within(self, place: impl std::fmt::Display) -> Self {
        let named = |c: Corrupt| Corrupt::new(format!("{place}: {}", c.what), c.why);
        match self {
            StoreError::Corrupt(corrupt) => StoreError::Corrupt(named(corrupt)),
            StoreError::Foreign(corrupt) => StoreError::Foreign(named(corrupt)),
            StoreError::Level { what, found, known } => {
                StoreError::Level { what: format!("{place}: {what}"), found, known }
            }
            other => other,
        }
    }

    /// Whether bytes are not what was written. RocksDB says so in words, and not of files that it may not open.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            StoreError::Corrupt(_) => true,
            StoreError::Rows { problem, .. } => problem.starts_with("Corruption"),
            _ => false,
        }
    }

    /// As openraft wants it.
    pub(crate) fn into_io(self) -> std::io::Error {
        match self {
            StoreError::Io { source, .. } if source.raw_os_error().is_some() => source,
            other => std::io::Error::other(other.to_string()),
        }
    }
}

/// A replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk syncs too slowly for the profile.
    #[error(
        "syncing 4 KiB to {dir} takes {measured_ms:.1} ms, profile `{profile}` bears {limit_ms:.1} ms; choose a more patient profile or a faster disk, or start with --accept-slow-disk if this is a trial"
    )]
    SlowDisk {
        /// The data directory.
        dir: PathBuf,
        /// Median of the start-up measurement, in milliseconds.
        measured_ms: f64,
        /// What the profile bears, in milliseconds.
        limit_ms: f64,
        /// Which profile.
        profile: crate::Profile,
    },
    /// Raft did not start.
    #[error("raft did not start: {0}")]
    Raft(String),
}

/// A proposal was not applied, or nobody knows whether it was.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Another replica leads, or none.
    #[error("this replica does not lead; {}", match leader { Some(m) => format!("ask {}", m.api_address), None => "there is no leader now, retry".into() })]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// The queue is full; nothing was proposed.
    #[error("too much is waiting ({commands} commands, {bytes} bytes); retry after {} ms", RETRY_AFTER.as_millis())]
    Busy {
        /// Commands waiting.
        commands: usize,
        /// Bytes waiting.
        bytes: usize,
    },
    /// The disk is nearly full; nothing was proposed.
    #[error(
        "the disk of this replica is nearly full, so it takes no changes; free some space, or retry when another leads"
    )]
    NoRoom,
    /// The command cannot be proposed as it is.
    #[error("a command of {bytes} bytes is larger than the limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// Largest size.
        bytes_max: usize,
    },
    /// The command means nothing; nothing was proposed.
    #[error(transparent)]
    Unreadable(#[from] Corrupt),
    /// It may have been applied, or may be yet, or never.
    #[error("the fate of the proposal is unknown ({why}); look before you retry")]
    Unknown {
        /// What happened.
        why: String,
    },
    /// This replica has stopped.
    #[error("this replica has stopped: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
}

/// A linearizable read is not possible here and now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Another replica leads, or none.
    #[error("this replica does not lead; {}", match leader { Some(m) => format!("ask {}", m.api_address), None => "there is no leader now, retry".into() })]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// No quorum answered in time.
    #[error("no quorum confirmed the leader in time; retry")]
    NoQuorum,
    /// This replica is too far behind.
    #[error("this replica has not applied entry {index} in time; retry, or ask another")]
    Behind {
        /// What it must have applied.
        index: u64,
    },
    /// Too many reads wait.
    #[error("too many reads are waiting ({reads}); retry after {} ms", RETRY_AFTER.as_millis())]
    Busy {
        /// How many at most.
        reads: usize,
    },
    /// This replica has stopped.
    #[error("this replica has stopped: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
}

/// Who belongs to the cluster, or who leads it, was not changed as asked.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The change did not get through the log, or nobody knows whether it did.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// It would do harm or makes no sense. Nothing was changed.
    #[error("{0}")]
    Refused(String),
}
