//! The one thread that writes the log: drains all that waits, writes once, syncs once, answers all.
//!
//! A failed write or sync is final: the pages that failed may be gone, so nothing is retried and nothing is
//! answered any more.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::storage::IOFlushed;
use prost::Message as _;
use proto::wire::raft as wire;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::StoreError;
use crate::ground::{self, fs::FileExt as _};
use crate::log::index::{Index, Place};
use crate::log::record::{self, Kind};
use crate::log::recovery::{Held, Recovered};
use crate::log::segment::{self, Mark};
use crate::raft::{Entry, LogId, Types, entry_to_wire, log_id_to_wire};
use crate::telemetry;

/// Orders that wait at most; then the proposer waits.
pub(crate) const ORDERS_MAX: usize = 4096;
/// Bytes of one write, about.
const WRITE_BYTES_MAX: usize = 4 << 20;
/// Spares that were made and segments that were recycled must not share a name.
const SPARE_TAG: u64 = 1_000_000_000_000;
/// A sync that takes longer is told.
const SLOW_SYNC: Duration = Duration::from_millis(500);

/// What the thread is asked.
pub(crate) enum Order {
    Append(Vec<Entry>, IOFlushed<Types>),
    Truncate(Option<LogId>),
    Purge(LogId),
    /// Write what waits and end.
    Stop(oneshot::Sender<()>),
}

/// The thread's belongings.
pub(crate) struct Writer {
    dir: PathBuf,
    segment_bytes: u64,
    index: Arc<Mutex<Index>>,
    segments: Vec<Held>,
    mark: Mark,
    /// Where the next write begins, in the last segment.
    end: u64,
    chain: u32,
    buffer: Vec<u8>,
    /// Entries in the buffer and where they will stand.
    placed: Vec<(LogId, u32)>,
    purged: Option<LogId>,
    spares: SpareMaker,
    appended_bytes: Arc<AtomicU64>,
}

impl Writer {
    /// Takes over a recovered log; returns the index and a writer to run on a thread.
    pub(crate) fn new(
        dir: PathBuf,
        segment_bytes: u64,
        found: Recovered,
        appended_bytes: Arc<AtomicU64>,
    ) -> Result<(Arc<Mutex<Index>>, Self), StoreError> {
        let purged = found.index.purged();
        let index = Arc::new(Mutex::new(found.index));
        segment::sweep_spares(&dir, segment_bytes)?;
        let spares = SpareMaker::start(dir.clone(), segment_bytes)?;
        let writer = Writer {
            dir,
            segment_bytes,
            index: Arc::clone(&index),
            segments: found.segments,
            mark: found.mark,
            end: found.end,
            chain: found.chain,
            buffer: Vec::new(),
            placed: Vec::new(),
            purged,
            spares,
            appended_bytes,
        };
        writer.want_spare();
        Ok((index, writer))
    }

    /// Runs until told to stop or until the disk fails; then `failed` is told why.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>, failed: impl FnOnce(String)) {
        while let Some(first) = orders.recv().await {
            let mut answers = Vec::new();
            let mut stop = None;
            let mut next = Some(first);
            let mut result = Ok(());
            while let Some(order) = next {
                if result.is_ok() {
                    result = self.take(order, &mut answers, &mut stop).await;
                }
                next = if self.buffer.len() < WRITE_BYTES_MAX { orders.try_recv().ok() } else { None };
            }
            let result = match result {
                Ok(()) => self.flush().await.and_then(|()| self.recycle()),
                failed => failed,
            };
            match result {
                Ok(()) => {
                    answers.into_iter().for_each(|answer: IOFlushed<Types>| answer.io_completed(Ok(())))
                }
                Err(error) => {
                    let why = error.to_string();
                    tracing::error!("the log cannot be written: {why}");
                    for answer in answers {
                        answer.io_completed(Err(std::io::Error::other(why.clone())));
                    }
                    failed(why);
                    return;
                }
            }
            if let Some(stopped) = stop {
                // The files belong to whoever opens them next.
                self.spares.stop().await;
                let _ = stopped.send(());
                return;
            }
        }
    }

    async fn take(
        &mut self,
        order: Order,
        answers: &mut Vec<IOFlushed<Types>>,
        stop: &mut Option<oneshot::Sender<()>>,
    ) -> Result<(), StoreError> {
        match order {
            Order::Append(entries, answer) => {
                answers.push(answer);
                for entry in entries {
                    let body = entry_to_wire(&entry).encode_to_vec();
                    let offset = self.push(Kind::Entry, &body).await?;
                    self.placed.push((entry.log_id, offset));
                    if let Some(held) = self.segments.last_mut() {
                        held.highest = held.highest.max(Some(entry.log_id.index));
                    }
                    telemetry::appended(1, body.len());
                    self.appended_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
                }
            }
            Order::Truncate(after) => {
                let body = after.map_or_else(Vec::new, |id| log_id_to_wire(&id).encode_to_vec());
                self.push(Kind::Truncate, &body).await?;
            }
            Order::Purge(upto) => {
                self.push(Kind::Purge, &log_id_to_wire(&upto).encode_to_vec()).await?;
                self.purged = self.purged.max(Some(upto));
            }
            Order::Stop(stopped) => *stop = Some(stopped),
        }
        Ok(())
    }

    /// Adds a record to the buffer; begins a new segment if it does not fit. Returns its offset.
    async fn push(&mut self, kind: Kind, body: &[u8]) -> Result<u32, StoreError> {
        let bytes = record::record_bytes(body.len()) as u64;
        let room = self.segments.last().map_or(0, |held| held.segment.bytes);
        if self.end + self.buffer.len() as u64 + bytes > room {
            self.flush().await?;
            self.begin_segment(bytes)?;
        }
        let sequence = self.segments.last().map_or(0, |held| held.segment.sequence);
        let offset = self.end as u32 + self.buffer.len() as u32;
        let start = self.end as u32;
        self.chain = record::encode(&mut self.buffer, kind, sequence, self.chain, start, |into| {
            into.extend_from_slice(body)
        });
        Ok(offset)
    }

    fn begin_segment(&mut self, bytes: u64) -> Result<(), StoreError> {
        let head = record::SEGMENT_HEAD_BYTES as u64;
        let header = wire::SegmentHeader {
            level: u32::from(record::LEVEL),
            sequence: self.segments.last().map_or(1, |held| held.segment.sequence + 1),
            previous_crc32c: self.chain,
            purged: self.purged.as_ref().map(log_id_to_wire),
        };
        // A record larger than a segment gets one of its own size.
        let segment = segment::begin(&self.dir, self.segment_bytes.max(head + bytes), &header)?;
        self.segments.push(Held { segment: Arc::new(segment), highest: None });
        self.end = head;
        self.want_spare();
        Ok(())
    }

    /// Writes and syncs the buffer, moves the mark, tells the index where its entries are.
    async fn flush(&mut self) -> Result<(), StoreError> {
        let Some(held) = self.segments.last() else { return Ok(()) };
        if self.buffer.is_empty() {
            return Ok(());
        }
        let segment = &held.segment;
        segment
            .file
            .write_all_at(&self.buffer, self.end)
            .map_err(StoreError::io("writing", &segment.path))?;
        let began = Instant::now();
        ground::before_sync().await;
        segment.file.sync_data().map_err(StoreError::io("syncing", &segment.path))?;
        let took = began.elapsed();
        telemetry::synced(took);
        if took > SLOW_SYNC {
            tracing::warn!(
                took_ms = took.as_millis() as u64,
                bytes = self.buffer.len(),
                "syncing the log was slow; elections may follow"
            );
        }
        self.end += self.buffer.len() as u64;
        self.mark
            .set(segment.sequence, self.end)
            .map_err(StoreError::io("writing", self.dir.join("synced")))?;
        let mut index = lock(&self.index);
        for (id, offset) in self.placed.drain(..) {
            index.written(id, Place { segment: Arc::clone(segment), offset });
        }
        self.buffer.clear();
        Ok(())
    }

    /// Frees segments whose entries are all dropped; the record that says so is synced by now.
    fn recycle(&mut self) -> Result<(), StoreError> {
        let Some(purged) = self.purged else { return Ok(()) };
        while self.segments.len() > 1
            && self.segments[0].highest.is_none_or(|highest| highest <= purged.index)
        {
            let held = self.segments.remove(0);
            segment::recycle(&self.dir, &held.segment, self.segment_bytes)?;
        }
        Ok(())
    }

    fn want_spare(&self) {
        self.spares.want(self.segments.last().map_or(0, |held| held.segment.sequence));
    }
}

/// A thread that keeps one spare file ready, so that the writer need not wait for zeros.
struct SpareMaker {
    wanted: Option<mpsc::Sender<u64>>,
    /// Ends when the thread does.
    ended: oneshot::Receiver<()>,
}

impl SpareMaker {
    fn start(dir: PathBuf, bytes: u64) -> Result<Self, StoreError> {
        let (wanted, mut wants) = mpsc::channel::<u64>(1);
        let (done, ended) = oneshot::channel();
        let at = dir.clone();
        let make = async move {
            while let Some(sequence) = wants.recv().await {
                let made = match segment::has_spare(&dir, bytes) {
                    Ok(false) => segment::make_spare(&dir, bytes, sequence + SPARE_TAG).map(drop),
                    other => other.map(drop),
                };
                if let Err(error) = made {
                    tracing::warn!("no spare segment could be made: {error}");
                }
            }
            drop(done);
        };
        ground::thread("log-spare", make).map_err(StoreError::io("starting a thread for", at))?;
        Ok(SpareMaker { wanted: Some(wanted), ended })
    }

    /// Asks for a spare behind `sequence`, if there is none. A want that is not taken up yet is enough.
    fn want(&self, sequence: u64) {
        if let Some(wanted) = &self.wanted {
            let _ = wanted.try_send(sequence);
        }
    }

    /// Returns when the thread has ended.
    async fn stop(&mut self) {
        self.wanted = None;
        let _ = (&mut self.ended).await;
    }
}

/// Locks; a panic elsewhere has already stopped the process or left nothing half done here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
