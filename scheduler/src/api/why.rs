//! Why tasks wait, and what a job would do: what the engine found, in messages and in words. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::round::GroupReport;
use engine::state::role::Role;
use engine::state::submit::changes;
use engine::{ConfigHash, Job, JobSpec, Preempt, State, Status, Task, TaskConfig, View};
use proto::wire::{PlanJobReply, QuotaView, VetoCount, Why};

use super::convert;
use crate::limits::TASKS_PER_ANSWER_MAX;

/// Instances that one answer names.
const INSTANCES_NAMED_MAX: usize = 100;
/// Hosts and jobs that one sentence names.
const HOSTS_NAMED_MAX: usize = 5;
/// Tasks for which a plan looks whom they would displace.
const DISPLACING_MAX: usize = 100;

/// What the leader's rounds found, by config.
pub type Reasons = BTreeMap<ConfigHash, Arc<GroupReport>>;

/// Why the tasks of a job wait: those of the named instances, or all. One answer per config and status.
pub fn of_job(view: &View, state: &State, reasons: &Reasons, job: &Job, instances: &[u32]) -> Vec<Why> {
    let named = |task: &&Task| instances.is_empty() || instances.contains(&task.instance);
    let waits = |task: &&Task| matches!(task.status, Status::Pending | Status::Throttled);
    let mut groups: BTreeMap<(ConfigHash, Status), Vec<&Task>> = BTreeMap::new();
    for task in state.tasks_of(job).filter(waits).filter(named) {
        groups.entry((task.config.hash, task.status)).or_default().push(task);
    }
    groups
        .into_iter()
        .map(|((hash, status), tasks)| match status {
            Status::Throttled => of_throttled(state, &tasks),
            _ => of_pending(view, state, reasons.get(&hash).map(AsRef::as_ref), &tasks),
        })
        .collect()
}

fn empty(tasks: &[&Task]) -> Why {
    Why {
        instances: tasks.iter().map(|task| task.instance).take(INSTANCES_NAMED_MAX).collect(),
        waiting: tasks.len() as u32,
        ..Why::default()
    }
}

fn of_throttled(state: &State, tasks: &[&Task]) -> Why {
    let until = tasks.iter().map(|task| task.until).max().unwrap_or(state.clock());
    let seconds = until.since_ms(state.clock()).div_ceil(1000);
    Why {
        retry_at_ms: until.0,
        summary: format!("it ended too soon, several times in a row: tried again in {seconds} s"),
        ..empty(tasks)
    }
}

fn of_pending(view: &View, state: &State, report: Option<&GroupReport>, tasks: &[&Task]) -> Why {
    let mut why = empty(tasks);
    let Some(config) = tasks.first().map(|task| &task.config) else { return why };
    why.quota = quota_words(state, config);
    let Some(report) = report.filter(|report| !report.cut_short) else {
        why.summary = "no round has looked at it yet; look again in a moment".to_owned();
        return why;
    };
    found(&mut why, report);
    let kept = tasks.iter().find_map(|task| state.reservation(task.id));
    why.preemption = match kept.and_then(|kept| state.host(kept.host)) {
        Some(host) => {
            format!("room is kept for it on host {}, as soon as the tasks there have ended", host.name())
        }
        None => displaced(state, &engine::round::preempt::displaced_by(view, state, config, 1)),
    };
    why.summary = format!("{}; {}", report.reason, why.preemption);
    why
}

/// What a round found, without words on quota or preemption.
fn found(why: &mut Why, report: &GroupReport) {
    why.hosts = report.hosts as u32;
    why.vetoes = report
        .vetoes
        .iter()
        .map(|(kind, hosts)| VetoCount { kind: kind.label().to_owned(), hosts: *hosts })
        .collect();
    why.vetoes.sort_by_key(|count| std::cmp::Reverse(count.hosts));
    why.nearest_miss = report.reason.clone();
    why.summary = report.reason.clone();
}

fn displaced(state: &State, preempts: &[Preempt]) -> String {
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
    let role = state.role(&config.job.role).copied().unwrap_or_default();
    let quota = role.quota.unwrap_or_default();
    format!("role {} takes {} of a quota of {quota}", config.job.role, role.charged())
}

/// What creating the job would do.
pub fn plan(view: &View, state: &State, spec: &JobSpec) -> PlanJobReply {
    let config = &spec.config;
    let existing = state.job(&config.job).filter(|job| job.is_active());
    let changes = existing.map(|job| changes(job, config, spec.instances)).unwrap_or_default();
    let mut reply = PlanJobReply {
        exists: existing.is_some(),
        changes,
        feasible: true,
        within_quota: true,
        quota: quota_words(state, config),
        ..PlanJobReply::default()
    };
    if reply.exists && reply.changes.is_empty() {
        return reply;
    }
    if let Err(refusal) = state.check_quota(config, spec.instances) {
        (reply.within_quota, reply.quota) = (false, refusal.message);
    }
    let report = engine::plan(view, spec);
    (reply.would_place, reply.would_wait) = (report.placed as u32, report.waiting as u32);
    let mut makes_room = false;
    if report.waiting > 0 {
        let mut why = Why { waiting: report.waiting as u32, ..Why::default() };
        found(&mut why, &report);
        let preempts =
            engine::round::preempt::displaced_by(view, state, config, report.waiting.min(DISPLACING_MAX));
        makes_room = preempts.len() == report.waiting;
        let victims = preempts.iter().flat_map(|preempt| &preempt.victims);
        reply.victims = victims
            .filter_map(|task| state.task(*task))
            .take(TASKS_PER_ANSWER_MAX)
            .map(|task| convert::task_view(state, task, None))
            .collect();
        why.preemption = displaced(state, &preempts);
        reply.why = Some(why);
    }
    reply.feasible = reply.within_quota && (reply.would_wait == 0 || makes_room);
    reply
}

/// A role's quota, and what it takes.
pub fn quota_view(name: &str, role: &Role) -> QuotaView {
    QuotaView {
        role: name.to_owned(),
        quota: role.quota.map(Into::into),
        charged: Some(role.charged().into()),
        production_dedicated: Some(role.production_dedicated().into()),
        other: Some(role.other().into()),
    }
}
