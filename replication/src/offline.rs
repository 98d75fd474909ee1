//! What is done to a data directory while no replica runs on it: look at it, make a new cluster of a backup, or of
//! what is left when a quorum is lost for good, leave out an entry that no replica can apply.
//!
//! A new cluster has a new id and a higher epoch in the same line, one member, and a log that begins behind the last
//! entry that is in it. The identity is written last: until then there is no cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::adapter::{self, Held, check_reach, point_at_rows, rows_home, rows_in};
use crate::disk;
use crate::error::StoreError;
use crate::ground::fs::{self, File};
use crate::identity::{
    self, Identity, epoch_after, identity, log_dir, new_uuid, refuse_all_but, settle, store_uuid,
};
use crate::log::{Log, Still, skip};
use crate::machine::{Corrupt, Machine};
use crate::membership::Member;
use crate::options::Options;
use crate::quarantine;
use crate::raft::{Data, Entry, LeaderId, LogId, Membership, Node, Payload, StoredMembership, entry_to_wire};
use crate::snapshot;
use crate::state::cut::{Cut, Pending, Point};
use crate::state::rows::RowStore;

/// Beside the directory's uuid, what a restore or a recovery may have made that broke off.
const UNFINISHED: [&str; 8] = [
    "log",
    "rows",
    "pointer.a",
    "pointer.b",
    "pointer.a.new",
    "pointer.b.new",
    "identity.a.new",
    "identity.b.new",
];
/// The directory of rows in a new data directory.
const FIRST_ROWS: &str = "1";

/// A data directory as it lies there.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Whose it is; `None` = it belongs to no cluster.
    pub identity: Option<Identity>,
    /// Whether it belongs to no cluster, but a join, a restore or a recovery was begun there and broke off.
    pub unfinished: bool,
    /// Why it must not vote any more, if it was condemned.
    pub condemned: Option<String>,
    /// Why its rows must not be used, if they are quarantined.
    pub quarantined: Option<String>,
    /// The term of the newest vote.
    pub term: u64,
    /// The last entry of the log as (term, index). Of several survivors, the one with the highest has the most.
    pub last: Option<(u64, u64)>,
    /// Index up to which the log was dropped.
    pub purged: u64,
    /// Index up to which rows are stored.
    pub stored: u64,
    /// How many rows there are.
    pub rows: u64,
    /// Wrapping sum of the rows' hashes.
    pub sum: u64,
    /// The members at `stored`. Nobody was heard: lag and time are not known.
    pub members: Vec<Member>,
    /// Name of the newest snapshot.
    pub snapshot: Option<String>,
    /// Entries that are left out.
    pub skipped: Vec<u64>,
}

/// Looks at a data directory on which no replica runs, and changes nothing in it.
pub fn inspect(dir: &Path) -> Result<Inspection, StoreError> {
    let _lock = lock_existing(dir)?;
    let condemned = disk::condemned(dir)?;
    let quarantined = quarantine::why(dir)?;
    let identity = identity(dir)?;
    let unfinished = identity.is_none() && (disk::exists(&log_dir(dir))? || disk::exists(&rows_home(dir))?);
    // What lies there without an identity counts for nothing.
    let (log, rows_dir) = match identity {
        Some(_) => (Some(Log::look_at(&log_dir(dir))?), rows_in(dir)?),
        None => (None, None),
    };
    let (point, (rows, sum)) = match rows_dir {
        Some(path) => {
            let mut rows = RowStore::open_to_look(&path)?;
            let ((), point) = rows.load(|_| Ok(()))?;
            (point, rows.summed())
        }
        None => (Point::default(), (0, 0)),
    };
    let (last, purged) = log.as_ref().map(|log| log.ends()).unwrap_or_default();
    check_reach(dir, point.applied, purged)?;
    Ok(Inspection {
        identity,
        unfinished,
        condemned,
        quarantined,
        term: log.as_ref().and_then(|log| log.vote).map_or(0, |vote| vote.leader_id.term),
        last: last.map(|id| (id.leader_id.term, id.index)),
        purged: purged.map_or(0, |id| id.index),
        stored: point.index(),
        rows,
        sum,
        members: point.members(),
        snapshot: snapshot::names(&snapshot::home(dir))?.pop(),
        skipped: log.iter().flat_map(|log| log.skipped()).collect(),
    })
}

/// The level at which a machine acts that is read from the rows of a data directory on which no replica runs.
pub fn level<M: Machine>(dir: &Path) -> Result<u32, StoreError> {
    let _lock = lock_existing(dir)?;
    load::<M>(dir).map(|(machine, _)| machine.level())
}

fn load<M: Machine>(dir: &Path) -> Result<(M, Point), StoreError> {
    match rows_in(dir)? {
        Some(path) => RowStore::open_to_look(&path)?.load(M::load),
        None => Ok((M::load(&mut std::iter::empty())?, Point::default())),
    }
}

/// A command entry of a log, for a person to look at.
#[derive(Clone, Debug)]
pub struct LoggedEntry {
    /// The term and the leader that it is of.
    pub term: u64,
    /// That leader.
    pub node_id: u64,
    /// Its place in the log.
    pub index: u64,
    /// The commands, in order, each as its machine encodes it.
    pub commands: Vec<bytes::Bytes>,
    /// Checksum over id and commands: the same on every replica that has this entry.
    pub crc32c: u32,
}

/// The entry at `index`, if the machine of this directory panics when it applies it: then it may be skipped.
pub fn skippable<M: Machine>(dir: &Path, index: u64) -> Result<LoggedEntry, StoreError> {
    let _lock = lock_existing(dir)?;
    find_skippable::<M>(dir, index).map(|(_, entry)| entry)
}

/// From now on this replica takes the entry at `index` for a blank one. It must be done on every replica, or at least
/// on a majority before they start, and `crc32c` must be that of [`skippable`]: the proof that a person has looked at it,
/// and that it is the same entry everywhere.
pub fn skip<M: Machine>(dir: &Path, index: u64, crc32c: u32) -> Result<(), StoreError> {
    let _lock = lock_existing(dir)?;
    disk::refuse_condemned(dir)?;
    let (id, entry) = find_skippable::<M>(dir, index)?;
    if entry.crc32c != crc32c {
        return Err(StoreError::Refused(format!(
            "entry {index} has the checksum {:08x}, not {crc32c:08x}: this is another entry than the one that was looked at",
            entry.crc32c
        )));
    }
    skip::add(&log_dir(dir), id)
}

fn find_skippable<M: Machine>(dir: &Path, index: u64) -> Result<(LogId, LoggedEntry), StoreError> {
    let refused = |why: &str| Err(StoreError::Refused(format!("entry {index} cannot be skipped: {why}")));
    let (machine, point) = load::<M>(dir)?;
    if point.applied.is_some_and(|applied| index <= applied.index) {
        let stored = point.index();
        return refused(&format!("this replica has applied it, its rows are of entry {stored}"));
    }
    if !disk::exists(&log_dir(dir))? {
        return refused("there is no log");
    }
    let log = Log::look_at(&log_dir(dir))?;
    check_reach(dir, point.applied, log.ends().1)?;
    let Some(entry) = log.entries(index)?.into_iter().next() else {
        return refused("the log does not reach so far");
    };
    let Entry { log_id, payload: Payload::Normal(Data::Batch(batch)) } = &entry else {
        return refused("it carries no command, or is skipped already");
    };
    match first_that_fails(&log, machine, point, index)? {
        Some((at, _)) if at < index => {
            return refused(&format!(
                "entry {at} before it cannot be applied either: look at that one first"
            ));
        }
        Some((_, Some(unread))) => return refused(&format!("{unread}; a newer program may know it")),
        Some((_, None)) => {}
        None => return refused("it can be applied: whoever sent it may have been told that it is done"),
    }
    let LogId { leader_id: LeaderId { term, node_id }, index } = *log_id;
    let commands: Vec<_> = batch.commands().map(bytes::Bytes::copy_from_slice).collect();
    let crc32c = crc32c::crc32c(&entry_to_wire(&entry).encode_to_vec());
    Ok((*log_id, LoggedEntry { term, node_id, index, commands, crc32c }))
}

/// Applies the log behind `point`, up to `to`, and finds the first entry that panics or cannot be read. Nothing is kept.
fn first_that_fails<M: Machine>(
    log: &Still,
    machine: M,
    point: Point,
    to: u64,
) -> Result<Option<(u64, Option<Corrupt>)>, StoreError> {
    let portions = log.portions(point.next_index());
    let (machine, pending) = (Held::new(machine), Pending::new(point));
    for portion in portions {
        for entry in &portion? {
            if entry.log_id.index > to {
                return Ok(None);
            }
            let apply = std::panic::AssertUnwindSafe(|| adapter::apply(&machine, &pending, entry));
            match std::panic::catch_unwind(apply) {
                Ok(Ok(_)) => {}
                Ok(Err(unread)) => return Ok(Some((entry.log_id.index, Some(unread)))),
                Err(_) => return Ok(Some((entry.log_id.index, None))),
            }
        }
    }
    Ok(None)
}

fn lock_existing(dir: &Path) -> Result<File, StoreError> {
    if !disk::exists(dir)? {
        return Err(StoreError::Refused(format!("there is no data directory {}", dir.display())));
    }
    // In a directory that was named by mistake nothing is made, not even the lock.
    for name in ["store.a", "identity.a", "identity.b", "log", "lock"] {
        if disk::exists(&dir.join(name))? {
            return disk::lock_dir(dir);
        }
    }
    Err(StoreError::Refused(format!("{} is no data directory of a replica", dir.display())))
}

/// Makes a new cluster of a backup in the empty directory of `options`. It is held until a person lets it go on. One
/// that broke off may be repeated.
pub fn restore(backup: &Path, options: &Options) -> Result<Identity, StoreError> {
    let began = Began::now();
    let manifest = transfer::check(backup)?;
    if manifest.cluster != options.cluster {
        return Err(StoreError::Refused(format!(
            "{} is a backup of cluster {:?}, not of {:?}; jobs carry the name of their cluster, so it stays",
            backup.display(),
            manifest.cluster,
            options.cluster
        )));
    }
    identity::refuse_early_clock("the backup was taken", Duration::from_millis(manifest.taken_ms))?;
    epoch_after(manifest.epoch)?;
    let meta = manifest.snapshot.unwrap_or_default();
    let (rows_dir, _lock) = begin(options)?;
    for file in &meta.files {
        copy(&backup.join(&file.name), &rows_dir.join(&file.name))?;
    }
    let mut rows = RowStore::open(&rows_dir)?;
    let ((), point) = rows.load(|_| Ok(()))?;
    if rows.summed() != (meta.rows, meta.sum) {
        return Err(StoreError::Refused(format!(
            "{} does not hold the rows that its manifest counts: the backup is damaged",
            backup.display()
        )));
    }
    let before = Before { lineage_id: manifest.lineage_id, epoch: manifest.epoch, node_id: manifest.node_id };
    begin_again(options, began, before, rows, point)
}

/// Whose directory `left` is, if a new cluster can be made of it: it is sound, no replica runs on it, and the clock
/// gives an epoch.
pub fn may_recover(left: &Path) -> Result<Identity, StoreError> {
    let _lock = lock_existing(left)?;
    check_left(left)
}

fn check_left(left: &Path) -> Result<Identity, StoreError> {
    disk::refuse_condemned(left)?;
    quarantine::refuse(left)?;
    let Some(old) = identity(left)? else {
        return Err(StoreError::Refused(format!(
            "{} belongs to no cluster: there is nothing to recover",
            left.display()
        )));
    };
    epoch_after(old.epoch)?;
    Ok(old)
}

/// Makes a new cluster, in the empty directory of `options`, of what the directory `left` of an old one has: its rows
/// and all of its log. What only others had is lost. `left` stays as it is.
pub fn recover<M: Machine>(left: &Path, options: &Options) -> Result<Identity, StoreError> {
    let began = Began::now();
    let _lock_left = lock_existing(left)?;
    let old = check_left(left)?;
    if old.cluster != options.cluster {
        return Err(StoreError::OtherCluster {
            path: left.to_owned(),
            found: old.cluster,
            wanted: options.cluster.clone(),
        });
    }
    let log = Log::look_at(&log_dir(left))?;
    let from = rows_in(left)?;
    let (rows_dir, _lock) = begin(options)?;
    if let Some(from) = from {
        for entry in fs::read_dir(&from).map_err(StoreError::io("listing", &from))? {
            let entry = entry.map_err(StoreError::io("listing", &from))?;
            // RocksDB's own lock and notes are not rows.
            let name = entry.file_name();
            if name != "LOCK" && !name.to_string_lossy().starts_with("LOG") {
                copy(&entry.path(), &rows_dir.join(name))?;
            }
        }
    }
    let mut rows = RowStore::open(&rows_dir)?;
    let (machine, point) = rows.load(M::load)?;
    check_reach(left, point.applied, log.ends().1)?;
    let (machine, pending) = (Held::new(machine), Pending::new(point.clone()));
    for portion in log.portions(point.next_index()) {
        for entry in &portion.map_err(|error| error.within(left.display()))? {
            adapter::apply(&machine, &pending, entry)?;
        }
        while let Some(cut) = pending.next_cut() {
            rows.write(&cut)?;
        }
    }
    let point = pending.with(|present| present.at.clone());
    begin_again(
        options,
        began,
        Before { lineage_id: old.lineage_id, epoch: old.epoch, node_id: old.node_id },
        rows,
        point,
    )
}

/// Makes room for rows in a directory that belongs to nobody, and keeps it. Before that is certain nothing in it changes,
/// but for the lock. What an earlier try left that did not get to the identity is removed.
fn begin(options: &Options) -> Result<(PathBuf, File), StoreError> {
    let dir = &options.dir;
    refuse_all_but(dir, &UNFINISHED)?;
    fs::create_private_dir(dir).map_err(StoreError::io("creating", dir))?;
    let lock = disk::lock_dir(dir)?;
    // Another may have had it until now.
    refuse_all_but(dir, &UNFINISHED)?;
    if identity(dir)?.is_some() {
        return Err(StoreError::NotEmpty { path: dir.clone() });
    }
    for name in UNFINISHED {
        let path = dir.join(name);
        let removed = match name {
            "log" | "rows" => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("removing", path)(e));
            }
            _ => {}
        }
    }
    store_uuid(dir)?;
    let rows = rows_home(dir);
    fs::create_private_dir(&rows).map_err(StoreError::io("creating", &rows))?;
    let rows = rows.join(FIRST_ROWS);
    fs::create_dir_all(&rows).map_err(StoreError::io("creating", &rows))?;
    Ok((rows, lock))
}

fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::copy(from, to).map_err(StoreError::io("copying", from))?;
    File::open(to).and_then(|file| file.sync_all()).map_err(StoreError::io("syncing", to))
}

/// When a new cluster was begun to be made.
struct Began {
    wall: Duration,
    at: Instant,
}

impl Began {
    fn now() -> Self {
        Began { wall: identity::now(), at: Instant::now() }
    }

    /// Returns in a later minute.
    fn await_minute(&self) {
        std::thread::sleep(identity::rest_of_minute(self.wall, self.at.elapsed()));
    }
}

/// The cluster that was.
struct Before {
    lineage_id: String,
    epoch: u64,
    /// Whose rows they are. A replica that was catching up may not have applied yet that this id is taken.
    node_id: u64,
}

/// The rows as those of a new cluster's only member; then its log, vote and identity.
fn begin_again(
    options: &Options,
    began: Began,
    before: Before,
    mut rows: RowStore,
    point: Point,
) -> Result<Identity, StoreError> {
    let Some(last) = point.applied else {
        return Err(StoreError::Refused("there is nothing in it: not even a first entry was applied".into()));
    };
    if options.await_minute {
        began.await_minute();
    }
    let identity = Identity {
        cluster_id: new_uuid(),
        node_id: point.next_node_id.max(before.node_id + 1),
        store_uuid: store_uuid(&options.dir)?,
        cluster: options.cluster.clone(),
        lineage_id: before.lineage_id,
        epoch: epoch_after(before.epoch)?,
    };
    let at = alone(options, &identity, last)?;
    let cut = Cut { at, rows: Default::default(), check: false, log_bytes: 0 };
    rows.write(&cut)?;
    rows.flush()?;
    drop(rows);
    point_at_rows(&options.dir, FIRST_ROWS)?;
    settle(options, &identity, &[], Some(last))?;
    Ok(identity)
}

/// The point of `last` in a cluster of one member. Node ids of before are not used again.
fn alone(options: &Options, identity: &Identity, last: LogId) -> Result<Point, StoreError> {
    let me = Node {
        raft_address: options.raft_address.clone(),
        api_address: options.api_address.clone(),
        store_uuid: identity.store_uuid.clone(),
        learner: false,
    };
    let node_id = identity.node_id;
    let membership = Membership::new(vec![[node_id].into()], BTreeMap::from([(node_id, me)]))
        .map_err(|e| Corrupt::new("the new membership", e.to_string()))?;
    Ok(Point {
        applied: Some(last),
        membership: StoredMembership::new(Some(last), membership),
        next_node_id: node_id + 1,
        ..Point::default()
    })
}
