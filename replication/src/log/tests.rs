//! The log against kills at every byte, damage at every byte, and random histories with reopening.

use std::path::Path;

use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt as _;

use super::*;
use crate::raft::{Data, LeaderId, Payload};

const SEGMENT_BYTES: u64 = 4096;

fn id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 1 + index / 1000, node_id: 1 }, index }
}

fn entry(index: u64, bytes: usize) -> Entry {
    let command = Bytes::from(vec![index as u8; bytes]);
    Entry { log_id: id(index), payload: Payload::Normal(Data::Batch(vec![command].into())) }
}

fn open(dir: &Path) -> Log {
    Log::open(dir, SEGMENT_BYTES, Box::new(|why| panic!("{why}"))).unwrap()
}

async fn append(log: &mut Log, entries: Vec<Entry>) {
    let (done, synced) = Types::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    synced.await.unwrap().unwrap();
}

/// All entries that recovery finds, and the purged one.
fn recovered(dir: &Path) -> Result<(Vec<Entry>, Option<LogId>), StoreError> {
    let found = recovery::recover(dir, usize::MAX, true)?;
    let entries = found.index.find(0, u64::MAX, usize::MAX).into_iter().map(|found| match found {
        Found::Entry(entry) => entry,
        Found::At(..) => panic!("everything fits the cache"),
    });
    Ok((entries.collect(), found.index.purged()))
}

fn segment_one(dir: &Path) -> std::path::PathBuf {
    segment::segment_path(dir, 1)
}

/// A log of three acknowledged writes; then the segment and the mark before and after a fourth.
async fn four_writes(dir: &Path) -> [(Vec<u8>, Vec<u8>); 2] {
    create(dir, SEGMENT_BYTES, &[], None).unwrap();
    let mut log = open(dir);
    let image = || (std::fs::read(segment_one(dir)).unwrap(), std::fs::read(dir.join("synced")).unwrap());
    for first in [0, 2, 4] {
        append(&mut log, vec![entry(first, 20), entry(first + 1, 70)]).await;
    }
    let before = image();
    append(&mut log, vec![entry(6, 10), entry(7, 90), entry(8, 33)]).await;
    let after = image();
    log.stop().await;
    [before, after]
}

#[tokio::test]
async fn a_write_torn_at_any_byte_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let [before, after] = four_writes(dir.path()).await;
    std::fs::write(dir.path().join("synced"), &before.1).unwrap();
    let differ = |at: &usize| before.0[*at] != after.0[*at];
    let first = (0..before.0.len()).find(differ).unwrap();
    let last = (0..before.0.len()).rev().find(differ).unwrap();
    for cut in first..=last + 1 {
        // The front arrived and the rest did not, and the other way round: disks write in any order.
        for front in [true, false] {
            let (a, b) = if front { (&after.0, &before.0) } else { (&before.0, &after.0) };
            let mut torn = a[..cut].to_vec();
            torn.extend_from_slice(&b[cut..]);
            std::fs::write(segment_one(dir.path()), &torn).unwrap();
            let (entries, _) = recovered(dir.path()).unwrap();
            assert!(entries.len() >= 6, "cut at {cut}: {}", entries.len());
            for (n, found) in entries.iter().enumerate() {
                assert_eq!(found.log_id, id(n as u64), "cut at {cut}");
            }
            // What is written next stands, and nothing of the torn write comes back behind it.
            let mut log = open(dir.path());
            let next = entries.len() as u64;
            append(&mut log, vec![entry(next, 5)]).await;
            log.stop().await;
            let (again, _) = recovered(dir.path()).unwrap();
            assert_eq!(again.len() as u64, next + 1, "cut at {cut}");
            std::fs::write(dir.path().join("synced"), &before.1).unwrap();
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_what_was_synced_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let [_, (segment, mark)] = four_writes(dir.path()).await;
    let end = (0..segment.len()).rev().find(|at| segment[*at] != 0).unwrap() + 1;
    for at in 0..end {
        let mut damaged = segment.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(segment_one(dir.path()), &damaged).unwrap();
        std::fs::write(dir.path().join("synced"), &mark).unwrap();
        assert!(matches!(recovered(dir.path()), Err(StoreError::Corrupt(_))), "byte {at}");
    }
}

#[tokio::test]
async fn without_the_mark_a_later_write_proves_what_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let [(before, _), (after, _)] = four_writes(dir.path()).await;
    let fourth = (0..before.len()).find(|at| before[*at] != after[*at]).unwrap();
    for at in record::SEGMENT_HEAD_BYTES..fourth {
        let mut damaged = after.clone();
        damaged[at] ^= 0x10;
        std::fs::write(segment_one(dir.path()), &damaged).unwrap();
        let _ = std::fs::remove_file(dir.path().join("synced"));
        assert!(matches!(recovered(dir.path()), Err(StoreError::Corrupt(_))), "byte {at}");
    }
}

#[tokio::test]
async fn what_another_program_wrote_is_neither_damage_nor_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let [before, _] = four_writes(dir.path()).await;
    std::fs::write(segment_one(dir.path()), &before.0).unwrap();
    std::fs::write(dir.path().join("synced"), &before.1).unwrap();
    let found = recovery::recover(dir.path(), usize::MAX, true).unwrap();
    let (chain, end) = (found.chain, found.end as usize);
    let write = |at: usize, level: u8, kind: u8, body: &[u8]| {
        let mut record = Vec::new();
        record::encode(&mut record, record::Kind::Entry, 1, chain, at as u32, |into| {
            into.extend_from_slice(body)
        });
        (record[28], record[29]) = (level, kind);
        let crc = crc32c::crc32c(&record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        let mut segment = before.0.clone();
        segment[at..at + record.len()].copy_from_slice(&record);
        segment
    };
    let strange = wire::Entry { id: Some(crate::raft::log_id_to_wire(&id(6))), payload: None };
    let newer = record::LEVEL + 1;
    for (what, segment) in [
        ("a newer level", write(end, newer, 1, b"")),
        ("an unknown kind of a newer level", write(end, newer, 9, b"")),
        ("an unknown kind", write(end, record::LEVEL, 9, b"")),
        ("behind a part that did not arrive", write(end + 64, newer, 1, b"")),
        ("an entry of an unknown kind", write(end, record::LEVEL, 1, &strange.encode_to_vec())),
        ("an entry that means nothing", write(end, record::LEVEL, 1, &[0xff; 9])),
    ] {
        std::fs::write(segment_one(dir.path()), &segment).unwrap();
        let found = recovered(dir.path());
        assert!(
            matches!(found, Err(StoreError::Level { .. } | StoreError::Foreign(_))),
            "{what}: {:?}",
            found.map(|(entries, _)| entries.len())
        );
        assert_eq!(std::fs::read(segment_one(dir.path())).unwrap(), segment, "{what}");
    }
    // The head of a segment too.
    let header = wire::SegmentHeader { level: u32::from(newer), sequence: 1, ..Default::default() };
    let mut segment = before.0.clone();
    segment[..record::SEGMENT_HEAD_BYTES].copy_from_slice(&record::encode_segment_head(&header));
    std::fs::write(segment_one(dir.path()), &segment).unwrap();
    assert!(matches!(recovered(dir.path()), Err(StoreError::Level { .. })));
}

#[tokio::test]
async fn a_missing_segment_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), SEGMENT_BYTES, &[], None).unwrap();
    let mut log = open(dir.path());
    for index in 0..30 {
        append(&mut log, vec![entry(index, 500)]).await;
    }
    log.stop().await;
    let sequences = segment::list(dir.path()).unwrap();
    assert!(sequences.len() >= 4, "{sequences:?}");
    for sequence in sequences {
        let (path, aside) = (segment::segment_path(dir.path(), sequence), dir.path().join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        assert!(matches!(recovered(dir.path()), Err(StoreError::Corrupt(_))), "segment {sequence}");
        std::fs::rename(&aside, &path).unwrap();
    }
    assert_eq!(recovered(dir.path()).unwrap().0.len(), 30);
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Truncate(u64),
    Purge(u64),
    Reopen,
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let step = prop_oneof![
        5 => proptest::collection::vec(0usize..1500, 1..6).prop_map(Step::Append),
        1 => (0u64..6).prop_map(Step::Truncate),
        2 => (0u64..12).prop_map(Step::Purge),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

async fn run(dir: &Path, steps: Vec<Step>) {
    create(dir, SEGMENT_BYTES, &[], None).unwrap();
    let mut log = open(dir);
    let (mut model, mut purged): (Vec<Entry>, Option<u64>) = (Vec::new(), None);
    for step in steps {
        let next = model.last().map(|entry| entry.log_id.index).or(purged).map_or(0, |last| last + 1);
        match step {
            Step::Append(sizes) => {
                let new: Vec<Entry> =
                    sizes.iter().zip(next..).map(|(bytes, index)| entry(index, *bytes)).collect();
                model.extend(new.iter().cloned());
                append(&mut log, new).await;
            }
            Step::Truncate(count) => {
                model.truncate(model.len().saturating_sub(count as usize));
                let last = model.last().map(|entry| entry.log_id).or(purged.map(id));
                log.truncate_after(last).await.unwrap();
            }
            Step::Purge(count) if count > 0 && !model.is_empty() => {
                let upto = model[(count as usize - 1).min(model.len() - 1)].log_id;
                model.retain(|entry| entry.log_id.index > upto.index);
                purged = Some(upto.index);
                log.purge(upto).await.unwrap();
            }
            Step::Purge(_) => {}
            Step::Reopen => {
                log.stop().await;
                log = open(dir);
            }
        }
        let (last, dropped) = log.ends();
        assert_eq!(last.map(|id| id.index), model.last().map(|entry| entry.log_id.index).or(purged));
        assert_eq!(dropped.map(|id| id.index), purged);
        assert_eq!(log.try_get_log_entries(0..u64::MAX).await.unwrap(), model);
    }
    log.stop().await;
    let (entries, dropped) = recovered(dir).unwrap();
    assert_eq!(entries, model);
    assert_eq!(dropped.map(|id| id.index), purged);
}

#[test]
fn any_history_is_read_back_as_it_was_acknowledged() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(proptest::test_runner::Config {
        cases: 40,
        failure_persistence: None,
        ..Default::default()
    });
    runner
        .run(&steps(), |steps| {
            let dir = tempfile::tempdir().unwrap();
            runtime.block_on(run(dir.path(), steps));
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn files_are_used_again_and_old_records_stay_dead() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), SEGMENT_BYTES, &[], None).unwrap();
    let mut log = open(dir.path());
    for index in 0..200 {
        append(&mut log, vec![entry(index, 700)]).await;
        if index % 10 == 9 {
            log.purge(id(index - 5)).await.unwrap();
        }
    }
    log.stop().await;
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(files < 14, "{files} files for a log of a few entries");
    // The last file lived before: bytes of that life lie behind its end, whole and well summed.
    let (entries, purged) = recovered(dir.path()).unwrap();
    assert_eq!(purged, Some(id(194)));
    assert_eq!(entries, (195..200).map(|index| entry(index, 700)).collect::<Vec<_>>());
}

fn spares(dir: &Path) -> Vec<u64> {
    let files = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let spares = files.filter(|file| file.path().extension().is_some_and(|end| end == "spare"));
    spares.map(|file| file.metadata().unwrap().len()).collect()
}

#[tokio::test]
async fn spares_of_another_size_do_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), SEGMENT_BYTES, &[], None).unwrap();
    let mut log = open(dir.path());
    // Entries larger than a segment have files of their own; those do not fill the row of spares.
    for index in 0..20 {
        append(&mut log, vec![entry(index, 2 * SEGMENT_BYTES as usize)]).await;
        log.purge(id(index)).await.unwrap();
        append(&mut log, vec![]).await;
    }
    log.stop().await;
    let left = spares(dir.path());
    assert!(left.iter().all(|bytes| *bytes == SEGMENT_BYTES), "{left:?}");
    // Nor do any when the size has changed.
    segment::make_spare(dir.path(), SEGMENT_BYTES, 7_000).unwrap();
    let log = Log::open(dir.path(), 2 * SEGMENT_BYTES, Box::new(|why| panic!("{why}"))).unwrap();
    log.stop().await;
    let left = spares(dir.path());
    assert!(left.iter().all(|bytes| *bytes == 2 * SEGMENT_BYTES), "{left:?}");
}

#[tokio::test]
async fn a_vote_for_an_earlier_leader_than_the_last_entrys_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), SEGMENT_BYTES, &[], None).unwrap();
    let mut log = open(dir.path());
    append(&mut log, vec![entry(0, 10)]).await;
    for (term, node_id, sound) in [(0, 9, false), (1, 0, false), (1, 1, true), (2, 1, true)] {
        log.save_vote(&Vote { leader_id: LeaderId { term, node_id }, committed: true }).await.unwrap();
        assert_eq!(log.check_vote().is_ok(), sound, "term {term}, node {node_id}");
    }
    log.stop().await;
}

#[tokio::test]
async fn entries_outside_the_cache_are_read_from_their_files() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), SEGMENT_BYTES, &[], None).unwrap();
    let mut log = open(dir.path());
    for index in 0..20 {
        append(&mut log, vec![entry(index, 300)]).await;
    }
    log.stop().await;
    let found = recovery::recover(dir.path(), 1000, true).unwrap();
    let mut on_disk = 0;
    for (index, found) in found.index.find(0, 20, usize::MAX).into_iter().enumerate() {
        let read = match found {
            Found::Entry(entry) => entry,
            Found::At(id, place) => {
                on_disk += 1;
                read_entry(id, &place).unwrap()
            }
        };
        assert_eq!(read, entry(index as u64, 300));
    }
    assert!(on_disk > 10, "{on_disk}");
}
