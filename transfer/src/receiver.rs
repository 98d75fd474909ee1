//! A directory in which the files of a list arrive, in the order of the list, each from its beginning to its end.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use proto::wire::raft::{SnapshotData, SnapshotFile};

use crate::{Error, FILES_MAX, Files, System, bad, check_name, checksum_on, io};

/// Receives files.
pub type Receiver = ReceiverOn<System>;

/// Receives files where `F` says.
#[derive(Debug)]
pub struct ReceiverOn<F: Files> {
    dir: PathBuf,
    files: Vec<SnapshotFile>,
    /// The file that grows, and its length so far; behind the last file when all are there.
    at: usize,
    length: u64,
    open: Option<F::File>,
}

impl<F: Files> ReceiverOn<F> {
    /// Begins in `dir`, or goes on there: what it has of the same list stays.
    pub fn begin(dir: &Path, files: Vec<SnapshotFile>) -> Result<Self, Error> {
        if files.len() > FILES_MAX {
            return Err(bad("the list", format!("has {} files, more than {FILES_MAX}", files.len())));
        }
        files.iter().try_for_each(|file| check_name(&file.name))?;
        F::create_dir_all(dir).map_err(io("creating", dir))?;
        let mut receiver = ReceiverOn { dir: dir.to_owned(), files, at: 0, length: 0, open: None };
        while let Some(file) = receiver.files.get(receiver.at) {
            match F::length(&dir.join(&file.name)) {
                Ok(length) if length == file.bytes => receiver.at += 1,
                Ok(length) if length < file.bytes => {
                    receiver.length = length;
                    break;
                }
                _ => break,
            }
        }
        receiver.make_empty_files()?;
        Ok(receiver)
    }

    /// Files without bytes come without chunks.
    fn make_empty_files(&mut self) -> Result<(), Error> {
        while let Some(file) = self.files.get(self.at).filter(|file| file.bytes == 0) {
            let path = self.dir.join(&file.name);
            F::grow(&path, 0).map_err(io("opening", &path))?;
            self.at += 1;
        }
        Ok(())
    }

    /// Where the sender shall go on: the file and the offset in it; `None` when nothing is missing.
    pub fn missing(&self) -> Option<(&str, u64)> {
        self.files.get(self.at).map(|file| (file.name.as_str(), self.length))
    }

    /// Takes the next bytes.
    pub fn take(&mut self, data: &SnapshotData) -> Result<(), Error> {
        let Some(file) = self.files.get(self.at) else {
            return Err(bad(&data.name, "arrived when all was there"));
        };
        if file.name != data.name {
            return Err(bad(&data.name, format!("arrived while {} is due", file.name)));
        }
        if data.offset != self.length || self.length + data.bytes.len() as u64 > file.bytes {
            return Err(bad(&data.name, format!("arrived out of order at {}", data.offset)));
        }
        let path = self.dir.join(&data.name);
        if self.open.is_none() {
            self.open = Some(F::grow(&path, self.length).map_err(io("opening", &path))?);
        }
        if let Some(open) = &mut self.open {
            open.write_all(&data.bytes).map_err(io("writing", &path))?;
        }
        self.length += data.bytes.len() as u64;
        if self.length == file.bytes {
            self.finish_file()?;
        }
        Ok(())
    }

    fn finish_file(&mut self) -> Result<(), Error> {
        if let Some(file) = self.open.take() {
            F::sync(&file).map_err(io("syncing", &self.dir))?;
        }
        (self.at, self.length) = (self.at + 1, 0);
        self.make_empty_files()
    }

    /// All was sent: checks every file against the list. A file that is not as it should be is removed, so that
    /// another try gets it anew.
    pub fn finish(self) -> Result<(), Error> {
        if let Some((name, length)) = self.missing() {
            return Err(bad(name, format!("broke off after {length} bytes")));
        }
        for file in &self.files {
            let path = self.dir.join(&file.name);
            if checksum_on::<F>(&path)? != (file.bytes, file.crc32c) {
                F::remove(&path).map_err(io("removing", &path))?;
                return Err(bad(path.display().to_string(), "did not arrive as it was sent"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn list(files: &[(&str, &[u8])]) -> Vec<SnapshotFile> {
        let file = |&(name, bytes): &(&str, &[u8])| SnapshotFile {
            name: name.into(),
            bytes: bytes.len() as u64,
            crc32c: crc32c::crc32c(bytes),
        };
        files.iter().map(file).collect()
    }

    fn data(name: &str, offset: u64, bytes: &'static [u8]) -> SnapshotData {
        SnapshotData { name: name.into(), offset, bytes: Bytes::from_static(bytes) }
    }

    #[test]
    fn what_broke_off_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let files = list(&[("a", b"one"), ("b", b""), ("c", b"two-three")]);
        let mut receiver = Receiver::begin(dir.path(), files.clone()).unwrap();
        assert_eq!(receiver.missing(), Some(("a", 0)));
        receiver.take(&data("a", 0, b"one")).unwrap();
        receiver.take(&data("c", 0, b"two-")).unwrap();
        drop(receiver);
        let mut receiver = Receiver::begin(dir.path(), files.clone()).unwrap();
        assert_eq!(receiver.missing(), Some(("c", 4)));
        assert!(receiver.take(&data("c", 0, b"two-")).is_err(), "it is there already");
        receiver.take(&data("c", 4, b"three")).unwrap();
        assert_eq!(receiver.missing(), None);
        receiver.finish().unwrap();
        assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"two-three");
    }

    #[test]
    fn what_is_not_in_the_list_or_not_in_order_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "../a", ".a", "manifest", "a/b"] {
            assert!(Receiver::begin(dir.path(), list(&[(name, b"x")])).is_err(), "{name:?}");
        }
        let mut receiver = Receiver::begin(dir.path(), list(&[("a", b"one"), ("b", b"two")])).unwrap();
        assert!(receiver.take(&data("b", 0, b"two")).is_err());
        assert!(receiver.take(&data("a", 1, b"ne")).is_err());
        assert!(receiver.take(&data("a", 0, b"one more")).is_err());
        receiver.take(&data("a", 0, b"one")).unwrap();
        receiver.take(&data("b", 0, b"twx")).unwrap();
        assert!(receiver.finish().is_err());
        let again = Receiver::begin(dir.path(), list(&[("a", b"one"), ("b", b"two")])).unwrap();
        assert_eq!(again.missing(), Some(("b", 0)), "the bad file is gone");
    }
}
