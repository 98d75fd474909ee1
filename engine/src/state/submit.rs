//! Jobs come and go: create, kill, and the work items of large ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::{JobId, JobKey, TaskId, WorkId, wire};

use super::command::{Done, Hint, Refusal, RefusalKind, Reply};
use super::config::{JobSpec, TaskConfig};
use super::job::{EndedTask, Job, JobRecord};
use super::status::{Event, Status};
use super::touch::{Key, Touch};
use super::transition::{Birth, Stepped, forget_ended};
use super::work::{Rest, Work, tasks_per_command};
use super::{Due, State};
use crate::limits::{
    INSTANCES_NAMED_MAX, INSTANCES_PER_JOB_MAX, JOBS_MAX, TASKS_MAX, TASKS_PER_COMMAND_MAX, TOGETHER_MAX,
    WORK_MAX,
};

/// Bytes of an old and a new value together that are still shown; of longer ones it is said that they differ.
const SHOWN_BYTES_MAX: usize = 200;

impl State {
    pub(super) fn create_job(&mut self, spec: JobSpec, touch: &mut Touch) -> Reply {
        let JobSpec { config, instances } = spec;
        let key = &config.job;
        if let Some(job) = self.job(key).filter(|job| job.is_active()) {
            return match differences(job, &config, instances) {
                None => Ok(Done { id: job.id().0, tasks: job.counts.total(), unchanged: true }),
                Some(what) => Err(Refusal::new(
                    RefusalKind::AlreadyExists,
                    format!("job {key} exists with {what}; {}", way_out(job, &config, instances)),
                )),
            };
        }
        if instances == 0 || instances > INSTANCES_PER_JOB_MAX {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("job {key} asks for {instances} instances; a job has 1 to {INSTANCES_PER_JOB_MAX}"),
            ));
        }
        check_together(&config, instances)?;
        self.check_quota(&config, instances)?;
        self.make_job(JobSpec { config, instances }, touch)
    }

    /// Makes a job that does not live and for which quota was asked.
    pub(super) fn make_job(&mut self, JobSpec { config, instances }: JobSpec, touch: &mut Touch) -> Reply {
        let key = &config.job;
        if self.jobs.len() >= JOBS_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!("the cluster has {JOBS_MAX} jobs and takes no more"),
            ));
        }
        self.check_tasks_room(key, instances)?;
        let large = instances as usize > tasks_per_command();
        if large {
            self.check_work_room()?;
        }

        let key = Arc::new(key.clone());
        let id = JobId(self.new_id());
        // The new life of the job remembers what ended in the old one.
        let old = self.job(&key).map(Job::id);
        let mut ended = std::collections::BTreeMap::new();
        if let Some(old) = old {
            self.alter_job(old, |old| ended = std::mem::take(&mut old.ended));
        }
        if let Some(old) = old {
            self.remove_job(old, touch);
        }
        let config = self.refer(&config, touch);
        let record = JobRecord {
            id,
            key,
            config: config.clone(),
            instances,
            created: self.cluster.clock,
            ended: None,
        };
        self.link_job(Job::new(record));
        for (_, old) in ended {
            touch.forget_recent(&old);
            self.remember_ended(EndedTask { job: id, ..(*old).clone() }, touch);
        }
        touch.row(Key::Job(id));
        touch.hint(Hint::JobChanged(id));
        if large {
            self.add_work(Rest::Create { job: id, next: 0, end: instances }, touch);
        } else {
            self.bear_instances(id, &config, 0, instances, touch);
        }
        Ok(Done { id: id.0, tasks: instances, ..Done::default() })
    }

    pub(super) fn bear_instances(
        &mut self,
        job: JobId,
        config: &Arc<TaskConfig>,
        first: u32,
        end: u32,
        touch: &mut Touch,
    ) {
        for instance in first..end {
            let birth = Birth {
                job,
                instance,
                config: config.clone(),
                failures: 0,
                flaps: 0,
                penalty_ms: 0,
                ancestor: None,
                displaced: false,
            };
            self.bear_task(birth, touch);
        }
    }

    /// Live tasks and those that work items will still make.
    fn tasks_promised(&self) -> usize {
        let made_later = self.work.values().map(|work| match work.rest {
            Rest::Create { next, end, .. } => (end - next) as usize,
            Rest::Stop { .. } | Rest::Drain { .. } | Rest::Renew { .. } => 0,
        });
        self.tasks.len() + made_later.sum::<usize>()
    }

    pub(super) fn kill_tasks(
        &mut self,
        key: &JobKey,
        instances: Vec<u32>,
        message: &str,
        identity: &str,
        touch: &mut Touch,
    ) -> Reply {
        self.stop_tasks(key, instances, words("Killed", identity, message), Event::Kill, touch)
    }

    pub(super) fn restart_tasks(
        &mut self,
        key: &JobKey,
        instances: Vec<u32>,
        message: &str,
        identity: &str,
        touch: &mut Touch,
    ) -> Reply {
        self.stop_tasks(key, instances, words("Restarted", identity, message), Event::Restart, touch)
    }

    /// Kills or restarts tasks of a job: at once, or as a work item where they are too many.
    fn stop_tasks(
        &mut self,
        key: &JobKey,
        mut instances: Vec<u32>,
        why: String,
        event: Event,
        touch: &mut Touch,
    ) -> Reply {
        let Some(job) = self.job(key) else {
            return Err(Refusal::new(RefusalKind::NotFound, format!("there is no job {key}")));
        };
        if instances.len() > INSTANCES_NAMED_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!(
                    "a request names at most {INSTANCES_NAMED_MAX} instances, or none for all; not {}",
                    instances.len()
                ),
            ));
        }
        let (id, restart) = (job.id(), event == Event::Restart);
        if restart && !job.is_active() {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("job {key} has ended; create it anew instead of restarting it"),
            ));
        }
        let all = instances.is_empty();
        let making = self
            .work
            .values()
            .find(|work| work.job() == Some(id) && matches!(work.rest, Rest::Create { .. }));
        let making = making.map(|work| work.id);
        if making.is_some() && (restart || !all) {
            return Err(Refusal::new(
                RefusalKind::Stale,
                format!("the instances of job {key} are still being made; retry, or kill all of them"),
            ));
        }
        let large = all && job.live.len() > tasks_per_command();
        if large && making.is_none() {
            self.check_work_room()?;
        }

        instances.sort_unstable();
        instances.dedup();
        let mut born = Vec::new();
        if let Some(without) = job.without(&instances) {
            let (dead, live): (Vec<u32>, Vec<u32>) =
                instances.iter().copied().partition(|instance| !job.live.contains_key(instance));
            let strange = dead.iter().any(|instance| *instance >= job.instances());
            if strange || (live.is_empty() && !restart) {
                let done = if restart { "restarted" } else { "killed" };
                return Err(Refusal::new(RefusalKind::NotFound, format!("{without}; nothing was {done}")));
            }
            if restart {
                self.check_rebirth(job, dead.len() as u32)?;
                born = dead;
            }
        }

        if all && !restart {
            self.drop_update(id, touch);
        }
        if let Some(work) = making {
            self.remove_work(work, touch);
        }
        let job = &self.jobs[&id];
        if large {
            let tasks = job.counts.total() - job.counts.of(Status::Killing);
            self.add_work(Rest::Stop { job: id, next: 0, message: why.into(), restart }, touch);
            return Ok(Done { id: id.0, tasks, ..Done::default() });
        }
        let targets: Vec<TaskId> = if all {
            job.live.values().copied().collect()
        } else {
            instances.iter().filter_map(|instance| job.live.get(instance)).copied().collect()
        };
        let mut tasks = self.step_each(&targets, event, &why, touch);
        let config = self.jobs[&id].config().clone();
        for instance in born {
            self.bear_instances(id, &config, instance, instance + 1, touch);
            tasks += 1;
        }
        // Work may have been the last thing that kept the job.
        self.end_job_if_over(id, touch);
        Ok(Done { id: id.0, tasks, ..Done::default() })
    }

    /// Whether so many instances of a job whose tasks have ended may get new ones.
    fn check_rebirth(&self, job: &Job, count: u32) -> Result<(), Refusal> {
        if self.updates.contains_key(&job.id()) {
            return Err(Refusal::new(
                RefusalKind::Stale,
                format!("an update of job {} is in flight; start ended instances when it is over", job.key()),
            ));
        }
        self.check_tasks_room(job.key(), count)?;
        self.check_quota(job.config(), count)
    }

    fn check_tasks_room(&self, key: &JobKey, more: u32) -> Result<(), Refusal> {
        if self.tasks_promised() + more as usize <= TASKS_MAX {
            return Ok(());
        }
        let have = self.tasks.len();
        Err(Refusal::new(
            RefusalKind::Limit,
            format!("job {key} asks for {more} more tasks; the cluster has {have} of at most {TASKS_MAX}"),
        ))
    }

    /// More instances of a job that lives, with the config of one of its tasks.
    pub(super) fn add_instances(&mut self, key: &JobKey, like: u32, count: u32, touch: &mut Touch) -> Reply {
        let Some(job) = self.job(key).filter(|job| job.is_active()) else {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("there is no running job {key}; create it before you add to it"),
            ));
        };
        let Some(config) =
            job.live.get(&like).and_then(|task| self.tasks.get(task)).map(|t| t.config.clone())
        else {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("{}; name a live one, to copy", job.without(&[like]).unwrap_or_default()),
            ));
        };
        let id = job.id();
        if count == 0 || count as usize > TASKS_PER_COMMAND_MAX {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("{count} instances cannot be added at once; 1 to {TASKS_PER_COMMAND_MAX} can"),
            ));
        }
        if self.work.values().any(|work| work.job() == Some(id)) {
            return Err(Refusal::new(
                RefusalKind::Stale,
                format!("another large change of job {key} is in progress; retry"),
            ));
        }
        if self.updates.contains_key(&id) {
            return Err(Refusal::new(
                RefusalKind::Stale,
                format!("an update of job {key} is in flight; add instances when it has ended"),
            ));
        }
        let first = job.instances();
        if first.saturating_add(count) > INSTANCES_PER_JOB_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!(
                    "job {key} has {first} instances; {count} more would be over {INSTANCES_PER_JOB_MAX}"
                ),
            ));
        }
        self.check_tasks_room(key, count)?;
        check_together(&config, first + count)?;
        self.check_quota(&config, count)?;
        self.jobs.get_mut(&id).expect("found above").record.instances = first + count;
        touch.row(Key::Job(id));
        self.bear_instances(id, &config, first, first + count, touch);
        Ok(Done { id: id.0, tasks: count, ..Done::default() })
    }

    /// Lets the same happen to each; gives back to how many it did.
    pub(super) fn step_each(
        &mut self,
        targets: &[TaskId],
        event: Event,
        why: &str,
        touch: &mut Touch,
    ) -> u32 {
        let mut stepped = 0;
        for &task in targets {
            let changed = self.step_task(task, event, Some(why), touch) == Stepped::Changed;
            stepped += u32::from(changed);
        }
        stepped
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
            forget_ended(ended, touch);
        }
        self.release(&job.record.config, touch);
        touch.row(Key::Job(id));
        touch.hint(Hint::JobChanged(id));
    }

    pub(super) fn check_work_room(&self) -> Result<(), Refusal> {
        if self.work.len() < WORK_MAX {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalKind::Limit,
            format!("{WORK_MAX} large changes are in progress; retry later"),
        ))
    }

    pub(super) fn add_work(&mut self, rest: Rest, touch: &mut Touch) {
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
        let Some(work) = self.work.get(&id) else {
            return Err(Refusal::new(RefusalKind::Stale, format!("{id} is done")));
        };
        if self.cluster.held.is_some() && !matches!(work.rest, Rest::Renew { .. }) {
            return Err(Refusal::new(RefusalKind::Stale, "no work advances while the cluster is held"));
        }
        let tasks = match work.rest.clone() {
            Rest::Create { job, next, end } => {
                let until = end.min(next.saturating_add(tasks_per_command() as u32));
                self.step_work(id, (until < end).then_some(Rest::Create { job, next: until, end }), touch);
                if let Some(config) = self.jobs.get(&job).map(|job| job.config().clone()) {
                    self.bear_instances(job, &config, next, until, touch);
                }
                until - next
            }
            Rest::Stop { job, next, message, restart } => {
                let live: Option<&BTreeMap<u32, TaskId>> = self.jobs.get(&job).map(|job| &job.live);
                let mut rest = live.into_iter().flat_map(|live| live.range(next..));
                let targets: Vec<TaskId> =
                    rest.by_ref().take(tasks_per_command()).map(|(_, task)| *task).collect();
                let next = rest.next().map(|(instance, _)| *instance);
                let more = next.map(|next| Rest::Stop { job, next, message: message.clone(), restart });
                self.step_work(id, more, touch);
                let event = if restart { Event::Restart } else { Event::Kill };
                self.step_each(&targets, event, &message, touch)
            }
            Rest::Drain { host, message } => {
                self.step_work(id, None, touch);
                self.drain_tasks(host, &message, touch)
            }
            Rest::Renew { next } => {
                let (renewed, next) = self.renew_tasks(next, touch);
                self.step_work(id, next.map(|next| Rest::Renew { next }), touch);
                renewed
            }
        };
        Ok(Done { id: id.0, tasks, ..Done::default() })
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

/// "Killed by ALICE: wrong version", as far as it is known.
pub(super) fn words(what: &str, identity: &str, message: &str) -> String {
    match (identity, message) {
        ("", "") => what.to_owned(),
        ("", message) => format!("{what}: {message}"),
        (identity, "") => format!("{what} by {identity}"),
        (identity, message) => format!("{what} by {identity}: {message}"),
    }
}

/// Whether so many tasks may be placed together or not at all, if the job asks for that.
pub(super) fn check_together(config: &TaskConfig, instances: u32) -> Result<(), Refusal> {
    if !config.all_or_nothing || instances <= TOGETHER_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalKind::Limit,
        format!(
            "job {} asks for places for all of its tasks at once: at most {TOGETHER_MAX}, not {instances}",
            config.job
        ),
    ))
}

/// In words, how an existing job differs from what is asked; `None` when it does not.
fn differences(job: &Job, config: &TaskConfig, instances: u32) -> Option<String> {
    let what = changes(job, config, instances);
    (!what.is_empty()).then(|| what.join(" and "))
}

/// What a person can do who wants an existing job otherwise.
pub fn way_out(job: &Job, config: &TaskConfig, instances: u32) -> String {
    let (key, more) = (job.key(), instances.saturating_sub(job.instances()));
    match job.live.first_key_value() {
        Some((like, _)) if job.config().hash == config.hash && more > 0 => {
            format!("`borealis job add {key}/{like} {more}` adds what is missing")
        }
        _ => format!("end it first with `borealis job killall {key}`, or choose another name"),
    }
}

/// In words, each way in which an existing job differs from what is asked.
pub fn changes(job: &Job, config: &TaskConfig, instances: u32) -> Vec<String> {
    let have = job.config();
    let mut what = Vec::new();
    if job.instances() != instances {
        what.push(format!("{} instances, not {instances}", job.instances()));
    }
    if have.hash == config.hash {
        return what;
    }
    let (old, new) = (&have.wire, &config.wire);
    if have.asked != config.asked {
        what.push(format!("other resources ({}, not {})", have.asked, config.asked));
    }
    let mut differs = |name: &str, old: &dyn std::fmt::Debug, new: &dyn std::fmt::Debug| {
        let (old, new) = (format!("{old:?}"), format!("{new:?}"));
        if old != new && old.len() + new.len() <= SHOWN_BYTES_MAX {
            what.push(format!("{name} {old}, not {new}"));
        } else if old != new {
            what.push(format!("other {name}"));
        }
    };
    let none = wire::TaskSpec::default();
    let (old_task, new_task) = (old.task.as_ref().unwrap_or(&none), new.task.as_ref().unwrap_or(&none));
    for process in &new_task.processes {
        match old_task.processes.iter().find(|old| old.name == process.name) {
            Some(old) if old == process => {}
            Some(old) if old.cmdline != process.cmdline => {
                differs(&format!("command line of process {}", process.name), &old.cmdline, &process.cmdline);
            }
            Some(_) => differs(&format!("settings of process {}", process.name), &"old", &"new"),
            None => differs(&format!("process {}", process.name), &"none", &"one"),
        }
    }
    for old in &old_task.processes {
        if !new_task.processes.iter().any(|process| process.name == old.name) {
            differs(&format!("process {}", old.name), &"one", &"none");
        }
    }
    let order = |task: &wire::TaskSpec| -> Vec<Vec<String>> {
        task.orderings.iter().map(|ordering| ordering.processes.clone()).collect()
    };
    differs("order", &order(old_task), &order(new_task));
    differs("max_failures", &old_task.max_failures, &new_task.max_failures);
    differs("max_concurrency", &old_task.max_concurrency, &new_task.max_concurrency);
    let wait = |task: &wire::TaskSpec| task.finalization_wait_seconds;
    differs("finalization_wait", &wait(old_task), &wait(new_task));
    differs("ports", &have.ports, &config.ports);
    differs("static ports", &have.static_ports, &config.static_ports);
    differs("constraints", &have.constraints, &config.constraints);
    differs("preferences", &have.preferences, &config.preferences);
    differs("spreads", &have.spreads, &config.spreads);
    differs("partition policy", &have.partition, &config.partition);
    differs("service", &have.service, &config.service);
    differs("tier", &old.tier, &new.tier);
    differs("priority", &have.priority, &config.priority);
    differs("max_task_failures", &have.max_task_failures, &config.max_task_failures);
    differs("all_or_nothing", &have.all_or_nothing, &config.all_or_nothing);
    differs("at_most_one", &have.at_most_one, &config.at_most_one);
    differs("contact", &old.contact, &new.contact);
    let metadata = |config: &wire::TaskConfig| -> Vec<(String, String)> {
        config.metadata.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect()
    };
    differs("metadata", &metadata(old), &metadata(new));
    if what.is_empty() {
        what.push("another task config".to_owned());
    }
    what
}
