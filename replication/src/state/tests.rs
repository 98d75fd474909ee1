//! Rows against crashes between cuts and flushes, damage, and a snapshot's way.

use std::path::Path;
use std::sync::Arc;

use openraft::RaftSnapshotBuilder as _;
use openraft::storage::RaftStateMachine as _;

use crate::adapter::{Adapter, Held, open_rows};
use crate::machine::{Corrupt, Rows};
use crate::raft::{LeaderId, LogId};
use crate::snapshot::{self, Incoming};
use crate::state::cut::{Pending, Point};
use crate::state::rows::{RowStore, Sum};
use crate::state::writer::{Copied, RowWriter};
use crate::{Changes, StoreError};

fn id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index }
}

type AllRows = Vec<(Vec<u8>, Vec<u8>)>;

fn all(rows: &mut Rows<'_>) -> Result<AllRows, Corrupt> {
    rows.map(|row| row.map(|(key, row)| (key.into_vec(), row.into_vec()))).collect()
}

fn load(path: &Path) -> Result<(AllRows, Point), StoreError> {
    RowStore::open(path)?.load(all)
}

/// Applies entry `index`: row `index % 7` becomes the index, row "last" too.
fn apply(pending: &Pending, index: u64) {
    pending.with(|present| {
        present.at.applied = Some(id(index));
        present.moved = true;
        let value = Arc::new(index.to_le_bytes().to_vec());
        let mut changes = std::mem::take(&mut present.changes);
        changes.put(format!("row{}", index % 7).into_bytes(), value.clone());
        changes.put(b"last".to_vec(), value);
        if index.is_multiple_of(5) {
            changes.delete(b"row3".to_vec());
        }
        present.changes = changes;
    });
}

/// What the rows must be when entries up to `index` are applied.
fn expected(index: u64) -> AllRows {
    let mut changes = Changes::default();
    for n in 1..=index {
        changes.put(format!("row{}", n % 7).into_bytes(), Arc::new(n.to_le_bytes().to_vec()));
        changes.put(b"last".to_vec(), Arc::new(n.to_le_bytes().to_vec()));
        if n % 5 == 0 {
            changes.delete(b"row3".to_vec());
        }
    }
    let encoded = changes.iter().filter_map(|(key, row)| {
        let mut bytes = Vec::new();
        row?.encode(&mut bytes);
        Some((key.to_vec(), bytes))
    });
    encoded.collect()
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

#[test]
fn after_a_crash_rows_and_their_index_belong_together() {
    let home = tempfile::tempdir().unwrap();
    let live = home.path().join("live");
    let mut rows = RowStore::open(&live).unwrap();
    let (_, at) = rows.load(all).unwrap();
    let pending = Pending::new(at);
    let mut stored = 0;
    for index in 1..=60 {
        apply(&pending, index);
        if index % 3 == 0 {
            rows.write(&pending.next_cut().unwrap()).unwrap();
        }
        if index % 12 == 0 {
            rows.flush().unwrap();
            stored = index;
        }
        // What the disk holds at this moment, as a crash would leave it.
        let crashed = home.path().join(format!("crashed{index}"));
        while copy_files(&live, &crashed).is_err() {
            // A file that nothing needs any more was removed meanwhile.
            std::fs::remove_dir_all(&crashed).unwrap();
        }
        let (found, at) = load(&crashed).unwrap();
        assert_eq!(at.index(), stored, "after entry {index}");
        assert_eq!(found, expected(stored), "after entry {index}");
    }
}

#[tokio::test]
async fn nothing_is_called_stored_before_it_is_flushed() {
    let home = tempfile::tempdir().unwrap();
    let mut rows = RowStore::open(&home.path().join("rows")).unwrap();
    let (_, at) = rows.load(all).unwrap();
    let pending = Arc::new(Pending::new(at.clone()));
    let writer = RowWriter::start(rows, at, Arc::clone(&pending), |why| panic!("{why}")).unwrap();
    for index in 1..=20 {
        apply(&pending, index);
    }
    // Cuts are written each quarter of a second and flushes come each ten: the cut of a sum proves a write.
    pending.freeze_for_check().await;
    writer.nudge();
    writer.newest_sum().wait_for(|newest| *newest == Some(20)).await.unwrap();
    assert_eq!(writer.stored(), None);
    let copy = home.path().join("copy");
    let at = writer.checkpoint(copy.clone()).await.unwrap();
    assert_eq!((at.at.index(), writer.stored()), (20, Some(id(20))));
    assert_eq!(load(&copy).unwrap().0, expected(20));
    apply(&pending, 21);
    writer.stop(home.path().to_owned()).await;
    assert_eq!(writer.stored(), Some(id(21)));
    assert_eq!(load(&home.path().join("rows")).unwrap().0, expected(21));
}

#[test]
fn the_sum_depends_on_the_rows_and_not_on_how_they_came() {
    let mut left = Sum::default();
    left.put(b"a", b"1");
    left.put(b"b", b"2");
    left.put(b"a", b"3");
    left.delete(b"c");
    left.put(b"d", b"4");
    left.delete(b"d");
    let mut right = Sum::default();
    right.put(b"b", b"2");
    right.put(b"a", b"3");
    assert_eq!(left.total(), right.total());
    right.put(b"a", b"4");
    assert_ne!(left.total(), right.total());
    // Two rows that swap their values are other rows.
    let (mut one, mut other) = (Sum::default(), Sum::default());
    one.put(b"a", b"1");
    one.put(b"b", b"2");
    other.put(b"a", b"2");
    other.put(b"b", b"1");
    assert_ne!(one.total(), other.total());
}

#[test]
fn node_ids_are_given_once() {
    let mut point = Point::default();
    assert_eq!(point.reserve("x"), Ok(2));
    assert_eq!(point.reserve("y"), Ok(3));
    assert_eq!(point.reserve("x"), Ok(2));
    let again = Point::from_wire(&point.to_wire(0)).unwrap();
    assert_eq!((again.next_node_id, again.reserved), (4, point.reserved));
}

/// Makes a snapshot of 30 applied entries in `home`.
fn snapshot_of_30(home: &Path) -> Arc<snapshot::Snapshot> {
    let mut rows = RowStore::open(&home.join("source")).unwrap();
    let (_, at) = rows.load(all).unwrap();
    let pending = Pending::new(at);
    (1..=30).for_each(|index| apply(&pending, index));
    let cut = pending.next_cut().unwrap();
    rows.write(&cut).unwrap();
    rows.flush().unwrap();
    let snapshots = snapshot::home(home);
    std::fs::create_dir_all(&snapshots).unwrap();
    let copied = snapshots.join("x.building");
    rows.checkpoint(&copied).unwrap();
    let (count, sum) = rows.summed();
    snapshot::seal(&snapshots, &copied, &Copied { at: cut.at, rows: count, sum }).unwrap()
}

#[test]
fn a_snapshot_arrives_as_it_was_sent_or_not_at_all_and_goes_on_where_it_broke_off() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sent = snapshot_of_30(from.path());
    let chunks: Vec<_> = snapshot::chunks(Arc::clone(&sent), None).map(Result::unwrap).collect();
    let home = snapshot::home(to.path());
    let receive = |chunks: &[proto::wire::raft::SnapshotData]| {
        let mut incoming = Incoming::begin(&home, sent.meta.clone())?;
        let place = incoming.place();
        let is_due = |chunk: &&proto::wire::raft::SnapshotData| {
            chunk.name == place.name && chunk.offset == place.offset
        };
        let first = chunks.iter().position(|chunk| is_due(&chunk)).unwrap_or(chunks.len());
        chunks[first..].iter().try_for_each(|chunk| incoming.take(chunk))?;
        incoming.finish()
    };
    // Damaged or cut short: refused. What is sent then goes on behind what was good.
    for n in 0..chunks.len() {
        let mut damaged = chunks.clone();
        let mut bytes = damaged[n].bytes.to_vec();
        bytes[0] ^= 1;
        damaged[n].bytes = bytes.into();
        assert!(receive(&chunks[..n]).is_err());
        assert!(receive(&damaged).is_err());
        assert!(receive(&damaged).is_err());
        if n + 1 < chunks.len() {
            std::fs::remove_dir_all(&home).unwrap();
        }
    }
    let arrived = receive(&chunks).unwrap();
    assert_eq!(arrived.meta, sent.meta);
    let rows = to.path().join("rows");
    snapshot::copy_rows(&arrived, &rows).unwrap();
    let (found, at) = load(&rows).unwrap();
    assert_eq!((found, at.index()), (expected(30), 30));
    // Found again after a restart; what was half made is swept, what arrives waits until another one does.
    std::fs::create_dir(home.join("y.building")).unwrap();
    std::fs::create_dir(home.join("z.incoming")).unwrap();
    assert_eq!(snapshot::newest(&home).unwrap().unwrap().meta, sent.meta);
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 2);
    Incoming::begin(&home, sent.meta.clone()).unwrap();
    assert!(!home.join("z.incoming").exists());
}

/// A machine that remembers nothing: its rows are applied beside it.
struct Forgets;

impl crate::Machine for Forgets {
    type Command = ();
    type Reply = ();
    fn decode(_: &[u8]) -> Result<(), Corrupt> {
        Ok(())
    }
    fn apply(&mut self, (): (), _: &mut Changes) {}
    fn load(rows: &mut Rows<'_>) -> Result<Self, Corrupt> {
        all(rows).map(|_| Forgets)
    }
}

/// A replica's disk side in `dir`, with `index` entries applied.
fn adapter(dir: &Path, index: u64) -> (Adapter, RowWriter) {
    let mut rows = open_rows(dir).unwrap();
    let (machine, at) = rows.load(<Forgets as crate::Machine>::load).unwrap();
    let pending = Arc::new(Pending::new(at.clone()));
    (1..=index).for_each(|index| apply(&pending, index));
    std::fs::create_dir_all(snapshot::home(dir)).unwrap();
    let writer = RowWriter::start(rows, at, Arc::clone(&pending), |why| panic!("{why}")).unwrap();
    let machine = Arc::new(Held::new(machine));
    (Adapter::new(dir.to_owned(), machine, pending, writer.clone(), None), writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_can_be_asked_for_while_another_is_installed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arrived = snapshot_of_30(from.path());
    let (mut installs, writer) = adapter(to.path(), 10);
    let mut builds = installs.clone();
    let meta = arrived.raft_meta().unwrap();
    // Polled in this order: the rows are being replaced when the copy is asked for.
    let (installed, built) =
        tokio::join!(installs.install_snapshot(&meta, Arc::clone(&arrived)), builds.build_snapshot());
    installed.unwrap();
    assert_eq!(built.unwrap().snapshot.last(), Some(id(30)), "it is a copy of what was installed");
    writer.stop(to.path().to_owned()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_never_replaces_a_newer_one() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arrived = snapshot_of_30(from.path());
    let (mut installs, writer) = adapter(to.path(), 10);
    let mut builds = installs.clone();
    let meta = arrived.raft_meta().unwrap();
    // The other way round: the copy began before the rows were replaced.
    let (built, installed) =
        tokio::join!(builds.build_snapshot(), installs.install_snapshot(&meta, Arc::clone(&arrived)));
    installed.unwrap();
    let older = built.unwrap().snapshot;
    assert_eq!(older.last(), Some(id(10)));
    let newest =
        async |adapter: &mut Adapter| adapter.get_current_snapshot().await.unwrap().unwrap().snapshot;
    assert_eq!(newest(&mut installs).await.last(), Some(id(30)));
    // However late it ends.
    installs.keep(&older);
    assert_eq!(newest(&mut installs).await.last(), Some(id(30)));
    let dir = older.dir.clone();
    drop(older);
    assert!(!dir.exists(), "nobody needs it");
    assert!(arrived.dir.exists());
    writer.stop(to.path().to_owned()).await;
}

#[test]
fn a_snapshot_names_no_file_outside_its_directory() {
    let home = tempfile::tempdir().unwrap();
    let good = snapshot_of_30(home.path()).meta.clone();
    for name in ["../x", "/etc/x", "", ".", "..", "a/b", "manifest"] {
        let mut bad = good.clone();
        bad.files[0].name = name.into();
        assert!(Incoming::begin(home.path(), bad).is_err(), "{name:?}");
        let mut bad = good.clone();
        bad.id = name.into();
        let harmless = name == "manifest";
        assert_eq!(Incoming::begin(home.path(), bad).is_ok(), harmless, "{name:?}");
    }
}

#[test]
fn a_first_start_that_broke_off_is_begun_anew_and_a_lost_pointer_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows/1");
    std::fs::create_dir_all(rows.parent().unwrap()).unwrap();
    // An empty database to which no pointer was written yet, and one that is not even that.
    drop(RowStore::open(&rows).unwrap());
    drop(open_rows(dir.path()).unwrap());
    let forget =
        || ["pointer.a", "pointer.b"].map(|name| std::fs::remove_file(dir.path().join(name)).unwrap());
    forget();
    std::fs::remove_file(rows.join("CURRENT")).unwrap();
    let mut opened = open_rows(dir.path()).unwrap();
    let (_, at) = opened.load(all).unwrap();
    let pending = Pending::new(at);
    apply(&pending, 1);
    opened.write(&pending.next_cut().unwrap()).unwrap();
    opened.flush().unwrap();
    drop(opened);
    forget();
    let lost = open_rows(dir.path()).map(drop).unwrap_err();
    assert!(matches!(lost, StoreError::Corrupt(_)), "{lost}");
    assert_eq!(load(&rows).unwrap().0, expected(1), "they are still there");
}
