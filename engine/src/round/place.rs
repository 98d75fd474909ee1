//! The greedy walk: which host is tried first, what is left where, what of a round is one command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{Resources, TaskId};

use super::attributes::Attribute;
use super::bits::Bits;
use super::order::{self, Turn};
use super::view::{Group, View, take};
use super::walk::Walk;
use super::{GroupReport, Report, Round, why};
use crate::state::command::{Assign, Placement};
use crate::state::config::{ConfigHash, TaskConfig};
use crate::time::Timestamp;

/// Groups whose reasons one round counts anew. The others keep what was found earlier; their turn comes.
const REASONS_PER_ROUND: usize = 32;

/// A round that may not place anything.
pub(super) fn nothing(view: &View, why: &str) -> Round {
    let groups = view.groups.values().map(|group| {
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
    pub(super) free: Vec<Resources>,
    pub(super) lendable: Vec<Resources>,
    pub(super) room: Vec<usize>,
    /// Ports given in this round.
    pub(super) ports: BTreeMap<usize, BTreeSet<u16>>,
    /// What this round took of hosts on which room is kept for somebody.
    taken: BTreeMap<usize, Resources>,
    /// Slots of open hosts, fullest first.
    pub(super) order: Vec<u32>,
    placements: Vec<Vec<Placement>>,
    together: Vec<Vec<Assign>>,
    reasons_left: usize,
}

/// A group that is being served.
struct Service<'a> {
    group: &'a Group,
    able: Bits,
    limits: Vec<LimitCounts<'a>>,
    walk: Walk<'a>,
    /// Only hosts on which something became free since the last fruitless try, in order.
    only: Option<Vec<u32>>,
    rest: Vec<TaskId>,
    placed: usize,
}

/// Counts of a job's tasks for one limit constraint.
pub(super) struct LimitCounts<'a> {
    pub(super) attribute: &'a Attribute,
    pub(super) name: &'a str,
    pub(super) limit: u32,
    counts: Vec<u32>,
}

impl LimitCounts<'_> {
    pub(super) fn allows(&self, slot: usize) -> bool {
        let mut numbers = self.attribute.of(slot);
        numbers.all(|number| self.counts[number as usize] < self.limit)
    }

    fn add(&mut self, slot: usize) {
        for number in self.attribute.of(slot) {
            self.counts[number as usize] += 1;
        }
    }
}

/// Spreads the bits of a number, so that equal hosts have an order that differs from round to round.
fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What share of a host is free, in 1024ths, summed over cpu, ram and disk; the fullest host has the least.
fn free_share(free: Resources, capacity: Resources) -> u64 {
    let share = |free: u64, capacity: u64| free.saturating_mul(1024).checked_div(capacity).unwrap_or(0);
    share(free.cpu_milli, capacity.cpu_milli)
        + share(free.ram_mib, capacity.ram_mib)
        + share(free.disk_mib, capacity.disk_mib)
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
    pub(super) fn new(view: &'a View, now: Timestamp) -> Self {
        let columns = &view.columns;
        let salt = mix(now.0);
        let mut ranked: Vec<(u64, u64, u32)> = columns
            .open
            .slots()
            .filter_map(|slot| {
                let id = columns.ids[slot]?;
                let share = free_share(columns.free[slot], columns.capacity[slot]);
                Some((share, mix(id.0 ^ salt), slot as u32))
            })
            .collect();
        ranked.sort_unstable();
        Placing {
            view,
            free: columns.free.clone(),
            lendable: columns.lendable.clone(),
            room: columns.room.clone(),
            ports: BTreeMap::new(),
            taken: BTreeMap::new(),
            order: ranked.into_iter().map(|(_, _, slot)| slot).collect(),
            placements: vec![Vec::new(); columns.ids.len()],
            together: Vec::new(),
            reasons_left: REASONS_PER_ROUND,
        }
    }

    /// Serves all groups in turn, for at most `budget` tasks.
    pub(super) fn run(mut self, budget: usize) -> Round {
        let view = self.view;
        let mut report = Report::default();
        let mut services: BTreeMap<ConfigHash, Service<'a>> = BTreeMap::new();
        order::serve(view, |group, slice| {
            let left = budget - report.placed;
            if let Some(found) = self.as_before(group) {
                report.add(found);
                return Turn::Done(Resources::default());
            }
            let hash = group.config.hash;
            if left == 0 {
                report.add(match services.remove(&hash) {
                    Some(service) => self.finish(service, false),
                    None => not_yet(group, 0, group.pending.len()),
                });
                return Turn::Done(Resources::default());
            }
            let mut service = services.remove(&hash).unwrap_or_else(|| self.begin(group));
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
            if !exhausted && placed > 0 && placed < left && !service.rest.is_empty() {
                services.insert(hash, service);
                return Turn::More(took);
            }
            report.add(self.finish(service, exhausted));
            Turn::Done(took)
        });
        let slots = self.placements.into_iter().enumerate().filter(|(_, placements)| !placements.is_empty());
        let assigns = slots
            .filter_map(|(slot, placements)| Some(Assign { host: view.columns.ids[slot]?, placements }))
            .collect();
        Round { assigns, together: self.together, report }
    }

    /// What was found when the group was tried last, if nothing that matters to it became better since.
    fn as_before(&mut self, group: &Group) -> Option<Arc<GroupReport>> {
        let (version, report) = group.tried.as_ref()?;
        let mut improved = self.view.improved_since(*version);
        let demand = group.config.demand;
        let better = |slot: usize| {
            demand.fits_in(&self.free_for(slot, &group.config)) || self.view.keeps_room(slot, group)
        };
        if improved.any(better) {
            return None;
        }
        if self.view.version == *version || self.reasons_left == 0 {
            // What became pending since then fares alike.
            let report =
                GroupReport { placed: 0, waiting: group.pending.len(), ..GroupReport::clone(report) };
            return Some(Arc::new(report));
        }
        self.reasons_left -= 1;
        let limits = limits(self.view, group);
        let report = why::count(self, group, &able(self.view, group), &limits);
        Some(Arc::new(GroupReport { waiting: group.pending.len(), ..report }))
    }

    fn begin(&self, group: &'a Group) -> Service<'a> {
        let able = able(self.view, group);
        let walk = Walk::new(self.view, group, &able, &self.order);
        let only = group.tried.as_ref().map(|(version, _)| {
            let mut slots: Vec<u32> = self.view.improved_since(*version).map(|slot| slot as u32).collect();
            slots.sort_unstable_by_key(|&slot| {
                free_share(self.view.columns.free[slot as usize], self.view.columns.capacity[slot as usize])
            });
            slots
        });
        // Preferences and spreads look at all hosts, as if for the first time.
        let only = only.filter(|_| matches!(walk, Walk::Straight { .. }));
        let mut rest: Vec<TaskId> = group.pending.iter().rev().copied().collect();
        rest.shrink_to_fit();
        Service { group, able, limits: limits(self.view, group), walk, only, rest, placed: 0 }
    }

    /// Places up to `budget` tasks; gives back whether the hosts are exhausted for this group.
    fn serve(&mut self, service: &mut Service<'a>, budget: usize) -> bool {
        let mut left = budget;
        self.serve_reserved(service, &mut left);
        while left > 0 && !service.rest.is_empty() {
            let Some((slot, ports)) = self.next_host(service) else { return true };
            let Some(task) = service.rest.pop() else { break };
            self.take(service, slot, &ports);
            self.placements[slot].push(Placement { task, ports });
            service.placed += 1;
            left -= 1;
        }
        false
    }

    /// Tasks for which room is kept go there, if it is free by now.
    fn serve_reserved(&mut self, service: &mut Service<'a>, left: &mut usize) {
        let view = self.view;
        if view.reserved.is_empty() {
            return;
        }
        let demand = service.group.config.demand;
        let kept: Vec<(TaskId, usize)> = service
            .rest
            .iter()
            .filter_map(|task| Some((*task, view.slot_of_reserved(*task)?)))
            .filter(|(_, slot)| service.able.has(*slot))
            .take(*left)
            .collect();
        for (task, slot) in kept {
            let columns = &view.columns;
            let taken = self.taken.get(&slot).copied().unwrap_or_default();
            let others = columns.reserved[slot].minus_or_zero(demand);
            let room = columns.gross[slot].minus_or_zero(taken).minus_or_zero(others);
            let fits = demand.fits_in(&room) && self.room[slot] > 0;
            if !fits || !service.limits.iter().all(|limit| limit.allows(slot)) {
                continue;
            }
            let Some(ports) = self.free_ports(slot, &service.group.config) else { continue };
            // The room is kept already: for others nothing changes but ports and the count of tasks.
            let free = (self.free[slot], self.lendable[slot]);
            self.take(service, slot, &ports);
            (self.free[slot], self.lendable[slot]) = free;
            self.placements[slot].push(Placement { task, ports });
            service.rest.retain(|other| *other != task);
            service.placed += 1;
            *left -= 1;
        }
    }

    /// All tasks of the group or none.
    fn serve_together(&mut self, service: &mut Service<'a>, budget: usize) -> bool {
        let wanted = service.rest.len();
        if wanted > budget {
            return false;
        }
        let mut made: Vec<(usize, Placement)> = Vec::new();
        // Another host than those that improved may be needed for the others.
        service.only = None;
        while let Some((slot, ports)) = self.next_host(service) {
            let Some(task) = service.rest.pop() else { break };
            self.take(service, slot, &ports);
            made.push((slot, Placement { task, ports }));
            if service.rest.is_empty() {
                break;
            }
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
        for (slot, placement) in made.into_iter().rev() {
            self.give_back(&service.group.config, slot, &placement.ports);
            service.rest.push(placement.task);
        }
        true
    }

    fn next_host(&self, service: &mut Service<'a>) -> Option<(usize, Vec<u16>)> {
        let Service { group, able, limits, walk, only, .. } = service;
        let demand = group.config.demand;
        let mut found = None;
        let mut takes = |slot: usize| {
            if !demand.fits_in(&self.free_for(slot, &group.config)) || !able.has(slot) || self.room[slot] == 0
            {
                return false;
            }
            if !limits.iter().all(|limit| limit.allows(slot)) {
                return false;
            }
            found = self.free_ports(slot, &group.config);
            found.is_some()
        };
        let slot = match only {
            Some(hosts) => hosts.iter().map(|&slot| slot as usize).find(|&slot| takes(slot)),
            None => walk.next(&self.order, takes),
        }?;
        Some((slot, found?))
    }

    /// What a host has left in this round for tasks of a config.
    pub(super) fn free_for(&self, slot: usize, config: &TaskConfig) -> Resources {
        if config.is_revocable() { self.free[slot].plus(self.lendable[slot]) } else { self.free[slot] }
    }

    /// Whether a port of a host has been given, in this round too.
    pub(super) fn is_taken(&self, slot: usize, port: u16) -> bool {
        let given = self.ports.get(&slot).is_some_and(|ports| ports.contains(&port));
        given || self.view.columns.ports[slot].contains(&port)
    }

    /// The lowest free ports of a host; `None` when there are too few, or one that the task must have is taken.
    fn free_ports(&self, slot: usize, config: &TaskConfig) -> Option<Vec<u16>> {
        let (count, fixed) = (config.ports.len(), &config.static_ports);
        if fixed.iter().any(|(_, port)| self.is_taken(slot, *port)) {
            return None;
        }
        if count == 0 {
            return Some(Vec::new());
        }
        let in_use = |port| self.is_taken(slot, port) || fixed.iter().any(|(_, fixed)| *fixed == port);
        let ports: Vec<u16> = self.view.columns.specs[slot].free_ports(in_use).take(count).collect();
        (ports.len() == count).then_some(ports)
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
        service.walk.placed(slot);
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
        let Service { group, able, limits, placed, rest, .. } = service;
        let (waiting, empty) = (rest.len(), GroupReport::of(group));
        if waiting == 0 {
            return Arc::new(GroupReport { placed, ..empty });
        }
        if !exhausted {
            return not_yet(group, placed, waiting);
        }
        let why = match (&group.tried, self.reasons_left) {
            (Some((_, report)), 0) => GroupReport::clone(report),
            (None, 0) => GroupReport {
                reason: "no host has room for it; the reasons are still being counted".to_owned(),
                ..empty
            },
            _ => {
                self.reasons_left -= 1;
                // The limits as the round leaves them would count what a gang gave back.
                let limits =
                    if group.config.all_or_nothing { self::limits(self.view, group) } else { limits };
                why::count(self, group, &able, &limits)
            }
        };
        Arc::new(GroupReport { placed, waiting, ..why })
    }
}
