//! Faults of processes and networks, one after another, while clients write and read; afterwards the history of all
//! of them is judged, and the replicas' rows are compared.
//!
//! Every kind of fault fires in every round, in a random order. While it lasts, the rest must go on: operations are
//! answered. Not here: faults of disks (`disks`).

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::clients::Load;
use super::cluster::Registers;
use crate::faults::Table;
use crate::linearizable::{self, Answer, Operation, Verdict};
use crate::network::Place;

/// Steps for one key. A run's keys take a few hundred each.
const STEPS_MAX: u64 = 1_000_000;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL and restart of the leader.
    KillLeader,
    /// Of a follower.
    KillFollower,
    /// Of all at once.
    KillAll,
    /// SIGSTOP of the leader, later SIGCONT.
    PauseLeader,
    /// Of a follower.
    PauseFollower,
    /// The leader and all others lose each other.
    LeaderCutOff,
    /// Nothing from the leader reaches the others.
    LeaderMute,
    /// Nothing from the others reaches the leader.
    LeaderDeaf,
    /// A follower and all others lose each other.
    FollowerCutOff,
    /// Nothing from a follower reaches the others.
    FollowerMute,
    /// Nothing from the others reaches a follower.
    FollowerDeaf,
    /// The leader and one follower lose each other; others reach both.
    OneLinkCut,
    /// Nothing from the leader reaches one follower.
    OneDirectionCut,
    /// The leader and as many others as are no majority are cut off from the rest.
    MinorityWithLeader,
    /// Nothing from the leader reaches the clients.
    ClientsUnheard,
}

impl Fault {
    /// All kinds.
    pub const ALL: &[Fault] = &[
        Fault::KillLeader,
        Fault::KillFollower,
        Fault::KillAll,
        Fault::PauseLeader,
        Fault::PauseFollower,
        Fault::LeaderCutOff,
        Fault::LeaderMute,
        Fault::LeaderDeaf,
        Fault::FollowerCutOff,
        Fault::FollowerMute,
        Fault::FollowerDeaf,
        Fault::OneLinkCut,
        Fault::OneDirectionCut,
        Fault::MinorityWithLeader,
        Fault::ClientsUnheard,
    ];

    /// Whether packets must be lost for it.
    fn needs_network(self) -> bool {
        use Fault::*;
        !matches!(self, KillLeader | KillFollower | KillAll | PauseLeader | PauseFollower)
    }

    /// Whether the clients must be served while it lasts.
    fn spares_service(self) -> bool {
        !matches!(self, Fault::KillAll | Fault::ClientsUnheard)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::KillLeader => "SIGKILL of the leader",
            Fault::KillFollower => "SIGKILL of a follower",
            Fault::KillAll => "SIGKILL of all",
            Fault::PauseLeader => "SIGSTOP of the leader",
            Fault::PauseFollower => "SIGSTOP of a follower",
            Fault::LeaderCutOff => "leader cut off from all",
            Fault::LeaderMute => "leader heard by none",
            Fault::LeaderDeaf => "leader hears none",
            Fault::FollowerCutOff => "follower cut off from all",
            Fault::FollowerMute => "follower heard by none",
            Fault::FollowerDeaf => "follower hears none",
            Fault::OneLinkCut => "leader and one follower cut apart",
            Fault::OneDirectionCut => "leader not heard by one follower",
            Fault::MinorityWithLeader => "leader's minority cut off",
            Fault::ClientsUnheard => "leader's answers lost",
        })
    }
}

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of everything random that the harness decides.
    pub seed: u64,
    /// Each fault fires at least so often.
    pub rounds: u64,
    /// And there are at least so many operations.
    pub operations: u64,
    /// Registers.
    pub keys: u32,
    /// At the same time.
    pub clients: u64,
    /// A fault lasts at most so long, if all go on.
    pub lasts: Duration,
}

/// The name of the row that judges the whole history.
const HISTORY: &str = "all of them";
/// The name of the row that compares replicas.
const ROWS: &str = "all of them, then healed";
/// The name of the row that tries the checker.
const TRIED: &str = "stale reads put into the history";

/// A run, judged.
pub struct Ran {
    /// Of the history.
    pub report: linearizable::Report,
    /// Fault by fault.
    pub table: Table,
}

/// Loads the cluster, disturbs it, heals it, judges. Replicas that are in no network of their own are not cut apart.
pub async fn run(cluster: &mut Registers, plan: Plan) -> Result<Ran> {
    let mut table = Table::default();
    let cuts = cluster.network().is_ok();
    let possible = Fault::ALL.iter().copied().filter(|fault| cuts || !fault.needs_network());
    let possible: Vec<Fault> = possible.collect();
    for fault in &possible {
        table.declare(fault, "the rest goes on; then all do");
    }
    declare_conclusion(&mut table);
    let load = Load::start(cluster, plan.keys, plan.clients, plan.seed);
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut storm = Storm { cluster, load, plan, random: random.clone() };
    let mut rounds = 0;
    while rounds < plan.rounds || storm.load.operations() < plan.operations {
        let mut faults = possible.clone();
        faults.shuffle(&mut random);
        for fault in faults {
            let after = storm.fire(fault).await.with_context(|| {
                format!("seed {}, {} replicas, {fault}", plan.seed, storm.cluster.replicas.len())
            })?;
            table.held(fault, after);
        }
        rounds += 1;
    }
    let Storm { cluster, load, .. } = storm;
    let fired = rounds * possible.len() as u64;
    let report = conclude(cluster, load, &mut table, fired, &mut random).await?;
    Ok(Ran { report, table })
}

/// The rows that judge a whole run.
pub(super) fn declare_conclusion(table: &mut Table) {
    table.declare(HISTORY, "linearizable");
    table.declare(ROWS, "equal rows");
    table.declare(TRIED, "caught");
}

/// Ends the load and judges all of it, after so many faults.
pub(super) async fn conclude(
    cluster: &mut Registers,
    load: Load,
    table: &mut Table,
    fired: u64,
    random: &mut StdRng,
) -> Result<linearizable::Report> {
    let history = load.finish().await?;
    cluster.level().await?;
    cluster.must_live()?;
    let sums = cluster.equal_sums().await;
    table.judged(ROWS, fired, sums.map(|sum| format!("at log index {}", sum.index)));
    let report = linearizable::judge(&history, STEPS_MAX);
    let judged = if report.passed() { Ok(report.to_string()) } else { Err(anyhow::anyhow!("{report}")) };
    table.judged(HISTORY, fired, judged);
    let (tried, caught) = try_checker(&history, random);
    let all =
        if caught == tried { Ok(String::new()) } else { Err(anyhow::anyhow!("{caught} of {tried} were")) };
    table.judged(TRIED, tried, all);
    Ok(report)
}

/// Changes single answers into ones of the past and counts how many of these the checker notices.
fn try_checker(history: &[Operation], random: &mut StdRng) -> (u64, u64) {
    let (mut tried, mut caught) = (0, 0);
    for _ in 0..20 {
        // A read, and the value that an acknowledged write replaced before the read began.
        let key = history[random.random_range(0..history.len())].key;
        let mut part: Vec<Operation> =
            history.iter().filter(|operation| operation.key == key).copied().collect();
        part.sort_by_key(|operation| operation.called);
        let stored = part.iter().filter_map(|o| o.answered.filter(|(_, answer)| *answer == Answer::Stored));
        let Some(first) = stored.map(|(at, _)| at).min() else { continue };
        let reads = part.iter_mut().filter(|o| o.called > first);
        let mut reads: Vec<_> = reads.filter(|o| matches!(o.answered, Some((_, Answer::Got(_))))).collect();
        if reads.is_empty() {
            continue;
        }
        let read = random.random_range(0..reads.len());
        reads[read].answered = reads[read].answered.map(|(at, _)| (at, Answer::Got(None)));
        tried += 1;
        let report = linearizable::judge(&part, STEPS_MAX);
        caught += u64::from(matches!(report.failures.get(&key), Some(Verdict::Broken(_))));
    }
    (tried, caught)
}

struct Storm<'a> {
    cluster: &'a mut Registers,
    load: Load,
    plan: Plan,
    random: StdRng,
}

impl Storm<'_> {
    /// One fault, from its beginning until all replicas are level again; how long the clients waited to be served.
    async fn fire(&mut self, fault: Fault) -> Result<Duration> {
        let all = self.cluster.replicas.len();
        self.load.goes_on().await.context("before the fault")?;
        let leader = self.cluster.leader().await?;
        let follower = (leader + self.random.random_range(1..all)) % all;
        let began = Instant::now();
        self.begin(fault, leader, follower)?;
        let lasts = self.plan.lasts.mul_f64(self.random.random_range(0.2..1.0));
        let mut served = None;
        if fault.spares_service() {
            self.load.goes_on().await.context("while it lasted")?;
            served = Some(began.elapsed());
        }
        // The fault's own length, not a wait for anything.
        tokio::time::sleep(lasts.saturating_sub(began.elapsed())).await;
        self.end(fault, leader, follower)?;
        let healed = Instant::now();
        self.load.goes_on().await.context("after it")?;
        self.cluster.level().await.context("after it")?;
        self.cluster.must_live()?;
        Ok(served.unwrap_or_else(|| healed.elapsed()))
    }

    fn begin(&mut self, fault: Fault, leader: usize, follower: usize) -> Result<()> {
        let all = self.cluster.replicas.len();
        let others = |than: usize| (0..all).filter(move |n| *n != than).collect::<Vec<_>>();
        match fault {
            Fault::KillLeader => self.cluster.replicas[leader].kill(),
            Fault::KillFollower => self.cluster.replicas[follower].kill(),
            Fault::KillAll => self.cluster.replicas.iter_mut().try_for_each(|replica| replica.kill()),
            Fault::PauseLeader => self.cluster.replicas[leader].signal(libc::SIGSTOP),
            Fault::PauseFollower => self.cluster.replicas[follower].signal(libc::SIGSTOP),
            Fault::LeaderCutOff => self.apart(&[leader], &others(leader)),
            Fault::LeaderMute => self.unheard(&[leader], &others(leader)),
            Fault::LeaderDeaf => self.unheard(&others(leader), &[leader]),
            Fault::FollowerCutOff => self.apart(&[follower], &others(follower)),
            Fault::FollowerMute => self.unheard(&[follower], &others(follower)),
            Fault::FollowerDeaf => self.unheard(&others(follower), &[follower]),
            Fault::OneLinkCut => self.apart(&[leader], &[follower]),
            Fault::OneDirectionCut => self.unheard(&[leader], &[follower]),
            Fault::MinorityWithLeader => {
                let members: Vec<usize> = (0..all).map(|n| (leader + n) % all).collect();
                let (minority, rest) = members.split_at((all - 1) / 2);
                self.apart(minority, rest)
            }
            Fault::ClientsUnheard => self.cluster.network()?.cut(Place::Member(leader), Place::Hub),
        }
    }

    fn end(&mut self, fault: Fault, leader: usize, follower: usize) -> Result<()> {
        match fault {
            Fault::KillLeader => self.cluster.replicas[leader].start(),
            Fault::KillFollower => self.cluster.replicas[follower].start(),
            Fault::KillAll => self.cluster.replicas.iter_mut().try_for_each(|replica| replica.start()),
            Fault::PauseLeader => self.cluster.replicas[leader].signal(libc::SIGCONT),
            Fault::PauseFollower => self.cluster.replicas[follower].signal(libc::SIGCONT),
            _ => self.cluster.network()?.heal(),
        }
    }

    fn unheard(&self, from: &[usize], to: &[usize]) -> Result<()> {
        let network = self.cluster.network()?;
        let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
        pairs.into_iter().try_for_each(|(from, to)| network.cut(Place::Member(from), Place::Member(to)))
    }

    fn apart(&self, some: &[usize], rest: &[usize]) -> Result<()> {
        self.unheard(some, rest)?;
        self.unheard(rest, some)
    }
}
