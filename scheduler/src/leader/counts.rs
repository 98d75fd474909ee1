//! Why tasks wait, counted anew beside the leader's loop: on a copy of what rounds read, each group once at most.
//!
//! The loop makes the copy, and never spends more than a small share of its time on that: the next one is made when the
//! last is much older than it took. Until then all who ask count on the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::round::{GroupReport, VetoKind};
use engine::{Census, ConfigHash, View};

/// A copy serves for so many times what it took to make.
const COPY_LASTS: u32 = 20;

/// What was found, by config.
pub type Reasons = BTreeMap<ConfigHash, Arc<GroupReport>>;

/// One copy, and what was counted on it.
#[derive(Debug)]
pub(super) struct Counts {
    census: Census,
    fresh_until: Instant,
    counted: Mutex<Reasons>,
}

impl Counts {
    /// As things are.
    pub(super) fn of(view: &View) -> Counts {
        let begun = Instant::now();
        let census = Census::of(view);
        Counts {
            census,
            fresh_until: Instant::now() + begun.elapsed() * COPY_LASTS,
            counted: Mutex::default(),
        }
    }

    /// Whether another copy would be made too soon.
    pub(super) fn is_fresh(&self) -> bool {
        Instant::now() < self.fresh_until
    }

    /// Why the tasks of these configs wait; of those of which any does. Looks at every host for each.
    pub(super) fn reasons<'c>(&self, configs: impl IntoIterator<Item = &'c ConfigHash>) -> Reasons {
        let found = configs.into_iter().filter_map(|config| Some((*config, self.reason(config)?)));
        found.collect()
    }

    fn reason(&self, config: &ConfigHash) -> Option<Arc<GroupReport>> {
        let counted = || self.counted.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Some(found) = counted().get(config) {
            return Some(found.clone());
        }
        let found = Arc::new(self.census.recount(config)?);
        counted().insert(*config, found.clone());
        Some(found)
    }

    /// Sums over all groups that wait, and how long they took to count.
    pub(super) fn vetoes(&self) -> (Vetoes, Duration) {
        let begun = Instant::now();
        let found = self.reasons(self.census.configs());
        (vetoes(found.values().map(AsRef::as_ref)), begun.elapsed())
    }
}

/// Hosts that cannot take a waiting task, by the kind of reason, summed up over the groups that wait.
pub(super) type Vetoes = BTreeMap<VetoKind, u64>;

/// Sums up.
pub(super) fn vetoes<'a>(waiting: impl Iterator<Item = &'a GroupReport>) -> Vetoes {
    let mut sums: Vetoes = VetoKind::ALL.into_iter().map(|kind| (kind, 0)).collect();
    for (kind, hosts) in waiting.flat_map(|group| &group.vetoes) {
        *sums.entry(*kind).or_default() += u64::from(*hosts);
    }
    sums
}
