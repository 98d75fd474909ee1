//! What is done to a cluster while it works.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use crate::sim::disk::Then;
use crate::sim::faults::{self, Fault, Step};
use crate::sim::fork;
use crate::sim::keeper::RESERVE;
use crate::sim::trace;
use crate::sim::world::World;

/// So many times two replicas are asked to lead at once.
const RIVALRIES: usize = 24;

/// The kinds of harm that a run draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    CrashAt,
    Crash,
    Blackout,
    Rivals,
    FailSync,
    SlowSync,
    Partition,
    OneWay,
    Weather,
    Calm,
    Join,
    Flip,
    FlipSnapshot,
    Differ,
    NoRoom,
    Clock,
    Backup,
    Recover,
    Remove,
    Transfer,
    Stop,
}

/// What is drawn more often stands here twice.
const HARMS: [Harm; 23] = [
    Harm::CrashAt,
    Harm::CrashAt,
    Harm::CrashAt,
    Harm::Crash,
    Harm::Blackout,
    Harm::Rivals,
    Harm::FailSync,
    Harm::SlowSync,
    Harm::Partition,
    Harm::OneWay,
    Harm::Weather,
    Harm::Calm,
    Harm::Join,
    Harm::Flip,
    Harm::FlipSnapshot,
    Harm::Differ,
    Harm::NoRoom,
    Harm::Clock,
    Harm::Backup,
    Harm::Recover,
    Harm::Remove,
    Harm::Transfer,
    Harm::Stop,
];

impl Harm {
    /// At most one of each of these groups a run: more may cost a quorum, or take too long.
    fn once(self) -> Option<u8> {
        match self {
            Harm::Join => Some(0),
            Harm::Flip | Harm::FlipSnapshot => Some(1),
            Harm::Differ => Some(2),
            Harm::Backup => Some(3),
            Harm::Recover => Some(4),
            Harm::Remove => Some(5),
            _ => None,
        }
    }
}

/// Harms the cluster for a while. Each run draws from some of the kinds only, so that each is also seen without the
/// others in its way.
pub(crate) async fn harm(world: &Arc<World>, chance: &mut StdRng) {
    let kinds: Vec<Harm> = HARMS.into_iter().filter(|_| chance.random_range(0..3) > 0).collect();
    let until = Instant::now() + Duration::from_millis(chance.random_range(6_000..15_000));
    let mut once = BTreeSet::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(chance.random_range(20..900))).await;
        let Some(kind) = kinds.choose(chance).copied() else { continue };
        if kind.once().is_some_and(|group| !once.insert(group)) {
            continue;
        }
        do_harm(world, kind, chance);
    }
}

fn do_harm(world: &Arc<World>, kind: Harm, chance: &mut StdRng) {
    let living = world.living();
    let Some(&place) = living.choose(chance) else { return };
    let disk = world.disk(place);
    match kind {
        Harm::CrashAt => {
            // One that comes often, or whichever of these seldom ones comes first.
            let (steps, count, nth) = match chance.random_range(0..5) {
                0..2 => (&Step::OFTEN[..], 1, 8),
                _ => (&Step::SELDOM[..], 1, 3),
            };
            for step in steps.choose_multiple(chance, count).copied().collect::<Vec<_>>() {
                disk.arm(step, chance.random_range(1..nth), Then::Die);
            }
        }
        Harm::Crash => {
            faults::fired(Fault::Crash);
            world.end(place, false);
        }
        Harm::Blackout => {
            faults::fired(Fault::Blackout);
            living.into_iter().for_each(|place| world.end(place, true));
        }
        Harm::Rivals => rivals(world, chance),
        Harm::FailSync => {
            let step =
                *[Step::Sync, Step::Vote, Step::Flush, Step::Segment].choose(chance).unwrap_or(&Step::Sync);
            disk.arm(step, chance.random_range(1..4), Then::Fail);
        }
        Harm::SlowSync => {
            faults::fired(Fault::SlowSync);
            disk.set_sync_ms(*[(5, 30), (50, 200), (200, 900)].choose(chance).unwrap_or(&(5, 30)));
        }
        Harm::Partition => {
            faults::fired(Fault::Partition);
            let side = |place: &usize| (place + chance.random_range(0..2)).is_multiple_of(2);
            let (one, other): (Vec<usize>, Vec<usize>) = living.iter().copied().partition(side);
            let ways = one.iter().flat_map(|a| other.iter().flat_map(move |b| [(*a, *b), (*b, *a)]));
            world.net.set_cut(ways.collect());
        }
        Harm::OneWay => {
            faults::fired(Fault::OneWay);
            let ways = living.iter().filter(|other| **other != place).map(|other| match chance.random() {
                true => (place, *other),
                false => (*other, place),
            });
            world.net.set_cut(ways.collect());
        }
        Harm::Weather => world.net.set_weather(chance.random_range(0..20), chance.random_range(0..100)),
        Harm::Calm => world.calm(),
        Harm::Join => world.add(),
        Harm::Flip => world.wish_flip(place),
        Harm::FlipSnapshot => flip_snapshot(world, &living, chance),
        Harm::Differ => {
            if let Some(life) = world.life(place) {
                life.differs.store(true, Ordering::Relaxed);
                world.differ();
            }
        }
        Harm::NoRoom => {
            let places = if chance.random_range(0..3) == 0 { living } else { vec![place] };
            places.into_iter().for_each(|place| fill(world, place, chance));
        }
        Harm::Clock => {
            faults::fired(Fault::ClockJump);
            let minutes = *[1, 61, 60 * 24, 60 * 24 * 30].choose(chance).unwrap_or(&1);
            disk.jump_ms(minutes * 60_000 * if chance.random() { 1 } else { -1 });
        }
        Harm::Backup => {
            if let (Some(life), Some(replica)) = (world.life(place), world.replica(place)) {
                let seed = StdRng::seed_from_u64(chance.random());
                drop(life.run(fork::back_up_and_restore(replica, Arc::clone(&world.net), seed)));
            }
        }
        Harm::Recover => recover(world, place, chance),
        Harm::Remove => {
            if let Some(replica) = world.replica(place) {
                world.replace(place, replica.identity().node_id);
            }
        }
        Harm::Transfer => {
            if let Some(leader) = world.leader() {
                faults::fired(Fault::Transfer);
                tokio::spawn(async move {
                    let moved = leader.transfer(None).await;
                    trace(|| format!("leadership was asked to move: {:?}", moved.map(|to| to.node_id)));
                });
            }
        }
        Harm::Stop => world.ask_to_stop(place),
    }
}

/// Leadership is asked to move to two others at once while messages take long. Both may come to lead in one term:
/// each may campaign without waiting for a lease, and whoever granted the one grants the other if its id is higher.
fn rivals(world: &Arc<World>, chance: &mut StdRng) {
    let world = Arc::clone(world);
    let mut chance = StdRng::seed_from_u64(chance.random());
    tokio::spawn(async move {
        for _ in 0..RIVALRIES {
            world.net.set_slow_ms((5, 40));
            tokio::time::sleep(Duration::from_millis(100)).await;
            let Some(leader) = world.leader().filter(|_| !world.is_healing()) else { break };
            let me = leader.identity().node_id;
            let voters = leader.status().members.into_iter().filter(|m| m.voter && m.node_id != me);
            let voters: Vec<u64> = voters.map(|member| member.node_id).collect();
            let mut moves = tokio::task::JoinSet::new();
            for node_id in voters.choose_multiple(&mut chance, 2).copied() {
                faults::fired(Fault::Transfer);
                let (leader, wait) = (leader.clone(), Duration::from_millis(chance.random_range(0..30)));
                moves.spawn(async move {
                    tokio::time::sleep(wait).await;
                    leader.send_transfer(node_id).await;
                    trace(|| format!("leadership shall move to {node_id}"));
                });
            }
            moves.join_all().await;
        }
        world.net.set_slow_ms((1, 3));
    });
}

/// A snapshot of the leader is damaged, and somebody who was away will need one.
fn flip_snapshot(world: &Arc<World>, living: &[usize], chance: &mut StdRng) {
    let Some(leader) = living.iter().find(|place| world.leads(**place)) else { return };
    let others: Vec<usize> = living.iter().copied().filter(|place| place != leader).collect();
    let Some(&away) = others.choose(chance) else { return };
    world.disk(*leader).flip_snapshot();
    // The file may be one that the rows share.
    world.may_be_damaged(*leader);
    world.keep_away(away, Duration::from_secs(chance.random_range(2..6)));
    faults::fired(Fault::Crash);
    world.end(away, false);
}

/// A disk fills, is emptied a little, and then enough.
fn fill(world: &Arc<World>, place: usize, chance: &mut StdRng) {
    faults::fired(Fault::DiskFull);
    let disk = world.disk(place);
    let times = [(); 2].map(|()| Duration::from_millis(chance.random_range(500..5_000)));
    let world = Arc::clone(world);
    tokio::spawn(async move {
        for (free, time) in [RESERVE - 1, RESERVE * 2 - 1].into_iter().zip(times) {
            if world.is_healing() {
                return;
            }
            disk.set_free(Some(free));
            tokio::time::sleep(time).await;
        }
        disk.set_free(None);
    });
}

/// Somebody takes a replica's disk away, as it is, and makes a new cluster of it. What the others had is not in it.
fn recover(world: &Arc<World>, place: usize, chance: &mut StdRng) {
    let (Some(life), Some(replica)) = (world.life(place), world.replica(place)) else { return };
    let status = replica.status();
    // One that just joined has nothing yet that would make a cluster.
    if status.stored == 0
        || world.was_damaged(place)
        || status.state.starts_with("stopped")
        || life.sync_failed.load(Ordering::Relaxed)
    {
        return;
    }
    let image = world.disk(place).image();
    if chance.random() {
        image.power_cut();
    }
    let owed = fork::Owed {
        before: replica.identity().clone(),
        index: status.stored,
        items: 0,
        same: replica.read(|list| list.items.len()),
    };
    let (net, seed, dir) = (Arc::clone(&world.net), chance.random(), life.dir.clone());
    tokio::spawn(async move { fork::recover(image, net, seed, &dir, owed).await });
}
