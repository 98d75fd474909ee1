//! One run: the cluster is made, harmed while clients work, healed, and must then be one and whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Replica;
use crate::log::lock;
use crate::raft::LogId;
use crate::sim::disk::{Disk, Then};
use crate::sim::faults::{self, Fault, Step};
use crate::sim::files::HOME;
use crate::sim::invariants::{self, Seen};
use crate::sim::life::Life;
use crate::sim::machine::List;
use crate::sim::net::Net;
use crate::sim::{breaks, client, keeper, oracle, trace, violated};

/// A replica of the simulated cluster.
pub(crate) type Cluster = Replica<List>;

/// After the harm, a cluster must be one within this time.
const HEALS_WITHIN: Duration = Duration::from_secs(60);
/// All laws are looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The run.
pub(crate) struct World {
    net: Arc<Net>,
    places: Mutex<BTreeMap<usize, Place>>,
    healing: AtomicBool,
    quiet: AtomicBool,
    lives: AtomicU64,
    /// Replicas that are being removed.
    removals: AtomicU64,
    seed: u64,
    pub(crate) snapshot_entries: u64,
    pub(crate) keep_entries: u64,
}

struct Place {
    disk: Arc<Disk>,
    life: Option<(u64, Arc<Life>)>,
    /// What entries say, by the hash of it; of this life.
    hashed: BTreeMap<LogId, u64>,
    replica: Option<Cluster>,
    power_goes: bool,
    wants_flip: bool,
    damaged: bool,
    /// The cluster goes on without it: it is condemned, or being removed.
    leaving: bool,
    stop: Arc<Notify>,
}

impl World {
    fn new(seed: u64, chance: &mut StdRng) -> Arc<Self> {
        Arc::new(World {
            net: Arc::new(Net::new(chance.random())),
            places: Mutex::default(),
            healing: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            lives: AtomicU64::new(0),
            removals: AtomicU64::new(0),
            seed,
            snapshot_entries: *[20, 50, 200].choose(chance).unwrap_or(&50),
            keep_entries: *[0, 5, 40].choose(chance).unwrap_or(&5),
        })
    }

    pub(crate) fn address(&self, place: usize) -> String {
        format!("replica{place}:1")
    }

    /// Whether the harm is over.
    pub(crate) fn is_healing(&self) -> bool {
        self.healing.load(Ordering::Relaxed)
    }

    /// Whether clients should end.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    fn with<R>(&self, place: usize, work: impl FnOnce(&mut Place) -> R) -> R {
        let mut places = lock(&self.places);
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(place as u64);
        work(places.entry(place).or_insert_with(|| Place {
            disk: Arc::new(Disk::new(seed)),
            life: None,
            hashed: BTreeMap::new(),
            replica: None,
            power_goes: false,
            wants_flip: false,
            damaged: false,
            leaving: false,
            stop: Arc::default(),
        }))
    }

    pub(crate) fn new_life(&self, place: usize, seed: u64) -> Arc<Life> {
        let number = self.lives.fetch_add(1, Ordering::Relaxed);
        self.with(place, |at| {
            let dir = PathBuf::from(HOME).join(place.to_string());
            at.disk.make_home(&dir);
            let life = Life::new(place, dir, Arc::clone(&at.disk), Arc::clone(&self.net), seed);
            at.life = Some((number, Arc::clone(&life)));
            at.hashed.clear();
            life
        })
    }

    pub(crate) fn end_life(&self, place: usize) {
        self.with(place, |at| {
            at.life = None;
            at.replica = None;
        });
    }

    pub(crate) fn runs(&self, place: usize, replica: Cluster) {
        self.with(place, |at| at.replica = Some(replica));
    }

    /// All that run, by place.
    pub(crate) fn running(&self) -> Vec<(usize, Cluster)> {
        let places = lock(&self.places);
        places.iter().filter_map(|(place, at)| Some((*place, at.replica.clone()?))).collect()
    }

    pub(crate) fn power_goes(&self, place: usize) -> bool {
        self.with(place, |at| std::mem::take(&mut at.power_goes))
    }

    pub(crate) fn wants_flip(&self, place: usize) -> bool {
        self.with(place, |at| at.wants_flip && !at.damaged)
    }

    pub(crate) fn damaged(&self, place: usize) {
        faults::fired(Fault::BitFlip);
        self.with(place, |at| at.damaged = true);
    }

    pub(crate) fn was_damaged(&self, place: usize) -> bool {
        self.with(place, |at| at.damaged)
    }

    pub(crate) fn is_leaving(&self, place: usize) -> bool {
        self.with(place, |at| at.leaving)
    }

    /// Resolves when the replica at `place` should stop as planned.
    pub(crate) async fn stop_asked(&self, place: usize) {
        let stop = self.with(place, |at| Arc::clone(&at.stop));
        stop.notified().await;
    }

    /// The replica at `place` never comes back, or shall not: another joins, then it is removed.
    pub(crate) fn replace(self: &Arc<Self>, place: usize, node_id: u64) {
        self.with(place, |at| at.leaving = true);
        self.add();
        let world = Arc::clone(self);
        self.removals.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let Some(leader) = world.leader() else { continue };
                match leader.remove(node_id).await {
                    Ok(()) => break,
                    Err(why) => {
                        trace(|| format!("node {node_id} is not removed yet: {why}"));
                        // A leader is not removed.
                        let _ = if leader.identity().node_id == node_id {
                            leader.transfer(None).await.ok()
                        } else {
                            None
                        };
                    }
                }
            }
            faults::fired(Fault::Remove);
            world.removals.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Who says that it leads.
    fn leader(&self) -> Option<Cluster> {
        self.running().into_iter().map(|(_, replica)| replica).find(|r| r.leadership().borrow().is_me)
    }

    /// Those that run and are to stay.
    fn staying(&self) -> Vec<(usize, Cluster)> {
        let mut running = self.running();
        running.retain(|(place, _)| !self.is_leaving(*place));
        running
    }

    /// One more replica, which joins.
    fn add(self: &Arc<Self>) {
        let place = lock(&self.places).last_key_value().map_or(0, |(place, _)| *place) + 1;
        self.with(place, |_| ());
        let chance = StdRng::seed_from_u64(self.seed.wrapping_mul(77).wrapping_add(place as u64));
        tokio::spawn(keeper::keep(Arc::clone(self), place, chance));
    }

    fn living(&self) -> Vec<usize> {
        let places = lock(&self.places);
        places.iter().filter(|(_, at)| at.life.is_some()).map(|(place, _)| *place).collect()
    }

    fn kept(&self) -> usize {
        lock(&self.places).values().filter(|at| !at.leaving).count()
    }

    fn seen(&self) -> Vec<Seen> {
        let mut places = lock(&self.places);
        let running = places.values_mut().filter_map(|at| {
            let (number, _) = at.life.as_ref().filter(|(_, life)| !life.is_over())?;
            Some(at.replica.as_ref()?.seen(*number, &mut at.hashed))
        });
        running.collect()
    }
}

/// Looks at all laws until the run ends.
async fn look(world: Arc<World>) {
    let mut laws = invariants::all();
    let mut snapshots = BTreeSet::new();
    loop {
        let seen = world.seen();
        for seen in &seen {
            if let Some(snapshot) = seen.snapshot
                && snapshots.insert((seen.node_id, snapshot))
            {
                faults::fired(Fault::Snapshot);
            }
        }
        for law in &mut laws {
            if let Err(broken) = law.look(&seen) {
                violated(&broken);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until `done`; says what is not when it takes too long.
async fn until(within: Duration, what: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + within;
    loop {
        match what() {
            Ok(()) => return,
            Err(why) if Instant::now() > deadline => {
                violated(&format!("not within {} s: {why}", within.as_secs()))
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Runs `seed`; ends the process with a message if anything is wrong.
pub(crate) async fn run(seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    let world = World::new(seed, &mut chance);
    world.add();
    until(HEALS_WITHIN, || world.leader().map(drop).ok_or("the first replica does not lead".into())).await;
    tokio::spawn(look(Arc::clone(&world)));
    let replicas = if chance.random_range(0..5) == 0 { 5 } else { 3 };
    (1..replicas).for_each(|_| world.add());
    until(HEALS_WITHIN, || all_vote(&world)).await;
    trace(|| format!("{replicas} replicas vote"));
    breaks::begin();
    let clients: Vec<_> = (1..=4)
        .map(|number| {
            let chance = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number));
            tokio::spawn(client::run(Arc::clone(&world), number, chance))
        })
        .collect();
    harm(&world, &mut chance).await;
    heal(&world);
    until(HEALS_WITHIN, || all_vote(&world)).await;
    let promised = oracle::acknowledged_count();
    tokio::time::sleep(Duration::from_secs(2)).await;
    if oracle::acknowledged_count() == promised {
        violated("the cluster is whole, and nothing was acknowledged for 2 s");
    }
    world.quiet.store(true, Ordering::Relaxed);
    for client in clients {
        let _ = client.await;
    }
    converge(&world).await;
}

fn all_vote(world: &World) -> Result<(), String> {
    let running = world.staying();
    let kept = world.kept();
    if running.len() < kept {
        return Err(format!("{} of {kept} replicas run", running.len()));
    }
    if world.removals.load(Ordering::Relaxed) > 0 {
        return Err("a replica is not removed yet".into());
    }
    let leader = world.leader().ok_or("nobody leads")?;
    let members = leader.status().members;
    let votes = |id: u64| members.iter().any(|m| m.node_id == id && m.voter);
    match running.iter().find(|(_, replica)| !votes(replica.identity().node_id)) {
        Some((place, _)) => Err(format!("replica {place} does not vote: {members:?}")),
        None => Ok(()),
    }
}

/// All replicas must come to hold the same.
async fn converge(world: &Arc<World>) {
    until(HEALS_WITHIN, || {
        let running = world.staying();
        let applied: BTreeSet<u64> = running.iter().map(|(_, replica)| replica.status().applied).collect();
        let lists: BTreeSet<Vec<u64>> =
            running.iter().map(|(_, replica)| replica.read(|list| list.items.clone())).collect();
        let lengths: Vec<usize> = lists.iter().map(Vec::len).collect();
        if applied.len() != 1 || lists.len() != 1 {
            return Err(format!("replicas applied up to {applied:?} and have {lengths:?} items"));
        }
        oracle::holds(&lists.into_iter().next().unwrap_or_default());
        all_vote(world)
    })
    .await;
    let Some(leader) = world.leader() else { violated("nobody leads any more") };
    let sum = match leader.fingerprint().await {
        Ok(sum) => sum,
        Err(error) => violated(&format!("the leader has no sum: {error}")),
    };
    for (place, replica) in &world.staying() {
        let found = replica.fingerprint_of(sum.index).await;
        if found != Some(sum) {
            violated(&format!("replica {place} sums to {found:?}, the leader to {sum:?}"));
        }
    }
    trace(|| format!("all replicas agree: {}", oracle::summary()));
}

/// Ends all harm.
fn heal(world: &World) {
    trace(|| "the harm ends".into());
    world.healing.store(true, Ordering::Relaxed);
    world.net.set_cut(BTreeSet::new());
    world.net.set_weather(0, 0);
    for at in lock(&world.places).values() {
        at.disk.disarm();
        at.disk.set_sync_ms((0, 2));
    }
}

/// The kinds of harm that a run draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    CrashAt,
    Crash,
    Blackout,
    FailSync,
    SlowSync,
    Partition,
    OneWay,
    Weather,
    Calm,
    Join,
    Flip,
    Remove,
    Transfer,
    Stop,
}

const HARMS: [Harm; 14] = [
    Harm::CrashAt,
    Harm::Crash,
    Harm::Blackout,
    Harm::FailSync,
    Harm::SlowSync,
    Harm::Partition,
    Harm::OneWay,
    Harm::Weather,
    Harm::Calm,
    Harm::Join,
    Harm::Flip,
    Harm::Remove,
    Harm::Transfer,
    Harm::Stop,
];

/// Harms the cluster for a while. Each run draws from some of the kinds only, so that each is also seen without the
/// others in its way.
async fn harm(world: &Arc<World>, chance: &mut StdRng) {
    let kinds: Vec<Harm> = HARMS.into_iter().filter(|_| chance.random_range(0..3) > 0).collect();
    let until = Instant::now() + Duration::from_millis(chance.random_range(6_000..15_000));
    let mut once = BTreeSet::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(chance.random_range(20..900))).await;
        let Some(kind) = kinds.choose(chance).copied() else { continue };
        // At most one of these a run: more of them may cost a quorum.
        if matches!(kind, Harm::Join | Harm::Flip | Harm::Remove) && !once.insert(format!("{kind:?}")) {
            continue;
        }
        do_harm(world, kind, chance);
    }
}

fn do_harm(world: &Arc<World>, kind: Harm, chance: &mut StdRng) {
    let living = world.living();
    let Some(&place) = living.choose(chance) else { return };
    let disk = world.with(place, |at| Arc::clone(&at.disk));
    match kind {
        Harm::CrashAt => {
            // One that comes often, or whichever of these seldom ones comes first.
            let steps = if chance.random_range(0..5) < 2 {
                Step::OFTEN.choose_multiple(chance, 1)
            } else {
                Step::SELDOM.choose_multiple(chance, 4)
            };
            for step in steps.copied().collect::<Vec<_>>() {
                disk.arm(step, chance.random_range(1..8), Then::Die);
            }
        }
        Harm::Crash => {
            faults::fired(Fault::Crash);
            world.with(place, |at| at.life.iter().for_each(|(_, life)| life.end()));
        }
        Harm::Blackout => {
            faults::fired(Fault::Blackout);
            for place in living {
                world.with(place, |at| {
                    at.power_goes = true;
                    at.life.iter().for_each(|(_, life)| life.end());
                });
            }
        }
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
        Harm::Calm => {
            world.net.set_cut(BTreeSet::new());
            world.net.set_weather(0, 0);
            lock(&world.places).values().for_each(|at| at.disk.set_sync_ms((0, 2)));
        }
        Harm::Join => world.add(),
        Harm::Flip => world.with(place, |at| at.wants_flip = true),
        Harm::Remove => {
            let node = world.with(place, |at| at.replica.as_ref().map(|replica| replica.identity().node_id));
            if let Some(node_id) = node {
                world.replace(place, node_id);
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
        Harm::Stop => world.with(place, |at| at.stop.notify_one()),
    }
}
