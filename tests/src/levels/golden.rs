//! A golden directory, and what today's programs make of each of its parts.
//!
//! What is measured is written down when a level is frozen (`expected.json`), and must be the same ever after. Sums of
//! rows say whether State is the same: rows are all that State is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use proto::wire::raft;
use replication::{Changes, Inspection, Machine as _, Options, Profile};
use scheduler::machine::Machine;
use serde::{Deserialize, Serialize};

use super::Level;

/// Of a segment of the log; in a golden directory it ends with its last byte that is not zero.
pub(super) const SEGMENT_BYTES: u64 = 16 << 20;
/// The name of the cluster that data and backup are of.
pub(super) const CLUSTER: &str = "test";

/// What is known of a level's golden directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// The rows after each history of `commands/`, replayed from nothing.
    pub histories: BTreeMap<String, Rows>,
    /// Term and index of the last entry in the log of `data/`.
    pub last: (u64, u64),
    /// The rows of `data/` as they lie there.
    pub stored: Rows,
    /// The rows after all of its log, replayed from nothing.
    pub replayed: Rows,
    /// The rows of its snapshot.
    pub snapshot: Rows,
    /// The rows of `backup/`.
    pub backup: Rows,
}

/// Rows at a point of a log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rows {
    /// The last entry, or command, that is in them.
    pub index: u64,
    /// How many.
    pub rows: u64,
    /// Of all keys and values.
    pub sum: String,
}

impl From<Inspection> for Rows {
    fn from(found: Inspection) -> Rows {
        Rows { index: found.stored, rows: found.rows, sum: format!("{:016x}", found.sum) }
    }
}

impl Level {
    /// What was measured when the level was frozen.
    pub fn expected(&self) -> Result<Measured> {
        let path = self.dir.join("expected.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Reads and replays everything with today's programs; copies are made in `work`.
    pub fn measure(&self, work: &Path) -> Result<Measured> {
        let mut histories = BTreeMap::new();
        for (name, path) in self.histories()? {
            let rows = replay(&path).with_context(|| format!("replaying {}", path.display()))?;
            histories.insert(name, rows);
        }
        let data = work.join("data");
        copy_data(&self.dir.join("data"), &data)?;
        let found = replication::inspect(&data)?;
        let last = found.last.context("the log of the golden data is empty")?;
        let snapshot = data.join("snapshots").join(found.snapshot.clone().context("no snapshot is there")?);

        let replayed = work.join("from-nothing");
        copy_data(&self.dir.join("data"), &replayed)?;
        forget_rows(&replayed)?;
        let replayed = recovered(&replayed, &work.join("replayed"))?;
        let gone_on = recovered(&data, &work.join("gone-on"))?;
        ensure!(replayed == gone_on, "all of the log gives {replayed:?}, its end on the rows {gone_on:?}");
        Ok(Measured {
            histories,
            last,
            stored: found.into(),
            replayed,
            snapshot: restored(&as_backup(&snapshot, &work.join("snapshot"))?, &work.join("of-snapshot"))?,
            backup: restored(&self.dir.join("backup"), &work.join("of-backup"))?,
        })
    }

    /// Which commands stand in the histories: their field numbers in the message `Command`.
    pub fn kinds(&self) -> Result<BTreeSet<u32>> {
        let mut kinds = BTreeSet::new();
        for (_, path) in self.histories()? {
            for command in raft::Batch::decode(&fs::read(path)?[..])?.commands {
                let mut rest = &command[..];
                while !rest.is_empty() {
                    let (field, kind) = prost::encoding::decode_key(&mut rest)?;
                    kinds.insert(field);
                    prost::encoding::skip_field(kind, field, &mut rest, Default::default())?;
                }
            }
        }
        Ok(kinds)
    }

    fn histories(&self) -> Result<BTreeMap<String, PathBuf>> {
        let dir = self.dir.join("commands");
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.insert(name, path);
        }
        Ok(found)
    }
}

/// Replays a history from nothing; a State that is read from its rows is the same State.
fn replay(path: &Path) -> Result<Rows> {
    let batch = raft::Batch::decode(&fs::read(path)?[..])?;
    let mut machine = Machine::load(&mut std::iter::empty())?;
    let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for bytes in &batch.commands {
        let mut changes = Changes::default();
        let _refused_or_done = machine.apply(Machine::decode(bytes)?, &mut changes);
        for (key, row) in changes.iter() {
            match row {
                Some(row) => {
                    let mut bytes = Vec::new();
                    row.encode(&mut bytes);
                    rows.insert(key.to_vec(), bytes);
                }
                None => drop(rows.remove(key)),
            }
        }
    }
    let saved = rows.iter().map(|(key, row)| Ok((key.clone().into_boxed_slice(), row.clone().into())));
    let loaded = Machine::load(&mut saved.into_iter())?;
    ensure!(loaded.state == machine.state, "a State that was read from its rows is another");
    let mut sum = 0;
    for (key, row) in &rows {
        for part in [&(key.len() as u64).to_le_bytes()[..], key, &(row.len() as u64).to_le_bytes()[..], row] {
            sum = crc32c::crc32c_append(sum, part);
        }
    }
    Ok(Rows { index: batch.commands.len() as u64, rows: rows.len() as u64, sum: format!("{sum:08x}") })
}

fn options(dir: &Path) -> Options {
    Options::new(dir, CLUSTER, "127.0.0.1:1", "127.0.0.1:2", Profile::default())
}

/// The rows of a new cluster that was made of the data directory `left`.
fn recovered(left: &Path, to: &Path) -> Result<Rows> {
    replication::recover::<Machine>(left, &options(to))?;
    Ok(replication::inspect(to)?.into())
}

/// The rows of a new cluster that was made of a backup.
fn restored(backup: &Path, to: &Path) -> Result<Rows> {
    replication::restore(backup, &options(to))?;
    Ok(replication::inspect(to)?.into())
}

/// A snapshot's files under the manifest of a backup, so that it can be restored.
fn as_backup(snapshot: &Path, to: &Path) -> Result<PathBuf> {
    let manifest = fs::read(snapshot.join("manifest"))?;
    let meta = raft::SnapshotMeta::decode(manifest.get(4..).context("the snapshot's manifest is cut off")?)?;
    let arriving = to.with_extension("arriving");
    copy(snapshot, &arriving, &|_| true)?;
    let manifest = raft::BackupManifest {
        level: 1,
        snapshot: Some(meta),
        cluster: CLUSTER.into(),
        epoch: 1,
        ..Default::default()
    };
    transfer::seal(&arriving, &manifest, to)?;
    transfer::check(to)?;
    Ok(to.to_owned())
}

/// Copies a golden data directory; its segments get their length back.
fn copy_data(from: &Path, to: &Path) -> Result<()> {
    copy(from, to, &|_| true)?;
    for entry in fs::read_dir(to.join("log"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "seg") {
            fs::File::options().write(true).open(&path)?.set_len(SEGMENT_BYTES)?;
        }
    }
    Ok(())
}

/// As if only the log had ever been written.
fn forget_rows(data: &Path) -> Result<()> {
    for name in ["rows", "snapshots"] {
        fs::remove_dir_all(data.join(name)).with_context(|| format!("removing {name}"))?;
    }
    for name in ["pointer.a", "pointer.b"] {
        fs::remove_file(data.join(name)).with_context(|| format!("removing {name}"))?;
    }
    Ok(())
}

/// Copies a directory, without the files that are not wanted, by name.
pub(super) fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(&name), wanted)?;
        } else if wanted(&name.to_string_lossy()) {
            fs::copy(entry.path(), to.join(&name))
                .with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(())
}
