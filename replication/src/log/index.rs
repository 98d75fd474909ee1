//! Where each entry of the log is, and the newest entries themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::log::segment::Segment;
use crate::machine::Corrupt;
use crate::raft::{Entry, LogId};

/// Where a record stands on disk.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u32,
}

/// One entry: its place once it was written, itself while it is cached; one of them always.
struct Slot {
    id: LogId,
    place: Option<Place>,
    entry: Option<Entry>,
    bytes: u32,
}

/// An entry found in memory, or where to read it.
pub(crate) enum Found {
    Entry(Entry),
    At(LogId, Place),
}

/// All entries that are not dropped, by index.
pub(crate) struct Index {
    purged: Option<LogId>,
    slots: VecDeque<Slot>,
    cached_bytes: usize,
    cache_bytes_max: usize,
    /// Slots before this one were taken out of the cache.
    cached_from: usize,
}

impl Index {
    pub(crate) fn new(cache_bytes_max: usize) -> Self {
        Index { purged: None, slots: VecDeque::new(), cached_bytes: 0, cache_bytes_max, cached_from: 0 }
    }

    /// Index of the first slot.
    fn first(&self) -> u64 {
        self.slots.front().map_or_else(|| self.next(), |slot| slot.id.index)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// A new entry, about to be written. openraft appends without gaps; another is refused.
    pub(crate) fn append(&mut self, entry: Entry, bytes: usize) -> Result<(), Corrupt> {
        self.check_next(&entry)?;
        self.cached_bytes += bytes;
        self.slots.push_back(Slot { id: entry.log_id, place: None, entry: Some(entry), bytes: bytes as u32 });
        Ok(())
    }

    /// An entry that was read back.
    pub(crate) fn recovered(&mut self, entry: Entry, bytes: usize, place: Place) -> Result<(), Corrupt> {
        if self.purged.is_some_and(|purged| entry.log_id.index <= purged.index) {
            return Ok(());
        }
        // The first that is left may follow nothing: what was before it was dropped with its segment, and the
        // record that says so stands further on. `check` looks at that when all is read.
        if !self.slots.is_empty() {
            self.check_next(&entry)?;
        }
        self.cached_bytes += bytes;
        self.slots.push_back(Slot {
            id: entry.log_id,
            place: Some(place),
            entry: Some(entry),
            bytes: bytes as u32,
        });
        self.evict();
        Ok(())
    }

    fn check_next(&self, entry: &Entry) -> Result<(), Corrupt> {
        let (at, next) = (entry.log_id.index, self.next());
        if at == next {
            return Ok(());
        }
        Err(Corrupt::new(format!("entry {at}"), format!("stands where entry {next} should")))
    }

    /// After all was read: no entry may be missing between what was dropped and what is left.
    pub(crate) fn check(&self) -> Result<(), Corrupt> {
        let (first, wanted) = (self.first(), self.purged.map_or(0, |purged| purged.index + 1));
        if first == wanted {
            return Ok(());
        }
        Err(Corrupt::new(
            "the log",
            format!("begins at entry {first}, but entries from {wanted} on must be there"),
        ))
    }

    /// The entry was written there. Nothing happens if it was truncated meanwhile.
    pub(crate) fn written(&mut self, id: LogId, place: Place) {
        if let Some(at) = id.index.checked_sub(self.first())
            && let Some(slot) = self.slots.get_mut(at as usize)
            && slot.id == id
        {
            slot.place = Some(place);
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes_max && self.cached_from < self.slots.len() {
            let slot = &mut self.slots[self.cached_from];
            if slot.place.is_none() {
                return;
            }
            if slot.entry.take().is_some() {
                self.cached_bytes -= slot.bytes as usize;
            }
            self.cached_from += 1;
        }
    }

    fn dropped(&mut self, slot: &Slot) {
        if slot.entry.is_some() {
            self.cached_bytes -= slot.bytes as usize;
        }
    }

    /// Entries behind `after` are void.
    pub(crate) fn truncate(&mut self, after: Option<LogId>) {
        let keep_until = after.map(|id| id.index);
        while self.slots.back().is_some_and(|slot| Some(slot.id.index) > keep_until) {
            let slot = self.slots.pop_back();
            if let Some(slot) = slot {
                self.dropped(&slot);
            }
        }
        self.cached_from = self.cached_from.min(self.slots.len());
    }

    /// Entries up to `upto` are dropped.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.purged >= Some(upto) {
            return;
        }
        self.purged = Some(upto);
        while self.slots.front().is_some_and(|slot| slot.id.index <= upto.index) {
            let slot = self.slots.pop_front();
            if let Some(slot) = slot {
                self.dropped(&slot);
            }
            self.cached_from = self.cached_from.saturating_sub(1);
        }
    }

    /// Entries of `from..to` that exist, in order, about `bytes_max` of them but at least one.
    pub(crate) fn find(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Found> {
        let first = self.first();
        let mut bytes = 0;
        let mut found = Vec::new();
        let start = from.max(first);
        for index in start..to.min(first + self.slots.len() as u64) {
            let slot = &self.slots[(index - first) as usize];
            bytes += slot.bytes as usize;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            match (&slot.entry, &slot.place) {
                (Some(entry), _) => found.push(Found::Entry(entry.clone())),
                (None, Some(place)) => found.push(Found::At(slot.id, place.clone())),
                (None, None) => break,
            }
        }
        found
    }
}
