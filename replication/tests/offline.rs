//! Backups, and what is done to directories on which no replica runs: a cluster begins anew from a backup, and from
//! what a crash left; damage is refused; nothing is changed by a look.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use replication::{Changes, Corrupt, Machine, Options, Profile, Replica, Rows, StartError, StoreError};

/// Counts commands; its one row is the count.
#[derive(Default)]
struct Count(u64);

impl Machine for Count {
    type Command = ();
    type Reply = u64;

    fn decode(_: &[u8]) -> Result<(), Corrupt> {
        Ok(())
    }

    fn apply(&mut self, (): (), changed: &mut Changes) -> u64 {
        self.0 += 1;
        changed.put(b"count".to_vec(), Arc::new(self.0.to_le_bytes().to_vec()));
        self.0
    }

    fn load(rows: &mut Rows<'_>) -> Result<Self, Corrupt> {
        let Some(row) = rows.next() else { return Ok(Count::default()) };
        let bytes: [u8; 8] = (*row?.1).try_into().map_err(|_| Corrupt::new("count", "is not 8 bytes"))?;
        Ok(Count(u64::from_le_bytes(bytes)))
    }
}

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir, "west", "127.0.0.1:1", "127.0.0.1:2", Profile::Fast);
    options.accept_slow_disk = true;
    options
}

async fn start(dir: &Path) -> Replica<Count> {
    let replica = Replica::start(options(dir)).await.unwrap();
    let mut leadership = replica.leadership();
    let led = leadership.wait_for(|now| now.is_me);
    tokio::time::timeout(Duration::from_secs(60), led).await.expect("an election").unwrap();
    replica
}

async fn add(replica: &Replica<Count>, times: u64) {
    for _ in 0..times {
        replica.propose(Bytes::from_static(b"+")).await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// Names and checksums of all files below.
fn sums(dir: &Path) -> Vec<(String, u32)> {
    image(dir).into_iter().map(|(name, bytes)| (name, crc32c::crc32c(&bytes))).collect()
}

/// All files below, with what is in them. Whatever was just stopped may still remove some.
fn image(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(image(&path));
            continue;
        }
        match std::fs::read(&path) {
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => {}
            read => files.push((path.display().to_string(), read.unwrap())),
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_new_cluster_of_a_later_epoch() {
    let home = tempfile::tempdir().unwrap();
    let (dir, backup, new) = (home.path().join("a"), home.path().join("backup"), home.path().join("b"));
    replication::init(&options(&dir)).await.unwrap();
    let replica = start(&dir).await;
    add(&replica, 10).await;
    let manifest = replica.backup_to(&backup).await.unwrap();
    assert_eq!(manifest.snapshot.as_ref().unwrap().rows, 1);
    let again = replica.backup_to(&backup).await.unwrap_err().to_string();
    assert!(again.contains("never written over"), "{again}");
    let first = replica.identity().clone();
    add(&replica, 5).await;
    replica.shutdown().await;

    let identity = replication::restore(&backup, &options(&new)).unwrap();
    assert_eq!((&identity.cluster, &identity.lineage_id), (&first.cluster, &first.lineage_id));
    assert_ne!(identity.cluster_id, first.cluster_id);
    assert!(identity.epoch > first.epoch && identity.node_id > first.node_id);
    for mode in image(&backup).iter().map(|(path, _)| std::fs::metadata(path).unwrap().permissions()) {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
    let mode = std::fs::metadata(&backup).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
    let replica = start(&new).await;
    assert_eq!(replica.read(|count| count.0), 10, "as it was at the backup");
    let members = replica.status().members;
    assert_eq!(members.len(), 1, "{members:?}");
    assert!(members[0].voter && members[0].node_id == identity.node_id);
    add(&replica, 3).await;
    replica.shutdown().await;
    drop(replica);
    // It stays what it is.
    let replica = start(&new).await;
    assert_eq!(replica.read(|count| count.0), 13);
    replica.shutdown().await;
    let twice = replication::restore(&backup, &options(&new)).unwrap_err().to_string();
    assert!(twice.contains("not empty"), "{twice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_becomes_a_new_cluster_with_all_of_its_log() {
    let home = tempfile::tempdir().unwrap();
    let (dir, left, new) = (home.path().join("a"), home.path().join("left"), home.path().join("b"));
    replication::init(&options(&dir)).await.unwrap();
    let replica = start(&dir).await;
    add(&replica, 10).await;
    replica.snapshot().await;
    // It is taken in the background, and what is copied below must lie still.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while replica.status().snapshot == 0 {
        assert!(std::time::Instant::now() < deadline, "no snapshot was taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    add(&replica, 20).await;
    let busy = replication::inspect(&dir).unwrap_err().to_string();
    assert!(busy.contains("used by another process"), "{busy}");
    // As after a power cut: the newest entries are in the log only.
    copy(&dir, &left);
    replica.shutdown().await;

    let before = sums(&left);
    let found = replication::inspect(&left).unwrap();
    let (_, last) = found.last.unwrap();
    assert!(found.stored <= last && found.identity.is_some() && found.members.len() <= 1, "{found:?}");
    assert_eq!(sums(&left), before, "a look changes nothing");
    let identity = replication::recover::<Count>(&left, &options(&new)).unwrap();
    assert_eq!(sums(&left), before, "the old directory stays as it is");
    let old = found.identity.unwrap();
    assert!(identity.epoch > old.epoch && identity.lineage_id == old.lineage_id);
    assert_eq!(replication::inspect(&new).unwrap().stored, last);
    let replica = start(&new).await;
    assert_eq!(replica.read(|count| count.0), 30, "nothing of its log is lost");
    add(&replica, 1).await;
    assert_eq!(replica.read(|count| count.0), 31);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_damaged_on_the_disk_make_no_backup() {
    let home = tempfile::tempdir().unwrap();
    let (dir, sound, damaged) = (home.path().join("a"), home.path().join("b"), home.path().join("c"));
    replication::init(&options(&dir)).await.unwrap();
    let replica = start(&dir).await;
    add(&replica, 10).await;
    replica.backup_to(&sound).await.unwrap();
    // Where the row lies: this replica holds it in memory, and goes on.
    for (path, mut bytes) in image(&dir).into_iter().filter(|(path, _)| path.ends_with(".sst")) {
        bytes[4] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let why = replica.backup_to(&damaged).await.unwrap_err().to_string();
    assert!(why.contains("no backup was made") && why.contains("from another replica"), "{why}");
    assert!(!damaged.exists());
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused_and_a_try_that_failed_can_be_repeated() {
    let home = tempfile::tempdir().unwrap();
    let (dir, backup, new) = (home.path().join("a"), home.path().join("backup"), home.path().join("b"));
    replication::init(&options(&dir)).await.unwrap();
    let replica = start(&dir).await;
    add(&replica, 10).await;
    replica.backup_to(&backup).await.unwrap();
    replica.shutdown().await;
    for (path, bytes) in image(&backup).into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
        for damage in [bytes[..bytes.len() - 1].to_vec(), {
            let mut flipped = bytes.clone();
            flipped[bytes.len() / 2] ^= 1;
            flipped
        }] {
            std::fs::write(&path, damage).unwrap();
            replication::restore(&backup, &options(&new)).expect_err(&path);
            std::fs::write(&path, &bytes).unwrap();
        }
    }
    let mut east = options(&new);
    east.cluster = "east".into();
    assert!(replication::restore(&backup, &east).is_err(), "a backup of another cluster");
    replication::restore(&backup, &options(&new)).unwrap();
    // Nothing of a member's directory is ever written over.
    assert!(replication::recover::<Count>(&dir, &options(&new)).is_err());
    assert!(replication::inspect(&home.path().join("nowhere")).is_err());
}

/// A backup of a cluster that counted to ten.
async fn backup_of_ten(home: &Path) -> std::path::PathBuf {
    let (dir, backup) = (home.join("ten"), home.join("ten-backup"));
    replication::init(&options(&dir)).await.unwrap();
    let replica = start(&dir).await;
    add(&replica, 10).await;
    replica.backup_to(&backup).await.unwrap();
    replica.shutdown().await;
    backup
}

fn remove(dir: &Path, names: &[&str]) {
    for name in names {
        std::fs::remove_file(dir.join(name)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_their_pointer_and_a_log_without_its_rows_are_damage() {
    let home = tempfile::tempdir().unwrap();
    let backup = backup_of_ten(home.path()).await;
    for (lost, why) in [(false, "pointer"), (true, "the log has dropped all up to")] {
        let (dir, to) = (home.path().join(format!("a{lost}")), home.path().join(format!("b{lost}")));
        replication::restore(&backup, &options(&dir)).unwrap();
        remove(&dir, &["pointer.a", "pointer.b"]);
        if lost {
            std::fs::remove_dir_all(dir.join("rows")).unwrap();
        }
        let before = sums(&dir);
        for refused in [
            replication::inspect(&dir).map(drop).unwrap_err(),
            replication::recover::<Count>(&dir, &options(&to)).map(drop).unwrap_err(),
        ] {
            assert!(
                matches!(refused, StoreError::Corrupt(_)) && refused.to_string().contains(why),
                "{refused}"
            );
        }
        assert_eq!(sums(&dir), before);
        let started = Replica::<Count>::start(options(&dir)).await.map(drop).unwrap_err();
        assert!(
            matches!(&started, StartError::Store(StoreError::Corrupt(_)))
                && started.to_string().contains(why),
            "{started}"
        );
        let left = sums(&dir);
        assert!(before.iter().filter(|(name, _)| name.contains("/rows/")).all(|file| left.contains(file)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_broke_off_is_repeated_and_a_member_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let backup = backup_of_ten(home.path()).await;
    let dir = home.path().join("a");
    let first = replication::restore(&backup, &options(&dir)).unwrap();
    // Each is as it was at a moment before the identity was there.
    for lost in
        [&["identity.a", "identity.b"][..], &["log/vote.a", "log/vote.b"], &["pointer.a", "pointer.b"]]
    {
        let _ = std::fs::remove_file(dir.join("identity.a"));
        let _ = std::fs::remove_file(dir.join("identity.b"));
        for name in lost {
            let _ = std::fs::remove_file(dir.join(name));
        }
        let found = replication::inspect(&dir).unwrap();
        assert!(found.identity.is_none() && found.unfinished, "{found:?}");
        let started = Replica::<Count>::start(options(&dir)).await.map(drop).unwrap_err();
        assert!(matches!(started, StartError::Store(StoreError::NoIdentity { .. })), "{started}");
        let again = replication::restore(&backup, &options(&dir)).unwrap();
        assert!(again.store_uuid == first.store_uuid && again.cluster_id != first.cluster_id);
    }
    let replica = start(&dir).await;
    assert_eq!(replica.read(|count| count.0), 10);
    replica.shutdown().await;
    drop(replica);
    // It has voted.
    remove(&dir, &["identity.a", "identity.b"]);
    let before = sums(&dir);
    replication::restore(&backup, &options(&dir)).unwrap_err();
    std::fs::remove_dir_all(dir.join("snapshots")).unwrap();
    let mut refused = vec![replication::restore(&backup, &options(&dir)).unwrap_err().to_string()];
    refused.push(replication::inspect(&dir).unwrap_err().to_string());
    assert!(refused.iter().all(|why| why.contains("let it join anew")), "{refused:?}");
    let kept = |(name, _): &&(String, u32)| !name.contains("/snapshots/");
    assert_eq!(sums(&dir), before.iter().filter(kept).cloned().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_into_a_directory_of_somebody_else() {
    let home = tempfile::tempdir().unwrap();
    let backup = backup_of_ten(home.path()).await;
    for name in ["notes.txt", "log/app.log", "rows/1/000001.sst", "pointer.a"] {
        let dir = home.path().join(name.replace('/', "-"));
        let file = dir.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "mine").unwrap();
        let before = sums(&dir);
        let refused = replication::restore(&backup, &options(&dir)).unwrap_err();
        assert!(matches!(refused, StoreError::NotEmpty { .. }), "{refused}");
        assert_eq!(sums(&dir), before, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_behind_the_backup_makes_no_epoch() {
    let home = tempfile::tempdir().unwrap();
    let backup = backup_of_ten(home.path()).await;
    let sound = transfer::read_manifest(&backup).unwrap();
    let (hour_ms, later) = (3_600_000, sound.epoch + 120);
    for (taken_ms, epoch) in [(sound.taken_ms + hour_ms, sound.epoch), (sound.taken_ms, later)] {
        let (copied, early) = (home.path().join("copied"), home.path().join(format!("early{epoch}")));
        copy(&backup, &copied);
        std::fs::remove_file(copied.join(transfer::MANIFEST)).unwrap();
        let mut manifest = sound.clone();
        (manifest.taken_ms, manifest.epoch) = (taken_ms, epoch);
        transfer::seal(&copied, &manifest, &early).unwrap();
        let dir = home.path().join("a");
        let refused = replication::restore(&early, &options(&dir)).unwrap_err().to_string();
        assert!(refused.contains("clock of this machine") && refused.contains("repeat"), "{refused}");
        assert!(!dir.exists());
    }
}
