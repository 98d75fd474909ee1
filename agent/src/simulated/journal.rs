//! One journal for all hosts of a simulated agent: one thread writes what waits, syncs once, and tells all who wait.
//!
//! `DIR/journal-NUMBER` are files of the same records as any agent's journal, each with its host. A host's *book* is
//! the fewest records that say all of it, the first of them `opened`: at that one, what was read of the host before
//! counts no more. Each start, and each file that grew large, begins a new file; every host writes its book into it
//! with the next thing that it writes, and when the last has done so, the older files are removed. So nothing stops
//! while a million tasks are written anew, and no file that may end in a torn record is written to again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use executor::records::{self, Writer};
use prost::Message as _;
use proto::wire::{JournalRecord, journal_record::Body};
use tokio::sync::oneshot;

use crate::journal::{self, Error, LEVEL};
use crate::{clock, telemetry};

/// A file is followed by a new one when it is larger than this and has doubled, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// From one sync to the next: the disk has others to serve, and those who come meanwhile share the next one.
const SYNC_PACE: Duration = Duration::from_millis(4);
/// A buffer that grew beyond this is not kept.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// Records of one host that are written together.
#[derive(Debug)]
pub struct Batch {
    host: u32,
    bytes: Vec<u8>,
    /// Wall clock.
    pub at_ms: u64,
    /// CLOCK_BOOTTIME.
    pub boottime_ns: u64,
    /// Whether the host's book is in it.
    pub whole: bool,
}

impl Batch {
    /// An empty one of the host with this index, stamped now.
    pub fn new(host: u32) -> Self {
        let (at_ms, boottime_ns) = (clock::wall_ms(), clock::boottime_ns());
        Batch { host, bytes: Vec::new(), at_ms, boottime_ns, whole: false }
    }

    /// CLOCK_BOOTTIME of the stamp, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.boottime_ns / 1_000_000
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds a record with the batch's stamp. Gives back the body.
    pub fn push(&mut self, body: Body) -> Option<Body> {
        self.push_of(body, self.boottime_ns)
    }

    /// Adds a record of an earlier time.
    pub fn push_of(&mut self, body: Body, boottime_ns: u64) -> Option<Body> {
        let earlier_ms = self.boottime_ns.saturating_sub(boottime_ns) / 1_000_000;
        let record = JournalRecord {
            level: LEVEL,
            at_ms: self.at_ms.saturating_sub(earlier_ms),
            boottime_ns,
            body: Some(body),
            host: self.host + 1,
        };
        records::add_frame(&mut self.bytes, |bytes| {
            let _a_vec_has_room = record.encode(bytes);
        });
        record.body
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    waiters: Vec<oneshot::Sender<()>>,
    /// Hosts whose book is not in the newest file yet.
    behind: u32,
    closed: bool,
}

/// Where hosts give what they write.
#[derive(Debug)]
pub struct Journal {
    queue: Mutex<Queue>,
    stirred: Condvar,
    /// Number of the newest file.
    file: AtomicU32,
}

impl Journal {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the file that everything is written to.
    pub fn file(&self) -> u32 {
        self.file.load(Ordering::Acquire)
    }

    /// Queues a batch of a host whose book is in the file `written`. Answers the file that it goes to, and how to wait
    /// until it is on the disk: the sender is dropped when it never will be. A host that waits for one batch before it
    /// gives the next keeps the queue bounded.
    pub fn append(&self, batch: &Batch, written: u32) -> (u32, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.queue();
        let file = self.file();
        if !queue.closed {
            if queue.bytes.is_empty() {
                self.stirred.notify_one();
            }
            queue.bytes.extend_from_slice(&batch.bytes);
            queue.waiters.push(sender);
            if batch.whole && written < file {
                queue.behind = queue.behind.saturating_sub(1);
            }
        }
        (file, receiver)
    }

    /// Nothing more is taken; what waits is still written.
    pub fn close(&self) {
        self.queue().closed = true;
        self.stirred.notify_one();
    }

    /// Waits for something to write. `None`: closed, and nothing is left.
    fn take(&self, spare: &mut Vec<u8>) -> Option<(Vec<oneshot::Sender<()>>, u32)> {
        let mut queue = self.queue();
        while queue.bytes.is_empty() {
            if queue.closed {
                return None;
            }
            queue = self.stirred.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut queue.bytes, spare);
        Some((std::mem::take(&mut queue.waiters), queue.behind))
    }
}

/// The thread's part of the journal.
#[derive(Debug)]
pub struct Keeper {
    journal: Arc<Journal>,
    dir: PathBuf,
    hosts: u32,
    writer: Writer,
    /// Files before the newest.
    old: Vec<PathBuf>,
    /// Length of the newest file when the last book had been written to it.
    base_bytes: Option<u64>,
}

fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("journal-{number:06}"))
}

/// The files in `dir`, in the order written.
fn files(dir: &Path) -> Result<Vec<(u32, PathBuf)>, Error> {
    let io = |source| records::Error::Io { path: dir.display().to_string(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("journal-"));
        if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
            found.push((number, path(dir, number)));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether `dir` holds such a journal.
pub fn exists(dir: &Path) -> bool {
    files(dir).is_ok_and(|files| !files.is_empty())
}

/// Shows every record in `dir` to `take`, with the index of its host, in the order written.
pub fn replay(dir: &Path, take: &mut dyn FnMut(u32, JournalRecord)) -> Result<(), Error> {
    for (_, path) in files(dir)? {
        let (mut number, mut problem) = (0, None);
        let torn_bytes = records::read_each(&path, &mut |payload| {
            number += 1;
            match journal::decode(&path, number, payload) {
                Ok(record) if record.host > 0 => take(record.host - 1, record),
                Ok(_) => problem = problem.take().or_else(|| Some(nobodys(&path, number))),
                Err(e) => problem = problem.take().or(Some(e)),
            }
        })?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        if torn_bytes > 0 {
            tracing::warn!(path = %path.display(), bytes = torn_bytes, "a file of the journal ended in a torn record");
        }
    }
    Ok(())
}

fn nobodys(path: &Path, number: usize) -> Error {
    let problem = "it names no host".to_owned();
    Error::Record { path: path.display().to_string(), number, problem }
}

impl Keeper {
    /// Begins a new file in `dir`, after what is there has been read.
    pub fn open(dir: &Path, hosts: u32) -> Result<(Arc<Journal>, Self), Error> {
        let old = files(dir)?;
        let number = old.last().map_or(1, |(number, _)| number + 1);
        let journal = Arc::new(Journal {
            queue: Mutex::new(Queue { behind: hosts, ..Queue::default() }),
            stirred: Condvar::new(),
            file: AtomicU32::new(number),
        });
        let keeper = Keeper {
            journal: journal.clone(),
            dir: dir.to_owned(),
            hosts,
            writer: begin(&path(dir, number))?,
            old: old.into_iter().map(|(_, path)| path).collect(),
            base_bytes: None,
        };
        Ok((journal, keeper))
    }

    /// Writes until the journal is closed. Blocking. After a failure nobody who waits is told that it is on the disk.
    pub fn run(mut self) -> Result<(), Error> {
        let done = self.write_on();
        let mut queue = self.journal.queue();
        queue.closed = true;
        queue.waiters.clear();
        done
    }

    fn write_on(&mut self) -> Result<(), Error> {
        let length = metrics::gauge!(telemetry::JOURNAL_BYTES);
        let seconds = metrics::histogram!(telemetry::JOURNAL_SYNC_SECONDS);
        let mut bytes = Vec::new();
        while let Some((waiters, behind)) = self.journal.take(&mut bytes) {
            let began = Instant::now();
            self.writer.append_frames(&bytes)?;
            self.writer.sync()?;
            seconds.record(began.elapsed().as_secs_f64());
            length.set(self.writer.length() as f64);
            for waiter in waiters {
                let _gone = waiter.send(());
            }
            if behind == 0 {
                self.all_books_written()?;
            }
            bytes.clear();
            if bytes.capacity() > BUFFER_BYTES_KEPT {
                bytes = Vec::new();
            }
            std::thread::sleep(SYNC_PACE.saturating_sub(began.elapsed()));
        }
        Ok(())
    }

    fn all_books_written(&mut self) -> Result<(), Error> {
        for path in self.old.drain(..) {
            std::fs::remove_file(&path)
                .map_err(|source| records::Error::Io { path: path.display().to_string(), source })?;
        }
        let base_bytes = *self.base_bytes.get_or_insert(self.writer.length());
        if self.writer.length() > FILE_BYTES_MAX.max(base_bytes.saturating_mul(2)) {
            let number = self.journal.file() + 1;
            let writer = begin(&path(&self.dir, number))?;
            self.old.push(path(&self.dir, number - 1));
            self.base_bytes = None;
            self.writer = writer;
            // What waits now was written for the older file. It may as well lie at the head of this one.
            let mut queue = self.journal.queue();
            queue.behind = self.hosts;
            self.journal.file.store(number, Ordering::Release);
            tracing::info!(number, "the journal goes on in a new file");
        }
        Ok(())
    }
}

fn begin(path: &Path) -> Result<Writer, Error> {
    let writer = Writer::create(path)?;
    records::sync_parent(path)?;
    Ok(writer)
}
