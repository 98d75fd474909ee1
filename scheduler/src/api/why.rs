//! Why tasks wait, and what a job would do: what the engine found, in messages and in words. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engine::round::GroupReport;
use engine::state::role::Role;
use engine::state::submit::{changes, way_out};
use engine::{ConfigHash, Job, JobSpec, Plan, Preempt, State, Status, Task, TaskConfig, Timestamp, View};
use proto::Resources;
use proto::wire::{PlanJobReply, QuotaView, VetoCount, Why};

use super::convert;
use crate::leader::Reasons;
use crate::limits::TASKS_PER_ANSWER_MAX;

/// Instances that one answer names.
const INSTANCES_NAMED_MAX: usize = 100;
/// Hosts and jobs that one sentence names.
const HOSTS_NAMED_MAX: usize = 5;
/// How long a plan may look for places.
const PLAN_MAX: Duration = Duration::from_secs(5);

/// Why the tasks of a job wait, seen at `now`: those of the named instances, or all. One answer per config and status.
pub fn of_job(view: &View, state: &State, now: Timestamp, job: &Job, instances: &[u32]) -> Vec<Why> {
    let wanted: BTreeSet<u32> = instances.iter().copied().collect();
    let named = |task: &&Task| wanted.is_empty() || wanted.contains(&task.instance);
    let waits =
        |task: &&Task| matches!(task.status, Status::Pending | Status::Throttled | Status::Partitioned);
    let mut groups: BTreeMap<(ConfigHash, Status), Vec<&Task>> = BTreeMap::new();
    for task in state.tasks_of(job).filter(waits).filter(named) {
        groups.entry((task.config.hash, task.status)).or_default().push(task);
    }
    let of = |tasks: Vec<&Task>| match state.waits(&tasks, now) {
        Some(waits) => {
            Why { retry_at_ms: waits.until.unwrap_or_default().0, summary: waits.words, ..empty(&tasks) }
        }
        None => of_pending(view, state, now, &tasks),
    };
    groups.into_values().map(of).collect()
}

/// Of one task, as far as its status says it: with what was found of the groups that are pending.
pub fn of_task(state: &State, now: Timestamp, reasons: &Reasons, task: &Task) -> Option<String> {
    match task.status {
        Status::Pending => reasons.get(&task.config.hash).map(|group| group.reason.clone()),
        _ => state.waits(&[task], now).map(|waits| waits.words),
    }
}

fn empty(tasks: &[&Task]) -> Why {
    Why {
        instances: tasks.iter().map(|task| task.instance).take(INSTANCES_NAMED_MAX).collect(),
        waiting: tasks.len() as u32,
        ..Why::default()
    }
}

fn seconds_until(now: Timestamp, until: Timestamp) -> u64 {
    until.since_ms(now).div_ceil(1000)
}

fn of_pending(view: &View, state: &State, now: Timestamp, tasks: &[&Task]) -> Why {
    let mut why = empty(tasks);
    let Some(config) = tasks.first().map(|task| &task.config) else { return why };
    why.quota = quota_words(state, config);
    let Some(report) = engine::round::recount(view, &config.hash) else {
        why.summary = "it was given a place a moment ago; look again in a moment".to_owned();
        return why;
    };
    found(&mut why, &report);
    let kept = tasks.iter().find_map(|task| state.reservation(task.id));
    why.preemption = match kept.and_then(|kept| Some((kept, state.host(kept.host)?))) {
        Some((kept, host)) => format!(
            "room is kept for {} on host {} for {} s more, until the tasks there have ended",
            kept.task,
            host.name(),
            seconds_until(now, kept.until)
        ),
        None if config.all_or_nothing => displaced(state, config, &[]),
        None => displaced(state, config, &engine::round::preempt::displaced_by(view, state, config, 1)),
    };
    if report.hosts == 0 {
        // No host was looked at, so no room would help.
        why.preemption.clear();
        return why;
    }
    why.summary = format!("{}; {}", report.reason, why.preemption);
    why
}

/// What a round found, without words on quota or preemption.
fn found(why: &mut Why, report: &GroupReport) {
    why.hosts = report.hosts as u32;
    why.fit = report.fit;
    why.vetoes = report
        .vetoes
        .iter()
        .map(|(kind, hosts)| VetoCount { kind: kind.label().to_owned(), hosts: *hosts })
        .collect();
    why.vetoes.sort_by_key(|count| std::cmp::Reverse(count.hosts));
    if report.hosts > 0 {
        why.nearest_miss = report.reason.clone();
    }
    why.summary = report.reason.clone();
}

fn displaced(state: &State, config: &TaskConfig, preempts: &[Preempt]) -> String {
    if config.all_or_nothing {
        return "tasks that are placed together displace nobody: they wait".to_owned();
    }
    let victims: Vec<&Task> =
        preempts.iter().flat_map(|preempt| &preempt.victims).filter_map(|task| state.task(*task)).collect();
    if victims.is_empty() {
        return "no task that it may displace is in the way".to_owned();
    }
    let hosts = preempts.iter().filter_map(|preempt| state.host(preempt.host)).map(|host| host.name());
    let hosts: Vec<String> = hosts.take(HOSTS_NAMED_MAX).map(ToString::to_string).collect();
    let jobs = victims.iter();
    let mut jobs: Vec<String> = jobs.map(|task| task.config.job.to_string()).collect();
    jobs.sort_unstable();
    jobs.dedup();
    jobs.truncate(HOSTS_NAMED_MAX);
    let tasks = match victims.len() {
        1 => "1 task".to_owned(),
        tasks => format!("{tasks} tasks"),
    };
    format!("it would displace {tasks} of {} on {}", jobs.join(" and "), hosts.join(" and "))
}

fn quota_words(state: &State, config: &TaskConfig) -> String {
    if !config.is_charged() {
        return String::new();
    }
    let role = &config.job.role;
    let quota = state.role(role).and_then(|role| role.quota).unwrap_or_default();
    let promised = match state.promised(role) {
        promised if promised == Resources::default() => String::new(),
        promised => format!(" ({promised} of that is promised, not yet taken)"),
    };
    format!("role {role} takes {} of a quota of {quota}{promised}", state.taken(role))
}

/// What creating or changing the job would do. It takes its time; `look` shows State for a moment.
pub fn plan(mut plan: Plan, spec: &JobSpec, mut look: impl FnMut(&mut dyn FnMut(&State))) -> PlanJobReply {
    let mut reply = PlanJobReply::default();
    look(&mut |state| reply = asked(state, spec));
    if reply.exists && reply.changes.is_empty() {
        reply.feasible = true;
        return reply;
    }
    let begun = Instant::now();
    plan.make(&mut look, || begun.elapsed() < PLAN_MAX);
    (reply.would_place, reply.after_displacing) = (plan.now as u32, plan.displacing as u32);
    (reply.would_wait, reply.cut) = (plan.waiting() as u32, plan.cut && plan.waiting() > 0);
    let victims = plan.displaced.iter().flat_map(|preempt| &preempt.victims);
    reply.displaced = victims.clone().count() as u32;
    look(&mut |state| {
        let victims = victims.clone().filter_map(|task| state.task(*task)).take(TASKS_PER_ANSWER_MAX);
        reply.victims = victims.map(|task| convert::task_view(state, task, None)).collect();
        if let Some(report) = &plan.why {
            let mut why = Why { waiting: reply.would_wait, ..Why::default() };
            found(&mut why, report);
            // Where no host was looked at, nobody was sought either.
            if report.hosts > 0 {
                why.preemption = displaced(state, &spec.config, &plan.displaced);
            }
            reply.why = Some(why);
        }
    });
    reply.feasible = reply.within_quota && reply.would_wait == 0;
    reply
}

/// What State says of a job without a look at the hosts: whether it is there, how it differs, and the quota.
fn asked(state: &State, JobSpec { config, instances }: &JobSpec) -> PlanJobReply {
    let existing = state.job(&config.job).filter(|job| job.is_active());
    let spec = JobSpec { config: config.clone(), instances: *instances };
    let quota = match existing {
        Some(job) => state.check_quota_of_change(job, &spec),
        None => state.check_quota(config, *instances),
    };
    let (within_quota, quota) = match quota {
        Ok(()) => (true, quota_words(state, config)),
        Err(refusal) => (false, refusal.message),
    };
    PlanJobReply {
        exists: existing.is_some(),
        changes: existing.map(|job| changes(job, config, *instances)).unwrap_or_default(),
        way_out: existing.map(|job| way_out(job, config, *instances)).unwrap_or_default(),
        within_quota,
        quota,
        ..PlanJobReply::default()
    }
}

/// A role's quota, and what it takes.
pub fn quota_view(state: &State, name: &str, role: &Role) -> QuotaView {
    QuotaView {
        role: name.to_owned(),
        quota: role.quota.map(Into::into),
        charged: Some(role.charged().into()),
        production_dedicated: Some(role.production_dedicated().into()),
        other: Some(role.other().into()),
        promised: Some(state.promised(name).into()),
    }
}
