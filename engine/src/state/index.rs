//! The derived look-ups. Every birth, change and end of a row passes through here; `load` uses the same doors.

use std::sync::Arc;

use proto::{HostId, JobId};

use super::config::TaskConfig;
use super::deadline::Due;
use super::host::{Host, HostSpec};
use super::job::{Job, Places};
use super::status::Status;
use super::task::Task;
use super::touch::{Key, Touch};
use super::{State, StoredConfig};

impl State {
    /// One more job or task refers to the config. Gives back the stored one, so that there is one copy.
    pub(super) fn refer(&mut self, config: &Arc<TaskConfig>, touch: &mut Touch) -> Arc<TaskConfig> {
        let stored = self.configs.entry(config.hash).or_insert_with(|| {
            touch.row(Key::Config(config.hash));
            StoredConfig { config: config.clone(), references: 0 }
        });
        stored.references += 1;
        stored.config.clone()
    }

    /// One job or task less refers to the config.
    pub(super) fn release(&mut self, config: &TaskConfig, touch: &mut Touch) {
        let stored = self.configs.get_mut(&config.hash).expect("law: a referred config is stored");
        stored.references -= 1;
        if stored.references == 0 {
            self.configs.remove(&config.hash);
            touch.row(Key::Config(config.hash));
        }
    }

    /// Enters a task into all look-ups. Its config is referred to already.
    pub(super) fn link_task(&mut self, task: Task) {
        let job = self.jobs.get_mut(&task.job).expect("law: a task's job exists");
        let before = job.live.insert(task.instance, task.id);
        assert!(
            before.is_none(),
            "law: one live task per instance; {} has {before:?} and {}",
            task.instance,
            task.id
        );
        job.counts.add(task.status);
        self.count_by(&task, true);
        let job = self.jobs.get_mut(&task.job).expect("found above");
        job.charged = job.charged.plus(task.config.charge());
        self.enter_due(task.due());
        self.charge(&task.config);
        if let Some(host) = task.host {
            self.occupy(host, &task);
        }
        self.tasks.insert(task.id, Arc::new(task));
    }

    /// Takes a task out of all look-ups.
    pub(super) fn unlink_task(&mut self, id: proto::TaskId) -> Task {
        let task = self.tasks.remove(&id).expect("the caller has found the task");
        let task = Arc::unwrap_or_clone(task);
        let job = self.jobs.get_mut(&task.job).expect("law: a task's job exists");
        job.live.remove(&task.instance);
        job.counts.remove(task.status);
        job.charged = job.charged.minus_or_zero(task.config.charge());
        self.drop_due(task.due());
        if let Some(host) = task.host {
            self.vacate(host, &task);
        }
        self.discharge(&task.config);
        self.count_by(&task, false);
        task
    }

    /// Changes a task's own fields; not its id, job, instance, config, host or ports.
    pub(super) fn alter_task(&mut self, id: proto::TaskId, change: impl FnOnce(&mut Task)) {
        let task = Arc::make_mut(self.tasks.get_mut(&id).expect("the caller has found the task"));
        let (status, due): (Status, _) = (task.status, task.due());
        change(task);
        let (new_status, new_due) = (task.status, task.due());
        if status != new_status {
            let job = self.jobs.get_mut(&task.job).expect("law: a task's job exists");
            job.counts.remove(status);
            job.counts.add(new_status);
        }
        if due != new_due {
            self.drop_due(due);
            self.enter_due(new_due);
        }
    }

    /// A task takes its part of a host.
    pub(super) fn occupy(&mut self, host: HostId, task: &Task) {
        let host = self.hosts.get_mut(&host).expect("law: a task's host is known");
        host.used = host.used.plus(task.demand());
        if task.config.is_revocable() {
            host.revocable = host.revocable.plus(task.demand());
        }
        if !task.config.is_production() {
            host.displaceable = host.displaceable.plus(task.demand());
        }
        host.ports.extend(task.port_numbers());
        host.tasks.insert(task.id);
        let spec = host.record.spec.clone();
        self.note_place(task, &spec, Places::add);
        let role = self.role_of(&task.config);
        role.used = role.used.plus(task.config.demand);
    }

    fn vacate(&mut self, host: HostId, task: &Task) {
        let host = self.hosts.get_mut(&host).expect("law: a task's host is known");
        host.let_go(task);
        if host.record.overcommitted && host.occupied().fits_in(&host.record.spec.capacity) {
            host.record.overcommitted = false;
        }
        let spec = host.record.spec.clone();
        self.note_place(task, &spec, Places::remove);
        let role = self.role_of(&task.config);
        role.used = role.used.minus_or_zero(task.config.demand);
    }

    /// Counts a task in or out where its job's limits and spreads look.
    pub(super) fn note_place(&mut self, task: &Task, spec: &HostSpec, how: fn(&mut Places, &str, &str)) {
        let job = self.jobs.get_mut(&task.job).expect("law: a task's job exists");
        if !job.counts_places() {
            return;
        }
        let places = Arc::make_mut(&mut job.places);
        for attribute in job.counting.keys() {
            spec.values(attribute).for_each(|value| how(places, attribute, value));
        }
    }

    /// A task asks where its job's tasks are, by the attributes of its limits and spreads; or it does so no more. All
    /// tasks of the job count, whatever they ask themselves: configs differ while a job is updated.
    fn count_by(&mut self, task: &Task, asks: bool) {
        for attribute in task.config.counted_attributes() {
            let job = self.jobs.get_mut(&task.job).expect("law: a task's job exists");
            let known = job.counting.get(attribute).copied().unwrap_or(0);
            let now = if asks { known + 1 } else { known - 1 };
            if now == 0 {
                job.counting.remove(attribute);
                Arc::make_mut(&mut job.places).forget(attribute);
                continue;
            }
            if known > 0 {
                *job.counting.get_mut(attribute).expect("counted above") = now;
                continue;
            }
            job.counting.insert(attribute.into(), now);
            let on_hosts = job.live.values().filter_map(|task| self.tasks.get(task)?.host);
            let on_hosts: Vec<HostId> = on_hosts.collect();
            let places = Arc::make_mut(&mut job.places);
            for host in on_hosts.iter().filter_map(|host| self.hosts.get(host)) {
                host.record.spec.values(attribute).for_each(|value| places.add(attribute, value));
            }
        }
    }

    /// Changes a job's record or what it remembers.
    pub(super) fn alter_job(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        let job = self.jobs.get_mut(&id).expect("the caller has found the job");
        let before = job.deadline();
        change(job);
        let after = job.deadline();
        if before != after {
            if let Some(at) = before {
                self.deadlines.remove(&(at, Due::Job(id)));
            }
            if let Some(at) = after {
                self.deadlines.insert((at, Due::Job(id)));
            }
        }
    }

    /// Enters a job, without tasks.
    pub(super) fn link_job(&mut self, job: Job) {
        if let Some(at) = job.deadline() {
            self.deadlines.insert((at, Due::Job(job.id())));
        }
        self.keys.insert(job.record.key.clone(), job.id());
        self.jobs.insert(job.id(), job);
    }

    /// Enters a host, without tasks.
    pub(super) fn link_host(&mut self, host: Host) {
        if let Some(at) = host.deadline() {
            self.deadlines.insert((at, Due::Host(host.id())));
        }
        if let Some(since) = host.record.silent_since {
            self.silences.insert((since, host.id()));
        }
        self.names.insert(host.name().clone(), host.id());
        self.hosts.insert(host.id(), host);
    }

    /// Changes a host's record; not its id.
    pub(super) fn alter_host(&mut self, id: HostId, change: impl FnOnce(&mut super::host::HostRecord)) {
        let host = self.hosts.get_mut(&id).expect("the caller has found the host");
        let (deadline, name, silent) = (host.deadline(), host.name().clone(), host.record.silent_since);
        change(&mut host.record);
        let (new_deadline, new_name, new_silent) =
            (host.deadline(), host.name().clone(), host.record.silent_since);
        if silent != new_silent {
            if let Some(since) = silent {
                self.silences.remove(&(since, id));
            }
            if let Some(since) = new_silent {
                self.silences.insert((since, id));
            }
        }
        if name != new_name {
            self.names.remove(&name);
            self.names.insert(new_name, id);
        }
        if deadline != new_deadline {
            if let Some(at) = deadline {
                self.deadlines.remove(&(at, Due::Host(id)));
            }
            if let Some(at) = new_deadline {
                self.deadlines.insert((at, Due::Host(id)));
            }
        }
    }
}
