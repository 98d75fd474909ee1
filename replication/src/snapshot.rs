//! Snapshots: a directory of files copied from the rows, a manifest with their checksums, and its way to a
//! follower and into its place there.
//!
//! `snapshots/INDEX-TERM-NODE/` is whole or absent: it is made under another name, synced, then renamed. What has
//! arrived of one waits in `….incoming/`, and is gone on with.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use proto::wire::raft as wire;
use tokio::time::Instant;

use crate::error::StoreError;
use crate::ground;
use crate::ground::fs::{self, File, FileExt as _};
use crate::machine::Corrupt;
use crate::raft::{
    LEVEL, LogId, SnapshotMeta, StoredMembership, check_level, decode_whole, log_id_from_wire,
    log_id_to_wire, membership_from_wire, membership_to_wire,
};
use crate::small_file::sync_dir;
use crate::state::rows::RowStore;
use crate::state::writer::Copied;

const MANIFEST: &str = "manifest";
/// Ending of a directory in which a snapshot arrives.
const INCOMING: &str = "incoming";
/// Bytes of one chunk of a transfer.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// A whole snapshot on disk. Its directory lives as long as somebody holds it, unless it is the newest.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) dir: PathBuf,
    pub(crate) meta: wire::SnapshotMeta,
    doomed: AtomicBool,
    /// When it was made or arrived; for one that was found at the start, by the clock of then.
    since: Instant,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Relaxed) {
            let _ = discard(&self.dir);
        }
    }
}

impl Snapshot {
    fn new(dir: PathBuf, meta: wire::SnapshotMeta, age: Duration) -> Arc<Self> {
        let now = Instant::now();
        let since = now.checked_sub(age).unwrap_or(now);
        Arc::new(Snapshot { dir, meta, doomed: AtomicBool::new(false), since })
    }

    /// How long ago it was made or arrived. A clock that jumps while this program runs does not change it.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// To be removed when nobody holds it any more.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    /// The last entry that is in it.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.meta.last.as_ref().map(log_id_from_wire)
    }

    /// As openraft wants it.
    pub(crate) fn raft_meta(&self) -> Result<SnapshotMeta, Corrupt> {
        meta_from_wire(&self.meta)
    }
}

pub(crate) fn meta_from_wire(meta: &wire::SnapshotMeta) -> Result<SnapshotMeta, Corrupt> {
    let membership = membership_from_wire(meta.membership.as_ref().unwrap_or(&wire::Membership::default()))?;
    Ok(SnapshotMeta {
        last_log_id: meta.last.as_ref().map(log_id_from_wire),
        last_membership: StoredMembership::new(meta.membership_at.as_ref().map(log_id_from_wire), membership),
    })
}

/// Removes a snapshot. It loses its name first, durably: half removed under it, it would be taken for whole.
fn discard(dir: &Path) -> Result<(), StoreError> {
    let gone = dir.with_extension("gone");
    fs::rename(dir, &gone).map_err(StoreError::io("renaming", dir))?;
    sync_dir(dir.parent().unwrap_or(dir))?;
    fs::remove_dir_all(&gone).map_err(StoreError::io("removing", &gone))
}

/// `snapshots` in a data directory.
pub(crate) fn home(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

/// Makes a snapshot of the checkpoint in `copied` and gives it its name.
pub(crate) fn seal(home: &Path, copied: &Path, of: &Copied) -> Result<Arc<Snapshot>, StoreError> {
    let at = &of.at;
    let mut files = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(copied).map_err(StoreError::io("listing", copied))? {
        let entry = entry.map_err(StoreError::io("listing", copied))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in names {
        let path = copied.join(&name);
        let (bytes, crc32c) = transfer::checksum_on::<ground::Files>(&path)?;
        files.push(wire::SnapshotFile { name, bytes, crc32c });
    }
    let last = at.applied.as_ref();
    let id = last.map_or_else(
        || "empty".to_owned(),
        |id| format!("{:020}-{}-{}", id.index, id.leader_id.term, id.leader_id.node_id),
    );
    let meta = wire::SnapshotMeta {
        last: last.map(log_id_to_wire),
        membership_at: at.membership.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(at.membership.membership())),
        id,
        files,
        level: LEVEL,
        rows: of.rows,
        sum: of.sum,
    };
    publish(home, copied, meta)
}

/// Writes the manifest, syncs all, renames.
fn publish(home: &Path, copied: &Path, meta: wire::SnapshotMeta) -> Result<Arc<Snapshot>, StoreError> {
    let path = copied.join(MANIFEST);
    let body = meta.encode_to_vec();
    let mut bytes = crc32c::crc32c(&body).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let mut file = File::create(&path).map_err(StoreError::io("creating", &path))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(StoreError::io("writing", &path))?;
    for file in &meta.files {
        let path = copied.join(&file.name);
        File::open(&path).and_then(|f| f.sync_all()).map_err(StoreError::io("syncing", &path))?;
    }
    sync_dir(copied)?;
    let dir = home.join(&meta.id);
    if fs::metadata(&dir).is_ok() {
        fs::remove_dir_all(copied).map_err(StoreError::io("removing", copied))?;
        if let Some(snapshot) = open(&dir)? {
            return Ok(snapshot);
        }
        return Err(Corrupt::new(dir.display().to_string(), "is a snapshot without a manifest").into());
    }
    fs::rename(copied, &dir).map_err(StoreError::io("renaming", copied))?;
    sync_dir(home)?;
    Ok(Snapshot::new(dir, meta, Duration::ZERO))
}

fn open(dir: &Path) -> Result<Option<Arc<Snapshot>>, StoreError> {
    let path = dir.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("reading", path)(e)),
    };
    let corrupt = |why: &str| Corrupt::new(path.display().to_string(), why);
    let body = bytes.get(4..).ok_or_else(|| corrupt("is cut off"))?;
    if crc32c::crc32c(body).to_le_bytes() != bytes[..4] {
        return Err(corrupt("fails its checksum").into());
    }
    let meta: wire::SnapshotMeta = decode_whole(path.display().to_string(), body)?;
    check_level(path.display().to_string(), meta.level)?;
    let age = ground::file_age(dir).unwrap_or_default();
    Ok(Some(Snapshot::new(dir.to_owned(), meta, age)))
}

/// The same, where a damaged snapshot counts as none, and `told` is told what is wrong with it.
fn open_sound(dir: &Path, told: impl FnOnce(Corrupt)) -> Result<Option<Arc<Snapshot>>, StoreError> {
    if dir.extension().is_some() {
        return Ok(None);
    }
    match open(dir) {
        Err(StoreError::Corrupt(why)) => {
            told(why);
            Ok(None)
        }
        found => found,
    }
}

/// Names of the whole snapshots, oldest first. Nothing is changed.
pub(crate) fn names(home: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    if fs::metadata(home).is_err() {
        return Ok(names);
    }
    for entry in fs::read_dir(home).map_err(StoreError::io("listing", home))? {
        let dir = entry.map_err(StoreError::io("listing", home))?.path();
        // A damaged one goes when its replica starts.
        if open_sound(&dir, drop)?.is_some() {
            names.extend(dir.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// The newest whole snapshot; everything else is removed.
pub(crate) fn newest(home: &Path) -> Result<Option<Arc<Snapshot>>, StoreError> {
    fs::create_dir_all(home).map_err(StoreError::io("creating", home))?;
    let mut newest: Option<Arc<Snapshot>> = None;
    for entry in fs::read_dir(home).map_err(StoreError::io("listing", home))? {
        let dir = entry.map_err(StoreError::io("listing", home))?.path();
        if dir.extension().is_some_and(|kind| kind == INCOMING) {
            continue;
        }
        // The rows are sound, so another can be made of them.
        let found = open_sound(&dir, |why| tracing::error!("a snapshot is damaged and is removed: {why}"))?;
        let Some(found) = found else {
            fs::remove_dir_all(&dir).map_err(StoreError::io("removing", &dir))?;
            continue;
        };
        match &newest {
            Some(best) if best.last() >= found.last() => found.doom(),
            _ => {
                if let Some(old) = newest.replace(found) {
                    old.doom();
                }
            }
        }
    }
    Ok(newest)
}

/// Rows may be ahead of their own log: what others committed is applied, and may be flushed, while the log's sync is
/// under way. openraft then drops that log up to the rows, so that an older snapshot would leave a gap behind it;
/// without one it makes a new one.
pub(crate) fn useful(
    newest: Option<Arc<Snapshot>>,
    stored: Option<LogId>,
    last_in_log: Option<LogId>,
) -> Option<Arc<Snapshot>> {
    let leaves_gap = |snapshot: &Arc<Snapshot>| last_in_log < stored && snapshot.last() < stored;
    newest.filter(|snapshot| {
        let gap = leaves_gap(snapshot);
        if gap {
            snapshot.doom();
        }
        !gap
    })
}

/// One that arrived and is not installed yet is installed first of all. If it is damaged, it is taken for none: a leader
/// will send another.
pub(crate) fn sound(
    newest: Option<Arc<Snapshot>>,
    stored: Option<LogId>,
) -> Result<Option<Arc<Snapshot>>, StoreError> {
    let Some(arrived) = newest.as_ref().filter(|newest| newest.last() > stored) else { return Ok(newest) };
    match check_files(arrived).and_then(|()| check_rows(arrived)) {
        Ok(()) => Ok(newest),
        Err(why) if why.is_damage() => {
            tracing::error!(id = arrived.meta.id, "a snapshot that arrived is damaged, and goes: {why}");
            arrived.doom();
            Ok(None)
        }
        Err(why) => Err(why),
    }
}

/// Whether its files are what its manifest says.
pub(crate) fn check_files(snapshot: &Snapshot) -> Result<(), StoreError> {
    for file in &snapshot.meta.files {
        let path = snapshot.dir.join(&file.name);
        if transfer::checksum_on::<ground::Files>(&path)? != (file.bytes, file.crc32c) {
            return Err(Corrupt::new(path.display().to_string(), "fails its checksum").into());
        }
    }
    Ok(())
}

/// Whether the rows in it can be read and sum up to what was written: files may be as they were sent, and have been
/// damaged before they were first summed.
pub(crate) fn check_rows(snapshot: &Snapshot) -> Result<(), StoreError> {
    RowStore::open_to_look(&snapshot.dir)?.load(|_| Ok(())).map(drop)
}

/// Takes its name from a damaged snapshot, for good.
pub(crate) fn forget(snapshot: &Snapshot) -> Result<(), StoreError> {
    match fs::metadata(snapshot.dir.join(MANIFEST)) {
        Ok(_) => discard(&snapshot.dir),
        Err(_) => Ok(()),
    }
}

/// Copies a snapshot's files to `to`, as rows that can be opened: immutable files by link, others by bytes.
pub(crate) fn copy_rows(snapshot: &Snapshot, to: &Path) -> Result<(), StoreError> {
    if fs::metadata(to).is_ok() {
        fs::remove_dir_all(to).map_err(StoreError::io("removing", to))?;
    }
    fs::create_dir_all(to).map_err(StoreError::io("creating", to))?;
    for file in &snapshot.meta.files {
        let (from, to) = (snapshot.dir.join(&file.name), to.join(&file.name));
        if file.name.ends_with(".sst") {
            fs::hard_link(&from, &to).map_err(StoreError::io("linking", &to))?;
        } else {
            fs::copy(&from, &to).map_err(StoreError::io("copying", &to))?;
            File::open(&to).and_then(|f| f.sync_all()).map_err(StoreError::io("syncing", &to))?;
        }
    }
    sync_dir(to)
}

/// A snapshot as the chunks of a transfer, from that file and offset on; each is read when it is asked for.
pub(crate) fn chunks(
    snapshot: Arc<Snapshot>,
    from: Option<(String, u64)>,
) -> impl Iterator<Item = Result<wire::SnapshotData, StoreError>> + Send {
    let (first, offset) = from.unwrap_or_default();
    let files = snapshot.meta.files.clone().into_iter();
    let due = {
        let first = first.clone();
        files.skip_while(move |file| !first.is_empty() && file.name != first)
    };
    let places = due.flat_map(move |file| {
        let start = if file.name == first { offset } else { 0 };
        let offsets = (start..file.bytes).step_by(CHUNK_BYTES);
        offsets
            .map(move |offset| (file.name.clone(), offset, CHUNK_BYTES.min((file.bytes - offset) as usize)))
    });
    places.map(move |(name, offset, length)| {
        let path = snapshot.dir.join(&name);
        let mut buffer = vec![0; length];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut buffer, offset));
        read.map_err(StoreError::io("reading", &path))?;
        Ok(wire::SnapshotData { name, offset, bytes: Bytes::from(buffer) })
    })
}

/// A snapshot that is being received.
pub(crate) struct Incoming {
    home: PathBuf,
    dir: PathBuf,
    meta: wire::SnapshotMeta,
    receiver: transfer::ReceiverOn<ground::Files>,
}

impl Incoming {
    /// Begins to receive `meta`, or goes on with it. What has arrived of others is removed.
    pub(crate) fn begin(home: &Path, meta: wire::SnapshotMeta) -> Result<Self, StoreError> {
        check_level("the snapshot", meta.level)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if meta.id.is_empty() || !meta.id.chars().all(plain) {
            return Err(Corrupt::new("the snapshot", format!("is called {:?}", meta.id)).into());
        }
        // Two replicas' snapshots of one point of the log have other files.
        let name = format!("{}.{:08x}.{INCOMING}", meta.id, crc32c::crc32c(&meta.encode_to_vec()));
        fs::create_dir_all(home).map_err(StoreError::io("creating", home))?;
        for entry in fs::read_dir(home).map_err(StoreError::io("listing", home))? {
            let path = entry.map_err(StoreError::io("listing", home))?.path();
            let other = path.file_name().is_some_and(|found| found != name.as_str());
            if other && path.extension().is_some_and(|kind| kind == INCOMING) {
                fs::remove_dir_all(&path).map_err(StoreError::io("removing", &path))?;
            }
        }
        let dir = home.join(name);
        let receiver = transfer::ReceiverOn::begin(&dir, meta.files.clone())?;
        Ok(Incoming { home: home.to_owned(), dir, meta, receiver })
    }

    /// Where the sender shall go on.
    pub(crate) fn place(&self) -> wire::SnapshotPlace {
        let (name, offset) = self.receiver.missing().unwrap_or_default();
        wire::SnapshotPlace { name: name.to_owned(), offset }
    }

    /// Takes the next chunk.
    pub(crate) fn take(&mut self, data: &wire::SnapshotData) -> Result<(), StoreError> {
        Ok(self.receiver.take(data)?)
    }

    /// All arrived: checks every file and gives the snapshot its name.
    pub(crate) fn finish(self) -> Result<Arc<Snapshot>, StoreError> {
        self.receiver.finish()?;
        publish(&self.home, &self.dir, self.meta)
    }
}
