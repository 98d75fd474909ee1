//! Task status, and the whole table of what an event does to it.
//!
//! The table is total: every (status, event) cell is decided here, `testdata/status_table.txt` shows it to people.
//! `None` as the status is a task that State does not have alive: an agent may still run it.
//!
//! Where it differs from Aurora's: a service that finishes while PARTITIONED is replaced; a batch task that
//! finishes with success while it is drained, preempted or restarted is not run again; ASSIGNED may become
//! PARTITIONED, STARTING times out and PARTITIONED may end KILLED, so that nothing hangs for ever.

use std::fmt;

/// Where a task is, with Aurora's names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Status {
    /// Never at rest.
    Init,
    /// Waits out a flapping penalty.
    Throttled,
    /// Waits for a place.
    Pending,
    /// Has a host; the host is told to start it.
    Assigned,
    /// The host has begun.
    Starting,
    /// Runs.
    Running,
    /// Is stopped since its host is drained; is replaced.
    Draining,
    /// Is stopped for good.
    Killing,
    /// Is stopped in favour of another; is replaced.
    Preempting,
    /// Is stopped to be started anew elsewhere.
    Restarting,
    /// Its host is silent.
    Partitioned,
    /// Ended with success.
    Finished,
    /// Ended without.
    Failed,
    /// Ended by a kill.
    Killed,
    /// Ended since its host or its traces are gone.
    Lost,
}

use Status::*;

impl Status {
    /// All of them, in order.
    pub const ALL: [Status; 15] = [
        Init,
        Throttled,
        Pending,
        Assigned,
        Starting,
        Running,
        Draining,
        Killing,
        Preempting,
        Restarting,
        Partitioned,
        Finished,
        Failed,
        Killed,
        Lost,
    ];

    /// Whether the task has ended.
    pub fn is_terminal(self) -> bool {
        matches!(self, Finished | Failed | Killed | Lost)
    }

    /// Whether a host carries the task.
    pub fn is_on_host(self) -> bool {
        matches!(
            self,
            Assigned | Starting | Running | Draining | Killing | Preempting | Restarting | Partitioned
        )
    }

    /// Whether the status should pass soon, and times out otherwise.
    pub fn is_transient(self) -> bool {
        matches!(self, Assigned | Starting | Draining | Killing | Preempting | Restarting)
    }

    /// Whether the task is being stopped on purpose.
    pub fn is_deliberate_end(self) -> bool {
        matches!(self, Draining | Killing | Preempting | Restarting)
    }

    /// Aurora's name.
    pub fn name(self) -> &'static str {
        match self {
            Init => "INIT",
            Throttled => "THROTTLED",
            Pending => "PENDING",
            Assigned => "ASSIGNED",
            Starting => "STARTING",
            Running => "RUNNING",
            Draining => "DRAINING",
            Killing => "KILLING",
            Preempting => "PREEMPTING",
            Restarting => "RESTARTING",
            Partitioned => "PARTITIONED",
            Finished => "FINISHED",
            Failed => "FAILED",
            Killed => "KILLED",
            Lost => "LOST",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What may happen to a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It is born without a penalty.
    Born,
    /// It is born with a flapping penalty.
    Throttle,
    /// A round found a place.
    Place,
    /// A person or an ended job wants it gone.
    Kill,
    /// A person wants it started anew.
    Restart,
    /// Its host is drained.
    Drain,
    /// Another task needs its place.
    Preempt,
    /// The host says: I have it, not yet begun.
    SaysAssigned,
    /// The host says: begun.
    SaysStarting,
    /// The host says: it runs.
    SaysRunning,
    /// The host says: ended with success.
    SaysFinished,
    /// The host says: ended without success.
    SaysFailed,
    /// The host says: killed.
    SaysKilled,
    /// The host says: not here, or its traces are gone.
    SaysLost,
    /// The host was not heard for too long, or came back as another.
    HostSilent,
    /// The status' deadline passed.
    Expired,
}

impl Event {
    /// All of them, in order.
    pub const ALL: [Event; 16] = [
        Event::Born,
        Event::Throttle,
        Event::Place,
        Event::Kill,
        Event::Restart,
        Event::Drain,
        Event::Preempt,
        Event::SaysAssigned,
        Event::SaysStarting,
        Event::SaysRunning,
        Event::SaysFinished,
        Event::SaysFailed,
        Event::SaysKilled,
        Event::SaysLost,
        Event::HostSilent,
        Event::Expired,
    ];

    /// What a host's report of `status` means; `None` for a status that only State gives.
    pub fn of_report(status: Status) -> Option<Event> {
        match status {
            Assigned => Some(Event::SaysAssigned),
            Starting => Some(Event::SaysStarting),
            Running => Some(Event::SaysRunning),
            Finished => Some(Event::SaysFinished),
            Failed => Some(Event::SaysFailed),
            Killed => Some(Event::SaysKilled),
            Lost => Some(Event::SaysLost),
            Init | Throttled | Pending | Draining | Killing | Preempting | Restarting | Partitioned => None,
        }
    }
}

/// When an ended task gets a successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replace {
    /// Never.
    Never,
    /// If the job is a service.
    Service,
    /// If the job is a service or may fail once more.
    Retry,
    /// Always.
    Always,
}

/// What an event does to a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The task goes on, in another status.
    Move(Status),
    /// The task ends.
    End {
        /// Terminal.
        to: Status,
        /// Whether this counts as a failure of the task.
        fails: bool,
        /// Whether a successor is made.
        replace: Replace,
    },
    /// The task disappears without history: it never reached a host.
    Delete,
    /// Late, repeated or meaningless: nothing changes.
    Ignore,
    /// The host runs what it shall not; it is owed its wanted set again.
    KillAgain,
    /// A decision that does not apply to the status: refused.
    Illegal,
}

const fn end(to: Status, replace: Replace) -> Verdict {
    Verdict::End { to, fails: false, replace }
}

/// The table. `None` is a task that State does not have alive on the host that speaks.
pub fn step(from: Option<Status>, event: Event) -> Verdict {
    use Event::*;
    use Verdict::{Delete, Ignore, Illegal, KillAgain, Move};
    let Some(from) = from else { return step_ended(event) };
    match (from, event) {
        (Init, Born) => Move(Pending),
        (Init, Throttle) => Move(Throttled),
        (Init, Kill) => Delete,
        (Init, Expired) => Ignore,
        (
            Init,
            Place | Restart | Drain | Preempt | SaysAssigned | SaysStarting | SaysRunning | SaysFinished
            | SaysFailed | SaysKilled | SaysLost | HostSilent,
        ) => Illegal,

        (Throttled, Expired) => Move(Pending),
        (Pending, Place) => Move(Assigned),
        (Throttled | Pending, Kill) => Delete,
        (Throttled, Restart) => Move(Pending),
        (Throttled | Pending, Drain | HostSilent) | (Pending, Restart | Expired) => Ignore,
        (Throttled, Place) => Illegal,
        (
            Throttled | Pending,
            Born | Throttle | Preempt | SaysAssigned | SaysStarting | SaysRunning | SaysFinished | SaysFailed
            | SaysKilled | SaysLost,
        ) => Illegal,

        (Assigned, SaysStarting) => Move(Starting),
        (Assigned | Starting, SaysRunning) => Move(Running),
        (Assigned | Starting | Running, Kill) => Move(Killing),
        (Assigned | Starting | Running, Restart) => Move(Restarting),
        (Assigned | Starting | Running, Drain) => Move(Draining),
        (Assigned | Starting | Running, Preempt) => Move(Preempting),
        (Assigned | Starting | Running, HostSilent) => Move(Partitioned),
        (Assigned | Starting | Running, SaysFinished) => end(Finished, Replace::Service),
        (Assigned | Starting | Running | Partitioned, SaysFailed) => {
            Verdict::End { to: Failed, fails: true, replace: Replace::Retry }
        }
        (Assigned | Starting | Running, SaysKilled) => end(Killed, Replace::Always),
        (Assigned | Starting | Running, SaysLost) | (Assigned | Starting, Expired) => {
            end(Lost, Replace::Always)
        }
        (Assigned, SaysAssigned)
        | (Starting, SaysAssigned | SaysStarting)
        | (Running, SaysAssigned | SaysStarting | SaysRunning | Expired) => Ignore,
        (Assigned | Starting | Running, Born | Throttle | Place) => Illegal,

        (Draining | Preempting | Restarting, SaysFinished) => end(Finished, Replace::Service),
        (Draining | Preempting | Restarting, SaysFailed) => end(Failed, Replace::Always),
        (Draining | Preempting | Restarting, SaysKilled) => end(Killed, Replace::Always),
        (Draining | Preempting | Restarting, SaysLost | HostSilent | Expired) => end(Lost, Replace::Always),
        (Draining | Preempting | Restarting, Kill) => Move(Killing),
        (Draining | Preempting | Restarting, Restart | Drain) => Ignore,
        (Draining | Preempting | Restarting, Born | Throttle | Place | Preempt) => Illegal,

        (Killing, SaysFinished) => end(Finished, Replace::Never),
        (Killing, SaysFailed) => end(Failed, Replace::Never),
        (Killing, SaysKilled) => end(Killed, Replace::Never),
        (Killing, SaysLost | HostSilent | Expired) => end(Lost, Replace::Never),
        (Killing, Kill | Restart | Drain) => Ignore,
        (Killing, Born | Throttle | Place | Preempt) => Illegal,
        (Draining | Preempting | Restarting | Killing, SaysAssigned | SaysStarting | SaysRunning) => {
            KillAgain
        }

        (Partitioned, SaysAssigned) => Move(Assigned),
        (Partitioned, SaysStarting) => Move(Starting),
        (Partitioned, SaysRunning) => Move(Running),
        (Partitioned, SaysFinished) => end(Finished, Replace::Service),
        (Partitioned, SaysKilled) => end(Killed, Replace::Always),
        (Partitioned, SaysLost | Expired | Restart | Drain | Preempt) => end(Lost, Replace::Always),
        (Partitioned, Kill) => end(Lost, Replace::Never),
        (Partitioned, HostSilent) => Ignore,
        (Partitioned, Born | Throttle | Place) => Illegal,

        (Finished | Failed | Killed | Lost, event) => step_ended(event),
    }
}

/// The row of the table for a task that has ended or was never known.
fn step_ended(event: Event) -> Verdict {
    use Event::*;
    match event {
        SaysAssigned | SaysStarting | SaysRunning => Verdict::KillAgain,
        Kill | SaysFinished | SaysFailed | SaysKilled | SaysLost | HostSilent | Expired => Verdict::Ignore,
        Born | Throttle | Place | Restart | Drain | Preempt => Verdict::Illegal,
    }
}
