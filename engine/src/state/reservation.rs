//! Room on a host that is kept for one pending task: after others were displaced for it, or since the task it
//! replaces ran there and was restarted. Only what the task takes is kept; the rest of the host is free for all.

use proto::{HostId, TaskId};

use super::breaks::{Break, broken};
use super::status::Status;
use super::touch::{Key, Touch};
use super::{Due, State};
use crate::time::Timestamp;

/// Kept room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// For whom.
    pub task: TaskId,
    /// Where.
    pub host: HostId,
    /// Until when, if nothing else ends it.
    pub until: Timestamp,
}

impl State {
    /// The room that is kept for a task.
    pub fn reservation(&self, task: TaskId) -> Option<&Reservation> {
        self.reservations.get(&task)
    }

    /// All kept room, by task.
    pub fn reservations(&self) -> impl ExactSizeIterator<Item = &Reservation> {
        self.reservations.values()
    }

    /// Keeps room for a task that waits; an older reservation of it ends.
    pub(super) fn reserve(&mut self, task: TaskId, host: HostId, for_ms: u64, touch: &mut Touch) {
        self.unreserve(task, touch);
        if !self.hosts.get(&host).is_some_and(|host| host.is_open()) {
            return;
        }
        if !self
            .tasks
            .get(&task)
            .is_some_and(|task| matches!(task.status, Status::Pending | Status::Throttled))
        {
            return;
        }
        let until = self.cluster.clock.plus_ms(for_ms);
        self.link_reservation(Reservation { task, host, until });
        touch.row(Key::Reservation(task));
        touch.hint(super::command::Hint::HostDirty(host));
        touch.deadlines();
    }

    /// Enters a reservation; also at load.
    pub(super) fn link_reservation(&mut self, reservation: Reservation) {
        let Reservation { task, host, until } = reservation;
        let demand = self.tasks[&task].demand();
        let host = self.hosts.get_mut(&host).expect("law: kept room is on a known host");
        host.reserved_for.insert(task, demand);
        host.reserved = host.reserved.plus(demand);
        self.deadlines.insert((until, Due::Reservation(task)));
        self.reservations.insert(task, reservation);
    }

    /// Ends a reservation, if there is one.
    pub(super) fn unreserve(&mut self, task: TaskId, touch: &mut Touch) {
        let Some(reservation) = self.reservations.remove(&task) else { return };
        self.deadlines.remove(&(reservation.until, Due::Reservation(task)));
        if let Some(host) = self.hosts.get_mut(&reservation.host)
            && let Some(demand) = host.reserved_for.remove(&task)
        {
            host.reserved = host.reserved.minus_or_zero(demand);
        }
        touch.row(Key::Reservation(task));
        touch.hint(super::command::Hint::HostDirty(reservation.host));
    }

    /// Ends all reservations on a host that gets no tasks any more.
    pub(super) fn unreserve_host(&mut self, host: HostId, touch: &mut Touch) {
        if broken(Break::RoomKept) {
            return;
        }
        let Some(host) = self.hosts.get(&host) else { return };
        let tasks: Vec<TaskId> = host.reserved_for.keys().copied().collect();
        for task in tasks {
            self.unreserve(task, touch);
        }
    }
}
