//! A replica whose rows differ from the majority's: what it was is set aside, and before Raft starts it takes a peer's.
//!
//! Its log and its vote are sound and stay; what it acknowledged it still has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;
use proto::wire::raft as wire;

use crate::Identity;
use crate::adapter::{next_directory, point_at_rows, rows_home, rows_in};
use crate::disk;
use crate::error::StoreError;
use crate::ground::fs;
use crate::identity::{log_dir, off_thread};
use crate::log::Log;
use crate::membership::Member;
use crate::raft::{Node, decode_whole};
use crate::small_file::{self, sync_dir};
use crate::snapshot::{self, Incoming, Snapshot};
use crate::transport::Transport;

/// The file that says why.
const MARK: &str = "quarantined";

/// Notes that the rows in `dir` must not be used any more, and who the members are.
pub(crate) fn mark(dir: &Path, why: &str, members: &[Member]) -> Result<(), StoreError> {
    let node = |member: &Member| Node::of(member).to_wire(member.node_id);
    let note = wire::Quarantine { why: why.to_owned(), members: members.iter().map(node).collect() };
    small_file::replace(dir, MARK, &note.encode_to_vec())
}

/// Refuses rows that are known to be wrong.
pub(crate) fn refuse(dir: &Path) -> Result<(), StoreError> {
    match note(dir)? {
        None => Ok(()),
        Some(_) => Err(StoreError::Refused(format!(
            "the rows in {} are quarantined, since a majority had others; use another replica's directory",
            dir.display()
        ))),
    }
}

/// If the rows in `dir` are quarantined: sets them aside and takes those of the first peer that has them, which are
/// no older than what this replica's log has dropped.
pub(crate) async fn leave(dir: &Path, identity: &Identity, transport: &Transport) -> Result<(), StoreError> {
    let path = dir.to_owned();
    let Some(wanted) = off_thread(move || wanted(&path)).await? else { return Ok(()) };
    let mut said = Vec::new();
    for member in wanted.peers.iter().filter(|member| member.node_id != identity.node_id) {
        match take(dir, member, transport, wanted.purged).await {
            Ok(snapshot) => {
                let (dir, aside) = (dir.to_owned(), wanted.rows.clone());
                let id = snapshot.meta.id.clone();
                off_thread(move || replace(&dir, aside.as_deref(), &snapshot)).await?;
                tracing::warn!(from = member.node_id, id, "the rows of a peer were taken");
                return Ok(());
            }
            Err(why) => said.push(format!("node {}: {why}", member.node_id)),
        }
    }
    Err(StoreError::Refused(format!(
        "{} is quarantined, and no peer gave its rows; start this replica again when another runs ({})",
        dir.display(),
        said.join("; ")
    )))
}

struct Wanted {
    peers: Vec<Member>,
    /// Rows must be at least of this entry.
    purged: u64,
    /// The directory of the rows that are wrong.
    rows: Option<PathBuf>,
}

/// What [`mark`] noted.
fn note(dir: &Path) -> Result<Option<wire::Quarantine>, StoreError> {
    let path = dir.join(MARK);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(decode_whole(path.display().to_string(), &bytes[..])?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io("reading", path)(e)),
    }
}

/// Why the rows in `dir` are quarantined, if they are.
pub(crate) fn why(dir: &Path) -> Result<Option<String>, StoreError> {
    Ok(note(dir)?.map(|note| note.why))
}

fn wanted(dir: &Path) -> Result<Option<Wanted>, StoreError> {
    let Some(note) = note(dir)? else { return Ok(None) };
    let member = |node: &wire::Node| Node::from_wire(node).member(node.id, !node.learner);
    let (_, purged) = Log::look_at(&log_dir(dir))?.ends();
    Ok(Some(Wanted {
        peers: note.members.iter().map(member).collect(),
        purged: purged.map_or(0, |id| id.index),
        rows: rows_in(dir)?,
    }))
}

async fn take(
    dir: &Path,
    from: &Member,
    transport: &Transport,
    purged: u64,
) -> Result<Arc<Snapshot>, StoreError> {
    let broken = |status: tonic::Status| StoreError::Refused(status.message().to_owned());
    let mut chunks = transport.fetch(from).await.map_err(broken)?;
    let first = chunks.message().await.map_err(broken)?.and_then(|chunk| chunk.body);
    let Some(wire::snapshot_chunk::Body::Header(wire::SnapshotHeader { meta: Some(meta), .. })) = first
    else {
        return Err(StoreError::Refused("it did not say what it sends".to_owned()));
    };
    if meta.last.as_ref().map_or(0, |last| last.index) < purged {
        return Err(StoreError::Refused(format!("its rows are older than entry {purged} of this log")));
    }
    let home = snapshot::home(dir);
    let mut incoming = off_thread(move || Incoming::begin(&home, meta)).await?;
    let begin = incoming.place();
    let mut due = begin.name.is_empty();
    while let Some(chunk) = chunks.message().await.map_err(broken)? {
        let Some(wire::snapshot_chunk::Body::Data(data)) = chunk.body else { continue };
        // What arrived in an earlier try is sent again, and not needed.
        due |= data.name == begin.name && data.offset == begin.offset;
        if due && !begin.name.is_empty() {
            incoming = off_thread(move || incoming.take(&data).map(|()| incoming)).await?;
        }
    }
    off_thread(move || {
        let snapshot = incoming.finish()?;
        snapshot::check_rows(&snapshot).inspect_err(|_| snapshot.doom())?;
        Ok(snapshot)
    })
    .await
}

/// The order matters: until the mark is gone, all of this is done again.
fn replace(dir: &Path, wrong: Option<&Path>, snapshot: &Snapshot) -> Result<(), StoreError> {
    if let Some(rows) = wrong
        && disk::exists(rows)?
    {
        let kept = rows_home(dir).with_file_name("rows.quarantined");
        if disk::exists(&kept)? {
            fs::remove_dir_all(&kept).map_err(StoreError::io("removing", &kept))?;
        }
        fs::rename(rows, &kept).map_err(StoreError::io("renaming", rows))?;
    }
    let name = wrong.and_then(Path::file_name).map(|name| name.to_string_lossy());
    let directory = next_directory(name.as_deref());
    snapshot::copy_rows(snapshot, &rows_home(dir).join(&directory))?;
    point_at_rows(dir, &directory)?;
    let mark = dir.join(MARK);
    fs::remove_file(&mark).map_err(StoreError::io("removing", &mark))?;
    sync_dir(dir)
}
