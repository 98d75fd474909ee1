//! What is said and done about all live tasks together: leases, what may be lent, the digest.

use executor::control;
use proto::digest;
use proto::wire::Status;

use super::Host;
use super::tasks::Task;
use crate::clock;

impl Host {
    /// Tells the executors of tasks of which at most one copy may live, once a leader has acknowledged a later heartbeat.
    /// One that cannot hear it now is told with the next, a second later.
    pub(super) fn renew_leases(&mut self) {
        if self.leased_until_ns <= self.lease_told_ns {
            return;
        }
        self.lease_told_ns = self.leased_until_ns;
        let request = control::lease(self.leased_until_ns);
        for (id, task) in self.tasks.iter().filter(|(_, task)| task.leased && task.is_alive()) {
            if let Err(e) = control::tell(&task.dir.control_socket(), &request) {
                tracing::debug!(task = %id, error = %e, "an executor did not hear of its lease");
            }
        }
    }

    /// Looks what tasks use, when it is time.
    pub(super) fn measure(&mut self) {
        let now_ms = clock::boottime_ms();
        if self.setup.cgroups.is_none() || !self.usage.is_due(now_ms) {
            return;
        }
        let tasks = self.tasks.iter().filter(|(_, task)| task.is_alive()).filter_map(|(id, task)| {
            let (reserved, cgroup) = (task.reserved?, task.cgroup.as_ref()?);
            Some((*id, reserved, cgroup.used()))
        });
        self.usage.sample(now_ms, tasks);
        self.lend();
    }

    /// What may be lent, now that samples were taken or tasks have come or gone.
    pub(super) fn lend(&mut self) {
        self.usage.retain(|task| self.tasks.get(&task).is_some_and(Task::is_alive));
        self.unused = self.setup.cgroups.as_ref().map(|_| self.usage.unused(clock::boottime_ms()));
    }

    /// The digest of the journal's live tasks. One whose executor has not said a word yet is ASSIGNED.
    pub(super) fn digest_of_tasks(&self) -> u64 {
        let live = self.journal.book().tasks.iter().filter(|(_, entry)| !entry.ended());
        digest::of_host(live.map(|(id, entry)| (*id, entry.status().unwrap_or(Status::Assigned))))
    }

    /// Whether the leader can know the same of all tasks: every report is acknowledged, and what it wants is obeyed.
    pub(super) fn is_settled(&self) -> bool {
        self.outbox.is_empty() && self.wanted.as_ref().is_some_and(|wanted| wanted.generation == self.obeys)
    }

    /// What the next heartbeat says. The digest only when the leader can know the same, and has said so on this stream.
    pub(super) fn say_state(&self) {
        let Some(session) = &self.session else { return };
        let heard = session.generation() == self.obeys;
        let digest = if heard && self.is_settled() { self.digest } else { 0 };
        session.set_state(self.unused, digest);
    }
}
