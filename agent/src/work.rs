//! What may block, done by a few threads so that the host's thread never waits: orders to executors, cleaning up
//! after them, removing old sandboxes.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use executor::layout::TaskDir;
use executor::{cleanup, control};
use isolation::Cgroup;
use proto::TaskId;
use proto::wire::ProcessIdentity;
use tokio::sync::mpsc;

use crate::host::Event;
use crate::limits::{CLEAN_PATIENCE, CONTROL_MAX, JOBS_MAX, WORKERS};
use crate::plan::Force;

/// Something to do.
#[derive(Debug)]
pub enum Job {
    /// Tell the executor to end its task, or end both by force.
    Kill {
        /// Whose.
        task: TaskId,
        /// Its directory.
        dir: TaskDir,
        /// Its executor, where known: the directory may be gone, or damaged.
        executor: Option<ProcessIdentity>,
        /// Its cgroup, if it has one.
        cgroup: Option<Cgroup>,
        /// How hard.
        force: Force,
        /// For the task's last message.
        reason: String,
    },
    /// End what a dead executor left behind, and remove the task's cgroup.
    Clean {
        /// Whose.
        task: TaskId,
        /// Its directory.
        dir: TaskDir,
        /// Its cgroup, if it had one.
        cgroup: Option<Cgroup>,
    },
    /// Remove the directories of old tasks.
    Remove(Vec<PathBuf>),
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// An order was given.
    Killed {
        /// Whose.
        task: TaskId,
        /// Whether it was heard.
        heard: bool,
    },
    /// Nothing of the task is left, or something is.
    Cleaned {
        /// Whose.
        task: TaskId,
        /// Nothing is left.
        gone: bool,
        /// Processes that the kernel killed for want of memory.
        oom_kills: u64,
    },
}

/// The threads.
#[derive(Clone, Debug)]
pub struct Workers {
    jobs: SyncSender<Job>,
}

impl Workers {
    /// Starts them; they end when the last clone is dropped.
    pub fn start(events: mpsc::Sender<Event>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(JOBS_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..WORKERS {
            let (queue, events) = (queue.clone(), events.clone());
            std::thread::Builder::new()
                .name(format!("work-{number}"))
                .spawn(move || work(&queue, &events))?;
        }
        Ok(Workers { jobs })
    }

    /// Queues a job; `false` = the queue is full: ask again later.
    pub fn queue(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }
}

fn work(queue: &Mutex<Receiver<Job>>, events: &mpsc::Sender<Event>) {
    loop {
        let Ok(job) = queue.lock().unwrap_or_else(PoisonError::into_inner).recv() else { return };
        if let Some(done) = act(job)
            && events.blocking_send(Event::Done(done)).is_err()
        {
            return;
        }
    }
}

fn act(job: Job) -> Option<Done> {
    match job {
        Job::Kill { task, dir, executor, cgroup, force: Force::Force, .. } => {
            let mut heard = clean_processes(task, &dir);
            if let Some(executor) = executor {
                heard &= cleanup::kill_executor(&executor);
            }
            if let Some(cgroup) = cgroup {
                heard &= cgroup.kill_all(None, CLEAN_PATIENCE).is_ok_and(|left| left.is_empty());
            }
            Some(Done::Killed { task, heard })
        }
        Job::Kill { task, dir, force, reason, .. } => {
            let request = control::kill(reason, force == Force::AtOnce);
            let answer = control::request(&dir.control_socket(), &request, CONTROL_MAX);
            if let Err(e) = &answer {
                tracing::debug!(%task, error = %e, "the executor did not hear an order to end its task");
            }
            Some(Done::Killed { task, heard: answer.is_ok() })
        }
        Job::Clean { task, dir, cgroup } => {
            let oom_kills = cgroup.as_ref().map_or(0, Cgroup::oom_kills);
            let mut gone = clean_processes(task, &dir);
            if let Some(cgroup) = cgroup.filter(|_| gone) {
                gone = match cgroup.kill_all(None, CLEAN_PATIENCE) {
                    Ok(left) => left.is_empty(),
                    Err(e) => {
                        tracing::warn!(%task, error = %e, "cannot see what is in the task's cgroup; trying again");
                        false
                    }
                };
                // An empty one that stays is removed at the agent's next start.
                if gone && let Err(e) = cgroup.remove() {
                    tracing::warn!(%task, error = %e, "the task's cgroup is still there");
                }
            }
            Some(Done::Cleaned { task, gone, oom_kills })
        }
        Job::Remove(paths) => {
            for path in paths {
                match std::fs::remove_dir_all(&path) {
                    Ok(()) => tracing::debug!(path = %path.display(), "removed an old sandbox"),
                    Err(e) => {
                        tracing::warn!(path = %path.display(), error = %e, "cannot remove an old sandbox")
                    }
                }
            }
            None
        }
    }
}

/// Whether nothing is left.
fn clean_processes(task: TaskId, dir: &TaskDir) -> bool {
    match cleanup::kill_leftovers(dir, CLEAN_PATIENCE) {
        Ok(left) => {
            if !left.killed.is_empty() {
                tracing::info!(%task, killed = ?left.killed, "killed what was left of a task");
            }
            if !left.remaining.is_empty() {
                tracing::warn!(%task, remaining = ?left.remaining, "processes of a task do not end");
            }
            left.remaining.is_empty()
        }
        Err(e) => {
            // What cannot be looked for is not gone: a second copy might be started beside it.
            tracing::warn!(%task, error = %e, "cannot see what is left of a task; trying again");
            false
        }
    }
}
