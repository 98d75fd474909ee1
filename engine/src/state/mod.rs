//! `State`: every table, and what each is the truth for.
//!
//! Stored (rows): the cluster row, configs, jobs with their newest ended tasks, live tasks, hosts, remembered
//! requests, work items, quotas, reservations, updates, cron jobs. Derived, kept by apply and rebuilt by `load`: look-ups by key and
//! name, live tasks per job and host, counts, where a job's tasks are, use of hosts, what roles are charged,
//! references to configs, the order of deadlines. `laws` compares both.

pub mod apply;
mod brake;
pub(crate) mod breaks;
pub mod command;
pub mod config;
pub mod cron;
mod deadline;
pub mod host;
mod index;
pub mod job;
pub mod laws;
mod lend;
mod maintenance;
pub(crate) mod place;
pub(crate) mod preempt;
pub mod record;
mod register;
mod report;
pub mod request;
pub mod reservation;
mod restore;
pub mod role;
mod session;
pub mod status;
pub mod submit;
pub mod task;
mod touch;
mod transition;
pub mod update;
pub mod waits;
pub mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{HostId, JobId, JobKey, TaskId, WorkId};

use crate::time::Timestamp;
use command::Hint;
use config::{ConfigHash, TaskConfig};
use cron::Cron;
use deadline::Due;
use host::Host;
use job::Job;
use request::{Remembered, RequestKey};
use reservation::Reservation;
use role::Role;
use task::{Task, Want, Wanted, WantedTask};
use update::Update;
use work::Work;

/// Facts about the cluster as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// What `apply` does; rises by a command.
    pub level: u32,
    /// Of the cluster's history; 0 = no session yet.
    pub epoch: u64,
    /// State's time.
    pub clock: Timestamp,
    /// Counter part of the next id.
    pub next_id: u64,
    /// Of the newest session.
    pub term: u64,
    /// Node id, of the newest session.
    pub leader: u64,
    /// After a gap in time no transient status expires before: hosts report first.
    pub grace_until: Timestamp,
    /// Since when nothing is replaced, because too many hosts fell silent at once.
    pub braked: Option<Timestamp>,
    /// Hosts that fell silent up to here do not put the brake on.
    pub thawed: Timestamp,
    /// The minute in which hosts are counted whose tasks were replaced.
    pub replaced_since: Timestamp,
    /// So many.
    pub replaced_hosts: u32,
    /// No placements, no silence, no expiry, until thawed.
    pub frozen: bool,
    /// Since when the cluster is held after a restore: the same and no work, until resumed.
    pub held: Option<Timestamp>,
    /// What people call it.
    pub name: Arc<str>,
    /// The same through restores.
    pub lineage: Arc<str>,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            level: crate::limits::LEVEL_FIRST,
            epoch: 0,
            clock: Timestamp(0),
            next_id: 1,
            term: 0,
            leader: 0,
            grace_until: Timestamp(0),
            braked: None,
            thawed: Timestamp(0),
            replaced_since: Timestamp(0),
            replaced_hosts: 0,
            frozen: false,
            held: None,
            name: "".into(),
            lineage: "".into(),
        }
    }
}

/// A config and how many jobs and live tasks refer to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredConfig {
    pub(crate) config: Arc<TaskConfig>,
    pub(crate) references: u64,
}

/// The replicated state. Changed by `apply` only.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    pub(crate) cluster: Cluster,
    pub(crate) configs: BTreeMap<ConfigHash, StoredConfig>,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    pub(crate) keys: BTreeMap<Arc<JobKey>, JobId>,
    /// Each in an allocation of its own, shared with its row until that is written: nodes of a tree are half empty.
    pub(crate) tasks: BTreeMap<TaskId, Arc<Task>>,
    pub(crate) hosts: BTreeMap<HostId, Host>,
    pub(crate) names: BTreeMap<Arc<str>, HostId>,
    pub(crate) requests: BTreeMap<Arc<RequestKey>, Arc<Remembered>>,
    pub(crate) work: BTreeMap<WorkId, Work>,
    pub(crate) roles: BTreeMap<Arc<str>, Role>,
    pub(crate) reservations: BTreeMap<TaskId, Reservation>,
    pub(crate) updates: BTreeMap<JobId, Update>,
    pub(crate) crons: BTreeMap<Arc<JobKey>, Cron>,
    /// Remembered requests, by when they may be forgotten.
    pub(crate) forgettable: BTreeSet<(Timestamp, Arc<RequestKey>)>,
    pub(crate) deadlines: BTreeSet<(Timestamp, Due)>,
    pub(crate) replacements: BTreeSet<(Timestamp, Due)>,
    /// Silent hosts, by when they fell silent.
    pub(crate) silences: BTreeSet<(Timestamp, HostId)>,
}

impl State {
    /// Facts about the cluster as a whole.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// State's time.
    pub fn clock(&self) -> Timestamp {
        self.cluster.clock
    }

    /// Whether decisions (placements, silence, expiry) are stopped: frozen by a person, or held after a restore.
    pub fn is_stopped(&self) -> bool {
        self.cluster.frozen || self.cluster.held.is_some()
    }

    /// The config of that hash.
    pub fn config(&self, hash: &ConfigHash) -> Option<&Arc<TaskConfig>> {
        self.configs.get(hash).map(|stored| &stored.config)
    }

    /// The newest job of that key; it may have ended.
    pub fn job(&self, key: &JobKey) -> Option<&Job> {
        self.keys.get(key).and_then(|id| self.jobs.get(id))
    }

    /// The job of that id.
    pub fn job_by_id(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// Jobs in key order; of a role and environment, where they are given.
    pub fn jobs<'a>(
        &'a self,
        role: Option<&'a str>,
        environment: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Job> + 'a {
        self.keys
            .iter()
            .filter(move |(key, _)| role.is_none_or(|role| key.role == role))
            .filter(move |(key, _)| environment.is_none_or(|environment| key.environment == environment))
            .filter_map(|(_, id)| self.jobs.get(id))
    }

    /// The live task of that id.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id).map(AsRef::as_ref)
    }

    /// All live tasks, in id order.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &Task> {
        self.tasks.values().map(AsRef::as_ref)
    }

    /// Live tasks of a job, by instance.
    pub fn tasks_of<'a>(&'a self, job: &'a Job) -> impl Iterator<Item = &'a Task> + 'a {
        job.live.values().filter_map(|id| self.task(*id))
    }

    /// The host of that id.
    pub fn host(&self, id: HostId) -> Option<&Host> {
        self.hosts.get(&id)
    }

    /// The host of that name.
    pub fn host_by_name(&self, name: &str) -> Option<&Host> {
        self.names.get(name).and_then(|id| self.hosts.get(id))
    }

    /// All hosts, in id order.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = &Host> {
        self.hosts.values()
    }

    /// All that a host shall run; `None` when State does not know it.
    pub fn wanted(&self, host: HostId) -> Option<Wanted> {
        let host = self.hosts.get(&host)?;
        let tasks = host.tasks.iter().filter_map(|id| self.tasks.get(id));
        let tasks = tasks.filter_map(|task| {
            Some(WantedTask {
                id: task.id,
                want: match Want::of(task.status)? {
                    // It may have been started, and have ended, after the backup that this State is from.
                    Want::Start if self.is_of_before(task.id) => Want::Keep,
                    want => want,
                },
                config: task.config.hash,
                instance: task.instance,
                ports: task.named_ports().map(|(name, port)| (name.clone(), port)).collect(),
            })
        });
        Some(Wanted { generation: host.record.generation, tasks: tasks.collect() })
    }

    /// When the next `Tick` is due; while decisions are stopped only requests are forgotten.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let forgets = self.forgettable.first().map(|(at, _)| *at);
        let first = self.deadlines.first().map(|(at, _)| *at);
        let times = [first, self.next_replacement()];
        forgets.into_iter().chain(times.into_iter().flatten().filter(|_| !self.is_stopped())).min()
    }

    /// A work item that `AdvanceWork` should advance, if there is one.
    pub fn next_work(&self) -> Option<WorkId> {
        let held = self.cluster.held.is_some();
        let mut due =
            self.work.values().filter(|work| !held || matches!(work.rest, work::Rest::Renew { .. }));
        due.next().map(|work| work.id)
    }

    /// All that a new leader must look at, since it has no hints of its predecessor's.
    pub fn hints_after_election(&self) -> Vec<Hint> {
        let hosts = self.hosts.keys().map(|&host| Hint::HostDirty(host));
        let pending = self.tasks.values().filter(|task| task.status == status::Status::Pending);
        let pending = pending.map(|task| Hint::TaskPending(task.id));
        let work = self.work.keys().map(|&work| Hint::WorkDue(work));
        hosts.chain(pending).chain(work).chain([Hint::DeadlineChanged, Hint::FreezeChanged]).collect()
    }

    /// Remembered requests.
    pub fn requests_remembered(&self) -> usize {
        self.requests.len()
    }
}
