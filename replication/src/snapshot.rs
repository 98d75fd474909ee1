//! Snapshots: a directory of files copied from the rows, a manifest with their checksums, and its way to a
//! follower and into its place there.
//!
//! `snapshots/INDEX-TERM-NODE/` is whole or absent: it is made under another name, synced, then renamed. Not here:
//! resuming a broken transfer; it begins anew.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use prost::Message as _;
use proto::wire::raft as wire;

use crate::error::StoreError;
use crate::ground::fs::{self, File, FileExt as _};
use crate::machine::Corrupt;
use crate::raft::{
    LEVEL, LogId, SnapshotMeta, StoredMembership, check_level, decode_whole, log_id_from_wire,
    log_id_to_wire, membership_from_wire, membership_to_wire,
};
use crate::small_file::sync_dir;
use crate::state::cut::Point;

const MANIFEST: &str = "manifest";
/// Bytes of one chunk of a transfer.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// Files of one snapshot at most.
const FILES_MAX: usize = 100_000;

/// A whole snapshot on disk. Its directory lives as long as somebody holds it, unless it is the newest.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) dir: PathBuf,
    pub(crate) meta: wire::SnapshotMeta,
    doomed: AtomicBool,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Relaxed) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Snapshot {
    fn new(dir: PathBuf, meta: wire::SnapshotMeta) -> Arc<Self> {
        Arc::new(Snapshot { dir, meta, doomed: AtomicBool::new(false) })
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

/// `snapshots` in a data directory.
pub(crate) fn home(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

/// Makes a snapshot of the checkpoint in `copied` and gives it its name.
pub(crate) fn seal(home: &Path, copied: &Path, at: &Point) -> Result<Arc<Snapshot>, StoreError> {
    let mut files = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(copied).map_err(StoreError::io("listing", copied))? {
        let entry = entry.map_err(StoreError::io("listing", copied))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for name in names {
        let path = copied.join(&name);
        let (bytes, crc32c) = checksum(&path)?;
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
    Ok(Snapshot::new(dir, meta))
}

fn checksum(path: &Path) -> Result<(u64, u32), StoreError> {
    let mut file = File::open(path).map_err(StoreError::io("opening", path))?;
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut crc) = (0, 0);
    loop {
        let read = file.read(&mut buffer).map_err(StoreError::io("reading", path))?;
        if read == 0 {
            return Ok((bytes, crc));
        }
        bytes += read as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
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
    Ok(Some(Snapshot::new(dir.to_owned(), meta)))
}

/// The newest whole snapshot; everything else is removed.
pub(crate) fn newest(home: &Path) -> Result<Option<Arc<Snapshot>>, StoreError> {
    fs::create_dir_all(home).map_err(StoreError::io("creating", home))?;
    let mut newest: Option<Arc<Snapshot>> = None;
    for entry in fs::read_dir(home).map_err(StoreError::io("listing", home))? {
        let dir = entry.map_err(StoreError::io("listing", home))?.path();
        let found = if dir.extension().is_some() { None } else { open(&dir)? };
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

/// A snapshot as the chunks of a transfer, each read when it is asked for.
pub(crate) fn chunks(
    snapshot: Arc<Snapshot>,
) -> impl Iterator<Item = Result<wire::SnapshotData, StoreError>> + Send {
    let files = snapshot.meta.files.clone().into_iter();
    let places = files.flat_map(|file| {
        let offsets = (0..file.bytes).step_by(CHUNK_BYTES);
        offsets.map(move |offset| (file.name.clone(), offset, CHUNK_BYTES.min((file.bytes - offset) as usize)))
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
    current: Option<(String, File, u64)>,
    done: bool,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Incoming {
    /// Begins to receive `meta`.
    pub(crate) fn begin(home: &Path, meta: wire::SnapshotMeta) -> Result<Self, StoreError> {
        check_level("the snapshot", meta.level)?;
        if meta.files.len() > FILES_MAX {
            return Err(Corrupt::new("the snapshot", "has too many files").into());
        }
        for name in meta.files.iter().map(|file| &file.name).chain([&meta.id]) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.starts_with('.') || name == MANIFEST || !name.chars().all(plain) {
                return Err(Corrupt::new("the snapshot", format!("has a file named {name:?}")).into());
            }
        }
        let dir =
            home.join(format!("{}.{}.incoming", meta.id.replace('.', "_"), uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&dir).map_err(StoreError::io("creating", &dir))?;
        Ok(Incoming { home: home.to_owned(), dir, meta, current: None, done: false })
    }

    /// Takes the next chunk.
    pub(crate) fn take(&mut self, data: &wire::SnapshotData) -> Result<(), StoreError> {
        let expected = self.meta.files.iter().find(|file| file.name == data.name);
        let bytes =
            expected.ok_or_else(|| Corrupt::new(&data.name, "is not among the snapshot's files"))?.bytes;
        if self.current.as_ref().is_none_or(|(name, ..)| *name != data.name) {
            let path = self.dir.join(&data.name);
            let file = File::create(&path).map_err(StoreError::io("creating", &path))?;
            self.current = Some((data.name.clone(), file, 0));
        }
        let Some((name, file, at)) = &mut self.current else { return Ok(()) };
        if data.offset != *at || *at + data.bytes.len() as u64 > bytes {
            return Err(
                Corrupt::new(name.as_str(), format!("arrived out of order at {}", data.offset)).into()
            );
        }
        file.write_all(&data.bytes).map_err(StoreError::io("writing", self.dir.join(name)))?;
        *at += data.bytes.len() as u64;
        Ok(())
    }

    /// All arrived: checks every file and gives the snapshot its name.
    pub(crate) fn finish(mut self) -> Result<Arc<Snapshot>, StoreError> {
        self.current = None;
        for file in &self.meta.files {
            let path = self.dir.join(&file.name);
            if file.bytes == 0 && fs::metadata(&path).is_err() {
                File::create(&path).map_err(StoreError::io("creating", &path))?;
            }
            if checksum(&path)? != (file.bytes, file.crc32c) {
                return Err(Corrupt::new(path.display().to_string(), "did not arrive as it was sent").into());
            }
        }
        let snapshot = publish(&self.home, &self.dir, self.meta.clone())?;
        self.done = true;
        Ok(snapshot)
    }
}
