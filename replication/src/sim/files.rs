//! `std::fs` in the build of this crate's tests: paths under `/sim` are on the simulated disk of the current life,
//! all others are the system's.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sim::faults::Step;
use crate::sim::life::{self, Life};

/// All simulated paths begin with it.
pub(crate) const HOME: &str = "/sim";

/// The current life, if the path is on its disk. `Err`: on no living replica's.
fn owner(path: &Path) -> io::Result<Option<Arc<Life>>> {
    if !path.starts_with(HOME) {
        return Ok(None);
    }
    match life::current() {
        Some(life) if !life.is_over() && path.starts_with(&life.dir) => Ok(Some(life)),
        _ => Err(io::Error::other(format!("{} belongs to no replica that runs", path.display()))),
    }
}

/// What is done, for the name of the step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Write,
    Sync,
    Name,
    Copy,
}

/// Which step of the replica's work this is.
fn step(path: &Path, doing: Doing) -> Step {
    let text = path.to_string_lossy();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if text.contains(".incoming") {
        Step::Receive
    } else if text.contains("/snapshots") {
        Step::Checkpoint
    } else if name.starts_with("vote.") {
        Step::Vote
    } else if name.starts_with("pointer.") {
        Step::Swap
    } else if text.contains("/rows/") {
        let copied = doing == Doing::Copy || name == "CURRENT" || !name.contains('.');
        if copied { Step::Install } else { Step::Flush }
    } else if name.ends_with(".seg") {
        match doing {
            Doing::Write => Step::Append,
            Doing::Sync => Step::Sync,
            Doing::Name | Doing::Copy => Step::Purge,
        }
    } else if text.contains("/log") {
        Step::Segment
    } else {
        Step::Other
    }
}

fn before(life: &Life, path: &Path, doing: Doing) -> io::Result<()> {
    life.disk.step(life, step(path, doing))
}

/// An open file or directory.
#[derive(Debug)]
pub(crate) enum File {
    System(std::fs::File),
    Simulated(Handle),
}

pub(crate) struct Handle {
    life: Arc<Life>,
    node: u64,
    path: PathBuf,
    at: AtomicU64,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl Handle {
    fn alive(&self) -> io::Result<()> {
        if self.life.is_over() { Err(io::Error::other("the replica is gone")) } else { Ok(()) }
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        before(&self.life, &self.path, Doing::Write)?;
        self.life.disk.write(self.node, at, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        before(&self.life, &self.path, Doing::Sync)?;
        let synced = self.life.disk.sync(self.node, step(&self.path, Doing::Sync));
        self.life.sync_failed.fetch_or(synced.is_err(), Ordering::Relaxed);
        synced
    }
}

impl File {
    pub(crate) fn options() -> OpenOptions {
        OpenOptions::new()
    }

    pub(crate) fn create(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).open(path)
    }

    pub(crate) fn open(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).open(path)
    }

    pub(crate) fn sync_all(&self) -> io::Result<()> {
        match self {
            File::System(file) => file.sync_all(),
            File::Simulated(handle) => handle.sync(),
        }
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        match self {
            File::System(file) => file.sync_data(),
            File::Simulated(handle) => handle.sync(),
        }
    }

    pub(crate) fn try_lock(&self) -> Result<(), std::fs::TryLockError> {
        match self {
            File::System(file) => file.try_lock(),
            File::Simulated(_) => Ok(()),
        }
    }

    pub(crate) fn unlock(&self) -> io::Result<()> {
        match self {
            File::System(file) => file.unlock(),
            File::Simulated(_) => Ok(()),
        }
    }
}

/// Reading and writing at an offset, as the trait of the same name on Unix.
pub(crate) trait FileExt {
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
}

impl FileExt for File {
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match self {
            File::System(file) => std::os::unix::fs::FileExt::write_all_at(file, bytes, at),
            File::Simulated(handle) => handle.write(at, bytes),
        }
    }

    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            File::System(file) => std::os::unix::fs::FileExt::read_exact_at(file, bytes, at),
            File::Simulated(handle) => {
                handle.alive()?;
                if step(&handle.path, Doing::Copy) == Step::Checkpoint {
                    handle.life.disk.damage_snapshot(handle.node);
                }
                let read = handle.life.disk.read(handle.node, at, bytes)?;
                if read == bytes.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
        }
    }
}

impl Read for &File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            File::System(file) => Read::read(&mut &*file, bytes),
            File::Simulated(handle) => {
                handle.alive()?;
                let read = handle.life.disk.read(handle.node, handle.at.load(Ordering::Relaxed), bytes)?;
                handle.at.fetch_add(read as u64, Ordering::Relaxed);
                Ok(read)
            }
        }
    }
}

impl Read for File {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Read::read(&mut &*self, bytes)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            File::System(file) => file.write(bytes),
            File::Simulated(handle) => {
                handle.write(handle.at.fetch_add(bytes.len() as u64, Ordering::Relaxed), bytes)?;
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How a file is opened.
#[derive(Clone, Debug)]
pub(crate) struct OpenOptions {
    system: std::fs::OpenOptions,
    create: bool,
    truncate: bool,
}

impl OpenOptions {
    pub(crate) fn new() -> Self {
        OpenOptions { system: std::fs::OpenOptions::new(), create: false, truncate: false }
    }

    pub(crate) fn read(&mut self, yes: bool) -> &mut Self {
        self.system.read(yes);
        self
    }

    pub(crate) fn write(&mut self, yes: bool) -> &mut Self {
        self.system.write(yes);
        self
    }

    pub(crate) fn create(&mut self, yes: bool) -> &mut Self {
        self.create = yes;
        self.system.create(yes);
        self
    }

    pub(crate) fn truncate(&mut self, yes: bool) -> &mut Self {
        self.truncate = yes;
        self.system.truncate(yes);
        self
    }

    pub(crate) fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let Some(life) = owner(path)? else { return self.system.open(path).map(File::System) };
        let node = if self.create {
            before(&life, path, Doing::Write)?;
            life.disk.create(path, self.truncate)?
        } else {
            life.disk.look(path)?
        };
        Ok(File::Simulated(Handle { life, node, path: path.to_owned(), at: AtomicU64::new(0) }))
    }
}

/// What is known of a file without reading it.
pub(crate) struct Metadata(u64);

impl Metadata {
    pub(crate) fn len(&self) -> u64 {
        self.0
    }
}

pub(crate) fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let path = path.as_ref();
    match owner(path)? {
        None => std::fs::metadata(path).map(|found| Metadata(found.len())),
        Some(life) => life.disk.length(path).map(Metadata),
    }
}

/// An entry of a directory.
pub(crate) struct DirEntry(PathBuf);

impl DirEntry {
    pub(crate) fn path(&self) -> PathBuf {
        self.0.clone()
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        metadata(&self.0)
    }

    pub(crate) fn file_name(&self) -> std::ffi::OsString {
        self.0.file_name().map(ToOwned::to_owned).unwrap_or_default()
    }
}

pub(crate) fn read_dir(path: impl AsRef<Path>) -> io::Result<std::vec::IntoIter<io::Result<DirEntry>>> {
    let path = path.as_ref();
    let entries: Vec<io::Result<DirEntry>> = match owner(path)? {
        None => std::fs::read_dir(path)?.map(|entry| entry.map(|entry| DirEntry(entry.path()))).collect(),
        Some(life) => {
            life.disk.list(path)?.into_iter().map(|(name, _)| Ok(DirEntry(path.join(name)))).collect()
        }
    };
    Ok(entries.into_iter())
}

pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    match owner(path)? {
        None => std::fs::read(path),
        Some(life) => life.disk.read_all(path),
    }
}

pub(crate) fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(io::Error::other)
}

pub(crate) fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    File::create(path)?.write_all(bytes.as_ref())
}

pub(crate) fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let Some(life) = owner(path)? else { return std::fs::create_dir_all(path) };
    before(&life, path, Doing::Name)?;
    life.disk.make_dir(path)
}

pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    if owner(path)?.is_none() { transfer::create_private_dir(path) } else { create_dir_all(path) }
}

pub(crate) fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let Some(life) = owner(path)? else { return std::fs::remove_file(path) };
    before(&life, path, Doing::Name)?;
    life.disk.remove(path)
}

pub(crate) fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let Some(life) = owner(path)? else { return std::fs::remove_dir_all(path) };
    for (name, is_dir) in life.disk.list(path)? {
        let path = path.join(name);
        if is_dir {
            remove_dir_all(&path)?;
        } else {
            before(&life, &path, Doing::Copy)?;
            life.disk.remove(&path)?;
        }
    }
    before(&life, path, Doing::Copy)?;
    life.disk.remove(path)
}

pub(crate) fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let Some(life) = owner(from)? else { return std::fs::rename(from, to) };
    before(&life, from, Doing::Name)?;
    life.disk.rename(from, to)
}

pub(crate) fn hard_link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let Some(life) = owner(to)? else { return std::fs::hard_link(from, to) };
    before(&life, to, Doing::Copy)?;
    life.disk.link(from, to)
}

pub(crate) fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<u64> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let Some(life) = owner(to)? else { return std::fs::copy(from, to) };
    // Backups lie on the system's disk.
    let bytes = if from.starts_with(HOME) { life.disk.read_all(from)? } else { std::fs::read(from)? };
    before(&life, to, Doing::Copy)?;
    let node = life.disk.create(to, true)?;
    before(&life, to, Doing::Copy)?;
    life.disk.write(node, 0, &bytes)?;
    Ok(bytes.len() as u64)
}

/// Where snapshots arrive.
#[derive(Debug)]
pub(crate) struct Files;

impl transfer::Files for Files {
    type File = File;

    fn create_dir_all(dir: &Path) -> io::Result<()> {
        create_private_dir(dir)
    }

    fn length(path: &Path) -> io::Result<u64> {
        metadata(path).map(|file| file.len())
    }

    fn open(path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn grow(path: &Path, length: u64) -> io::Result<File> {
        let Some(life) = owner(path)? else { return transfer::System::grow(path, length).map(File::System) };
        before(&life, path, Doing::Write)?;
        let node = life.disk.create(path, false)?;
        life.disk.cut(node, length)?;
        Ok(File::Simulated(Handle { life, node, path: path.to_owned(), at: AtomicU64::new(length) }))
    }

    fn sync(file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn remove(path: &Path) -> io::Result<()> {
        remove_file(path)
    }
}
