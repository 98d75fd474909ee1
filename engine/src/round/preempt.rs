//! Whom to displace, for tasks that found no place: the cheapest sets of victims on a sample of hosts.
//!
//! It reads State beside the view, since the view does not know what runs where. What it looks at is bounded, and a
//! group for which too few were found is not looked at again before something has changed, and then after the others.
//! Tasks that are placed together displace nobody.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{HostId, JobId, Resources, TaskId};

use super::Round;
use super::place::able;
use super::veto::shortage;
use super::view::{Group, View};
use crate::limits::VICTIMS_MAX;
use crate::state::State;
use crate::state::command::Preempt;
use crate::state::config::{TaskConfig, Tier};
use crate::state::host::{Going, Host};
use crate::state::job::Job;
use crate::state::preempt::{fits_once_gone, is_leaving, may_displace};
use crate::state::status::Status;
use crate::state::task::Task;
use crate::time::Timestamp;

/// Of so many sets more than a group needs, the cheapest are taken.
const SETS_SAMPLED: usize = 64;
/// Hosts that are looked at closely for one group.
const HOSTS_LOOKED_AT: usize = 1_024;
/// Waiting tasks of one group that are asked whether they may displace anybody.
const WAITING_LOOKED_AT: usize = 10_000;
/// Tasks that are looked at for all groups of one round.
const TASKS_LOOKED_AT: usize = 50_000;

/// The cost of a set of victims; the smallest is chosen. Fewer, of a lower tier and priority, and younger.
type Cost = (usize, Reverse<Tier>, i64, Reverse<Timestamp>);

/// For up to `budget` tasks that `round` left waiting, once its placements are launched: whom to displace. The view
/// remembers for whom there were too few.
pub fn preemptions(view: &mut View, state: &State, round: &Round, budget: usize) -> Vec<Preempt> {
    let mut chosen: Vec<Preempt> = Vec::new();
    if view.stopped.is_some() {
        return chosen;
    }
    let mut search = Search::new(state);
    let waiting = round.report.groups.iter().filter(|report| report.waiting > 0 && !report.cut_short);
    let groups = waiting.filter_map(|report| view.groups.get(&report.config));
    let groups = groups.filter(|group| group.spared != Some(view.version) && !group.config.all_or_nothing);
    let mut turns: Vec<_> = groups.map(|group| (group.spared, group.config.hash)).collect();
    // Stable: those never spared before come first, as they were served.
    turns.sort_by_key(|(spared, _)| *spared);
    for (_, hash) in turns {
        let left = budget - chosen.len();
        if left == 0 || search.tasks_left == 0 {
            break;
        }
        let Some(group) = view.groups.get(&hash) else { continue };
        // Who was displaced displaces nobody in turn.
        let may = |task: &&TaskId| {
            !view.reserved.contains_key(task) && state.task(**task).is_some_and(|task| !task.displaced)
        };
        let wanting: Vec<TaskId> =
            group.pending.iter().take(WAITING_LOOKED_AT).filter(may).copied().take(left).collect();
        if wanting.is_empty() {
            continue;
        }
        let found = search.sets(view, group, wanting.len());
        let spared = found.len() < wanting.len();
        chosen.extend(wanting.into_iter().zip(found).map(|(task, (host, victims))| Preempt {
            host,
            task,
            victims,
        }));
        if spared && let Some(group) = view.groups.get_mut(&hash) {
            group.spared = Some(view.version);
        }
    }
    chosen
}

/// Whom up to `tasks` more tasks of a config would displace, one host each, if they found no place: for people who ask.
pub fn displaced_by(view: &View, state: &State, config: &Arc<TaskConfig>, tasks: usize) -> Vec<Preempt> {
    let group = Group::of(JobId(0), config.clone(), BTreeSet::new());
    let found = Search::new(state).sets(view, &group, tasks);
    found.into_iter().map(|(host, victims)| Preempt { host, task: TaskId(0), victims }).collect()
}

/// What was looked at in one round.
pub(super) struct Search<'a> {
    state: &'a State,
    /// Hosts as a plan has them, if the search is for one.
    planned: Option<&'a BTreeMap<HostId, Host>>,
    /// Hosts on which nothing was found.
    pub(super) fruitless: BTreeSet<HostId>,
    /// Not all that might be displaced was looked at.
    pub(super) cut: bool,
    /// Each host makes room for one task in a round: the next round sees what is left.
    busy: BTreeSet<HostId>,
    /// The tasks of a host, those that are displaced first before.
    tasks: BTreeMap<HostId, Vec<&'a Task>>,
    tasks_left: usize,
}

impl<'a> Search<'a> {
    fn new(state: &'a State) -> Self {
        Search {
            state,
            planned: None,
            fruitless: BTreeSet::new(),
            cut: false,
            busy: BTreeSet::new(),
            tasks: BTreeMap::new(),
            tasks_left: TASKS_LOOKED_AT,
        }
    }

    /// For a plan, in which some hosts are other than State has them, and some need not be looked at again.
    pub(super) fn planned(
        state: &'a State,
        hosts: &'a BTreeMap<HostId, Host>,
        fruitless: &BTreeSet<HostId>,
    ) -> Self {
        Search { planned: Some(hosts), busy: fruitless.clone(), ..Search::new(state) }
    }

    /// A host as State has it; for a plan with what is on its way there.
    fn as_seen(&self, view: &View, host: &'a Host) -> Cow<'a, Host> {
        let Some(planned) = self.planned else { return Cow::Borrowed(host) };
        let mut host = planned.get(&host.id()).unwrap_or(host).clone();
        // What State has taken in meanwhile is among the host's tasks; it does not know those of the plan.
        let flies = |task: &TaskId| self.state.task(*task).is_none_or(|task| task.status == Status::Pending);
        for (_, config, ports) in view.flights_to(host.id()).filter(|(task, ..)| flies(task)) {
            host.used = host.used.plus(config.demand);
            if config.is_revocable() {
                host.revocable = host.revocable.plus(config.demand);
            }
            host.ports.extend(ports);
        }
        Cow::Owned(host)
    }

    /// Up to `wanted` sets of victims, each on a host of its own, the cheapest first.
    pub(super) fn sets(&mut self, view: &View, group: &Group, wanted: usize) -> Vec<(HostId, Vec<TaskId>)> {
        let (state, config) = (self.state, &*group.config);
        let mut found: Vec<(Cost, HostId, Vec<TaskId>)> = Vec::new();
        let job = state.job(&config.job).filter(|_| self.planned.is_none());
        let mut limits = Limits { config, job, more: BTreeMap::new() };
        if self.planned.is_some() {
            for (host, tasks) in view.flights_of(group.job) {
                (0..tasks).filter_map(|_| state.host(host)).for_each(|host| limits.add(host));
            }
        }
        // What was displaced for the group before is not placed yet, and counts.
        for (_, slot) in view.kept_for(group) {
            view.columns.ids[slot]
                .and_then(|id| state.host(id))
                .into_iter()
                .for_each(|host| limits.add(host));
        }
        for id in self.candidates(view, group) {
            if found.len() >= wanted + SETS_SAMPLED || self.tasks_left == 0 {
                break;
            }
            let Some(host) = state.host(id).filter(|host| host.is_open() && limits.allow(host)) else {
                self.fruitless.insert(id);
                continue;
            };
            let flying =
                if self.planned.is_none() { view.flying_to(state, id) } else { Resources::default() };
            let host = self.as_seen(view, host);
            let tasks = self.tasks_of(&host);
            match victims(config, &host, flying, tasks) {
                Some((cost, victims)) => found.push((cost, id, victims)),
                None => drop(self.fruitless.insert(id)),
            }
        }
        found.sort();
        let mut chosen = Vec::new();
        for (_, id, victims) in found {
            let Some(host) = state.host(id).filter(|host| limits.allow(host)) else { continue };
            if chosen.len() == wanted {
                break;
            }
            limits.add(host);
            self.busy.insert(id);
            chosen.push((id, victims));
        }
        chosen
    }

    /// Hosts that may hold one task if others were gone.
    fn candidates(&mut self, view: &View, group: &Group) -> Vec<HostId> {
        let (config, columns) = (&group.config, &view.columns);
        let able = able(view, group);
        let fits = |slot: usize, more: Resources| {
            able.has(slot) && config.demand.fits_in(&columns.free_for(slot, config).plus(more))
        };
        let busy = &self.busy;
        let idle = |id: &HostId| !busy.contains(id);
        if config.is_production() {
            // The emptiest first: they lack least.
            let slots = view.ranking.entries().rev().map(|(_, slot)| slot as usize);
            let slots = slots.filter(|&slot| fits(slot, columns.displaceable[slot]));
            return slots.filter_map(|slot| columns.ids[slot]).filter(idle).take(HOSTS_LOOKED_AT).collect();
        }
        // Below production a role displaces its own work only: where that runs, the lowest priority first.
        let role = Some(config.job.role.as_str());
        let mut jobs: Vec<&Job> =
            self.state.jobs(role, None).filter(|job| job.counts().total() > 0).collect();
        jobs.sort_by_key(|job| job.config().priority);
        let all: usize = jobs.iter().map(|job| job.counts().total() as usize).sum();
        self.cut |= all > TASKS_LOOKED_AT;
        let tasks = jobs.into_iter().flat_map(|job| self.state.tasks_of(job));
        let tasks = tasks.take(TASKS_LOOKED_AT).filter(|task| may_displace(config, task));
        let mut hosts = Vec::new();
        let mut seen = BTreeSet::new();
        for host in tasks.filter_map(|task| task.host).filter(idle) {
            let slot = view.slots.get(&host).copied().filter(|_| seen.insert(host));
            if slot.is_some_and(|slot| fits(slot, columns.used[slot])) {
                hosts.push(host);
            }
            if hosts.len() == HOSTS_LOOKED_AT {
                break;
            }
        }
        hosts
    }

    fn tasks_of(&mut self, host: &Host) -> &[&'a Task] {
        let state = self.state;
        let left = &mut self.tasks_left;
        self.tasks.entry(host.id()).or_insert_with(|| {
            let mut tasks: Vec<&Task> = host.tasks().filter_map(|id| state.task(id)).collect();
            *left = left.saturating_sub(tasks.len());
            tasks.sort_by_key(|task| order(task));
            tasks
        })
    }
}

/// Who is displaced first: the lowest tier and priority, the youngest.
fn order(task: &Task) -> (Reverse<Tier>, i32, Reverse<Timestamp>, TaskId) {
    (Reverse(task.config.tier), task.config.priority, Reverse(task.created), task.id)
}

/// The limits of a job, with those of its tasks that are still to come.
struct Limits<'a> {
    config: &'a TaskConfig,
    job: Option<&'a Job>,
    more: BTreeMap<(&'a str, &'a str), u32>,
}

impl<'a> Limits<'a> {
    fn allow(&self, host: &'a Host) -> bool {
        self.config.limits().all(|(attribute, limit)| {
            let mut values = host.record.spec.values(attribute).peekable();
            let tasks = |value: &'a str| {
                self.job.map_or(0, |job| job.places().of(attribute, value))
                    + self.more.get(&(attribute, value)).copied().unwrap_or(0)
            };
            values.peek().is_some() && values.all(|value| tasks(value) < limit)
        })
    }

    fn add(&mut self, host: &'a Host) {
        for (attribute, _) in self.config.limits() {
            for value in host.record.spec.values(attribute) {
                *self.more.entry((attribute, value)).or_default() += 1;
            }
        }
    }
}

/// The cheapest victims on one host, of its tasks in their `order`; `None` when not even all would do.
/// `flying` is on its way to the host, and takes its room as what is kept does.
fn victims(
    config: &TaskConfig,
    host: &Host,
    flying: Resources,
    tasks: &[&Task],
) -> Option<(Cost, Vec<TaskId>)> {
    let all: Vec<&Task> = tasks.iter().copied().filter(|victim| may_displace(config, victim)).collect();
    let (mut leaving, mut leaving_ports) = (Going::default(), BTreeSet::new());
    for task in tasks.iter().filter(|task| is_leaving(task)) {
        leaving = leaving.with(&task.config);
        leaving_ports.extend(task.port_numbers());
    }
    let need = Need { config, host, kept: host.reserved.plus(flying), leaving, leaving_ports };
    if all.is_empty() || need.is_met_without(&[]) {
        return None;
    }
    let one = all.iter().copied().find(|task| need.is_met_without(&[task]));
    let lowest = need.set(&all);
    let mut largest = all;
    largest.sort_by_cached_key(|task| (Reverse(need.help_of(task)), order(task)));
    let sets = [one.map(|task| vec![task]), lowest, need.set(&largest)];
    let cheapest = sets.into_iter().flatten().min_by_key(|set| cost(set))?;
    let mut ids: Vec<TaskId> = cheapest.iter().map(|task| task.id).collect();
    ids.sort_unstable();
    Some((cost(&cheapest), ids))
}

fn cost(victims: &[&Task]) -> Cost {
    // The dearest of them counts.
    let tier = victims.iter().map(|task| task.config.tier).min().unwrap_or(Tier::Revocable);
    let priority = victims.iter().map(|task| i64::from(task.config.priority)).sum();
    let oldest = victims.iter().map(|task| task.created).min().unwrap_or_default();
    (victims.len(), Reverse(tier), priority, Reverse(oldest))
}

/// A task that needs room on a host.
struct Need<'a> {
    config: &'a TaskConfig,
    host: &'a Host,
    /// What of the host is not to be had, though no task has it yet.
    kept: Resources,
    /// What goes anyway.
    leaving: Going,
    leaving_ports: BTreeSet<u16>,
}

impl Need<'_> {
    fn is_met(&self, going: Going, ports: &BTreeSet<u16>) -> bool {
        fits_once_gone(self.host, self.config, self.kept, going, ports)
    }

    fn is_met_without(&self, gone: &[&Task]) -> bool {
        let going = gone.iter().fold(self.leaving, |going, task| going.with(&task.config));
        let mut ports = self.leaving_ports.clone();
        ports.extend(gone.iter().flat_map(|task| task.port_numbers()));
        self.is_met(going, &ports)
    }

    /// How much of what lacks a task would give, in thousandths of the demand.
    fn help_of(&self, task: &Task) -> u64 {
        let lacks = |going: Going| {
            let room = self.host.room_without(self.config.is_revocable(), self.kept, going);
            shortage(self.config.demand, room).0
        };
        lacks(self.leaving).saturating_sub(lacks(self.leaving.with(&task.config)))
    }

    /// Takes tasks in the given order until they do, then spares whoever can be, the dearest first.
    fn set<'t>(&self, tasks: &[&'t Task]) -> Option<Vec<&'t Task>> {
        let (mut going, mut ports, mut taken) = (self.leaving, self.leaving_ports.clone(), Vec::new());
        for task in tasks.iter().take(VICTIMS_MAX) {
            if self.is_met(going, &ports) {
                break;
            }
            going = going.with(&task.config);
            ports.extend(task.port_numbers());
            taken.push(*task);
        }
        if !self.is_met(going, &ports) {
            return None;
        }
        taken.sort_by_key(|task| order(task));
        for at in (0..taken.len()).rev() {
            let without = going.without(&taken[at].config);
            let mut fewer = ports.clone();
            for port in taken[at].port_numbers() {
                fewer.remove(&port);
            }
            if self.is_met(without, &fewer) {
                (going, ports) = (without, fewer);
                taken.remove(at);
            }
        }
        Some(taken)
    }
}
