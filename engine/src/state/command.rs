//! All that can ever change State, and what comes back.

use std::collections::BTreeSet;

use proto::{HostId, JobId, JobKey, Resources, TaskId, WorkId};

use super::config::JobSpec;
use super::host::{HostIdentity, HostSpec};
use super::record::RowValue;
use super::status::Status;
use crate::limits::LEVEL_FIRST;
use crate::time::Timestamp;

/// One entry of the log, as the engine sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// What of `apply`'s behaviour it counts on.
    pub level: u32,
    /// State's time, stamped by the leader.
    pub at: Timestamp,
    /// Who asked, where a person or a tool did.
    pub request: Option<Request>,
    /// What to do.
    pub op: Op,
}

impl Command {
    /// A command that nobody outside asked for, of the level that its op needs.
    pub fn new(at: Timestamp, op: Op) -> Command {
        Command { level: op.level(), at, request: None, op }
    }

    /// The same, as asked by `request`.
    pub fn by(self, request: Request) -> Command {
        Command { request: Some(request), ..self }
    }
}

/// Who asked, and under which id; a repeated one gets the first one's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Of the caller.
    pub identity: String,
    /// Unique per identity.
    pub id: String,
    /// When the id was made.
    pub created: Timestamp,
    /// Of what was asked; another body under the same id is refused.
    pub body_hash: Vec<u8>,
}

/// What a command does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// First command of every leader session.
    StartSession(StartSession),
    /// A new job with all its tasks.
    CreateJob(JobSpec),
    /// Ends tasks of a job for good.
    KillTasks {
        /// Which job.
        job: JobKey,
        /// Which instances; empty = all.
        instances: Vec<u32>,
        /// Why, in words.
        message: String,
    },
    /// A host says who it is and what it offers.
    RegisterHost {
        /// Who.
        identity: HostIdentity,
        /// What.
        spec: HostSpec,
        /// Tasks that it has. A host that lost its journal loses only the others.
        held: BTreeSet<TaskId>,
    },
    /// Places for pending tasks. Each placement is re-checked alone: those that still hold are made.
    Assign(Assign),
    /// What one host says of its tasks.
    ApplyReports {
        /// Which host.
        host: HostId,
        /// Its journal; another one's reports are refused.
        journal: String,
        /// In the order in which they were made.
        reports: Vec<Report>,
    },
    /// The leader has not heard a host for too long.
    Silence {
        /// Which host.
        host: HostId,
        /// Its registration (`HostRecord::since`) that went silent; a newer one is heard.
        since: Timestamp,
    },
    /// Deadlines that are due expire, a bounded number at a time.
    Tick,
    /// The next step of a work item.
    AdvanceWork(WorkId),
    /// No placements, no silence and no expiry, until thawed.
    Freeze {
        /// Or thaw.
        frozen: bool,
    },
    /// A cluster that is held after a restore goes on.
    Resume,
    /// Tasks are stopped and started anew.
    RestartTasks {
        /// Which job.
        job: JobKey,
        /// Which instances; empty = all.
        instances: Vec<u32>,
        /// Why, in words.
        message: String,
    },
    /// More instances of a job that lives.
    AddInstances {
        /// Which job.
        job: JobKey,
        /// The instance whose config they get.
        like: u32,
        /// How many.
        count: u32,
    },
    /// What a role's production tasks may take in sum.
    SetQuota {
        /// Whose.
        role: String,
        /// How much.
        quota: Resources,
        /// It is added to what the role has.
        increment: bool,
    },
    /// The hosts get no new tasks, and theirs move away.
    DrainHosts {
        /// Their names.
        hosts: Vec<String>,
        /// Why, in words.
        message: String,
    },
    /// The hosts get tasks again.
    ActivateHosts {
        /// Their names.
        hosts: Vec<String>,
    },
    /// Tasks of one host make room for another task; the room is kept for it.
    Preempt(Preempt),
    /// Placements that are made together or not at all.
    AssignTogether(Vec<Assign>),
    /// What may be lent to revocable tasks of a host has changed.
    ReportUnused {
        /// Which host.
        host: HostId,
        /// What its other tasks have reserved and do not use.
        unused: Resources,
    },
    /// A job moves to another config or number of instances, some instances at a time.
    StartUpdate(JobSpec),
    /// These instances get what the update wants.
    UpdateInstances {
        /// Which job.
        job: JobKey,
        /// Which instances.
        instances: Vec<u32>,
    },
    /// What the update wants is what the job is.
    EndUpdate {
        /// Which job.
        job: JobKey,
    },
    /// A template of a job, and when it runs; replaces an older one.
    PutCron {
        /// What each run is.
        spec: JobSpec,
        /// When.
        schedule: String,
    },
    /// A template goes.
    DropCron {
        /// Which job.
        job: JobKey,
    },
    /// The job is made from its template, unless it lives.
    RunCron {
        /// Which job.
        job: JobKey,
    },
    /// From here on State acts at a higher level.
    RaiseLevel {
        /// Which.
        to: u32,
    },
    /// State's clock goes forward, however far that is.
    SetClock {
        /// What it shows then.
        to: Timestamp,
    },
}

impl Op {
    /// The level that State must have for it. One that is raised is needed to read the command that raises it.
    pub fn level(&self) -> u32 {
        match self {
            Op::RaiseLevel { to } => (*to).max(2),
            Op::SetClock { .. } => 2,
            _ => LEVEL_FIRST,
        }
    }
}

/// First command of a leader session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StartSession {
    /// Raft's.
    pub term: u64,
    /// Node id.
    pub leader: u64,
    /// Readings of a quorum's clocks; they allow a jump of State's time.
    pub wall_clocks: Vec<Timestamp>,
    /// Name of the cluster; taken by a State that has none.
    pub cluster: String,
    /// Id of the cluster's lineage; taken by a State that has none.
    pub lineage: String,
    /// Taken by a State that has none.
    pub epoch: u64,
}

/// Places on one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assign {
    /// Which host.
    pub host: HostId,
    /// What it gets.
    pub placements: Vec<Placement>,
}

/// A place for one task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Which task.
    pub task: TaskId,
    /// Its ports, in the order of the config's names.
    pub ports: Vec<u16>,
}

/// Whom to displace on one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preempt {
    /// Where.
    pub host: HostId,
    /// The pending task that gets the room.
    pub task: TaskId,
    /// Whose room.
    pub victims: Vec<TaskId>,
}

/// What a host says of one task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Which task.
    pub task: TaskId,
    /// Where it is.
    pub status: Status,
    /// Why, in words.
    pub message: String,
    /// Per journal, rising.
    pub sequence: u64,
}

/// What `apply` gives back.
#[derive(Clone, Debug)]
pub struct Applied {
    /// For who asked.
    pub reply: Reply,
    /// Rows that changed, each key once.
    pub changed: Vec<Change>,
    /// Where to look now.
    pub hints: Vec<Hint>,
}

/// Done or refused.
pub type Reply = Result<Done, Refusal>;

/// A command did what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// The job's, host's or work item's, where one was made or meant; else 0.
    pub id: u64,
    /// Tasks touched, or that will be by a work item.
    pub tasks: u32,
    /// A job that was to be made was there just so: nothing was made.
    pub unchanged: bool,
}

/// A command was refused; State is as before.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people: what happened, on what, why, what next.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: message.into() }
    }
}

/// Why a command was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RefusalKind {
    /// The object is not known.
    NotFound,
    /// It exists, and is not what was asked for.
    AlreadyExists,
    /// The command makes no sense.
    Invalid,
    /// A decision made on an older view; nobody is to blame.
    Stale,
    /// The request id came with another body.
    RequestReused,
    /// Too old, or from the future: its fate is unknown.
    RequestExpired,
    /// A table is full.
    Limit,
    /// The host may not register or report as it does.
    HostRefused,
    /// The role's quota has no room.
    Quota,
}

/// One row that changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// Table byte and the table's own key.
    pub key: Vec<u8>,
    /// `None` = deleted.
    pub row: Option<RowValue>,
}

/// Where to look, never what to do. Losing one costs latency only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hint {
    /// What the host is owed, has free or is has changed; or it is gone.
    HostDirty(HostId),
    /// The task became PENDING, or ceased to be.
    TaskPending(TaskId),
    /// The job, or the status of one of its tasks, has changed.
    JobChanged(JobId),
    /// `State::next_deadline` may be earlier than before, or due.
    DeadlineChanged,
    /// The work item has a next step.
    WorkDue(WorkId),
    /// Whether placements may be made has changed.
    FreezeChanged,
}

impl Hint {
    /// Whether a round may now find something to do.
    pub fn wakes_round(self) -> bool {
        matches!(self, Hint::HostDirty(_) | Hint::TaskPending(_) | Hint::FreezeChanged)
    }
}
