//! Leader lost -> first launch commanded by the next leader, under a constant load of submits: by SIGKILL, by SIGSTOP
//! and by a cut network, with a state that is nearly empty and with a large one, in one cluster.
//!
//! The launches are read from the journals of agents that run real tasks; the large state is of simulated hosts. After
//! each fault all is healed and level again before the next one. What was lost, launched twice or restarted is counted.
//!
//! An agent that is attached to a stopped replica, or to one that was cut off, notices only when nothing comes back
//! from it for seconds. Most agents of a cluster are attached elsewhere; here, of three, one always is. So there are two
//! figures: until the first launch, and until every host has had one.

mod promises;
mod submits;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::promises::{Breaches, Promises};
use self::submits::Submits;
use crate::cluster::{Cluster, PATIENCE, Setup};
use crate::figures::{self, Percentiles};
use crate::journal::Journal;
use crate::million::Crowd;
use crate::network::{Network, Place};
use crate::{fsync, jobs, processes, wait};

/// How a leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// SIGKILL; started again afterwards.
    Kill,
    /// SIGSTOP; SIGCONT once another has led.
    Stop,
    /// Packets between it and everybody else are lost, in both directions.
    Cut,
}

impl Way {
    /// On the command line and in figures.
    pub fn name(self) -> &'static str {
        match self {
            Way::Kill => "kill",
            Way::Stop => "stop",
            Way::Cut => "cut",
        }
    }
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Leaders to lose, in each way and with each state.
    pub kills: usize,
    /// Which ways.
    pub ways: Vec<Way>,
    /// Simulated tasks of the large state; 0 = only the small one.
    pub tasks: u64,
    /// Real tasks that run all the while and must not notice.
    pub base: u32,
    /// Agents that run real tasks.
    pub agents: usize,
    /// Raft timers.
    pub profile: &'static str,
}

/// Leaders lost in one way with one state.
#[derive(Clone, Debug)]
pub struct Series {
    profile: &'static str,
    way: Way,
    /// All that run.
    tasks: u64,
    kills: usize,
    times: Percentiles,
    /// Until every host has had a launch.
    everywhere: Percentiles,
    submitted: usize,
    breaches: Breaches,
}

impl Series {
    /// Whether it is of this profile and way.
    pub fn is(&self, profile: &str, way: Way) -> bool {
        self.profile == profile && self.way == way
    }

    /// Nothing was lost, doubled or restarted.
    pub fn held(&self) -> bool {
        self.breaches == Breaches::default()
    }

    /// Above the lines of `tell`.
    pub fn headline() {
        eprintln!(
            "\n{:<8} {:<5} {:>9} {:>6} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8} {:>6} {:>8} {:>10}",
            "profile",
            "by",
            "tasks",
            "times",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "all: p50",
            "max ms",
            "lost",
            "doubled",
            "restarted"
        );
    }

    /// One line for people.
    pub fn tell(&self) {
        let ms = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.0}"));
        let Breaches { lost, doubled, restarted } = self.breaches;
        eprintln!(
            "{:<8} {:<5} {:>9} {:>6} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8} {lost:>6} {doubled:>8} {restarted:>10}",
            self.profile,
            self.way.name(),
            self.tasks,
            self.kills,
            ms(self.times.p50_ms),
            ms(self.times.p90_ms),
            ms(self.times.p99_ms),
            ms(self.times.max_ms),
            ms(self.everywhere.p50_ms),
            ms(self.everywhere.max_ms),
        );
    }

    /// The same for machines.
    pub fn figures(&self) -> Value {
        json!({
            "profile": self.profile, "by": self.way.name(), "tasks": self.tasks, "kills": self.kills,
            "p50_ms": self.times.p50_ms, "p90_ms": self.times.p90_ms, "p99_ms": self.times.p99_ms,
            "max_ms": self.times.max_ms, "all_hosts_p50_ms": self.everywhere.p50_ms,
            "all_hosts_max_ms": self.everywhere.max_ms, "submitted": self.submitted, "lost": self.breaches.lost,
            "doubled": self.breaches.doubled, "restarted": self.breaches.restarted,
        })
    }
}

/// What a run gives.
#[derive(Debug)]
pub struct Ran {
    /// In the order in which they were measured.
    pub series: Vec<Series>,
    /// Syncs of the disk.
    pub disk: fsync::Rates,
    /// Of the programs.
    pub commit: String,
}

/// Runs a plan. Networks are cut in a network of its own, which only root can make; for others that way is left out.
pub fn run(plan: &Plan) -> Result<Ran> {
    let mut plan = plan.clone();
    if plan.ways.contains(&Way::Cut) {
        if Network::possible() {
            let network = Arc::new(Network::new(3)?);
            return network.block_on(async || interruptible(&plan, Some(Arc::clone(&network))).await);
        }
        eprintln!("only root can cut a network; the rest is measured without");
        plan.ways.retain(|way| *way != Way::Cut);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(interruptible(&plan, None))
}

/// The cluster stops when its value is dropped, so an interrupted run leaves nothing either.
async fn interruptible(plan: &Plan, network: Option<Arc<Network>>) -> Result<Ran> {
    tokio::select! {
        ran = run_in(plan, network) => ran,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}

async fn run_in(plan: &Plan, network: Option<Arc<Network>>) -> Result<Ran> {
    let setup = Setup {
        agents: plan.agents,
        profile: plan.profile,
        cpus: 4 + plan.base / 100,
        apart: true,
        crowd: Crowd::hosts(plan.tasks),
        crowd_cpus: Crowd::cpus(),
        network,
        ..Setup::default()
    };
    let mut cluster = Cluster::start(setup).await?;
    let disk = fsync::measure(cluster.dir(), Duration::from_secs(1))?;
    let base = cluster.key("base");
    cluster.create(&jobs::simulated(jobs::sleeper(&base, plan.base), false)).await?;
    cluster.all_running(&base, plan.base).await?;
    let (mut series, mut seen) = (Vec::new(), Journal::default());
    for large in [false, true] {
        let crowd = large.then(|| Crowd::of(plan.tasks)).filter(|crowd| crowd.tasks() > 0);
        if large && crowd.is_none() {
            break;
        }
        if let Some(crowd) = crowd {
            let took = crowd.fill(&cluster, u64::from(plan.base)).await?;
            eprintln!("{} simulated tasks run after {:.1} s", crowd.tasks(), took.as_secs_f64());
        }
        for way in &plan.ways {
            let one = lose_leaders(&mut cluster, plan, (*way, crowd), series.len(), &mut seen).await?;
            Series::headline();
            one.tell();
            series.push(one);
        }
    }
    let commit = cluster.programs.commit.clone();
    cluster.stop()?;
    Ok(Ran { series, disk, commit })
}

async fn lose_leaders(
    cluster: &mut Cluster,
    plan: &Plan,
    (way, crowd): (Way, Option<Crowd>),
    number: usize,
    seen: &mut Journal,
) -> Result<Series> {
    let promises = Promises::take(cluster, crowd).await?;
    let submits = Submits::start(cluster, number);
    let lost = async {
        let mut times = (Vec::new(), Vec::new());
        for kill in 1..=plan.kills {
            let took = lose_leader(cluster, way, &submits, seen).await;
            let (first, all) = took.with_context(|| format!("{} {kill}", way.name()))?;
            let tasks = crowd.map_or(0, Crowd::tasks) + u64::from(plan.base);
            eprintln!(
                "{} {} {kill:>3}, {tasks} tasks: next launch after {:.0} ms, on every host after {:.0} ms",
                plan.profile,
                way.name(),
                first.as_secs_f64() * 1e3,
                all.as_secs_f64() * 1e3
            );
            times.0.push(first);
            times.1.push(all);
        }
        anyhow::Ok(times)
    }
    .await;
    let submitted = submits.finish().await?;
    let (times, everywhere) = lost?;
    let breaches = promises.check(cluster, &submitted, seen).await?;
    Ok(Series {
        profile: plan.profile,
        way,
        tasks: crowd.map_or(0, Crowd::tasks) + u64::from(plan.base),
        kills: times.len(),
        times: figures::percentiles(&times),
        everywhere: figures::percentiles(&everywhere),
        submitted: submitted.len(),
        breaches,
    })
}

/// Adds what the journals of all agents that run real tasks hold now: they may let go of it later.
fn look(cluster: &Cluster, seen: &mut Journal) -> Result<()> {
    cluster.journals()?.into_iter().for_each(|journal| seen.launches.extend(journal.launches));
    Ok(())
}

/// Takes the leader away, measures until the first launch and until there was one on every host, and heals.
async fn lose_leader(
    cluster: &mut Cluster,
    way: Way,
    submits: &Submits,
    seen: &mut Journal,
) -> Result<(Duration, Duration)> {
    let leader = cluster.leader().await?;
    submits.progress().await.context("before it")?;
    // Faults fall anywhere between two heartbeats.
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..200))).await;
    let at_ns = processes::boottime_ns();
    match way {
        Way::Kill => cluster.replicas[leader].kill()?,
        Way::Stop => cluster.replicas[leader].signal(libc::SIGSTOP)?,
        Way::Cut => cut_off(cluster, leader)?,
    }
    // From here on only this program's own counter is looked at, until all that is measured is long over.
    submits.progress().await?;
    let took = wait::until("launches by the new leader", PATIENCE, async || {
        look(cluster, seen)?;
        let agents = cluster.real_agents().iter().map(|agent| agent.name.as_str());
        let all = figures::takeover_everywhere(&seen.launches, at_ns, agents);
        figures::takeover(&seen.launches, at_ns).zip(all).context("not one on every host")
    })
    .await?;
    match way {
        Way::Kill => cluster.replicas[leader].start()?,
        Way::Stop => cluster.replicas[leader].signal(libc::SIGCONT)?,
        Way::Cut => cluster.network()?.heal()?,
    }
    cluster.serves(leader).await?;
    let goal = cluster.api(cluster.leader().await?).status().await.done()?.applied_index;
    wait::until("the lost replica to catch up", PATIENCE, async || {
        let applied = cluster.api(leader).within(Duration::from_secs(2)).status().await.done()?.applied_index;
        ensure!(applied >= goal, "it has applied {applied} of {goal}");
        Ok(())
    })
    .await?;
    cluster.hosts_known().await?;
    cluster.must_live()?;
    Ok(took)
}

/// First from the others, then from those who ask it.
fn cut_off(cluster: &Cluster, replica: usize) -> Result<()> {
    let (network, cut) = (cluster.network()?, Place::Member(replica));
    let others = (0..cluster.replicas.len()).filter(|n| *n != replica).map(Place::Member);
    for other in others.chain([Place::Hub]) {
        network.cut(cut, other)?;
        network.cut(other, cut)?;
    }
    Ok(())
}
