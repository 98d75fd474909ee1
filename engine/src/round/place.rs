//! The greedy walk: which group is served first, which host is tried first, what is left where.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::Resources;

use super::attributes::Attribute;
use super::bits::Bits;
use super::veto::{Nearness, Veto, VetoKind, of_attributes, shortage};
use super::view::{Group, View};
use super::{GroupReport, Report, Round};
use crate::state::command::{Assign, Placement};
use crate::time::Timestamp;

/// Groups as they are served: by tier, then priority, then age.
pub(super) fn in_order(view: &View) -> Vec<&Group> {
    let mut groups: Vec<&Group> = view.groups.values().collect();
    groups.sort_by_key(|group| {
        (group.config.tier, Reverse(group.config.priority), group.pending.first().copied(), group.config.hash)
    });
    groups
}

/// A round that may not place anything.
pub(super) fn nothing(view: &View, why: &str) -> Round {
    let groups = in_order(view).into_iter().map(|group| {
        let waiting = group.pending.len();
        Arc::new(GroupReport { waiting, reason: why.to_owned(), ..empty_report(group) })
    });
    let groups: Vec<_> = groups.collect();
    let waiting = groups.iter().map(|group| group.waiting).sum();
    Round { assigns: Vec::new(), report: Report { placed: 0, waiting, groups } }
}

fn empty_report(group: &Group) -> GroupReport {
    GroupReport {
        job: group.job,
        config: group.config.hash,
        placed: 0,
        waiting: 0,
        hosts: 0,
        vetoes: BTreeMap::new(),
        reason: String::new(),
        cut_short: false,
    }
}

/// A round in progress: what is left on each host.
pub(super) struct Placing<'a> {
    view: &'a View,
    free: Vec<Resources>,
    room: Vec<usize>,
    /// Ports given in this round.
    ports: BTreeMap<usize, BTreeSet<u16>>,
    /// Slots of hosts that are heard, fullest first.
    order: Vec<u32>,
    placements: Vec<Vec<Placement>>,
}

/// Counts of a job's tasks for one limit constraint.
struct LimitCounts<'a> {
    attribute: &'a Attribute,
    name: &'a str,
    limit: u32,
    counts: Vec<u32>,
}

impl LimitCounts<'_> {
    fn allows(&self, slot: usize) -> bool {
        let mut numbers = self.attribute.of(slot);
        numbers.all(|number| self.counts[number as usize] < self.limit)
    }

    fn add(&mut self, slot: usize, tasks: u32) {
        for number in self.attribute.of(slot) {
            self.counts[number as usize] += tasks;
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

impl<'a> Placing<'a> {
    pub(super) fn new(view: &'a View, now: Timestamp) -> Self {
        let columns = &view.columns;
        let mut ranked: Vec<(u64, u64, u32)> = (0..columns.ids.len())
            .filter(|&slot| columns.heard.has(slot))
            .filter_map(|slot| {
                let id = columns.ids[slot]?;
                let share = free_share(columns.free[slot], columns.capacity[slot]);
                Some((share, mix(id.0 ^ mix(now.0)), slot as u32))
            })
            .collect();
        ranked.sort_unstable();
        Placing {
            view,
            free: columns.free.clone(),
            room: columns.room.clone(),
            ports: BTreeMap::new(),
            order: ranked.into_iter().map(|(_, _, slot)| slot).collect(),
            placements: vec![Vec::new(); columns.ids.len()],
        }
    }

    pub(super) fn into_assigns(self) -> Vec<Assign> {
        let slots = self.placements.into_iter().enumerate().filter(|(_, placements)| !placements.is_empty());
        slots
            .filter_map(|(slot, placements)| Some(Assign { host: self.view.columns.ids[slot]?, placements }))
            .collect()
    }

    /// Places as many of the group's tasks as `budget` and the hosts allow.
    pub(super) fn serve(&mut self, group: &'a Group, budget: usize) -> Arc<GroupReport> {
        if let Some((version, report)) = &group.tried
            && *version == self.view.version
        {
            // Nothing became free since the last try; what became pending since then fares alike.
            return Arc::new(GroupReport { placed: 0, waiting: group.pending.len(), ..(**report).clone() });
        }
        let able = self.able(group);
        let mut limits = self.limits(group);
        let mut tasks = group.pending.iter().copied().take(budget).peekable();
        let mut placed = 0;
        let demand = group.config.demand;
        let wants_ports = group.config.ports.len();
        for at in 0..self.order.len() {
            if tasks.peek().is_none() {
                break;
            }
            let slot = self.order[at] as usize;
            if !demand.fits_in(&self.free[slot]) || !able.has(slot) {
                continue;
            }
            while self.room[slot] > 0
                && demand.fits_in(&self.free[slot])
                && limits.iter().all(|l| l.allows(slot))
            {
                let Some(&task) = tasks.peek() else { break };
                let Some(ports) = self.take_ports(slot, wants_ports) else { break };
                tasks.next();
                self.free[slot] = self.free[slot].minus_or_zero(demand);
                self.room[slot] -= 1;
                limits.iter_mut().for_each(|limit| limit.add(slot, 1));
                self.placements[slot].push(Placement { task, ports });
                placed += 1;
            }
        }
        let waiting = group.pending.len() - placed;
        if waiting == 0 {
            return Arc::new(GroupReport { placed, ..empty_report(group) });
        }
        if tasks.peek().is_none() {
            let reason = "its turn comes in the next round".to_owned();
            return Arc::new(GroupReport { placed, waiting, reason, cut_short: true, ..empty_report(group) });
        }
        let why = self.why(group, &limits);
        Arc::new(GroupReport { placed, waiting, ..why })
    }

    /// Hosts whose attributes suit the group, counts of limits aside.
    fn able(&self, group: &Group) -> Bits {
        let mut able = self.view.columns.heard.clone();
        if group.config.dedicated().is_none() {
            self.view.attributes.without_dedicated(&mut able);
        }
        for constraint in &group.config.constraints {
            self.view.attributes.narrow(constraint, &mut able);
        }
        able
    }

    fn limits(&self, group: &'a Group) -> Vec<LimitCounts<'a>> {
        let view = self.view;
        let mut limits = Vec::new();
        for (name, limit) in group.config.limits() {
            // Without the attribute no host is able, so there is nothing to count.
            let Some(attribute) = view.attributes.get(name) else { continue };
            let mut counted =
                LimitCounts { attribute, name, limit, counts: vec![0; attribute.value_count()] };
            for (host, &tasks) in view.spread.get(&group.job).into_iter().flatten() {
                if let Some(&slot) = view.slots.get(host) {
                    counted.add(slot, tasks);
                }
            }
            limits.push(counted);
        }
        limits
    }

    /// The lowest free ports of a host, taken; `None` when there are too few.
    fn take_ports(&mut self, slot: usize, count: usize) -> Option<Vec<u16>> {
        if count == 0 {
            return Some(Vec::new());
        }
        let (used, columns) = (&self.view.columns.ports[slot], &self.view.columns);
        let taken = self.ports.entry(slot).or_default();
        let free = columns.specs[slot].free_ports(|port| used.contains(&port) || taken.contains(&port));
        let ports: Vec<u16> = free.take(count).collect();
        if ports.len() < count {
            return None;
        }
        taken.extend(&ports);
        Some(ports)
    }

    /// Why the rest of a group waits: the count of each veto over all hosts, and the nearest miss.
    fn why(&self, group: &Group, limits: &[LimitCounts]) -> GroupReport {
        let view = self.view;
        let mut report = empty_report(group);
        report.hosts = self.order.len();
        if self.order.is_empty() {
            report.reason = match view.slots.len() {
                0 => "no hosts are registered".to_owned(),
                1 => "the only host is silent".to_owned(),
                hosts => format!("all {hosts} hosts are silent"),
            };
            return report;
        }
        let mut nearest: Option<(Nearness, Veto)> = None;
        let mut count = |kind| *report.vetoes.entry(kind).or_default() += 1;
        for &slot in &self.order {
            let slot = slot as usize;
            let near = |nearest: &Option<(Nearness, Veto)>, how: Nearness| {
                nearest.as_ref().is_none_or(|(nearness, _)| how < *nearness)
            };
            // The strongest veto of a host is what keeps the task from it.
            if let Some(veto) = of_attributes(&group.config, &view.columns.specs[slot]) {
                let kind = if veto == Veto::Dedicated { VetoKind::Dedicated } else { VetoKind::Constraint };
                count(kind);
                let how = (if kind == VetoKind::Dedicated { 5 } else { 4 }, 0);
                if near(&nearest, how) {
                    nearest = Some((how, veto));
                }
                continue;
            }
            let full = limits.iter().find(|limit| !limit.allows(slot));
            if full.is_some() {
                count(VetoKind::Limit);
            }
            let (distance, short) = shortage(group.config.demand, self.free[slot]);
            for (kind, short) in
                [VetoKind::Cpu, VetoKind::Ram, VetoKind::Disk, VetoKind::Gpu].into_iter().zip(short)
            {
                if short {
                    count(kind);
                }
            }
            if let Some(limit) = full {
                if near(&nearest, (3, 0)) {
                    nearest =
                        Some(((3, 0), Veto::Limit { attribute: limit.name.to_owned(), count: limit.limit }));
                }
            } else if distance > 0 || short.contains(&true) {
                if near(&nearest, (0, distance)) {
                    let (wanted, free) = (group.config.demand, self.free[slot]);
                    nearest = Some(((0, distance), Veto::Insufficient { wanted, free }));
                }
            } else if self.room[slot] == 0 {
                count(VetoKind::Tasks);
                if near(&nearest, (2, 0)) {
                    nearest = Some(((2, 0), Veto::Tasks));
                }
            } else {
                count(VetoKind::Ports);
                let used = view.columns.ports[slot].len() + self.ports.get(&slot).map_or(0, BTreeSet::len);
                let free = view.columns.specs[slot].port_count().saturating_sub(used);
                let wanted = group.config.ports.len();
                let how = (1, wanted.saturating_sub(free) as u64);
                if near(&nearest, how) {
                    nearest = Some((how, Veto::Ports { wanted, free }));
                }
            }
        }
        report.reason = nearest.map(|(_, veto)| veto.to_string()).unwrap_or_default();
        report
    }
}
