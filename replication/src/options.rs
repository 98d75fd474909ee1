//! What an operator chooses: where the replica lives, its addresses, and how patient it is.

use std::path::PathBuf;
use std::time::Duration;

/// Where a replica lives and how it behaves. [`Options::new`] fills in what is rarely changed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Data directory; everything durable lies in it.
    pub dir: PathBuf,
    /// Name of the cluster, as people know it.
    pub cluster: String,
    /// `address:port` where other replicas reach this one.
    pub raft_address: String,
    /// `address:port` where everybody else does; handed to clients that must be redirected.
    pub api_address: String,
    /// How patient it is.
    pub profile: Profile,
    /// Start even if the disk is too slow for the profile.
    pub accept_slow_disk: bool,
    /// Free bytes below which it takes no entries; `None` = 5% of the disk, but 1 to 10 GiB.
    pub disk_reserve: Option<u64>,
    /// Between two comparisons of all replicas' rows.
    pub check_every: Duration,
    /// Bytes of one log segment.
    pub segment_bytes: u64,
    /// A snapshot is taken after this many entries.
    pub snapshot_entries: u64,
    /// Or after this many bytes of log.
    pub snapshot_log_bytes: u64,
    /// Or after this time, if there was any entry.
    pub snapshot_every: Duration,
    /// Entries kept behind a snapshot, for followers that were away for a moment.
    pub keep_entries: u64,
}

impl Options {
    /// Options with the usual limits.
    pub fn new(
        dir: impl Into<PathBuf>,
        cluster: &str,
        raft_address: &str,
        api_address: &str,
        profile: Profile,
    ) -> Self {
        Options {
            dir: dir.into(),
            cluster: cluster.into(),
            raft_address: raft_address.into(),
            api_address: api_address.into(),
            profile,
            accept_slow_disk: false,
            disk_reserve: None,
            check_every: Duration::from_secs(10),
            segment_bytes: 16 << 20,
            snapshot_entries: 100_000,
            snapshot_log_bytes: 256 << 20,
            snapshot_every: Duration::from_secs(3600),
            keep_entries: 10_000,
        }
    }
}

/// Timers that fit together.
///
/// A follower waits its lease (the longest election timeout) plus a drawn timeout before it campaigns:
/// 1.5-2 s with `Lan`, 360-480 ms with `Fast`, 7.5-10 s with `Wan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Profile {
    /// One site, any decent disk.
    #[default]
    Lan,
    /// One datacentre, NVMe.
    Fast,
    /// Several sites.
    Wan,
}

impl Profile {
    /// Time between two heartbeats of a leader.
    pub fn heartbeat(self) -> Duration {
        Duration::from_millis(match self {
            Profile::Fast => 40,
            Profile::Lan => 100,
            Profile::Wan => 500,
        })
    }

    /// Shortest and longest drawn election timeout.
    pub fn election(self) -> (Duration, Duration) {
        let (min_ms, max_ms) = match self {
            Profile::Fast => (120, 240),
            Profile::Lan => (500, 1000),
            Profile::Wan => (2500, 5000),
        };
        (Duration::from_millis(min_ms), Duration::from_millis(max_ms))
    }

    /// How long a leader may believe that a quorum still follows it.
    pub fn lease(self) -> Duration {
        self.election().1
    }

    /// The slowest median sync of 4 KiB that the timers tolerate.
    pub fn fsync_max(self) -> Duration {
        self.heartbeat() / 2
    }
}

impl std::str::FromStr for Profile {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lan" => Ok(Profile::Lan),
            "fast" => Ok(Profile::Fast),
            "wan" => Ok(Profile::Wan),
            _ => Err(format!("profile is {text:?}; it is one of lan, fast, wan")),
        }
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Profile::Lan => "lan",
            Profile::Fast => "fast",
            Profile::Wan => "wan",
        })
    }
}
