//! What one command touched: gathered while it is applied, turned into rows and hints at its end.

use std::sync::Arc;

use proto::{HostId, JobId, JobKey, TaskId, WorkId};

use super::State;
use super::command::{Change, Hint};
use super::config::ConfigHash;
use super::job::EndedTask;
use super::record::{self, RowValue};
use super::request::RequestKey;
use super::status::Status;
use super::task::Task;
use crate::time::Timestamp;

/// One event of a task's life; a row only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventRecord {
    /// Whose.
    pub task: TaskId,
    /// Counted from 0.
    pub number: u32,
    /// The status it got.
    pub status: Status,
    /// When.
    pub at: Timestamp,
    /// Why, in words.
    pub message: Option<Arc<str>>,
}

/// A row of State.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    Cluster,
    Config(ConfigHash),
    Job(JobId),
    Task(TaskId),
    Host(HostId),
    Request(Arc<RequestKey>),
    Work(WorkId),
    Role(Arc<str>),
    Reservation(TaskId),
    Update(JobId),
    Cron(Arc<JobKey>),
}

#[derive(Default)]
pub(crate) struct Touch {
    keys: Vec<Key>,
    changed: Vec<Change>,
    hints: Vec<Hint>,
}

impl Touch {
    pub(crate) fn row(&mut self, key: Key) {
        if self.keys.last() != Some(&key) {
            self.keys.push(key);
        }
    }

    pub(crate) fn hint(&mut self, hint: Hint) {
        if self.hints.last() != Some(&hint) {
            self.hints.push(hint);
        }
    }

    pub(crate) fn deadlines(&mut self) {
        self.hint(Hint::DeadlineChanged);
    }

    pub(crate) fn event(&mut self, event: EventRecord) {
        let key = record::event_key(event.task, event.number);
        self.changed.push(Change { key, row: Some(RowValue::Event(event)) });
    }

    pub(crate) fn history(&mut self, task: Task) {
        self.changed.push(Change { key: record::history_key(task.id), row: Some(RowValue::History(task)) });
    }

    pub(crate) fn recent(&mut self, ended: &Arc<EndedTask>) {
        self.changed
            .push(Change { key: record::recent_key(ended), row: Some(RowValue::Recent(ended.clone())) });
    }

    pub(crate) fn forget_recent(&mut self, ended: &EndedTask) {
        let key = record::recent_key(ended);
        self.changed.push(Change { key, row: None });
    }

    pub(crate) fn forget_row(&mut self, key: Vec<u8>) {
        self.changed.push(Change { key, row: None });
    }

    /// Rows as State has them now, each key once, the last word winning; and each hint once.
    pub(crate) fn settle(self, state: &State) -> (Vec<Change>, Vec<Hint>) {
        let Touch { mut keys, mut changed, mut hints } = self;
        keys.sort_unstable();
        keys.dedup();
        changed.reserve(keys.len());
        changed.extend(keys.into_iter().map(|key| record::change(state, &key)));
        // Stable: of several changes to one key the last one stays.
        changed.sort_by(|a, b| a.key.cmp(&b.key));
        let mut kept: Vec<Change> = Vec::with_capacity(changed.len());
        for change in changed {
            match kept.last_mut() {
                Some(last) if last.key == change.key => *last = change,
                _ => kept.push(change),
            }
        }
        hints.sort_unstable();
        hints.dedup();
        (kept, hints)
    }
}
