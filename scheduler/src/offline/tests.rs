//! The commands on real directories: what they refuse, what they say, and a recovery that breaks off.

use std::fs;

use prost::Message as _;
use proto::wire::raft::{Quarantine, SnapshotMeta};
use replication::Profile;

use super::*;

const API: &str = "127.0.0.1:2";
const RAFT: &str = "127.0.0.1:1";

fn place() -> Place {
    Place { api: API.into(), raft: RAFT.into() }
}

/// A cluster that has begun, and nothing more.
fn begun(dir: &Path) -> Identity {
    let options = replication::Options::new(dir, "west", RAFT, API, Profile::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(replication::init(&options)).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn recover(dir: &Path, yes: bool) -> anyhow::Result<()> {
    recover::run(dir, &place(), yes, false)
}

#[test]
fn what_would_be_refused_is_refused_without_yes_too() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("a");
    begun(&dir);
    recover(&dir, false).unwrap();
    let bad = Place { api: "0.0.0.0:1".into(), raft: RAFT.into() };
    let refusal = |yes, place: &Place| recover::run(&dir, place, yes, false).unwrap_err().to_string();
    let quarantine = Quarantine { why: "they differ".into(), ..Quarantine::default() }.encode_to_vec();
    for (file, bytes, place, why) in [
        ("unlike", vec![], bad, "nobody can reach"),
        ("condemned", b"a bad byte".to_vec(), place(), "a bad byte"),
        ("quarantined", quarantine, place(), "quarantined"),
    ] {
        fs::write(dir.join(file), bytes).unwrap();
        for yes in [false, true] {
            let said = refusal(yes, &place);
            assert!(said.contains(why), "{said}");
        }
        let shown = inspect(&dir, false).unwrap();
        assert!(file == "unlike" || shown.contains(file) && shown.contains("apply level"), "{shown}");
        fs::remove_file(dir.join(file)).unwrap();
    }
    let kept = home.path().join(format!("a.before-epoch-{}", inspect_epoch(&dir) + 1));
    fs::create_dir(&kept).unwrap();
    assert!(refusal(false, &place()).contains("is in the way"));
    assert!(!home.path().join("a.recovering").exists(), "nothing was begun");
}

fn inspect_epoch(dir: &Path) -> u64 {
    replication::inspect(dir).unwrap().identity.unwrap().epoch
}

#[test]
fn a_directory_behind_a_link_is_recovered_where_it_lies() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("disk")).unwrap();
    let (real, link) = (home.path().join("disk/a"), home.path().join("a"));
    let old = begun(&real);
    std::os::unix::fs::symlink("disk/a", &link).unwrap();
    recover(&link, true).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(inspect_epoch(&link) > old.epoch);
    assert_eq!(names(home.path()), ["a", "disk"]);
    assert_eq!(
        names(&home.path().join("disk")),
        ["a".to_owned(), format!("a.before-epoch-{}", old.epoch + 1)]
    );
}

#[test]
fn a_recovery_that_broke_off_is_finished_or_told_of() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("a");
    let old = begun(&dir);
    recover(&dir, true).unwrap();
    let new = inspect_epoch(&dir);
    // As if it had been killed between the two renames.
    let recovering = home.path().join("a.recovering");
    fs::rename(&dir, &recovering).unwrap();
    recover(&dir, false).unwrap();
    assert!(!dir.exists());
    let elsewhere = Place { api: "127.0.0.1:9".into(), raft: RAFT.into() };
    let why = recover::run(&dir, &elsewhere, true, false).unwrap_err().to_string();
    assert!(why.contains("other addresses") && why.contains(API), "{why}");
    // Something that was made in its place meanwhile does not hide it.
    fs::create_dir(&dir).unwrap();
    let why = format!("{:#}", recover(&dir, true).unwrap_err());
    assert!(why.contains("a.recovering") && why.contains("broke off"), "{why}");
    fs::remove_dir(&dir).unwrap();
    recover(&dir, true).unwrap();
    assert_eq!(inspect_epoch(&dir), new);
    assert!(!recovering.exists());
    // And if the new one is lost, the old one is found.
    fs::remove_dir_all(&dir).unwrap();
    let why = recover(&dir, true).unwrap_err().to_string();
    assert!(why.contains(&format!("a.before-epoch-{}", old.epoch + 1)), "{why}");
    let nowhere = recover(&home.path().join("b"), true).unwrap_err().to_string();
    assert!(nowhere.contains("there is no data directory"), "{nowhere}");
}

#[test]
fn a_backup_is_shown_as_one() {
    let home = tempfile::tempdir().unwrap();
    let (arrived, backup) = (home.path().join("part"), home.path().join("backup"));
    fs::create_dir(&arrived).unwrap();
    let manifest = BackupManifest {
        level: 1,
        snapshot: Some(SnapshotMeta { rows: 12, sum: 255, ..SnapshotMeta::default() }),
        cluster: "west".into(),
        cluster_id: "an-id".into(),
        epoch: 77,
        node_id: 3,
        taken_ms: 1_800_000_000_000,
        ..BackupManifest::default()
    };
    transfer::seal(&arrived, &manifest, &backup).unwrap();
    let shown = inspect(&backup, false).unwrap();
    for part in [
        "is a backup of cluster west (an-id), epoch 77",
        "1800000000 s",
        "rows: 12 with sum 00000000000000ff",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let json = inspect(&backup, true).unwrap();
    assert!(json.contains("\"rows\":12") && json.contains("\"taken_ms\":1800000000000"), "{json}");
    assert_eq!(names(&backup), ["manifest"], "nothing was made in it");
}

/// Nobody can write to it.
struct Gone(std::io::ErrorKind);

impl std::io::Write for Gone {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_went_away_is_no_failure_and_a_full_disk_is() {
    assert!(say_to(Gone(std::io::ErrorKind::BrokenPipe), "done").is_ok());
    assert!(say_to(Gone(std::io::ErrorKind::StorageFull), "done").is_err());
}
