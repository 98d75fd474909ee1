//! A copy of what rounds read, for counting beside whoever decides: why each group waits, as things were when it was made.
//! Not here: who waits, but for tasks that are placed together. A copy costs what the hosts and the groups cost, not the
//! tasks.

use std::collections::BTreeMap;

use super::view::View;
use super::{GroupReport, recount_group};
use crate::state::config::ConfigHash;

/// The copy.
#[derive(Clone, Debug)]
pub struct Census {
    view: View,
    /// Tasks that wait, by their config.
    waiting: BTreeMap<ConfigHash, usize>,
}

impl Census {
    /// As things are.
    pub fn of(view: &View) -> Census {
        let waiting = view.groups.iter().map(|(&config, group)| (config, group.pending.len()));
        Census { view: view.for_counting(), waiting: waiting.collect() }
    }

    /// The configs of all tasks that wait.
    pub fn configs(&self) -> impl Iterator<Item = &ConfigHash> {
        self.waiting.keys()
    }

    /// Why the tasks of a config wait; `None` when none does. Looks at every host.
    pub fn recount(&self, config: &ConfigHash) -> Option<GroupReport> {
        let group = self.view.groups.get(config)?;
        Some(recount_group(&self.view, group, self.waiting.get(config).copied().unwrap_or_default()))
    }
}
