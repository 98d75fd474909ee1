//! Writes the checkpoint. A record that cannot be written now is kept and tried again, in order.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;
use proto::wire::checkpoint_record::Body;
use proto::wire::{CheckpointRecord, ExecutorStarted, ProcessRecord, ProcessState, Status, TaskRecord};

use crate::checkpoint::is_terminal;
use crate::graph::Exit;
use crate::identity::ProcessIdentity;
use crate::records::{self, Writer};

/// Most records that wait; beyond, the oldest are given up. The terminal one is the newest.
const WAITING_MAX: usize = 1_000;

pub(super) struct Journal {
    path: PathBuf,
    writer: Writer,
    waiting: VecDeque<Vec<u8>>,
    /// Whether the end of the task is among what was written and is not synced yet.
    to_sync: bool,
}

impl Journal {
    pub(super) fn create(path: &Path) -> Result<Self, std::io::Error> {
        let writer = Writer::create(path).map_err(std::io::Error::other)?;
        Ok(Journal { path: path.into(), writer, waiting: VecDeque::new(), to_sync: false })
    }

    pub(super) fn executor(&mut self, identity: ProcessIdentity) {
        self.push(Body::Executor(ExecutorStarted { identity: Some(identity) }));
    }

    pub(super) fn process(
        &mut self,
        name: &str,
        run: u32,
        state: ProcessState,
        identity: Option<ProcessIdentity>,
        exit: &Exit,
    ) {
        let (exit_code, signal) = match exit {
            Exit::Code(code) => (*code, 0),
            Exit::Signal(signal) => (0, *signal),
            Exit::OutOfMemory => (0, libc::SIGKILL),
            Exit::NotStarted(_) => (-1, 0),
        };
        let name = name.to_owned();
        self.push(Body::Process(ProcessRecord {
            name,
            run,
            state: state.into(),
            identity,
            exit_code,
            signal,
        }));
    }

    pub(super) fn task(&mut self, status: Status, message: &str) {
        self.to_sync |= is_terminal(status);
        self.push(Body::Task(TaskRecord { status: status.into(), message: message.to_owned() }));
    }

    /// Whether something waits to be written or synced.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty() || self.to_sync
    }

    /// Writes what waits, and syncs the end of the task.
    pub(super) fn flush(&mut self) -> Result<(), records::Error> {
        let flushed = self.try_flush();
        if flushed.is_err()
            && let Ok((writer, _)) = Writer::open_append(&self.path)
        {
            // A failed sync spoils a writer; the next try is with a new one.
            self.writer = writer;
        }
        flushed
    }

    fn try_flush(&mut self) -> Result<(), records::Error> {
        self.try_append()?;
        if self.to_sync {
            self.writer.sync()?;
            records::sync_parent(&self.path)?;
            self.to_sync = false;
        }
        Ok(())
    }

    fn push(&mut self, body: Body) {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let record = CheckpointRecord { level: crate::LEVEL, at_ms, body: Some(body) };
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(record.encode_to_vec());
        // What fails here is tried again by `flush`, which says so.
        let _ = self.try_append();
    }

    fn try_append(&mut self) -> Result<(), records::Error> {
        while let Some(record) = self.waiting.front() {
            self.writer.append(record)?;
            self.waiting.pop_front();
        }
        Ok(())
    }
}
