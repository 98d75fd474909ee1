//! The local cluster's directory: one `dev` at a time, settings kept, and `cluster.json` for whoever looks.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::settings::Settings;
use crate::error::{Error, Kind};

/// Marks a directory as ours, and is locked while a `dev` runs in it.
const LOCK: &str = "dev.lock";
/// The settings.
const SETTINGS: &str = "dev.json";
/// The running processes.
const RECORD: &str = "cluster.json";

/// A directory that this process holds.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Takes the directory; makes it if it is missing. One that is not empty and not ours is left alone.
    pub(crate) fn take(path: &Path) -> Result<Self, Error> {
        let failed = |what: &str, why: std::io::Error| {
            Error::new(Kind::Failed, format!("{} cannot be {what}: {why}", path.display()))
        };
        fs::create_dir_all(path).map_err(|why| failed("made", why))?;
        let path = path.canonicalize().map_err(|why| failed("read", why))?;
        let mut entries = fs::read_dir(&path).map_err(|why| failed("read", why))?;
        if !path.join(LOCK).exists() && entries.next().is_some() {
            let what = format!("{} is not empty and holds no local cluster", path.display());
            return Err(
                Error::new(Kind::InvalidParameter, what).hint("choose an empty directory, or a new one")
            );
        }
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(|why| failed("locked", why))?;
        match lock.try_lock() {
            Ok(()) => Ok(Directory { path, lock }),
            Err(TryLockError::WouldBlock) => {
                let what = format!("another `borealis dev` runs in {}", path.display());
                Err(Error::new(Kind::Failed, what).hint("use that one, stop it, or choose another --dir"))
            }
            Err(TryLockError::Error(why)) => Err(failed("locked", why)),
        }
    }

    /// Absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The settings of the cluster that was here before.
    pub(crate) fn settings(&self) -> Result<Option<Settings>, Error> {
        let path = self.path.join(SETTINGS);
        let bad = |why: &dyn std::fmt::Display| {
            Error::new(Kind::Failed, format!("{} cannot be read: {why}", path.display()))
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(bad(&why)),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|why| bad(&why).hint("choose another --dir, or repair the file"))
    }

    /// Keeps the settings.
    pub(crate) fn keep_settings(&self, settings: &Settings) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(settings)
            .map_err(|why| Error::new(Kind::Unknown, format!("the settings cannot be written: {why}")))?;
        self.replace(SETTINGS, &text)
    }

    /// Says which processes run.
    pub(crate) fn record(&self, cluster: &Value) -> Result<(), Error> {
        self.replace(RECORD, &format!("{cluster:#}"))
    }

    /// Nothing runs any more.
    pub(crate) fn forget_record(&self) {
        let _ = fs::remove_file(self.path.join(RECORD));
    }

    /// Readers see the old file or the new one, never a part.
    fn replace(&self, name: &str, text: &str) -> Result<(), Error> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write()
            .map_err(|why| Error::new(Kind::Failed, format!("{} cannot be written: {why}", path.display())))
    }
}

impl Drop for Directory {
    /// Closing is not enough: a child that was forked and has not yet begun its program holds the file too.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dev_at_a_time_and_only_in_its_own_directory() {
        let root = tempfile::tempdir().unwrap();
        let taken = Directory::take(&root.path().join("new/dir")).unwrap();
        assert!(Directory::take(taken.path()).unwrap_err().what.contains("another `borealis dev`"));
        let settings = Settings {
            cluster: "c".into(),
            replicas: 1,
            agents: 0,
            simulated: false,
            base_port: 9000,
            formed: true,
        };
        assert_eq!(taken.settings().unwrap(), None);
        taken.keep_settings(&settings).unwrap();
        let path = taken.path().to_owned();
        drop(taken);
        assert_eq!(Directory::take(&path).unwrap().settings().unwrap(), Some(settings));
        assert_eq!(
            Directory::take(root.path()).unwrap_err().exit_code(),
            6,
            "it holds `new`, which is not ours"
        );
        assert_eq!(Directory::take(Path::new("/dev/null/x")).unwrap_err().exit_code(), 4);
    }
}
