//! `borealis dev`: a local cluster of real processes, kept running until it is told to stop.
//!
//! The way: `settings` (what the cluster consists of) -> `directory` (ours, and only ours) -> `children` (the
//! processes) -> `formation` (one cluster with a leader and agents) -> here: whoever dies is started again ->
//! `leftovers` (no task stays behind). Production has systemd for all this; `dev` is for laptops, demos and tests.

mod children;
mod directory;
mod formation;
mod leftovers;
mod settings;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use proto::NodeId;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::arguments::Dev;
use crate::cluster::status;
use crate::error::{Error, Kind};
use crate::{Context, WAIT_TIMEOUT, duration};
use children::{Children, Death};
use directory::Directory;
use settings::{Member, Role, Settings};

/// For a process to end when it is told to, before it is killed.
const STOP_MAX: Duration = Duration::from_secs(8);
/// Between two looks at where agents listen.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the cluster. A signal to stop is a good end.
pub(crate) async fn run(context: &Context<'_>, dev: &Dev) -> Result<(), Error> {
    let mut stop = Stop::new()?;
    let directory = Directory::take(&dev.dir)?;
    let ports = settings::port_range(&dev.task_ports)?;
    let settings = Settings::choose(directory.settings()?, dev, context.common.cluster.as_deref())?;
    let machine = children::machine(directory.path());
    let members = settings::members(&settings, directory.path(), &dev.profile, ports, machine)?;
    check_ports(&members)?;
    let (children, deaths) = Children::new(members, programs()?)?;
    directory.keep_settings(&settings)?;

    let mut cluster = Cluster { context: *context, dev, directory, settings, children, deaths };
    let done = cluster.live(&mut stop).await;
    let stopped = cluster.stop().await;
    done.and(stopped)
}

/// What runs, and how it is kept running.
struct Cluster<'a> {
    context: Context<'a>,
    dev: &'a Dev,
    directory: Directory,
    settings: Settings,
    children: Children,
    deaths: mpsc::Receiver<Death>,
}

impl Cluster<'_> {
    /// From the first process until someone says stop.
    async fn live(&mut self, stop: &mut Stop) -> Result<(), Error> {
        let output = self.context.output;
        let timeout = self.context.common.timeout.unwrap_or(WAIT_TIMEOUT);
        let deadline = Instant::now() + timeout;
        for index in 0..self.children.all.len() {
            self.children.start(index)?;
        }
        self.record()?;
        if !output.is_json() {
            output.progress(&format!(
                "starting {} in {}",
                self.settings.cluster,
                self.directory.path().display()
            ));
        }
        let agents = self.agents();
        let forming = async {
            formation::form(&self.context, &self.settings, deadline).await?;
            let hosts = agents.iter().flat_map(|(name, dir)| {
                self.settings.hosts_of(name).into_iter().map(|host| (host, dir.clone()))
            });
            formation::agents(&self.context, &self.settings, &hosts.collect::<Vec<_>>(), deadline).await
        };
        tokio::select! {
            formed = forming => formed.map_err(|error| self.with_logs(error))?,
            death = self.deaths.recv() => return Err(self.stillborn(death)),
            () = stop.wait() => return Ok(()),
        }
        self.settings.formed = true;
        self.directory.keep_settings(&self.settings)?;
        self.children.read_addresses();
        self.record()?;
        let answers = status::ask_all(&self.settings.api_addresses(), Duration::from_secs(1)).await;
        let mut ready = self.value();
        ready["event"] = json!("ready");
        output.event(&self.ready(status::leader(&answers)), &ready)?;
        self.keep(stop).await
    }

    /// Starts whoever dies again.
    async fn keep(&mut self, stop: &mut Stop) -> Result<(), Error> {
        let output = self.context.output;
        let mut due: BTreeMap<usize, Instant> = BTreeMap::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.wait() => return Ok(()),
                Some(death) = self.deaths.recv() => {
                    let pause = self.children.died(&death, self.dev.restart_after);
                    due.insert(death.index, Instant::now() + pause);
                    let name = self.children.all[death.index].member.name.clone();
                    let how = children::words(death.status);
                    let text = format!("{name} (pid {}) {how}; starting it again in {}", death.pid, duration::words(pause));
                    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                    let value = json!({ "event": "died", "name": name, "pid": death.pid, "how": how, "restart_ms": pause_ms });
                    output.event(&text, &value)?;
                    self.record()?;
                }
                _ = look.tick() => {
                    let now = Instant::now();
                    let ready: Vec<usize> = due.iter().filter(|(_, at)| **at <= now).map(|(index, _)| *index).collect();
                    for index in &ready {
                        due.remove(index);
                        self.children.start(*index)?;
                        let child = &self.children.all[*index];
                        let (name, pid) = (&child.member.name, child.pid.unwrap_or_default());
                        let value = json!({ "event": "started", "name": name, "pid": pid });
                        output.event(&format!("{name} runs again (pid {pid})"), &value)?;
                    }
                    if self.children.read_addresses() || !ready.is_empty() {
                        self.record()?;
                    }
                }
            }
        }
    }

    /// Ends all processes: replicas first, so that nothing is started anew; then the tasks, whose cgroups their agents
    /// remove; then the agents, and what one of them may have started at the last moment.
    async fn stop(&mut self) -> Result<(), Error> {
        let output = self.context.output;
        output.note("stopping");
        self.end(|member| member.role != Role::Agent).await;
        let agents: Vec<PathBuf> = self.agents().into_iter().map(|(_, dir)| dir).collect();
        let mut left = Vec::new();
        if !self.dev.keep_tasks {
            leftovers::end(&agents).await;
        }
        self.end(|member| member.role == Role::Agent).await;
        if !self.dev.keep_tasks {
            left = leftovers::end(&agents).await;
        }
        self.directory.forget_record();
        if !left.is_empty() {
            let what = format!("some processes of tasks are still there: {left:?}");
            return Err(
                Error::new(Kind::Failed, what).hint("they may wait for a disk, or belong to another user")
            );
        }
        let kept = if self.dev.keep_tasks { "; its tasks run on" } else { "" };
        let dir = self.directory.path().display().to_string();
        let text = format!("stopped{kept}; `borealis dev --dir {dir}` takes it up again");
        output.event(&text, &json!({ "event": "stopped", "dir": dir }))
    }

    /// Terminates the members that `which` chooses, and kills those that do not follow.
    async fn end(&mut self, which: impl Fn(&Member) -> bool + Copy) {
        for signal in [Signal::TERM, Signal::KILL] {
            self.children.signal(signal, which);
            let deadline = Instant::now() + STOP_MAX;
            while self.children.all.iter().any(|child| which(&child.member) && child.pid.is_some()) {
                match tokio::time::timeout_at(deadline, self.deaths.recv()).await {
                    Ok(Some(death)) => drop(self.children.died(&death, Duration::ZERO)),
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }

    /// Names and directories of the agents.
    fn agents(&self) -> Vec<(String, PathBuf)> {
        let agents = self.children.all.iter().filter(|child| child.member.role == Role::Agent);
        agents.map(|child| (child.member.name.clone(), child.member.dir.clone())).collect()
    }

    /// The cluster for machines. A process that is to be started again keeps its last pid meanwhile.
    fn value(&self) -> Value {
        let (mut replicas, mut agents) = (Vec::new(), Vec::new());
        for child in &self.children.all {
            let mut value = json!({
                "name": child.member.name,
                "pid": child.last_pid,
                "running": child.pid.is_some(),
                "dir": child.member.dir.display().to_string(),
            });
            match &child.member.role {
                Role::Replica { api, raft } => {
                    (value["api"], value["raft"]) = (json!(api), json!(raft));
                    replicas.push(value);
                }
                Role::Agent => {
                    value["address"] = json!(child.address);
                    if self.settings.simulated {
                        value["simulated"] = json!(self.settings.agents);
                    }
                    agents.push(value);
                }
            }
        }
        json!({ "cluster": self.settings.cluster, "replicas": replicas, "agents": agents })
    }

    fn record(&self) -> Result<(), Error> {
        self.directory.record(&self.value())
    }

    /// What people see when all is there.
    fn ready(&self, leader: Option<u64>) -> String {
        let cluster = &self.settings.cluster;
        let mut text = format!("cluster {cluster} runs in {}\n\n", self.directory.path().display());
        for child in &self.children.all {
            let address = match &child.member.role {
                Role::Replica { api, .. } => api,
                Role::Agent => &child.address,
            };
            let (name, pid) = (&child.member.name, child.pid.unwrap_or_default());
            text.push_str(&format!("  {name:<12} http://{address:<16}  pid {pid}\n"));
        }
        let agents = self.settings.agents;
        if self.settings.simulated && agents > 0 {
            text.push_str(&format!(
                "\nThe process `agents` speaks for {agents} simulated hosts, agent-0 to agent-{}: their tasks ONLY PRETEND \
                 to run.\nEach has 16 cores, 64 GiB and the attributes rack (two hosts each), zone, kind and year.\n",
                agents - 1
            ));
        }
        if let Some(leader) = leader {
            text.push_str(&format!("\n{} leads. ", NodeId(leader)));
        }
        text.push_str("Try next, in another terminal:\n\n");
        if self.settings.api_addresses() != ["127.0.0.1:8081", "127.0.0.1:8082", "127.0.0.1:8083"] {
            text.push_str(&format!("  export BOREALIS_ADDR={}\n", self.settings.api_addresses().join(",")));
        }
        let key = |name: &str| format!("{cluster}/www-data/prod/{name}");
        let lines = match self.settings.simulated {
            false => vec![
                format!("job create {} examples/hello_world.aurora --wait", key("hello_world")),
                format!("job status {}", key("hello_world")),
                format!("task logs {}/0", key("hello_world")),
                "cluster status".to_owned(),
            ],
            true => vec![
                "host list".to_owned(),
                format!("job create {} examples/spread.aurora --wait", key("spread")),
                format!("job status {}", key("spread")),
                format!("job add {}/0 20; borealis job why {}", key("spread"), key("spread")),
                "host drain agent-0 agent-1 --wait; borealis host status agent-0".to_owned(),
                "host activate agent-0 agent-1".to_owned(),
            ],
        };
        lines.iter().for_each(|line| text.push_str(&format!("  borealis {line}\n")));
        text.push_str("\nKill -9 any of these processes and look again. Ctrl-C stops everything.");
        text
    }

    /// A process that ends before the cluster is there.
    fn stillborn(&mut self, death: Option<Death>) -> Error {
        let Some(death) = death else {
            return Error::new(Kind::Unknown, "the processes are not watched any more");
        };
        self.children.died(&death, Duration::ZERO);
        let member = &self.children.all[death.index].member;
        let how = children::words(death.status);
        let what =
            format!("{} {how} before the cluster was there{}", member.name, children::tail(&member.log));
        Error::new(Kind::Failed, what).hint(format!("its log is {}", member.log.display()))
    }

    /// Adds the last words of those processes that the error may be about.
    fn with_logs(&self, mut error: Error) -> Error {
        for child in &self.children.all {
            let tail = children::tail(&child.member.log);
            let last = tail.lines().last().unwrap_or_default().trim_start_matches("  | ");
            error.what.push_str(&format!("\n{}: {last}", child.member.log.display()));
        }
        error
    }
}

/// Says which port is taken before a process stumbles over it.
fn check_ports(members: &[Member]) -> Result<(), Error> {
    for member in members {
        let Role::Replica { api, raft } = &member.role else { continue };
        for address in [api, raft] {
            TcpListener::bind(address).map_err(|why| {
                Error::new(
                    Kind::Failed,
                    format!("{} cannot listen on {address}: {}", member.name, plain(&why)),
                )
                .hint("another cluster may run there: stop it, or choose other ports with --base-port")
            })?;
        }
    }
    Ok(())
}

fn plain(why: &std::io::Error) -> String {
    match why.kind() {
        std::io::ErrorKind::AddrInUse => "the port is in use".to_owned(),
        _ => why.to_string(),
    }
}

/// Where the programs lie: `BOREALIS_BIN`, or beside this one.
pub(crate) fn programs() -> Result<PathBuf, Error> {
    if let Some(dir) = std::env::var_os("BOREALIS_BIN").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let own = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    own.ok_or_else(|| {
        Error::new(Kind::Failed, "this program does not know where it lies")
            .hint("name the directory in BOREALIS_BIN")
    })
}

/// The signals that mean stop.
struct Stop {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Stop {
    fn new() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|why| Error::new(Kind::Unknown, format!("signals cannot be heard: {why}")))
        };
        let signals = [
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ];
        Ok(Stop { signals })
    }

    /// Returns when one has come.
    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
