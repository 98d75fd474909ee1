//! `borealis-scheduler inspect|restore|recover|skip-entry`: what is done to a data directory while no replica runs on it.
//!
//! People call it as `borealis cluster inspect|restore|recover|skip-entry`. Not here: how it is done, see `replication`.

mod recover;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use proto::NodeId;
use proto::wire::raft::BackupManifest;
use replication::{Identity, Inspection};
use serde_json::json;

use crate::machine::Machine;
use crate::options::Options;

/// What to do with a data directory.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "borealis-scheduler")]
pub enum Offline {
    /// Show what a data directory or a backup holds; nothing in it changes
    Inspect {
        /// Data directory on which no replica runs, or directory of a backup
        #[arg(long)]
        dir: PathBuf,
        /// Answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a new cluster of a backup; it is held until `borealis cluster resume`
    Restore {
        /// Directory of the backup
        #[arg(long)]
        from: PathBuf,
        /// Data directory of the new cluster's first replica; empty or missing
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        /// Where its replica will be reached.
        place: Place,
    },
    /// When a majority is lost for good: make a new cluster of what one replica has; without --yes only say what that is
    Recover {
        /// Data directory of the replica that has the most; it is kept beside the new one
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        /// Where its replica will be reached.
        place: Place,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Leave out an entry that no replica can apply; without --checksum only show what it says
    SkipEntry {
        /// Data directory of the replica
        #[arg(long)]
        dir: PathBuf,
        /// Which entry: the last number that the replica gave when it ended, 30 of T1-N1.30
        #[arg(long)]
        index: u64,
        /// The entry's checksum, as it was shown: it says that a person has looked, and at which entry
        #[arg(long, value_parser = checksum)]
        checksum: Option<u32>,
    },
}

fn checksum(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 16).map_err(|why| format!("{text:?} is no checksum of eight hex digits: {why}"))
}

/// Where the new cluster's first replica will be reached.
#[derive(clap::Args, Clone, Debug)]
pub struct Place {
    /// HOST:PORT under which others reach its --api
    #[arg(long)]
    api: String,
    /// HOST:PORT under which other replicas reach its --raft
    #[arg(long)]
    raft: String,
}

impl Offline {
    /// Whether a first argument is one of these verbs.
    pub fn is_verb(word: &str) -> bool {
        matches!(word, "inspect" | "restore" | "recover" | "skip-entry")
    }

    /// Does it.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Offline::Inspect { dir, json } => say(inspect(&dir, json)?),
            Offline::Restore { from, dir, place } => {
                let manifest = transfer::read_manifest(&from)?;
                let mut options = place.options(&dir, &manifest.cluster)?;
                options.await_minute = true;
                eprintln!("{PATIENCE}");
                let identity = replication::restore(&from, &options)?;
                say_next(&identity, &dir, &place.api)
            }
            Offline::Recover { dir, place, yes } => recover::run(&dir, &place, yes, true),
            Offline::SkipEntry { dir, index, checksum } => skip(&dir, index, checksum),
        }
    }
}

impl Place {
    fn options(&self, dir: &Path, cluster: &str) -> anyhow::Result<replication::Options> {
        use clap::Parser as _;
        let dir_word = dir.as_os_str();
        let words =
            ["borealis-scheduler", "--api", &self.api, "--raft", &self.raft, "--cluster", cluster, "--dir"];
        let words = words.iter().map(std::ffi::OsStr::new).chain([dir_word]);
        Options::try_parse_from(words)?.check().map_err(anyhow::Error::msg)?;
        let profile = replication::Profile::default();
        Ok(replication::Options::new(dir, cluster, &self.raft, &self.api, profile))
    }
}

/// Said before a new cluster is made.
const PATIENCE: &str = "This takes up to a minute more than its work: an epoch counts minutes, and no later cluster may get the same. Wait until it says what is next.";

/// Prints to those who still read: one who does not (`| head -1`) takes nothing back of what was done.
fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    say_to(std::io::stdout().lock(), text)
}

fn say_to(mut readers: impl std::io::Write, text: impl std::fmt::Display) -> anyhow::Result<()> {
    match writeln!(readers, "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("writing the answer"),
        _ => Ok(()),
    }
}

fn inspect(dir: &Path, json: bool) -> anyhow::Result<String> {
    let manifest = dir.join(transfer::MANIFEST);
    if manifest.try_exists().with_context(|| format!("looking at {}", manifest.display()))? {
        let manifest = transfer::read_manifest(dir)?;
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = age.saturating_sub(Duration::from_millis(manifest.taken_ms));
        return Ok(if json {
            backup_to_json(dir, &manifest).to_string()
        } else {
            backup_to_text(dir, &manifest, age)
        });
    }
    let found = replication::inspect(dir)?;
    // Rows that this program cannot read are shown all the same, but for this.
    let level =
        found.identity.as_ref().map(|_| replication::level::<Machine>(dir).map_err(|e| e.to_string()));
    Ok(if json { to_json(dir, &found, level).to_string() } else { to_text(dir, &found, level) })
}

fn skip(dir: &Path, index: u64, checksum: Option<u32>) -> anyhow::Result<()> {
    use replication::Machine as _;
    let entry = replication::skippable::<Machine>(dir, index)?;
    let leader = NodeId(entry.node_id);
    let count = entry.commands.len();
    say(format_args!("entry {index} of term {}, of leader {leader}, carries {count} commands:", entry.term))?;
    for bytes in &entry.commands {
        match Machine::decode(bytes) {
            Ok(command) => say(format_args!("  {command:?}"))?,
            Err(why) => say(format_args!("  {why}"))?,
        }
    }
    let Some(checksum) = checksum else {
        return say(format_args!(
            "checksum {:08x}\nNothing was changed. All of these commands would be left out. Look at them, and on every other replica too: the checksum must be the same. If none of them can be missed less than the whole cluster, repeat with --checksum {:08x} on every replica before any of them starts.",
            entry.crc32c, entry.crc32c
        ));
    };
    replication::skip::<Machine>(dir, index, checksum)?;
    say(format_args!(
        "This replica leaves out entry {index}.\nnext: do the same on every other replica that has it, then start them; `borealis cluster fingerprint` must find them alike"
    ))
}

fn say_next(identity: &Identity, dir: &Path, api: &str) -> anyhow::Result<()> {
    say(format_args!(
        "{} holds the new cluster {} of {} with epoch {}; its first replica is {}.\nnext: start that replica, let others with empty directories join it (`borealis cluster join --via {}`), wait until hosts have come back (`borealis cluster status`), then `borealis cluster resume`",
        dir.display(),
        identity.cluster_id,
        identity.cluster,
        identity.epoch,
        NodeId(identity.node_id),
        api,
    ))
}

fn backup_to_json(dir: &Path, manifest: &BackupManifest) -> serde_json::Value {
    let snapshot = manifest.snapshot.clone().unwrap_or_default();
    json!({
        "backup": dir.display().to_string(),
        "cluster": manifest.cluster,
        "cluster_id": manifest.cluster_id,
        "lineage_id": manifest.lineage_id,
        "epoch": manifest.epoch,
        "node_id": manifest.node_id,
        "taken_ms": manifest.taken_ms,
        "format_level": manifest.level,
        "stored_index": snapshot.last.map_or(0, |last| last.index),
        "rows": snapshot.rows,
        "sum": format!("{:016x}", snapshot.sum),
        "files": snapshot.files.len(),
        "bytes": snapshot.files.iter().map(|file| file.bytes).sum::<u64>(),
    })
}

fn backup_to_text(dir: &Path, manifest: &BackupManifest, age: Duration) -> String {
    let snapshot = manifest.snapshot.clone().unwrap_or_default();
    format!(
        "{} is a backup of cluster {} ({}), epoch {}, taken from {} at {} s since 1970, {} h {} min ago\nrows: {} with sum {:016x}, stored up to {}\nfiles: {} of {} bytes in all, format level {}; they were not read: a restore checks each",
        dir.display(),
        manifest.cluster,
        manifest.cluster_id,
        manifest.epoch,
        NodeId(manifest.node_id),
        manifest.taken_ms / 1000,
        age.as_secs() / 3600,
        age.as_secs() / 60 % 60,
        snapshot.rows,
        snapshot.sum,
        snapshot.last.map_or(0, |last| last.index),
        snapshot.files.len(),
        snapshot.files.iter().map(|file| file.bytes).sum::<u64>(),
        manifest.level,
    )
}

/// The level at which its machine acts; `None` where there is no machine, else why it is not known.
type Level = Option<Result<u32, String>>;

fn to_json(dir: &Path, found: &Inspection, level: Level) -> serde_json::Value {
    let members: Vec<_> = found
        .members
        .iter()
        .map(|m| json!({ "node_id": m.node_id, "raft_address": m.raft_address, "api_address": m.api_address, "voter": m.voter }))
        .collect();
    json!({
        "dir": dir.display().to_string(),
        "cluster": found.identity.as_ref().map(|id| id.cluster.clone()),
        "cluster_id": found.identity.as_ref().map(|id| id.cluster_id.clone()),
        "node_id": found.identity.as_ref().map(|id| id.node_id),
        "epoch": found.identity.as_ref().map(|id| id.epoch),
        "unfinished": found.unfinished,
        "condemned": found.condemned,
        "quarantined": found.quarantined,
        "apply_level": level.and_then(Result::ok),
        "term": found.term,
        "last_term": found.last.map(|(term, _)| term),
        "last_index": found.last.map(|(_, index)| index),
        "purged_index": found.purged,
        "stored_index": found.stored,
        "rows": found.rows,
        "sum": format!("{:016x}", found.sum),
        "snapshot": found.snapshot,
        "skipped": found.skipped,
        "members": members,
    })
}

fn to_text(dir: &Path, found: &Inspection, level: Level) -> String {
    let mut lines = vec![match &found.identity {
        None if found.unfinished => format!(
            "{} belongs to no cluster; a join, a restore or a recovery into it broke off: repeat that command",
            dir.display()
        ),
        None => format!("{} belongs to no cluster", dir.display()),
        Some(id) => format!(
            "{} is {} of cluster {} ({}), epoch {}",
            dir.display(),
            NodeId(id.node_id),
            id.cluster,
            id.cluster_id,
            id.epoch
        ),
    }];
    if let Some(why) = &found.condemned {
        lines.push(format!("condemned: {why}"));
    }
    if let Some(why) = &found.quarantined {
        lines.push(format!("its rows are quarantined: {why}"));
    }
    let last = found.last.map_or("none".to_owned(), |(term, index)| format!("{index} of term {term}"));
    lines.push(format!("term {}, last entry {last}, log dropped up to {}", found.term, found.purged));
    lines.push(format!("rows: {} with sum {:016x}, stored up to {}", found.rows, found.sum, found.stored));
    match level {
        Some(Ok(level)) => lines.push(format!("apply level {level}")),
        Some(Err(why)) => lines.push(format!("apply level not known: {why}")),
        None => {}
    }
    lines.push(format!("newest snapshot: {}", found.snapshot.as_deref().unwrap_or("none")));
    if !found.skipped.is_empty() {
        lines.push(format!("entries that are left out: {:?}", found.skipped));
    }
    lines.extend(found.members.iter().map(|m| {
        let what = if m.voter { "votes" } else { "learns" };
        format!("member {}: raft {}, api {}, {what}", NodeId(m.node_id), m.raft_address, m.api_address)
    }));
    lines.join("\n")
}
