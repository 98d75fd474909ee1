//! Which cluster and node a data directory belongs to, and how it comes to belong.
//!
//! A directory belongs to a cluster from the moment its identity is written, which is the last step of `init` and
//! of `adopt`: by then its log and vote exist. So an identity without a log is damage, never a new replica, and a
//! directory without an identity answers nobody and never votes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use prost::Message as _;
use proto::wire::raft as wire;

use crate::error::StoreError;
use crate::ground::{self, fs};
use crate::log;
use crate::machine::Corrupt;
use crate::options::Options;
use crate::raft::{Entry, LEVEL, LeaderId, LogId, Membership, Node, Payload, check_level, decode_whole};
use crate::small_file::{SmallFile, sync_dir};

/// 2025-01-01T00:00:00Z, in seconds of Unix time.
const EPOCH_BEGAN: Duration = Duration::from_secs(1_735_689_600);
/// Epochs are the high 24 bits of ids.
const EPOCH_MAX: u64 = (1 << 24) - 1;

/// Which cluster and node a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random; minted by `init`.
    pub cluster_id: String,
    /// Given once, never again.
    pub node_id: u64,
    /// Random; one per data directory.
    pub store_uuid: String,
    /// The cluster's name.
    pub cluster: String,
    /// The first cluster id of this line of restored clusters.
    pub lineage_id: String,
    /// Rises when a cluster is restored; minutes since 2025 at first.
    pub epoch: u64,
}

/// Reads whose directory this is; `None` when it belongs to no cluster yet.
pub fn identity(dir: &Path) -> Result<Option<Identity>, StoreError> {
    let Some(bytes) = SmallFile::open(dir, "identity")?.1 else {
        if SmallFile::open(&log_dir(dir), "vote")?.1.is_some() {
            return Err(Corrupt::new("identity", "it is missing beside a log that has voted").into());
        }
        return Ok(None);
    };
    let found: wire::Identity = decode_whole("identity", &bytes[..])?;
    check_level("identity", found.level)?;
    Ok(Some(Identity {
        cluster_id: found.cluster_id,
        node_id: found.node_id,
        store_uuid: found.store_uuid,
        cluster: found.cluster,
        lineage_id: found.lineage_id,
        epoch: found.epoch,
    }))
}

/// Begins a cluster in an empty directory: mints its id and epoch, makes this node 1 and the only member.
pub async fn init(options: &Options) -> Result<Identity, StoreError> {
    let options = options.clone();
    off_thread(move || {
        let store_uuid = store_uuid(&options.dir)?;
        refuse_used(&options.dir)?;
        let cluster_id = new_uuid();
        let identity = Identity {
            lineage_id: cluster_id.clone(),
            cluster_id,
            node_id: 1,
            store_uuid: store_uuid.clone(),
            cluster: options.cluster.clone(),
            epoch: epoch_after(0),
        };
        let me = Node {
            raft_address: options.raft_address.clone(),
            api_address: options.api_address.clone(),
            store_uuid,
            learner: false,
        };
        let membership = Membership::new(vec![[1].into()], BTreeMap::from([(1, me)]))
            .map_err(|e| Corrupt::new("the first membership", e.to_string()))?;
        let first = Entry {
            log_id: LogId { leader_id: LeaderId { term: 0, node_id: 1 }, index: 0 },
            payload: Payload::Membership(membership),
        };
        settle(&options, &identity, &[first], None)?;
        Ok(identity)
    })
    .await
}

/// An epoch that no cluster of this line had: minutes since 2025, or one more than the last.
pub(crate) fn epoch_after(last: u64) -> u64 {
    let since = ground::wall_time().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.saturating_sub(EPOCH_BEGAN).as_secs() / 60).max(last + 1).clamp(1, EPOCH_MAX)
}

/// For a replica that will join: the uuid of its directory, made at the first call and kept.
pub fn store_uuid(dir: &Path) -> Result<String, StoreError> {
    fs::create_dir_all(dir).map_err(StoreError::io("creating", dir))?;
    let (mut file, bytes) = SmallFile::open(dir, "store")?;
    if let Some(bytes) = bytes {
        return String::from_utf8(bytes).map_err(|e| Corrupt::new("store uuid", e.to_string()).into());
    }
    let uuid = new_uuid();
    file.write(uuid.as_bytes())?;
    Ok(uuid)
}

/// Writes what [`crate::Replica::admit`] gave into the directory, which until then belongs to no cluster.
pub async fn adopt(options: &Options, identity: &Identity) -> Result<(), StoreError> {
    let (options, identity) = (options.clone(), identity.clone());
    off_thread(move || {
        if self::identity(&options.dir)?.is_some_and(|found| found == identity) {
            return Ok(());
        }
        let store = store_uuid(&options.dir)?;
        if store != identity.store_uuid {
            let what = format!("{}", options.dir.display());
            return Err(Corrupt::new(
                what,
                format!("is store {store}; the identity is for {}", identity.store_uuid),
            )
            .into());
        }
        refuse_used(&options.dir)?;
        settle(&options, &identity, &[], None)
    })
    .await
}

/// Makes the log; then, last, the identity.
pub(crate) fn settle(
    options: &Options,
    identity: &Identity,
    first: &[Entry],
    after: Option<LogId>,
) -> Result<(), StoreError> {
    let log = log_dir(&options.dir);
    if fs::metadata(&log).is_ok() {
        // Of an earlier try that did not get to the identity.
        fs::remove_dir_all(&log).map_err(StoreError::io("removing", &log))?;
    }
    log::create(&log, options.segment_bytes, first, after)?;
    sync_dir(&options.dir)?;
    let (mut file, _) = SmallFile::open(&options.dir, "identity")?;
    let message = wire::Identity {
        level: LEVEL,
        cluster_id: identity.cluster_id.clone(),
        node_id: identity.node_id,
        store_uuid: identity.store_uuid.clone(),
        cluster: identity.cluster.clone(),
        lineage_id: identity.lineage_id.clone(),
        epoch: identity.epoch,
    };
    file.write(&message.encode_to_vec())
}

/// Refuses a directory in which no cluster can be begun or joined: only what an interrupted `init` or `adopt` leaves may be
/// there.
pub fn refuse_used(dir: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(StoreError::io("listing", dir))? {
        let entry = entry.map_err(StoreError::io("listing", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let unfinished = name.starts_with("identity.") && name.ends_with(".new");
        if !name.starts_with("store.") && name != "log" && name != "lock" && !unfinished {
            return Err(StoreError::NotEmpty { path: dir.to_owned() });
        }
    }
    Ok(())
}

pub(crate) fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

pub(crate) fn new_uuid() -> String {
    uuid::Uuid::new_v4().hyphenated().to_string()
}

pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match ground::blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Io {
            action: "working on",
            path: PathBuf::from("the data directory"),
            source: std::io::Error::other(error),
        }),
    }
}
