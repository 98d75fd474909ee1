//! Starts: the intent on the disk, then cgroup, sandbox and `launch` file, then the executor.
//!
//! The executor is spawned by `posix_spawn` (no `pre_exec`): a fork of a large process copies its page tables.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use executor::layout::TaskDir;
use executor::{identity, records};
use isolation::{Limits, user};
use prost::Message as _;
use proto::wire::{self, Status, journal_record};
use proto::{Fence, JobKey, TaskId};

use super::tasks::Task;
use super::{Fatal, Host};
use crate::clock;
use crate::link::Session;
use crate::telemetry;

/// Processes and threads that one task may have.
const PIDS_MAX: u64 = 32_768;
/// What an executor finds its programs by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a task did not start: the status to report and the words for people.
struct Unstarted(Status, String);

/// As `executor::launch::write`, but not synced: a machine that loses the file has lost the executor as well, and
/// a thousand starts shall cost one sync.
fn write_launch(dir: &TaskDir, launch: &wire::Launch) -> std::io::Result<()> {
    let new = dir.launch().with_extension("new");
    std::fs::write(&new, records::frame(&launch.encode_to_vec()))?;
    std::fs::rename(&new, dir.launch())
}

fn lost(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Unstarted + '_ {
    move |why| Unstarted(Status::Lost, format!("The host could not start the task: cannot {what}: {why}."))
}

impl Host {
    /// Starts tasks that the planner chose: one sync for all intents, then each whose order is still fresh.
    pub(super) fn launch(
        &mut self,
        starts: &[TaskId],
        session: &Arc<Session>,
        echo: Option<&wire::Echo>,
    ) -> Result<(), Fatal> {
        if starts.is_empty() {
            return Ok(());
        }
        let fence: Fence = self.journal.book().fence;
        let mut ready = Vec::new();
        for &id in starts {
            let Some(wanted) = self.details.get(&id).cloned() else { continue };
            let Some(config) = self.configs.get(&wanted.config_hash[..]).cloned() else { continue };
            let key = config.job.clone().unwrap_or_default();
            let job =
                format!("{}/{}/{}/{}/{}", key.cluster, key.role, key.environment, key.name, wanted.instance);
            let generation = self.wanted.as_ref().map_or(0, |wanted| wanted.generation);
            self.journal.append(journal_record::Body::Intent(wire::LaunchIntent {
                task_id: id.0,
                generation,
                fence: Some(fence.into()),
                job,
                pretence: None,
            }))?;
            self.named.insert(id, generation);
            ready.push((id, wanted, config));
        }
        self.sync()?;
        for (id, wanted, config) in ready {
            if !session.is_fresh(echo, clock::boottime_ns()) {
                // The id is used up: another leader may have given the instance away meanwhile.
                metrics::counter!(telemetry::STARTS_STALE).increment(1);
                self.report(id, Status::Lost, "The order to start was too old once it was written down.")?;
                continue;
            }
            match self.spawn(id, &wanted, config) {
                Ok(task) => {
                    let executor = task.executor.clone();
                    self.journal
                        .append(journal_record::Body::Launched(wire::Launched { task_id: id.0, executor }))?;
                    metrics::counter!(telemetry::LAUNCHES).increment(1);
                    self.tasks.insert(id, task);
                    self.look_at(id)?;
                }
                Err(Unstarted(status, why)) => {
                    tracing::warn!(task = %id, why, "a task did not start");
                    self.report(id, status, &why)?;
                    self.clean_unstarted(id);
                }
            }
            self.changed = true;
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        id: TaskId,
        wanted: &wire::WantedTask,
        config: wire::TaskConfig,
    ) -> Result<Task, Unstarted> {
        let failed = |why: &dyn std::fmt::Display| Unstarted(Status::Failed, format!("{why}."));
        let key = config.job.as_ref().map(JobKey::try_from).transpose().map_err(|e| failed(&e))?;
        let key = key.ok_or_else(|| failed(&"The task's config names no job"))?;
        let spec = config.task.clone().ok_or_else(|| failed(&"The task's config has no task"))?;
        let user = match self.setup.users {
            true => Some(user::find(&key.role).map_err(|e| match &e {
                user::NoUser::Unknown(_) => Unstarted(Status::Failed, format!("The task cannot run: {e}.")),
                user::NoUser::Failed(..) => lost("find the role's unix user")(&e),
            })?),
            false => None,
        };
        let dir = self.sandboxes.make(id, user.as_ref()).map_err(|e| lost("make the sandbox")(&e))?;
        let cgroup = match &self.setup.cgroups {
            None => None,
            Some(cgroups) => {
                let need = spec.resources.unwrap_or_default();
                let limits = Limits {
                    cpu_milli: need.cpu_milli,
                    cpu_hard: false,
                    ram_mib: need.ram_mib + proto::resources::EXECUTOR_RAM_MIB,
                    pids_max: PIDS_MAX,
                };
                Some(cgroups.create(&id.to_string(), &limits).map_err(|e| lost("hold the task")(&e))?)
            }
        };
        let leased = config.at_most_one;
        let launch = wire::Launch {
            level: executor::LEVEL,
            task_id: id.0,
            instance: wanted.instance,
            config: Some(config),
            ports: wanted.ports.clone(),
            hostname: self.setup.spec.name.clone(),
            sandbox: dir.sandbox().display().to_string(),
            user: user.map(|user| user.name).unwrap_or_default(),
            cgroups: cgroup
                .iter()
                .flat_map(|cgroup| cgroup.dirs())
                .map(|path| path.display().to_string())
                .collect(),
            lease_until_boottime_ns: if leased { self.leased_until_ns } else { 0 },
        };
        write_launch(&dir, &launch).map_err(|e| lost("write what to run")(&e))?;
        let watch = self.watcher.directory(id, dir.root());
        // Its own words, should it fail before it has a log.
        let log = OpenOptions::new().create(true).append(true).open(dir.executor_log());
        let log = log.map_or_else(|_| Stdio::null(), Stdio::from);
        let spawned = Command::new(&self.setup.executor)
            .arg(dir.root())
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn();
        let mut child = spawned.map_err(|e| {
            if let Some(watch) = watch {
                self.watcher.forget(watch);
            }
            lost("run its executor")(&format_args!("{}: {e}", self.setup.executor.display()))
        })?;
        // A child that has ended already is a zombie until it is waited for, so it still has an identity.
        let executor = identity::of(child.id() as i32).map_err(|e| {
            let _ = child.kill();
            let _ = child.wait();
            lost("see its executor")(&e)
        })?;
        self.watcher.process(id, &executor);
        let mut task = Task::new(dir, cgroup);
        task.executor = Some(executor);
        task.child = Some(child);
        task.watch = watch;
        task.take(&launch);
        Ok(task)
    }

    /// What was made before the start failed.
    fn clean_unstarted(&mut self, id: TaskId) {
        if let Some(cgroup) = self.setup.cgroups.as_ref().map(|cgroups| cgroups.open(&id.to_string()))
            && cgroup.exists()
            && let Err(e) = cgroup.remove()
        {
            tracing::warn!(task = %id, error = %e, "the cgroup of a task that did not start is still there");
        }
    }
}
