//! Deadlines: what is due when. Derived from the tables; a tick expires a bounded number.

use proto::{HostId, JobId, TaskId};

use super::State;
use super::command::{Done, Reply};
use super::place::stale;
use super::status::Event;
use super::touch::{Key, Touch};
use crate::limits::{DEADLINES_PER_COMMAND_MAX, TRANSIENT_TIMEOUT_MS};
use crate::time::Timestamp;

/// What expires.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Due {
    /// A status that should have passed.
    Task(TaskId),
    /// An ended job that was shown long enough.
    Job(JobId),
    /// A host that is silent for too long to be known any more.
    Host(HostId),
    /// Room that was kept for a task long enough.
    Reservation(TaskId),
    /// A PARTITIONED task whose host was silent long enough. These wait in a queue of their own, since they are
    /// limited and may be braked.
    Replacement(HostId, TaskId),
}

impl State {
    pub(super) fn tick(&mut self, touch: &mut Touch) -> Reply {
        let forgotten = self.forget_requests(touch);
        if self.is_stopped() {
            return match forgotten {
                0 => stale("nothing expires while the cluster is frozen or held".to_owned()),
                _ => Ok(Done { id: 0, tasks: forgotten as u32, ..Done::default() }),
            };
        }
        let mut expired = forgotten + self.replace_partitioned(touch);
        while expired < DEADLINES_PER_COMMAND_MAX {
            let Some((_, due)) = self.deadlines.first().filter(|(at, _)| *at <= self.cluster.clock) else {
                break;
            };
            match due.clone() {
                Due::Task(task) | Due::Replacement(_, task) => self.expire_task(task, touch),
                Due::Job(job) => self.expire_job(job, touch),
                Due::Host(host) => expired += self.remove_host(host, "The host stayed silent", touch),
                Due::Reservation(task) => self.unreserve(task, touch),
            }
            expired += 1;
        }
        touch.deadlines();
        Ok(Done { id: 0, tasks: expired as u32, ..Done::default() })
    }

    /// Requests that were remembered long enough; also while nothing else expires, or nobody could ask any more.
    fn forget_requests(&mut self, touch: &mut Touch) -> usize {
        let mut forgotten = 0;
        while forgotten < DEADLINES_PER_COMMAND_MAX
            && self.forgettable.first().is_some_and(|(at, _)| *at <= self.cluster.clock)
            && let Some((_, key)) = self.forgettable.pop_first()
        {
            self.requests.remove(&key);
            touch.row(Key::Request(key));
            forgotten += 1;
        }
        forgotten
    }

    /// Enters what a task waits for.
    pub(super) fn enter_due(&mut self, due: Option<(Timestamp, Due)>) {
        let Some(due) = due else { return };
        match due.1 {
            Due::Replacement(..) => self.replacements.insert(due),
            _ => self.deadlines.insert(due),
        };
    }

    /// Takes it out again.
    pub(super) fn drop_due(&mut self, due: Option<(Timestamp, Due)>) {
        let Some(due) = due else { return };
        match due.1 {
            Due::Replacement(..) => self.replacements.remove(&due),
            _ => self.deadlines.remove(&due),
        };
    }

    pub(super) fn expire_task(&mut self, id: TaskId, touch: &mut Touch) {
        use super::status::Status;
        let Some(task) = self.tasks.get(&id) else { return };
        let grace = self.cluster.grace_until;
        if task.status.is_transient() && self.cluster.clock < grace {
            self.alter_task(id, |task| task.until = grace);
            touch.row(Key::Task(id));
            return;
        }
        if task.config.at_most_one && task.status.is_transient() {
            // The host is heard and has not said that it ended: a second copy could live beside it.
            return self.insist(id, touch);
        }
        let message = match task.status {
            Status::Throttled => "Penalty served",
            Status::Partitioned => "The host is silent",
            _ => "Task timed out",
        };
        self.step_task(id, Event::Expired, Some(message), touch);
    }

    /// A task that must have ended before it is replaced did not end in time: its host is told again.
    fn insist(&mut self, id: TaskId, touch: &mut Touch) {
        use super::status::Status;
        let until = self.cluster.clock.plus_ms(TRANSIENT_TIMEOUT_MS);
        let task = &self.tasks[&id];
        if matches!(task.status, Status::Assigned | Status::Starting) {
            self.step_task(id, Event::Restart, Some("Task timed out"), touch);
            return;
        }
        let host = task.host;
        self.alter_task(id, |task| task.until = until);
        touch.row(Key::Task(id));
        if let Some(host) = host {
            self.owe(host, touch);
        }
    }
}
