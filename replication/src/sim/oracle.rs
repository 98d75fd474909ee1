//! What clients were promised, held against what replicas do. An answer that never came promises nothing: the
//! command may have been applied or not. Everything else does:
//! - an acknowledged command stands, once, at the place that was answered, on every replica, for ever;
//! - a refused one stands nowhere;
//! - whoever asks later sees no less: neither an append nor a read goes behind what was known when it began.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::sim::{life, trace, violated};

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

thread_local! {
    static PROMISES: RefCell<Promises> = RefCell::default();
}

/// A replica applied `command` as the item at `place`.
pub(crate) fn applied(place: u64, command: u64) {
    let whose = life::current().map_or(0, |life| life.place);
    PROMISES.with_borrow_mut(|promises| {
        if let Some(first) = promises.applied.get(place as usize) {
            if *first != command {
                violated(&format!(
                    "replica {whose} applied {command} as item {place}, where another applied {first}"
                ));
            }
            return;
        }
        if promises.applied.len() as u64 != place {
            let length = promises.applied.len();
            violated(&format!(
                "replica {whose} applied item {place}, but nobody applied those from {length} on"
            ));
        }
        if promises.refused.contains(&command) {
            violated(&format!("{command} was refused, and then applied as item {place}"));
        }
        if let Some(before) = promises.at.insert(command, place) {
            violated(&format!("{command} was applied as item {before} and again as item {place}"));
        }
        promises.applied.push(command);
    });
    trace(|| format!("replica {whose} applied {command} as item {place}"));
}

/// A replica has this list.
pub(crate) fn holds(items: &[u64]) {
    items.iter().enumerate().for_each(|(place, command)| applied(place as u64, *command));
}

/// What is known at this moment: whatever begins now must show it.
pub(crate) fn known() -> u64 {
    PROMISES.with_borrow(|promises| promises.known)
}

/// `command` was acknowledged as the item at `place`, having been sent when `known` items were.
pub(crate) fn acknowledged(command: u64, place: u64, known: u64) {
    trace(|| format!("{command} was acknowledged as item {place}"));
    if place < known {
        violated(&format!("{command} was sent when {known} items were known, and became item {place}"));
    }
    PROMISES.with_borrow_mut(|promises| {
        match promises.applied.get(place as usize) {
            Some(there) if *there == command => {}
            there => violated(&format!(
                "{command} was acknowledged as item {place}, where replicas have {there:?}"
            )),
        }
        promises.acknowledged += 1;
        promises.known = promises.known.max(place + 1);
    });
}

/// `command` was refused: it is in no log and never will be.
pub(crate) fn refused(command: u64) {
    PROMISES.with_borrow_mut(|promises| {
        if let Some(place) = promises.at.get(&command) {
            violated(&format!("{command} was refused, and is item {place}"));
        }
        promises.refused.insert(command);
    });
}

/// Nobody said what became of a command.
pub(crate) fn unanswered(command: u64) {
    trace(|| format!("{command} has no answer"));
    PROMISES.with_borrow_mut(|promises| promises.unknown += 1);
}

/// A linearizable read that began when `known` items were showed `length`.
pub(crate) fn read(length: u64, known: u64) {
    trace(|| format!("a read showed {length} items"));
    if length < known {
        violated(&format!("a read that began when {known} items were known showed {length}"));
    }
    PROMISES.with_borrow_mut(|promises| {
        promises.reads += 1;
        promises.known = promises.known.max(length);
    });
}

/// In words: how much was promised.
pub(crate) fn summary() -> String {
    PROMISES.with_borrow(|p| {
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
    PROMISES.with_borrow(|p| p.acknowledged)
}
