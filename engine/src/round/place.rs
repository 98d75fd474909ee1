//! The greedy walk: which host is tried first, what is left where, what of a round is one command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{Resources, TaskId};

use super::attributes::Attribute;
use super::bits::Bits;
use super::order::{self, Turn};
use super::pages::Pages;
use super::ranking::{Cursor, Grouping, Lane};
use super::view::{Group, View, take};
use super::walk::{Buckets, Walk, own_hosts, spreads};
use super::why::Trial;
use super::{GroupReport, Report, Round, why};
use crate::state::command::{Assign, Placement};
use crate::state::config::TaskConfig;

/// Hosts that one round looks at to count reasons anew, beyond the first group's. The other groups keep what was found
/// earlier; their turn comes.
const REASON_HOSTS_PER_ROUND: usize = 300_000;

/// A round that may not place anything.
pub(super) fn nothing<'a>(groups: impl Iterator<Item = &'a Group>, why: &str) -> Round {
    let groups = groups.map(|group| {
        let waiting = group.pending.len();
        Arc::new(GroupReport { waiting, reason: why.to_owned(), ..GroupReport::of(group) })
    });
    let groups: Vec<_> = groups.collect();
    let waiting = groups.iter().map(|group| group.waiting).sum();
    Round { report: Report { placed: 0, waiting, groups }, ..Round::default() }
}

/// A round in progress: what is left on each host.
pub(super) struct Placing<'a> {
    pub(super) view: &'a View,
    pub(super) free: Pages<Resources>,
    pub(super) lendable: Pages<Resources>,
    pub(super) room: Pages<u32>,
    /// Ports given in this round.
    pub(super) ports: Given,
    /// What this round took of hosts on which room is kept for somebody.
    taken: BTreeMap<usize, Resources>,
    /// Of that, what was taken by those for whom room is kept there.
    taken_kept: BTreeMap<usize, Resources>,
    /// Open hosts, fullest first.
    hosts: Lane<'a>,
    /// The same in buckets, for groups that are spread over these attributes.
    groupings: Vec<Grouping<'a>>,
    grouped_by: BTreeMap<Vec<&'a str>, usize>,
    /// What each host gets, and where in it a slot is, counted from 1.
    assigns: Vec<(usize, Assign)>,
    assign_of: Vec<u32>,
    together: Vec<Vec<Assign>>,
    /// By version: the most that any host has free of those on which something became free since.
    improved: BTreeMap<u64, Resources>,
    /// Hosts that may still be looked at for reasons.
    reasons_left: usize,
}

/// A group that is being served.
struct Service<'a> {
    group: &'a Group,
    able: Bits,
    limits: Vec<LimitCounts<'a>>,
    walk: Walk<'a>,
    /// Tasks for which room is kept, and where.
    kept: Vec<(TaskId, usize)>,
    /// The next one last; no more than the round may place.
    rest: Vec<TaskId>,
    placed: usize,
    /// Of tasks that are placed together: how it went, when it went wrong.
    trial: Option<Trial>,
}

impl Service<'_> {
    fn waiting(&self) -> usize {
        self.group.pending.len() - self.placed
    }
}

/// Counts of a job's tasks for one limit constraint.
pub(super) struct LimitCounts<'a> {
    pub(super) attribute: &'a Attribute,
    pub(super) name: &'a str,
    pub(super) limit: u32,
    counts: BTreeMap<u32, u32>,
}

impl LimitCounts<'_> {
    pub(super) fn allows(&self, slot: usize) -> bool {
        let mut numbers = self.attribute.of(slot);
        numbers.all(|number| self.counts.get(&number).is_none_or(|&count| count < self.limit))
    }

    fn add(&mut self, slot: usize) {
        for number in self.attribute.of(slot) {
            *self.counts.entry(number).or_default() += 1;
        }
    }
}

/// The limits of a group, counted over hosts, what is in flight included.
pub(super) fn limits<'a>(view: &'a View, group: &'a Group) -> Vec<LimitCounts<'a>> {
    let limits = group.config.limits().filter_map(|(name, limit)| {
        // Without the attribute no host is able, so there is nothing to count.
        let attribute = view.attributes.get(name)?;
        Some(LimitCounts { attribute, name, limit, counts: view.counts(group.job, name, attribute) })
    });
    limits.collect()
}

/// Hosts whose attributes suit the group, counts of limits aside.
pub(super) fn able(view: &View, group: &Group) -> Bits {
    let mut able = view.columns.open.clone();
    if group.config.dedicated().is_none() {
        view.attributes.without_dedicated(&mut able);
    }
    for constraint in &group.config.constraints {
        view.attributes.narrow(constraint, &mut able);
    }
    able
}

/// The round has placed all that it may.
fn not_yet(group: &Group, placed: usize, waiting: usize) -> Arc<GroupReport> {
    let reason = "its turn comes in the next round".to_owned();
    Arc::new(GroupReport { placed, waiting, reason, cut_short: true, ..GroupReport::of(group) })
}

impl<'a> Placing<'a> {
    pub(super) fn new(view: &'a View) -> Self {
        let columns = &view.columns;
        Placing {
            view,
            free: columns.free.clone(),
            lendable: columns.lendable.clone(),
            room: columns.room.clone(),
            ports: BTreeMap::new(),
            taken: BTreeMap::new(),
            taken_kept: BTreeMap::new(),
            hosts: Lane::all(&view.ranking),
            groupings: Vec::new(),
            grouped_by: BTreeMap::new(),
            assigns: Vec::new(),
            assign_of: vec![0; columns.ids.len()],
            together: Vec::new(),
            improved: BTreeMap::new(),
            reasons_left: REASON_HOSTS_PER_ROUND,
        }
    }

    /// Serves the groups in turn, for at most `budget` tasks.
    pub(super) fn run(mut self, groups: impl Iterator<Item = &'a Group>, budget: usize) -> Round {
        let view = self.view;
        let mut report = Report::default();
        let mut services: Vec<Option<Service<'a>>> = Vec::new();
        order::serve(view, groups, |number, group, slice| {
            let left = budget - report.placed;
            if services.len() <= number {
                services.resize_with(number + 1, || None);
            }
            let service = services[number].take();
            if service.is_none()
                && let Some(found) = self.as_before(group)
            {
                report.add(found);
                return Turn::Done(Resources::default());
            }
            if left == 0 {
                report.add(match service {
                    Some(service) => self.finish(service, false),
                    None => not_yet(group, 0, group.pending.len()),
                });
                return Turn::Done(Resources::default());
            }
            let mut service = service.unwrap_or_else(|| self.begin(group, left));
            let before = service.placed;
            let exhausted = if group.config.all_or_nothing {
                self.serve_together(&mut service, left)
            } else {
                self.serve(&mut service, slice.min(left))
            };
            let placed = service.placed - before;
            report.placed += placed;
            let took = group.config.demand.times(placed as u32);
            // Every further turn places something, so turns end.
            if !exhausted && placed > 0 && placed < left && service.waiting() > 0 {
                services[number] = Some(service);
                return Turn::More(took);
            }
            report.add(self.finish(service, exhausted));
            Turn::Done(took)
        });
        self.assigns.sort_unstable_by_key(|(slot, _)| *slot);
        let assigns = self.assigns.into_iter().map(|(_, assign)| assign).collect();
        Round { assigns, together: self.together, report }
    }

    /// What was found when the group was tried last, if nothing that matters to it became better since.
    fn as_before(&mut self, group: &Group) -> Option<Arc<GroupReport>> {
        let (version, report) = group.tried.as_ref()?;
        let (view, demand) = (self.view, group.config.demand);
        let (free, lendable) = (&self.free, &self.lendable);
        let most = *self.improved.entry(*version).or_insert_with(|| {
            let rooms = view.improved_since(*version).map(|slot| free[slot].plus(lendable[slot]));
            rooms.fold(Resources::default(), Resources::max)
        });
        let roomy = demand.fits_in(&most) || !view.reserved.is_empty();
        let better = |slot: usize| {
            demand.fits_in(&free_for(free, lendable, slot, &group.config)) || view.keeps_room(slot, group)
        };
        if roomy && view.improved_since(*version).any(better) {
            return None;
        }
        let counted = view.version == *version && !report.uncounted;
        if !counted && self.reasons_left > 0 && group.config.all_or_nothing {
            // How many of them fit is found out by placing them.
            return None;
        }
        if counted || self.reasons_left == 0 {
            // What became pending since then fares alike.
            let waiting = group.pending.len();
            let known = GroupReport::clone(report);
            return Some(Arc::new(GroupReport { placed: 0, waiting, uncounted: !counted, ..known }));
        }
        let limits = limits(view, group);
        let report = self.reasons(group, &able(view, group), &limits);
        Some(Arc::new(GroupReport { waiting: group.pending.len(), ..report }))
    }

    fn reasons(&mut self, group: &Group, able: &Bits, limits: &[LimitCounts<'_>]) -> GroupReport {
        self.reasons_left = self.reasons_left.saturating_sub(1 + able.count() as usize);
        why::count(self, group, able, limits)
    }

    /// Why a group waits, as things are. No reason where it would find places after all.
    pub(super) fn recount(mut self, group: &'a Group) -> GroupReport {
        let mut trial = None;
        if group.config.all_or_nothing {
            let mut service = self.begin(group, usize::MAX);
            if !self.serve_together(&mut service, usize::MAX) {
                return GroupReport {
                    hosts: self.view.columns.heard.count() as usize,
                    ..GroupReport::of(group)
                };
            }
            trial = service.trial;
        }
        let mut found = why::count(&self, group, &able(self.view, group), &limits(self.view, group));
        if let Some(trial) = trial {
            trial.tell(group.pending.len(), &mut found);
        }
        found
    }

    fn begin(&mut self, group: &'a Group, budget: usize) -> Service<'a> {
        let able = able(self.view, group);
        let walk = self.walk(group, &able);
        let most = if group.config.all_or_nothing { usize::MAX } else { budget };
        let mut rest: Vec<TaskId> = group.pending.iter().take(most).copied().collect();
        rest.reverse();
        let kept = self.view.kept_for(group).into_iter().filter(|(_, slot)| able.has(*slot)).collect();
        Service { group, able, limits: limits(self.view, group), walk, kept, rest, placed: 0, trial: None }
    }

    fn walk(&mut self, group: &'a Group, able: &Bits) -> Walk<'a> {
        let view = self.view;
        let tentative = group.config.all_or_nothing;
        let cursor = Cursor::new(tentative);
        let spreads = spreads(view, &group.config);
        // Preferences and spreads look at all hosts, as if for the first time. A gang may need others than those on
        // which something became free.
        let tried = group.tried.as_ref().filter(|_| !tentative && group.config.preferences.is_empty());
        let own = match tried {
            Some((version, _)) if spreads.is_empty() => Some(view.ranked(view.improved_since(*version))),
            _ => own_hosts(view, group, able),
        };
        match own {
            Some(hosts) if spreads.is_empty() => Walk::Own(Lane::some(hosts), cursor),
            Some(hosts) => Walk::Spread(Buckets::own(view, group, &spreads, hosts)),
            None if spreads.is_empty() => Walk::All(cursor),
            None => {
                let names = spreads.iter().map(|(spread, _)| spread.attribute.as_str()).collect();
                let at = *self.grouped_by.entry(names).or_insert_with(|| {
                    let attributes: Vec<&Attribute> = spreads.iter().map(|(_, of)| *of).collect();
                    self.groupings.push(Grouping::shared(&attributes, &view.ranking, &self.free));
                    self.groupings.len() - 1
                });
                Walk::Spread(Buckets::shared(view, group, &spreads, able, &self.groupings, at))
            }
        }
    }

    /// Places up to `budget` tasks; gives back whether the hosts are exhausted for this group.
    fn serve(&mut self, service: &mut Service<'a>, budget: usize) -> bool {
        let mut left = budget;
        self.serve_kept(service, &mut left);
        while left > 0 && !service.rest.is_empty() {
            let Some((slot, ports)) = self.next_host(service) else { return true };
            let Some(task) = service.rest.pop() else { break };
            self.take(service, slot, &ports);
            self.assign(slot, Placement { task, ports });
            service.placed += 1;
            left -= 1;
        }
        false
    }

    /// Tasks for which room is kept go there, if it is free by now.
    fn serve_kept(&mut self, service: &mut Service<'a>, left: &mut usize) {
        if service.kept.is_empty() {
            return;
        }
        let mut placed = BTreeSet::new();
        while *left > 0
            && let Some((task, slot)) = service.kept.pop()
        {
            let Some(ports) = self.take_kept(service, slot) else { continue };
            self.assign(slot, Placement { task, ports });
            placed.insert(task);
            *left -= 1;
        }
        service.placed += placed.len();
        service.rest.retain(|task| !placed.contains(task));
    }

    /// Takes the room that is kept for a task of the group, if it is free by now; gives back its ports.
    fn take_kept(&mut self, service: &mut Service<'a>, slot: usize) -> Option<Vec<u16>> {
        let (columns, demand) = (&self.view.columns, service.group.config.demand);
        let taken = self.taken.get(&slot).copied().unwrap_or_default();
        let own = self.taken_kept.get(&slot).copied().unwrap_or_default().plus(demand);
        let others = columns.reserved[slot].minus_or_zero(own);
        let room = columns.gross[slot].minus_or_zero(taken).minus_or_zero(others);
        let fits = demand.fits_in(&room) && self.room[slot] > 0;
        if !fits || !service.limits.iter().all(|limit| limit.allows(slot)) {
            return None;
        }
        let ports = free_ports(self.view, &self.ports, slot, &service.group.config)?;
        // The room is kept already: for others nothing changes but ports and the count of tasks.
        let free = (self.free[slot], self.lendable[slot]);
        self.take(service, slot, &ports);
        (self.free[slot], self.lendable[slot]) = free;
        self.taken_kept.insert(slot, own);
        Some(ports)
    }

    fn assign(&mut self, slot: usize, placement: Placement) {
        if self.assign_of[slot] == 0 {
            let Some(host) = self.view.columns.ids[slot] else { return };
            self.assigns.push((slot, Assign { host, placements: Vec::new() }));
            self.assign_of[slot] = self.assigns.len() as u32;
        }
        self.assigns[self.assign_of[slot] as usize - 1].1.placements.push(placement);
    }

    /// All tasks of the group or none.
    fn serve_together(&mut self, service: &mut Service<'a>, budget: usize) -> bool {
        let wanted = service.rest.len();
        if wanted > budget {
            return false;
        }
        let mut made: Vec<(usize, Placement)> = Vec::new();
        for (task, slot) in std::mem::take(&mut service.kept) {
            if let Some(ports) = self.take_kept(service, slot) {
                service.rest.retain(|other| *other != task);
                made.push((slot, Placement { task, ports }));
            }
        }
        let kept = made.len();
        while !service.rest.is_empty()
            && let Some((slot, ports)) = self.next_host(service)
        {
            let Some(task) = service.rest.pop() else { break };
            self.take(service, slot, &ports);
            made.push((slot, Placement { task, ports }));
        }
        if service.rest.is_empty() {
            service.placed = made.len();
            let mut hosts: BTreeMap<usize, Vec<Placement>> = BTreeMap::new();
            for (slot, placement) in made {
                hosts.entry(slot).or_default().push(placement);
            }
            let assigns = hosts.into_iter().filter_map(|(slot, placements)| {
                Some(Assign { host: self.view.columns.ids[slot]?, placements })
            });
            self.together.push(assigns.collect());
            return false;
        }
        if wanted > 1 && self.reasons_left > 0 {
            let found = self.reasons(service.group, &service.able, &service.limits);
            self.reasons_left = self.reasons_left.saturating_sub(made.len());
            service.trial = Some(Trial { fit: made.len(), reason: found.reason });
        }
        for (number, (slot, placement)) in made.into_iter().enumerate().rev() {
            let free = (self.free[slot], self.lendable[slot]);
            self.give_back(&service.group.config, slot, &placement.ports);
            if number < kept {
                (self.free[slot], self.lendable[slot]) = free;
                let own = self.taken_kept.entry(slot).or_default();
                *own = own.minus_or_zero(service.group.config.demand);
            }
            service.rest.push(placement.task);
        }
        true
    }

    fn next_host(&mut self, service: &mut Service<'a>) -> Option<(usize, Vec<u16>)> {
        let Service { group, able, limits, walk, .. } = service;
        let Placing { view, free, lendable, room, ports, hosts, groupings, .. } = self;
        let config = &*group.config;
        // What is lent is not counted along the way: a revocable task looks at each host.
        let need = if config.is_revocable() { Resources::default() } else { config.demand };
        let mut found = None;
        let mut takes = |slot: usize| {
            let fits = config.demand.fits_in(&free_for(free, lendable, slot, config));
            if !fits || !able.has(slot) || room[slot] == 0 || !limits.iter().all(|limit| limit.allows(slot)) {
                return false;
            }
            found = free_ports(view, ports, slot, config);
            found.is_some()
        };
        let slot = match walk {
            Walk::All(cursor) => hosts.next(cursor, &need, free, takes),
            Walk::Own(hosts, cursor) => hosts.next(cursor, &need, free, takes),
            Walk::Spread(buckets) => buckets.next(groupings, config.all_or_nothing, |hosts, cursor| {
                hosts.next(cursor, &need, free, &mut takes)
            }),
        }?;
        Some((slot, found?))
    }

    /// What a host has left in this round for tasks of a config.
    pub(super) fn free_for(&self, slot: usize, config: &TaskConfig) -> Resources {
        free_for(&self.free, &self.lendable, slot, config)
    }

    /// Whether a port of a host has been given, in this round too.
    pub(super) fn is_taken(&self, slot: usize, port: u16) -> bool {
        is_taken(self.view, &self.ports, slot, port)
    }

    fn take(&mut self, service: &mut Service<'a>, slot: usize, ports: &[u16]) {
        let config = &service.group.config;
        let demand = config.demand;
        take(config, &mut self.free[slot], &mut self.lendable[slot]);
        self.room[slot] -= 1;
        if !ports.is_empty() || !config.static_ports.is_empty() {
            let fixed = config.static_ports.iter().map(|(_, port)| port);
            self.ports.entry(slot).or_default().extend(ports.iter().chain(fixed));
        }
        if self.view.columns.reserved[slot] != Resources::default() {
            let taken = self.taken.entry(slot).or_default();
            *taken = taken.plus(demand);
        }
        service.limits.iter_mut().for_each(|limit| limit.add(slot));
        if let Walk::Spread(buckets) = &mut service.walk {
            buckets.placed(slot);
        }
    }

    fn give_back(&mut self, config: &TaskConfig, slot: usize, ports: &[u16]) {
        let demand = config.demand;
        if config.is_revocable() {
            // Never more than was there: what is lent and what is free count together for it.
            let (free, lendable) = (self.view.columns.free[slot], self.view.columns.lendable[slot]);
            let missing = free.minus_or_zero(self.free[slot]).min(demand);
            self.free[slot] = self.free[slot].plus(missing);
            self.lendable[slot] = self.lendable[slot].plus(demand.minus_or_zero(missing)).min(lendable);
        } else {
            self.free[slot] = self.free[slot].plus(demand);
        }
        self.room[slot] += 1;
        if let Some(taken) = self.ports.get_mut(&slot) {
            let fixed = |port: &u16| config.static_ports.iter().any(|(_, fixed)| fixed == port);
            taken.retain(|port| !ports.contains(port) && !fixed(port));
        }
        if let Some(taken) = self.taken.get_mut(&slot) {
            *taken = taken.minus_or_zero(demand);
        }
    }

    /// The report of a group for this round.
    fn finish(&mut self, service: Service<'a>, exhausted: bool) -> Arc<GroupReport> {
        let (waiting, empty) = (service.waiting(), GroupReport::of(service.group));
        let Service { group, able, limits, placed, trial, .. } = service;
        if waiting == 0 {
            return Arc::new(GroupReport { placed, ..empty });
        }
        if !exhausted {
            return not_yet(group, placed, waiting);
        }
        let why = match (&group.tried, self.reasons_left) {
            (Some((_, report)), 0) => GroupReport { uncounted: true, ..GroupReport::clone(report) },
            (None, 0) => GroupReport {
                reason: "no host has room for it; the reasons are still being counted".to_owned(),
                uncounted: true,
                ..empty
            },
            _ => {
                // The limits as the round leaves them would count what a gang gave back.
                let limits =
                    if group.config.all_or_nothing { self::limits(self.view, group) } else { limits };
                let mut why = self.reasons(group, &able, &limits);
                if let Some(trial) = trial {
                    trial.tell(waiting, &mut why);
                }
                why
            }
        };
        Arc::new(GroupReport { placed, waiting, ..why })
    }
}

/// Ports that a round has given, by slot.
type Given = BTreeMap<usize, BTreeSet<u16>>;

/// What a host has left for tasks of a config.
fn free_for(
    free: &Pages<Resources>,
    lendable: &Pages<Resources>,
    slot: usize,
    config: &TaskConfig,
) -> Resources {
    if config.is_revocable() { free[slot].plus(lendable[slot]) } else { free[slot] }
}

/// Whether a port of a host has been given, in this round too.
fn is_taken(view: &View, given: &Given, slot: usize, port: u16) -> bool {
    view.columns.ports[slot].contains(&port) || given.get(&slot).is_some_and(|given| given.contains(&port))
}

/// The lowest free ports of a host; `None` when there are too few, or one that the task must have is taken.
fn free_ports(view: &View, given: &Given, slot: usize, config: &TaskConfig) -> Option<Vec<u16>> {
    let (count, fixed) = (config.ports.len(), &config.static_ports);
    if fixed.iter().any(|(_, port)| is_taken(view, given, slot, *port)) {
        return None;
    }
    if count == 0 {
        return Some(Vec::new());
    }
    let in_use = |port| is_taken(view, given, slot, port) || fixed.iter().any(|(_, fixed)| *fixed == port);
    let ports: Vec<u16> = view.columns.specs[slot].free_ports(in_use).take(count).collect();
    (ports.len() == count).then_some(ports)
}
