//! In which order a group tries hosts: fullest first; with preferences, the preferred ones before; with spreads, the
//! value that is furthest below its target before.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use proto::JobId;

use super::attributes::{Attribute, NONE};
use super::bits::Bits;
use super::ranking::{Cursor, Entry, Grouping, Lane};
use super::view::{Group, View};
use crate::state::config::{Spread, TaskConfig};

/// A group that suits no more hosts than this, and few of all, does not pass by the others.
const FEW: usize = 1_024;

/// A group's way over the hosts.
pub(super) enum Walk<'a> {
    /// The round's own order.
    All(Cursor),
    /// Hosts of its own.
    Own(Lane<'a>, Cursor),
    /// Hosts in buckets of equal values; the bucket that is furthest below its targets is next.
    Spread(Buckets<'a>),
}

/// One spread constraint, while a round lasts.
struct Aim<'a> {
    attribute: &'a Attribute,
    /// Per value: tasks of the job there.
    counts: BTreeMap<u32, u32>,
    /// Per value: what of 100,000 it shall have.
    targets: BTreeMap<u32, u64>,
    /// The same for each other value.
    share: u64,
}

/// See [`Walk::Spread`].
pub(super) struct Buckets<'a> {
    aims: Vec<Aim<'a>>,
    grouping: Whose<'a>,
    cursors: BTreeMap<usize, Cursor>,
    /// Scores as they were when entered; they only grow.
    next: BinaryHeap<Reverse<(u64, usize)>>,
}

/// Buckets of all open hosts serve all groups of a round.
enum Whose<'a> {
    Own(Grouping<'a>),
    Shared(usize),
}

/// The hosts that a group walks for itself, if it does: by preference, or since they are few.
pub(super) fn own_hosts(view: &View, group: &Group, able: &Bits) -> Option<Vec<Entry>> {
    let config: &TaskConfig = &group.config;
    if config.preferences.is_empty() {
        let (few, all) = (able.count() as usize, view.ranking.len());
        let alone = few <= FEW && few * 16 < all;
        return alone.then(|| view.ranked(able.slots()));
    }
    let suits = view.ranking.entries().filter(|&(_, slot)| able.has(slot as usize));
    let mut hosts: Vec<Entry> = suits.collect();
    let mut weights: Vec<i64> = vec![0; able.len()];
    for preference in &config.preferences {
        let mut suits = able.clone();
        view.attributes.narrow(&preference.constraint, &mut suits);
        suits.slots().for_each(|slot| weights[slot] += i64::from(preference.weight));
    }
    // Stable: equal weights stay fullest first.
    hosts.sort_by_key(|&(_, slot)| Reverse(weights[slot as usize]));
    Some(hosts)
}

impl Aim<'_> {
    /// How full a value would be with one task more, against its target.
    fn score(&self, number: u32) -> u64 {
        let count = u64::from(self.counts.get(&number).copied().unwrap_or(0)) + 1;
        let target = self.targets.get(&number).copied().unwrap_or(self.share);
        // Without a target: beyond all that have one, and still in order.
        (count * 1_000_000).checked_div(target).unwrap_or((1 << 40) + count)
    }
}

fn aim<'a>(
    view: &'a View,
    job: JobId,
    spread: &Spread,
    attribute: &'a Attribute,
    present: impl Iterator<Item = u32>,
) -> Aim<'a> {
    let counts = view.counts(job, &spread.attribute, attribute);
    let targets = spread
        .targets
        .iter()
        .filter_map(|(value, percent)| Some((attribute.number_of(value)?, u64::from(*percent) * 1000)));
    let targets: BTreeMap<u32, u64> = targets.collect();
    // What the targets leave is shared by the other values that suit.
    let given = spread.targets.iter().map(|(_, percent)| u64::from(*percent) * 1000).sum();
    let mut others: Vec<u32> = present.filter(|number| !targets.contains_key(number)).collect();
    others.sort_unstable();
    others.dedup();
    let share = 100_000_u64.saturating_sub(given).checked_div(others.len() as u64).unwrap_or(0);
    Aim { attribute, counts, targets, share }
}

/// The spreads of a config whose attributes some host has.
pub(super) fn spreads<'a>(view: &'a View, config: &'a TaskConfig) -> Vec<(&'a Spread, &'a Attribute)> {
    let known = |spread: &'a Spread| Some((spread, view.attributes.get(&spread.attribute)?));
    config.spreads.iter().filter_map(known).collect()
}

impl<'a> Buckets<'a> {
    /// Over hosts of the group's own.
    pub(super) fn own(
        view: &'a View,
        group: &Group,
        spreads: &[(&'a Spread, &'a Attribute)],
        hosts: Vec<Entry>,
    ) -> Self {
        let attributes: Vec<&Attribute> = spreads.iter().map(|(_, attribute)| *attribute).collect();
        let grouping = Grouping::new(&attributes, hosts.into_iter());
        let able: Vec<usize> = (0..grouping.buckets.len()).collect();
        let (aims, next) = Self::begin(view, group, spreads, &grouping, &able);
        Buckets { aims, grouping: Whose::Own(grouping), cursors: BTreeMap::new(), next }
    }

    /// Over buckets that groups share; those without a host that is able are left out.
    pub(super) fn shared(
        view: &'a View,
        group: &Group,
        spreads: &[(&'a Spread, &'a Attribute)],
        able: &Bits,
        groupings: &[Grouping<'a>],
        at: usize,
    ) -> Self {
        let grouping = &groupings[at];
        let suits = |&at: &usize| grouping.buckets[at].hosts.has(|slot| able.has(slot));
        let able: Vec<usize> = (0..grouping.buckets.len()).filter(suits).collect();
        let (aims, next) = Self::begin(view, group, spreads, grouping, &able);
        Buckets { aims, grouping: Whose::Shared(at), cursors: BTreeMap::new(), next }
    }

    fn begin(
        view: &'a View,
        group: &Group,
        spreads: &[(&'a Spread, &'a Attribute)],
        grouping: &Grouping<'a>,
        able: &[usize],
    ) -> (Vec<Aim<'a>>, BinaryHeap<Reverse<(u64, usize)>>) {
        let aims = spreads.iter().enumerate().map(|(nth, (spread, attribute))| {
            let present = able.iter().map(|&at| grouping.buckets[at].values[nth]);
            aim(view, group.job, spread, attribute, present.filter(|&number| number != NONE))
        });
        let aims: Vec<Aim<'_>> = aims.collect();
        let next = able.iter().map(|&at| Reverse((score(&aims, &grouping.buckets[at].values), at))).collect();
        (aims, next)
    }

    /// The next host for which `takes` says yes, where `step` moves along a bucket.
    pub(super) fn next(
        &mut self,
        groupings: &mut [Grouping<'a>],
        tentative: bool,
        mut step: impl FnMut(&mut Lane<'a>, &mut Cursor) -> Option<usize>,
    ) -> Option<usize> {
        let grouping = match &mut self.grouping {
            Whose::Own(grouping) => grouping,
            Whose::Shared(at) => groupings.get_mut(*at)?,
        };
        while let Some(Reverse((before, at))) = self.next.pop() {
            let bucket = &mut grouping.buckets[at];
            let now = score(&self.aims, &bucket.values);
            if now > before {
                self.next.push(Reverse((now, at)));
                continue;
            }
            let cursor = self.cursors.entry(at).or_insert(Cursor::new(tentative));
            if let Some(slot) = step(&mut bucket.hosts, cursor) {
                self.next.push(Reverse((before, at)));
                return Some(slot);
            }
        }
        None
    }

    /// A task was placed on the host.
    pub(super) fn placed(&mut self, slot: usize) {
        for aim in &mut self.aims {
            for number in aim.attribute.of(slot) {
                *aim.counts.entry(number).or_default() += 1;
            }
        }
    }
}

fn score(aims: &[Aim<'_>], values: &[u32]) -> u64 {
    // A host without the attribute is in a bucket of its own kind, and last.
    let scores = aims.iter().zip(values);
    scores.map(|(aim, &number)| if number == NONE { 1 << 50 } else { aim.score(number) }).sum()
}
