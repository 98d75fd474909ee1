//! What the start-up checks: nobody else uses the directory, it is not condemned, its disk is fast enough. And the room
//! on that disk.

use std::fs::TryLockError;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::ground::{
    self,
    fs::{self, File, FileExt as _},
};
use crate::machine::Corrupt;

/// The file that says why a directory is condemned.
const CONDEMNED: &str = "condemned";
/// The file that only takes room.
const BALLAST: &str = "ballast";
/// A quarter of the reserve, but no more.
const BALLAST_BYTES_MAX: u64 = 256 << 20;
/// Syncs that are measured.
const SYNCS: usize = 16;

/// Keeps the directory for this process while it lives.
pub(crate) fn lock_dir(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::io("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(StoreError::io("locking", path)(error)),
    }
}

/// Marks a directory whose bytes were found corrupt: it never votes again, even if they read well next time.
pub(crate) fn condemn(dir: &Path, corrupt: &Corrupt) {
    let path = dir.join(CONDEMNED);
    let written = fs::write(&path, corrupt.to_string()).and_then(|()| File::open(&path)?.sync_all());
    if let Err(error) =
        written.map_err(StoreError::io("writing", path)).and_then(|()| crate::small_file::sync_dir(dir))
    {
        tracing::error!("the directory could not be marked as condemned: {error}");
    }
}

/// Why the directory was condemned, if it was.
pub(crate) fn condemned(dir: &Path) -> Result<Option<String>, StoreError> {
    let path = dir.join(CONDEMNED);
    match fs::read(&path) {
        Ok(why) => Ok(Some(String::from_utf8_lossy(&why).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io("reading", path)(e)),
    }
}

/// Refuses a condemned directory.
pub(crate) fn refuse_condemned(dir: &Path) -> Result<(), StoreError> {
    match condemned(dir)? {
        Some(why) => Err(Corrupt::new(dir.display().to_string(), format!("was condemned: {why}")).into()),
        None => Ok(()),
    }
}

/// Whether there is something. What cannot be looked at may well be there.
pub(crate) fn exists(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io("looking at", path)(e)),
    }
}

/// Median time to write and sync 4 KiB that were written before, as the log does.
pub(crate) fn measure_sync(dir: &Path) -> Result<Duration, StoreError> {
    let path = dir.join("sync-test");
    let file = File::create(&path).map_err(StoreError::io("creating", &path))?;
    let block = [0x5a; 4096];
    let mut took = Vec::with_capacity(SYNCS);
    for n in 0..=SYNCS {
        let began = Instant::now();
        file.write_all_at(&block, 0)
            .and_then(|()| file.sync_data())
            .map_err(StoreError::io("syncing", &path))?;
        if n > 0 {
            took.push(began.elapsed());
        }
    }
    fs::remove_file(&path).map_err(StoreError::io("removing", &path))?;
    took.sort_unstable();
    Ok(took[SYNCS / 2])
}

/// Bytes of the files in a directory; what cannot be read counts as nothing.
pub(crate) fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}

/// Room on a file system, in bytes.
pub(crate) struct Space {
    /// What an ordinary user may still take.
    pub(crate) free: u64,
    pub(crate) all: u64,
}

/// The room where `dir` lies; `None` if the system does not say.
pub(crate) fn space(dir: &Path) -> Option<Space> {
    let (free, all) = ground::room(dir)?;
    Some(Space { free, all })
}

impl Space {
    /// What must stay free: as chosen, or 5% of all, but 1 to 10 GiB.
    pub(crate) fn reserve(&self, chosen: Option<u64>) -> u64 {
        chosen.unwrap_or((self.all / 20).clamp(1 << 30, 10 << 30))
    }
}

/// Keeps a file that only takes room, which a person may remove where nothing else can be. Where the file system cannot
/// do that it stays empty.
pub(crate) fn keep_ballast(dir: &Path, space: &Space, reserve: u64) {
    let path = dir.join(BALLAST);
    let bytes = (reserve / 4).min(BALLAST_BYTES_MAX);
    if bytes == 0 || space.free < (reserve * 2).saturating_add(bytes) || fs::metadata(&path).is_ok() {
        return;
    }
    if let Err(error) = File::create(&path).and_then(|file| ground::reserve(&file, bytes)) {
        tracing::warn!("no room was set aside in {}: {error}", path.display());
    }
}

/// Whether the disk counts as full: below the reserve, and then until twice as much is free.
pub(crate) fn is_full(was: bool, free: u64, reserve: u64) -> bool {
    free < if was { reserve * 2 } else { reserve }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_below_the_reserve_and_until_twice_as_much_is_free() {
        for (was, free, full) in
            [(false, 100, false), (false, 99, true), (true, 199, true), (true, 200, false)]
        {
            assert_eq!(is_full(was, free, 100), full, "{was} {free}");
        }
        let space = |gib: u64| Space { free: 0, all: gib << 30 };
        for (all, reserve) in [(1, 1), (20, 1), (100, 5), (1000, 10)] {
            assert_eq!(space(all).reserve(None), reserve << 30, "{all} GiB");
        }
        assert_eq!(space(1).reserve(Some(7)), 7);
    }
}
