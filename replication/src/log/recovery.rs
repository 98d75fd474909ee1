//! Reads the log back after any stop. The rules are in `record`; here they are followed.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::wire::raft as wire;

use crate::disk;
use crate::error::StoreError;
use crate::ground::fs::{self, FileExt as _};
use crate::log::index::{Index, Place};
use crate::log::record::{self, HEAD_BYTES, Kind, Record, SEGMENT_HEAD_BYTES};
use crate::log::segment::{self, Mark, Segment};
use crate::machine::Corrupt;
use crate::raft::{decode_whole, entry_from_wire, log_id_from_wire};
use crate::small_file::sync_dir;

/// A log as it was found.
pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) segments: Vec<Held>,
    /// Where the next record goes, in the last segment.
    pub(crate) end: u64,
    /// Checksum of the last record.
    pub(crate) chain: u32,
    pub(crate) mark: Mark,
    /// Bytes of a torn tail that were cut; for the log.
    pub(crate) torn_bytes: u64,
}

/// A segment and the highest index that stands in it.
pub(crate) struct Held {
    pub(crate) segment: Arc<Segment>,
    pub(crate) highest: Option<u64>,
}

/// Reads all segments in `dir`. To `mend` is to wipe a torn tail and what was half made.
pub(crate) fn recover(dir: &Path, cache_bytes_max: usize, mend: bool) -> Result<Recovered, StoreError> {
    if !disk::exists(dir)? {
        return Err(Corrupt::new(
            dir.display().to_string(),
            "it is missing though the replica has an identity",
        )
        .into());
    }
    if mend {
        segment::sweep(dir)?;
    }
    let (mark, synced) = Mark::open(dir, mend)?;
    let sequences = segment::list(dir)?;
    let Some(&last) = sequences.last() else {
        return Err(Corrupt::new(
            dir.display().to_string(),
            "the log has no segment though the replica has an identity",
        )
        .into());
    };
    if let Some((sequence, _)) = synced.filter(|(sequence, _)| *sequence > last) {
        return Err(Corrupt::new(dir.display().to_string(), format!("segment {sequence} is missing")).into());
    }
    let mut found = Recovered {
        index: Index::new(cache_bytes_max),
        segments: Vec::new(),
        end: 0,
        chain: 0,
        mark,
        torn_bytes: 0,
    };
    let mut before: Option<u64> = None;
    for sequence in sequences {
        if before.is_some_and(|before| before + 1 != sequence) {
            return Err(Corrupt::new(
                dir.display().to_string(),
                format!("segment {} is missing", sequence - 1),
            )
            .into());
        }
        before = Some(sequence);
        let mark_in_segment = synced.filter(|(s, _)| *s == sequence).map_or(0, |(_, offset)| offset);
        read_segment(dir, sequence, sequence == last, mark_in_segment, mend, &mut found)?;
    }
    found.index.check()?;
    if let Some(Held { segment, .. }) = found.segments.last().filter(|_| mend) {
        let marked =
            synced.filter(|(sequence, _)| *sequence == segment.sequence).map_or(0, |(_, offset)| offset);
        keep(dir, segment, marked, found.end)?;
        let marked = found.mark.set(segment.sequence, found.end);
        marked.map_err(StoreError::io("writing", dir.join("synced")))?;
    }
    Ok(found)
}

/// Writes again what stands in a segment between what is known to be synced and the end, and syncs it and its name.
fn keep(dir: &Path, segment: &Segment, synced: u64, end: u64) -> Result<(), StoreError> {
    let from = synced.max(SEGMENT_HEAD_BYTES as u64);
    if from < end {
        let mut tail = vec![0; (end - from) as usize];
        segment.file.read_exact_at(&mut tail, from).map_err(StoreError::io("reading", &segment.path))?;
        segment.file.write_all_at(&tail, from).map_err(StoreError::io("writing", &segment.path))?;
    }
    segment.file.sync_data().map_err(StoreError::io("syncing", &segment.path))?;
    sync_dir(dir)
}

fn read_segment(
    dir: &Path,
    sequence: u64,
    is_last: bool,
    mark: u64,
    mend: bool,
    found: &mut Recovered,
) -> Result<(), StoreError> {
    let path = segment::segment_path(dir, sequence);
    let content = Bytes::from(fs::read(&path).map_err(StoreError::io("reading", &path))?);
    let header = record::decode_segment_head(&content).map_err(|e| e.within(path.display()))?;
    let is_first = found.segments.is_empty();
    if header.sequence != sequence {
        return Err(Corrupt::new(path.display().to_string(), "carries another segment's head").into());
    }
    if !is_first && header.previous_crc32c != found.chain {
        return Err(Corrupt::new(
            segment::segment_path(dir, sequence - 1).display().to_string(),
            format!("has a bad record at offset {}, though all of it was synced", found.end),
        )
        .into());
    }
    found.chain = header.previous_crc32c;
    if let Some(purged) = &header.purged {
        found.index.purge(log_id_from_wire(purged));
    }
    let file = segment::open(&path)?;
    let segment = Arc::new(Segment { sequence, file, path: path.clone(), bytes: content.len() as u64 });
    let mut held = Held { segment: Arc::clone(&segment), highest: None };
    let mut at = SEGMENT_HEAD_BYTES;
    let why = loop {
        let record = match record::decode(&content, at, sequence) {
            Ok(record) if record.previous == found.chain => record,
            Ok(_) => break "the record does not continue the chain",
            Err(why) => break why,
        };
        let place = || format!("{} at offset {at}", path.display());
        let body = content.slice(at + HEAD_BYTES..at + HEAD_BYTES + record.body.len());
        let id = |body: Bytes| {
            let id = decode_whole::<wire::LogId>("record", body).map_err(|e| e.within(place()))?;
            Ok::<_, StoreError>(log_id_from_wire(&id))
        };
        match record.kind.ok_or_else(|| unknown(&record).within(place()))? {
            Kind::Entry => {
                // A copy, so that one cached entry does not keep a whole segment's bytes in memory.
                let body = Bytes::copy_from_slice(&body);
                let bytes = body.len();
                let entry = decode_whole::<wire::Entry>("entry", body).and_then(entry_from_wire);
                let entry = entry.map_err(|e| e.within(place()))?;
                held.highest = held.highest.max(Some(entry.log_id.index));
                let stands = Place { segment: Arc::clone(&segment), offset: at as u32 };
                let recovered = found.index.recovered(entry, bytes, stands);
                recovered.map_err(|corrupt| StoreError::from(corrupt).within(place()))?;
            }
            Kind::Truncate if body.is_empty() => found.index.truncate(None),
            Kind::Truncate => found.index.truncate(Some(id(body)?)),
            Kind::Purge => found.index.purge(id(body)?),
        }
        found.chain = record.crc;
        at += record.bytes;
    };
    if is_last {
        let later = later_record(&content, at, sequence)
            .map_err(|e| e.within(format!("{} behind offset {at}", path.display())))?;
        if (at as u64) < mark || later.as_ref().is_some_and(|(start, _)| *start as usize > at) {
            return Err(Corrupt::new(
                format!("{} at offset {at}", path.display()),
                format!("{why}, though it was synced"),
            )
            .into());
        }
        if let Some((_, end)) = later {
            if mend {
                let wiped = vec![0; end - at];
                segment.file.write_all_at(&wiped, at as u64).map_err(StoreError::io("writing", &path))?;
                segment.file.sync_data().map_err(StoreError::io("syncing", &path))?;
            }
            found.torn_bytes = (end - at) as u64;
        }
    }
    found.end = at as u64;
    found.segments.push(held);
    Ok(())
}

/// A whole record that this program cannot read.
fn unknown(record: &Record<'_>) -> StoreError {
    if record.level > record::LEVEL {
        let (found, known) = (u32::from(record.level), u32::from(record::LEVEL));
        return StoreError::Level { what: "record".into(), found, known };
    }
    StoreError::Foreign(Corrupt::new("record", "it is of a kind that this program does not know"))
}

/// The highest write start, and the last end, of whole records of this segment's life at or behind `at`. One that
/// another program wrote is not judged, and nothing before it either.
fn later_record(content: &[u8], at: usize, sequence: u64) -> Result<Option<(u32, usize)>, StoreError> {
    let mut latest: Option<(u32, usize)> = None;
    let mut offset = at;
    while offset + HEAD_BYTES <= content.len() {
        match record::decode(content, offset, sequence) {
            Ok(record) if record.kind.is_none() => return Err(unknown(&record)),
            Ok(record) => {
                let start = latest.map_or(0, |(start, _)| start).max(record.write_start);
                offset += record.bytes;
                latest = Some((start, offset));
            }
            Err(_) => offset += 8,
        }
    }
    Ok(latest)
}
