//! The rows on disk: opened, written by cuts, flushed, summed, read back. What is not flushed is not stored, and the
//! replicated log still has it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};

use prost::Message as _;
use proto::wire::raft as wire;

use crate::error::StoreError;
use crate::ground::{Batch, Database};
use crate::machine::{Corrupt, Rows as RowIterator};
use crate::raft::{check_level, decode_whole};
use crate::state::cut::{Cut, Point};

/// An open set of rows.
pub(crate) struct RowStore {
    db: Database,
    pub(crate) path: PathBuf,
    sum: Sum,
}

/// The wrapping sum of the hashes of all rows. To take an old row out of it, each row's hash is kept under its
/// key's hash.
#[derive(Default)]
pub(crate) struct Sum {
    total: u64,
    rows: HashMap<u64, u64, BuildHasherDefault<Identity>>,
}

/// Keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, b| sum.rotate_left(8) ^ u64::from(*b));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

impl Sum {
    pub(crate) fn put(&mut self, key: &[u8], row: &[u8]) {
        let key = xxhash_rust::xxh3::xxh3_64(key);
        let new = xxhash_rust::xxh3::xxh3_64_with_seed(row, key);
        let old = self.rows.insert(key, new).unwrap_or(0);
        self.total = self.total.wrapping_sub(old).wrapping_add(new);
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        let old = self.rows.remove(&xxhash_rust::xxh3::xxh3_64(key)).unwrap_or(0);
        self.total = self.total.wrapping_sub(old);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

impl RowStore {
    /// Opens the rows in `path`; makes empty ones where there is nothing.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(RowStore { db: Database::open(path)?, path: path.to_owned(), sum: Sum::default() })
    }

    /// The same, to be looked at only: nothing in `path` changes.
    pub(crate) fn open_to_look(path: &Path) -> Result<Self, StoreError> {
        Ok(RowStore { db: Database::open_to_look(path)?, path: path.to_owned(), sum: Sum::default() })
    }

    /// Hands all rows to `load`, in key order, summing them on the way; returns what it made and the point.
    pub(crate) fn load<M>(
        &mut self,
        load: impl FnOnce(&mut RowIterator<'_>) -> Result<M, Corrupt>,
    ) -> Result<(M, Point), StoreError> {
        let meta = self.db.meta()?;
        let corrupt = |why: String| Corrupt::new(format!("rows in {}", self.path.display()), why);
        let mut sum = Sum::default();
        let mut broken = None;
        let mut iterator = self.db.rows()?.map(|row| match row {
            Ok((key, row)) => {
                sum.put(&key, &row);
                Ok((key, row))
            }
            Err(error) => {
                let corrupt = corrupt(error);
                broken = Some(corrupt.clone());
                Err(corrupt)
            }
        });
        let machine = load(&mut iterator);
        // A machine may stop early; the sum needs all.
        iterator.by_ref().for_each(drop);
        drop(iterator);
        if let Some(corrupt) = broken {
            return Err(corrupt.into());
        }
        let place = || format!("rows in {}", self.path.display());
        let point = match meta {
            None if sum.rows.is_empty() => Point::default(),
            None => {
                return Err(
                    corrupt("there are rows, but nothing says to which point they belong".into()).into()
                );
            }
            Some(bytes) => {
                let meta: wire::RowsMeta = decode_whole(place(), &bytes[..])?;
                check_level(place(), meta.level)?;
                if meta.sum != sum.total {
                    return Err(corrupt("the rows do not sum up to what was written".into()).into());
                }
                Point::from_wire(&meta)?
            }
        };
        // The rows are what was written. A machine that cannot read them is another than the one that wrote them.
        let machine = machine.map_err(|unread| StoreError::Foreign(unread).within(place()))?;
        self.sum = sum;
        Ok((machine, point))
    }

    /// How many rows there are, and the sum of their hashes.
    pub(crate) fn summed(&self) -> (u64, u64) {
        (self.sum.rows.len() as u64, self.sum.total())
    }

    /// Writes a cut as one batch: all of it will be in a flush, or nothing. Returns the sum at the cut.
    pub(crate) fn write(&mut self, cut: &Cut) -> Result<u64, StoreError> {
        let mut batch = Batch::default();
        let mut row_bytes = Vec::new();
        for (key, row) in &cut.rows {
            match row {
                Some(row) => {
                    row_bytes.clear();
                    row.encode(&mut row_bytes);
                    self.sum.put(key, &row_bytes);
                    self.db.put(&mut batch, key, &row_bytes)?;
                }
                None => {
                    self.sum.delete(key);
                    self.db.delete(&mut batch, key)?;
                }
            }
        }
        self.db.write(batch, &cut.at.to_wire(self.sum.total()).encode_to_vec())?;
        Ok(self.sum.total())
    }

    /// All written cuts are on disk, synced, when this returns.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()
    }

    /// Makes `to` a copy of the rows as they are on disk.
    pub(crate) fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        self.db.checkpoint(to)
    }
}
