//! Births, moves and ends of tasks: carries out what the status table says.

use std::sync::Arc;

use proto::{HostId, JobId, TaskId};

use super::State;
use super::command::Hint;
use super::config::TaskConfig;
use super::job::{EndedTask, Job};
use super::status::{Event, Replace, Status, Verdict, step};
use super::task::{Task, Want};
use super::touch::{EventRecord, Key, Touch};
use crate::limits::{
    ENDED_PER_JOB_MAX, EVENTS_PER_TASK_MAX, FLAP_PENALTY_MAX_MS, FLAP_PENALTY_MIN_MS, FLAP_THRESHOLD_MS,
    JOB_HISTORY_MS, MESSAGE_BYTES_MAX, RESTART_ROOM_MS,
};
use crate::round::veto;
use crate::time::Timestamp;

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stepped {
    Changed,
    Ignored,
    /// The host that spoke runs what it shall not.
    KillAgain,
    Illegal,
}

/// How a new task comes about.
pub(super) struct Birth {
    pub(super) job: JobId,
    pub(super) instance: u32,
    pub(super) config: Arc<TaskConfig>,
    pub(super) failures: u32,
    pub(super) flaps: u32,
    pub(super) penalty_ms: u64,
    pub(super) ancestor: Option<TaskId>,
    pub(super) displaced: bool,
}

/// How a task ends.
struct End {
    to: Status,
    /// It counts as a failure.
    fails: bool,
    replace: Replace,
    /// Somebody asked for it.
    asked: bool,
}

/// A message as it is kept: cut at a whole character.
pub(super) fn kept_message(text: &str) -> Option<Arc<str>> {
    if text.is_empty() {
        return None;
    }
    let mut end = text.len().min(MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Some(text[..end].into())
}

/// The penalty after `flaps` quick deaths in a row. The first one is free: most are repaired by another host.
pub(crate) fn flapping_penalty_ms(flaps: u32) -> u64 {
    match flaps {
        0 | 1 => 0,
        n => FLAP_PENALTY_MIN_MS.saturating_mul(1 << (n - 2).min(16)).min(FLAP_PENALTY_MAX_MS),
    }
}

impl State {
    /// Lets an event happen to a live task.
    pub(super) fn step_task(
        &mut self,
        id: TaskId,
        event: Event,
        message: Option<&str>,
        touch: &mut Touch,
    ) -> Stepped {
        let Some(task) = self.tasks.get(&id) else { return Stepped::Ignored };
        match step(Some(task.status), event) {
            Verdict::Move(to) => {
                if event == Event::Restart {
                    self.alter_task(id, |task| task.flaps = 0);
                }
                self.move_task(id, to, message, touch);
            }
            Verdict::End { to, fails, replace } => {
                let asked = matches!(event, Event::Kill | Event::Restart | Event::Drain | Event::Preempt);
                self.end_task(id, End { to, fails, replace, asked }, message, touch);
            }
            Verdict::Delete => self.delete_task(id, touch),
            Verdict::Ignore => return Stepped::Ignored,
            Verdict::KillAgain => return Stepped::KillAgain,
            Verdict::Illegal => return Stepped::Illegal,
        }
        Stepped::Changed
    }

    /// Makes a task of an instance that has none.
    pub(super) fn bear_task(&mut self, birth: Birth, touch: &mut Touch) -> TaskId {
        let id = TaskId(self.new_id());
        let clock = self.cluster.clock;
        let config = self.refer(&birth.config, touch);
        let event = if birth.penalty_ms > 0 { Event::Throttle } else { Event::Born };
        let Verdict::Move(status) = step(Some(Status::Init), event) else {
            unreachable!("tasks can be born")
        };
        let message = match (birth.ancestor, birth.penalty_ms) {
            (None, _) => None,
            (Some(_), 0) => Some("Rescheduled".into()),
            (Some(_), ms) => kept_message(&format!("Rescheduled, penalized for {ms} ms for flapping")),
        };
        self.link_task(Task {
            id,
            job: birth.job,
            instance: birth.instance,
            status,
            before: None,
            config,
            created: clock,
            since: clock,
            until: if birth.penalty_ms > 0 { clock.plus_ms(birth.penalty_ms) } else { Timestamp(0) },
            host: None,
            ports: Box::default(),
            failures: birth.failures,
            flaps: birth.flaps,
            partitions: 0,
            ancestor: birth.ancestor,
            displaced: birth.displaced,
            message,
            events: 0,
        });
        self.note_event(id, touch);
        touch.hint(if status == Status::Pending { Hint::TaskPending(id) } else { Hint::DeadlineChanged });
        id
    }

    fn move_task(&mut self, id: TaskId, to: Status, message: Option<&str>, touch: &mut Touch) {
        let clock = self.cluster.clock;
        let from = self.tasks[&id].status;
        self.alter_task(id, |task| {
            task.before = (to == Status::Partitioned).then_some(from);
            task.partitions += u32::from(to == Status::Partitioned);
            task.status = to;
            task.since = clock;
            task.until = Task::expiry(to, clock, &task.config);
            task.message = message.and_then(kept_message);
        });
        self.note_event(id, touch);
        let task = &self.tasks[&id];
        if from == Status::Pending || to == Status::Pending {
            touch.hint(Hint::TaskPending(id));
        }
        if task.deadline().is_some() {
            touch.deadlines();
        }
        if let Some(host) = task.host
            && Want::of(from) != Want::of(to)
        {
            self.owe(host, touch);
        }
    }

    fn delete_task(&mut self, id: TaskId, touch: &mut Touch) {
        self.unreserve(id, touch);
        let task = self.unlink_task(id);
        self.release(&task.config, touch);
        for number in 0..task.events {
            touch.forget_row(super::record::event_key(id, number));
        }
        touch.row(Key::Task(id));
        touch.hint(Hint::TaskPending(id));
        touch.hint(Hint::JobChanged(task.job));
        self.end_job_if_over(task.job, touch);
    }

    fn end_task(
        &mut self,
        id: TaskId,
        End { to, fails, replace, asked }: End,
        message: Option<&str>,
        touch: &mut Touch,
    ) {
        let clock = self.cluster.clock;
        self.unreserve(id, touch);
        let mut task = self.unlink_task(id);
        let restarted_on = task.host.filter(|_| task.status == Status::Restarting);
        let displaced = task.status == Status::Preempting;
        let flaps = if asked { 0 } else { flaps_after(&task, to, clock) };
        let was_pending = task.status == Status::Pending;
        task.failures += u32::from(fails);
        // Who stopped it on purpose has said why; what the host adds is always the same.
        let said = task.status.is_deliberate_end() && to != Status::Lost;
        let why = task.message.take().filter(|_| said);
        task.message = why.or_else(|| message.and_then(kept_message));
        task.status = to;
        task.since = clock;
        task.until = Timestamp(0);
        let host = task.host.and_then(|host| self.hosts.get(&host)).map(|host| host.name().clone());
        push_event(&mut task, touch);
        touch.history(task.clone());
        let ended = EndedTask {
            job: task.job,
            id,
            instance: task.instance,
            status: to,
            at: clock,
            message: task.message.clone(),
            host,
            ancestor: task.ancestor,
            events: task.events,
        };
        touch.row(Key::Task(id));
        if was_pending {
            touch.hint(Hint::TaskPending(id));
        }
        if let Some(host) = task.host {
            self.owe(host, touch);
        }
        self.remember_ended(ended, touch);
        let config = self.next_config(task.job, task.instance, &task.config);
        let again = match replace {
            Replace::Never => false,
            Replace::Service => task.config.service,
            Replace::Retry => task.config.retries_after(task.failures),
            Replace::Always => true,
        };
        if again {
            let birth = Birth {
                job: task.job,
                instance: task.instance,
                config,
                failures: task.failures,
                flaps,
                penalty_ms: if flaps > task.flaps { flapping_penalty_ms(flaps) } else { 0 },
                ancestor: Some(id),
                displaced,
            };
            let next = self.bear_task(birth, touch);
            if let Some(host) = restarted_on
                && self.has_place(next, host)
            {
                self.reserve(next, host, RESTART_ROOM_MS, touch);
            }
        }
        let job = task.job;
        self.release(&task.config, touch);
        touch.hint(Hint::JobChanged(job));
        self.end_job_if_over(job, touch);
    }

    /// Whether a task would fit on a host as it is now.
    fn has_place(&self, task: TaskId, host: HostId) -> bool {
        let (task, host) = (&self.tasks[&task], &self.hosts[&host]);
        task.demand().fits_in(&host.free_for(task.id, &task.config))
            && veto::of_attributes(&task.config, &host.record.spec).is_none()
    }

    /// Keeps the newest ended tasks of a job, in order of (time, id). The rows of history of those it drops go too.
    pub(super) fn remember_ended(&mut self, ended: EndedTask, touch: &mut Touch) {
        let id = ended.job;
        let ended = Arc::new(ended);
        touch.recent(&ended);
        self.alter_job(id, |job| drop(job.ended.insert((ended.at, ended.id), ended)));
        self.forget_oldest(id, touch);
    }

    /// Ended tasks of a job that are too many or too old are not remembered any more.
    fn forget_oldest(&mut self, id: JobId, touch: &mut Touch) {
        let clock = self.cluster.clock;
        let too_old = |at: Timestamp| clock.since_ms(at) >= JOB_HISTORY_MS;
        self.alter_job(id, |job| {
            while let Some((at, _)) = job.ended.keys().next().copied()
                && (too_old(at) || job.ended.len() > ENDED_PER_JOB_MAX)
            {
                let Some((_, oldest)) = job.ended.pop_first() else { break };
                forget_ended(&oldest, touch);
            }
        });
    }

    /// A job's deadline passed: it is forgotten, or while it lives what is too old of it.
    pub(super) fn expire_job(&mut self, id: JobId, touch: &mut Touch) {
        match self.jobs.get(&id).map(Job::is_active) {
            Some(true) => self.forget_oldest(id, touch),
            _ => self.remove_job(id, touch),
        }
    }

    /// A job is over when nothing of it lives and nothing is still to be made.
    pub(super) fn end_job_if_over(&mut self, id: JobId, touch: &mut Touch) {
        let clock = self.cluster.clock;
        let making = self
            .work
            .values()
            .any(|work| work.job() == Some(id) && matches!(work.rest, super::work::Rest::Create { .. }));
        let updating = self.updates.contains_key(&id);
        let Some(job) = self.jobs.get(&id) else { return };
        if making || updating || !job.live.is_empty() || job.record.ended.is_some() {
            return;
        }
        self.alter_job(id, |job| job.record.ended = Some(clock));
        touch.row(Key::Job(id));
        touch.hint(Hint::JobChanged(id));
        touch.deadlines();
    }

    /// What a host is owed has changed.
    pub(super) fn owe(&mut self, host: HostId, touch: &mut Touch) {
        if let Some(host) = self.hosts.get_mut(&host) {
            host.record.generation += 1;
            touch.row(Key::Host(host.record.id));
            touch.hint(Hint::HostDirty(host.record.id));
        }
    }

    fn note_event(&mut self, id: TaskId, touch: &mut Touch) {
        let task = self.tasks.get_mut(&id).expect("the caller has found the task");
        push_event(Arc::make_mut(task), touch);
        touch.row(Key::Task(id));
        touch.hint(Hint::JobChanged(task.job));
    }
}

fn push_event(task: &mut Task, touch: &mut Touch) {
    if task.events >= EVENTS_PER_TASK_MAX {
        return;
    }
    touch.event(EventRecord {
        task: task.id,
        number: task.events,
        status: task.status,
        at: task.since,
        message: task.message.clone(),
    });
    task.events += 1;
}

/// An ended task is not remembered any more, and its history goes with it.
pub(super) fn forget_ended(ended: &EndedTask, touch: &mut Touch) {
    touch.forget_recent(ended);
    touch.forget_row(super::record::history_key(ended.id));
    for number in 0..ended.events {
        touch.forget_row(super::record::event_key(ended.id, number));
    }
}

/// Quick deaths in a row once this task has ended. A deliberate end forgives all; the loss of a host or of a
/// partitioned task is not the task's fault and changes nothing.
fn flaps_after(task: &Task, to: Status, now: Timestamp) -> u32 {
    let began = !matches!(task.status, Status::Running | Status::Partitioned);
    if task.status.is_deliberate_end() {
        0
    } else if task.status == Status::Partitioned || (to == Status::Lost && !began) {
        task.flaps
    } else if now.since_ms(task.since) < FLAP_THRESHOLD_MS {
        task.flaps.saturating_add(1)
    } else {
        0
    }
}
