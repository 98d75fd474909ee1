//! One scheduling pass: pending groups and free hosts in, placements and reasons out. Pure.
//!
//! Pending tasks of one config form a group. A group is narrowed to its hosts by sets of bits, then placed in one
//! walk over the hosts, fullest first, as many tasks on each as fit. Only a group with tasks left pays for the
//! second walk, which finds the nearest miss; and it is not tried again before something became free.

mod attributes;
mod bits;
mod place;
pub mod veto;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::JobId;

use crate::limits::PLACEMENTS_PER_ROUND_MAX;
use crate::state::command::Assign;
use crate::state::config::ConfigHash;
use crate::time::Timestamp;
pub use veto::{Veto, VetoKind};
pub use view::View;

/// What a round decided.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// To be proposed; one per host.
    pub assigns: Vec<Assign>,
    /// For people and metrics.
    pub report: Report,
}

/// What a round found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Tasks that got a place.
    pub placed: usize,
    /// Tasks that still wait.
    pub waiting: usize,
    /// One per pending group, in the order in which they were served.
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
    /// Why they wait, in words with the nearest miss; empty when none does.
    pub reason: String,
    /// The round had placed all that one round may: the rest is tried in the next.
    pub cut_short: bool,
}

/// Decides for at most `budget` tasks. `now` orders equal hosts, so that not all of them fill in the same order.
pub fn round(view: &View, now: Timestamp, budget: usize) -> Round {
    let budget = budget.min(PLACEMENTS_PER_ROUND_MAX);
    if let Some(why) = view.stopped {
        return place::nothing(view, why);
    }
    let mut placing = place::Placing::new(view, now);
    let mut report = Report::default();
    for group in place::in_order(view) {
        let left = budget - report.placed;
        let found = placing.serve(group, left);
        report.placed += found.placed;
        report.waiting += found.waiting;
        report.groups.push(found);
    }
    Round { assigns: placing.into_assigns(), report }
}
