//! Between openraft and the machine: applies entries in order, answers proposers, builds and installs snapshots.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use prost::Message as _;
use proto::wire::raft as wire;
use tokio::time::Instant;

use crate::error::StoreError;
use crate::ground::fs;
use crate::identity::off_thread;
use crate::log::lock;
use crate::machine::{Changes, Corrupt, Machine, Rows};
use crate::quarantine;
use crate::raft::{
    Answer, Batch, Data, Entry, LEVEL, LogId, Payload, SnapshotMeta, StoredMembership, Types, check_level,
    decode_whole,
};
use crate::small_file::SmallFile;
use crate::snapshot::{self, Snapshot};
use crate::state::cut::Pending;
use crate::state::rows::RowStore;
use crate::state::writer::RowWriter;
use crate::telemetry;

/// Apply lets others run after this time.
const TURN: Duration = Duration::from_millis(5);

type RaftSnapshot = openraft::alias::SnapshotOf<Types, Arc<Snapshot>>;

/// A machine whose type is forgotten, so that openraft is compiled once.
pub(crate) trait AnyMachine: Send + Sync {
    /// Applies commands in order; the answer is a `Vec` of the machine's replies.
    fn apply(&self, batch: &Batch, changes: &mut Changes) -> Result<Box<dyn Any + Send>, Corrupt>;
    /// Makes the machine anew.
    fn reload(&self, rows: &mut Rows<'_>) -> Result<(), Corrupt>;
}

/// The machine, locked for the time of one entry.
pub(crate) struct Held<M>(RwLock<M>);

impl<M> Held<M> {
    pub(crate) fn new(machine: M) -> Self {
        Held(RwLock::new(machine))
    }

    pub(crate) fn read<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        look(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl<M: Machine> AnyMachine for Held<M> {
    fn apply(&self, batch: &Batch, changes: &mut Changes) -> Result<Box<dyn Any + Send>, Corrupt> {
        let decoded = batch.commands().map(M::decode).collect::<Result<Vec<_>, _>>()?;
        let mut machine = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let replies: Vec<M::Reply> =
            decoded.into_iter().map(|command| machine.apply(command, changes)).collect();
        Ok(Box::new(replies))
    }

    fn reload(&self, rows: &mut Rows<'_>) -> Result<(), Corrupt> {
        let machine = M::load(rows)?;
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = machine;
        Ok(())
    }
}

/// What openraft calls the state machine.
#[derive(Clone)]
pub(crate) struct Adapter {
    dir: PathBuf,
    machine: Arc<dyn AnyMachine>,
    pending: Arc<Pending>,
    writer: RowWriter,
    newest: Arc<Mutex<Option<Arc<Snapshot>>>>,
    /// Held while a snapshot is built or installed: while one is installed there are no rows to copy.
    turn: Arc<tokio::sync::Mutex<()>>,
}

thread_local! {
    static APPLIES: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread applies an entry. If it panics then, the process ends by itself, once it has said which entry it
/// was: a panic hook that ends processes must leave it to that.
pub fn applies() -> bool {
    APPLIES.get()
}

impl Adapter {
    pub(crate) fn new(
        dir: PathBuf,
        machine: Arc<dyn AnyMachine>,
        pending: Arc<Pending>,
        writer: RowWriter,
        newest: Option<Arc<Snapshot>>,
    ) -> Self {
        Adapter { dir, machine, pending, writer, newest: Arc::new(Mutex::new(newest)), turn: Arc::default() }
    }

    fn apply_entry(&self, entry: &Entry) -> Result<Answer, Corrupt> {
        let began = Instant::now();
        let answer = apply(&*self.machine, &self.pending, entry)?;
        telemetry::applied(began.elapsed());
        Ok(answer)
    }

    /// A panic would happen on every replica; swallowed, it would leave a machine half changed.
    fn apply_or_abort(&self, entry: &Entry) -> Result<Answer, Corrupt> {
        let before = APPLIES.replace(true);
        let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.apply_entry(entry)));
        APPLIES.set(before);
        applied.unwrap_or_else(|_| {
            eprintln!(
                "applying entry {} panicked (message above); the process ends, since going on would mean guessing",
                entry.log_id
            );
            std::process::abort()
        })
    }

    /// Stores all that is applied, and copies it.
    pub(crate) async fn take_snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        let _turn = self.turn.lock().await;
        let home = snapshot::home(&self.dir);
        let copied = home.join(format!("{}.building", uuid::Uuid::new_v4().simple()));
        let began = Instant::now();
        let of = self.writer.checkpoint(copied.clone()).await?;
        let copied_after = began.elapsed();
        let snapshot = off_thread(move || snapshot::seal(&home, &copied, &of)).await?;
        let took = began.elapsed();
        telemetry::snapshot("built");
        telemetry::snapshot_taken(took);
        tracing::info!(
            id = snapshot.meta.id,
            files = snapshot.meta.files.len(),
            copy_ms = copied_after.as_millis(),
            seal_ms = (took - copied_after).as_millis(),
            "a snapshot was taken"
        );
        self.keep(&snapshot);
        Ok(snapshot)
    }

    /// How old the newest snapshot is.
    pub(crate) fn snapshot_age(&self) -> Option<Duration> {
        lock(&self.newest).as_ref().map(|newest| newest.age())
    }

    /// Another replica says that `snapshot` did not arrive as it should be: looks whether it is damaged here, and if so
    /// makes another. `Err` with a reason: the rows themselves are damaged, and another would be no better.
    pub(crate) async fn suspect(&self, snapshot: &Arc<Snapshot>) -> Result<(), String> {
        let turn = self.turn.lock().await;
        let looked_at = Arc::clone(snapshot);
        let damaged = off_thread(move || snapshot::check_files(&looked_at)).await.err();
        let Some(why) = damaged else {
            drop(turn);
            let looked_at = Arc::clone(snapshot);
            return match off_thread(move || snapshot::check_rows(&looked_at)).await {
                Err(damaged) if damaged.is_damage() => Err(damaged.to_string()),
                // It was damaged on its way.
                _ => Ok(()),
            };
        };
        tracing::error!(id = snapshot.meta.id, "a snapshot is damaged, another is made: {why}");
        telemetry::snapshot("damaged");
        let forgotten = Arc::clone(snapshot);
        if let Err(error) = off_thread(move || snapshot::forget(&forgotten)).await {
            tracing::error!("a damaged snapshot is still there: {error}");
        }
        drop(turn);
        if let Err(error) = self.take_snapshot().await {
            tracing::error!("there is no snapshot in the place of a damaged one: {error}");
        }
        Ok(())
    }

    /// Sets this replica's rows aside: it must not go on with them, and takes a peer's when it is started again.
    pub(crate) fn quarantine(&self, why: &str) {
        let members = self.pending.with(|present| present.at.members());
        if let Err(error) = quarantine::mark(&self.dir, why, &members) {
            tracing::error!("the quarantine could not be noted: {error}");
        }
    }

    /// A snapshot that arrived and was not installed, since something newer is here, goes.
    pub(crate) fn drop_unless_kept(&self, snapshot: &Arc<Snapshot>) {
        if lock(&self.newest).as_ref().is_none_or(|kept| kept.dir != snapshot.dir) {
            snapshot.doom();
        }
    }

    async fn install(&self, snapshot: Arc<Snapshot>) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        let began = Instant::now();
        self.writer.release(self.dir.clone()).await?;
        let this = self.clone();
        let source = Arc::clone(&snapshot);
        let (rows, at) = off_thread(move || {
            let (mut pointer, old) = open_pointer(&this.dir)?;
            let directory = next_directory(old.as_deref());
            let path = rows_home(&this.dir).join(&directory);
            snapshot::copy_rows(&source, &path)?;
            let mut rows = RowStore::open(&path)?;
            let ((), at) = rows.load(|rows| this.machine.reload(rows))?;
            // The pointer must never name what a power cut can take away.
            crate::small_file::sync_dir(&rows_home(&this.dir))?;
            pointer.write(&wire::RowsPointer { level: LEVEL, directory }.encode_to_vec())?;
            this.pending.replace(at.clone());
            if let Some(old) = old {
                let old = rows_home(&this.dir).join(old);
                fs::remove_dir_all(&old).map_err(StoreError::io("removing", &old))?;
            }
            Ok((rows, at))
        })
        .await?;
        let took_ms = began.elapsed().as_millis();
        tracing::info!(index = at.index(), took_ms, "a snapshot was installed");
        telemetry::snapshot("installed");
        self.writer.resume(rows, at).await;
        self.keep(&snapshot);
        Ok(())
    }

    /// The newest snapshot stays; an older one goes once nobody holds it.
    pub(crate) fn keep(&self, snapshot: &Arc<Snapshot>) {
        let mut newest = lock(&self.newest);
        let old = match newest.as_ref() {
            Some(kept) if kept.last() > snapshot.last() => Some(Arc::clone(snapshot)),
            _ => newest.replace(Arc::clone(snapshot)),
        };
        if let (Some(old), Some(kept)) = (old, newest.as_ref())
            && old.dir != kept.dir
        {
            old.doom();
        }
    }
}

/// Applies an entry: the machine moves, and the present with it. Of an entry that cannot be read neither does: rows
/// that are written later must not say that it is in them.
pub(crate) fn apply(machine: &dyn AnyMachine, pending: &Pending, entry: &Entry) -> Result<Answer, Corrupt> {
    pending.with(|present| {
        let answer = match &entry.payload {
            Payload::Blank | Payload::Normal(Data::Check(_)) => Answer::Nothing,
            Payload::Membership(membership) => {
                present.at.change_membership(entry.log_id, membership.clone());
                Answer::Nothing
            }
            Payload::Normal(Data::Reserve(uuid)) => Answer::Reserved(present.at.reserve(uuid)),
            Payload::Normal(Data::Batch(batch)) => {
                let replies = machine.apply(batch, &mut present.changes)?;
                present.log_bytes += batch.bytes() as u64;
                Answer::Replies(Mutex::new(replies))
            }
        };
        present.at.applied = Some(entry.log_id);
        present.moved = true;
        Ok(answer)
    })
}

/// Names the directory of rows that holds, for good.
pub(crate) fn point_at_rows(dir: &Path, directory: &str) -> Result<(), StoreError> {
    let (mut pointer, _) = open_pointer(dir)?;
    crate::small_file::sync_dir(&rows_home(dir))?;
    pointer.write(&wire::RowsPointer { level: LEVEL, directory: directory.to_owned() }.encode_to_vec())
}

/// The directory of the rows that hold; `None` when there are none yet.
pub(crate) fn rows_in(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    let directory = SmallFile::open(dir, "pointer")?.1.map(|bytes| read_pointer(&bytes)).transpose()?;
    Ok(directory.map(|directory| rows_home(dir).join(directory)))
}

pub(crate) fn rows_home(dir: &Path) -> PathBuf {
    dir.join("rows")
}

/// A name that no directory of rows has.
pub(crate) fn next_directory(old: Option<&str>) -> String {
    (old.and_then(|name| name.parse::<u64>().ok()).unwrap_or(0) + 1).to_string()
}

fn open_pointer(dir: &Path) -> Result<(SmallFile, Option<String>), StoreError> {
    let (file, bytes) = SmallFile::open_synced(dir, "pointer")?;
    Ok((file, bytes.map(|bytes| read_pointer(&bytes)).transpose()?))
}

fn read_pointer(bytes: &[u8]) -> Result<String, StoreError> {
    let pointer: wire::RowsPointer = decode_whole("pointer", bytes)?;
    check_level("pointer", pointer.level)?;
    if pointer.directory.parse::<u64>().is_err() {
        return Err(Corrupt::new("pointer", format!("names {:?}", pointer.directory)).into());
    }
    Ok(pointer.directory)
}

/// Opens the rows that the pointer names; other directories are left-overs and are removed.
pub(crate) fn open_rows(dir: &Path) -> Result<RowStore, StoreError> {
    let home = rows_home(dir);
    fs::create_dir_all(&home).map_err(StoreError::io("creating", &home))?;
    let (mut pointer, directory) = open_pointer(dir)?;
    let is_new = directory.is_none();
    let directory = directory.unwrap_or_else(|| next_directory(None));
    for entry in fs::read_dir(&home).map_err(StoreError::io("listing", &home))? {
        let path = entry.map_err(StoreError::io("listing", &home))?.path();
        if is_new || path.file_name().is_none_or(|name| name != directory.as_str()) {
            fs::remove_dir_all(&path).map_err(StoreError::io("removing", &path))?;
        }
    }
    let path = home.join(&directory);
    if !is_new && fs::metadata(&path).is_err() {
        return Err(Corrupt::new(path.display().to_string(), "is missing though the pointer names it").into());
    }
    let rows = RowStore::open(&path)?;
    if is_new {
        crate::small_file::sync_dir(&home)?;
        pointer.write(&wire::RowsPointer { level: LEVEL, directory }.encode_to_vec())?;
    }
    Ok(rows)
}

impl RaftSnapshotBuilder<Types> for Adapter {
    type SnapshotData = Arc<Snapshot>;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let snapshot = self.take_snapshot().await.map_err(StoreError::into_io)?;
        let meta = snapshot.raft_meta().map_err(io::Error::other)?;
        Ok(RaftSnapshot { meta, snapshot })
    }
}

impl RaftStateMachine<Types> for Adapter {
    type SnapshotData = Arc<Snapshot>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.pending.with(|present| (present.at.applied, present.at.membership.clone())))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut turn = Instant::now();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let answer = self.apply_or_abort(&entry).map_err(|corrupt| {
                io::Error::other(format!(
                    "entry {} cannot be applied: {corrupt}; its bytes are whole, so another version of this program wrote it: use that one or a newer",
                    entry.log_id
                ))
            })?;
            if let Payload::Normal(Data::Check(_)) = &entry.payload {
                self.pending.freeze_for_check().await;
                self.writer.nudge();
            }
            if let Some(responder) = responder {
                responder.send(answer);
            }
            if turn.elapsed() > TURN {
                tokio::task::yield_now().await;
                turn = Instant::now();
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, snapshot: Arc<Snapshot>) -> Result<(), io::Error> {
        self.install(snapshot).await.map_err(StoreError::into_io)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        let newest = lock(&self.newest).clone();
        newest
            .map(|snapshot| {
                let meta = snapshot.raft_meta().map_err(io::Error::other)?;
                Ok(RaftSnapshot { meta, snapshot })
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::machine::List;

    #[test]
    fn an_entry_that_nobody_can_read_moves_nothing() {
        let id = |index| LogId { leader_id: crate::raft::LeaderId { term: 1, node_id: 1 }, index };
        let entry = |index, command: &'static [u8]| Entry {
            log_id: id(index),
            payload: Payload::Normal(Data::Batch(vec![bytes::Bytes::from_static(command)].into())),
        };
        let (machine, pending) = (Held::new(List::default()), Pending::new(Default::default()));
        assert!(apply(&machine, &pending, &entry(1, b"8 bytes.")).is_ok());
        let unread = apply(&machine, &pending, &entry(2, b"of a newer program")).map(drop).unwrap_err();
        assert!(unread.to_string().contains("a command"), "{unread}");
        assert_eq!(pending.with(|present| present.at.applied), Some(id(1)), "else rows would claim it");
        assert_eq!(machine.read(|list| list.items.len()), 1);
    }
}
