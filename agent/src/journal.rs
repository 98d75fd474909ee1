//! What the agent may never forget: who it is, whom it obeys, which task ids it has used, what it has reported.
//!
//! `DIR/journal` is a file of records (see `executor::records`), appended and synced before what they stand for is
//! done or said. [`Book`] is what they say together. A journal that grew large is written anew with one launch intent
//! per task, the newest [`BURNED_MAX`](crate::limits::BURNED_MAX) forgotten ones among them, each with its first
//! times: whoever measures or checks launches reads them with [`launches`].
//!
//! A torn tail is cut. Damage before the tail is not guessed about: the agent refuses to start and says what to do.
//! After a failed write or sync nothing more is written, and the agent stops; its tasks go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use executor::records::{self, Writer};
use prost::Message as _;
use proto::wire::{self, JournalRecord, Status, journal_record::Body};
use proto::{Fence, TaskId};

use crate::clock;
use crate::limits::{BURNED_MAX, JOURNAL_BYTES_MAX};
use crate::standing::Standing;

/// Format level of the records.
pub const LEVEL: u32 = 1;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error(
        "the agent's journal cannot be used: {0}; running tasks are not touched. If the file is lost for good, move it away: the agent then begins a new one and adopts what still runs"
    )]
    File(#[from] records::Error),
    /// A record that this version does not know.
    #[error(
        "the agent's journal {path} holds record {number} of format level {level}, and this agent knows up to {LEVEL}: it was written by a newer agent; run that one"
    )]
    Level {
        /// File.
        path: String,
        /// Counted from 1.
        number: usize,
        /// Its level.
        level: u32,
    },
    /// A record without sense.
    #[error(
        "the agent's journal {path}: record {number} makes no sense: {problem}; move the file away to begin anew"
    )]
    Record {
        /// File.
        path: String,
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
}

/// A launch intent, as journaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The task, whose id is used from here on.
    pub task: TaskId,
    /// Of the wanted set.
    pub generation: u64,
    /// Under which it was obeyed.
    pub fence: Fence,
    /// Job key and instance, for people.
    pub job: String,
    /// Wall clock.
    pub at_ms: u64,
    /// CLOCK_BOOTTIME.
    pub boottime_ns: u64,
}

/// One task of the journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// `None`: it was adopted, or reported without having been here.
    pub intent: Option<Intent>,
    /// The executor that was spawned or adopted.
    pub executor: Option<wire::ProcessIdentity>,
    /// The newest.
    pub report: Option<wire::TaskReport>,
}

impl Entry {
    /// The newest status that was reported.
    pub fn status(&self) -> Option<Status> {
        self.report.as_ref().map(wire::TaskReport::status)
    }
    /// Whether a terminal report was made.
    pub fn ended(&self) -> bool {
        self.status().is_some_and(executor::checkpoint::is_terminal)
    }
}

/// What the records say together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Book {
    /// Of the host itself; the book is read as if these were its own fields.
    pub standing: Standing,
    /// Known and not forgotten.
    pub tasks: BTreeMap<TaskId, Entry>,
    pub(crate) burned: BTreeSet<TaskId>,
    pub(crate) burned_order: VecDeque<(TaskId, Option<Intent>)>,
}

impl std::ops::Deref for Book {
    type Target = Standing;
    fn deref(&self) -> &Standing {
        &self.standing
    }
}

impl Book {
    /// Whether the task was here and is forgotten.
    pub fn is_burned(&self, task: TaskId) -> bool {
        self.burned.contains(&task)
    }

    /// Whether the task's id is used.
    pub fn knows(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task) || self.is_burned(task)
    }

    /// Takes in one more record.
    pub fn add(&mut self, record: JournalRecord) {
        let (at_ms, boottime_ns) = (record.at_ms, record.boottime_ns);
        let Some(body) = record.body else { return };
        self.standing.add(&body);
        match body {
            Body::Intent(intent) => {
                let task = TaskId(intent.task_id);
                let fence = intent.fence.as_ref().map(Fence::from).unwrap_or_default();
                let (generation, job) = (intent.generation, intent.job);
                self.tasks.entry(task).or_default().intent =
                    Some(Intent { task, generation, fence, job, at_ms, boottime_ns });
            }
            Body::Launched(launched) => {
                self.tasks.entry(TaskId(launched.task_id)).or_default().executor = launched.executor;
            }
            Body::Report(made) => {
                if let Some(report) = made.report {
                    let entry = self.tasks.entry(TaskId(report.task_id)).or_default();
                    entry.report = Some(report);
                }
            }
            Body::Forgotten(forgotten) => {
                let task = TaskId(forgotten.task_id);
                let intent = self.tasks.remove(&task).and_then(|entry| entry.intent);
                self.burn(task, intent);
            }
            Body::Opened(_) | Body::Obeyed(_) => {}
        }
    }

    fn burn(&mut self, task: TaskId, intent: Option<Intent>) {
        if self.burned.insert(task) {
            self.burned_order.push_back((task, intent));
        }
        while self.burned_order.len() > BURNED_MAX {
            if let Some((oldest, _)) = self.burned_order.pop_front() {
                self.burned.remove(&oldest);
            }
        }
    }

    /// The fewest records that say the same.
    fn records(&self) -> Vec<JournalRecord> {
        let mut records = Vec::new();
        let mut push = |at_ms, boottime_ns, body| {
            records.push(JournalRecord { level: LEVEL, at_ms, boottime_ns, body: Some(body), host: 0 });
        };
        let (at_ms, now_ns) = (clock::wall_ms(), clock::boottime_ns());
        let opened = wire::JournalOpened { identity: Some(self.identity.clone()), sequence: self.sequence };
        push(at_ms, now_ns, Body::Opened(opened));
        if self.fence != Fence::default() || !self.cluster_id.is_empty() {
            push(at_ms, now_ns, Body::Obeyed(self.obeyed()));
        }
        let intent_body = |intent: &Intent| {
            Body::Intent(wire::LaunchIntent {
                task_id: intent.task.0,
                generation: intent.generation,
                fence: Some(intent.fence.into()),
                job: intent.job.clone(),
                pretence: None,
            })
        };
        for (task, intent) in &self.burned_order {
            if let Some(intent) = intent {
                push(intent.at_ms, intent.boottime_ns, intent_body(intent));
            }
            push(at_ms, now_ns, Body::Forgotten(wire::TaskForgotten { task_id: task.0 }));
        }
        for (task, entry) in &self.tasks {
            if let Some(intent) = &entry.intent {
                push(intent.at_ms, intent.boottime_ns, intent_body(intent));
            }
            if let Some(executor) = &entry.executor {
                let launched = wire::Launched { task_id: task.0, executor: Some(executor.clone()) };
                push(at_ms, now_ns, Body::Launched(launched));
            }
            if let Some(report) = &entry.report {
                push(at_ms, now_ns, Body::Report(wire::ReportMade { report: Some(report.clone()) }));
            }
        }
        records
    }
}

/// The open journal and what is in it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    writer: Writer,
    dirty: bool,
    rewritten_bytes: u64,
    book: Book,
}

impl Journal {
    /// Path of the journal in an agent's directory.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("journal")
    }

    /// Opens the journal in `dir`, or makes one. `journal_id` is used for a new one. Says whether it is new.
    pub fn open(dir: &Path, journal_id: impl FnOnce() -> String) -> Result<(Self, bool), Error> {
        let path = Self::path(dir);
        let (writer, read) = match Writer::open_append(&path) {
            Err(e) if e.is_not_found() => {
                let writer = Writer::create(&path)?;
                records::sync_parent(&path)?;
                (writer, records::Read::default())
            }
            other => other?,
        };
        if read.torn_bytes > 0 {
            tracing::warn!(bytes = read.torn_bytes, "the journal ended in a torn record, which was cut");
        }
        let book = replay(&path, read.records)?;
        let fresh = book.identity.journal_id.is_empty();
        let rewritten_bytes = writer.length();
        let mut journal = Journal { path, writer, dirty: false, rewritten_bytes, book };
        if fresh {
            let identity = wire::HostIdentity { journal_id: journal_id(), ..Default::default() };
            journal.opened(identity)?;
        }
        Ok((journal, fresh))
    }

    /// What the journal says.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Writes down who this host is now.
    pub fn opened(&mut self, identity: wire::HostIdentity) -> Result<(), Error> {
        let sequence = self.book.sequence;
        self.append(Body::Opened(wire::JournalOpened { identity: Some(identity), sequence }))?;
        self.sync()?;
        Ok(())
    }

    /// Appends one record, stamped now. It counts after [`Journal::sync`].
    pub fn append(&mut self, body: Body) -> Result<(), Error> {
        let record = JournalRecord {
            level: LEVEL,
            at_ms: clock::wall_ms(),
            boottime_ns: clock::boottime_ns(),
            body: Some(body),
            host: 0,
        };
        self.writer.append(&record.encode_to_vec())?;
        self.dirty = true;
        self.book.add(record);
        Ok(())
    }

    /// Returns when all that was appended is on the disk, and whether there was anything.
    pub fn sync(&mut self) -> Result<bool, Error> {
        if self.dirty {
            self.writer.sync()?;
        }
        Ok(std::mem::take(&mut self.dirty))
    }

    /// Writes the journal anew when it has grown large. Call it after a sync.
    pub fn compact_if_large(&mut self) -> Result<bool, Error> {
        let large = JOURNAL_BYTES_MAX.max(self.rewritten_bytes.saturating_mul(2));
        if self.writer.length() <= large {
            return Ok(false);
        }
        self.compact()?;
        Ok(true)
    }

    /// Writes the journal anew, in place of the old one by a rename.
    fn compact(&mut self) -> Result<(), Error> {
        let new = self.path.with_extension("new");
        if let Err(source) = std::fs::remove_file(&new)
            && source.kind() != std::io::ErrorKind::NotFound
        {
            return Err(records::Error::Io { path: new.display().to_string(), source }.into());
        }
        let mut writer = Writer::create(&new)?;
        for record in self.book.records() {
            writer.append(&record.encode_to_vec())?;
        }
        writer.sync()?;
        std::fs::rename(&new, &self.path)
            .map_err(|source| records::Error::Io { path: self.path.display().to_string(), source })?;
        records::sync_parent(&self.path)?;
        self.rewritten_bytes = writer.length();
        self.writer = writer;
        self.dirty = false;
        Ok(())
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.writer.length()
    }
}

fn replay(path: &Path, payloads: Vec<Vec<u8>>) -> Result<Book, Error> {
    let mut book = Book::default();
    for (index, payload) in payloads.iter().enumerate() {
        book.add(decode(path, index + 1, payload)?);
    }
    Ok(book)
}

/// Reads the record with this number, counted from 1.
pub(crate) fn decode(path: &Path, number: usize, payload: &[u8]) -> Result<JournalRecord, Error> {
    let file = || path.display().to_string();
    let record = JournalRecord::decode(payload).map_err(|e| Error::Record {
        path: file(),
        number,
        problem: e.to_string(),
    })?;
    if record.level > LEVEL {
        return Err(Error::Level { path: file(), number, level: record.level });
    }
    Ok(record)
}

/// Every launch intent in the journal of the agent at `dir`, in the order written: one per task id, or a law is
/// broken. For tests and measurements; the agent may run meanwhile.
pub fn launches(dir: &Path) -> Result<Vec<Intent>, Error> {
    let path = Journal::path(dir);
    let mut launches = Vec::new();
    for (index, payload) in records::read_all(&path)?.records.iter().enumerate() {
        let record = decode(&path, index + 1, payload)?;
        if let Some(Body::Intent(intent)) = record.body {
            launches.push(Intent {
                task: TaskId(intent.task_id),
                generation: intent.generation,
                fence: intent.fence.as_ref().map(Fence::from).unwrap_or_default(),
                job: intent.job,
                at_ms: record.at_ms,
                boottime_ns: record.boottime_ns,
            });
        }
    }
    Ok(launches)
}

#[cfg(test)]
mod tests;
