//! Data directories: whose they are, what may begin in them, and that a damaged one never votes again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use replication::{
    Changes, Corrupt, Machine, Options, Profile, ProposeError, Replica, Rows, StartError, StoreError,
};

/// Remembers how often each word was said.
#[derive(Default)]
struct Words(BTreeMap<Vec<u8>, u64>);

impl Machine for Words {
    type Command = Vec<u8>;
    type Reply = u64;

    fn decode(bytes: &[u8]) -> Result<Vec<u8>, Corrupt> {
        if bytes.is_empty() { Err(Corrupt::new("word", "is empty")) } else { Ok(bytes.to_vec()) }
    }

    fn apply(&mut self, word: Vec<u8>, changed: &mut Changes) -> u64 {
        let count = self.0.entry(word.clone()).or_insert(0);
        *count += 1;
        changed.put(word, Arc::new(count.to_le_bytes().to_vec()));
        *count
    }

    fn load(rows: &mut Rows<'_>) -> Result<Self, Corrupt> {
        let mut words = Words::default();
        for row in rows {
            let (word, count) = row?;
            let count: [u8; 8] = (*count).try_into().map_err(|_| Corrupt::new("count", "is not 8 bytes"))?;
            words.0.insert(word.into_vec(), u64::from_le_bytes(count));
        }
        Ok(words)
    }
}

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir, "west", "127.0.0.1:1", "127.0.0.1:2", Profile::Fast);
    options.segment_bytes = 64 << 10;
    options.accept_slow_disk = true;
    // Only what a test asks for is summed.
    options.check_every = Duration::from_secs(3600);
    options
}

async fn start(dir: &Path) -> Result<Replica<Words>, StartError> {
    Replica::start(options(dir)).await
}

async fn leading(dir: &Path) -> Replica<Words> {
    let replica = start(dir).await.unwrap();
    let mut leadership = replica.leadership();
    let led = leadership.wait_for(|now| now.is_me);
    tokio::time::timeout(Duration::from_secs(60), led).await.expect("an election").unwrap();
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_set_aside_and_again_after_a_person_took_it() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let mut small = options(dir.path());
    small.disk_reserve = Some(4 << 20);
    replication::init(&small).await.unwrap();
    let replica: Replica<Words> = Replica::start(small).await.unwrap();
    let ballast = dir.path().join("ballast");
    for _ in 0..2 {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let taken = || std::fs::metadata(&ballast).is_ok_and(|file| file.blocks() * 512 >= 1 << 20);
        while !taken() {
            assert!(std::time::Instant::now() < deadline, "no room was set aside");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::remove_file(&ballast).unwrap();
    }
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let identity = replication::init(&options(dir.path())).await.unwrap();
    assert_eq!((identity.node_id, identity.cluster.as_str()), (1, "west"));
    assert!(identity.epoch > 0);
    for round in 0..3u64 {
        let replica = leading(dir.path()).await;
        replica.barrier().await.unwrap();
        assert_eq!(replica.read(|words| words.0.get(&b"x"[..]).copied()), (round > 0).then_some(round * 50));
        let said: Vec<_> = (0..50).map(|_| replica.propose(bytes::Bytes::from_static(b"x"))).collect();
        let mut counts: Vec<u64> =
            futures::future::join_all(said).await.into_iter().map(|said| said.unwrap().reply).collect();
        counts.sort_unstable();
        assert_eq!(counts, (round * 50 + 1..=round * 50 + 50).collect::<Vec<_>>());
        let acknowledged = replica.quorum_acknowledged().expect("one replica is its own quorum");
        assert!(acknowledged.elapsed() < Duration::from_secs(10));
        assert!(matches!(replica.propose(bytes::Bytes::new()).await, Err(ProposeError::Unreadable(_))));
        let large = bytes::Bytes::from(vec![1; 300 << 10]);
        assert!(matches!(replica.propose(large).await, Err(ProposeError::TooLarge { .. })));
        let sum = replica.fingerprint().await.unwrap();
        assert_eq!(replica.fingerprint_at(), Some(sum));
        assert_eq!(replica.status().state, "leader");
        replica.shutdown().await;
        assert!(matches!(
            replica.propose(bytes::Bytes::from_static(b"x")).await,
            Err(ProposeError::Stopped { .. })
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_belongs_to_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        start(dir.path()).await.map(drop),
        Err(StartError::Store(StoreError::NoIdentity { .. }))
    ));
    assert!(matches!(
        start(&dir.path().join("no")).await.map(drop),
        Err(StartError::Store(StoreError::NoIdentity { .. }))
    ));
    let identity = replication::init(&options(dir.path())).await.unwrap();
    assert_eq!(replication::identity(dir.path()).unwrap(), Some(identity.clone()));
    assert!(matches!(replication::init(&options(dir.path())).await, Err(StoreError::NotEmpty { .. })));
    let mut other = options(dir.path());
    other.cluster = "east".into();
    let started = Replica::<Words>::start(other).await.map(drop);
    assert!(matches!(started, Err(StartError::Store(StoreError::OtherCluster { .. }))));
    // Adopting the same identity again does nothing; another is refused.
    replication::adopt(&options(dir.path()), &identity).await.unwrap();
    let another = replication::Identity { node_id: 7, ..identity };
    assert!(matches!(
        replication::adopt(&options(dir.path()), &another).await,
        Err(StoreError::NotEmpty { .. })
    ));
    // An earlier try that ended before the identity had its name does not stand in the way.
    let tried = tempfile::tempdir().unwrap();
    std::fs::create_dir(tried.path().join("log")).unwrap();
    std::fs::write(tried.path().join("identity.a.new"), "half").unwrap();
    replication::init(&options(tried.path())).await.unwrap();
    leading(tried.path()).await.shutdown().await;
    // Something of somebody else's is not overwritten.
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("notes.txt"), "mine").unwrap();
    assert!(matches!(replication::init(&options(foreign.path())).await, Err(StoreError::NotEmpty { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_used_by_one_process() {
    let dir = tempfile::tempdir().unwrap();
    replication::init(&options(dir.path())).await.unwrap();
    let replica = leading(dir.path()).await;
    assert!(matches!(start(dir.path()).await.map(drop), Err(StartError::Store(StoreError::InUse { .. }))));
    replica.shutdown().await;
    start(dir.path()).await.unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_condemns_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    replication::init(&options(dir.path())).await.unwrap();
    let replica = leading(dir.path()).await;
    for _ in 0..20 {
        replica.propose(bytes::Bytes::from_static(b"word")).await.unwrap();
    }
    replica.shutdown().await;
    let segment = dir.path().join("log/0000000000000001.seg");
    let whole = std::fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[900] ^= 1;
    std::fs::write(&segment, damaged).unwrap();
    let error = start(dir.path()).await.map(drop).unwrap_err();
    assert!(matches!(error, StartError::Store(StoreError::Corrupt(_))), "{error}");
    // Even if the bytes read well the next time: it may have said things that it forgot meanwhile.
    std::fs::write(&segment, whole).unwrap();
    let error = start(dir.path()).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("condemned"), "{error}");
}

/// Words of a later version, which counts in rows of nine bytes.
struct LaterWords;

impl Machine for LaterWords {
    type Command = Vec<u8>;
    type Reply = ();

    fn decode(bytes: &[u8]) -> Result<Vec<u8>, Corrupt> {
        Ok(bytes.to_vec())
    }

    fn apply(&mut self, word: Vec<u8>, changed: &mut Changes) {
        changed.put(word, Arc::new(vec![0; 9]));
    }

    fn load(rows: &mut Rows<'_>) -> Result<Self, Corrupt> {
        for row in rows {
            let bytes = row?.1.len();
            if bytes != 9 {
                return Err(Corrupt::new("count", format!("it is of {bytes} bytes, and not of 9")));
            }
        }
        Ok(LaterWords)
    }
}

fn condemned(dir: &Path) -> bool {
    dir.join("condemned").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_another_version_wrote_condemn_nothing() {
    let dir = tempfile::tempdir().unwrap();
    replication::init(&options(dir.path())).await.unwrap();
    let replica = leading(dir.path()).await;
    replica.propose(bytes::Bytes::from_static(b"word")).await.unwrap();
    replica.shutdown().await;
    let error = Replica::<LaterWords>::start(options(dir.path())).await.map(drop).unwrap_err();
    assert!(matches!(error, StartError::Store(StoreError::Foreign(_))), "{error}");
    assert!(error.to_string().contains("another version"), "{error}");
    assert!(!condemned(dir.path()));
    // Whoever wrote them reads them still.
    let replica = leading(dir.path()).await;
    assert_eq!(replica.read(|words| words.0.get(&b"word"[..]).copied()), Some(1));
    replica.shutdown().await;
}

/// Writes another format level into the last record of the first segment, as a program of that level would have.
fn set_level_of_last_record(dir: &Path, level: u8) {
    let path = dir.join("log/0000000000000001.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let total = |bytes: &[u8], at: usize| (32 + word(bytes, at + 8) as usize).next_multiple_of(8);
    let mut at = 512;
    while word(&bytes, at + total(&bytes, at)) != 0 {
        at += total(&bytes, at);
    }
    bytes[at + 28] = level;
    let crc = crc32c::crc32c(&bytes[at + 8..at + total(&bytes, at)]);
    bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_level_condemns_nothing_and_is_not_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    replication::init(&options(dir.path())).await.unwrap();
    let replica = leading(dir.path()).await;
    replica.propose(bytes::Bytes::from_static(b"word")).await.unwrap();
    let last = replica.status().last_log;
    replica.shutdown().await;
    set_level_of_last_record(dir.path(), 2);
    // The mark says that it was synced; a mark that was lost says nothing. Neither makes it damage or a torn tail.
    for _ in 0..2 {
        let error = start(dir.path()).await.map(drop).unwrap_err();
        assert!(matches!(error, StartError::Store(StoreError::Level { found: 2, known: 1, .. })), "{error}");
        assert!(!condemned(dir.path()));
        let _ = std::fs::remove_file(dir.path().join("log/synced"));
    }
    set_level_of_last_record(dir.path(), 1);
    let replica = leading(dir.path()).await;
    replica.barrier().await.unwrap();
    assert!(replica.status().last_log > last, "nothing was cut off");
    assert_eq!(replica.read(|words| words.0.get(&b"word"[..]).copied()), Some(1));
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_without_its_log_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    replication::init(&options(dir.path())).await.unwrap();
    leading(dir.path()).await.shutdown().await;
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    std::fs::create_dir(dir.path().join("log")).unwrap();
    let error = start(dir.path()).await.map(drop).unwrap_err();
    assert!(matches!(error, StartError::Store(StoreError::Corrupt(_))), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_vote_or_identity_is_damage() {
    for lost in ["log/vote", "identity"] {
        let dir = tempfile::tempdir().unwrap();
        replication::init(&options(dir.path())).await.unwrap();
        leading(dir.path()).await.shutdown().await;
        for copy in ["a", "b"] {
            let _ = std::fs::remove_file(dir.path().join(format!("{lost}.{copy}")));
        }
        let error = start(dir.path()).await.map(drop).unwrap_err();
        assert!(matches!(error, StartError::Store(StoreError::Corrupt(_))), "{lost}: {error}");
    }
}
