//! Hosts by attribute: posting lists for value constraints, columns of value numbers for limits.

use std::collections::{BTreeMap, BTreeSet};

use super::bits::Bits;
use crate::state::config::{Constraint, Rule};
use crate::state::host::HostSpec;

/// No value.
pub(super) const NONE: u32 = u32::MAX;

/// One attribute over all hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Attribute {
    numbers: BTreeMap<String, u32>,
    postings: Vec<BTreeSet<u32>>,
    /// Per slot: the number of the host's first value.
    first: Vec<u32>,
    /// Slots with several values: the others.
    more: BTreeMap<u32, Vec<u32>>,
}

impl Attribute {
    /// How many values are known.
    pub(super) fn value_count(&self) -> usize {
        self.postings.len()
    }

    /// The number of a value that some host has or had.
    pub(super) fn number_of(&self, value: &str) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    /// The numbers of a host's values.
    pub(super) fn of(&self, slot: usize) -> impl Iterator<Item = u32> + '_ {
        let first = self.first.get(slot).copied().filter(|&number| number != NONE);
        let more = if self.more.is_empty() { None } else { self.more.get(&(slot as u32)) };
        first.into_iter().chain(more.into_iter().flatten().copied())
    }

    fn number(&mut self, value: &str) -> u32 {
        if let Some(&number) = self.numbers.get(value) {
            return number;
        }
        let number = self.postings.len() as u32;
        self.numbers.insert(value.to_owned(), number);
        self.postings.push(BTreeSet::new());
        number
    }

    fn enter(&mut self, slot: usize, value: &str) {
        let number = self.number(value);
        self.postings[number as usize].insert(slot as u32);
        if self.first.len() <= slot {
            self.first.resize(slot + 1, NONE);
        }
        if self.first[slot] == NONE {
            self.first[slot] = number;
        } else {
            self.more.entry(slot as u32).or_default().push(number);
        }
    }

    fn clear(&mut self, slot: usize) {
        let numbers: Vec<u32> = self.of(slot).collect();
        for number in numbers {
            self.postings[number as usize].remove(&(slot as u32));
        }
        if let Some(first) = self.first.get_mut(slot) {
            *first = NONE;
        }
        self.more.remove(&(slot as u32));
    }
}

/// All attributes over all hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes {
    by_name: BTreeMap<String, Attribute>,
}

impl Attributes {
    pub(super) fn enter(&mut self, slot: usize, spec: &HostSpec) {
        for name in Self::names(spec) {
            let attribute = self.by_name.entry(name.to_owned()).or_default();
            for value in spec.values(name) {
                attribute.enter(slot, value);
            }
        }
    }

    pub(super) fn leave(&mut self, slot: usize, spec: &HostSpec) {
        for name in Self::names(spec) {
            if let Some(attribute) = self.by_name.get_mut(name) {
                attribute.clear(slot);
            }
        }
    }

    fn names(spec: &HostSpec) -> BTreeSet<&str> {
        spec.attributes.iter().map(|(name, _)| name.as_str()).chain(["host"]).collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Attribute> {
        self.by_name.get(name)
    }

    /// Narrows `hosts` to those on which the constraint may hold (counts of limits aside).
    pub(super) fn narrow(&self, constraint: &Constraint, hosts: &mut Bits) {
        let attribute = self.by_name.get(&constraint.attribute);
        let mut have = Bits::empty(hosts.len());
        if let Some(attribute) = attribute {
            match &constraint.rule {
                Rule::Value { values, .. } => {
                    let numbers = values.iter().filter_map(|value| attribute.numbers.get(value));
                    for &number in numbers {
                        attribute.postings[number as usize]
                            .iter()
                            .for_each(|&slot| have.set(slot as usize, true));
                    }
                }
                Rule::Compare { comparison, number } => {
                    for (value, &at) in &attribute.numbers {
                        if value.parse().is_ok_and(|value| comparison.holds(value, *number)) {
                            let slots = &attribute.postings[at as usize];
                            slots.iter().for_each(|&slot| have.set(slot as usize, true));
                        }
                    }
                }
                Rule::Limit { .. } | Rule::Exists { .. } => {
                    let valued = attribute.first.iter().enumerate().filter(|(_, number)| **number != NONE);
                    valued.for_each(|(slot, _)| have.set(slot, true));
                }
            }
        }
        match &constraint.rule {
            Rule::Value { negated: true, .. } | Rule::Exists { negated: true } => hosts.subtract(&have),
            Rule::Value { negated: false, .. }
            | Rule::Exists { negated: false }
            | Rule::Compare { .. }
            | Rule::Limit { .. } => hosts.intersect(&have),
        }
    }

    /// Takes out the hosts that are dedicated, to whomever.
    pub(super) fn without_dedicated(&self, hosts: &mut Bits) {
        let Some(attribute) = self.by_name.get("dedicated") else { return };
        for slot in attribute.postings.iter().flatten() {
            hosts.set(*slot as usize, false);
        }
    }
}
