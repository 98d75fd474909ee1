//! In which order a group tries hosts: fullest first; with preferences, the preferred ones before; with spreads, the
//! value that is furthest below its target before.
//!
//! What a group has passed by in a round stays passed by: room only shrinks and counts only grow while a round lasts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use proto::JobId;

use super::attributes::Attribute;
use super::bits::Bits;
use super::view::{Group, View};
use crate::state::config::{Spread, TaskConfig};

/// A group's way over the hosts.
pub(super) enum Walk<'a> {
    /// The round's own order.
    Straight { at: usize },
    /// An order of its own, by preference.
    Own { hosts: Vec<u32>, at: usize },
    /// Hosts in buckets of equal values; the bucket that is furthest below its targets is next.
    Spread(Buckets<'a>),
}

/// One spread constraint, while a round lasts.
struct Aim<'a> {
    attribute: &'a Attribute,
    /// Per value: tasks of the job there.
    counts: Vec<u32>,
    /// Per value: what of 100,000 it shall have.
    targets: Vec<u64>,
}

impl Aim<'_> {
    /// How full a value would be with one task more, against its target.
    fn score(&self, number: u32) -> u64 {
        let at = number as usize;
        let (count, target) = (u64::from(self.counts[at]) + 1, self.targets[at]);
        // Without a target: beyond all that have one, and still in order.
        (count * 1_000_000).checked_div(target).unwrap_or((1 << 40) + count)
    }
}

/// Hosts that share their values of all spread attributes, in order of trial.
struct Bucket {
    values: Vec<u32>,
    hosts: Vec<u32>,
    at: usize,
}

/// See [`Walk::Spread`].
pub(super) struct Buckets<'a> {
    aims: Vec<Aim<'a>>,
    buckets: Vec<Bucket>,
    /// Scores as they were when entered; they only grow.
    next: BinaryHeap<Reverse<(u64, usize)>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(view: &'a View, group: &Group, able: &Bits, order: &[u32]) -> Self {
        let config: &TaskConfig = &group.config;
        if config.preferences.is_empty() && config.spreads.is_empty() {
            return Walk::Straight { at: 0 };
        }
        let mut hosts: Vec<u32> = order.iter().copied().filter(|&slot| able.has(slot as usize)).collect();
        if !config.preferences.is_empty() {
            let mut weights: Vec<i64> = vec![0; able.len()];
            for preference in &config.preferences {
                let mut suits = able.clone();
                view.attributes.narrow(&preference.constraint, &mut suits);
                suits.slots().for_each(|slot| weights[slot] += i64::from(preference.weight));
            }
            // Stable: equal weights stay fullest first.
            hosts.sort_by_key(|&slot| Reverse(weights[slot as usize]));
        }
        if config.spreads.is_empty() {
            return Walk::Own { hosts, at: 0 };
        }
        let aims = config.spreads.iter().filter_map(|spread| aim(view, group.job, spread, &hosts)).collect();
        Walk::Spread(Buckets::new(aims, hosts))
    }

    /// The next host for which `takes` says yes.
    pub(super) fn next(&mut self, order: &[u32], mut takes: impl FnMut(usize) -> bool) -> Option<usize> {
        match self {
            Walk::Straight { at } => step(order, at, &mut takes),
            Walk::Own { hosts, at } => step(hosts, at, &mut takes),
            Walk::Spread(buckets) => buckets.next(&mut takes),
        }
    }

    /// A task was placed on the host that `next` gave.
    pub(super) fn placed(&mut self, slot: usize) {
        if let Walk::Spread(buckets) = self {
            for aim in &mut buckets.aims {
                for number in aim.attribute.of(slot) {
                    aim.counts[number as usize] += 1;
                }
            }
        }
    }
}

/// Moves on to the first host that takes a task, and stays there: it may take another one.
fn step(hosts: &[u32], at: &mut usize, takes: &mut impl FnMut(usize) -> bool) -> Option<usize> {
    while let Some(&slot) = hosts.get(*at) {
        if takes(slot as usize) {
            return Some(slot as usize);
        }
        *at += 1;
    }
    None
}

fn aim<'a>(view: &'a View, job: JobId, spread: &Spread, hosts: &[u32]) -> Option<Aim<'a>> {
    let attribute = view.attributes.get(&spread.attribute)?;
    let counts = view.counts(job, &spread.attribute, attribute);
    let mut targets: Vec<Option<u64>> = vec![None; attribute.value_count()];
    for (value, percent) in &spread.targets {
        if let Some(number) = attribute.number_of(value) {
            targets[number as usize] = Some(u64::from(*percent) * 1000);
        }
    }
    // What the targets leave is shared by the other values that suit.
    let left = 100_000_u64
        .saturating_sub(spread.targets.iter().map(|(_, percent)| u64::from(*percent) * 1000).sum());
    let mut present = vec![false; attribute.value_count()];
    for &slot in hosts {
        attribute.of(slot as usize).for_each(|number| present[number as usize] = true);
    }
    let others =
        present.iter().zip(&targets).filter(|(present, target)| **present && target.is_none()).count();
    let share = left.checked_div(others as u64).unwrap_or(0);
    let targets = targets.into_iter().map(|target| target.unwrap_or(share)).collect();
    Some(Aim { attribute, counts, targets })
}

impl<'a> Buckets<'a> {
    fn new(aims: Vec<Aim<'a>>, hosts: Vec<u32>) -> Self {
        let mut numbers: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
        let mut buckets: Vec<Bucket> = Vec::new();
        for slot in hosts {
            // A host without the attribute is in a bucket of its own kind, and last.
            let first =
                |aim: &Aim<'_>| aim.attribute.of(slot as usize).next().unwrap_or(super::attributes::NONE);
            let values: Vec<u32> = aims.iter().map(first).collect();
            let at = *numbers.entry(values).or_insert_with_key(|values| {
                buckets.push(Bucket { values: values.clone(), hosts: Vec::new(), at: 0 });
                buckets.len() - 1
            });
            buckets[at].hosts.push(slot);
        }
        let mut all = Buckets { aims, buckets, next: BinaryHeap::new() };
        all.next = (0..all.buckets.len()).map(|at| Reverse((all.score(at), at))).collect();
        all
    }

    fn score(&self, at: usize) -> u64 {
        let values = self.aims.iter().zip(&self.buckets[at].values);
        let scores = values.map(
            |(aim, &number)| {
                if number == super::attributes::NONE { 1 << 50 } else { aim.score(number) }
            },
        );
        scores.sum()
    }

    fn next(&mut self, takes: &mut impl FnMut(usize) -> bool) -> Option<usize> {
        while let Some(Reverse((score, at))) = self.next.pop() {
            let now = self.score(at);
            if now > score {
                self.next.push(Reverse((now, at)));
                continue;
            }
            let bucket = &mut self.buckets[at];
            if let Some(slot) = step(&bucket.hosts, &mut bucket.at, takes) {
                self.next.push(Reverse((score, at)));
                return Some(slot);
            }
        }
        None
    }
}
