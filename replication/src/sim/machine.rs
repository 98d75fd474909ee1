//! The machine that is replicated: a list of numbers. Each command appends one and answers where it stands.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::machine::{Changes, Corrupt, Machine, Rows};
use crate::sim::faults::{self, Fault};
use crate::sim::{life, oracle};

/// The list.
#[derive(Default)]
pub(crate) struct List {
    pub(crate) items: Vec<u64>,
}

fn number(bytes: &[u8], what: &str) -> Result<u64, Corrupt> {
    let bytes = bytes.try_into().map_err(|_| Corrupt::new(what, "is not 8 bytes"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn key(kind: u8, place: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&place.to_be_bytes());
    key
}

impl Machine for List {
    type Command = u64;
    type Reply = u64;

    fn decode(bytes: &[u8]) -> Result<u64, Corrupt> {
        number(bytes, "a command")
    }

    fn apply(&mut self, command: u64, changed: &mut Changes) -> u64 {
        let place = self.items.len() as u64;
        oracle::applied(place, command);
        self.items.push(command);
        changed.put(key(b'i', place), Arc::new(command.to_be_bytes().to_vec()));
        // A row that changes each time, and one that comes and goes.
        changed.put(vec![b'n'], Arc::new((place + 1).to_be_bytes().to_vec()));
        match place % 4 {
            0 => changed.put(key(b't', place / 8), Arc::new(vec![])),
            2 => changed.delete(key(b't', place / 8)),
            _ => {}
        }
        if life::current().is_some_and(|life| life.differs.swap(false, Ordering::Relaxed)) {
            faults::fired(Fault::RowsDiffer);
            changed.put(vec![b'x'], Arc::new(place.to_be_bytes().to_vec()));
        }
        place
    }

    fn load(rows: &mut Rows<'_>) -> Result<Self, Corrupt> {
        let mut list = List::default();
        let mut length = 0;
        for row in rows {
            let (name, row) = row?;
            match name[0] {
                b'i' if name[..] == key(b'i', list.items.len() as u64) => {
                    list.items.push(number(&row, "an item")?);
                }
                b'n' => length = number(&row, "the length")?,
                b't' | b'x' => {}
                _ => return Err(Corrupt::new("the list", format!("row {name:?} is out of place"))),
            }
        }
        if length != list.items.len() as u64 {
            let found = list.items.len();
            return Err(Corrupt::new("the list", format!("has {found} items, its length is {length}")));
        }
        if life::current().is_some_and(|life| life.started.load(Ordering::Relaxed)) {
            faults::fired(Fault::Installed);
        }
        oracle::holds(&list.items);
        Ok(list)
    }
}
