//! The database of rows in the build of this crate's tests: RocksDB, or on a simulated disk a model of what is
//! promised of it. Writes go to memory; a flush makes one new immutable file of all and moves `CURRENT` to it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::StoreError;
use crate::log::lock;
use crate::machine::Corrupt;
use crate::sim::breaks::{self, Break};
use crate::sim::faults::Step;
use crate::sim::files::{self as fs, File, FileExt as _};
use crate::sim::life;
use crate::state::rocks;

const CURRENT: &str = "CURRENT";

pub(crate) enum Database {
    System(rocks::Database),
    Simulated(Model),
}

/// Changes for either.
#[derive(Default)]
pub(crate) struct Batch {
    system: rocks::Batch,
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

pub(crate) struct Model {
    path: PathBuf,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    meta: Option<Vec<u8>>,
    /// The file that `CURRENT` names.
    file: Option<u64>,
    last: u64,
}

type Row = Result<(Box<[u8]>, Box<[u8]>), String>;

impl Database {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        if path.starts_with(fs::HOME) {
            let io = StoreError::io("opening", path);
            return Ok(Database::Simulated(Model::open(path).map_err(io)??));
        }
        rocks::Database::open(path).map(Database::System)
    }

    pub(crate) fn open_to_look(path: &Path) -> Result<Self, StoreError> {
        if path.starts_with(fs::HOME) {
            let io = StoreError::io("opening", path);
            return Ok(Database::Simulated(Model::read(path).map_err(io)??));
        }
        rocks::Database::open_to_look(path).map(Database::System)
    }

    pub(crate) fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Database::System(database) => database.meta(),
            Database::Simulated(model) => Ok(lock(&model.memory).meta.clone()),
        }
    }

    pub(crate) fn rows(&self) -> Result<Box<dyn Iterator<Item = Row> + '_>, StoreError> {
        match self {
            Database::System(database) => Ok(Box::new(database.rows()?)),
            Database::Simulated(model) => {
                let rows = lock(&model.memory).rows.clone();
                Ok(Box::new(rows.into_iter().map(|(key, row)| Ok((key.into(), row.into())))))
            }
        }
    }

    pub(crate) fn put(&self, batch: &mut Batch, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        match self {
            Database::System(database) => database.put(&mut batch.system, key, row)?,
            Database::Simulated(_) => batch.changes.push((key.to_vec(), Some(row.to_vec()))),
        }
        Ok(())
    }

    pub(crate) fn delete(&self, batch: &mut Batch, key: &[u8]) -> Result<(), StoreError> {
        match self {
            Database::System(database) => database.delete(&mut batch.system, key)?,
            Database::Simulated(_) => batch.changes.push((key.to_vec(), None)),
        }
        Ok(())
    }

    pub(crate) fn write(&self, batch: Batch, meta: &[u8]) -> Result<(), StoreError> {
        match self {
            Database::System(database) => database.write(batch.system, meta),
            Database::Simulated(model) => {
                model.write(batch.changes, meta).map_err(StoreError::io("writing", &model.path))
            }
        }
    }

    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        match self {
            Database::System(database) => database.flush(),
            Database::Simulated(_) if breaks::is(Break::PurgeWritten) => Ok(()),
            Database::Simulated(model) => model.flush().map_err(StoreError::io("flushing", &model.path)),
        }
    }

    pub(crate) fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        match self {
            Database::System(database) => database.checkpoint(to),
            Database::Simulated(model) => model.checkpoint(to).map_err(StoreError::io("copying to", to)),
        }
    }
}

fn file_name(number: u64) -> String {
    format!("{number:06}.sst")
}

impl Model {
    fn open(path: &Path) -> io::Result<Result<Self, StoreError>> {
        fs::create_dir_all(path)?;
        Model::read(path)
    }

    fn read(path: &Path) -> io::Result<Result<Self, StoreError>> {
        let mut memory = Memory::default();
        if let Ok(current) = fs::read_to_string(path.join(CURRENT)) {
            let corrupt = |why: &str| Corrupt::new(format!("rows in {}", path.display()), why);
            let Ok(number) = current.parse::<u64>() else {
                return Ok(Err(corrupt("CURRENT names no file").into()));
            };
            let file = match fs::read(path.join(file_name(number))) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Ok(Err(corrupt("a file is missing").into()));
                }
                Err(e) => return Err(e),
            };
            let Some((rows, meta)) = decode(&file) else {
                return Ok(Err(corrupt("a file fails its checksum").into()));
            };
            memory = Memory { rows, meta: Some(meta), file: Some(number), last: number };
        }
        Ok(Ok(Model { path: path.to_owned(), memory: Mutex::new(memory) }))
    }

    fn write(&self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>, meta: &[u8]) -> io::Result<()> {
        if let Some(life) = life::current() {
            life.disk.step(&life, Step::Cut)?;
        }
        let mut memory = lock(&self.memory);
        for (key, row) in changes {
            match row {
                Some(row) => memory.rows.insert(key, row),
                None => memory.rows.remove(&key),
            };
        }
        memory.meta = Some(meta.to_vec());
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut memory = lock(&self.memory);
        memory.last += 1;
        let number = memory.last;
        write_file(&self.path, number, &memory)?;
        let new = self.path.join("CURRENT.new");
        let file = File::create(&new)?;
        file.write_all_at(number.to_string().as_bytes(), 0)?;
        file.sync_all()?;
        fs::rename(&new, self.path.join(CURRENT))?;
        File::open(&self.path)?.sync_all()?;
        if let Some(old) = memory.file.replace(number) {
            fs::remove_file(self.path.join(file_name(old)))?;
        }
        Ok(())
    }

    fn checkpoint(&self, to: &Path) -> io::Result<()> {
        let memory = lock(&self.memory);
        fs::create_dir_all(to)?;
        if let Some(number) = memory.file {
            fs::hard_link(self.path.join(file_name(number)), to.join(file_name(number)))?;
            fs::write(to.join(CURRENT), number.to_string())?;
        }
        Ok(())
    }
}

fn write_file(dir: &Path, number: u64, memory: &Memory) -> io::Result<()> {
    let file = File::create(dir.join(file_name(number)))?;
    file.write_all_at(&encode(memory), 0)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

fn encode(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    let mut part = |part: &[u8]| {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
    };
    part(memory.meta.as_deref().unwrap_or_default());
    for (key, row) in &memory.rows {
        part(key);
        part(row);
    }
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// All rows, and what was written beside them.
type Image = (BTreeMap<Vec<u8>, Vec<u8>>, Vec<u8>);

fn decode(bytes: &[u8]) -> Option<Image> {
    let mut rest = bytes.get(4..)?;
    if crc32c::crc32c(rest).to_le_bytes() != bytes[..4] {
        return None;
    }
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        parts.push(rest.get(4..4 + length)?.to_vec());
        rest = &rest[4 + length..];
    }
    let mut parts = parts.into_iter();
    let meta = parts.next()?;
    let mut rows = BTreeMap::new();
    while let Some(key) = parts.next() {
        rows.insert(key, parts.next()?);
    }
    Some((rows, meta))
}
