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
use crate::sim::{trace, violated};
use crate::{Replica, identity};

fn options(world: &World, life: &Life) -> Options {
    let address = world.address(life.place);
    let mut options = Options::new(&life.dir, "sim", &address, &address, Profile::Fast);
    options.accept_slow_disk = true;
    options.segment_bytes = 4096;
    options.snapshot_entries = world.snapshot_entries;
    options.keep_entries = world.keep_entries;
    options
}

/// Why a replica does not run.
enum Ended {
    /// It, or its machine, died.
    Died,
    /// It stopped by itself.
    Stopped(String),
    /// Its bytes are damaged.
    Condemned(String),
}

/// Runs the replica at `place` until the world ends, or until it is condemned.
pub(crate) async fn keep(world: Arc<World>, place: usize, mut chance: StdRng) {
    loop {
        let life = world.new_life(place, chance.random());
        let starting = life.run(start(Arc::clone(&world), Arc::clone(&life)));
        let ended = tokio::select! {
            biased;
            () = life.over() => Ended::Died,
            started = starting => match started {
                Ok(Ok(replica)) => run(&world, &life, replica).await,
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
            Ended::Stopped(why) if world.may_stop(place) => {
                trace(|| format!("replica {place} stopped: {why}"));
            }
            Ended::Stopped(why) => violated(&format!("replica {place} stopped without a fault: {why}")),
            Ended::Condemned(why) if world.was_damaged(place) => {
                trace(|| format!("replica {place} was condemned: {why}"));
                world.replace(place);
                return;
            }
            Ended::Condemned(why) => violated(&format!("replica {place} was condemned without damage: {why}")),
        }
        let down = if world.is_healing() { 50 } else { chance.random_range(5..1500) };
        tokio::time::sleep(Duration::from_millis(down)).await;
        if world.wants_flip(place) {
            let chosen = |path: &str| path.ends_with(".seg") || path.ends_with(".sst") || path.contains("/vote.");
            // Without the mark, which a power cut may take, a damaged last write looks like a torn one.
            if !power && life.disk.flip(chosen) {
                world.damaged(place);
            }
        }
    }
}

async fn start(world: Arc<World>, life: Arc<Life>) -> Result<Cluster, StartError> {
    let options = options(&world, &life);
    if identity::identity(&life.dir)?.is_none() {
        if life.place == 1 {
            identity::init(&options).await?;
        } else {
            join(&world, &options).await?;
        }
    }
    Replica::start(options).await
}

/// Asks whoever leads for a place until it gives one.
async fn join(world: &World, options: &Options) -> Result<(), StoreError> {
    let uuid = identity::store_uuid(&options.dir)?;
    loop {
        let leader = world.running().into_iter().map(|(_, replica)| replica);
        let leader = leader.into_iter().find(|replica| replica.leadership().borrow().is_me);
        if let Some(leader) = leader {
            let address = &options.raft_address;
            let asked = leader.admit(&uuid, address, address);
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
    world.runs(place, replica.clone());
    let ended = tokio::select! {
        biased;
        () = life.over() => Ended::Died,
        why = replica.stopped() => Ended::Stopped(why),
    };
    life.net.hang_up(&world.address(place));
    ended
}

fn not_started(error: StartError) -> Ended {
    match error {
        StartError::Store(StoreError::Corrupt(corrupt)) => Ended::Condemned(corrupt.to_string()),
        other => Ended::Stopped(other.to_string()),
    }
}
