//! The files of the log: making, opening, naming, using again. What is in them: see `record`.

use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::ground::fs::{self, File, FileExt as _, OpenOptions};
use crate::log::record::{SEGMENT_HEAD_BYTES, encode_segment_head};
use crate::small_file::sync_dir;

/// Spare files that are kept; more are deleted.
const SPARES_MAX: usize = 4;

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    /// Of the file; all segments of a store may differ if the option changed.
    pub(crate) bytes: u64,
}

/// `SEQUENCE.seg` in `dir`.
pub(crate) fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016}.seg"))
}

/// Sequences of the segments in `dir`, ascending.
pub(crate) fn list(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let mut sequences: Vec<u64> = names(dir)?
        .iter()
        .filter_map(|name| name.strip_suffix(".seg").and_then(|number| number.parse().ok()))
        .collect();
    sequences.sort_unstable();
    Ok(sequences)
}

fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io("listing", dir))? {
        let entry = entry.map_err(StoreError::io("listing", dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Begins segment `header.sequence` in a spare file, or a new one.
pub(crate) fn begin(
    dir: &Path,
    bytes: u64,
    header: &proto::wire::raft::SegmentHeader,
) -> Result<Segment, StoreError> {
    let spare = match take_spare(dir, bytes)? {
        Some(spare) => spare,
        None => make_spare(dir, bytes, header.sequence)?,
    };
    let path = segment_path(dir, header.sequence);
    let file = open(&spare)?;
    file.write_all_at(&encode_segment_head(header), 0).map_err(StoreError::io("writing", &spare))?;
    file.sync_all().map_err(StoreError::io("syncing", &spare))?;
    fs::rename(&spare, &path).map_err(StoreError::io("renaming", &spare))?;
    sync_dir(dir)?;
    Ok(Segment { sequence: header.sequence, file, path, bytes })
}

/// Opens a file for reading and writing.
pub(crate) fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(StoreError::io("opening", path))
}

/// Makes a file full of zeros that a later segment takes; `tag` only keeps names apart.
pub(crate) fn make_spare(dir: &Path, bytes: u64, tag: u64) -> Result<PathBuf, StoreError> {
    let (new, spare) = (dir.join(format!("{tag:016}.new")), dir.join(format!("{tag:016}.spare")));
    let file = File::create(&new).map_err(StoreError::io("creating", &new))?;
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        let part = (bytes - at).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..part], at).map_err(StoreError::io("writing", &new))?;
        at += part as u64;
    }
    file.sync_all().map_err(StoreError::io("syncing", &new))?;
    fs::rename(&new, &spare).map_err(StoreError::io("renaming", &new))?;
    Ok(spare)
}

/// Whether a file of that size waits to be used.
pub(crate) fn has_spare(dir: &Path, bytes: u64) -> Result<bool, StoreError> {
    Ok(take_spare(dir, bytes)?.is_some())
}

fn take_spare(dir: &Path, bytes: u64) -> Result<Option<PathBuf>, StoreError> {
    for name in names(dir)?.iter().filter(|name| name.ends_with(".spare")) {
        let path = dir.join(name);
        if fs::metadata(&path).is_ok_and(|m| m.len() == bytes) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Keeps a segment's file for later use, if it is of the usual size. All that stood in it must be dropped, durably.
pub(crate) fn recycle(dir: &Path, segment: &Segment, usual_bytes: u64) -> Result<(), StoreError> {
    let spares = names(dir)?.iter().filter(|name| name.ends_with(".spare")).count();
    if spares >= SPARES_MAX || segment.bytes != usual_bytes {
        fs::remove_file(&segment.path).map_err(StoreError::io("removing", &segment.path))?;
    } else {
        let spare = dir.join(format!("{:016}.spare", segment.sequence));
        fs::rename(&segment.path, spare).map_err(StoreError::io("renaming", &segment.path))?;
    }
    sync_dir(dir)
}

/// Removes spares that no segment will take: the usual size has changed.
pub(crate) fn sweep_spares(dir: &Path, usual_bytes: u64) -> Result<(), StoreError> {
    for name in names(dir)?.iter().filter(|name| name.ends_with(".spare")) {
        let path = dir.join(name);
        if fs::metadata(&path).is_ok_and(|file| file.len() != usual_bytes) {
            fs::remove_file(&path).map_err(StoreError::io("removing", &path))?;
        }
    }
    Ok(())
}

/// Removes what a crash left half made.
pub(crate) fn sweep(dir: &Path) -> Result<(), StoreError> {
    for name in names(dir)?.iter().filter(|name| name.ends_with(".new")) {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(StoreError::io("removing", &path))?;
    }
    Ok(())
}

/// The file `synced`: up to where the log was known to be synced. Two slots, written in turn, each a checksum,
/// a segment's sequence and an offset. It may be missing, stale or damaged, but it never says too much.
pub(crate) struct Mark {
    /// `None`: the log is only looked at.
    file: Option<File>,
    turn: u64,
}

const MARK_SLOT_BYTES: usize = 24;

impl Mark {
    /// Opens the mark of a log, to be `set` or only to be looked at; the answer is (sequence, offset).
    pub(crate) fn open(dir: &Path, to_set: bool) -> Result<(Self, Option<(u64, u64)>), StoreError> {
        let path = dir.join("synced");
        let opened = OpenOptions::new().read(true).write(to_set).create(to_set).truncate(false).open(&path);
        let file = match opened {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !to_set => {
                return Ok((Mark { file: None, turn: 0 }, None));
            }
            opened => opened.map_err(StoreError::io("opening", &path))?,
        };
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut bytes).map_err(StoreError::io("reading", &path))?;
        let newest = [0, 512].iter().filter_map(|at| slot(bytes.get(*at..*at + MARK_SLOT_BYTES)?)).max();
        Ok((Mark { file: to_set.then_some(file), turn: 0 }, newest))
    }

    /// Notes that all before `offset` is synced.
    pub(crate) fn set(&mut self, sequence: u64, offset: u64) -> std::io::Result<()> {
        let mut slot = [0; MARK_SLOT_BYTES];
        slot[8..16].copy_from_slice(&sequence.to_le_bytes());
        slot[16..24].copy_from_slice(&offset.to_le_bytes());
        let crc = crc32c::crc32c(&slot[8..]);
        slot[..4].copy_from_slice(&crc.to_le_bytes());
        self.turn += 1;
        match &self.file {
            Some(file) => file.write_all_at(&slot, (self.turn % 2) * 512),
            None => Ok(()),
        }
    }
}

fn slot(bytes: &[u8]) -> Option<(u64, u64)> {
    use crate::log::record::u64_at;
    (crc32c::crc32c(&bytes[8..]).to_le_bytes() == bytes[..4]).then(|| (u64_at(bytes, 8), u64_at(bytes, 16)))
}

const _: () = assert!(SEGMENT_HEAD_BYTES.is_multiple_of(8), "records lie at multiples of 8");
