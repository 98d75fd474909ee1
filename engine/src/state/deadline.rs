//! Deadlines: what is due when. Derived from the tables; a tick expires a bounded number.

use std::sync::Arc;

use proto::{HostId, JobId, TaskId};

use super::State;
use super::command::{Done, Refusal, RefusalKind, Reply};
use super::request::RequestKey;
use super::status::Event;
use super::touch::{Key, Touch};
use crate::limits::DEADLINES_PER_COMMAND_MAX;

/// What expires.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Due {
    /// A status that should have passed.
    Task(TaskId),
    /// An ended job that was shown long enough.
    Job(JobId),
    /// A host that is silent for too long to be known any more.
    Host(HostId),
    /// The memory of a request.
    Request(Arc<RequestKey>),
    /// Room that was kept for a task long enough.
    Reservation(TaskId),
}

impl State {
    pub(super) fn tick(&mut self, touch: &mut Touch) -> Reply {
        if self.is_stopped() {
            return Err(Refusal::new(
                RefusalKind::Stale,
                "nothing expires while the cluster is frozen or held",
            ));
        }
        let mut expired = 0;
        while expired < DEADLINES_PER_COMMAND_MAX {
            let Some((_, due)) = self.deadlines.first().filter(|(at, _)| *at <= self.cluster.clock) else {
                break;
            };
            match due.clone() {
                Due::Task(task) => self.expire_task(task, touch),
                Due::Job(job) => self.remove_job(job, touch),
                Due::Host(host) => expired += self.remove_host(host, "The host stayed silent", touch),
                Due::Reservation(task) => self.unreserve(task, touch),
                Due::Request(key) => {
                    self.deadlines.pop_first();
                    self.requests.remove(&key);
                    touch.row(Key::Request(key));
                }
            }
            expired += 1;
        }
        touch.deadlines();
        Ok(Done { id: 0, tasks: expired as u32 })
    }

    fn expire_task(&mut self, id: TaskId, touch: &mut Touch) {
        use super::status::Status;
        let Some(task) = self.tasks.get(&id) else { return };
        let grace = self.cluster.grace_until;
        if task.status.is_transient() && self.cluster.clock < grace {
            self.alter_task(id, |task| task.until = grace);
            touch.row(Key::Task(id));
            return;
        }
        let message = match task.status {
            Status::Throttled => "Penalty served",
            Status::Partitioned => "The host is silent",
            _ => "Task timed out",
        };
        self.step_task(id, Event::Expired, Some(message), touch);
    }
}
