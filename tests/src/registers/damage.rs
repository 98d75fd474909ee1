//! Damage to the files of a stopped replica, as disks do it: a bit that flips, a file that is cut off.
//!
//! A changed file is a new one under the old name, since snapshots and rows share files by links and a disk damages
//! one of them only in what is said of it here. What the replica must make of it is said beside each damage.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rand::Rng as _;
use rand::rngs::StdRng;

/// What a replica may do with a damaged directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It ends, says why, and never runs on this directory again.
    Refused,
    /// It runs, and is level with the others.
    Recovered,
    /// One or the other.
    Either,
}

/// One kind of damage.
pub struct Damage {
    /// For the table.
    pub name: &'static str,
    /// By design.
    pub expected: Expected,
    /// Does it to a data directory.
    pub harm: fn(&Path, &mut StdRng) -> Result<()>,
}

/// All kinds.
pub const DAMAGES: &[Damage] = &[
    Damage { name: "bit flip in the synced log", expected: Expected::Refused, harm: flip_log },
    Damage { name: "synced log cut off", expected: Expected::Refused, harm: cut_log },
    Damage {
        name: "bit flip in one copy of the vote",
        expected: Expected::Recovered,
        harm: |dir, random| flip_in(dir, random, "vote.a"),
    },
    Damage {
        name: "bit flips in both copies of the vote",
        expected: Expected::Refused,
        harm: |dir, random| {
            flip_in(dir, random, "vote.a")?;
            flip_in(dir, random, "vote.b")
        },
    },
    Damage {
        name: "bit flip in the rows",
        expected: Expected::Either,
        harm: |dir, random| flip_in(&dir.join("rows"), random, ".sst"),
    },
    Damage {
        name: "rows cut off",
        expected: Expected::Either,
        harm: |dir, _| cut_in(&dir.join("rows"), ".sst"),
    },
    Damage {
        name: "list of the rows' files cut off",
        expected: Expected::Either,
        harm: |dir, _| cut_in(&dir.join("rows"), "MANIFEST-"),
    },
    Damage {
        name: "bit flip in a snapshot",
        expected: Expected::Either,
        harm: |dir, random| flip_in(&dir.join("snapshots"), random, ".sst"),
    },
    Damage {
        name: "bit flip in a snapshot's manifest",
        expected: Expected::Either,
        harm: |dir, random| flip_in(&dir.join("snapshots"), random, "/manifest"),
    },
    Damage {
        name: "snapshot cut off",
        expected: Expected::Either,
        harm: |dir, _| cut_in(&dir.join("snapshots"), ".sst"),
    },
];

/// A file and how much of it was certainly synced: by the log's mark, or the segment before it.
fn synced(dir: &Path) -> Result<(PathBuf, usize)> {
    let log = dir.join("log");
    let mark = fs::read(log.join("synced")).context("the log has no mark")?;
    // Two slots: a checksum in eight bytes, a segment's sequence, an offset in it.
    let slots = [0, 512].into_iter().filter_map(|at| mark.get(at..at + 24));
    let whole = slots.filter(|slot| crc32c::crc32c(&slot[8..]).to_le_bytes() == slot[..4]);
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let newest = whole.map(|slot| (word(&slot[8..16]), word(&slot[16..24]))).max();
    let (sequence, offset) = newest.context("no slot of the log's mark is whole")?;
    let path = |sequence: u64| log.join(format!("{sequence:016}.seg"));
    if offset > 4096 {
        return Ok((path(sequence), offset as usize));
    }
    let before = path(sequence.saturating_sub(1));
    ensure!(before.exists(), "only {offset} bytes of the log are marked as synced; too few to damage");
    // All of it was synced before the next was begun; its end may be empty.
    let bytes = fs::metadata(&before)?.len() as usize;
    Ok((before, bytes / 2))
}

fn flip_log(dir: &Path, random: &mut StdRng) -> Result<()> {
    let (path, synced) = synced(dir)?;
    flip(&path, random, synced / 2..synced)
}

fn cut_log(dir: &Path, random: &mut StdRng) -> Result<()> {
    let (path, synced) = synced(dir)?;
    cut(&path, random.random_range(synced / 2..synced))
}

fn flip_in(dir: &Path, random: &mut StdRng, name: &str) -> Result<()> {
    let path = largest(dir, name)?;
    let bytes = fs::metadata(&path)?.len() as usize;
    flip(&path, random, 0..bytes)
}

fn cut_in(dir: &Path, name: &str) -> Result<()> {
    let path = largest(dir, name)?;
    cut(&path, fs::metadata(&path)?.len() as usize / 2)
}

/// Flips one bit of a byte that is not zero: zeros are often only there to fill.
fn flip(path: &Path, random: &mut StdRng, within: std::ops::Range<usize>) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let used: Vec<usize> = within.filter(|at| bytes.get(*at).is_some_and(|byte| *byte != 0)).collect();
    ensure!(!used.is_empty(), "{} holds only zeros there", path.display());
    let at = used[random.random_range(0..used.len())];
    bytes[at] ^= 1 << random.random_range(0..8);
    replace(path, &bytes)
}

fn cut(path: &Path, bytes: usize) -> Result<()> {
    let content = fs::read(path)?;
    ensure!(bytes < content.len(), "{} has only {} bytes", path.display(), content.len());
    replace(path, &content[..bytes])
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("damaged");
    fs::write(&new, bytes)?;
    Ok(fs::rename(&new, path)?)
}

/// The largest file below `dir` whose path contains `name`.
fn largest(dir: &Path, name: &str) -> Result<PathBuf> {
    let mut open = vec![dir.to_owned()];
    let mut best: Option<(u64, PathBuf)> = None;
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = entry?.path();
            let bytes = fs::metadata(&path)?.len();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().contains(name)
                && best.as_ref().is_none_or(|(most, _)| bytes > *most)
            {
                best = Some((bytes, path));
            }
        }
    }
    best.map(|(_, path)| path).with_context(|| format!("{} holds no file like {name}", dir.display()))
}
