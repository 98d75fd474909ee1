//! Hosts by attribute: sets of hosts per value for value constraints, columns of value numbers for limits. They are kept
//! while hosts change, so that a group is matched with a few operations on sets.

use std::collections::{BTreeMap, BTreeSet};

use super::bits::Bits;
use crate::state::config::{Constraint, Rule};
use crate::state::host::HostSpec;

/// No value.
pub(super) const NONE: u32 = u32::MAX;

/// A value of more hosts than this is a set of bits.
const FEW: usize = 1_024;

/// The hosts that have a value.
#[derive(Clone, Debug)]
enum Posting {
    /// In order.
    Few(Vec<u32>),
    Many(Bits),
}

impl Posting {
    fn enter(&mut self, slot: usize) {
        match self {
            Posting::Few(slots) => {
                if let Err(at) = slots.binary_search(&(slot as u32)) {
                    slots.insert(at, slot as u32);
                }
                if slots.len() > FEW {
                    let mut bits = Bits::default();
                    slots.iter().for_each(|&slot| bits.include(slot as usize));
                    *self = Posting::Many(bits);
                }
            }
            Posting::Many(bits) => bits.include(slot),
        }
    }

    fn leave(&mut self, slot: usize) {
        match self {
            Posting::Few(slots) => {
                if let Ok(at) = slots.binary_search(&(slot as u32)) {
                    slots.remove(at);
                }
            }
            Posting::Many(bits) => bits.set(slot, false),
        }
    }

    fn add_to(&self, hosts: &mut Bits) {
        match self {
            Posting::Few(slots) => slots.iter().for_each(|&slot| hosts.set(slot as usize, true)),
            Posting::Many(bits) => hosts.unite(bits),
        }
    }
}

/// One attribute over all hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Attribute {
    numbers: BTreeMap<String, u32>,
    /// Per value: the number that it is, if it is one.
    parsed: Vec<Option<i64>>,
    postings: Vec<Posting>,
    /// The hosts that have any value.
    valued: Bits,
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
        self.parsed.push(value.parse().ok());
        self.postings.push(Posting::Few(Vec::new()));
        number
    }

    fn enter(&mut self, slot: usize, value: &str) {
        let number = self.number(value);
        self.postings[number as usize].enter(slot);
        self.valued.include(slot);
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
            self.postings[number as usize].leave(slot);
        }
        self.valued.set(slot, false);
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
        let mut have = Bits::empty(hosts.len());
        if let Some(attribute) = self.by_name.get(&constraint.attribute) {
            let postings = &attribute.postings;
            match &constraint.rule {
                Rule::Value { values, .. } => {
                    let numbers = values.iter().filter_map(|value| attribute.numbers.get(value));
                    numbers.for_each(|&number| postings[number as usize].add_to(&mut have));
                }
                Rule::Compare { comparison, number } => {
                    let holds = |value: &Option<i64>| value.is_some_and(|v| comparison.holds(v, *number));
                    let suiting = attribute.parsed.iter().zip(postings).filter(|(value, _)| holds(value));
                    suiting.for_each(|(_, posting)| posting.add_to(&mut have));
                }
                Rule::Limit { .. } | Rule::Exists { .. } => have.unite(&attribute.valued),
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
        if let Some(attribute) = self.by_name.get("dedicated") {
            hosts.subtract(&attribute.valued);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More hosts than a list takes: the sets say the same before and after.
    #[test]
    fn a_value_of_many_hosts_is_found_like_that_of_few() {
        let mut attributes = Attributes::default();
        let spec = |slot: usize| HostSpec {
            name: format!("h{slot}").as_str().into(),
            attributes: vec![("zone".into(), if slot.is_multiple_of(3) { "a".into() } else { "b".into() })],
            ..HostSpec::default()
        };
        let rule = |negated| Rule::Value { negated, values: vec!["a".into()] };
        for slots in [300, 6_000] {
            (0..slots).for_each(|slot| attributes.enter(slot, &spec(slot)));
            for negated in [false, true] {
                let mut all = Bits::empty(slots);
                (0..slots).for_each(|slot| all.set(slot, true));
                attributes.narrow(&Constraint { attribute: "zone".into(), rule: rule(negated) }, &mut all);
                assert!(all.slots().eq((0..slots).filter(|slot| slot.is_multiple_of(3) != negated)));
            }
            (0..slots).for_each(|slot| attributes.leave(slot, &spec(slot)));
            let mut none = Bits::empty(slots);
            (0..slots).for_each(|slot| none.set(slot, true));
            attributes.narrow(&Constraint { attribute: "zone".into(), rule: rule(false) }, &mut none);
            assert_eq!(none.count(), 0);
        }
    }
}
