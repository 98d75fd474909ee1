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
    /// A member that is silent for so long is removed once others have taken its place; `None` = never.
    pub dead_after: Option<Duration>,
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
    /// Restore and recover wait until the next minute has begun: an epoch counts minutes, and so no two new clusters
    /// that are made one after the other have the same.
    pub await_minute: bool,
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
            dead_after: None,
            segment_bytes: 16 << 20,
            snapshot_entries: 100_000,
            snapshot_log_bytes: 256 << 20,
            snapshot_every: Duration::from_secs(3600),
            keep_entries: 10_000,
            await_minute: false,
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
    /// An operator's own, as `custom:HEARTBEAT,SHORTEST,LONGEST` in milliseconds. All replicas should have the same.
    Custom(Timers),
}

/// Timers of a replica; made by reading a [`Profile`], so that they fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    heartbeat: Duration,
    election: (Duration, Duration),
}

/// The quickest heartbeat that may be asked for, in milliseconds; and the slowest: a leader must have been acknowledged
/// within the last second to be believed.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 10..=500;
/// The longest election timeout that may be asked for, in milliseconds.
const ELECTION_MS_MAX: u64 = 10_000;

impl Timers {
    const fn new(heartbeat_ms: u64, shortest_ms: u64, longest_ms: u64) -> Self {
        Timers {
            heartbeat: Duration::from_millis(heartbeat_ms),
            election: (Duration::from_millis(shortest_ms), Duration::from_millis(longest_ms)),
        }
    }

    /// Reads `HEARTBEAT,SHORTEST,LONGEST`.
    fn read(text: &str) -> Result<Self, String> {
        let parsed: Result<Vec<u64>, _> = text.split(',').map(str::parse).collect();
        let Ok([heartbeat, shortest, longest]) = parsed.as_deref() else {
            return Err(format!("{text:?} is not three numbers of milliseconds, as in custom:100,500,1000"));
        };
        if !HEARTBEAT_MS.contains(heartbeat) {
            let (min, max) = (HEARTBEAT_MS.start(), HEARTBEAT_MS.end());
            return Err(format!("a heartbeat of {heartbeat} ms; it takes from {min} to {max}"));
        }
        if *shortest < heartbeat * 3 {
            return Err(format!(
                "the shortest election timeout of {shortest} ms is less than three heartbeats of {heartbeat} ms: a message that is late would start an election"
            ));
        }
        if !(shortest.saturating_add(*heartbeat)..=ELECTION_MS_MAX).contains(longest) {
            return Err(format!(
                "the longest election timeout of {longest} ms must be at least a heartbeat above the shortest, and at most {ELECTION_MS_MAX}"
            ));
        }
        Ok(Timers::new(*heartbeat, *shortest, *longest))
    }
}

impl Profile {
    fn timers(self) -> Timers {
        match self {
            Profile::Fast => Timers::new(40, 120, 240),
            Profile::Lan => Timers::new(100, 500, 1000),
            Profile::Wan => Timers::new(500, 2500, 5000),
            Profile::Custom(timers) => timers,
        }
    }

    /// Time between two heartbeats of a leader.
    pub fn heartbeat(self) -> Duration {
        self.timers().heartbeat
    }

    /// Shortest and longest drawn election timeout.
    pub fn election(self) -> (Duration, Duration) {
        self.timers().election
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
            _ => match text.strip_prefix("custom:") {
                Some(timers) => Timers::read(timers).map(Profile::Custom),
                None => Err(format!(
                    "profile is {text:?}; it is one of lan, fast, wan, or custom:HEARTBEAT,SHORTEST,LONGEST in milliseconds"
                )),
            },
        }
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Profile::Fast => f.write_str("fast"),
            Profile::Lan => f.write_str("lan"),
            Profile::Wan => f.write_str("wan"),
            Profile::Custom(Timers { heartbeat, election: (shortest, longest) }) => {
                let [heartbeat, shortest, longest] = [heartbeat, shortest, longest].map(Duration::as_millis);
                write!(f, "custom:{heartbeat},{shortest},{longest}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_as_it_is_written_and_one_that_cannot_hold_is_refused() {
        for text in ["fast", "lan", "wan", "custom:60,240,480", "custom:10,30,40", "custom:500,2500,10000"] {
            assert_eq!(text.parse::<Profile>().unwrap().to_string(), text);
        }
        let custom: Profile = "custom:60,240,480".parse().unwrap();
        assert_eq!((custom.heartbeat().as_millis(), custom.election().1.as_millis()), (60, 480));
        for (bad, why) in [
            ("slow", "is one of"),
            ("custom:", "three numbers"),
            ("custom:100,500", "three numbers"),
            ("custom:100,500,1000,2000", "three numbers"),
            ("custom:-1,500,1000", "three numbers"),
            ("custom:99999999999999999999,1,1", "three numbers"),
            ("custom:5,500,1000", "a heartbeat of"),
            ("custom:600,2500,5000", "a heartbeat of"),
            ("custom:100,299,1000", "three heartbeats"),
            ("custom:100,500,599", "a heartbeat above"),
            ("custom:100,500,10001", "at most"),
            ("custom:100,18446744073709551615,1", "at most"),
        ] {
            let refused = bad.parse::<Profile>().unwrap_err();
            assert!(refused.contains(why), "{bad}: {refused}");
        }
    }
}
