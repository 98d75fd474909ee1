//! Who is served first: tier, then priority, then the role with the smallest dominant share, then age.
//!
//! Roles of one (tier, priority) take turns, a slice of tasks at a time, so that each turn goes to whoever has the
//! least of what it has most of (Ghodsi et al., "Dominant Resource Fairness", 2011). A role with nothing to place is
//! out of the way at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use proto::Resources;

use super::view::{Group, View};
use crate::state::config::Tier;

/// Tasks that a role may place before another one's share is looked at.
const SLICE: usize = 16;

/// What of the cluster a role has, in millionths of the resource it has most of.
pub fn dominant_share(used: Resources, capacity: Resources) -> u64 {
    let share = |used: u64, all: u64| used.saturating_mul(1_000_000).checked_div(all).unwrap_or(0);
    share(used.cpu_milli, capacity.cpu_milli)
        .max(share(used.ram_mib, capacity.ram_mib))
        .max(share(used.disk_mib, capacity.disk_mib))
        .max(share(used.gpus, capacity.gpus))
}

/// Groups of one (tier, priority), oldest first, by role.
type Class<'a> = BTreeMap<&'a str, VecDeque<(usize, &'a Group)>>;

/// The classes in the order in which they are served.
fn classes<'a>(groups: impl Iterator<Item = &'a Group>) -> BTreeMap<(Tier, Reverse<i32>), Class<'a>> {
    let mut groups: Vec<&Group> = groups.collect();
    groups.sort_by_cached_key(|group| (group.pending.first().copied(), group.config.hash));
    let mut classes: BTreeMap<_, Class<'_>> = BTreeMap::new();
    for (number, group) in groups.into_iter().enumerate() {
        let class = classes.entry((group.config.tier, Reverse(group.config.priority))).or_default();
        class.entry(group.config.job.role.as_str()).or_default().push_back((number, group));
    }
    classes
}

/// How a turn ended.
pub(super) enum Turn {
    /// The group has tasks left that may find a place: it goes on in the role's next turn.
    More(Resources),
    /// The group is done with, placed or not.
    Done(Resources),
}

/// Gives turns until nobody is left; `turn` serves up to so many tasks of a group, known by its number, and says what
/// it took.
pub(super) fn serve<'a>(
    view: &'a View,
    groups: impl Iterator<Item = &'a Group>,
    mut turn: impl FnMut(usize, &'a Group, usize) -> Turn,
) {
    let mut used: BTreeMap<&str, Resources> = BTreeMap::new();
    for (_, mut class) in classes(groups) {
        let mut turns: BinaryHeap<Reverse<(u64, &str)>> = class
            .keys()
            .map(|&role| {
                let used = used.get(role).copied().unwrap_or_else(|| view.used_by(role));
                Reverse((dominant_share(used, view.capacity), role))
            })
            .collect();
        while let Some(Reverse((_, role))) = turns.pop() {
            let Some(queue) = class.get_mut(role) else { continue };
            let Some(&(number, group)) = queue.front() else { continue };
            // Alone, a role needs no slices.
            let slice = if turns.is_empty() { usize::MAX } else { SLICE };
            let (took, done) = match turn(number, group, slice) {
                Turn::More(took) => (took, false),
                Turn::Done(took) => (took, true),
            };
            if done {
                queue.pop_front();
            }
            let now = used.entry(role).or_insert_with(|| view.used_by(role));
            *now = now.plus(took);
            if !queue.is_empty() {
                turns.push(Reverse((dominant_share(*now, view.capacity), role)));
            }
        }
    }
}
