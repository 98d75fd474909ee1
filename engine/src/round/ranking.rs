//! Open hosts in the order in which they are tried, fullest first. It is kept while hosts change, so that a round need
//! not sort. It lies on shelves; a shelf on which no host has enough of something is passed by without a look.

use std::collections::BTreeMap;

use proto::Resources;

use super::attributes::{Attribute, NONE};
use super::pages::Pages;

/// Hosts on one shelf.
const SHELF: usize = 64;

/// A host in its place: the smaller rank is tried first.
pub(super) type Entry = (u64, u32);

/// What share of a host is free, in 1024ths, summed over cpu, ram and disk; the fullest host has the least.
fn free_share(free: Resources, capacity: Resources) -> u64 {
    let share = |free: u64, capacity: u64| free.saturating_mul(1024).checked_div(capacity).unwrap_or(0);
    share(free.cpu_milli, capacity.cpu_milli)
        + share(free.ram_mib, capacity.ram_mib)
        + share(free.disk_mib, capacity.disk_mib)
}

/// Where a host belongs that moves as the `moves`th. Of equal hosts the last one to come is tried last, so one that
/// fails whatever it is given is not given more before the others.
pub(super) fn rank(free: Resources, capacity: Resources, known: Option<u64>, moves: u64) -> u64 {
    let share = free_share(free, capacity).min(0xffff);
    match known {
        Some(known) if known >> 48 == share => known,
        _ => share << 48 | moves & 0xffff_ffff_ffff,
    }
}

/// The most that any of some hosts has free, of each resource on its own.
fn most_free(entries: &[Entry], free: &Pages<Resources>) -> Resources {
    entries.iter().fold(Resources::default(), |most, &(_, slot)| most.max(free[slot as usize]))
}

#[derive(Clone, Debug)]
struct Shelf {
    /// In order; never empty.
    entries: Vec<Entry>,
    most: Resources,
}

/// Hosts in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranking {
    shelves: Vec<Shelf>,
    len: usize,
}

impl Ranking {
    /// How many hosts.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The hosts in order.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = Entry> + '_ {
        self.shelves.iter().flat_map(|shelf| shelf.entries.iter().copied())
    }

    pub(super) fn enter(&mut self, entry: Entry, free: &Pages<Resources>) {
        if self.shelves.is_empty() {
            self.shelves.push(Shelf { entries: Vec::new(), most: Resources::default() });
        }
        let at = self.shelf_of(entry);
        let entries = &mut self.shelves[at].entries;
        let Err(place) = entries.binary_search(&entry) else { return };
        entries.insert(place, entry);
        self.len += 1;
        if entries.len() > SHELF {
            let entries = entries.split_off(SHELF / 2);
            self.shelves.insert(at + 1, Shelf { most: most_free(&entries, free), entries });
        }
        let shelf = &mut self.shelves[at];
        shelf.most = most_free(&shelf.entries, free);
    }

    pub(super) fn leave(&mut self, entry: Entry, free: &Pages<Resources>) {
        let at = self.shelf_of(entry);
        let Some(shelf) = self.shelves.get_mut(at) else { return };
        let Ok(place) = shelf.entries.binary_search(&entry) else { return };
        shelf.entries.remove(place);
        self.len -= 1;
        if shelf.entries.is_empty() {
            self.shelves.remove(at);
        } else {
            shelf.most = most_free(&shelf.entries, free);
        }
    }

    /// What a host has free has changed, and its rank has not.
    pub(super) fn renew(&mut self, entry: Entry, free: &Pages<Resources>) {
        let at = self.shelf_of(entry);
        if let Some(shelf) = self.shelves.get_mut(at) {
            shelf.most = most_free(&shelf.entries, free);
        }
    }

    fn shelf_of(&self, entry: Entry) -> usize {
        let at = self.shelves.partition_point(|shelf| shelf.entries.last() < Some(&entry));
        at.min(self.shelves.len().saturating_sub(1))
    }
}

/// Hosts in the order in which a round tries them.
pub(super) struct Lane<'a> {
    hosts: Hosts<'a>,
    /// Per shelf, at least what is left there; empty where nobody counts it.
    most: Vec<Resources>,
}

enum Hosts<'a> {
    All(&'a Ranking),
    Some(Vec<Entry>),
}

/// How far along a lane a group has come. What it has passed stays passed: room only shrinks while a round lasts.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    shelf: usize,
    at: usize,
    /// Something was placed on this shelf on the way.
    placed: bool,
    /// What is placed may be given back, so what it leaves is not counted.
    tentative: bool,
}

impl Cursor {
    pub(super) fn new(tentative: bool) -> Cursor {
        Cursor { shelf: 0, at: 0, placed: false, tentative }
    }
}

impl<'a> Lane<'a> {
    /// All open hosts.
    pub(super) fn all(ranking: &'a Ranking) -> Lane<'a> {
        let most = ranking.shelves.iter().map(|shelf| shelf.most).collect();
        Lane { hosts: Hosts::All(ranking), most }
    }

    /// These hosts, for one group.
    pub(super) fn some(hosts: Vec<Entry>) -> Lane<'a> {
        Lane { hosts: Hosts::Some(hosts), most: Vec::new() }
    }

    /// Counts what is on each shelf, for a lane that many groups walk.
    fn count(&mut self, free: &Pages<Resources>) {
        if let Hosts::Some(hosts) = &self.hosts {
            self.most = hosts.chunks(SHELF).map(|shelf| most_free(shelf, free)).collect();
        }
    }

    fn push(&mut self, entry: Entry) {
        if let Hosts::Some(hosts) = &mut self.hosts {
            hosts.push(entry);
        }
    }

    fn shelf(&self, at: usize) -> Option<&[Entry]> {
        match &self.hosts {
            Hosts::All(ranking) => ranking.shelves.get(at).map(|shelf| shelf.entries.as_slice()),
            Hosts::Some(hosts) => hosts.chunks(SHELF).nth(at),
        }
    }

    /// Whether it has a host that is `able`.
    pub(super) fn has(&self, able: impl Fn(usize) -> bool) -> bool {
        let able = |&(_, slot): &Entry| able(slot as usize);
        (0..).map_while(|at| self.shelf(at)).any(|shelf| shelf.iter().any(able))
    }

    /// Moves on to the first host that takes a task, and stays there: it may take another one.
    pub(super) fn next(
        &mut self,
        cursor: &mut Cursor,
        demand: &Resources,
        free: &Pages<Resources>,
        mut takes: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        loop {
            let shelf = self.shelf(cursor.shelf)?;
            let full = self.most.get(cursor.shelf).is_some_and(|most| !demand.fits_in(most));
            if cursor.at > 0 || !full {
                while let Some(&(_, slot)) = shelf.get(cursor.at) {
                    if takes(slot as usize) {
                        cursor.placed = true;
                        return Some(slot as usize);
                    }
                    cursor.at += 1;
                }
            }
            if cursor.placed && !cursor.tentative && !self.most.is_empty() {
                self.most[cursor.shelf] = most_free(shelf, free);
            }
            *cursor = Cursor { shelf: cursor.shelf + 1, ..Cursor::new(cursor.tentative) };
        }
    }
}

/// Hosts by their first values of some attributes; in order within each bucket.
pub(super) struct Grouping<'a> {
    pub(super) buckets: Vec<Bucket<'a>>,
}

/// Hosts that share their values.
pub(super) struct Bucket<'a> {
    /// One per attribute.
    pub(super) values: Vec<u32>,
    pub(super) hosts: Lane<'a>,
}

impl<'a> Grouping<'a> {
    pub(super) fn new(attributes: &[&Attribute], hosts: impl Iterator<Item = Entry>) -> Grouping<'a> {
        let mut buckets: Vec<Bucket<'a>> = Vec::new();
        let mut known: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
        // Most are in the bucket of the first value alone, which needs no search.
        let mut direct: Vec<u32> = vec![NONE; attributes.first().map_or(0, |first| first.value_count())];
        let mut values = Vec::with_capacity(attributes.len());
        for entry in hosts {
            values.clear();
            values.extend(attributes.iter().map(|a| a.of(entry.1 as usize).next().unwrap_or(NONE)));
            let direct = match values.as_slice() {
                [number] if *number != NONE => direct.get_mut(*number as usize),
                _ => None,
            };
            let found = match &direct {
                Some(at) => (**at != NONE).then_some(**at as usize),
                None => known.get(&values).copied(),
            };
            let at = found.unwrap_or_else(|| {
                buckets.push(Bucket { values: values.clone(), hosts: Lane::some(Vec::new()) });
                let at = buckets.len() - 1;
                match direct {
                    Some(direct) => *direct = at as u32,
                    None => drop(known.insert(values.clone(), at)),
                }
                at
            });
            buckets[at].hosts.push(entry);
        }
        Grouping { buckets }
    }

    /// The same, for all groups of a round.
    pub(super) fn shared(
        attributes: &[&Attribute],
        ranking: &Ranking,
        free: &Pages<Resources>,
    ) -> Grouping<'a> {
        let mut grouping = Grouping::new(attributes, ranking.entries());
        grouping.buckets.iter_mut().for_each(|bucket| bucket.hosts.count(free));
        grouping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(cpu_milli: u64) -> Resources {
        Resources { cpu_milli, ..Resources::default() }
    }

    /// The ranking beside a sorted list, while a thousand hosts come, change and go.
    #[test]
    fn it_is_what_sorting_gives() {
        let (mut ranking, mut free) = (Ranking::default(), Pages::default());
        free.grow(1_000);
        let mut want: BTreeMap<u32, u64> = BTreeMap::new();
        let mut chance = 1_u64;
        for step in 0..20_000_u64 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (slot, amount) = ((chance >> 33) as u32 % 1_000, chance >> 50 & 0xfff);
            let old = want.get(&slot).copied();
            let was_there = old.is_some();
            if let Some(old) = old {
                free[slot as usize] = cores(0);
                ranking.leave((old, slot), &free);
                want.remove(&slot);
            }
            if !was_there || !step.is_multiple_of(3) {
                free[slot as usize] = cores(amount);
                let new = rank(cores(amount), cores(4_096), old, step);
                assert!(new >> 48 == amount * 1024 / 4_096);
                assert!(
                    old.is_none_or(|old| old >> 48 != new >> 48 || old == new),
                    "an equal share keeps its place"
                );
                ranking.enter((new, slot), &free);
                want.insert(slot, new);
            }
            if step.is_multiple_of(1_000) || step > 19_990 {
                let mut sorted: Vec<Entry> = want.iter().map(|(&slot, &rank)| (rank, slot)).collect();
                sorted.sort_unstable();
                assert!(ranking.entries().eq(sorted.iter().copied()) && ranking.len() == sorted.len());
                for shelf in &ranking.shelves {
                    assert!(!shelf.entries.is_empty() && shelf.entries.len() <= SHELF);
                    assert_eq!(shelf.most, most_free(&shelf.entries, &free));
                }
            }
        }
    }

    #[test]
    fn a_lane_finds_the_first_that_takes() {
        let (mut ranking, mut free) = (Ranking::default(), Pages::default());
        free.grow(500);
        for slot in 0..500_u32 {
            free[slot as usize] = cores(u64::from(slot));
            ranking.enter((u64::from(slot), slot), &free);
        }
        let (mut lane, mut cursor) = (Lane::all(&ranking), Cursor::new(false));
        let next = |free: &Pages<Resources>, lane: &mut Lane<'_>, cursor: &mut Cursor, demand: u64| {
            lane.next(cursor, &cores(demand), free, |slot| free[slot].cpu_milli >= demand)
        };
        assert_eq!(next(&free, &mut lane, &mut cursor, 300), Some(300));
        assert_eq!(next(&free, &mut lane, &mut cursor, 300), Some(300), "it may take another one");
        (300..500).for_each(|slot| free[slot] = cores(0));
        assert_eq!(next(&free, &mut lane, &mut cursor, 300), None);
        let mut again = Cursor::new(false);
        assert_eq!(next(&free, &mut lane, &mut again, 299), Some(299));
    }
}
