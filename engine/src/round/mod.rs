//! One scheduling pass: pending groups and free hosts in, placements and reasons out. Pure.
//!
//! Pending tasks of one config form a group. A group is narrowed to its hosts by sets of bits, then placed in one
//! `walk` along the `ranking` of hosts, fullest first, as many tasks on each as fit; `order` says whose turn it is. A
//! group with tasks left is told `why`, and after that looks only at hosts on which something became free. What
//! `preempt` may displace for it is looked for in State itself.
//!
//! What a round costs grows with what it places, not with the cluster: the ranking and the sets are kept by the view
//! while hosts change, and of the columns a round copies only what it writes.

mod attributes;
mod bits;
pub mod census;
mod order;
mod pages;
mod place;
pub mod plan;
pub mod preempt;
mod ranking;
pub mod veto;
mod view;
mod walk;
mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{JobId, TaskId};

use crate::limits::PLACEMENTS_PER_ROUND_MAX;
use crate::state::command::Assign;
use crate::state::config::ConfigHash;
pub use order::dominant_share;
pub use veto::{Veto, VetoKind};
use view::Group;
pub use view::View;

/// What a round decided.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// To be proposed; one per host.
    pub assigns: Vec<Assign>,
    /// To be proposed as one command each: all of it or none.
    pub together: Vec<Vec<Assign>>,
    /// For people and metrics.
    pub report: Report,
}

impl Round {
    /// The tasks that got a place.
    pub fn placed(&self) -> BTreeSet<TaskId> {
        let assigns = self.assigns.iter().chain(self.together.iter().flatten());
        assigns.flat_map(|assign| &assign.placements).map(|placement| placement.task).collect()
    }
}

/// What a round found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Tasks that got a place.
    pub placed: usize,
    /// Tasks that still wait.
    pub waiting: usize,
    /// One per pending group, in the order in which they were done with.
    pub groups: Vec<Arc<GroupReport>>,
}

/// What a round found about one pending group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupReport {
    /// Whose tasks.
    pub job: JobId,
    /// With which config.
    pub config: ConfigHash,
    /// Tasks that got a place.
    pub placed: usize,
    /// Tasks that still wait.
    pub waiting: usize,
    /// Hosts that were considered for those that wait.
    pub hosts: usize,
    /// On how many hosts each kind of veto stood.
    pub vetoes: BTreeMap<VetoKind, u32>,
    /// Of those that are placed together or not at all: how many would find a place now.
    pub fit: Option<u32>,
    /// Why they wait, in words with the nearest miss; empty when none does.
    pub reason: String,
    /// The round had placed all that one round may: the rest is tried in the next.
    pub cut_short: bool,
    /// The round had counted all that one round may: the reasons are older, and are counted in one of the next.
    pub uncounted: bool,
}

impl GroupReport {
    /// Of a group about which nothing is known yet.
    fn of(group: &Group) -> GroupReport {
        GroupReport {
            job: group.job,
            config: group.config.hash,
            placed: 0,
            waiting: 0,
            hosts: 0,
            vetoes: BTreeMap::new(),
            fit: None,
            reason: String::new(),
            cut_short: false,
            uncounted: false,
        }
    }
}

/// Decides for at most `budget` tasks.
pub fn round(view: &View, budget: usize) -> Round {
    let groups = view.groups.values();
    match view.stopped {
        Some(why) => place::nothing(groups, why),
        None => place::Placing::new(view).run(groups, budget.min(PLACEMENTS_PER_ROUND_MAX)),
    }
}

/// Why the pending tasks of a config wait, counted now; `None` when there are none. A round's own report is as old as the
/// round that tried them last: rooms may have shrunk since.
pub fn recount(view: &View, config: &ConfigHash) -> Option<GroupReport> {
    view.groups.get(config).map(|group| recount_group(view, group, group.pending.len()))
}

fn recount_group(view: &View, group: &Group, waiting: usize) -> GroupReport {
    let found = match view.stopped {
        Some(why) => GroupReport { reason: why.to_owned(), ..GroupReport::of(group) },
        None => place::Placing::new(view).recount(group),
    };
    let reason = match found.reason.as_str() {
        "" => "there is room for it: its turn comes in a moment".to_owned(),
        _ => found.reason,
    };
    GroupReport { waiting, reason, ..found }
}
