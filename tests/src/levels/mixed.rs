//! One cluster of old and new programs: each replica is upgraded while jobs run, leaders of either kind die, and nothing
//! is lost. The level rises when the last old one is gone, and not before; then there is no way back.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use proto::wire::ClusterStatusReply;

use crate::client::{self, Client};
use crate::cluster::{Cluster, Member, PATIENCE, Setup, free_ports};
use crate::processes::Identity;
use crate::programs::{AGENT, CLIENT, EXECUTOR, Programs, SCHEDULER, judge_version, source_dir};
use crate::{jobs, verdict, wait};

/// Building four programs from nothing.
const BUILD_MAX: Duration = Duration::from_secs(1800);
/// Tasks of each job.
const INSTANCES: u32 = 4;

/// The programs of the commit that froze a level; built once, from git history.
pub fn programs_of(level: u32) -> Result<Programs> {
    let script = source_dir().join("tests/levels/programs.sh");
    let mut command = Command::new(script);
    command.arg(level.to_string());
    let said = client::run(&mut command, BUILD_MAX)?.ok().context("the programs of an earlier level")?;
    let dir = Path::new(said.trim());
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let commit = name.rsplit('-').next().unwrap_or_default().to_owned();
    for program in [SCHEDULER, AGENT, EXECUTOR, CLIENT] {
        let ended = client::run(Command::new(dir.join(program)).arg("--version"), PATIENCE)?;
        judge_version(program, ended.ok()?.trim(), &commit)?;
    }
    Ok(Programs { dir: dir.into(), commit })
}

/// A cluster that is on its way from one level to the next.
struct Mixed {
    cluster: Cluster,
    old: Programs,
    new: Programs,
    client: Client,
    /// The replicas that run new programs.
    upgraded: Vec<usize>,
    /// All tasks' processes, as they were first seen.
    seen: BTreeMap<(u64, String), Identity>,
    jobs: u32,
    begun: Instant,
    report: Vec<String>,
}

/// Goes all the way; says what was done and seen.
pub async fn run(level: u32) -> Result<String> {
    let (old, new) = (programs_of(level)?, Programs::find()?);
    let setup = Setup { programs: Some(old.clone()), ..Setup::default() };
    let cluster = Cluster::start(setup).await?;
    let addresses: Vec<String> = cluster.replicas.iter().map(|replica| replica.api.clone()).collect();
    let client = Client::new(&new, &addresses);
    let (begun, upgraded, seen, report) = (Instant::now(), Vec::new(), BTreeMap::new(), Vec::new());
    let mut mixed = Mixed { cluster, old, new, client, upgraded, seen, jobs: 0, begun, report };
    mixed.upgrade(level).await?;
    mixed.cluster.must_live()?;
    mixed.cluster.stop()?;
    Ok(mixed.report.join("\n"))
}

impl Mixed {
    async fn upgrade(&mut self, level: u32) -> Result<()> {
        self.step("all replicas old", level).await?;

        // An old leader, and one new follower.
        let leader = self.cluster.leader().await?;
        let followers: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
        self.renew(followers[0]).await?;
        self.lead(leader).await?;
        self.step("old leader, new and old follower", level).await?;
        self.clock_is_refused("knows no such command")?;

        // The reverse; and it dies.
        self.lead(followers[0]).await?;
        self.step("new leader, old followers", level).await?;
        self.clock_is_refused("can act at level 1 only")?;
        self.kill_leader().await?;
        self.step("the new leader was killed", level).await?;

        // Old leads, and it dies.
        self.lead(leader).await?;
        self.renew(followers[1]).await?;
        self.lead(leader).await?;
        self.step("old leader, new followers", level).await?;
        self.kill_leader().await?;
        self.step("the old leader was killed", level).await?;
        self.lead(followers[1]).await?;
        self.clock_is_refused("can act at level 1 only")?;
        self.step("new leader, new and old follower", level).await?;

        // The last one: now all can.
        self.renew(leader).await?;
        self.reaches(level + 1).await?;
        self.no_way_back(level + 1, Member::kill).await?;
        self.step("all replicas new", level + 1).await?;
        self.kill_leader().await?;
        self.step("a leader of the new level was killed", level + 1).await?;
        self.clock_is_set().await?;
        for n in 0..self.cluster.agents.len() {
            let program = self.new.path(AGENT);
            self.cluster.agents[n].kill()?;
            self.cluster.agents[n].change_program(&program);
            self.cluster.agents[n].start()?;
        }
        self.cluster.hosts_known().await?;
        self.step("agents new", level + 1).await?;

        self.no_way_back(level + 1, Member::stop).await?;
        self.no_old_one_joins(level + 1).await?;
        self.step("after old programs were refused", level + 1).await
    }

    fn note(&mut self, what: impl std::fmt::Display) {
        let line = format!("{:>6.1} s  {what}", self.begun.elapsed().as_secs_f64());
        eprintln!("{line}");
        self.report.push(line);
    }

    /// A new job runs; what ran before runs on, in the very same processes; all replicas have the same rows, and act at
    /// that level.
    async fn step(&mut self, what: &str, level: u32) -> Result<()> {
        self.look(what, level).await.with_context(|| what.to_owned())
    }

    async fn look(&mut self, what: &str, level: u32) -> Result<()> {
        self.jobs += 1;
        let new_job = self.jobs;
        self.cluster.create(&jobs::sleeper(&self.job(new_job), INSTANCES)).await?;
        for n in 1..=self.jobs {
            self.cluster.all_running(&self.job(n), INSTANCES).await?;
        }
        let living = self.cluster.living()?;
        for (process, identity) in &self.seen {
            let now = living.get(process);
            ensure!(now == Some(identity), "{process:?} was {identity:?} and is {now:?}");
        }
        self.seen = living;
        let sums = self.cluster.equal_sums().await?;
        for n in 0..3 {
            let acts_at = self.status(n).await?.apply_level;
            ensure!(acts_at == level, "{} acts at level {acts_at}", self.cluster.replicas[n].name);
        }
        let journals = self.cluster.journals()?;
        let breaches = [verdict::launched_once(&journals), verdict::never_replaced(&journals)].concat();
        ensure!(breaches.is_empty(), "{breaches:?}");
        self.note(format!(
            "{what}: level {level}, {} tasks run as before, sums {} at {}",
            self.jobs * INSTANCES,
            sums.sum,
            sums.log_index
        ));
        Ok(())
    }

    fn job(&self, n: u32) -> proto::JobKey {
        self.cluster.key(&format!("job-{n}"))
    }

    async fn status(&self, n: usize) -> Result<ClusterStatusReply> {
        wait::until("a status", PATIENCE, async || self.cluster.api(n).status().await.done()).await
    }

    /// Stops a replica in order, and starts it with the new program.
    async fn renew(&mut self, n: usize) -> Result<()> {
        let program = self.new.path(SCHEDULER);
        self.cluster.replicas[n].stop()?;
        self.cluster.replicas[n].change_program(&program);
        self.cluster.replicas[n].start()?;
        self.cluster.serves(n).await?;
        self.upgraded.push(n);
        let name = self.cluster.replicas[n].name.clone();
        self.note(format!("{name} runs the new program"));
        Ok(())
    }

    /// Hands leadership to a replica, whoever has it.
    async fn lead(&mut self, n: usize) -> Result<()> {
        let node = format!("node-{}", self.status(n).await?.node_id);
        wait::until(&format!("{node} to lead"), PATIENCE, async || {
            if self.cluster.leader().await? != n {
                let asked = self.client.run(&["cluster", "transfer", &node], PATIENCE)?;
                bail!("another led: {asked:?}");
            }
            Ok(())
        })
        .await
    }

    async fn kill_leader(&mut self) -> Result<()> {
        let (leader, term) = self.cluster.leader_and_term().await?;
        self.cluster.replicas[leader].kill()?;
        let (_, later) = self.cluster.leader_and_term().await?;
        ensure!(later > term, "the leader of term {term} was killed, and {later} is no later term");
        self.cluster.replicas[leader].start()?;
        self.cluster.serves(leader).await.map(drop)
    }

    async fn reaches(&mut self, level: u32) -> Result<()> {
        for n in 0..3 {
            wait::until(&format!("level {level}"), PATIENCE, async || {
                let acts_at = self.status(n).await?.apply_level;
                ensure!(acts_at == level, "it acts at level {acts_at}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    fn set_clock(&self, to_seconds: u64) -> Result<client::Ended> {
        self.client.run(&["cluster", "set-clock", &to_seconds.to_string(), "--yes"], PATIENCE)
    }

    fn clock_is_refused(&mut self, words: &str) -> Result<()> {
        // Asked of a new replica: an old one does not know the call.
        let asked = self.upgraded.first().map(|n| self.cluster.replicas[*n].api.clone());
        let client = Client::new(&self.new, &asked.into_iter().collect::<Vec<_>>());
        let seconds = now_seconds().to_string();
        let said = client.run(&["cluster", "set-clock", &seconds, "--yes"], PATIENCE)?;
        ensure!(said.code == Some(10) && said.stderr.contains(words), "not refused with {words:?}: {said:?}");
        self.note(format!("set-clock is refused: {}", said.stderr.lines().next().unwrap_or_default()));
        Ok(())
    }

    /// Half a minute forward, which no machine's clock shows yet; and not back.
    async fn clock_is_set(&mut self) -> Result<()> {
        let to = now_seconds() + 30;
        let said = self.set_clock(to)?.ok()?;
        let leader = self.cluster.leader().await?;
        let clock_ms = self.status(leader).await?.clock_ms;
        ensure!(clock_ms >= to * 1000, "the clock shows {clock_ms}, not {to} s or later");
        let back = self.set_clock(to - 3_600)?;
        ensure!(back.code == Some(10) && back.stderr.contains("never goes back"), "{back:?}");
        self.note(format!("set-clock is done: {}", said.trim()));
        Ok(())
    }

    /// An old program on a directory of the new level says what is wrong, ends, and harms nothing. Killed a moment after
    /// the level rose, a replica has the higher level in its log only; stopped in order, in its rows too.
    async fn no_way_back(&mut self, level: u32, end: fn(&mut Member) -> Result<()>) -> Result<()> {
        let leader = self.cluster.leader().await?;
        let n = (leader + 1) % 3;
        let (old, new) = (self.old.path(SCHEDULER), self.new.path(SCHEDULER));
        let replica = &mut self.cluster.replicas[n];
        end(replica)?;
        replica.change_program(&old);
        let before = replica.said().len();
        replica.start()?;
        let ended = wait::until("an old program to refuse", PATIENCE, async || {
            replica.has_ended()?.context("it runs")
        })
        .await?;
        let said = replica.said()[before..].to_owned();
        let words = [format!("of level {level}"), "use that one or a newer".to_owned()];
        ensure!(!ended.success() && words.iter().all(|word| said.contains(word)), "{ended}: {said}");
        ensure!(!replica.dir.join("condemned").exists(), "the directory was condemned: {said}");
        let last = said.lines().last().unwrap_or_default().to_owned();
        replica.change_program(&new);
        replica.start()?;
        self.cluster.serves(n).await?;
        self.note(format!("an old program on an upgraded directory: {ended}, {last}"));
        Ok(())
    }

    /// An old program with an empty directory is not admitted.
    async fn no_old_one_joins(&mut self, level: u32) -> Result<()> {
        let ports = free_ports(2)?;
        let (api, raft) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
        let dir = self.cluster.dir().join("replica-4");
        let name = self.cluster.name.clone();
        let dir_word = dir.display().to_string();
        let words =
            ["--dir", &dir_word, "--cluster", &name, "--api", &api, "--raft", &raft, "--accept-slow-disk"];
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let mut fourth = Member::new(&self.old.path(SCHEDULER), &dir, words, (&api, &raft));
        fourth.start()?;
        let via = self.cluster.replicas[0].api.clone();
        let joining = Client::new(&self.old, std::slice::from_ref(&api));
        let said = wait::until("an answer to a join", PATIENCE, async || {
            let said = joining.run(&["cluster", "join", "--addr", &api, "--via", &via], PATIENCE)?;
            ensure!(said.code == Some(10), "{said:?}");
            Ok(said.stderr)
        })
        .await;
        fourth.kill()?;
        let said = said?;
        let words = [format!("acts at level {level}"), "start a newer one there".to_owned()];
        ensure!(words.iter().all(|word| said.contains(word)), "{said}");
        ensure!(self.status(0).await?.members.len() == 3, "it was admitted");
        self.note(format!("an old program joins: {}", said.lines().next().unwrap_or_default()));
        Ok(())
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
