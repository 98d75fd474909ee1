//! The database of rows: RocksDB without a write-ahead log. What is not flushed is not stored.
//!
//! Not here: what rows mean, their sum, to which point of the log they belong (`rows`).

use std::path::{Path, PathBuf};

use rocksdb::{
    ColumnFamilyDescriptor, DB, DBCompressionType, FlushOptions, IteratorMode, Options, WriteBatch,
    WriteOptions,
};

use crate::error::StoreError;
use crate::machine::Corrupt;

const ROWS: &str = "rows";
const META: &str = "meta";
const META_KEY: &[u8] = b"meta";
/// Of each memtable; there are at most three.
const MEMTABLE_BYTES: usize = 64 << 20;
/// Background writing must leave the disk to the log.
const WRITE_BYTES_PER_SECOND: i64 = 128 << 20;

/// A key and its row.
type Pair = (Box<[u8]>, Box<[u8]>);

/// An open database.
pub(crate) struct Database {
    db: DB,
    path: PathBuf,
}

/// Changes that are written together or not at all.
#[derive(Default)]
pub(crate) struct Batch(WriteBatch);

fn options() -> Options {
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

impl Database {
    /// Opens what is in `path`; makes an empty one where there is nothing.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let families = [ROWS, META].map(|name| ColumnFamilyDescriptor::new(name, options()));
        let db = DB::open_cf_descriptors(&options(), path, families).map_err(|e| rows_error(path, e))?;
        Ok(Database { db, path: path.to_owned() })
    }

    /// The same, to be looked at only: nothing in `path` changes.
    pub(crate) fn open_to_look(path: &Path) -> Result<Self, StoreError> {
        let mut read_only = options();
        read_only.create_if_missing(false);
        let families = [ROWS, META].map(|name| ColumnFamilyDescriptor::new(name, options()));
        let db = DB::open_cf_descriptors_read_only(&read_only, path, families, false);
        Ok(Database { db: db.map_err(|e| rows_error(path, e))?, path: path.to_owned() })
    }

    /// What was written beside the rows.
    pub(crate) fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.family(META)?, META_KEY).map_err(|e| rows_error(&self.path, e))
    }

    /// All rows in key order; or why one cannot be read.
    pub(crate) fn rows(&self) -> Result<impl Iterator<Item = Result<Pair, String>>, StoreError> {
        let rows = self.db.iterator_cf(self.family(ROWS)?, IteratorMode::Start);
        Ok(rows.map(|row| row.map_err(rocksdb::Error::into_string)))
    }

    pub(crate) fn put(&self, batch: &mut Batch, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        batch.0.put_cf(self.family(ROWS)?, key, row);
        Ok(())
    }

    pub(crate) fn delete(&self, batch: &mut Batch, key: &[u8]) -> Result<(), StoreError> {
        batch.0.delete_cf(self.family(ROWS)?, key);
        Ok(())
    }

    /// Writes the batch and `meta` as one: all of it will be in a flush, or nothing.
    pub(crate) fn write(&self, mut batch: Batch, meta: &[u8]) -> Result<(), StoreError> {
        batch.0.put_cf(self.family(META)?, META_KEY, meta);
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch.0, &options).map_err(|e| rows_error(&self.path, e))
    }

    /// All that was written is on disk, synced, when this returns.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = [self.family(ROWS)?, self.family(META)?];
        self.db.flush_cfs_opt(&families, &options).map_err(|e| rows_error(&self.path, e))
    }

    /// Makes `to` a copy of what is on disk.
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
