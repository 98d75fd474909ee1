//! Whom to displace, for tasks that found no place: the cheapest set of victims on the best of a sample of hosts.
//!
//! It reads State beside the view, since the view does not know what runs where. What it looks at is bounded, and a
//! group for which nothing was found is not looked at again before something has changed. Tasks that are placed
//! together displace nobody.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use proto::TaskId;

use super::Round;
use super::place::able;
use super::view::{Group, View};
use crate::limits::VICTIMS_MAX;
use crate::state::State;
use crate::state::command::Preempt;
use crate::state::config::{TaskConfig, Tier};
use crate::state::host::{Going, Host};
use crate::state::preempt::{fits_once_gone, may_displace};
use crate::state::task::Task;
use crate::time::Timestamp;

/// Hosts of which the best is taken for one task.
const HOSTS_SAMPLED: usize = 64;
/// Hosts that are looked at closely until so many were found.
const HOSTS_LOOKED_AT: usize = 1_024;

/// The cost of a set of victims; the smallest is chosen. Fewer, of a lower tier and priority, and younger.
type Cost = (usize, Reverse<Tier>, i64, Reverse<Timestamp>);

/// For up to `budget` tasks that `round` left waiting: whom to displace. The view remembers for whom there was nobody.
pub fn preemptions(view: &mut View, state: &State, round: &Round, budget: usize) -> Vec<Preempt> {
    let mut chosen: Vec<Preempt> = Vec::new();
    if view.stopped.is_some() {
        return chosen;
    }
    let placed = round.placed();
    // One preemption a host and round: the next one sees what the first one left.
    let mut busy: BTreeSet<proto::HostId> = BTreeSet::new();
    for report in &round.report.groups {
        if chosen.len() >= budget {
            break;
        }
        if report.waiting == 0 || report.cut_short {
            continue;
        }
        let Some(group) = view.groups.get(&report.config) else { continue };
        if group.spared == Some(view.version) || group.config.all_or_nothing {
            continue;
        }
        let (version, hash) = (view.version, report.config);
        let wanting =
            group.pending.iter().filter(|task| !view.reserved.contains_key(task) && !placed.contains(task));
        let wanting: Vec<TaskId> = wanting.copied().take(budget - chosen.len()).collect();
        let mut hosts = candidates(view, group);
        let mut spared = false;
        for task in wanting {
            hosts.retain(|(_, host)| !busy.contains(host));
            let Some(preempt) = cheapest(state, &group.config, task, &hosts) else {
                spared = true;
                break;
            };
            busy.insert(preempt.host);
            chosen.push(preempt);
        }
        if spared && let Some(group) = view.groups.get_mut(&hash) {
            group.spared = Some(version);
        }
    }
    chosen
}

/// Whom up to `tasks` more tasks of a config would displace, one host each, if they found no place: for people who ask.
pub fn displaced_by(view: &View, state: &State, config: &Arc<TaskConfig>, tasks: usize) -> Vec<Preempt> {
    let mut hosts = candidates(view, &Group::alone(config.clone(), BTreeSet::new()));
    let mut chosen = Vec::new();
    while chosen.len() < tasks
        && let Some(preempt) = cheapest(state, config, TaskId(0), &hosts)
    {
        hosts.retain(|(_, host)| *host != preempt.host);
        chosen.push(preempt);
    }
    chosen
}

/// Hosts that could hold one task if all but production were gone: those that lack least first.
fn candidates(view: &View, group: &Group) -> Vec<(u64, proto::HostId)> {
    let demand = group.config.demand;
    let columns = &view.columns;
    // Below production, a role displaces its own tasks only; how much that is, nobody counts per host.
    let most = if group.config.is_production() { &columns.displaceable } else { &columns.used };
    let mut hosts: Vec<(u64, proto::HostId)> = able(view, group)
        .slots()
        .filter(|&slot| demand.fits_in(&columns.free_for(slot, &group.config).plus(most[slot])))
        .filter_map(|slot| Some((super::veto::shortage(demand, columns.free[slot]).0, columns.ids[slot]?)))
        .collect();
    hosts.sort_unstable();
    hosts
}

fn cheapest(
    state: &State,
    config: &TaskConfig,
    task: TaskId,
    hosts: &[(u64, proto::HostId)],
) -> Option<Preempt> {
    let mut best: Option<(Cost, Preempt)> = None;
    let mut found = 0;
    for &(_, id) in hosts.iter().take(HOSTS_LOOKED_AT) {
        if found == HOSTS_SAMPLED {
            break;
        }
        let Some(host) = state.host(id).filter(|host| host.is_open()) else { continue };
        if !config.limits().all(|(attribute, limit)| state.limit_allows(&config.job, host, attribute, limit))
        {
            continue;
        }
        let Some((cost, victims)) = victims(state, config, host) else { continue };
        found += 1;
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, Preempt { host: id, task, victims }));
        }
    }
    best.map(|(_, preempt)| preempt)
}

/// The cheapest victims on one host; `None` when not even all would do.
pub(crate) fn victims(state: &State, config: &TaskConfig, host: &Host) -> Option<(Cost, Vec<TaskId>)> {
    let mut all: Vec<&Task> =
        host.tasks().filter_map(|id| state.task(id)).filter(|victim| may_displace(config, victim)).collect();
    all.sort_by_key(|task| (Reverse(task.config.tier), task.config.priority, Reverse(task.created), task.id));
    let fits = |going: Going, freed: &BTreeSet<u16>| fits_once_gone(host, config, going, freed);
    let (mut going, mut freed, mut taken) = (Going::default(), BTreeSet::new(), Vec::new());
    for task in all.into_iter().take(VICTIMS_MAX) {
        if fits(going, &freed) {
            break;
        }
        going = going.with(&task.config);
        freed.extend(task.port_numbers());
        taken.push(task);
    }
    if taken.is_empty() || !fits(going, &freed) {
        return None;
    }
    // The dearest first: whoever can be spared is.
    let mut at = taken.len();
    while at > 0 {
        at -= 1;
        let without = going.without(&taken[at].config);
        let mut freed_without = freed.clone();
        for port in taken[at].port_numbers() {
            freed_without.remove(&port);
        }
        if fits(without, &freed_without) {
            (going, freed) = (without, freed_without);
            taken.remove(at);
        }
    }
    let tier = taken.iter().map(|task| task.config.tier).min()?;
    let priority = taken.iter().map(|task| i64::from(task.config.priority)).sum();
    let oldest = taken.iter().map(|task| task.created).min()?;
    let cost = (taken.len(), Reverse(tier), priority, Reverse(oldest));
    let mut ids: Vec<TaskId> = taken.iter().map(|task| task.id).collect();
    ids.sort_unstable();
    Some((cost, ids))
}
