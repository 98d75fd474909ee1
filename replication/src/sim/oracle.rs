//! What clients were promised, held against what replicas do. An answer that never came promises nothing: the
//! command may have been applied or not. Everything else does:
//! - an acknowledged command stands, once, at the place that was answered, on every replica, for ever;
//! - a refused one stands nowhere;
//! - whoever asks later sees no less: neither an append nor a read goes behind what was known when it began.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::sim::{life, trace, violated};

/// All that was promised of one cluster.
#[derive(Default)]
struct Promises {
    /// The list as replicas applied it, whoever was first.
    applied: Vec<u64>,
    at: BTreeMap<u64, u64>,
    refused: BTreeSet<u64>,
    acknowledged: u64,
    unknown: u64,
    reads: u64,
    /// So many items were shown to somebody.
    known: u64,
}

impl Promises {
    fn applied(&mut self, place: u64, command: u64) -> Result<(), String> {
        if let Some(first) = self.applied.get(place as usize) {
            if *first != command {
                return Err(format!("applied {command} as item {place}, where another applied {first}"));
            }
            return Ok(());
        }
        if self.applied.len() as u64 != place {
            let length = self.applied.len();
            return Err(format!("applied item {place}, but nobody applied those from {length} on"));
        }
        if self.refused.contains(&command) {
            return Err(format!("applied {command} as item {place}, which was refused"));
        }
        if let Some(before) = self.at.insert(command, place) {
            return Err(format!("applied {command} as item {place}, and it is item {before} already"));
        }
        self.applied.push(command);
        Ok(())
    }

    fn acknowledged(&mut self, command: u64, place: u64, known: u64) -> Result<(), String> {
        if place < known {
            return Err(format!("{command} was sent when {known} items were known, and became item {place}"));
        }
        let there = self.applied.get(place as usize);
        if there != Some(&command) {
            return Err(format!("{command} was acknowledged as item {place}, where replicas have {there:?}"));
        }
        self.acknowledged += 1;
        self.known = self.known.max(place + 1);
        Ok(())
    }

    fn refused(&mut self, command: u64) -> Result<(), String> {
        self.refused.insert(command);
        match self.at.get(&command) {
            Some(place) => Err(format!("{command} was refused, and is item {place}")),
            None => Ok(()),
        }
    }

    fn read(&mut self, length: u64, known: u64) -> Result<(), String> {
        self.reads += 1;
        self.known = self.known.max(length);
        match length < known {
            true => Err(format!("a read that began when {known} items were known showed {length}")),
            false => Ok(()),
        }
    }
}

thread_local! {
    /// By cluster.
    static PROMISES: RefCell<BTreeMap<u64, Promises>> = const { RefCell::new(BTreeMap::new()) };
}

/// Of the cluster of whoever runs now.
fn with<R>(work: impl FnOnce(&mut Promises) -> R) -> R {
    let cluster = life::current().map_or(0, |life| life.cluster);
    PROMISES.with_borrow_mut(|all| work(all.entry(cluster).or_default()))
}

fn demand(kept: Result<(), String>) {
    if let Err(broken) = kept {
        violated(&broken);
    }
}

/// A replica applied `command` as the item at `place`.
pub(crate) fn applied(place: u64, command: u64) {
    let whose = life::current().map_or(0, |life| life.place);
    demand(with(|p| p.applied(place, command)).map_err(|why| format!("replica {whose} {why}")));
    trace(|| format!("replica {whose} applied {command} as item {place}"));
}

/// A replica has this list.
pub(crate) fn holds(items: &[u64]) {
    items.iter().enumerate().for_each(|(place, command)| applied(place as u64, *command));
}

/// What is known at this moment: whatever begins now must show it.
pub(crate) fn known() -> u64 {
    with(|p| p.known)
}

/// `command` was acknowledged as the item at `place`, having been sent when `known` items were.
pub(crate) fn acknowledged(command: u64, place: u64, known: u64) {
    trace(|| format!("{command} was acknowledged as item {place}"));
    demand(with(|p| p.acknowledged(command, place, known)));
}

/// `command` was refused: it is in no log and never will be.
pub(crate) fn refused(command: u64) {
    demand(with(|p| p.refused(command)));
}

/// Nobody said what became of a command.
pub(crate) fn unanswered(command: u64) {
    trace(|| format!("{command} has no answer"));
    with(|p| p.unknown += 1);
}

/// A linearizable read that began when `known` items were showed `length`.
pub(crate) fn read(length: u64, known: u64) {
    trace(|| format!("a read showed {length} items"));
    demand(with(|p| p.read(length, known)));
}

/// The first cluster's list, as far as it is.
pub(crate) fn list() -> Vec<u64> {
    PROMISES.with_borrow(|all| all.get(&0).map_or_else(Vec::new, |p| p.applied.clone()))
}

/// In words: how much was promised.
pub(crate) fn summary() -> String {
    with(|p| {
        format!(
            "{} acknowledged, {} unanswered, {} refused, {} reads, {} items",
            p.acknowledged,
            p.unknown,
            p.refused.len(),
            p.reads,
            p.applied.len()
        )
    })
}

/// Commands acknowledged so far.
pub(crate) fn acknowledged_count() -> u64 {
    with(|p| p.acknowledged)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After two items, of which the first was acknowledged and a third command was refused.
    fn after(next: impl FnOnce(&mut Promises) -> Result<(), String>) -> Result<(), String> {
        let mut promises = Promises::default();
        promises.applied(0, 10)?;
        promises.acknowledged(10, 0, 0)?;
        promises.applied(1, 11)?;
        promises.refused(12)?;
        next(&mut promises)
    }

    #[test]
    fn a_broken_promise_is_noticed() {
        assert_eq!(after(|p| p.applied(1, 11)), Ok(()), "another replica does the same");
        assert_eq!(after(|p| p.acknowledged(11, 1, 1)), Ok(()));
        assert_eq!(after(|p| p.read(1, 1)), Ok(()), "nobody was told of the second");
        type Next = fn(&mut Promises) -> Result<(), String>;
        let broken: [(Next, &str); 8] = [
            (|p| p.applied(0, 13), "where another applied 10"),
            (|p| p.applied(3, 13), "from 2 on"),
            (|p| p.applied(2, 10), "item 0 already"),
            (|p| p.applied(2, 12), "which was refused"),
            (|p| p.refused(11), "and is item 1"),
            (|p| p.acknowledged(13, 2, 0), "replicas have None"),
            (|p| p.acknowledged(10, 0, 1), "became item 0"),
            (|p| p.read(0, 1), "showed 0"),
        ];
        for (next, complaint) in broken {
            let why = after(next).expect_err(complaint);
            assert!(why.contains(complaint), "{why}");
        }
    }
}
