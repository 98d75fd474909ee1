//! A cluster of real processes, children of this one, in a temporary directory on 127.0.0.1.
//!
//! One cluster at a time: on a small machine two of them would disturb each other's elections, and a test would
//! then judge the machine. When a cluster is dropped, every process that belongs to its directory is killed by its
//! pid, the tasks' too. After a failed test the directory stays, and the ends of the logs are printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use proto::JobKey;
use proto::wire;

use crate::api::{Answer, Api};
use crate::client::Client;
use crate::journal::{self, Journal, TaskOnDisk};
use crate::network::{Network, Place};
use crate::processes::{self, Identity};
use crate::programs::{AGENT, Programs, SCHEDULER};
use crate::{verdict, wait};

/// One test at a time has a cluster.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits for its turn to have a cluster; whoever starts one by other means than [`Cluster::start`] holds this.
pub async fn turn() -> tokio::sync::MutexGuard<'static, ()> {
    TURN.lock().await
}

/// How long anything that should happen at once may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Scheduler replicas.
    pub replicas: usize,
    /// Agents.
    pub agents: usize,
    /// Each agent speaks for so many simulated hosts; 0 = it runs real tasks as one host.
    pub simulated: usize,
    /// Raft timers: `fast` or `lan`. A busy machine makes those of `fast` elect another leader at any moment; tests
    /// that do not want just that take `lan`.
    pub profile: &'static str,
    /// CPUs that each agent offers.
    pub cpus: u32,
    /// Each real agent knows all replicas but one, in turn: whichever is lost, some agent is attached to another.
    pub apart: bool,
    /// One agent more speaks for so many simulated hosts beside the real ones.
    pub crowd: usize,
    /// CPUs that each host of the crowd offers.
    pub crowd_cpus: u32,
    /// The replicas are its members; else they are on 127.0.0.1. Whoever starts the cluster must then be in its hub.
    pub network: Option<Arc<Network>>,
    /// Start these programs, of another commit, instead of this source's.
    pub programs: Option<Programs>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            replicas: 3,
            agents: 2,
            simulated: 0,
            profile: "lan",
            cpus: 4,
            apart: false,
            crowd: 0,
            crowd_cpus: 0,
            network: None,
            programs: None,
        }
    }
}

/// One program of the cluster.
#[derive(Debug)]
pub struct Member {
    /// `replica-1`, `agent-2` ...
    pub name: String,
    /// Its data.
    pub dir: PathBuf,
    /// HOST:PORT of a replica's API; empty for agents.
    pub api: String,
    /// HOST:PORT for a replica's peers; empty for agents.
    pub raft: String,
    program: PathBuf,
    arguments: Vec<String>,
    pub(crate) log: PathBuf,
    child: Option<Child>,
}

impl Member {
    /// A program whose data is `dir` and whose log lies beside it; not started yet.
    pub(crate) fn new(
        program: &Path,
        dir: &Path,
        arguments: Vec<String>,
        (api, raft): (&str, &str),
    ) -> Member {
        Member {
            name: dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            dir: dir.into(),
            api: api.into(),
            raft: raft.into(),
            program: program.into(),
            arguments,
            log: dir.with_extension("log"),
            child: None,
        }
    }

    /// Starts the process; an error when it runs already.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Runs another program from its next start on.
    pub fn change_program(&mut self, program: &Path) {
        self.program = program.into();
    }

    /// What it has logged.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it has ended by itself, and how.
    pub fn has_ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        let ended = child.try_wait()?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended)
    }

    /// Stops it in order, and waits until the process is gone.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(libc::SIGTERM)?;
        self.reap()
    }

    /// Pid of the running process.
    pub fn pid(&self) -> Result<i32> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        Ok(child.id() as i32)
    }

    /// Sends a signal with kill(2).
    pub fn signal(&self, signal: i32) -> Result<()> {
        processes::signal(self.pid()?, signal)
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL)?;
        self.reap()
    }

    /// Waits for the end of a process that was told to end.
    pub fn reap(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// An error when the process has ended by itself.
    pub fn must_live(&mut self) -> Result<()> {
        let name = &self.name;
        let child = self.child.as_mut().with_context(|| format!("{name} does not run"))?;
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{name} ended by itself, with {status}; its log ends:\n{}", tail(&self.log))
            }
        }
    }

    /// Whether it was started and not killed since.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The programs it runs.
    pub programs: Programs,
    /// The cluster's name, first part of its job keys.
    pub name: String,
    /// The replicas, in order of joining.
    pub replicas: Vec<Member>,
    /// The agents.
    pub agents: Vec<Member>,
    apis: Vec<Api>,
    hosts: usize,
    /// So many agents, the first ones, run real tasks.
    real: usize,
    network: Option<Arc<Network>>,
    dir: Option<tempfile::TempDir>,
    /// A test that ends without having stopped its cluster has failed.
    stopped: bool,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts replicas and agents, and returns when there is a leader that knows all hosts.
    pub async fn start(setup: Setup) -> Result<Cluster> {
        let turn = TURN.lock().await;
        let programs = match setup.programs.clone() {
            Some(programs) => programs,
            None => Programs::find()?,
        };
        let dir = tempfile::Builder::new().prefix("borealis-test-").tempdir()?;
        // Tasks run as their role's user, who must be able to reach the sandbox.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let name = "test".to_owned();
        let mut replicas = Vec::new();
        for (n, (api, raft)) in addresses(&setup)?.into_iter().enumerate() {
            let member = dir.path().join(format!("replica-{}", n + 1));
            let shown = member.display().to_string();
            let words = ["--dir", &shown, "--cluster", &name, "--api", &api, "--raft", &raft];
            let more = ["--profile", setup.profile, "--accept-slow-disk"];
            let mut arguments: Vec<String> = words.into_iter().chain(more).map(str::to_owned).collect();
            let mut program = programs.path(SCHEDULER);
            if let Some(network) = &setup.network {
                let mut before = network.before(n);
                before.push(program.display().to_string());
                program = before.remove(0).into();
                arguments.splice(..0, before);
            }
            replicas.push(Member::new(&program, &member, arguments, (&api, &raft)));
        }
        let apis: Vec<Api> = replicas.iter().map(|replica| Api::new(&replica.api)).collect::<Result<_>>()?;
        let addresses = |left_out: Option<usize>| {
            let known = replicas.iter().enumerate().filter(|(n, _)| Some(*n) != left_out);
            known.map(|(_, replica)| replica.api.as_str()).collect::<Vec<_>>().join(",")
        };
        let mut agents = Vec::new();
        let crowd = usize::from(setup.crowd > 0);
        for n in 0..setup.agents + crowd {
            let member = dir.path().join(format!("agent-{}", n + 1));
            let first = free_range(TASK_PORTS)?;
            let (simulated, cpus) = match n < setup.agents {
                true => (setup.simulated, setup.cpus),
                false => (setup.crowd, setup.crowd_cpus),
            };
            let left_out = (setup.apart && n < setup.agents).then_some(n % setup.replicas);
            let mut arguments = vec![
                format!("--dir={}", member.display()),
                format!("--name=host-{}", n + 1),
                format!("--schedulers={}", addresses(left_out)),
                "--http=127.0.0.1:0".to_owned(),
                format!("--ports={first}-{}", first + TASK_PORTS - 1),
                format!("--cpus={cpus}"),
            ];
            // Simulated hosts make up their racks.
            arguments.push(match simulated {
                0 => format!("--attribute=rack=r{}", n + 1),
                hosts => format!("--simulated={hosts}"),
            });
            agents.push(Member::new(&programs.path(AGENT), &member, arguments, ("", "")));
        }
        let hosts = setup.agents * setup.simulated.max(1) + setup.crowd;
        let real = if setup.simulated == 0 { setup.agents } else { 0 };
        let mut cluster = Cluster {
            programs,
            name,
            replicas,
            agents,
            apis,
            hosts,
            real,
            network: setup.network,
            dir: Some(dir),
            stopped: false,
            _turn: turn,
        };
        cluster.found().await?;
        Ok(cluster)
    }

    async fn found(&mut self) -> Result<()> {
        for replica in &mut self.replicas {
            replica.start()?;
        }
        for n in 0..self.replicas.len() {
            self.serves(n).await?;
        }
        self.apis[0].init().await.done().context("the first replica refused `init`")?;
        for n in 1..self.replicas.len() {
            let via = self.replicas[0].api.clone();
            let what = format!("{} to join", self.replicas[n].name);
            wait::until(&what, PATIENCE, async || match self.apis[n].join(&via).await {
                // The answer to an earlier try was lost.
                Answer::Refused(tonic::Code::AlreadyExists, _) => Ok(()),
                answer => answer.done().map(|_| ()),
            })
            .await?;
        }
        // Before all of them vote, the first one's death leaves no quorum.
        for api in &self.apis {
            wait::until("all replicas to vote", PATIENCE, async || {
                let voters = api.status().await.done()?.members.iter().filter(|member| member.voter).count();
                ensure!(voters == self.apis.len(), "{voters} of {} vote", self.apis.len());
                Ok(())
            })
            .await?;
        }
        for agent in &mut self.agents {
            agent.start()?;
        }
        self.leader().await?;
        self.hosts_known().await
    }

    /// Waits until a replica answers for itself.
    pub async fn serves(&mut self, n: usize) -> Result<wire::ClusterStatusReply> {
        let (replica, api) = (&mut self.replicas[n], &self.apis[n]);
        let what = format!("{} to answer", replica.name);
        wait::until(&what, PATIENCE, async || {
            replica.must_live()?;
            api.status().await.done()
        })
        .await
    }

    /// Waits until the leader has heard every agent.
    pub async fn hosts_known(&self) -> Result<()> {
        wait::until("all agents to be known", PATIENCE, async || {
            let hosts = self.any_api().list_hosts().await.done()?.hosts;
            let loud = hosts.iter().filter(|host| !host.silent).count();
            ensure!(loud == self.hosts, "{loud} of {} hosts are heard", self.hosts);
            Ok(())
        })
        .await
    }

    /// The agents that run real tasks, on a host each.
    pub fn real_agents(&self) -> &[Member] {
        &self.agents[..self.real]
    }

    /// The network whose members the replicas are.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_deref().context("these replicas are on 127.0.0.1, which cannot be cut")
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("the directory lives as long as the cluster").path()
    }

    /// One replica's API.
    pub fn api(&self, n: usize) -> &Api {
        &self.apis[n]
    }

    /// All replicas' APIs.
    pub fn apis(&self) -> &[Api] {
        &self.apis
    }

    /// The API of the first replica that runs.
    pub fn any_api(&self) -> &Api {
        let running = self.replicas.iter().position(Member::runs).unwrap_or(0);
        &self.apis[running]
    }

    /// The command line, pointed at all replicas.
    pub fn client(&self) -> Client {
        let addresses: Vec<String> = self.replicas.iter().map(|replica| replica.api.clone()).collect();
        Client::new(&self.programs, &addresses)
    }

    /// A key for a job of this cluster.
    pub fn key(&self, name: &str) -> JobKey {
        crate::jobs::key(&self.name, name)
    }

    /// The replica that leads by its own word and by that of a majority, in the highest term; waits for one.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("a leader", PATIENCE, async || self.leader_now().await).await
    }

    async fn leader_now(&self) -> Result<usize> {
        let mut said = Vec::new();
        for (n, api) in self.apis.iter().enumerate().filter(|(n, _)| self.replicas[*n].runs()) {
            if let Ok(status) = api.within(Duration::from_secs(2)).status().await.done() {
                said.push((n, status));
            }
        }
        let term = said.iter().map(|(_, status)| status.term).max().unwrap_or(0);
        let own = said.iter().find(|(_, s)| s.term == term && s.leader != 0 && s.leader == s.node_id);
        let (n, own) = own.with_context(|| format!("of {} replicas that answer none leads", said.len()))?;
        let followers = said.iter().filter(|(_, s)| s.term == term && s.leader == own.node_id).count();
        ensure!(
            followers * 2 > self.replicas.len(),
            "{} has {followers} followers only",
            self.replicas[*n].name
        );
        Ok(*n)
    }

    /// The replica that leads by its own word of this moment, and its term; waits for one.
    pub async fn leader_and_term(&self) -> Result<(usize, u64)> {
        wait::until("a leader that says so itself", PATIENCE, async || {
            let leader = self.leader_now().await?;
            let status = self.apis[leader].within(Duration::from_secs(2)).status().await.done()?;
            ensure!(status.leader == status.node_id, "{} leads no more", self.replicas[leader].name);
            Ok((leader, status.term))
        })
        .await
    }

    /// The replicas' equal sums at one point of the log. A sum that is missing is asked for again; a sum that differs
    /// is an error at once.
    pub async fn equal_sums(&self) -> Result<wire::FingerprintReply> {
        let reply = wait::until("a sum of every replica", PATIENCE, async || {
            let reply = self.any_api().fingerprint().await.done()?;
            let missing = verdict::sums_missing(&reply, self.replicas.len());
            ensure!(missing.is_empty() || !verdict::sums_differ(&reply).is_empty(), "{missing:?}");
            Ok(reply)
        })
        .await?;
        let differ = verdict::sums_differ(&reply);
        ensure!(differ.is_empty(), "the replicas' States differ: {differ:?}");
        Ok(reply)
    }

    /// A job, asked of a running replica until one answers.
    pub async fn job(&self, key: &JobKey) -> Result<wire::GetJobReply> {
        wait::until("an answer about a job", PATIENCE, async || self.any_api().get_job(key).await.done())
            .await
    }

    /// Waits until exactly `instances` tasks of the job live, all RUNNING.
    pub async fn all_running(&self, key: &JobKey, instances: u32) -> Result<wire::GetJobReply> {
        wait::until(&format!("{instances} RUNNING tasks of {key}"), PATIENCE, async || {
            let job = self.any_api().get_job(key).await.done()?;
            let seen: Vec<_> =
                job.tasks.iter().map(|t| (t.instance, t.status(), t.message.clone())).collect();
            let running = job.tasks.iter().filter(|task| task.status() == wire::Status::Running).count();
            ensure!(
                job.tasks.len() == instances as usize && running == job.tasks.len(),
                "its tasks are {seen:?}"
            );
            Ok(job)
        })
        .await
    }

    /// Waits until no task of the job lives.
    pub async fn all_gone(&self, key: &JobKey) -> Result<()> {
        wait::until(&format!("no live task of {key}"), PATIENCE, async || {
            match self.any_api().get_job(key).await {
                Answer::Refused(tonic::Code::NotFound, _) => Ok(()),
                answer => {
                    let left = answer.done()?.tasks;
                    ensure!(left.is_empty(), "{} are left", left.len());
                    Ok(())
                }
            }
        })
        .await
    }

    /// Creates a job, whatever it takes: the same request is repeated until it is done.
    pub async fn create(&self, spec: &wire::JobSpec) -> Result<()> {
        let request = crate::api::request("test");
        wait::until("a job to be created", PATIENCE, async || {
            self.any_api().create_job(&request, spec).await.done().map(|_| ())
        })
        .await
    }

    /// Kills instances of a job, all when none is named: the same request is repeated until it is done.
    pub async fn kill_tasks(&self, key: &JobKey, instances: &[u32]) -> Result<()> {
        let request = crate::api::request("test");
        wait::until("tasks to be killed", PATIENCE, async || {
            self.any_api().kill_tasks(&request, key, instances).await.done().map(|_| ())
        })
        .await
    }

    /// Sees that the present leader commands every agent: each starts a task for it. `tag` is new each time.
    pub async fn commands_all_agents(&self, tag: &str) -> Result<()> {
        for n in 1..=self.real {
            let key = self.key(&format!("{tag}-on-{n}"));
            self.create(&crate::jobs::sleeper_on(&key, &format!("host-{n}"))).await?;
            self.all_running(&key, 1).await?;
        }
        Ok(())
    }

    /// The launch journal of every agent that runs real tasks.
    pub fn journals(&self) -> Result<Vec<Journal>> {
        self.real_agents().iter().map(|agent| journal::read(&agent.dir, &agent.name)).collect()
    }

    /// Every task that has a directory on an agent, by agent.
    pub fn tasks_on_disk(&self) -> Result<Vec<(String, TaskOnDisk)>> {
        let mut tasks = Vec::new();
        for agent in self.real_agents().iter().filter(|agent| agent.dir.exists()) {
            tasks.extend(journal::tasks(&agent.dir)?.into_iter().map(|task| (agent.name.clone(), task)));
        }
        Ok(tasks)
    }

    /// Every living process of every task, by task id and process name, executors included.
    pub fn living(&self) -> Result<BTreeMap<(u64, String), Identity>> {
        let mut living = BTreeMap::new();
        for (_, task) in self.tasks_on_disk()? {
            let id = task.task_id;
            living.extend(task.living().into_iter().map(|(name, identity)| ((id, name), identity)));
        }
        Ok(living)
    }

    /// An error when a process of the cluster that should run has ended.
    pub fn must_live(&mut self) -> Result<()> {
        self.replicas.iter_mut().chain(&mut self.agents).filter(|m| m.runs()).try_for_each(Member::must_live)
    }

    /// Kills everything; the last step of a test that held. An error when a process is left.
    pub fn stop(&mut self) -> Result<()> {
        self.stopped = true;
        self.kill_all()
    }

    fn kill_all(&mut self) -> Result<()> {
        for member in self.replicas.iter_mut().chain(&mut self.agents).filter(|m| m.runs()) {
            // A stopped process (SIGSTOP) dies of SIGKILL as well.
            let _ = member.kill();
        }
        processes::sweep(self.dir(), Duration::from_secs(20))?;
        for agent in &self.agents {
            processes::remove_cgroups(&agent.dir);
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(why) = self.kill_all() {
            eprintln!("processes of {} are left: {why:#}", self.dir().display());
        }
        if !self.stopped || std::thread::panicking() {
            for member in self.replicas.iter().chain(&self.agents) {
                eprintln!("--- {} ends:\n{}", member.log.display(), tail(&member.log));
            }
            if let Some(dir) = self.dir.take() {
                eprintln!("--- everything is kept in {}", dir.keep().display());
            }
        }
    }
}

/// Ports for tasks on each agent.
const TASK_PORTS: u16 = 50;

/// Where each replica serves clients, and where the others.
fn addresses(setup: &Setup) -> Result<Vec<(String, String)>> {
    if setup.network.is_some() {
        let ip = |n: usize| Place::Member(n).ip();
        return Ok((0..setup.replicas)
            .map(|n| (format!("{}:7000", ip(n)), format!("{}:7001", ip(n))))
            .collect());
    }
    let ports = free_ports(setup.replicas * 2)?;
    let address = |port: u16| format!("127.0.0.1:{port}");
    Ok(ports.chunks(2).map(|ports| (address(ports[0]), address(ports[1]))).collect())
}

/// Ports that nobody listens on now, none of them given out twice. Tests that run at the same time look in ranges of
/// their own: `free_range` from 12000, this from 20000, those of `replication` from 26000, those of `client` from 29000;
/// all below those that the kernel hands out for outgoing connections: a replica that is down for a while must find its
/// port free.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().map_err(|_| anyhow!("a test ended while it looked for ports"))?;
    let mut held = Vec::new();
    for _ in 0..1000 {
        if held.len() == count {
            break;
        }
        let port = rand::random_range(20_000..26_000);
        if given.insert(port) {
            held.extend(TcpListener::bind(("127.0.0.1", port)));
        }
    }
    ensure!(held.len() == count, "no {count} free ports between 20000 and 26000");
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// The first of `count` adjacent ports, all free now.
pub fn free_range(count: u16) -> Result<u16> {
    for _ in 0..1000 {
        let first: u16 = rand::random_range(12_000..19_900 - count);
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(first);
        }
    }
    bail!("no {count} adjacent free ports between 12000 and 19900")
}

/// The last lines of a log.
pub fn tail(path: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
