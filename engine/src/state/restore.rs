//! After a restore: the cluster is held, tasks that wait get new ids, and a person lets it go on.
//!
//! A State that comes back from a backup is older than what hosts run. What hosts report counts; what they run and
//! State does not know is left alone while the cluster is held, and ended once it goes on. A task that waited at the
//! time of the backup may have been started since under its id, so it waits under a new one; one that was on its way
//! to a host is never started under its old id.

use std::sync::Arc;

use proto::{HostId, TaskId};

use super::State;
use super::command::{Done, Hint, Refusal, RefusalKind, Reply};
use super::status::Status;
use super::touch::{Key, Touch};
use super::transition::Birth;
use super::work::{Rest, tasks_per_command};
use crate::limits::SESSION_GRACE_MS;
use crate::time::Timestamp;

impl State {
    /// A session of a higher epoch begins: this State was restored.
    pub(super) fn hold(&mut self, epoch: u64, at: Timestamp, touch: &mut Touch) {
        self.cluster.epoch = epoch;
        self.cluster.held = Some(at);
        self.add_work(Rest::Renew { next: TaskId(0) }, touch);
        touch.hint(Hint::FreezeChanged);
    }

    /// Whether an id was given out before the restore.
    pub(super) fn is_of_before(&self, id: TaskId) -> bool {
        id.0 >> proto::ids::COUNTER_BITS < self.cluster.epoch
    }

    /// Of the tasks from `next` on, a bounded number are looked at; those that wait get new ids. Returns how many
    /// did, and where to go on.
    pub(super) fn renew_tasks(&mut self, next: TaskId, touch: &mut Touch) -> (u32, Option<TaskId>) {
        let mut rest = self.tasks.range(next..).take_while(|(id, _)| self.is_of_before(**id));
        let looked_at: Vec<TaskId> = rest.by_ref().take(tasks_per_command()).map(|(id, _)| *id).collect();
        let next = rest.next().map(|(id, _)| *id);
        let waits = |id: &TaskId| matches!(self.tasks[id].status, Status::Pending | Status::Throttled);
        let waiting: Vec<TaskId> = looked_at.into_iter().filter(waits).collect();
        for &id in &waiting {
            self.renew_task(id, touch);
        }
        (waiting.len() as u32, next)
    }

    fn renew_task(&mut self, id: TaskId, touch: &mut Touch) {
        let clock = self.cluster.clock;
        self.unreserve(id, touch);
        let task = self.unlink_task(id);
        for number in 0..task.events {
            touch.forget_row(super::record::event_key(id, number));
        }
        touch.row(Key::Task(id));
        touch.hint(Hint::TaskPending(id));
        let throttled = task.status == Status::Throttled;
        self.bear_task(
            Birth {
                job: task.job,
                instance: task.instance,
                config: Arc::clone(&task.config),
                failures: task.failures,
                flaps: task.flaps,
                penalty_ms: if throttled { task.until.since_ms(clock).max(1) } else { 0 },
                ancestor: task.ancestor,
                displaced: task.displaced,
            },
            touch,
        );
        self.release(&task.config, touch);
    }

    pub(super) fn resume(&mut self, touch: &mut Touch) -> Reply {
        if self.cluster.held.is_none() {
            return Err(Refusal::new(RefusalKind::Stale, "the cluster is not held: it goes on already"));
        }
        if self.work.values().any(|work| matches!(work.rest, Rest::Renew { .. })) {
            return Err(Refusal::new(
                RefusalKind::Limit,
                "tasks that wait are still being given new ids; try again in a moment",
            ));
        }
        self.cluster.held = None;
        self.cluster.grace_until = self.cluster.clock.plus_ms(SESSION_GRACE_MS);
        touch.row(Key::Cluster);
        touch.hint(Hint::FreezeChanged);
        touch.deadlines();
        let hosts: Vec<HostId> = self.hosts.keys().copied().collect();
        hosts.into_iter().for_each(|host| touch.hint(Hint::HostDirty(host)));
        let work: Vec<_> = self.work.keys().copied().collect();
        work.into_iter().for_each(|work| touch.hint(Hint::WorkDue(work)));
        Ok(Done::default())
    }

    /// While the cluster is held: hosts that have registered since, and all hosts.
    pub fn hosts_back(&self) -> Option<(usize, usize)> {
        let held = self.cluster.held?;
        Some((self.hosts.values().filter(|host| host.record.since >= held).count(), self.hosts.len()))
    }
}
