//! A plain count of State beside what a round says: why a task waits, on how many hosts for which reason, and whether
//! it really fits nowhere. It knows columns, sets and rankings of none.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Resources, TaskId};

use crate::round::{GroupReport, VetoKind, veto};
use crate::{Host, State, Status, Task, TaskConfig};

/// Tasks of a host that are not gone.
fn stays<'a>(state: &'a State, host: &'a Host, gone: &'a BTreeSet<TaskId>) -> impl Iterator<Item = &'a Task> {
    state.tasks().filter(|task| task.host == Some(host.id()) && !gone.contains(&task.id))
}

/// What a host has free for a task of the config, beside all that is kept there but for `own`, once `gone` are.
fn free(
    state: &State,
    host: &Host,
    config: &TaskConfig,
    own: Option<TaskId>,
    gone: &BTreeSet<TaskId>,
) -> Resources {
    let (mut reserved, mut revocable) = (Resources::default(), Resources::default());
    for task in stays(state, host, gone) {
        let sum = if task.config.is_revocable() { &mut revocable } else { &mut reserved };
        *sum = sum.plus(task.config.demand);
    }
    let kept = state.reservations().filter(|kept| kept.host == host.id() && Some(kept.task) != own);
    let kept = kept.filter_map(|kept| state.task(kept.task)).map(|task| task.config.demand);
    let kept = kept.fold(Resources::default(), Resources::plus);
    // What is reserved and not used is there once more: for revocable tasks, and no more than of it they have for others.
    let unused = host.record.unused.min(reserved);
    let lent = if config.is_revocable() { unused } else { unused.min(revocable) };
    let taken = reserved.plus(revocable).plus(kept);
    host.record.spec.capacity.plus(lent).minus_or_zero(taken)
}

/// Whether the limits of a job let one more task on a host.
fn is_limited(state: &State, host: &Host, config: &TaskConfig) -> bool {
    config.limits().any(|(attribute, limit)| {
        let shares = |value: &str| {
            let on_it = |task: &&Task| {
                let host = task.host.and_then(|host| state.host(host));
                task.config.job == config.job
                    && host.is_some_and(|host| host.record.spec.values(attribute).any(|v| v == value))
            };
            state.tasks().filter(on_it).count()
        };
        host.record.spec.values(attribute).any(|value| shares(value) >= limit as usize)
    })
}

/// The ports of a host that its tasks have.
fn taken_ports(state: &State, host: &Host, gone: &BTreeSet<TaskId>) -> Vec<u16> {
    stays(state, host, gone).flat_map(|task| task.port_numbers()).collect()
}

/// All reasons why a host takes no task of the config once `gone` are; empty when it does.
fn vetoes(
    state: &State,
    host: &Host,
    config: &TaskConfig,
    own: Option<TaskId>,
    gone: &BTreeSet<TaskId>,
) -> Vec<VetoKind> {
    let spec = &host.record.spec;
    if host.record.draining {
        return vec![VetoKind::Maintenance];
    }
    if config.dedicated().is_none() && spec.values("dedicated").next().is_some() {
        return vec![VetoKind::Dedicated];
    }
    if config.constraints.iter().any(|constraint| !veto::holds(constraint, spec)) {
        return vec![VetoKind::Constraint];
    }
    let mut found = Vec::new();
    if is_limited(state, host, config) {
        found.push(VetoKind::Limit);
    }
    let (wanted, free) = (config.demand, free(state, host, config, own, gone));
    for (kind, wanted, free) in [
        (VetoKind::Cpu, wanted.cpu_milli, free.cpu_milli),
        (VetoKind::Ram, wanted.ram_mib, free.ram_mib),
        (VetoKind::Disk, wanted.disk_mib, free.disk_mib),
        (VetoKind::Gpu, wanted.gpus, free.gpus),
    ] {
        if wanted > free {
            found.push(kind);
        }
    }
    if !found.is_empty() {
        return found;
    }
    let taken = taken_ports(state, host, gone);
    let fixed: Vec<u16> = config.static_ports.iter().map(|(_, port)| *port).collect();
    if fixed.iter().any(|port| taken.contains(port)) {
        return vec![VetoKind::StaticPort];
    }
    let ranges = spec.ports.iter().flat_map(|&(first, last)| first..=last);
    if ranges.filter(|port| !taken.contains(port) && !fixed.contains(port)).count() < config.ports.len() {
        return vec![VetoKind::Ports];
    }
    Vec::new()
}

/// Whether a host would take a task once `gone` are, and all that are on their way out for good.
pub(crate) fn takes_without(state: &State, host: &Host, task: &Task, gone: &BTreeSet<TaskId>) -> bool {
    let leaves =
        |task: &&Task| matches!(task.status, Status::Killing | Status::Preempting | Status::Draining);
    let leaving = state.tasks().filter(leaves).map(|task| task.id);
    let gone = leaving.chain(gone.iter().copied()).collect();
    vetoes(state, host, &task.config, Some(task.id), &gone).is_empty()
}

/// Compares what a round has just found about a group of waiting tasks with a count.
pub(crate) fn check(state: &State, report: &GroupReport) -> Result<(), String> {
    let of = |task: &&Task| task.status == Status::Pending && task.config.hash == report.config;
    let waiting: Vec<&Task> = state.tasks().filter(of).collect();
    let Some(one) = waiting.first() else { return Err("nothing of the group waits".to_owned()) };
    let config = &*one.config;
    let complain = |what: String| Err(format!("{}: {what}, in {report:?}", config.job));
    if report.waiting != waiting.len() {
        return complain(format!("{} wait", waiting.len()));
    }
    if report.reason.is_empty() {
        return complain("who waits is not told why".to_owned());
    }
    let heard: Vec<&Host> = state.hosts().filter(|host| !host.is_silent()).collect();
    if report.hosts != heard.len() {
        return complain(format!("{} hosts are heard", heard.len()));
    }
    let mut counted: BTreeMap<VetoKind, u32> = BTreeMap::new();
    for kind in heard.iter().flat_map(|host| vetoes(state, host, config, None, &BTreeSet::new())) {
        *counted.entry(kind).or_default() += 1;
    }
    if report.vetoes != counted {
        return complain(format!("a count gives {counted:?}"));
    }
    let takes = |task: &Task| {
        let open = heard.iter().filter(|host| host.is_open());
        open.filter(|host| vetoes(state, host, config, Some(task.id), &BTreeSet::new()).is_empty()).count()
    };
    // Of those placed together that nothing but resources limits, it is plain how many fit.
    let plain = config.ports.is_empty() && config.static_ports.is_empty() && config.limits().next().is_none();
    if let Some(fit) = report.fit
        && plain
        && !config.is_revocable()
        && state.reservations().next().is_none()
    {
        let times = |host: &&&Host| {
            let free = free(state, host, config, None, &BTreeSet::new());
            (1..=waiting.len()).take_while(|n| config.demand.times(*n as u32).fits_in(&free)).count()
        };
        let suits = |host: &&&Host| {
            let spec = &host.record.spec;
            host.is_open() && veto::of_attributes(config, spec).is_none()
        };
        let count: usize = heard.iter().filter(suits).map(|host| times(&host)).sum();
        if count != fit as usize {
            return complain(format!("{count} would find a place"));
        }
    }
    if !config.all_or_nothing
        && let Some(task) = waiting.iter().find(|task| takes(task) > 0)
    {
        return complain(format!("{} fits on {} hosts", task.id, takes(task)));
    }
    Ok(())
}
