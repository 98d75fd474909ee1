//! Small things that must never be lost: the vote, the identity, the pointer to the rows.
//!
//! Each is kept twice, in `NAME.a` and `NAME.b`, with a checksum and a sequence. A write changes one copy, syncs
//! it, changes the other, syncs it, and only then returns: at every moment one copy is whole. A reader takes the
//! whole copy with the higher sequence. Two damaged copies are corruption, never "nothing".
//!
//! Layout: magic `BLRS`, crc32c of all that follows, sequence u64, length u32, body, zeros up to 4 KiB; little endian.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::machine::Corrupt;

const MAGIC: &[u8; 4] = b"BLRS";
const HEAD_BYTES: usize = 20;
const FILE_BYTES: usize = 4096;

/// A small thing, kept twice.
pub(crate) struct SmallFile {
    dir: PathBuf,
    name: &'static str,
    sequence: u64,
}

impl SmallFile {
    /// Opens both copies; the body is `None` if the thing was never written.
    pub(crate) fn open(dir: &Path, name: &'static str) -> Result<(Self, Option<Vec<u8>>), StoreError> {
        let mut best: Option<(u64, Vec<u8>)> = None;
        let mut damaged = None;
        for copy in ["a", "b"] {
            let path = dir.join(format!("{name}.{copy}"));
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(StoreError::io("reading", path)(e)),
            };
            match parse(&bytes) {
                Ok((sequence, body)) => {
                    if best.as_ref().is_none_or(|(newest, _)| sequence > *newest) {
                        best = Some((sequence, body.to_vec()));
                    }
                }
                Err(why) => damaged = Some(Corrupt::new(path.display().to_string(), why)),
            }
        }
        if let (None, Some(corrupt)) = (&best, damaged) {
            return Err(corrupt.into());
        }
        let file = SmallFile { dir: dir.to_owned(), name, sequence: best.as_ref().map_or(0, |(s, _)| *s) };
        Ok((file, best.map(|(_, body)| body)))
    }

    /// Replaces the thing; both copies are synced when this returns.
    pub(crate) fn write(&mut self, body: &[u8]) -> Result<(), StoreError> {
        let sequence = self.sequence + 1;
        let image = image(sequence, body).map_err(StoreError::io("writing", self.path("a")))?;
        for copy in ["a", "b"] {
            let path = self.path(copy);
            if path.exists() {
                let file =
                    OpenOptions::new().write(true).open(&path).map_err(StoreError::io("opening", &path))?;
                file.write_all_at(&image, 0).map_err(StoreError::io("writing", &path))?;
                file.sync_data().map_err(StoreError::io("syncing", &path))?;
            } else {
                let new = self.dir.join(format!("{}.{copy}.new", self.name));
                let file = File::create(&new).map_err(StoreError::io("creating", &new))?;
                file.write_all_at(&image, 0).map_err(StoreError::io("writing", &new))?;
                file.sync_all().map_err(StoreError::io("syncing", &new))?;
                std::fs::rename(&new, &path).map_err(StoreError::io("renaming", &new))?;
                sync_dir(&self.dir)?;
            }
        }
        self.sequence = sequence;
        Ok(())
    }

    fn path(&self, copy: &str) -> PathBuf {
        self.dir.join(format!("{}.{copy}", self.name))
    }
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
    fn a_crash_between_the_copies_keeps_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = SmallFile::open(dir.path(), "vote").unwrap();
        file.write(b"old").unwrap();
        // The first copy was being overwritten: any prefix of the new image over the old one.
        let (old, new) = (image(1, b"old").unwrap(), image(2, b"new").unwrap());
        for cut in 0..64 {
            let mut torn = new[..cut].to_vec();
            torn.extend_from_slice(&old[cut..]);
            std::fs::write(dir.path().join("vote.a"), &torn).unwrap();
            let body = SmallFile::open(dir.path(), "vote").unwrap().1.unwrap();
            assert!(body == b"old" || body == b"new");
        }
    }
}
