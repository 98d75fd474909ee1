//! A new cluster of a backup, or of one replica's directory, while the old one goes on: it must begin, have what it
//! should have, and take commands. It lives on a disk of its own and knows nobody.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::error::StoreError;
use crate::identity::Identity;
use crate::offline;
use crate::options::{Options, Profile};
use crate::sim::disk::Disk;
use crate::sim::faults::{self, Fault};
use crate::sim::files::HOME;
use crate::sim::life::Life;
use crate::sim::machine::List;
use crate::sim::net::Net;
use crate::sim::world::Cluster;
use crate::sim::{client, oracle, trace, violated};

/// Its one replica leads within this time.
const LEADS_WITHIN: Duration = Duration::from_secs(10);

/// More than clocks jump.
const CLOCK_AHEAD_MS: i64 = 365 * 24 * 3_600_000;

/// What a new cluster must have.
pub(crate) struct Owed {
    /// The old one's identity.
    pub(crate) before: Identity,
    /// Entries up to this index.
    pub(crate) index: u64,
    /// So many items, at least.
    pub(crate) items: usize,
    /// So many of its items, if it has them, are the old one's.
    pub(crate) same: usize,
}

fn next_number() -> u64 {
    static CLUSTERS: AtomicU64 = AtomicU64::new(1);
    CLUSTERS.fetch_add(1, Ordering::Relaxed)
}

/// Takes a backup of `replica`, makes a new cluster of it and looks at that. Its life may end meanwhile.
pub(crate) async fn back_up_and_restore(replica: Cluster, net: Arc<Net>, mut chance: StdRng) {
    let (status, items) = (replica.status(), replica.read(|list| list.items.len()));
    let home = match tempfile::tempdir() {
        Ok(home) => home,
        Err(error) => violated(&format!("there is no place for a backup: {error}")),
    };
    let backup = home.path().join("backup");
    match replica.backup_to(&backup).await {
        Ok(manifest) => match manifest.snapshot.and_then(|snapshot| snapshot.last) {
            Some(last) => trace(|| format!("a backup was taken at {}", last.index)),
            // It had only just joined: nothing can be made of that, and it is said so.
            None => return,
        },
        // It stops, or the snapshot is damaged: then there is no backup, and whoever wants one tries again.
        Err(error) => return trace(|| format!("there is no backup: {error}")),
    }
    let owed = Owed { before: replica.identity().clone(), index: status.applied, items, same: usize::MAX };
    let disk = Arc::new(Disk::new(chance.random()));
    begin(disk, net, chance.random(), owed, move |options| offline::restore(&backup, options)).await;
    faults::fired(Fault::Restored);
}

/// Makes a new cluster of the directory `left` on a copy of a disk and looks at it.
pub(crate) async fn recover(disk: Disk, net: Arc<Net>, seed: u64, left: &Path, owed: Owed) {
    begin(Arc::new(disk), net, seed, owed, |options| offline::recover::<List>(left, options)).await;
    faults::fired(Fault::Recovered);
}

async fn begin(
    disk: Arc<Disk>,
    net: Arc<Net>,
    seed: u64,
    owed: Owed,
    make: impl FnOnce(&Options) -> Result<Identity, StoreError> + Send,
) {
    let number = next_number();
    let dir = Path::new(HOME).join(format!("new{number}"));
    disk.make_home(&dir);
    // However the replicas' clocks jumped: whoever makes a new cluster has set this machine's right.
    disk.jump_ms(CLOCK_AHEAD_MS);
    let life = Life::new((number, 0), HOME.into(), disk, net, seed);
    let address = format!("new{number}:1");
    let mut options = Options::new(dir, "sim", &address, &address, Profile::Fast);
    options.accept_slow_disk = true;
    options.segment_bytes = 4096;
    let made = life.within(|| make(&options));
    let identity = made.unwrap_or_else(|error| violated(&format!("there is no new cluster: {error}")));
    let Owed { before, index, items, same } = owed;
    let follows = identity.cluster_id != before.cluster_id
        && identity.lineage_id == before.lineage_id
        && identity.epoch > before.epoch
        && identity.node_id > before.node_id;
    if !follows {
        violated(&format!("{identity:?} does not follow {before:?}"));
    }
    let living = Arc::clone(&life);
    let looked = life.run(async move {
        let replica = Cluster::start(options).await.map_err(|e| format!("it does not start: {e}"))?;
        living.started.store(true, Ordering::Relaxed);
        let found = replica.read(|list| list.items.clone());
        if found.len() < items {
            return Err(format!("it has {} items, and should have {items}", found.len()));
        }
        let old = oracle::list();
        let same = same.min(found.len());
        if old.get(..same) != Some(&found[..same]) {
            return Err(format!("its first {same} items are not those of the old cluster"));
        }
        let mut leadership = replica.leadership();
        let leads = leadership.wait_for(|now| now.is_me).await.map(drop);
        leads.map_err(|_| "it ended before it led")?;
        let applied = replica.status().applied;
        if applied < index {
            return Err(format!("it ends at entry {applied}, and should have {index}"));
        }
        if !client::append(&replica, u64::MAX, 0).await {
            return Err("it takes no command".to_owned());
        }
        replica.shutdown().await;
        Ok(())
    });
    match tokio::time::timeout(LEADS_WITHIN, looked).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(why))) => violated(&format!("cluster {number}: {why}")),
        Ok(Err(_)) | Err(_) => violated(&format!("cluster {number} does not lead itself")),
    }
    life.end();
    life.bury();
}
