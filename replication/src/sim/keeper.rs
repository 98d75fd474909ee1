//! Keeps one replica going as an operator's service manager would: begins or joins the cluster, starts it, waits
//! for its end, clears away what died, and starts it again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::error::{StartError, StoreError};
use crate::options::{Options, Profile};
use crate::sim::faults::{self, Fault};
use crate::sim::life::Life;
use crate::sim::world::{Cluster, World};
use crate::sim::{files as fs, obeyer, trace, violated};
use crate::{Replica, Voting, identity};

/// What must stay free of a disk, in bytes.
pub(crate) const RESERVE: u64 = 1 << 20;

fn options(world: &World, life: &Life) -> Options {
    let address = world.address(life.place);
    let mut options = Options::new(&life.dir, "sim", &address, &address, Profile::Fast);
    options.accept_slow_disk = true;
    options.segment_bytes = 4096;
    options.snapshot_entries = world.snapshot_entries;
    options.keep_entries = world.keep_entries;
    options.check_every = world.check_every;
    options.disk_reserve = Some(RESERVE);
    options
}

/// Why a replica does not run.
enum Ended {
    /// It, or its machine, died.
    Died,
    /// It stopped by itself.
    Stopped(String),
    /// It was asked to.
    AsPlanned,
    /// The cluster goes on without it.
    Removed,
    /// Its bytes are damaged.
    Condemned(String),
    /// Its rows are not the majority's.
    Quarantined(String),
}

/// Runs the replica at `place` until the world ends, or until it is condemned.
pub(crate) async fn keep(world: Arc<World>, place: usize, mut chance: StdRng) {
    // The one under which it ran last.
    let mut node_id = None;
    loop {
        let life = world.new_life(place, chance.random());
        let starting = life.run(start(Arc::clone(&world), Arc::clone(&life)));
        let ended = tokio::select! {
            biased;
            () = life.over() => Ended::Died,
            started = starting => match started {
                Ok(Ok(replica)) => {
                    node_id = Some(replica.identity().node_id);
                    run(&world, &life, replica).await
                }
                Ok(Err(error)) => not_started(error),
                Err(_) => Ended::Died,
            },
        };
        world.end_life(place);
        let power = world.power_goes(place) || chance.random_range(0..10) < 6;
        life.silent.store(chance.random(), Ordering::Relaxed);
        life.end();
        life.bury();
        // What died is dropped when it would have run next.
        tokio::time::sleep(Duration::from_millis(1)).await;
        match ended {
            Ended::Died if power => {
                faults::fired(Fault::PowerCut);
                life.disk.power_cut();
            }
            Ended::Died => trace(|| format!("replica {place} was killed")),
            Ended::AsPlanned => trace(|| format!("replica {place} was stopped")),
            Ended::Removed => {
                trace(|| format!("replica {place} was told that it is removed"));
                return;
            }
            Ended::Quarantined(why) if world.rows_may_differ() || world.was_damaged(place) => {
                trace(|| format!("replica {place} was quarantined: {why}"));
            }
            Ended::Quarantined(why) => {
                violated(&format!("replica {place} was quarantined without a fault: {why}"))
            }
            Ended::Stopped(why) if life.sync_failed.load(Ordering::Relaxed) || world.was_damaged(place) => {
                trace(|| format!("replica {place} stopped: {why}"));
            }
            Ended::Stopped(why) => violated(&format!("replica {place} stopped without a fault: {why}")),
            Ended::Condemned(why) if world.was_damaged(place) => {
                trace(|| format!("replica {place} was condemned: {why}"));
                match node_id {
                    Some(node_id) => world.replace(place, node_id),
                    None => violated(&format!("replica {place} was condemned before it ran")),
                }
                return;
            }
            Ended::Condemned(why) => {
                violated(&format!("replica {place} was condemned without damage: {why}"))
            }
        }
        let down = if world.is_healing() { 50 } else { chance.random_range(5..1500) };
        let down =
            world.stays_away(place).filter(|_| !world.is_healing()).unwrap_or(Duration::from_millis(down));
        tokio::time::sleep(down).await;
        if world.wants_flip(place) && world.can_spare(place) {
            let chosen =
                |path: &str| path.ends_with(".seg") || path.ends_with(".sst") || path.contains("/vote.");
            // Without the mark, which a power cut may take, a damaged last write looks like a torn one.
            if !power && life.disk.flip(chosen) {
                world.damaged(place);
            }
        }
    }
}

async fn start(world: Arc<World>, life: Arc<Life>) -> Result<Cluster, StartError> {
    let options = options(&world, &life);
    let quarantined = fs::metadata(life.dir.join("quarantined")).is_ok();
    if identity::identity(&life.dir)?.is_none() {
        if life.place == 1 {
            identity::init(&options).await?;
        } else {
            join(&world, &options).await?;
        }
    }
    let replica = Replica::start(options).await?;
    if quarantined {
        faults::fired(Fault::Refetched);
    }
    Ok(replica)
}

/// Asks whoever leads for a place until it gives one.
async fn join(world: &World, options: &Options) -> Result<(), StoreError> {
    let uuid = identity::store_uuid(&options.dir)?;
    loop {
        let leader = world.running().into_iter().map(|(_, replica)| replica);
        let leader = leader.into_iter().find(|replica| replica.leadership().borrow().is_me);
        if let Some(leader) = leader {
            let address = &options.raft_address;
            let asked = leader.admit(&uuid, address, address, Voting::Voter, 1);
            if let Ok(Ok(admitted)) = tokio::time::timeout(Duration::from_secs(5), asked).await {
                identity::adopt(options, &admitted.identity).await?;
                faults::fired(Fault::Join);
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn run(world: &Arc<World>, life: &Arc<Life>, replica: Cluster) -> Ended {
    let place = life.place;
    trace(|| format!("replica {place} runs as node {}", replica.identity().node_id));
    life.net.listen(&world.address(place), Arc::clone(life), replica.raft_service());
    life.started.store(true, Ordering::Relaxed);
    world.runs(place, replica.clone());
    drop(life.run(obeyer::command(replica.clone(), Arc::clone(life), Arc::clone(&world.obeyer))));
    let ended = tokio::select! {
        biased;
        () = life.over() => Ended::Died,
        why = replica.stopped() => match why {
            why if why.contains("was removed from the cluster") && world.is_leaving(place) => Ended::Removed,
            why if why.contains("it takes a peer's rows") => {
                faults::fired(Fault::Quarantined);
                Ended::Quarantined(why)
            }
            why => Ended::Stopped(why),
        },
        () = world.stop_asked(place) => {
            faults::fired(Fault::Stop);
            // The machine may die meanwhile.
            tokio::select! {
                biased;
                () = life.over() => Ended::Died,
                () = replica.shutdown() => Ended::AsPlanned,
            }
        }
    };
    life.net.hang_up(&world.address(place));
    ended
}

fn not_started(error: StartError) -> Ended {
    match error {
        StartError::Store(StoreError::Corrupt(corrupt)) => Ended::Condemned(corrupt.to_string()),
        StartError::Store(StoreError::Refused(why)) if why.contains("is quarantined") => {
            Ended::Quarantined(why)
        }
        other => Ended::Stopped(other.to_string()),
    }
}
