//! The log's format and its recovery rules, on one page.
//!
//! **Segments.** The log is a row of files `SEQUENCE.seg` of equal size, their sequences without a gap. A segment
//! is written full of zeros before its first use and is used again, under a new sequence, once all its entries
//! are purged: writing over bytes that exist needs no metadata sync. It begins with a block of 512 bytes: magic
//! `BLRGSEG1`, crc32c of the rest, length, a `SegmentHeader`. The header is synced before the file gets its name.
//!
//! **Records** follow, each at a multiple of 8: this head of 32 bytes, the body, zeros up to the next multiple.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic: FF `BLR`, which no text in a command contains, so that nobody can forge a record behind a torn one |
//! | 4 | 4 | crc32c of all that follows, padding included |
//! | 8 | 4 | length of the body |
//! | 12 | 4 | crc32c of the record before (across segments): the chain |
//! | 16 | 8 | sequence of the segment: bytes of an earlier life of the file never count |
//! | 24 | 4 | offset at which the write began that this record was part of |
//! | 28 | 1 | format level |
//! | 29 | 1 | kind: 1 entry, 2 all entries behind a log id are void, 3 all entries up to a log id are dropped |
//! | 30 | 2 | zero |
//!
//! **Writing.** One thread drains all that waits, writes it at once, syncs, notes the end in the file `synced`
//! (the mark; not itself synced, since it only ever lags), then answers all. A write begins only after the one
//! before was synced, so a record whose write began behind an offset proves that the bytes before were synced.
//!
//! **Recovery** reads all records in order. The first bad one is
//! - *another program's*, if it is whole, continues the chain, and is of a newer level or an unknown kind, or if such
//!   a record lies behind it in the last segment: the start fails and nothing is changed;
//! - the end of its segment, if the next segment's header continues the chain there;
//! - *corruption*, if it lies before the mark, or a whole record of a later write lies behind it, or it is in any
//!   other segment than the last: the store is condemned, since it may have acknowledged what it now lacks;
//! - otherwise the *torn tail* of a write that was never answered: the log ends there and the rest is wiped.
//!
//! What is read behind the mark may be in the system's memory only: the process was killed before it synced, or the
//! sync failed and the system holds the pages for clean. It is written again and synced before it counts.

use crate::error::StoreError;
use crate::machine::Corrupt;
use crate::raft::decode_whole;

pub(crate) const HEAD_BYTES: usize = 32;
pub(crate) const SEGMENT_HEAD_BYTES: usize = 512;
const MAGIC: &[u8; 4] = b"\xffBLR";
const SEGMENT_MAGIC: &[u8; 8] = b"BLRGSEG1";
/// The format level that this program writes, and the highest it reads.
pub(crate) const LEVEL: u8 = 1;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An entry of the log.
    Entry,
    /// Entries behind this log id are void; an empty body: all.
    Truncate,
    /// Entries up to this log id are dropped.
    Purge,
}

/// A whole record within a segment's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// `None`: this program does not know its level or its kind.
    pub(crate) kind: Option<Kind>,
    pub(crate) level: u8,
    pub(crate) crc: u32,
    pub(crate) previous: u32,
    /// Offset at which the write began.
    pub(crate) write_start: u32,
    pub(crate) body: &'a [u8],
    /// Bytes in the segment, head and padding included.
    pub(crate) bytes: usize,
}

/// Bytes that a record with a body of `length` takes.
pub(crate) fn record_bytes(length: usize) -> usize {
    (HEAD_BYTES + length).next_multiple_of(8)
}

/// Appends a record to `into`; returns its checksum, which the next one carries.
pub(crate) fn encode(
    into: &mut Vec<u8>,
    kind: Kind,
    sequence: u64,
    previous: u32,
    write_start: u32,
    body: impl FnOnce(&mut Vec<u8>),
) -> u32 {
    let at = into.len();
    into.extend_from_slice(MAGIC);
    into.extend_from_slice(&[0; 8]);
    into.extend_from_slice(&previous.to_le_bytes());
    into.extend_from_slice(&sequence.to_le_bytes());
    into.extend_from_slice(&write_start.to_le_bytes());
    into.extend_from_slice(&[LEVEL, kind as u8 + 1, 0, 0]);
    body(into);
    let length = into.len() - at - HEAD_BYTES;
    into.resize(at + record_bytes(length), 0);
    into[at + 8..at + 12].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = crc32c::crc32c(&into[at + 8..]);
    into[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Reads the record at `at`, or says why there is none. The chain is the caller's to check.
pub(crate) fn decode(segment: &[u8], at: usize, sequence: u64) -> Result<Record<'_>, &'static str> {
    let bytes = segment.get(at..).unwrap_or_default();
    if bytes.len() < HEAD_BYTES || &bytes[..4] != MAGIC {
        return Err("there is no record");
    }
    if u64_at(bytes, 16) != sequence {
        return Err("the record is of an earlier life of the file");
    }
    let length = u32_at(bytes, 8) as usize;
    let total = record_bytes(length);
    if total > bytes.len() {
        return Err("the record is longer than the segment");
    }
    if crc32c::crc32c(&bytes[8..total]) != u32_at(bytes, 4) {
        return Err("the record fails its checksum");
    }
    let level = bytes[28];
    let kind = match bytes[29] {
        _ if level > LEVEL => None,
        1 => Some(Kind::Entry),
        2 => Some(Kind::Truncate),
        3 => Some(Kind::Purge),
        _ => None,
    };
    Ok(Record {
        kind,
        level,
        crc: u32_at(bytes, 4),
        previous: u32_at(bytes, 12),
        write_start: u32_at(bytes, 24),
        body: &bytes[HEAD_BYTES..HEAD_BYTES + length],
        bytes: total,
    })
}

/// The first block of a segment.
pub(crate) fn encode_segment_head(header: &proto::wire::raft::SegmentHeader) -> Vec<u8> {
    use prost::Message as _;
    let body = header.encode_to_vec();
    let mut block = Vec::with_capacity(SEGMENT_HEAD_BYTES);
    block.extend_from_slice(SEGMENT_MAGIC);
    block.extend_from_slice(&[0; 4]);
    block.extend_from_slice(&(body.len() as u32).to_le_bytes());
    block.extend_from_slice(&body);
    block.resize(SEGMENT_HEAD_BYTES, 0);
    let crc = crc32c::crc32c(&block[12..]);
    block[8..12].copy_from_slice(&crc.to_le_bytes());
    block
}

/// Reads a segment's first block.
pub(crate) fn decode_segment_head(segment: &[u8]) -> Result<proto::wire::raft::SegmentHeader, StoreError> {
    const WHAT: &str = "the head of a segment";
    let bad = |why: &str| Corrupt::new(WHAT, why);
    let block = segment.get(..SEGMENT_HEAD_BYTES).ok_or_else(|| bad("is cut off"))?;
    if &block[..8] != SEGMENT_MAGIC {
        return Err(bad("does not begin as it should").into());
    }
    if crc32c::crc32c(&block[12..]) != u32_at(block, 8) {
        return Err(bad("fails its checksum").into());
    }
    let body = block.get(16..16 + u32_at(block, 12) as usize).ok_or_else(|| bad("has a wrong length"))?;
    let header: proto::wire::raft::SegmentHeader = decode_whole(WHAT, body)?;
    if header.level > u32::from(LEVEL) {
        return Err(StoreError::Level { what: WHAT.into(), found: header.level, known: u32::from(LEVEL) });
    }
    Ok(header)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |sum, b| sum << 8 | u32::from(*b))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_any_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        let crc = encode(&mut bytes, Kind::Truncate, 7, 99, 512, |into| into.extend_from_slice(b"hello"));
        let record = decode(&bytes, 0, 7).unwrap();
        assert_eq!((record.kind, record.crc, record.previous), (Some(Kind::Truncate), crc, 99));
        assert_eq!((record.write_start, record.body, record.bytes), (512, &b"hello"[..], 40));
        assert!(decode(&bytes, 0, 8).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, 0, 7).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn no_text_is_a_record() {
        let never_in_text = 0xf8..=0xff_u8;
        assert!(
            MAGIC.iter().any(|byte| never_in_text.contains(byte)),
            "a user may choose the text of a command"
        );
    }

    #[test]
    fn random_bytes_are_no_record() {
        proptest::proptest!(|(bytes: Vec<u8>, at in 0usize..64)| {
            assert!(decode(&bytes, at, 1).is_err());
            assert!(decode_segment_head(&bytes).is_err());
        });
    }
}
