//! Changes too large for one command: the leader advances them step by step.

use std::sync::Arc;

use proto::{HostId, JobId, TaskId, WorkId};

/// A work item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Work {
    /// Which.
    pub id: WorkId,
    /// What is left to do.
    pub rest: Rest,
}

/// What is left of a work item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rest {
    /// Instances `next..end` of a job are still to be made.
    Create {
        /// Whose.
        job: JobId,
        /// The first that is missing.
        next: u32,
        /// One past the last.
        end: u32,
    },
    /// Instances from `next` on are still to be stopped.
    Stop {
        /// Whose.
        job: JobId,
        /// The first to look at.
        next: u32,
        /// Why, in words.
        message: Arc<str>,
        /// They are started anew; or they are killed.
        restart: bool,
    },
    /// The tasks of a host are still to be moved away.
    Drain {
        /// Whose.
        host: HostId,
        /// Why, in words.
        message: Arc<str>,
    },
    /// After a restore: tasks that wait still have ids of before.
    Renew {
        /// The first to look at.
        next: TaskId,
    },
}

/// Tasks that one command may touch; what is larger becomes a work item.
#[cfg(not(test))]
pub(super) fn tasks_per_command() -> usize {
    crate::limits::TASKS_PER_COMMAND_MAX
}

#[cfg(test)]
pub(super) use tests::tasks_per_command;

impl Work {
    /// The job it is about, if it is about one.
    pub fn job(&self) -> Option<JobId> {
        match self.rest {
            Rest::Create { job, .. } | Rest::Stop { job, .. } => Some(job),
            Rest::Drain { .. } | Rest::Renew { .. } => None,
        }
    }
}

/// Tests with few tasks want large changes, too.
#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use crate::limits::TASKS_PER_COMMAND_MAX;

    thread_local! {
        static TASKS: Cell<usize> = const { Cell::new(TASKS_PER_COMMAND_MAX) };
    }

    pub(crate) fn tasks_per_command() -> usize {
        TASKS.get()
    }

    /// Does something while one command on this thread touches so many tasks.
    pub(crate) fn with_tasks_per_command<T>(tasks: usize, what: impl FnOnce() -> T) -> T {
        TASKS.set(tasks);
        let done = what();
        TASKS.set(TASKS_PER_COMMAND_MAX);
        done
    }
}
