//! Entries that this replica takes for blank ones, by a person's decision: one that no replica can apply would stop
//! them all, again and again.
//!
//! The log itself stays as it is; who reads an entry that is listed here, to apply it or to send it, finds a blank one
//! under the same id. Whoever joins later gets the blank one. All replicas must skip the same: one that does not goes on
//! failing, and one that had applied it would differ from the others, which the comparison of rows finds.

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message as _;
use proto::wire::raft as wire;

use crate::error::StoreError;
use crate::raft::{LEVEL, LogId, check_level, decode_whole, log_id_from_wire, log_id_to_wire};
use crate::small_file::SmallFile;

const NAME: &str = "skipped";

/// What is skipped in the log of `dir`.
pub(crate) fn read(dir: &Path) -> Result<BTreeSet<LogId>, StoreError> {
    parse(SmallFile::open(dir, NAME)?.1)
}

fn parse(bytes: Option<Vec<u8>>) -> Result<BTreeSet<LogId>, StoreError> {
    let Some(bytes) = bytes else { return Ok(BTreeSet::new()) };
    let skipped: wire::Skipped = decode_whole(NAME, &bytes[..])?;
    check_level(NAME, skipped.level)?;
    Ok(skipped.entries.iter().map(log_id_from_wire).collect())
}

/// Skips one more.
pub(crate) fn add(dir: &Path, id: LogId) -> Result<(), StoreError> {
    let (mut file, bytes) = SmallFile::open(dir, NAME)?;
    let mut skipped = parse(bytes)?;
    skipped.insert(id);
    let entries = skipped.iter().map(log_id_to_wire).collect();
    file.write(&wire::Skipped { level: LEVEL, entries }.encode_to_vec())
}
