//! One attempt to run an instance, and what a host is owed because of it.

use std::sync::Arc;

use proto::{HostId, JobId, Resources, TaskId};

use super::config::{ConfigHash, TaskConfig};
use super::deadline::Due;
use super::status::Status;
use crate::limits::TRANSIENT_TIMEOUT_MS;
use crate::time::Timestamp;

/// A live task. Compact: a cluster may have millions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Never used twice.
    pub id: TaskId,
    /// The job it belongs to.
    pub job: JobId,
    /// The slot of the job it fills.
    pub instance: u32,
    /// Where it is.
    pub status: Status,
    /// PARTITIONED: the status it had.
    pub before: Option<Status>,
    /// What it is.
    pub config: Arc<TaskConfig>,
    /// When it was made.
    pub created: Timestamp,
    /// When it got its status.
    pub since: Timestamp,
    /// When its status expires; zero where it never does.
    pub until: Timestamp,
    /// Where it runs.
    pub host: Option<HostId>,
    /// Those it was given, in the order of the config's names.
    pub ports: Box<[u16]>,
    /// Failures of the instance that count.
    pub failures: u32,
    /// Quick deaths of the instance in a row, before this task.
    pub flaps: u32,
    /// How often it was PARTITIONED.
    pub partitions: u32,
    /// The task it replaces.
    pub ancestor: Option<TaskId>,
    /// That was displaced: it displaces nobody in turn.
    pub displaced: bool,
    /// Why it has its status, in words.
    pub message: Option<Arc<str>>,
    /// Events of it that have a row.
    pub events: u32,
}

impl Task {
    /// What it takes from its host.
    pub fn demand(&self) -> Resources {
        self.config.demand
    }

    /// Its ports with their names: those it was given, then those it has everywhere.
    pub fn named_ports(&self) -> impl Iterator<Item = (&Arc<str>, u16)> {
        let fixed = self.config.static_ports.iter().map(|(name, port)| (name, *port));
        self.config.ports.iter().zip(self.ports.iter().copied()).chain(fixed)
    }

    /// The numbers of all ports that it has on its host.
    pub fn port_numbers(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().copied().chain(self.config.static_ports.iter().map(|(_, port)| *port))
    }

    /// When its status expires, if it does.
    pub fn deadline(&self) -> Option<Timestamp> {
        (self.until > Timestamp(0)).then_some(self.until)
    }

    /// The same, with what happens then.
    pub(super) fn due(&self) -> Option<(Timestamp, Due)> {
        let due = match (self.status, self.host) {
            (Status::Partitioned, Some(host)) => Due::Replacement(host, self.id),
            _ => Due::Task(self.id),
        };
        self.deadline().map(|at| (at, due))
    }

    /// When a status got at `since` expires by itself; a penalty is counted by whoever gives it.
    pub(super) fn expiry(status: Status, since: Timestamp, config: &TaskConfig) -> Timestamp {
        match status {
            Status::Partitioned if !config.partition.reschedule => Timestamp(0),
            Status::Partitioned => since.plus_ms(config.partition.delay_ms),
            status if status.is_transient() => since.plus_ms(TRANSIENT_TIMEOUT_MS),
            _ => Timestamp(0),
        }
    }
}

/// What a host shall do about one task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Start it, unless its journal knows it.
    Start,
    /// Go on with it; report it LOST when it is not there.
    Keep,
    /// Stop it.
    Kill,
}

impl Want {
    /// What a task's status means to its host.
    pub fn of(status: Status) -> Option<Want> {
        match status {
            Status::Assigned => Some(Want::Start),
            Status::Starting | Status::Running | Status::Partitioned => Some(Want::Keep),
            Status::Draining | Status::Killing | Status::Preempting | Status::Restarting => Some(Want::Kill),
            Status::Init
            | Status::Throttled
            | Status::Pending
            | Status::Finished
            | Status::Failed
            | Status::Killed
            | Status::Lost => None,
        }
    }
}

/// All that a host shall run: a task not named here is to be killed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Rises with every change of what the host is owed.
    pub generation: u64,
    /// In id order.
    pub tasks: Vec<WantedTask>,
}

/// One task of a wanted set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedTask {
    /// Which.
    pub id: TaskId,
    /// What to do.
    pub want: Want,
    /// What it is; see `State::config`.
    pub config: ConfigHash,
    /// The slot it fills.
    pub instance: u32,
    /// Name and number of each port.
    pub ports: Vec<(Arc<str>, u16)>,
}
