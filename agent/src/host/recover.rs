//! At start: what the journal, the task directories and the cgroups say together.
//!
//! The story of an intent without a living executor: the agent died between writing the intent and spawning, or just
//! after spawning. Whoever makes the file `claim` first decides. If it is us, the task never runs and is LOST; if it
//! is the executor, it runs, and its claim says who it is.

use std::time::Duration;

use executor::claim::{self, Claim};
use executor::{checkpoint, identity, launch};
use proto::TaskId;
use proto::wire::{self, Status, journal_record};

use super::tasks::Task;
use super::{Fatal, Host};
use crate::journal::Entry;

/// For processes without a task to end, at start.
const STRAY_PATIENCE: Duration = Duration::from_secs(5);

impl Host {
    pub(super) fn recover_tasks(&mut self) -> Result<(), Fatal> {
        let entries: Vec<(TaskId, Entry)> =
            self.journal.book().tasks.iter().map(|(id, entry)| (*id, entry.clone())).collect();
        for (id, entry) in entries {
            if let Some(report) = &entry.report {
                self.outbox.insert(report.sequence, report.clone());
            }
            self.recover_task(id, &entry)?;
        }
        self.adopt_strays()?;
        self.kill_stray_cgroups()
    }

    fn recover_task(&mut self, id: TaskId, entry: &Entry) -> Result<(), Fatal> {
        let dir = self.sandboxes.of(id);
        let mut task =
            Task::new(dir.clone(), self.setup.cgroups.as_ref().map(|cgroups| cgroups.open(&id.to_string())));
        let summary = match checkpoint::read(&dir) {
            Ok(summary) => summary,
            Err(e) => {
                tracing::warn!(task = %id, error = %e, "the checkpoint cannot be read");
                checkpoint::Summary::default()
            }
        };
        let known = entry.executor.clone().or(summary.executor.clone());
        // A claim appears whole, and is not synced: one that is not whole tells of a power cut.
        let (claimed, cut_off) = match claim::read(&dir) {
            Ok(claim) => (claim, false),
            Err(e) => {
                tracing::warn!(task = %id, error = %e, "the claim cannot be read");
                (None, e.kind() == std::io::ErrorKind::InvalidData)
            }
        };
        task.executor = match claimed {
            Some(Claim::Executor(executor)) => Some(executor),
            Some(Claim::Abandoned) | None => known,
        };
        task.take(&launch::read(&dir).unwrap_or_default());
        let rebooted = task.executor.as_ref().is_some_and(|executor| executor.boot_id != self.boot_id);
        if task.executor.as_ref().is_some_and(identity::is_alive) {
            task.watch = self.watcher.directory(id, dir.root());
            if let Some(executor) = &task.executor {
                self.watcher.process(id, executor);
            }
            tracing::info!(task = %id, pid = task.executor.as_ref().map_or(0, |e| e.pid), "found it running");
            self.tasks.insert(id, task);
            return self.look_at(id);
        }
        if entry.ended() {
            // Only an executor's own end leaves something to clean; a report without a task does not.
            if entry.executor.is_some() {
                self.tasks.insert(id, task.gone_executor());
            }
            return Ok(());
        }
        if summary.is_terminal() {
            // Its last word counts, whatever happened to the machine since.
            self.tasks.insert(id, task);
            return self.look_at(id);
        }
        if rebooted || cut_off {
            return self.report(id, Status::Lost, "The machine was restarted.");
        }
        let abandoned =
            std::fs::create_dir_all(dir.root()).and_then(|()| claim::take(&dir, &Claim::Abandoned));
        match abandoned {
            Ok(None | Some(Claim::Abandoned)) => {
                self.tasks.insert(id, task.gone_executor());
                self.report(id, Status::Lost, "The agent was restarted before the task's executor had begun.")
            }
            Ok(Some(Claim::Executor(executor))) => {
                // It was quicker than us, between two of our looks.
                task.executor = Some(executor);
                task.watch = self.watcher.directory(id, dir.root());
                if let Some(executor) = &task.executor {
                    self.watcher.process(id, executor);
                }
                self.tasks.insert(id, task);
                self.look_at(id)
            }
            Err(source) => Err(Fatal::Io {
                what: format!("decide whether {id} ever began, in {}", dir.root().display()),
                source,
            }),
        }
    }

    /// Executors that run here and are not in the journal: it was lost, and they are taken in by their checkpoints.
    fn adopt_strays(&mut self) -> Result<(), Fatal> {
        let listed = self
            .sandboxes
            .list()
            .map_err(|source| Fatal::Io { what: "list the directories of tasks".into(), source })?;
        for id in listed {
            if self.journal.book().tasks.contains_key(&id) {
                continue;
            }
            let dir = self.sandboxes.of(id);
            let summary = checkpoint::read(&dir).unwrap_or_default();
            let claimed = match claim::read(&dir) {
                Ok(Some(Claim::Executor(executor))) => Some(executor),
                _ => None,
            };
            let Some(executor) = claimed.or(summary.executor).filter(identity::is_alive) else { continue };
            let launch = match launch::read(&dir) {
                Ok(launch) if launch.task_id == id.0 && !self.journal.book().is_burned(id) => launch,
                _ => {
                    self.kill_stray(id);
                    continue;
                }
            };
            tracing::warn!(task = %id, pid = executor.pid, "adopts a task that the journal does not know");
            let executor = Some(executor);
            self.journal.append(journal_record::Body::Launched(wire::Launched {
                task_id: id.0,
                executor: executor.clone(),
            }))?;
            let cgroup = self.setup.cgroups.as_ref().map(|cgroups| cgroups.open(&id.to_string()));
            let mut task = Task::new(dir.clone(), cgroup);
            task.take(&launch);
            task.watch = self.watcher.directory(id, dir.root());
            if let Some(executor) = &executor {
                self.watcher.process(id, executor);
            }
            task.executor = executor;
            self.tasks.insert(id, task);
            self.look_at(id)?;
        }
        Ok(())
    }

    fn kill_stray(&self, id: TaskId) {
        tracing::warn!(task = %id, "kills a task that is neither in the journal nor told how to run");
        match executor::cleanup::kill_leftovers(&self.sandboxes.of(id), STRAY_PATIENCE) {
            Ok(left) if left.remaining.is_empty() => {}
            Ok(left) => tracing::error!(task = %id, remaining = ?left.remaining, "it does not end"),
            Err(e) => tracing::error!(task = %id, error = %e, "it cannot be killed"),
        }
    }

    /// Cgroups of this agent without a task that runs: whatever is in them is killed.
    fn kill_stray_cgroups(&self) -> Result<(), Fatal> {
        let Some(cgroups) = &self.setup.cgroups else { return Ok(()) };
        for name in cgroups.list()? {
            let known = crate::sandbox::task_of(&name).is_some_and(|id| self.tasks.contains_key(&id));
            if known {
                continue;
            }
            let cgroup = cgroups.open(&name);
            match cgroup.kill_all(None, STRAY_PATIENCE) {
                Ok(left) if left.is_empty() => {
                    if let Err(e) = cgroup.remove() {
                        tracing::warn!(cgroup = name, error = %e, "an empty cgroup without a task stays");
                    }
                }
                Ok(left) => {
                    tracing::error!(cgroup = name, remaining = ?left, "processes without a task do not end");
                }
                Err(e) => {
                    tracing::error!(cgroup = name, error = %e, "a cgroup without a task cannot be ended")
                }
            }
        }
        Ok(())
    }
}
