//! The replicated log on disk and the vote, as openraft asks for them. The format and its rules: `record`.

mod index;
pub(crate) mod record;
mod recovery;
mod segment;
pub(crate) mod skip;
mod writer;

use std::collections::BTreeSet;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use prost::Message as _;
use proto::wire::raft as wire;
use tokio::sync::{mpsc, oneshot};

use self::index::{Found, Index, Place};
pub(crate) use self::writer::lock;
use self::writer::{Order, Writer};
use crate::error::StoreError;
use crate::ground::{self, fs, fs::FileExt as _};
use crate::machine::Corrupt;
use crate::raft::{
    Entry, LogId, Payload, Types, Vote, check_level, decode_whole, entry_from_wire, log_id_to_wire,
    vote_from_wire, vote_to_wire,
};
use crate::small_file::SmallFile;

/// Newest entries kept in memory, in bytes.
const CACHE_BYTES_MAX: usize = 32 << 20;
/// Entries of one message to a follower, in bytes, about; one entry may be larger.
const MESSAGE_BYTES_MAX: usize = 512 << 10;
/// Entries read at once to be applied, in bytes, about.
const APPLY_BYTES_MAX: usize = 4 << 20;

/// Called once, when the log cannot be written any more.
pub(crate) type OnFailure = Box<dyn FnOnce(String) + Send>;

/// A handle of the log; clones share it.
#[derive(Clone)]
pub(crate) struct Log {
    index: Arc<Mutex<Index>>,
    orders: mpsc::Sender<Order>,
    vote: Arc<Mutex<(SmallFile, Option<Vote>)>>,
    appended_bytes: Arc<AtomicU64>,
    skipped: Arc<BTreeSet<LogId>>,
}

/// Makes an empty log: with the first entries of a new cluster if there are any, or one that begins behind `after`.
pub(crate) fn create(
    dir: &Path,
    segment_bytes: u64,
    entries: &[Entry],
    after: Option<LogId>,
) -> Result<(), StoreError> {
    fs::create_private_dir(dir).map_err(StoreError::io("creating", dir))?;
    let header = wire::SegmentHeader {
        level: u32::from(record::LEVEL),
        sequence: 1,
        purged: after.as_ref().map(log_id_to_wire),
        ..Default::default()
    };
    let segment = segment::begin(dir, segment_bytes, &header)?;
    let start = record::SEGMENT_HEAD_BYTES as u32;
    let (mut bytes, mut chain) = (Vec::new(), 0);
    for entry in entries {
        let body = crate::raft::entry_to_wire(entry).encode_to_vec();
        chain = record::encode(&mut bytes, record::Kind::Entry, 1, chain, start, |into| {
            into.extend_from_slice(&body)
        });
    }
    segment.file.write_all_at(&bytes, u64::from(start)).map_err(StoreError::io("writing", &segment.path))?;
    segment.file.sync_all().map_err(StoreError::io("syncing", &segment.path))?;
    // Last: a log with a vote is whole.
    if let Some(last) = after {
        let vote = first_vote(last);
        SmallFile::open(dir, "vote")?.0.write(&vote_to_wire(&vote).encode_to_vec())?;
    }
    crate::small_file::sync_dir(dir)
}

/// Of a log that begins behind `last`: whoever led then is not followed any more; the next term is a later one.
fn first_vote(last: LogId) -> Vote {
    Vote { leader_id: last.leader_id, committed: false }
}

/// Whether a replica has run on the log in `dir`: it would have voted or followed, and no vote of either kind is the
/// one with which [`create`] begins a log.
pub(crate) fn was_used(dir: &Path) -> Result<bool, StoreError> {
    if SmallFile::open(dir, "vote")?.1.is_none() {
        return Ok(false);
    }
    let log = Log::look_at(dir)?;
    let (last, dropped) = log.ends();
    Ok(last != dropped || log.vote != dropped.map(first_vote))
}

impl Log {
    /// Opens and recovers the log in `dir`, and the vote in `dir` too.
    pub(crate) fn open(dir: &Path, segment_bytes: u64, failed: OnFailure) -> Result<Self, StoreError> {
        let (file, bytes) = SmallFile::open_synced(dir, "vote")?;
        let vote = match bytes {
            Some(bytes) => {
                let vote: wire::Vote = decode_whole("vote", &bytes[..])?;
                check_level("vote", vote.level)?;
                Some(vote)
            }
            None => None,
        };
        let found = recovery::recover(dir, CACHE_BYTES_MAX, true)?;
        tracing::info!(
            entries = found.index.len(),
            last = ?found.index.last(),
            torn_bytes = found.torn_bytes,
            "the log was read"
        );
        let appended_bytes = Arc::new(AtomicU64::new(0));
        let (index, writer) = Writer::new(dir.to_owned(), segment_bytes, found, Arc::clone(&appended_bytes))?;
        let (orders, waiting) = mpsc::channel(writer::ORDERS_MAX);
        ground::thread("log-writer", writer.run(waiting, failed))
            .map_err(StoreError::io("starting a thread for", dir))?;
        let vote = Arc::new(Mutex::new((file, vote.as_ref().map(vote_from_wire))));
        let skipped = Arc::new(skip::read(dir)?);
        Ok(Log { index, orders, vote, appended_bytes, skipped })
    }

    /// Reads a log that nobody uses, and changes nothing: its vote, and what it has of entries, as `look` asks for them.
    pub(crate) fn look_at(dir: &Path) -> Result<Still, StoreError> {
        let vote = SmallFile::open(dir, "vote")?.1;
        let vote = vote.map(|bytes| decode_whole::<wire::Vote>("vote", &bytes[..])).transpose()?;
        if let Some(vote) = &vote {
            check_level("vote", vote.level)?;
        }
        let index = recovery::recover(dir, CACHE_BYTES_MAX, false)?.index;
        Ok(Still { vote: vote.as_ref().map(vote_from_wire), index, skipped: skip::read(dir)? })
    }

    /// Whatever came from an elected leader was written after the vote for it: a vote that is missing, or for an
    /// earlier leader than the last entry's, was lost.
    pub(crate) fn check_vote(&self) -> Result<(), Corrupt> {
        let Some(last) = self.ends().0.filter(|last| last.leader_id.term > 0) else { return Ok(()) };
        match lock(&self.vote).1 {
            None => Err(Corrupt::new("vote", "it is missing beside a log that has voted")),
            Some(vote) if vote.leader_id < last.leader_id => Err(Corrupt::new(
                "vote",
                format!("it is for {}, but the last entry is of {}", vote.leader_id, last.leader_id),
            )),
            Some(_) => Ok(()),
        }
    }

    /// The vote that is on the disk.
    pub(crate) fn vote(&self) -> Option<Vote> {
        lock(&self.vote).1
    }

    /// Last entry and last dropped one.
    pub(crate) fn ends(&self) -> (Option<LogId>, Option<LogId>) {
        let index = lock(&self.index);
        (index.last(), index.purged())
    }

    /// Bytes of entries written since the start.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    /// Writes what waits and ends the thread.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.orders.send(Order::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }

    async fn send(&self, order: Order) -> io::Result<()> {
        self.orders.send(order).await.map_err(|_| io::Error::other("the log has stopped"))
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let found = lock(&self.index).find(from, to, bytes_max).into_iter();
        found.map(|found| show(found, &self.skipped).map_err(StoreError::into_io)).collect()
    }
}

/// A log at rest.
pub(crate) struct Still {
    pub(crate) vote: Option<Vote>,
    index: Index,
    skipped: BTreeSet<LogId>,
}

impl Still {
    /// Last entry and last dropped one.
    pub(crate) fn ends(&self) -> (Option<LogId>, Option<LogId>) {
        (self.index.last(), self.index.purged())
    }

    /// Entries that are left out.
    pub(crate) fn skipped(&self) -> Vec<u64> {
        self.skipped.iter().map(|id| id.index).collect()
    }

    /// All entries from `from` on, some at a time; one that is missing is corruption.
    pub(crate) fn portions(&self, from: u64) -> impl Iterator<Item = Result<Vec<Entry>, StoreError>> {
        let mut next = from;
        std::iter::from_fn(move || {
            let entries = self.entries(next);
            if let Ok(entries) = &entries {
                if entries.first()?.log_id.index != next {
                    return Some(Err(Corrupt::new("its log", format!("lacks entry {next}")).into()));
                }
                next += entries.len() as u64;
            }
            Some(entries)
        })
    }

    /// Entries from `from` on, some at a time; none = that was all.
    pub(crate) fn entries(&self, from: u64) -> Result<Vec<Entry>, StoreError> {
        let found = self.index.find(from, u64::MAX, APPLY_BYTES_MAX).into_iter();
        found.map(|found| show(found, &self.skipped)).collect()
    }
}

/// An entry as everybody shall see it: one that is skipped says nothing.
fn show(found: Found, skipped: &BTreeSet<LogId>) -> Result<Entry, StoreError> {
    let entry = match found {
        Found::Entry(entry) => entry,
        Found::At(id, place) => read_entry(id, &place)?,
    };
    Ok(if skipped.contains(&entry.log_id) { Entry { payload: Payload::Blank, ..entry } } else { entry })
}

fn read_entry(id: LogId, place: &Place) -> Result<Entry, StoreError> {
    let path = &place.segment.path;
    let corrupt = |why: &str| Corrupt::new(format!("{} at offset {}", path.display(), place.offset), why);
    let mut head = [0; record::HEAD_BYTES];
    let at = u64::from(place.offset);
    place.segment.file.read_exact_at(&mut head, at).map_err(StoreError::io("reading", path))?;
    let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    let total = record::record_bytes(length);
    if at + total as u64 > place.segment.bytes {
        return Err(corrupt("the record is longer than the segment").into());
    }
    let mut bytes = vec![0; total];
    place.segment.file.read_exact_at(&mut bytes, at).map_err(StoreError::io("reading", path))?;
    record::decode(&bytes, 0, place.segment.sequence).map_err(corrupt)?;
    let body = Bytes::from(bytes).slice(record::HEAD_BYTES..record::HEAD_BYTES + length);
    let entry = entry_from_wire(decode_whole("entry", body)?)?;
    if entry.log_id != id {
        return Err(corrupt("another entry stands here").into());
    }
    Ok(entry)
}

/// A range as `from..to`.
fn limits(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = limits(&range);
        self.read(from, to, usize::MAX)
    }

    /// In portions, so that a replica that is far behind does not hold all it must apply in memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures::Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend,
    {
        use futures::StreamExt as _;
        let (from, to) = limits(&range);
        let portions = futures::stream::unfold((self.clone(), from), move |(log, from)| async move {
            if from >= to {
                return None;
            }
            let portion = match log.read(from, to, APPLY_BYTES_MAX) {
                Ok(entries) if entries.first().is_none_or(|first| first.log_id.index != from) => {
                    vec![Err(io::Error::other(format!("entry {from} is not in the log")))]
                }
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            let next = if portion.iter().any(Result::is_err) { to } else { from + portion.len() as u64 };
            Some((futures::stream::iter(portion), (log, next)))
        });
        portions.flatten()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, MESSAGE_BYTES_MAX)?;
        // A leader that was just deposed may purge what its old streams are about to send. Entries without those
        // before them must not go out; nothing at all is taken for a heartbeat.
        let whole = entries.first().is_none_or(|first| first.log_id.index == start);
        Ok(if whole { entries } else { Vec::new() })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(lock(&self.vote).1)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let (last_log_id, last_purged_log_id) = self.ends();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (kept, vote) = (Arc::clone(&self.vote), *vote);
        ground::before_sync().await;
        let written = ground::blocking(move || {
            let mut kept = lock(&kept);
            kept.0.write(&vote_to_wire(&vote).encode_to_vec())?;
            kept.1 = Some(vote);
            Ok::<(), StoreError>(())
        });
        written.await.map_err(io::Error::other)?.map_err(StoreError::into_io)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut index = lock(&self.index);
            for entry in &entries {
                index.append(entry.clone(), size(entry)).map_err(io::Error::other)?;
            }
        }
        self.send(Order::Append(entries, callback)).await
    }

    /// Need not be synced before it returns: what follows it is written behind it, in order, and nothing that
    /// relies on it is answered before that is synced.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        lock(&self.index).truncate(last_log_id);
        self.send(Order::Truncate(last_log_id)).await
    }

    /// Need not be synced either: files are freed only after the record is.
    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        lock(&self.index).purge(log_id);
        self.send(Order::Purge(log_id)).await
    }
}

/// About how many bytes an entry takes.
fn size(entry: &Entry) -> usize {
    use crate::raft::Data;
    64 + match &entry.payload {
        Payload::Normal(Data::Batch(batch)) => batch.bytes(),
        _ => 256,
    }
}

#[cfg(test)]
impl Log {
    /// All entries as they are now, each by id and the hash of what it says; `hashed` has those of earlier calls.
    /// For the simulation.
    pub(crate) fn shown(&self, hashed: &mut std::collections::BTreeMap<LogId, u64>) -> Vec<(LogId, u64)> {
        let found = lock(&self.index).find(0, u64::MAX, usize::MAX).into_iter();
        let says =
            |entry: &Entry| xxhash_rust::xxh3::xxh3_64(&crate::raft::entry_to_wire(entry).encode_to_vec());
        let mut shown = |found| match found {
            Found::Entry(entry) => {
                (entry.log_id, *hashed.entry(entry.log_id).or_insert_with(|| says(&entry)))
            }
            Found::At(id, _) => (id, 0),
        };
        found.map(&mut shown).collect()
    }
}

#[cfg(test)]
mod tests;
