//! `borealis-scheduler inspect|restore|recover|skip-entry`: what is done to a data directory while no replica runs on it.
//!
//! People call it as `borealis cluster inspect|restore|recover|skip-entry`. Not here: how it is done, see `replication`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use proto::NodeId;
use replication::{Identity, Inspection};
use serde_json::json;

use crate::machine::Machine;
use crate::options::Options;

/// What to do with a data directory.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "borealis-scheduler")]
pub enum Offline {
    /// Show what a data directory holds; nothing in it changes
    Inspect {
        /// Data directory on which no replica runs
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
            Offline::Inspect { dir, json } => {
                let found = replication::inspect(&dir)?;
                println!("{}", if json { to_json(&dir, &found).to_string() } else { to_text(&dir, &found) });
                Ok(())
            }
            Offline::Restore { from, dir, place } => {
                let manifest = transfer::read_manifest(&from)?;
                let options = place.options(&dir, &manifest.cluster)?;
                let identity = replication::restore(&from, &options)?;
                say_next(&identity, &dir, &place);
                Ok(())
            }
            Offline::Recover { dir, place, yes } => recover(&dir, &place, yes),
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

fn recover(dir: &Path, place: &Place, yes: bool) -> anyhow::Result<()> {
    let found = replication::inspect(dir)?;
    let Some(old) = &found.identity else {
        anyhow::bail!("{} belongs to no cluster: there is nothing to recover", dir.display());
    };
    println!("{}\n", to_text(dir, &found));
    let others: Vec<String> = found
        .members
        .iter()
        .filter(|m| m.node_id != old.node_id)
        .map(|m| NodeId(m.node_id).to_string())
        .collect();
    println!(
        "A new cluster would hold all of this. What only {} had is lost: every change that they acknowledged without this replica, which is each entry behind the last one above. If the directory of one of them can still be read, inspect it too, and recover the one whose last entry has the highest term, then the highest index.",
        if others.is_empty() { "others".to_owned() } else { others.join(", ") }
    );
    if !yes {
        println!(
            "Nothing was changed. Make sure that no other replica of the old cluster runs, then repeat with --yes."
        );
        return Ok(());
    }
    let (new, kept) = (beside(dir, "recovering"), beside(dir, &format!("before-epoch-{}", old.epoch + 1)));
    anyhow::ensure!(
        !kept.exists(),
        "{} is in the way: an earlier recovery kept its directory there",
        kept.display()
    );
    if new.exists() {
        // Of a try that broke off: it belongs to nobody.
        std::fs::remove_dir_all(&new).with_context(|| format!("removing {}", new.display()))?;
    }
    let options = place.options(&new, &old.cluster)?;
    let identity = replication::recover::<Machine>(dir, &options)?;
    std::fs::rename(dir, &kept).with_context(|| format!("renaming {}", dir.display()))?;
    std::fs::rename(&new, dir).with_context(|| format!("renaming {}", new.display()))?;
    println!("The old directory is kept as {}.", kept.display());
    say_next(&identity, dir, place);
    Ok(())
}

fn skip(dir: &Path, index: u64, checksum: Option<u32>) -> anyhow::Result<()> {
    use replication::Machine as _;
    let entry = replication::skippable::<Machine>(dir, index)?;
    let leader = NodeId(entry.node_id);
    let count = entry.commands.len();
    println!("entry {index} of term {}, of leader {leader}, carries {count} commands:", entry.term);
    for bytes in &entry.commands {
        match Machine::decode(bytes) {
            Ok(command) => println!("  {command:?}"),
            Err(why) => println!("  {why}"),
        }
    }
    let Some(checksum) = checksum else {
        println!(
            "checksum {:08x}\nNothing was changed. All of these commands would be left out. Look at them, and on every other replica too: the checksum must be the same. If none of them can be missed less than the whole cluster, repeat with --checksum {:08x} on every replica before any of them starts.",
            entry.crc32c, entry.crc32c
        );
        return Ok(());
    };
    replication::skip::<Machine>(dir, index, checksum)?;
    println!(
        "This replica leaves out entry {index}.\nnext: do the same on every other replica that has it, then start them; `borealis cluster fingerprint` must find them alike"
    );
    Ok(())
}

/// `DIR.ENDING`, beside `DIR`.
fn beside(dir: &Path, ending: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    dir.with_file_name(name)
}

fn say_next(identity: &Identity, dir: &Path, place: &Place) {
    println!(
        "{} holds the new cluster {} of {} with epoch {}; its first replica is {}.\nnext: start that replica, let others with empty directories join it (`borealis cluster join --via {}`), wait until hosts have come back (`borealis cluster status`), then `borealis cluster resume`",
        dir.display(),
        identity.cluster_id,
        identity.cluster,
        identity.epoch,
        NodeId(identity.node_id),
        place.api,
    );
}

fn to_json(dir: &Path, found: &Inspection) -> serde_json::Value {
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
        "condemned": found.condemned,
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

fn to_text(dir: &Path, found: &Inspection) -> String {
    let mut lines = vec![match &found.identity {
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
    let last = found.last.map_or("none".to_owned(), |(term, index)| format!("{index} of term {term}"));
    lines.push(format!("term {}, last entry {last}, log dropped up to {}", found.term, found.purged));
    lines.push(format!("rows: {} with sum {:016x}, stored up to {}", found.rows, found.sum, found.stored));
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
