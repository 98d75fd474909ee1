//! Small things that must never be lost: the vote, the identity, the pointer to the rows.
//!
//! Each is kept twice, in `NAME.a` and `NAME.b`, with a checksum and a sequence. A write changes one copy, syncs
//! it, changes the other, syncs it, and only then returns. The first is never the copy that a reader would take, so
//! that one is whole at every moment, even if the other was damaged. A reader takes the whole copy with the higher
//! sequence. Two damaged copies are corruption, never "nothing".
//!
//! Layout: magic `BLRS`, crc32c of all that follows, sequence u64, length u32, body, zeros up to 4 KiB; little endian.

use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::ground::fs::{self, File, FileExt as _, OpenOptions};
use crate::machine::Corrupt;

const MAGIC: &[u8; 4] = b"BLRS";
const HEAD_BYTES: usize = 20;
const FILE_BYTES: usize = 4096;

/// A small thing, kept twice.
pub(crate) struct SmallFile {
    dir: PathBuf,
    name: &'static str,
    sequence: u64,
    /// The copy that a reader takes, of `COPIES`.
    best: usize,
}

const COPIES: [&str; 2] = ["a", "b"];

impl SmallFile {
    /// Opens both copies; the body is `None` if the thing was never written.
    pub(crate) fn open(dir: &Path, name: &'static str) -> Result<(Self, Option<Vec<u8>>), StoreError> {
        let mut best: Option<(u64, Vec<u8>, usize)> = None;
        let mut damaged = None;
        for (at, copy) in COPIES.into_iter().enumerate() {
            let path = dir.join(format!("{name}.{copy}"));
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(StoreError::io("reading", path)(e)),
            };
            match parse(&bytes) {
                Ok((sequence, body)) => {
                    if best.as_ref().is_none_or(|(newest, ..)| sequence > *newest) {
                        best = Some((sequence, body.to_vec(), at));
                    }
                }
                Err(why) => damaged = Some(Corrupt::new(path.display().to_string(), why)),
            }
        }
        if let (None, Some(corrupt)) = (&best, damaged) {
            return Err(corrupt.into());
        }
        let (sequence, body, best) = match best {
            Some((sequence, body, best)) => (sequence, Some(body), best),
            None => (0, None, 1),
        };
        Ok((SmallFile { dir: dir.to_owned(), name, sequence, best }, body))
    }

    /// The same, for one who will act on what it finds: that may have been written by a process that was killed
    /// before it synced, so it is written again.
    pub(crate) fn open_synced(dir: &Path, name: &'static str) -> Result<(Self, Option<Vec<u8>>), StoreError> {
        let (mut file, body) = SmallFile::open(dir, name)?;
        if let Some(body) = &body {
            file.write(body)?;
        }
        Ok((file, body))
    }

    /// Replaces the thing; both copies are synced when this returns.
    pub(crate) fn write(&mut self, body: &[u8]) -> Result<(), StoreError> {
        let image =
            image(self.sequence + 1, body).map_err(StoreError::io("writing", self.path(self.best)))?;
        for copy in self.order() {
            self.write_copy(copy, &image)?;
            // From the first one on: if the other fails, this is the one to keep.
            self.best = copy;
        }
        self.sequence += 1;
        Ok(())
    }

    /// Which copy is written first, and which then.
    fn order(&self) -> [usize; 2] {
        [1 - self.best, self.best]
    }

    fn write_copy(&self, copy: usize, image: &[u8]) -> Result<(), StoreError> {
        let path = self.path(copy);
        if fs::metadata(&path).is_ok_and(|file| file.len() == FILE_BYTES as u64) {
            let file =
                OpenOptions::new().write(true).open(&path).map_err(StoreError::io("opening", &path))?;
            file.write_all_at(image, 0).map_err(StoreError::io("writing", &path))?;
            file.sync_data().map_err(StoreError::io("syncing", &path))
        } else {
            replace(&self.dir, &format!("{}.{}", self.name, COPIES[copy]), image)
        }
    }

    fn path(&self, copy: usize) -> PathBuf {
        self.dir.join(format!("{}.{}", self.name, COPIES[copy]))
    }
}

/// Writes the file `name` in `dir` whole or not at all; it is synced when this returns.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let new = dir.join(format!("{name}.new"));
    let file = File::create(&new).map_err(StoreError::io("creating", &new))?;
    file.write_all_at(bytes, 0).map_err(StoreError::io("writing", &new))?;
    file.sync_all().map_err(StoreError::io("syncing", &new))?;
    fs::rename(&new, dir.join(name)).map_err(StoreError::io("renaming", &new))?;
    sync_dir(dir)
}

/// Makes names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::io("syncing", dir))
}

fn image(sequence: u64, body: &[u8]) -> std::io::Result<Vec<u8>> {
    if body.len() > FILE_BYTES - HEAD_BYTES {
        return Err(std::io::Error::other(format!("{} bytes do not fit in a small file", body.len())));
    }
    let mut image = Vec::with_capacity(FILE_BYTES);
    image.extend_from_slice(MAGIC);
    image.extend_from_slice(&[0; 4]);
    image.extend_from_slice(&sequence.to_le_bytes());
    image.extend_from_slice(&(body.len() as u32).to_le_bytes());
    image.extend_from_slice(body);
    image.resize(FILE_BYTES, 0);
    let crc = crc32c::crc32c(&image[8..]);
    image[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(image)
}

fn parse(bytes: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    if bytes.len() != FILE_BYTES {
        return Err("has the wrong size");
    }
    if &bytes[..4] != MAGIC {
        return Err("does not begin as it should");
    }
    if crc32c::crc32c(&bytes[8..]).to_le_bytes() != bytes[4..8] {
        return Err("fails its checksum");
    }
    let word =
        |at: usize, n: usize| bytes[at..at + n].iter().rev().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
    let length = word(16, 4) as usize;
    let body = bytes.get(HEAD_BYTES..HEAD_BYTES + length).ok_or("has a wrong length")?;
    Ok((word(8, 8), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flip(path: &Path, at: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 0x40;
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_written_thing_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, body) = SmallFile::open(dir.path(), "vote").unwrap();
        assert_eq!(body, None);
        for n in 0..5u8 {
            file.write(&vec![n; usize::from(n) * 100]).unwrap();
            assert_eq!(SmallFile::open(dir.path(), "vote").unwrap().1, Some(vec![n; usize::from(n) * 100]));
        }
        assert!(file.write(&[0; 5000]).is_err());
    }

    #[test]
    fn one_damaged_copy_is_survived_and_two_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = SmallFile::open(dir.path(), "vote").unwrap();
        file.write(b"one").unwrap();
        file.write(b"two").unwrap();
        for at in 0..FILE_BYTES {
            flip(&dir.path().join("vote.a"), at);
            assert_eq!(SmallFile::open(dir.path(), "vote").unwrap().1.unwrap(), b"two", "byte {at}");
            flip(&dir.path().join("vote.a"), at);
        }
        flip(&dir.path().join("vote.a"), 9);
        flip(&dir.path().join("vote.b"), 21);
        assert!(matches!(SmallFile::open(dir.path(), "vote"), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn a_write_cut_at_any_byte_leaves_the_old_or_the_new_whatever_was_damaged_before() {
        for damaged in [None, Some("vote.a"), Some("vote.b")] {
            let dir = tempfile::tempdir().unwrap();
            SmallFile::open(dir.path(), "vote").unwrap().0.write(b"old").unwrap();
            if let Some(copy) = damaged {
                flip(&dir.path().join(copy), 21);
            }
            let read = || SmallFile::open(dir.path(), "vote").unwrap().1.unwrap();
            let file = SmallFile::open(dir.path(), "vote").unwrap().0;
            let (sequence, image) = (file.sequence + 1, image(file.sequence + 1, b"new").unwrap());
            for copy in file.order() {
                let before = std::fs::read(file.path(copy)).unwrap();
                // The front of the new image over the old one, and its end before its front: a disk may do either.
                // Cuts within what did not change leave the same bytes.
                let changes = |cut: &usize| *cut == 0 || before[cut - 1] != image[cut - 1];
                for cut in (0..=FILE_BYTES).filter(changes) {
                    for torn in
                        [[&image[..cut], &before[cut..]].concat(), [&before[..cut], &image[cut..]].concat()]
                    {
                        std::fs::write(file.path(copy), &torn).unwrap();
                        let body = read();
                        assert!(body == b"old" || body == b"new", "{damaged:?} {copy} {cut}");
                    }
                }
                file.write_copy(copy, &image).unwrap();
                assert_eq!(read(), b"new", "{damaged:?} {copy}");
            }
            assert_eq!(SmallFile::open(dir.path(), "vote").unwrap().0.sequence, sequence);
        }
    }

    #[test]
    fn a_write_that_failed_half_way_does_not_endanger_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = SmallFile::open(dir.path(), "vote").unwrap();
        file.write(b"old").unwrap();
        let [first, second] = file.order();
        // The second copy cannot be written: something else has the name of its new file, and it is too short.
        let new = dir.path().join(format!("vote.{}.new", COPIES[second]));
        std::fs::create_dir(&new).unwrap();
        std::fs::write(file.path(second), "short").unwrap();
        assert!(file.write(b"new").is_err());
        assert_eq!(file.order(), [second, first], "the whole copy is not touched first");
        std::fs::remove_dir(&new).unwrap();
        file.write(b"newer").unwrap();
        flip(&file.path(first), 21);
        assert_eq!(SmallFile::open(dir.path(), "vote").unwrap().1.unwrap(), b"newer", "both were written");
    }
}
