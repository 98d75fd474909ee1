//! Jobs come and go: create, kill, and the work items of large ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::{JobId, JobKey, TaskId, WorkId};

use super::command::{Done, Hint, Refusal, RefusalKind, Reply};
use super::config::JobSpec;
use super::job::{EndedTask, Job, JobRecord};
use super::status::{Event, Status};
use super::touch::{Key, Touch};
use super::transition::Birth;
use super::work::{Rest, Work};
use super::{Due, State};
use crate::limits::{
    INSTANCES_NAMED_MAX, INSTANCES_PER_JOB_MAX, JOBS_MAX, TASKS_MAX, TASKS_PER_COMMAND_MAX, WORK_MAX,
};

impl State {
    pub(super) fn create_job(&mut self, spec: JobSpec, touch: &mut Touch) -> Reply {
        let JobSpec { config, instances } = spec;
        let key = &config.job;
        if let Some(job) = self.job(key).filter(|job| job.is_active()) {
            return match differences(job, &config, instances) {
                None => Ok(Done { id: job.id().0, tasks: job.counts.total() }),
                Some(what) => Err(Refusal::new(
                    RefusalKind::AlreadyExists,
                    format!("job {key} exists with {what}; kill it first, or choose another name"),
                )),
            };
        }
        if instances == 0 || instances > INSTANCES_PER_JOB_MAX {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("job {key} asks for {instances} instances; a job has 1 to {INSTANCES_PER_JOB_MAX}"),
            ));
        }
        if self.jobs.len() >= JOBS_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!("the cluster has {JOBS_MAX} jobs and takes no more"),
            ));
        }
        if self.tasks_promised() + instances as usize > TASKS_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!(
                    "job {key} asks for {instances} tasks; the cluster has {} of at most {TASKS_MAX}",
                    self.tasks.len()
                ),
            ));
        }
        let large = instances as usize > TASKS_PER_COMMAND_MAX;
        if large {
            self.check_work_room()?;
        }

        let key = Arc::new(key.clone());
        let id = JobId(self.new_id());
        let ended = self.job(&key).map(|old| (old.id(), old.ended.clone()));
        if let Some((old, _)) = ended {
            self.remove_job(old, touch);
        }
        let config = self.refer(&config, touch);
        let record = JobRecord { id, key, config, instances, created: self.cluster.clock, ended: None };
        self.link_job(Job::new(record));
        for (_, old) in ended.map(|(_, tasks)| tasks).unwrap_or_default() {
            self.remember_ended(EndedTask { job: id, ..(*old).clone() }, touch);
        }
        touch.row(Key::Job(id));
        touch.hint(Hint::JobChanged(id));
        if large {
            self.add_work(Rest::Create { job: id, next: 0, end: instances }, touch);
        } else {
            self.bear_instances(id, 0, instances, touch);
        }
        Ok(Done { id: id.0, tasks: instances })
    }

    fn bear_instances(&mut self, job: JobId, first: u32, end: u32, touch: &mut Touch) {
        let config = self.jobs[&job].record.config.clone();
        for instance in first..end {
            let birth = Birth {
                job,
                instance,
                config: config.clone(),
                failures: 0,
                flaps: 0,
                penalty_ms: 0,
                ancestor: None,
            };
            self.bear_task(birth, touch);
        }
    }

    /// Live tasks and those that work items will still make.
    fn tasks_promised(&self) -> usize {
        let made_later = self.work.values().map(|work| match work.rest {
            Rest::Create { next, end, .. } => (end - next) as usize,
            Rest::Kill { .. } => 0,
        });
        self.tasks.len() + made_later.sum::<usize>()
    }

    pub(super) fn kill_tasks(
        &mut self,
        key: &JobKey,
        mut instances: Vec<u32>,
        message: &str,
        identity: &str,
        touch: &mut Touch,
    ) -> Reply {
        let Some(job) = self.job(key) else {
            return Err(Refusal::new(RefusalKind::NotFound, format!("there is no job {key}")));
        };
        if instances.len() > INSTANCES_NAMED_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!(
                    "a kill names at most {INSTANCES_NAMED_MAX} instances, or none for all; not {}",
                    instances.len()
                ),
            ));
        }
        let id = job.id();
        let all = instances.is_empty();
        let making =
            self.work.values().find(|work| work.job() == id && matches!(work.rest, Rest::Create { .. }));
        let making = making.map(|work| work.id);
        if let (Some(_), false) = (making, all) {
            return Err(Refusal::new(
                RefusalKind::Stale,
                format!("the instances of job {key} are still being made; retry, or kill all of them"),
            ));
        }
        let large = all && job.live.len() > TASKS_PER_COMMAND_MAX;
        if large && making.is_none() {
            self.check_work_room()?;
        }

        let why = match (identity, message) {
            ("", "") => "Killed".to_owned(),
            ("", message) => format!("Killed: {message}"),
            (identity, "") => format!("Killed by {identity}"),
            (identity, message) => format!("Killed by {identity}: {message}"),
        };
        if let Some(work) = making {
            self.remove_work(work, touch);
        }
        let job = &self.jobs[&id];
        if large {
            let tasks = job.counts.total() - job.counts.of(Status::Killing);
            self.add_work(Rest::Kill { job: id, next: 0, message: why.into() }, touch);
            return Ok(Done { id: id.0, tasks });
        }
        let targets: Vec<TaskId> = if all {
            job.live.values().copied().collect()
        } else {
            instances.sort_unstable();
            instances.dedup();
            instances.iter().filter_map(|instance| job.live.get(instance)).copied().collect()
        };
        let tasks = self.kill_each(&targets, &why, touch);
        // Work may have been the last thing that kept the job.
        self.end_job_if_over(id, touch);
        Ok(Done { id: id.0, tasks })
    }

    fn kill_each(&mut self, targets: &[TaskId], why: &str, touch: &mut Touch) -> u32 {
        let mut killed = 0;
        for &task in targets {
            let stepped = self.step_task(task, Event::Kill, Some(why), touch);
            killed += u32::from(stepped == super::transition::Stepped::Changed);
        }
        killed
    }

    /// Forgets a job that has ended, with the memory of its newest ended tasks.
    pub(super) fn remove_job(&mut self, id: JobId, touch: &mut Touch) {
        let Some(job) = self.jobs.remove(&id) else { return };
        assert!(job.live.is_empty(), "law: only an ended job is removed; {} has live tasks", job.key());
        if let Some(at) = job.deadline() {
            self.deadlines.remove(&(at, Due::Job(id)));
        }
        if self.keys.get(&job.record.key) == Some(&id) {
            self.keys.remove(&job.record.key);
        }
        for ended in job.ended.values() {
            touch.forget_recent(ended);
        }
        self.release(&job.record.config, touch);
        touch.row(Key::Job(id));
        touch.hint(Hint::JobChanged(id));
    }

    fn check_work_room(&self) -> Result<(), Refusal> {
        if self.work.len() < WORK_MAX {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalKind::Limit,
            format!("{WORK_MAX} large changes are in progress; retry later"),
        ))
    }

    fn add_work(&mut self, rest: Rest, touch: &mut Touch) {
        let id = WorkId(self.new_id());
        self.work.insert(id, Work { id, rest });
        touch.row(Key::Work(id));
        touch.hint(Hint::WorkDue(id));
    }

    fn remove_work(&mut self, id: WorkId, touch: &mut Touch) {
        self.work.remove(&id);
        touch.row(Key::Work(id));
    }

    pub(super) fn advance_work(&mut self, id: WorkId, touch: &mut Touch) -> Reply {
        if self.cluster.held {
            return Err(Refusal::new(RefusalKind::Stale, "no work advances while the cluster is held"));
        }
        let Some(work) = self.work.get(&id) else {
            return Err(Refusal::new(RefusalKind::Stale, format!("{id} is done")));
        };
        let tasks = match work.rest.clone() {
            Rest::Create { job, next, end } => {
                let until = end.min(next.saturating_add(TASKS_PER_COMMAND_MAX as u32));
                self.step_work(id, (until < end).then_some(Rest::Create { job, next: until, end }), touch);
                self.bear_instances(job, next, until, touch);
                until - next
            }
            Rest::Kill { job, next, message } => {
                let live: Option<&BTreeMap<u32, TaskId>> = self.jobs.get(&job).map(|job| &job.live);
                let mut rest = live.into_iter().flat_map(|live| live.range(next..));
                let targets: Vec<TaskId> =
                    rest.by_ref().take(TASKS_PER_COMMAND_MAX).map(|(_, task)| *task).collect();
                let next = rest.next().map(|(instance, _)| *instance);
                let more = next.map(|next| Rest::Kill { job, next, message: message.clone() });
                self.step_work(id, more, touch);
                self.kill_each(&targets, &message, touch)
            }
        };
        Ok(Done { id: id.0, tasks })
    }

    fn step_work(&mut self, id: WorkId, rest: Option<Rest>, touch: &mut Touch) {
        match rest {
            Some(rest) => {
                self.work.insert(id, Work { id, rest });
                touch.row(Key::Work(id));
                touch.hint(Hint::WorkDue(id));
            }
            None => self.remove_work(id, touch),
        }
    }
}

/// In words, how an existing job differs from what is asked; `None` when it does not.
fn differences(job: &Job, config: &super::config::TaskConfig, instances: u32) -> Option<String> {
    let have = job.config();
    let mut what = Vec::new();
    if job.instances() != instances {
        what.push(format!("{} instances, not {instances}", job.instances()));
    }
    if have.hash != config.hash {
        let before = what.len();
        if have.demand != config.demand {
            what.push(format!("other resources ({}, not {})", have.demand, config.demand));
        }
        let (a, b) = (have.wire.task.as_ref(), config.wire.task.as_ref());
        if a.map(|t| (&t.processes, &t.orderings)) != b.map(|t| (&t.processes, &t.orderings)) {
            what.push("other processes".to_owned());
        }
        if have.ports != config.ports {
            what.push("other ports".to_owned());
        }
        if have.constraints != config.constraints {
            what.push("other constraints".to_owned());
        }
        if have.service != config.service {
            what.push(if have.service { "service on, not off" } else { "service off, not on" }.to_owned());
        }
        if (have.tier, have.priority) != (config.tier, config.priority) {
            what.push("another tier or priority".to_owned());
        }
        if what.len() == before {
            what.push("another task config".to_owned());
        }
    }
    (!what.is_empty()).then(|| what.join(" and "))
}
