//! Why the rest of a group waits: on how many hosts each veto stands, and the nearest miss in words.

use super::attributes::Attributes;
use super::bits::Bits;
use super::place::{LimitCounts, Placing};
use super::veto::{Nearness, Veto, VetoKind, shortage};
use super::view::Group;
use super::{GroupReport, Report};
use crate::state::config::Constraint;

impl Report {
    /// Counts a group in; those that it placed are counted as they are placed.
    pub(super) fn add(&mut self, found: std::sync::Arc<GroupReport>) {
        self.waiting += found.waiting;
        self.groups.push(found);
    }
}

/// The nearest veto so far.
#[derive(Default)]
struct Nearest(Option<(Nearness, Veto)>);

impl Nearest {
    fn offer(&mut self, how: Nearness, veto: impl FnOnce() -> Veto) {
        if self.0.as_ref().is_none_or(|(nearness, _)| how < *nearness) {
            self.0 = Some((how, veto()));
        }
    }
}

/// Counts over all hosts that are heard. No reason where a host has room after all.
pub(super) fn count(
    placing: &Placing<'_>,
    group: &Group,
    able: &Bits,
    limits: &[LimitCounts<'_>],
) -> GroupReport {
    let (view, columns) = (placing.view, &placing.view.columns);
    let mut report = GroupReport::of(group);
    let (heard, open) = (columns.heard.count(), columns.open.count());
    report.hosts = heard as usize;
    if heard == 0 {
        report.reason = match view.slots.len() {
            0 => "no hosts are registered".to_owned(),
            1 => "the only host is silent".to_owned(),
            hosts => format!("all {hosts} hosts are silent"),
        };
        return report;
    }
    let mut nearest = Nearest::default();
    let mut roomy = false;
    let mut note = |kind, hosts: u32| {
        if hosts > 0 {
            *report.vetoes.entry(kind).or_default() += hosts;
        }
    };
    note(VetoKind::Maintenance, heard - open);
    if heard > open {
        nearest.offer((6, 0), || Veto::Maintenance);
    }
    let mut allowed = columns.open.clone();
    if group.config.dedicated().is_none() {
        view.attributes.without_dedicated(&mut allowed);
        if allowed.count() < open {
            note(VetoKind::Dedicated, open - allowed.count());
            nearest.offer((5, 0), || Veto::Dedicated);
        }
    }
    if able.count() < allowed.count() {
        note(VetoKind::Constraint, allowed.count() - able.count());
        if let Some(constraint) = first_that_narrows(&view.attributes, &group.config.constraints, &allowed) {
            nearest.offer((4, 0), || Veto::Constraint(constraint.clone()));
        }
    }
    for slot in able.slots() {
        let full = limits.iter().find(|limit| !limit.allows(slot));
        note(VetoKind::Limit, u32::from(full.is_some()));
        let (wanted, free) = (group.config.demand, placing.free_for(slot, &group.config));
        let (distance, short) = shortage(wanted, free);
        for (kind, short) in
            [VetoKind::Cpu, VetoKind::Ram, VetoKind::Disk, VetoKind::Gpu].into_iter().zip(short)
        {
            note(kind, u32::from(short));
        }
        if let Some(limit) = full {
            nearest.offer((3, 0), || Veto::Limit { attribute: limit.name.to_owned(), count: limit.limit });
        } else if short.contains(&true) {
            // A host that has not half of it is farther away than one where a port or a limit is in the way.
            let rank = if distance <= 500 { 0 } else { 3 };
            nearest.offer((rank, distance), || Veto::Insufficient { wanted, free });
        } else if placing.room[slot] == 0 {
            note(VetoKind::Tasks, 1);
            nearest.offer((2, 0), || Veto::Tasks);
        } else {
            let wanted = group.config.ports.len();
            let mut fixed = group.config.static_ports.iter();
            let is_fixed = |port| group.config.static_ports.iter().any(|(_, fixed)| *fixed == port);
            let in_use = |port| placing.is_taken(slot, port) || is_fixed(port);
            let free = columns.specs[slot].free_ports(in_use).take(wanted).count();
            if let Some((name, port)) = fixed.find(|(_, port)| placing.is_taken(slot, *port)) {
                note(VetoKind::StaticPort, 1);
                nearest.offer((1, 0), || Veto::StaticPort { name: name.to_string(), port: *port });
            } else if free < wanted {
                note(VetoKind::Ports, 1);
                nearest.offer((1, (wanted - free) as u64), || Veto::Ports { wanted, free });
            } else if group.config.all_or_nothing {
                // One more would fit here: it is the others that find no place.
                nearest.offer((7, 0), || Veto::Together { tasks: group.pending.len() });
            } else {
                roomy = true;
            }
        }
    }
    report.reason = match nearest.0 {
        Some((_, veto)) if !roomy => veto.to_string(),
        _ => String::new(),
    };
    report
}

/// What came of placing tasks that want places together: how many got one, and why the next did not.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) fit: usize,
    pub(super) reason: String,
}

impl Trial {
    /// Adds it to what is known of a group of so many.
    pub(super) fn tell(self, wanted: usize, report: &mut GroupReport) {
        report.fit = Some(self.fit as u32);
        report.reason = format!(
            "all {wanted} tasks need a place at once, and {} would find one now; for one more: {}",
            self.fit, self.reason
        );
    }
}

/// The first constraint that any host fails which those before it left.
fn first_that_narrows<'a>(
    attributes: &Attributes,
    constraints: &'a [Constraint],
    allowed: &Bits,
) -> Option<&'a Constraint> {
    let mut left = allowed.clone();
    constraints.iter().find(|constraint| {
        let before = left.count();
        attributes.narrow(constraint, &mut left);
        left.count() < before
    })
}
