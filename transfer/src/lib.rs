//! Files that go from one machine to another as a list with checksums and chunks in order: snapshots between
//! replicas, backups to whoever asks. What arrived in part is gone on with; what arrived whole is checked.
//!
//! Not here: who sends to whom, and what is in the files.

mod backup;
mod receiver;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

pub use backup::{MANIFEST, check, read_manifest, seal};
pub use receiver::{Receiver, ReceiverOn};

/// Files of one list at most.
const FILES_MAX: usize = 100_000;
/// Read at once when a file is summed, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Files did not arrive, or are not what they were.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused a file operation.
    #[error("{action} {} failed: {why}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        why: std::io::Error,
    },
    /// Bytes are not what was sent, or not what the list says.
    #[error("{what} {why}")]
    Bad {
        /// Which file or list.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A newer program wrote it.
    #[error("{what} has format level {found}, this program knows levels up to {known}; use a newer program")]
    Level {
        /// Which list.
        what: String,
        /// Its level.
        found: u32,
        /// The newest level known here.
        known: u32,
    },
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |why| Error::Io { action, path, why }
}

fn bad(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Bad { what: what.into(), why: why.into() }
}

/// Files are for their owner only: they hold all that the cluster knows.
const FILE_MODE: u32 = 0o600;
/// And so are the directories that are made for them.
const DIR_MODE: u32 = 0o700;

/// Makes a directory for its owner only, and those above it as usual. One that is there stays as it is.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::create_dir_all(above)?;
    }
    match std::fs::DirBuilder::new().mode(DIR_MODE).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made,
    }
}

/// Where files arrive. There is one in the product; a simulation has another.
pub trait Files {
    /// An open file.
    type File: Read + Write + std::fmt::Debug;

    /// Makes a directory, for its owner only, and those above it.
    fn create_dir_all(dir: &Path) -> io::Result<()>;
    /// How long a file is.
    fn length(path: &Path) -> io::Result<u64>;
    /// Opens a file to read it from its beginning.
    fn open(path: &Path) -> io::Result<Self::File>;
    /// Opens a file, new or not, to go on with it behind `length`.
    fn grow(path: &Path, length: u64) -> io::Result<Self::File>;
    /// Makes what was written survive a power cut.
    fn sync(file: &Self::File) -> io::Result<()>;
    /// Removes a file.
    fn remove(path: &Path) -> io::Result<()>;
}

/// The system's files.
#[derive(Debug)]
pub struct System;

impl Files for System {
    type File = File;

    fn create_dir_all(dir: &Path) -> io::Result<()> {
        create_private_dir(dir)
    }

    fn length(path: &Path) -> io::Result<u64> {
        std::fs::metadata(path).map(|file| file.len())
    }

    fn open(path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn grow(path: &Path, length: u64) -> io::Result<File> {
        let file = OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(path)?;
        file.set_len(length)?;
        Ok(file)
    }

    fn sync(file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn remove(path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

/// Size and CRC-32C of a file.
pub fn checksum(path: &Path) -> Result<(u64, u32), Error> {
    checksum_on::<System>(path)
}

/// The same, where `F` says.
pub fn checksum_on<F: Files>(path: &Path) -> Result<(u64, u32), Error> {
    let mut file = F::open(path).map_err(io("opening", path))?;
    let mut buffer = vec![0; READ_BYTES];
    let (mut bytes, mut crc) = (0, 0);
    loop {
        let read = file.read(&mut buffer).map_err(io("reading", path))?;
        if read == 0 {
            return Ok((bytes, crc));
        }
        bytes += read as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
}

/// Refuses names that could lead out of a directory.
fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || name == MANIFEST || !name.chars().all(plain) {
        return Err(bad("the list", format!("has a file named {name:?}")));
    }
    Ok(())
}

/// Makes a directory's entries survive a power cut.
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("syncing", dir))
}
