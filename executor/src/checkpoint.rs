//! The file `checkpoint`: what happened to the task, one record after another; and its summary.
//!
//! Written by the executor alone, read by anybody. A terminal record is synced before the executor ends; the others
//! only have to survive the executor, since a machine that lost them has lost the processes as well.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::wire::{CheckpointRecord, ProcessState, Status, checkpoint_record::Body};

use crate::identity::{self, ProcessIdentity};
use crate::layout::TaskDir;
use crate::records;

/// What the records say together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// The newest; `None` = the executor has not come that far.
    pub status: Option<Status>,
    /// Of the newest status, for people.
    pub message: String,
    /// The executor, once it started.
    pub executor: Option<ProcessIdentity>,
    /// By name; only those that were started at least once.
    pub processes: BTreeMap<String, ProcessSummary>,
    /// Every process that was ever started, and may have left children.
    pub started: Vec<ProcessIdentity>,
    /// Wall clock of the newest record, in milliseconds; 0 = no record.
    pub at_ms: u64,
    /// See [`records::Read::torn_bytes`].
    pub torn_bytes: u64,
    /// Records that this version does not know, written by a newer one.
    pub unknown_records: u64,
}

/// The newest run of one process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessSummary {
    /// Counts from 0.
    pub run: u32,
    /// As recorded; a process that ended with its executor is still `Running` here.
    pub state: ProcessState,
    /// While it runs, and of the run that ended last.
    pub identity: Option<ProcessIdentity>,
    /// Of an exit that was not by a signal.
    pub exit_code: i32,
    /// 0 = none.
    pub signal: i32,
}

/// Whether a task with this status has ended for good.
pub fn is_terminal(status: Status) -> bool {
    matches!(status, Status::Finished | Status::Failed | Status::Killed | Status::Lost)
}

impl Summary {
    /// Whether the task has ended for good.
    pub fn is_terminal(&self) -> bool {
        self.status.is_some_and(is_terminal)
    }

    /// Whether the executor that wrote this still runs.
    pub fn executor_is_alive(&self) -> bool {
        self.executor.as_ref().is_some_and(identity::is_alive)
    }

    /// Takes in one more record.
    pub fn add(&mut self, record: CheckpointRecord) {
        self.at_ms = record.at_ms;
        match record.body {
            Some(Body::Executor(started)) => self.executor = started.identity,
            Some(Body::Task(task)) => {
                self.status = Some(task.status());
                self.message = task.message;
            }
            Some(Body::Process(process)) => {
                let entry = self.processes.entry(process.name.clone()).or_default();
                entry.state = process.state();
                entry.run = process.run;
                entry.exit_code = process.exit_code;
                entry.signal = process.signal;
                if let Some(identity) = process.identity {
                    self.started.push(identity.clone());
                    entry.identity = Some(identity);
                }
            }
            None => self.unknown_records += 1,
        }
    }
}

/// The summary of a task's checkpoint; a missing file is an empty summary.
pub fn read(dir: &TaskDir) -> Result<Summary, records::Error> {
    let path = dir.checkpoint();
    let read = match records::read_all(&path) {
        Ok(read) => read,
        Err(e) if e.is_not_found() => return Ok(Summary::default()),
        Err(e) => return Err(e),
    };
    let mut summary = Summary { torn_bytes: read.torn_bytes, ..Summary::default() };
    for record in read.records {
        match CheckpointRecord::decode(&record[..]) {
            Ok(record) => summary.add(record),
            Err(_) => summary.unknown_records += 1,
        }
    }
    Ok(summary)
}
