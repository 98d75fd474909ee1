//! What people see of the host's tasks.

use std::sync::{Arc, PoisonError, RwLock};

use proto::TaskId;
use proto::wire::Status;

use super::Host;
use crate::telemetry;

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Its id.
    pub task: TaskId,
    /// Job key and instance; empty when it was adopted.
    pub job: String,
    /// Newest status reported; `None` = nothing yet.
    pub status: Option<Status>,
    /// Of that report.
    pub message: String,
    /// Of the executor; 0 = none.
    pub executor_pid: i32,
    /// Wall clock of the launch intent in milliseconds; 0 = none.
    pub launched_at_ms: u64,
}

/// All tasks in the journal, by id, and whom the host obeys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The tasks.
    pub tasks: Vec<TaskView>,
    /// 0 = not registered.
    pub host_id: u64,
    /// In words.
    pub fence: String,
}

/// Where the newest view is found.
#[derive(Clone, Debug, Default)]
pub struct Views(Arc<RwLock<Arc<View>>>);

impl Views {
    /// The newest.
    pub fn get(&self) -> Arc<View> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, view: View) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

impl Host {
    pub(super) fn publish(&self) {
        let book = self.journal.book();
        let view = |(id, entry): (&TaskId, &crate::journal::Entry)| TaskView {
            task: *id,
            job: entry.intent.as_ref().map(|intent| intent.job.clone()).unwrap_or_default(),
            status: entry.status(),
            message: entry.report.as_ref().map(|report| report.message.clone()).unwrap_or_default(),
            executor_pid: self.tasks.get(id).and_then(|task| task.executor.as_ref()).map_or(0, |e| e.pid),
            launched_at_ms: entry.intent.as_ref().map_or(0, |intent| intent.at_ms),
        };
        let tasks: Vec<_> = book.tasks.iter().map(view).collect();
        let ended = book.tasks.values().filter(|entry| entry.ended()).count();
        metrics::gauge!(telemetry::TASKS, "state" => "ended").set(ended as f64);
        metrics::gauge!(telemetry::TASKS, "state" => "live").set((tasks.len() - ended) as f64);
        metrics::gauge!(telemetry::JOURNAL_BYTES).set(self.journal.length() as f64);
        self.views.set(View { tasks, host_id: book.host_id, fence: book.fence.to_string() });
    }
}
