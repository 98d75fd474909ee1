//! The rows in RocksDB: opened, written by cuts, flushed, summed, read back. No WAL: what is not flushed is not
//! stored, and the replicated log still has it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};

use prost::Message as _;
use proto::wire::raft as wire;
use rocksdb::{
    ColumnFamilyDescriptor, DB, DBCompressionType, FlushOptions, IteratorMode, Options, WriteBatch,
    WriteOptions,
};

use crate::error::StoreError;
use crate::machine::{Corrupt, Rows as RowIterator};
use crate::raft::{check_level, decode_whole};
use crate::state::cut::{Cut, Point};

const ROWS: &str = "rows";
const META: &str = "meta";
const META_KEY: &[u8] = b"meta";
/// Of each memtable; there are at most three.
const MEMTABLE_BYTES: usize = 64 << 20;
/// Background writing must leave the disk to the log.
const WRITE_BYTES_PER_SECOND: i64 = 128 << 20;

/// An open set of rows.
pub(crate) struct RowStore {
    db: DB,
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

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(3);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_ratelimiter(WRITE_BYTES_PER_SECOND, 100_000, 10);
    options.set_max_open_files(512);
    options.set_keep_log_file_num(4);
    options.set_max_background_jobs(2);
    options
}

impl RowStore {
    /// Opens the rows in `path`; makes empty ones where there is nothing.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let families = [ROWS, META].map(|name| ColumnFamilyDescriptor::new(name, database_options()));
        let db =
            DB::open_cf_descriptors(&database_options(), path, families).map_err(|e| rows_error(path, e))?;
        Ok(RowStore { db, path: path.to_owned(), sum: Sum::default() })
    }

    /// The same, to be looked at only: nothing in `path` changes.
    pub(crate) fn open_to_look(path: &Path) -> Result<Self, StoreError> {
        let mut options = database_options();
        options.create_if_missing(false);
        let families = [ROWS, META].map(|name| ColumnFamilyDescriptor::new(name, database_options()));
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false)
            .map_err(|e| rows_error(path, e))?;
        Ok(RowStore { db, path: path.to_owned(), sum: Sum::default() })
    }

    /// Hands all rows to `load`, in key order, summing them on the way; returns what it made and the point.
    pub(crate) fn load<M>(
        &mut self,
        load: impl FnOnce(&mut RowIterator<'_>) -> Result<M, Corrupt>,
    ) -> Result<(M, Point), StoreError> {
        let meta =
            self.db.get_pinned_cf(self.family(META)?, META_KEY).map_err(|e| rows_error(&self.path, e))?;
        let corrupt = |why: String| Corrupt::new(format!("rows in {}", self.path.display()), why);
        let mut sum = Sum::default();
        let mut broken = None;
        let mut iterator =
            self.db.iterator_cf(self.family(ROWS)?, IteratorMode::Start).map(|row| match row {
                Ok((key, row)) => {
                    sum.put(&key, &row);
                    Ok((key, row))
                }
                Err(error) => {
                    let corrupt = corrupt(error.to_string());
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
        let mut batch = WriteBatch::default();
        let mut row_bytes = Vec::new();
        for (key, row) in &cut.rows {
            match row {
                Some(row) => {
                    row_bytes.clear();
                    row.encode(&mut row_bytes);
                    self.sum.put(key, &row_bytes);
                    batch.put_cf(self.family(ROWS)?, key, &row_bytes);
                }
                None => {
                    self.sum.delete(key);
                    batch.delete_cf(self.family(ROWS)?, key);
                }
            }
        }
        batch.put_cf(self.family(META)?, META_KEY, cut.at.to_wire(self.sum.total()).encode_to_vec());
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|e| rows_error(&self.path, e))?;
        Ok(self.sum.total())
    }

    /// All written cuts are on disk, synced, when this returns.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = [self.family(ROWS)?, self.family(META)?];
        self.db.flush_cfs_opt(&families, &options).map_err(|e| rows_error(&self.path, e))
    }

    /// Makes `to` a copy of the rows as they are on disk.
    pub(crate) fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        rocksdb::checkpoint::Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(|e| rows_error(&self.path, e))
    }

    fn family(&self, name: &str) -> Result<&rocksdb::ColumnFamily, StoreError> {
        self.db.cf_handle(name).ok_or_else(|| StoreError::Rows {
            path: self.path.clone(),
            problem: format!("column family {name} is missing"),
        })
    }
}

fn rows_error(path: &Path, error: rocksdb::Error) -> StoreError {
    if error.kind() == rocksdb::ErrorKind::Corruption {
        return Corrupt::new(format!("rows in {}", path.display()), error.into_string()).into();
    }
    StoreError::Rows { path: path.to_owned(), problem: error.into_string() }
}
