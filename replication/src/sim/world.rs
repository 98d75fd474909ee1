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
use crate::sim::disk::Disk;
use crate::sim::faults::{self, Fault};
use crate::sim::files::HOME;
use crate::sim::invariants::{self, Seen};
use crate::sim::life::Life;
use crate::sim::machine::List;
use crate::sim::net::Net;
use crate::sim::obeyer::Obeyer;
use crate::sim::{breaks, client, fork, harm, keeper, oracle, trace, violated};

/// A replica of the simulated cluster.
pub(crate) type Cluster = Replica<List>;

/// After the harm, a cluster must be one within this time.
const HEALS_WITHIN: Duration = Duration::from_secs(60);
/// All laws are looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The run.
pub(crate) struct World {
    pub(crate) net: Arc<Net>,
    pub(crate) obeyer: Arc<Obeyer>,
    places: Mutex<BTreeMap<usize, Place>>,
    healing: AtomicBool,
    quiet: AtomicBool,
    lives: AtomicU64,
    /// Replicas that are being removed.
    removals: AtomicU64,
    /// Whether rows were made to differ.
    differs: AtomicBool,
    seed: u64,
    pub(crate) snapshot_entries: u64,
    pub(crate) keep_entries: u64,
    pub(crate) check_every: Duration,
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
    /// How long it stays down when it ends next.
    away: Option<Duration>,
    /// The cluster goes on without it: it is condemned, or being removed.
    leaving: bool,
    stop: Arc<Notify>,
}

impl World {
    fn new(seed: u64, chance: &mut StdRng) -> Arc<Self> {
        Arc::new(World {
            net: Arc::new(Net::new(chance.random())),
            obeyer: Arc::default(),
            places: Mutex::default(),
            healing: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            lives: AtomicU64::new(0),
            removals: AtomicU64::new(0),
            differs: AtomicBool::new(false),
            seed,
            snapshot_entries: *[20, 50, 200].choose(chance).unwrap_or(&50),
            keep_entries: *[0, 5, 40].choose(chance).unwrap_or(&5),
            check_every: Duration::from_secs(chance.random_range(1..11)),
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
            away: None,
            leaving: false,
            stop: Arc::default(),
        }))
    }

    pub(crate) fn new_life(&self, place: usize, seed: u64) -> Arc<Life> {
        let number = self.lives.fetch_add(1, Ordering::Relaxed);
        self.with(place, |at| {
            let dir = PathBuf::from(HOME).join(place.to_string());
            at.disk.make_home(&dir);
            let life = Life::new((0, place), dir, Arc::clone(&at.disk), Arc::clone(&self.net), seed);
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

    /// It may be found to be damaged, and need not be.
    pub(crate) fn may_be_damaged(&self, place: usize) {
        self.with(place, |at| at.damaged = true);
    }

    /// From now on rows may differ.
    pub(crate) fn differ(&self) {
        self.differs.store(true, Ordering::Relaxed);
    }

    pub(crate) fn rows_may_differ(&self) -> bool {
        self.differs.load(Ordering::Relaxed)
    }

    /// A bit is flipped when the replica at `place` is down.
    pub(crate) fn wish_flip(&self, place: usize) {
        self.with(place, |at| at.wants_flip = true);
    }

    pub(crate) fn ask_to_stop(&self, place: usize) {
        self.with(place, |at| at.stop.notify_one());
    }

    /// When the replica at `place` ends next, it stays down so long.
    pub(crate) fn keep_away(&self, place: usize, time: Duration) {
        self.with(place, |at| at.away = Some(time));
    }

    pub(crate) fn stays_away(&self, place: usize) -> Option<Duration> {
        self.with(place, |at| at.away.take())
    }

    /// The replica at `place` ends, and maybe all power with it.
    pub(crate) fn end(&self, place: usize, power: bool) {
        self.with(place, |at| {
            at.power_goes |= power;
            at.life.iter().for_each(|(_, life)| life.end());
        });
    }

    pub(crate) fn disk(&self, place: usize) -> Arc<Disk> {
        self.with(place, |at| Arc::clone(&at.disk))
    }

    pub(crate) fn life(&self, place: usize) -> Option<Arc<Life>> {
        self.with(place, |at| at.life.as_ref().map(|(_, life)| Arc::clone(life)))
    }

    pub(crate) fn replica(&self, place: usize) -> Option<Cluster> {
        self.with(place, |at| at.replica.clone())
    }

    /// Whether the replica at `place` says that it leads.
    pub(crate) fn leads(&self, place: usize) -> bool {
        self.replica(place).is_some_and(|replica| replica.leadership().borrow().is_me)
    }

    /// The network and the disks are as they should be.
    pub(crate) fn calm(&self) {
        self.net.set_cut(BTreeSet::new());
        self.net.set_weather(0, 0);
        self.net.set_slow_ms((1, 3));
        lock(&self.places).values().for_each(|at| at.disk.set_sync_ms((0, 2)));
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

    /// Whether one is on its way out.
    fn replaces_one(&self) -> bool {
        self.removals.load(Ordering::Relaxed) > 0
    }

    /// Whether most voters run and are sound without the replica at `place`, so that its disk may be lost.
    pub(crate) fn can_spare(&self, place: usize) -> bool {
        let Some(leader) = self.leader().filter(|_| !self.replaces_one()) else { return false };
        let members = leader.status().members;
        let votes = |id: u64| members.iter().any(|member| member.voter && member.node_id == id);
        let others = self.staying().into_iter().filter(|(at, _)| *at != place && !self.was_damaged(*at));
        let sound = others.filter(|(_, replica)| votes(replica.identity().node_id)).count();
        sound * 2 > members.iter().filter(|member| member.voter).count()
    }

    /// Who says that it leads.
    pub(crate) fn leader(&self) -> Option<Cluster> {
        self.running().into_iter().map(|(_, replica)| replica).find(|r| r.leadership().borrow().is_me)
    }

    /// Those that run and are to stay.
    fn staying(&self) -> Vec<(usize, Cluster)> {
        let mut running = self.running();
        running.retain(|(place, _)| !self.is_leaving(*place));
        running
    }

    /// One more replica, which joins.
    pub(crate) fn add(self: &Arc<Self>) {
        let place = lock(&self.places).last_key_value().map_or(0, |(place, _)| *place) + 1;
        self.with(place, |_| ());
        let chance = StdRng::seed_from_u64(self.seed.wrapping_mul(77).wrapping_add(place as u64));
        tokio::spawn(keeper::keep(Arc::clone(self), place, chance));
    }

    pub(crate) fn living(&self) -> Vec<usize> {
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
    // Which lives have no room, and whether they lead.
    let mut full: BTreeMap<u64, bool> = BTreeMap::new();
    loop {
        let seen = world.seen();
        for seen in &seen {
            if let Some(snapshot) = seen.snapshot
                && snapshots.insert((seen.node_id, snapshot))
            {
                faults::fired(Fault::Snapshot);
            }
            let before = match seen.full {
                true => full.insert(seen.life, seen.leads.is_some()),
                false => full.remove(&seen.life).map(|_| faults::fired(Fault::RoomAgain)).and(None),
            };
            if before == Some(true) && seen.leads.is_none() {
                faults::fired(Fault::FullGivesUp);
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
    harm::harm(&world, &mut chance).await;
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
    lose_all_but_one(&world, &mut chance).await;
}

/// Of a whole cluster one disk is left: a new cluster of it has all that was promised.
async fn lose_all_but_one(world: &World, chance: &mut StdRng) {
    // What is acknowledged is on a quorum's disks; by now on all.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut sound = world.staying();
    sound.retain(|(place, _)| !world.was_damaged(*place));
    let Some((place, replica)) = sound.choose(chance) else { return };
    let image = world.disk(*place).image();
    image.power_cut();
    let items = replica.read(|list| list.items.len());
    let before = replica.identity().clone();
    let owed = fork::Owed { before, index: replica.status().applied, items, same: items };
    let dir = PathBuf::from(HOME).join(place.to_string());
    fork::recover(image, Arc::clone(&world.net), chance.random(), &dir, owed).await;
}

fn all_vote(world: &World) -> Result<(), String> {
    let running = world.staying();
    let kept = world.kept();
    if running.len() < kept {
        return Err(format!("{} of {kept} replicas run", running.len()));
    }
    if world.replaces_one() {
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
    let deadline = Instant::now() + HEALS_WITHIN;
    while let Err(why) = same_sums(world).await {
        // Rows that were made to differ are found and replaced; all others are the same at once.
        if !world.rows_may_differ() || Instant::now() > deadline {
            violated(&why);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    trace(|| format!("all replicas agree: {}", oracle::summary()));
}

/// Ends all harm.
fn heal(world: &World) {
    trace(|| "the harm ends".into());
    world.healing.store(true, Ordering::Relaxed);
    world.calm();
    for at in lock(&world.places).values() {
        at.disk.disarm();
        at.disk.set_free(None);
    }
}

/// Whether all have the same rows. Where there is no majority, a person decides: here, who wrote what it should not is
/// replaced.
async fn same_sums(world: &Arc<World>) -> Result<(), String> {
    let leader = world.leader().ok_or("nobody leads any more")?;
    let sum = leader.fingerprint().await.map_err(|error| format!("the leader has no sum: {error}"))?;
    for (place, replica) in &world.staying() {
        let found = replica.fingerprint_of(sum.index).await;
        if found != Some(sum) {
            if *leader.split().borrow() && found.is_some() && world.removals.load(Ordering::Relaxed) == 0 {
                world.replace(*place, replica.identity().node_id);
            }
            return Err(format!("replica {place} sums to {found:?}, the leader to {sum:?}"));
        }
    }
    all_vote(world)
}
