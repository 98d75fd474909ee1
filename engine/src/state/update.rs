//! A job on its way to another config or number of instances: what is wanted, and which instances have it or shall get
//! it. When which instance moves, and what happens when one fails, is decided elsewhere.
//!
//! While an update is in flight its role is charged the larger of the old and the new for each instance.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::{JobId, JobKey, Resources};

use super::State;
use super::command::{Done, Hint, Refusal, RefusalKind, Reply};
use super::config::{JobSpec, TaskConfig};
use super::job::Job;
use super::status::{Event, Status};
use super::submit::{check_together, words};
use super::touch::{Key, Touch};
use crate::limits::{INSTANCES_PER_JOB_MAX, TASKS_MAX, TASKS_PER_COMMAND_MAX, UPDATES_MAX};
use crate::time::Timestamp;

/// An update in flight; a job has at most one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Update {
    /// Whose.
    pub job: JobId,
    /// What its tasks shall be.
    pub config: Arc<TaskConfig>,
    /// How many.
    pub instances: u32,
    /// When it began.
    pub created: Timestamp,
    /// Instances that have the new config, or get it as soon as they are made again.
    pub moved: BTreeSet<u32>,
}

impl State {
    /// The update of a job that is in flight.
    pub fn update(&self, job: JobId) -> Option<&Update> {
        self.updates.get(&job)
    }

    /// All updates in flight.
    pub fn updates(&self) -> impl ExactSizeIterator<Item = &Update> {
        self.updates.values()
    }

    fn updated_job(&self, key: &JobKey) -> Result<&Update, Refusal> {
        let update = self.job(key).and_then(|job| self.updates.get(&job.id()));
        update.ok_or_else(|| {
            Refusal::new(RefusalKind::NotFound, format!("no update of job {key} is in flight"))
        })
    }

    pub(super) fn start_update(&mut self, spec: JobSpec, touch: &mut Touch) -> Reply {
        let JobSpec { config, instances } = spec;
        let key = &config.job;
        let refuse = |kind, message: String| Err(Refusal::new(kind, message));
        let Some(job) = self.job(key).filter(|job| job.is_active()) else {
            return refuse(
                RefusalKind::NotFound,
                format!("there is no running job {key}; create it instead of updating it"),
            );
        };
        let id = job.id();
        if instances == 0 || instances > INSTANCES_PER_JOB_MAX {
            return refuse(
                RefusalKind::Invalid,
                format!("job {key} asks for {instances} instances; a job has 1 to {INSTANCES_PER_JOB_MAX}"),
            );
        }
        if self.updates.contains_key(&id) {
            return refuse(
                RefusalKind::AlreadyExists,
                format!("an update of job {key} is in flight; end it first"),
            );
        }
        if self.work.values().any(|work| work.job() == Some(id)) {
            return refuse(
                RefusalKind::Stale,
                format!("another large change of job {key} is in progress; retry"),
            );
        }
        if self.updates.len() >= UPDATES_MAX {
            return refuse(
                RefusalKind::Limit,
                format!("{UPDATES_MAX} updates are in flight; the cluster takes no more"),
            );
        }
        let more = instances.saturating_sub(job.instances()) as usize;
        if self.tasks.len() + more > TASKS_MAX {
            return refuse(
                RefusalKind::Limit,
                format!("the cluster has {} tasks of at most {TASKS_MAX}", self.tasks.len()),
            );
        }
        check_together(&config, instances)?;
        let update = self.update_of(job, config, instances);
        self.check_update(job, &update)?;
        let config = self.refer(&update.config, touch);
        let job = self.jobs.get_mut(&id).expect("found above");
        // An instance has its slot until the update ends.
        job.record.instances = job.record.instances.max(instances);
        self.updates.insert(id, Update { config, ..update });
        touch.row(Key::Job(id));
        touch.row(Key::Update(id));
        touch.hint(Hint::JobChanged(id));
        Ok(Done { id: id.0, tasks: instances, ..Done::default() })
    }

    /// These instances get what the update wants.
    pub(super) fn update_instances(
        &mut self,
        key: &JobKey,
        mut instances: Vec<u32>,
        identity: &str,
        touch: &mut Touch,
    ) -> Reply {
        let update = self.updated_job(key)?.clone();
        if instances.is_empty() || instances.len() > TASKS_PER_COMMAND_MAX {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("a step names 1 to {TASKS_PER_COMMAND_MAX} instances, not {}", instances.len()),
            ));
        }
        let slots = self.jobs[&update.job].instances();
        if let Some(stranger) = instances.iter().find(|instance| **instance >= slots) {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("job {key} has no instance {stranger}; they are 0 to {}", slots - 1),
            ));
        }
        instances.sort_unstable();
        instances.dedup();
        let why = words("Updated", identity, "");
        let mut tasks = 0;
        for instance in instances {
            tasks += u32::from(self.update_instance(&update, instance, &why, touch));
        }
        Ok(Done { id: update.job.0, tasks, ..Done::default() })
    }

    /// Whether anything had to be done.
    fn update_instance(&mut self, update: &Update, instance: u32, why: &str, touch: &mut Touch) -> bool {
        let id = update.job;
        let live = self.jobs[&id].live.get(&instance).and_then(|task| self.tasks.get(task));
        let (task, status) = (live.map(|task| task.id), live.map(|task| task.status));
        if instance >= update.instances {
            return task.is_some_and(|task| self.step_each(&[task], Event::Kill, why, touch) > 0);
        }
        let there = live.is_some_and(|task| task.config == update.config);
        if let Some(update) = self.updates.get_mut(&id)
            && update.moved.insert(instance)
        {
            touch.row(Key::Update(id));
        }
        match (task, status) {
            _ if there => return false,
            (Some(task), Some(Status::Pending | Status::Throttled)) => {
                self.step_each(&[task], Event::Kill, why, touch);
                self.bear_instances(id, &update.config, instance, instance + 1, touch);
            }
            (Some(task), _) => {
                self.step_each(&[task], Event::Restart, why, touch);
            }
            (None, _) => self.bear_instances(id, &update.config, instance, instance + 1, touch),
        }
        true
    }

    fn update_of(&self, job: &Job, config: Arc<TaskConfig>, instances: u32) -> Update {
        let moved = BTreeSet::new();
        Update { job: job.id(), config, instances, created: self.cluster.clock, moved }
    }

    fn check_update(&self, job: &Job, update: &Update) -> Result<(), Refusal> {
        let more = self.needed_by(update).minus_or_zero(job.charged);
        self.check_charge(&update.config, more, &format!("{more} more while it is updated"))
    }

    /// Whether the role's quota has room for the change of a job that lives: for the larger of what each instance has
    /// and what it gets.
    pub fn check_quota_of_change(&self, job: &Job, spec: &JobSpec) -> Result<(), Refusal> {
        self.check_update(job, &self.update_of(job, spec.config.clone(), spec.instances))
    }

    /// What the update wants is what the job is.
    pub(super) fn end_update(&mut self, key: &JobKey, touch: &mut Touch) -> Reply {
        let update = self.updated_job(key)?.clone();
        let job = &self.jobs[&update.job];
        if let Some((instance, task)) = job.live.range(update.instances..).next() {
            return Err(Refusal::new(
                RefusalKind::Stale,
                format!("instance {instance} of job {key} still lives ({task}); move it first, or wait"),
            ));
        }
        let config = self.refer(&update.config, touch);
        let job = self.jobs.get_mut(&update.job).expect("found above");
        let old = std::mem::replace(&mut job.record.config, config);
        job.record.instances = update.instances;
        self.release(&old, touch);
        touch.row(Key::Job(update.job));
        self.drop_update(update.job, touch);
        Ok(Done { id: update.job.0, tasks: update.instances, ..Done::default() })
    }

    /// The update of a job, if there is one, is over; the job stays what it has become.
    pub(super) fn drop_update(&mut self, id: JobId, touch: &mut Touch) {
        let Some(update) = self.updates.remove(&id) else { return };
        self.release(&update.config, touch);
        touch.row(Key::Update(id));
        touch.hint(Hint::JobChanged(id));
        self.end_job_if_over(id, touch);
    }

    /// What the next task of an instance is.
    pub(super) fn next_config(&self, job: JobId, instance: u32, now: &Arc<TaskConfig>) -> Arc<TaskConfig> {
        let update = self.updates.get(&job).filter(|update| update.moved.contains(&instance));
        update.map_or(now, |update| &update.config).clone()
    }

    /// What quota must have for a job in update: for each instance the larger of what it has and what it gets.
    fn needed_by(&self, update: &Update) -> Resources {
        let new = update.config.charge();
        let Some(job) = self.jobs.get(&update.job) else { return new.times(update.instances) };
        let mut sum = Resources::default();
        let mut met = 0;
        for task in self.tasks_of(job) {
            let old = task.config.charge();
            let gets_new = task.instance < update.instances;
            met += u32::from(gets_new);
            sum = sum.plus(if gets_new { old.max(new) } else { old });
        }
        sum.plus(new.times(update.instances - met))
    }

    /// What updates in flight may still be charged to a role.
    pub(super) fn promised_to_updates(&self, role: &str) -> Resources {
        let of_role = self.updates.values().filter(|update| update.config.job.role == role);
        of_role.fold(Resources::default(), |sum, update| {
            let has = self.jobs.get(&update.job).map(|job| job.charged).unwrap_or_default();
            sum.plus(self.needed_by(update).minus_or_zero(has))
        })
    }
}
