//! What a round reads, kept by the leader beside State: flat columns of hosts, pending tasks in groups of equal
//! config, placements proposed and not yet settled.
//!
//! The view takes hints and looks at State; it is as right as the last look. Whatever it believes wrongly is
//! caught by `apply`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{HostId, JobId, Resources, TaskId};

use super::attributes::{Attribute, Attributes};
use super::bits::Bits;
use super::pages::Pages;
use super::ranking::{Entry, Ranking, rank};
use super::{GroupReport, Round};
use crate::state::State;
use crate::state::command::{Assign, Hint, Preempt};
use crate::state::config::{ConfigHash, TaskConfig};
use crate::state::host::{Host, HostSpec};
use crate::state::job::Places;
use crate::state::status::Status;

/// Pending tasks of one job with one config.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) job: JobId,
    pub(super) config: Arc<TaskConfig>,
    pub(super) pending: BTreeSet<TaskId>,
    /// The last fruitless try: the view's version then, and what was found.
    pub(super) tried: Option<(u64, Arc<GroupReport>)>,
    /// The view's version when nothing was found that could be displaced for it.
    pub(super) spared: Option<u64>,
}

impl Group {
    /// One that was never tried.
    pub(super) fn of(job: JobId, config: Arc<TaskConfig>, pending: BTreeSet<TaskId>) -> Group {
        Group { job, config, pending, tried: None, spared: None }
    }

    /// All tasks or none: another number of them may fare otherwise.
    fn forget_if_together(&mut self) {
        if self.config.all_or_nothing {
            self.tried = None;
        }
    }
}

/// A placement proposed and not yet settled.
#[derive(Clone, Debug)]
struct InFlight {
    host: HostId,
    job: JobId,
    config: Arc<TaskConfig>,
    /// All that it has.
    ports: Vec<u16>,
}

/// What hosts have, by slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub(super) ids: Vec<Option<HostId>>,
    pub(super) free: Pages<Resources>,
    pub(super) capacity: Vec<Resources>,
    /// What revocable tasks may take beyond `free`: reserved by others, who do not use it.
    pub(super) lendable: Pages<Resources>,
    /// Tasks that the host may still take.
    pub(super) room: Pages<u32>,
    pub(super) specs: Vec<Arc<HostSpec>>,
    pub(super) ports: Vec<Arc<BTreeSet<u16>>>,
    /// What no task has, and what of that is kept for tasks that wait; `free` is the rest.
    pub(super) gross: Vec<Resources>,
    pub(super) reserved: Vec<Resources>,
    /// What tasks take that are not production; and what all take.
    pub(super) displaceable: Vec<Resources>,
    pub(super) used: Vec<Resources>,
    /// Hosts that are heard.
    pub(super) heard: Bits,
    /// Hosts that may get tasks: heard and not drained.
    pub(super) open: Bits,
    /// The view's version when something became free there last.
    pub(super) improved: Vec<u64>,
    /// Where the host is in the ranking, if it is open.
    rank: Vec<Option<u64>>,
}

impl Columns {
    /// What a host has free for tasks of a config.
    pub(super) fn free_for(&self, slot: usize, config: &TaskConfig) -> Resources {
        if config.is_revocable() { self.free[slot].plus(self.lendable[slot]) } else { self.free[slot] }
    }
}

/// Whether it matters where the other tasks of the job are.
fn is_counted(config: &TaskConfig) -> bool {
    !config.spreads.is_empty() || config.limits().next().is_some()
}

/// Takes a task's part: a revocable one takes first what is lent. `free` and `lendable` are those of its host.
pub(super) fn take(config: &TaskConfig, free: &mut Resources, lendable: &mut Resources) {
    let lent = if config.is_revocable() { config.demand.min(*lendable) } else { Resources::default() };
    *lendable = lendable.minus_or_zero(lent);
    *free = free.minus_or_zero(config.demand.minus_or_zero(lent));
}

/// What a round reads.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub(super) columns: Columns,
    pub(super) attributes: Attributes,
    /// Open hosts, fullest first.
    pub(super) ranking: Ranking,
    /// How often a host moved in it.
    moves: u64,
    pub(super) slots: BTreeMap<HostId, usize>,
    vacant: Vec<usize>,
    pub(super) groups: BTreeMap<ConfigHash, Group>,
    group_of: BTreeMap<TaskId, ConfigHash>,
    in_flight: BTreeMap<TaskId, InFlight>,
    in_flight_on: BTreeMap<HostId, BTreeSet<TaskId>>,
    /// Of jobs with limits or spreads that have pending tasks: where State has their tasks.
    places: BTreeMap<JobId, Arc<Places>>,
    /// Of the same jobs: placements in flight, by host.
    flights_of: BTreeMap<JobId, BTreeMap<HostId, u32>>,
    /// Tasks for which room is kept, and where.
    pub(super) reserved: BTreeMap<TaskId, HostId>,
    reserved_on: BTreeMap<HostId, BTreeSet<TaskId>>,
    /// What tasks of each role with pending tasks take, in flight included.
    used: BTreeMap<Arc<str>, Resources>,
    flying: BTreeMap<Arc<str>, Resources>,
    /// Of all open hosts.
    pub(super) capacity: Resources,
    /// Slots by the version at which something became free there last.
    improvements: BTreeMap<u64, usize>,
    pub(super) stopped: Option<&'static str>,
    /// Rises whenever something became free, or hosts came or went.
    pub(super) version: u64,
}

impl View {
    /// A view of all that State has, as a new leader needs it.
    pub fn new(state: &State) -> View {
        let mut view = View::default();
        view.absorb(state, &state.hints_after_election());
        view
    }

    /// The hosts as they are, with one pending group and no other.
    pub(super) fn alone(&self, group: Group) -> View {
        View {
            group_of: group.pending.iter().map(|&task| (task, group.config.hash)).collect(),
            groups: BTreeMap::from([(group.config.hash, group)]),
            in_flight: self.in_flight.clone(),
            in_flight_on: self.in_flight_on.clone(),
            ..self.hosts_only()
        }
    }

    /// What counting reads: the hosts and, of the pending groups, all but who is in them, where that does not matter.
    pub(super) fn for_counting(&self) -> View {
        let groups = self.groups.iter().map(|(&hash, group)| {
            let pending = if group.config.all_or_nothing { group.pending.clone() } else { BTreeSet::new() };
            (hash, Group::of(group.job, group.config.clone(), pending))
        });
        View {
            groups: groups.collect(),
            places: self.places.clone(),
            flights_of: self.flights_of.clone(),
            ..self.hosts_only()
        }
    }

    /// The hosts as they are, and nothing pending or in flight.
    fn hosts_only(&self) -> View {
        View {
            columns: self.columns.clone(),
            attributes: self.attributes.clone(),
            ranking: self.ranking.clone(),
            moves: self.moves,
            slots: self.slots.clone(),
            vacant: self.vacant.clone(),
            reserved: self.reserved.clone(),
            reserved_on: self.reserved_on.clone(),
            capacity: self.capacity,
            improvements: self.improvements.clone(),
            stopped: self.stopped,
            version: self.version,
            ..View::default()
        }
    }

    /// Placements in flight to a host: of which task and config, and all ports.
    pub(super) fn flights_to(&self, host: HostId) -> impl Iterator<Item = (TaskId, &TaskConfig, &[u16])> {
        let tasks = self.in_flight_on.get(&host).into_iter().flatten();
        let flights = tasks.filter_map(|&task| Some((task, self.in_flight.get(&task)?)));
        flights.map(|(task, flight)| (task, &*flight.config, &flight.ports[..]))
    }

    /// Placements in flight of a job with limits or spreads, by host.
    pub(super) fn flights_of(&self, job: JobId) -> impl Iterator<Item = (HostId, u32)> + '_ {
        self.flights_of.get(&job).into_iter().flatten().map(|(&host, &tasks)| (host, tasks))
    }

    /// Looks at what the hints name; costs what has changed.
    pub fn absorb(&mut self, state: &State, hints: &[Hint]) {
        let (mut hosts, mut jobs) = (BTreeSet::new(), BTreeSet::new());
        for &hint in hints {
            match hint {
                Hint::HostDirty(host) => {
                    hosts.insert(host);
                    // A placement that State has taken in is no longer in flight.
                    let settled: Vec<TaskId> =
                        self.in_flight_on.get(&host).into_iter().flatten().copied().collect();
                    for task in settled {
                        self.look_at_task(state, task, &mut hosts);
                    }
                }
                Hint::TaskPending(task) => {
                    jobs.extend(state.task(task).map(|task| task.job));
                    self.look_at_task(state, task, &mut hosts);
                }
                Hint::JobChanged(job) => {
                    jobs.insert(job);
                }
                Hint::FreezeChanged => self.look_at_freeze(state),
                Hint::DeadlineChanged | Hint::WorkDue(_) => {}
            }
        }
        for host in hosts {
            self.look_at_host(state, host);
        }
        for job in jobs {
            self.look_at_job(state, job);
        }
    }

    /// The round's placements are being proposed: they take their room until they are settled.
    pub fn launch(&mut self, round: &Round) {
        for report in &round.report.groups {
            if report.waiting > 0
                && !report.cut_short
                && let Some(group) = self.groups.get_mut(&report.config)
            {
                group.tried = Some((self.version, report.clone()));
            }
        }
        for Assign { host, placements } in round.assigns.iter().chain(round.together.iter().flatten()) {
            let Some(&slot) = self.slots.get(host) else { continue };
            for placement in placements {
                let Some(hash) = self.group_of.remove(&placement.task) else { continue };
                let Some(group) = self.groups.get_mut(&hash) else { continue };
                group.pending.remove(&placement.task);
                let (job, config) = (group.job, group.config.clone());
                if group.pending.is_empty() {
                    self.groups.remove(&hash);
                }
                // Where room was kept for it, it is not taken from the others.
                if self.reserved.get(&placement.task) != Some(host) {
                    take(&config, &mut self.columns.free[slot], &mut self.columns.lendable[slot]);
                }
                self.columns.gross[slot] = self.columns.gross[slot].minus_or_zero(config.demand);
                self.columns.room[slot] = self.columns.room[slot].saturating_sub(1);
                let fixed = config.static_ports.iter().map(|(_, port)| *port);
                let ports: Vec<u16> = placement.ports.iter().copied().chain(fixed).collect();
                if !ports.is_empty() {
                    Arc::make_mut(&mut self.columns.ports[slot]).extend(&ports);
                }
                if is_counted(&config) {
                    *self.flights_of.entry(job).or_default().entry(*host).or_default() += 1;
                }
                self.fly(&config, true);
                let flight = InFlight { host: *host, job, config, ports };
                self.in_flight.insert(placement.task, flight);
                self.in_flight_on.entry(*host).or_default().insert(placement.task);
            }
            self.rank(slot);
        }
    }

    /// The fate of a proposal is known (applied or refused): what of it was not taken in is pending again.
    /// While the fate is unknown, do not call this.
    pub fn settle(&mut self, state: &State, assign: &Assign) {
        let (mut hosts, mut jobs) = (BTreeSet::new(), BTreeSet::new());
        for placement in &assign.placements {
            // What is not in flight any more was looked at when a hint said so.
            if let Some(flight) = self.drop_flight(placement.task) {
                hosts.insert(flight.host);
                jobs.insert(flight.job);
                self.look_at_task(state, placement.task, &mut hosts);
            }
        }
        for host in hosts {
            self.look_at_host(state, host);
        }
        for job in jobs {
            self.look_at_job(state, job);
        }
    }

    /// What placements that State has not taken in yet will take of a host, beyond the room that is kept for them.
    pub(super) fn flying_to(&self, state: &State, host: HostId) -> Resources {
        let tasks = self.in_flight_on.get(&host).into_iter().flatten();
        let waits = |task: &TaskId| state.task(*task).is_some_and(|task| task.status == Status::Pending);
        let unkept = tasks.filter(|task| waits(task) && self.reserved.get(task) != Some(&host));
        unkept.fold(Resources::default(), |sum, task| sum.plus(self.in_flight[task].config.demand))
    }

    /// The fate of a preemption is known. If it was refused, the next round chooses anew.
    pub fn settle_preempt(&mut self, state: &State, preempt: &Preempt) {
        if let Some(group) = self.group_of.get(&preempt.task).and_then(|hash| self.groups.get_mut(hash)) {
            group.spared = None;
        }
        self.look_at_host(state, preempt.host);
    }

    /// Pending tasks that no proposal is about.
    pub fn pending(&self) -> usize {
        self.group_of.len()
    }

    /// Placements proposed and not yet settled.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Why the tasks of that config are pending, as the last round that tried them found.
    pub fn why_pending(&self, config: &ConfigHash) -> Option<&Arc<GroupReport>> {
        self.groups.get(config)?.tried.as_ref().map(|(_, report)| report)
    }

    fn look_at_freeze(&mut self, state: &State) {
        self.groups.values_mut().for_each(|group| group.tried = None);
        self.stopped = state.stopped();
    }

    fn look_at_task(&mut self, state: &State, id: TaskId, hosts: &mut BTreeSet<HostId>) {
        let task = state.task(id).filter(|task| task.status == Status::Pending);
        let Some(task) = task else {
            hosts.extend(self.drop_flight(id).map(|flight| flight.host));
            if let Some(hash) = self.group_of.remove(&id)
                && let Some(group) = self.groups.get_mut(&hash)
            {
                group.pending.remove(&id);
                group.forget_if_together();
                if group.pending.is_empty() {
                    self.groups.remove(&hash);
                }
            }
            return;
        };
        if self.in_flight.contains_key(&id) {
            return;
        }
        self.group_of.insert(id, task.config.hash);
        let group = self.groups.entry(task.config.hash).or_insert_with(|| Group {
            job: task.job,
            config: task.config.clone(),
            pending: BTreeSet::new(),
            tried: None,
            spared: None,
        });
        if group.pending.insert(id) {
            group.forget_if_together();
        }
    }

    fn drop_flight(&mut self, id: TaskId) -> Option<InFlight> {
        let flight = self.in_flight.remove(&id)?;
        self.fly(&flight.config, false);
        if let Some(on) = self.in_flight_on.get_mut(&flight.host) {
            on.remove(&id);
            if on.is_empty() {
                self.in_flight_on.remove(&flight.host);
            }
        }
        // A limit that it was in the way of may not be any more.
        if !is_counted(&flight.config) {
            return Some(flight);
        }
        if let Some(group) = self.groups.get_mut(&flight.config.hash) {
            group.tried = None;
        }
        if let Some(hosts) = self.flights_of.get_mut(&flight.job)
            && let Some(count) = hosts.get_mut(&flight.host)
        {
            *count -= 1;
            if *count == 0 {
                hosts.remove(&flight.host);
            }
            if hosts.is_empty() {
                self.flights_of.remove(&flight.job);
            }
        }
        Some(flight)
    }

    fn look_at_host(&mut self, state: &State, id: HostId) {
        self.take_in(id, state.host(id));
    }

    /// Looks at a host as State has it, or a plan.
    pub(super) fn take_in(&mut self, id: HostId, host: Option<&Host>) {
        let Some(host) = host else {
            if let Some(slot) = self.slots.remove(&id) {
                self.attributes.leave(slot, &self.columns.specs[slot].clone());
                self.close(slot);
                self.rank(slot);
                self.columns.heard.set(slot, false);
                self.columns.ids[slot] = None;
                self.vacant.push(slot);
                self.version += 1;
                self.look_at_reserved(None, id);
            }
            return;
        };
        let slot = self.slots.get(&id).copied().unwrap_or_else(|| self.new_slot(id));
        let spec = &host.record.spec;
        let old_spec = self.columns.specs[slot].clone();
        let mut better = false;
        if old_spec != *spec {
            self.attributes.leave(slot, &old_spec);
            self.attributes.enter(slot, spec);
            self.columns.specs[slot] = spec.clone();
            better = true;
        }
        let (heard, open) = (!host.is_silent(), host.is_open());
        // A host that falls silent makes nothing better, but the reasons that were given are no longer true.
        self.version += u64::from(heard != self.columns.heard.has(slot));
        better |= open && !self.columns.open.has(slot);
        self.version += u64::from(open != self.columns.open.has(slot));
        self.close(slot);
        self.columns.heard.set(slot, heard);
        if open {
            self.columns.open.set(slot, true);
            self.capacity = self.capacity.plus(spec.capacity);
        }
        self.look_at_reserved(Some(host), id);
        let (mut free, mut ports) = (host.free(), Cow::Borrowed(host.used_ports()));
        let mut lendable = host.lendable().minus_or_zero(host.revocable());
        let mut room = crate::limits::TASKS_PER_HOST_MAX.saturating_sub(host.tasks().len()) as u32;
        for task in self.in_flight_on.get(&id).into_iter().flatten() {
            let flight = &self.in_flight[task];
            take(&flight.config, &mut free, &mut lendable);
            if !flight.ports.is_empty() {
                ports.to_mut().extend(&flight.ports);
            }
            room = room.saturating_sub(1);
        }
        let reserved = host.reserved().filter(|(task, _)| !self.in_flight.contains_key(task));
        let reserved = reserved.fold(Resources::default(), |sum, (_, demand)| sum.plus(demand));
        // Where room is kept, `free` may stay nothing while the kept room becomes real.
        better |= !free.fits_in(&self.columns.gross[slot]);
        self.columns.gross[slot] = free;
        self.columns.displaceable[slot] = host.displaceable();
        self.columns.used[slot] = host.used();
        better |= reserved != self.columns.reserved[slot];
        self.columns.reserved[slot] = reserved;
        // Room that is kept while whoever has it is on the way out is not lent meanwhile.
        lendable = lendable.minus_or_zero(reserved.minus_or_zero(free));
        free = free.minus_or_zero(reserved);
        better |= !lendable.fits_in(&self.columns.lendable[slot]);
        self.columns.lendable[slot] = lendable;
        better |= !free.fits_in(&self.columns.free[slot]) || room > self.columns.room[slot];
        better |= ports.len() < self.columns.ports[slot].len();
        self.columns.free[slot] = free;
        self.columns.capacity[slot] = spec.capacity;
        self.columns.room[slot] = room;
        if *ports != *self.columns.ports[slot] {
            self.columns.ports[slot] = Arc::new(ports.into_owned());
        }
        if better {
            self.improve(slot);
        }
        self.rank(slot);
    }

    fn new_slot(&mut self, id: HostId) -> usize {
        let columns = &mut self.columns;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            columns.ids.push(None);
            columns.capacity.push(Resources::default());
            columns.specs.push(Arc::default());
            columns.ports.push(Arc::default());
            columns.free.grow(columns.ids.len());
            columns.lendable.grow(columns.ids.len());
            columns.room.grow(columns.ids.len());
            columns.heard.grow(columns.ids.len());
            columns.open.grow(columns.ids.len());
            columns.gross.push(Resources::default());
            columns.displaceable.push(Resources::default());
            columns.used.push(Resources::default());
            columns.reserved.push(Resources::default());
            columns.improved.push(0);
            columns.rank.push(None);
            columns.ids.len() - 1
        });
        columns.ids[slot] = Some(id);
        columns.free[slot] = Resources::default();
        columns.lendable[slot] = Resources::default();
        columns.room[slot] = 0;
        columns.specs[slot] = Arc::default();
        columns.ports[slot] = Arc::default();
        columns.gross[slot] = Resources::default();
        columns.reserved[slot] = Resources::default();
        columns.capacity[slot] = Resources::default();
        columns.heard.set(slot, false);
        self.slots.insert(id, slot);
        slot
    }

    /// Something became free on a host: groups that were tried in vain look at it again.
    fn improve(&mut self, slot: usize) {
        self.version += 1;
        self.improvements.remove(&self.columns.improved[slot]);
        self.columns.improved[slot] = self.version;
        self.improvements.insert(self.version, slot);
    }

    /// Slots of hosts on which something became free after `version`.
    pub(super) fn improved_since(&self, version: u64) -> impl Iterator<Item = usize> + '_ {
        self.improvements.range(version + 1..).map(|(_, &slot)| slot)
    }

    /// A host gets nothing more until it is looked at again.
    fn close(&mut self, slot: usize) {
        if self.columns.open.has(slot) {
            self.columns.open.set(slot, false);
            self.capacity = self.capacity.minus_or_zero(self.columns.capacity[slot]);
        }
    }

    /// Puts a host where it belongs in the ranking, by what it has free now; or takes it out, if it is not open.
    fn rank(&mut self, slot: usize) {
        let columns = &self.columns;
        let (known, free) = (columns.rank[slot], &columns.free);
        let open = columns.open.has(slot);
        let new = open.then(|| rank(free[slot], columns.capacity[slot], known, self.moves));
        if new == known {
            new.into_iter().for_each(|rank| self.ranking.renew((rank, slot as u32), free));
            return;
        }
        known.into_iter().for_each(|rank| self.ranking.leave((rank, slot as u32), free));
        new.into_iter().for_each(|rank| self.ranking.enter((rank, slot as u32), free));
        self.moves += 1;
        self.columns.rank[slot] = new;
    }

    /// Those of the hosts that are open, in the order of the ranking.
    pub(super) fn ranked(&self, slots: impl Iterator<Item = usize>) -> Vec<Entry> {
        let ranks = slots.filter_map(|slot| Some((self.columns.rank[slot]?, slot as u32)));
        let mut entries: Vec<Entry> = ranks.collect();
        entries.sort_unstable();
        entries
    }

    fn look_at_reserved(&mut self, host: Option<&Host>, id: HostId) {
        for task in self.reserved_on.remove(&id).unwrap_or_default() {
            if self.reserved.get(&task) == Some(&id) {
                self.reserved.remove(&task);
            }
        }
        let tasks: BTreeSet<TaskId> =
            host.into_iter().flat_map(|host| host.reserved()).map(|(task, _)| task).collect();
        self.reserved.extend(tasks.iter().map(|&task| (task, id)));
        if !tasks.is_empty() {
            self.reserved_on.insert(id, tasks);
        }
    }

    /// The group's tasks for which room is kept, the newest first, and the slots of the hosts.
    pub(super) fn kept_for(&self, group: &Group) -> Vec<(TaskId, usize)> {
        let slot_of = |(task, host): (&TaskId, &HostId)| Some((*task, *self.slots.get(host)?));
        let mut kept: Vec<(TaskId, usize)> = if self.reserved.len() < group.pending.len() {
            self.reserved
                .iter()
                .filter(|(task, _)| group.pending.contains(task))
                .filter_map(slot_of)
                .collect()
        } else {
            group.pending.iter().filter_map(|task| slot_of((task, self.reserved.get(task)?))).collect()
        };
        kept.reverse();
        kept
    }

    /// Whether room is kept on a host for a task of the group.
    pub(super) fn keeps_room(&self, slot: usize, group: &Group) -> bool {
        let tasks = self.columns.ids[slot].and_then(|host| self.reserved_on.get(&host));
        tasks.is_some_and(|tasks| tasks.iter().any(|task| group.pending.contains(task)))
    }

    /// What a role's tasks take, in flight included.
    pub(super) fn used_by(&self, role: &str) -> Resources {
        let of = |of: &BTreeMap<Arc<str>, Resources>| of.get(role).copied().unwrap_or_default();
        of(&self.used).plus(of(&self.flying))
    }

    fn fly(&mut self, config: &TaskConfig, up: bool) {
        let role = config.job.role.as_str();
        let Some(flying) = self.flying.get_mut(role) else {
            if up {
                self.flying.insert(role.into(), config.demand);
            }
            return;
        };
        *flying = if up { flying.plus(config.demand) } else { flying.minus_or_zero(config.demand) };
        if *flying == Resources::default() {
            self.flying.remove(role);
        }
    }

    /// Per number of the attribute's values: how many of a job's tasks with limits or spreads are there.
    pub(super) fn counts(&self, job: JobId, name: &str, attribute: &Attribute) -> BTreeMap<u32, u32> {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for (value, count) in self.places.get(&job).into_iter().flat_map(|places| places.values(name)) {
            if let Some(number) = attribute.number_of(value) {
                *counts.entry(number).or_default() += count;
            }
        }
        for (host, &tasks) in self.flights_of.get(&job).into_iter().flatten() {
            if let Some(&slot) = self.slots.get(host) {
                attribute.of(slot).for_each(|number| *counts.entry(number).or_default() += tasks);
            }
        }
        counts
    }

    /// Whose share it counts for, and where its tasks are if limits or spreads ask.
    fn look_at_job(&mut self, state: &State, id: JobId) {
        let Some(job) = state.job_by_id(id) else {
            self.places.remove(&id);
            return;
        };
        let role = job.key().role.as_str();
        match state.role(role).map(|role| role.used()) {
            Some(used) => match self.used.get_mut(role) {
                Some(known) => *known = used,
                None => drop(self.used.insert(role.into(), used)),
            },
            None => drop(self.used.remove(role)),
        }
        let waiting = job.counts().of(Status::Pending) > 0;
        if !waiting || !is_counted(job.config()) {
            self.places.remove(&id);
            return;
        }
        let known = self.places.get(&id);
        if known.is_some_and(|known| Arc::ptr_eq(known, job.places())) {
            return;
        }
        self.places.insert(id, job.places().clone());
        // A limit that was in the way may not be any more.
        for group in self.groups.values_mut().filter(|group| group.job == id) {
            group.tried = None;
        }
    }
}
