//! The real agent and the real executor against a scripted leader that speaks the real protocol.

#[path = "agent/simulated.rs"]
mod simulated;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::journal;
use executor::checkpoint;
use executor::identity::{self, ProcessIdentity};
use executor::layout::TaskDir;
use proto::wire::{self, AgentFrame, SchedulerFrame, Status, Want, agent_frame, scheduler_frame::Body};
use proto::{Fence, TaskId};
use rpc::agents_server::{Agents, AgentsServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

/// For anything that shall happen.
const PATIENCE: Duration = Duration::from_secs(60);

type Outlet = mpsc::Sender<Result<SchedulerFrame, tonic::Status>>;

struct Door {
    frames: mpsc::Sender<(Outlet, AgentFrame)>,
}

#[tonic::async_trait]
impl Agents for Door {
    type AttachStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<SchedulerFrame, tonic::Status>> + Send>>;

    async fn attach(
        &self,
        request: tonic::Request<tonic::Streaming<AgentFrame>>,
    ) -> Result<tonic::Response<Self::AttachStream>, tonic::Status> {
        let (outlet, stream) = mpsc::channel(256);
        let (frames, mut incoming) = (self.frames.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(frame)) = incoming.message().await {
                if frames.send((outlet.clone(), frame)).await.is_err() {
                    return;
                }
            }
        });
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// A leader under the control of a test.
struct Leader {
    address: String,
    frames: mpsc::Receiver<(Outlet, AgentFrame)>,
    outlet: Option<Outlet>,
    fence: Fence,
    generation: u64,
    hellos: Vec<wire::Hello>,
    heartbeat: wire::Heartbeat,
    reports: Vec<wire::TaskReport>,
    acknowledges: bool,
    /// Of agents that are dead: what they had sent may still come, and says nothing any more.
    over: BTreeSet<u64>,
    configs: BTreeMap<Vec<u8>, wire::TaskConfig>,
}

impl Leader {
    async fn start() -> Leader {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, frames) = mpsc::channel(1024);
        let service = AgentsServer::new(Door { frames: sender });
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Leader {
            address,
            frames,
            outlet: None,
            fence: Fence { epoch: 7, term: 1, leader: 1 },
            generation: 0,
            hellos: vec![],
            heartbeat: wire::Heartbeat::default(),
            reports: vec![],
            acknowledges: true,
            over: BTreeSet::new(),
            configs: BTreeMap::new(),
        }
    }

    fn frame(&self, body: Body) -> SchedulerFrame {
        SchedulerFrame {
            body: Some(body),
            cluster_id: "cluster".into(),
            lineage_id: "lineage".into(),
            fence: Some(self.fence.into()),
            echo: Some(wire::Echo { session: self.heartbeat.session, number: self.heartbeat.number }),
        }
    }

    async fn send(&self, frame: SchedulerFrame) {
        let _closed_is_seen_later = self.outlet.as_ref().expect("an agent is attached").send(Ok(frame)).await;
    }

    /// Serves the agent until `done` says so.
    async fn until(&mut self, what: &str, mut done: impl FnMut(&Leader) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "not in time: {what}; reports so far: {:?}", self.reports);
            let frame = tokio::time::timeout(Duration::from_millis(100), self.frames.recv()).await;
            let Ok(Some((outlet, frame))) = frame else { continue };
            let body = frame.body.expect("a frame has a body");
            let session = match &body {
                agent_frame::Body::Hello(hello) => hello.session,
                agent_frame::Body::Heartbeat(heartbeat) => heartbeat.session,
                agent_frame::Body::Reports(reports) => reports.session,
            };
            if self.over.contains(&session) {
                continue;
            }
            match body {
                agent_frame::Body::Hello(hello) => {
                    self.reports.extend(hello.tasks.clone());
                    self.hellos.push(hello);
                    self.outlet = Some(outlet);
                    self.send(self.frame(Body::Welcome(wire::Welcome { host_id: 42 }))).await;
                    self.acknowledge().await;
                }
                agent_frame::Body::Heartbeat(heartbeat) => {
                    self.heartbeat = heartbeat;
                    self.send(self.frame(Body::Welcome(wire::Welcome { host_id: 42 }))).await;
                }
                agent_frame::Body::Reports(reports) => {
                    self.reports.extend(reports.reports);
                    self.acknowledge().await;
                }
            }
        }
    }

    /// The agent was killed: what it reported, and what is still on its way from it, is past.
    fn forget_agent(&mut self) {
        self.reports.clear();
        self.over.extend(self.hellos.iter().map(|hello| hello.session));
    }

    async fn acknowledge(&self) {
        if self.acknowledges {
            let sequence = self.reports.iter().map(|report| report.sequence).max().unwrap_or(0);
            self.send(self.frame(Body::Acknowledged(wire::Acknowledged { sequence }))).await;
        }
    }

    async fn attached(&mut self) {
        let hellos = self.hellos.len();
        self.until("a hello", |leader| leader.hellos.len() > hellos).await;
        let session = self.hellos.last().unwrap().session;
        self.until("a heartbeat", |leader| leader.heartbeat.session == session).await;
    }

    /// A wanted set of the next generation.
    fn wanted(&mut self, tasks: &[(u64, Want, &str)]) -> SchedulerFrame {
        self.generation += 1;
        let mut set = wire::WantedSet { generation: self.generation, ..Default::default() };
        for (task, want, cmdline) in tasks {
            let config = config(cmdline);
            let hash = proto::config_hash(&config).to_vec();
            self.configs.insert(hash.clone(), config);
            set.tasks.push(wire::WantedTask {
                task_id: *task,
                want: (*want).into(),
                config_hash: hash.into(),
                ..Default::default()
            });
        }
        let stored = |(hash, config): (&Vec<u8>, &wire::TaskConfig)| wire::StoredConfig {
            hash: hash.clone().into(),
            config: Some(config.clone()),
        };
        set.configs = self.configs.iter().map(stored).collect();
        self.frame(Body::Wanted(set))
    }

    async fn want(&mut self, tasks: &[(u64, Want, &str)]) {
        let frame = self.wanted(tasks);
        self.send(frame).await;
    }

    async fn obeyed(&mut self) {
        let generation = self.generation;
        self.until("the wanted set is obeyed", |leader| leader.heartbeat.generation == generation).await;
    }

    /// Sends a wanted set until it is obeyed: again on each new stream, as leaders do.
    async fn has_obeyed(&mut self, tasks: &[(u64, Want, &str)]) {
        loop {
            self.want(tasks).await;
            let (generation, hellos) = (self.generation, self.hellos.len());
            let obeyed = |leader: &Leader| leader.heartbeat.generation == generation;
            self.until("the wanted set is obeyed", |l| obeyed(l) || l.hellos.len() > hellos).await;
            if obeyed(self) {
                return;
            }
        }
    }

    async fn reported(&mut self, task: u64, status: Status) -> wire::TaskReport {
        let is = |report: &&wire::TaskReport| report.task_id == task && report.status() == status;
        self.until(&format!("task {task} is {status:?}"), |leader| leader.reports.iter().any(|r| is(&r)))
            .await;
        self.reports.iter().rev().find(is).cloned().unwrap()
    }
}

impl Leader {
    /// Asks for hellos until the agent's journal does not have the task any more.
    async fn forgotten(&mut self, task: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.send(self.frame(Body::Resync(wire::Resync::default()))).await;
            self.attached().await;
            let hello = self.hellos.last().unwrap();
            if !hello.tasks.iter().any(|report| report.task_id == task) {
                return;
            }
            assert!(Instant::now() < deadline, "not forgotten in time: {:?}", hello.tasks);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// At the end of a command line: of this task at most one copy may live.
const AT_MOST_ONE: &str = "# at most one";

fn config(cmdline: &str) -> wire::TaskConfig {
    let process =
        wire::Process { name: "p".into(), cmdline: cmdline.into(), max_failures: 1, ..Default::default() };
    wire::TaskConfig {
        job: Some(wire::JobKey {
            cluster: "c".into(),
            role: isolation::user::current().name,
            environment: "test".into(),
            name: "j".into(),
        }),
        task: Some(wire::TaskSpec {
            name: "t".into(),
            resources: Some(wire::Resources { cpu_milli: 100, ram_mib: 64, disk_mib: 64, gpus: 0 }),
            processes: vec![process],
            max_failures: 1,
            finalization_wait_seconds: 5,
            ..Default::default()
        }),
        tier: "preemptible".into(),
        max_task_failures: 1,
        at_most_one: cmdline.ends_with(AT_MOST_ONE),
        ..Default::default()
    }
}

/// An agent's directory and the agent that runs in it. Nothing of it survives the test.
struct Agent {
    dir: tempfile::TempDir,
    child: Option<Child>,
    schedulers: String,
    isolation: &'static str,
}

impl Agent {
    fn new(leader: &Leader) -> Agent {
        let mut agent = Agent {
            dir: tempfile::tempdir().unwrap(),
            child: None,
            // The first is nobody's: an agent goes on to the next.
            schedulers: format!("127.0.0.1:1,{}", leader.address),
            isolation: "none",
        };
        agent.start();
        agent
    }

    fn command(&self) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_borealis-agent"));
        let executor = program.with_file_name("borealis-executor");
        assert!(
            executor.exists(),
            "{} is not built: run `cargo build -p executor` first",
            executor.display()
        );
        let mut command = Command::new(program);
        command.args(["--name", "host-a", "--cpus", "1.5", "--ram-mib", "1000", "--disk-mib", "1000"]);
        command.args(["--attribute", "rack=r7", "--isolation", self.isolation]);
        command.arg("--dir").arg(self.dir.path()).args(["--schedulers", &self.schedulers]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn start(&mut self) {
        self.child = Some(self.command().spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn task(&self, task: u64) -> TaskDir {
        TaskDir::new(self.dir.path().join("tasks").join(TaskId(task).to_string()))
    }

    /// The executor and the process of a task, once both run.
    fn processes(&self, task: u64) -> [ProcessIdentity; 2] {
        let summary = checkpoint::read(&self.task(task)).unwrap();
        let process = summary.processes["p"].identity.clone();
        [summary.executor.unwrap(), process.unwrap()]
    }

    fn launched(&self) -> Vec<u64> {
        let mut ids: Vec<_> = journal::launches(self.dir.path()).unwrap().iter().map(|i| i.task.0).collect();
        ids.sort_unstable();
        ids
    }

    /// What the agent's page says.
    fn page(&self, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let address = std::fs::read_to_string(self.dir.path().join("address")).unwrap();
        let mut stream = std::net::TcpStream::connect(address.trim()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        let tasks: Vec<PathBuf> = std::fs::read_dir(self.dir.path().join("tasks"))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        for task in tasks {
            let dir = TaskDir::new(task);
            let cgroups = executor::launch::read(&dir).map(|launch| launch.cgroups).unwrap_or_default();
            let left = executor::cleanup::kill_leftovers(&dir, PATIENCE);
            let removed = isolation::Cgroup::from_dirs(&cgroups).remove();
            for root in cgroups.iter().filter_map(|path| Path::new(path).parent()) {
                let _not_while_another_task_is_there = std::fs::remove_dir(root);
            }
            if !std::thread::panicking() {
                assert!(left.unwrap().remaining.is_empty());
                removed.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_is_seen_and_is_killed() {
    let mut leader = Leader::start().await;
    let agent = Agent::new(&leader);
    leader.attached().await;
    let hello = leader.hellos[0].clone();
    let (spec, identity) = (hello.spec.unwrap(), hello.identity.unwrap());
    assert_eq!((spec.name.as_str(), spec.capacity.unwrap().cpu_milli), ("host-a", 1500));
    assert!(
        !identity.journal_id.is_empty() && !identity.machine_id.is_empty() && !identity.boot_id.is_empty()
    );
    let has = |name: &str, value: &str| spec.attributes.iter().any(|a| a.name == name && a.value == value);
    assert!(has("host", "host-a") && has("rack", "r7") && has("isolation", "none"));

    leader.want(&[(1, Want::Start, "echo hello; exec sleep 1000"), (2, Want::Start, "exit 3")]).await;
    leader.reported(1, Status::Running).await;
    leader.reported(2, Status::Failed).await;
    leader.obeyed().await;
    assert_eq!(agent.launched(), [1, 2]);
    // The same order again changes nothing.
    leader.want(&[(1, Want::Start, "echo hello; exec sleep 1000"), (2, Want::Start, "exit 3")]).await;
    leader.obeyed().await;
    assert_eq!(agent.launched(), [1, 2]);

    let running = agent.processes(1);
    let page = agent.page("/tasks/task-0-1/logs/p/stdout");
    assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("hello\n"), "{page}");
    assert!(agent.page("/tasks").contains("task-0-1"));
    assert!(agent.page("/tasks/task-0-9/logs/p/stdout").starts_with("HTTP/1.1 404"));
    assert!(agent.page("/health").starts_with("HTTP/1.1 200"));
    let metrics = agent.page("/metrics");
    assert!(
        metrics.contains("# HELP borealis_agent_launches_total")
            && metrics.contains("borealis_agent_launches_total 2"),
        "{metrics}"
    );

    // No longer named: killed, reported, and with the next set both are forgotten.
    leader.want(&[]).await;
    leader.reported(1, Status::Killed).await;
    assert!(!identity::is_alive(&running[1]), "reported before its process had ended");
    leader.want(&[]).await;
    leader.forgotten(1).await;
    // A start for a task that was forgotten is not obeyed either.
    leader.reports.clear();
    leader.want(&[(1, Want::Start, "exec sleep 1000")]).await;
    leader.reported(1, Status::Lost).await;
    assert_eq!(agent.launched(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_finds_its_tasks_running() {
    let mut leader = Leader::start().await;
    let mut agent = Agent::new(&leader);
    leader.attached().await;
    leader.want(&[(1, Want::Start, "exec sleep 1000"), (2, Want::Start, "exec sleep 1000")]).await;
    leader.reported(1, Status::Running).await;
    leader.reported(2, Status::Running).await;
    let second = agent.command().stderr(Stdio::piped()).output().unwrap();
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains("another agent runs in"), "{words}");

    let before = (agent.processes(1), agent.processes(2));
    agent.kill();
    // While nobody looks, one task ends and the executor of the other is untouched.
    let pid = rustix_pid(before.1[1].pid);
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    leader.forget_agent();
    agent.start();
    leader.attached().await;
    assert_eq!(leader.hellos.last().unwrap().cluster_id, "cluster");
    assert_eq!(
        leader.hellos.last().unwrap().identity,
        leader.hellos[0].identity.clone().map(|mut id| {
            id.host_id = 42;
            id
        })
    );
    leader.reported(1, Status::Running).await;
    leader.reported(2, Status::Failed).await;
    leader.want(&[(1, Want::Keep, "exec sleep 1000")]).await;
    leader.obeyed().await;
    assert_eq!(agent.processes(1), before.0, "the same processes");
    assert!(before.0.iter().all(identity::is_alive));
    assert_eq!(agent.launched(), [1, 2]);
    assert!(!leader.reports.iter().any(|report| report.task_id == 1 && report.status() != Status::Running));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_stop_leaves_its_tasks_alone() {
    let mut leader = Leader::start().await;
    let mut agent = Agent::new(&leader);
    leader.attached().await;
    leader.want(&[(1, Want::Start, "exec sleep 1000")]).await;
    leader.reported(1, Status::Running).await;
    let mut child = agent.child.take().unwrap();
    let pid = rustix_pid(child.id() as i32);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(agent.processes(1).iter().all(identity::is_alive));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_write_its_journal_stops_and_its_tasks_go_on() {
    let mut leader = Leader::start().await;
    let mut agent = Agent::new(&leader);
    leader.attached().await;
    leader.want(&[(1, Want::Start, "exec sleep 1000")]).await;
    leader.reported(1, Status::Running).await;
    agent.kill();
    // The disk is full for it: no file of the agent may grow. (What it writes anew at its start is small.)
    let bytes = std::fs::metadata(journal::Journal::path(agent.dir.path())).unwrap().len();
    let mut command = agent.command();
    let limited = format!("ulimit -S -f {}; trap '' XFSZ; exec \"$0\" \"$@\"", bytes.div_ceil(512));
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(limited).arg(command.get_program()).args(command.get_args());
    command = shell;
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    leader.attached().await;
    let launched = agent.launched();
    for task in 2..30 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        let stream = leader.outlet.clone().unwrap();
        leader.want(&[(1, Want::Keep, "exec sleep 1000"), (task, Want::Keep, "")]).await;
        let said = |leader: &Leader| leader.reports.iter().any(|report| report.task_id == task);
        leader.until("a report, or the end", |leader| said(leader) || stream.is_closed()).await;
    }
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{words}");
    assert!(words.contains("journal cannot be used") && words.contains("tasks go on"), "{words}");
    assert!(agent.processes(1).iter().all(identity::is_alive));
    assert_eq!(agent.launched(), launched);
}

fn rustix_pid(pid: i32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(pid).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_dies_without_a_word_is_lost_with_all_it_started() {
    let mut leader = Leader::start().await;
    let agent = Agent::new(&leader);
    leader.attached().await;
    leader.want(&[(1, Want::Start, "exec sleep 1000")]).await;
    leader.reported(1, Status::Running).await;
    let running = agent.processes(1);
    rustix::process::kill_process(rustix_pid(running[0].pid), rustix::process::Signal::KILL).unwrap();
    let report = leader.reported(1, Status::Lost).await;
    assert!(report.message.contains("died without a last word"), "{}", report.message);
    assert!(!running.iter().any(identity::is_alive), "reported before all had ended");
    leader.want(&[(1, Want::Start, "exec sleep 1000")]).await;
    leader.obeyed().await;
    assert_eq!(agent.launched(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_directory_was_removed_is_killed_all_the_same() {
    let mut leader = Leader::start().await;
    let agent = Agent::new(&leader);
    leader.attached().await;
    leader.want(&[(1, Want::Start, "exec sleep 1000")]).await;
    leader.reported(1, Status::Running).await;
    let running = agent.processes(1);
    std::fs::remove_dir_all(agent.task(1).root().parent().unwrap()).unwrap();
    leader.want(&[]).await;
    leader.reported(1, Status::Killed).await;
    assert!(!running.iter().any(identity::is_alive), "reported before all had ended");
    // Nor does what is missing keep the next one from starting.
    leader.want(&[(2, Want::Start, "exec sleep 1000")]).await;
    leader.reported(2, Status::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_command_is_not_obeyed() {
    let mut leader = Leader::start().await;
    let mut agent = Agent::new(&leader);
    leader.attached().await;
    leader.fence = Fence { epoch: 7, term: 3, leader: 2 };
    leader.want(&[(1, Want::Start, "exec sleep 1000")]).await;
    leader.reported(1, Status::Running).await;

    // A deposed leader would kill task 1 and start task 2; another cluster too.
    let mut deposed = leader.wanted(&[(2, Want::Start, "exec sleep 1000")]);
    deposed.fence = Some(Fence { epoch: 7, term: 3, leader: 1 }.into());
    leader.send(deposed.clone()).await;
    let mut foreign = deposed.clone();
    (foreign.cluster_id, foreign.lineage_id) = ("other".into(), "other".into());
    foreign.fence = Some(Fence { epoch: 9, term: 9, leader: 9 }.into());
    leader.send(foreign).await;
    // Orders that echo a heartbeat of another session, or one that was never sent, start nothing.
    for echo in [
        wire::Echo { session: leader.heartbeat.session ^ 1, number: 1 },
        wire::Echo { session: leader.heartbeat.session, number: u64::MAX },
    ] {
        let mut stale = leader.wanted(&[(1, Want::Keep, ""), (3, Want::Start, "exec sleep 1000")]);
        stale.echo = Some(echo);
        leader.send(stale).await;
    }
    // A keep of what is not here is LOST; a kill of it is KILLED; the last generation is obeyed by itself.
    leader
        .want(&[
            (1, Want::Keep, "exec sleep 1000"),
            (4, Want::Keep, "exec sleep 1000"),
            (5, Want::Kill, "exit 0"),
        ])
        .await;
    let lost = leader.reported(4, Status::Lost).await;
    assert_eq!(lost.message, "The host was to keep the task and does not have it.");
    leader.reported(5, Status::Killed).await;
    leader.obeyed().await;
    // None of them can be started after that.
    leader.want(&[(1, Want::Keep, "exec sleep 1000"), (4, Want::Start, "exec sleep 1000")]).await;
    leader.obeyed().await;
    assert_eq!(agent.launched(), [1]);
    assert!(agent.processes(1).iter().all(identity::is_alive));

    // The fence outlives the agent.
    agent.kill();
    leader.forget_agent();
    agent.start();
    leader.attached().await;
    assert_eq!(leader.hellos.last().unwrap().fence, Some(leader.fence.into()));
    deposed.echo = leader.frame(Body::Resync(wire::Resync::default())).echo;
    leader.send(deposed).await;
    leader.send(leader.frame(Body::Resync(wire::Resync::default()))).await;
    leader.attached().await;
    assert_eq!(agent.launched(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_grows_old() {
    let mut leader = Leader::start().await;
    let agent = Agent::new(&leader);
    leader.attached().await;
    let old = leader.wanted(&[(1, Want::Start, "exec sleep 1000")]);
    let first = leader.heartbeat.number;
    leader.until("six more heartbeats", |leader| leader.heartbeat.number >= first + 7).await;
    leader.send(old.clone()).await;
    // The heartbeats that follow do not say that it is obeyed; sent anew, it is.
    let seen = leader.heartbeat.number;
    leader.until("two more heartbeats", |leader| leader.heartbeat.number >= seen + 2).await;
    assert_eq!(leader.heartbeat.generation, 0);
    assert!(agent.launched().is_empty());
    let again = SchedulerFrame { echo: leader.frame(Body::Resync(wire::Resync::default())).echo, ..old };
    leader.send(again).await;
    leader.reported(1, Status::Running).await;
    assert_eq!(agent.launched(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_come_again_until_they_are_acknowledged() {
    let mut leader = Leader::start().await;
    leader.acknowledges = false;
    let mut agent = Agent::new(&leader);
    leader.attached().await;
    leader.want(&[(1, Want::Start, "exit 0")]).await;
    let report = leader.reported(1, Status::Finished).await;
    leader.reports.clear();
    assert_eq!(leader.reported(1, Status::Finished).await, report, "again on the same stream");
    // Not named any more, but not forgotten either: nobody has applied its end.
    leader.want(&[]).await;
    leader.obeyed().await;
    agent.kill();
    leader.forget_agent();
    agent.start();
    leader.attached().await;
    assert_eq!(leader.reported(1, Status::Finished).await, report, "again after a restart");
    leader.acknowledges = true;
    leader.acknowledge().await;
    leader.want(&[]).await;
    leader.forgotten(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_without_an_executor_is_abandoned_and_a_lost_journal_is_made_good_by_adoption() {
    let mut leader = Leader::start().await;
    let mut agent = Agent::new(&leader);
    leader.attached().await;
    leader.want(&[(1, Want::Start, "exec sleep 1000")]).await;
    leader.reported(1, Status::Running).await;
    let running = agent.processes(1);
    agent.kill();
    // As if the agent had died between the intent and the spawn.
    let (mut journal, _) = journal::Journal::open(agent.dir.path(), || panic!("it exists")).unwrap();
    let intent = wire::LaunchIntent { task_id: 2, generation: leader.generation, ..Default::default() };
    journal.append(wire::journal_record::Body::Intent(intent)).unwrap();
    // And as if the machine had been restarted under task 3.
    let executor = Some(ProcessIdentity { boot_id: "of an earlier boot".into(), ..running[0].clone() });
    let intent = wire::LaunchIntent { task_id: 3, generation: leader.generation, ..Default::default() };
    journal.append(wire::journal_record::Body::Intent(intent)).unwrap();
    journal.append(wire::journal_record::Body::Launched(wire::Launched { task_id: 3, executor })).unwrap();
    // And as if a power cut had taken the words of a claim that was just made.
    let intent = wire::LaunchIntent { task_id: 4, generation: leader.generation, ..Default::default() };
    journal.append(wire::journal_record::Body::Intent(intent)).unwrap();
    drop(journal);
    std::fs::create_dir_all(agent.task(4).root()).unwrap();
    std::fs::write(agent.task(4).claim(), "").unwrap();
    agent.start();
    leader.attached().await;
    assert_eq!(leader.reported(4, Status::Lost).await.message, "The machine was restarted.");
    assert_eq!(leader.reported(3, Status::Lost).await.message, "The machine was restarted.");
    let lost = leader.reported(2, Status::Lost).await;
    assert!(lost.message.contains("before the task's executor had begun"), "{}", lost.message);
    assert_eq!(executor::claim::read(&agent.task(2)).unwrap(), Some(executor::claim::Claim::Abandoned));

    agent.kill();
    std::fs::remove_file(journal::Journal::path(agent.dir.path())).unwrap();
    leader.forget_agent();
    agent.start();
    leader.attached().await;
    let hello = leader.hellos.last().unwrap().clone();
    assert_ne!(hello.identity.unwrap().journal_id, leader.hellos[0].identity.clone().unwrap().journal_id);
    assert_eq!(hello.tasks.len(), 1, "{:?}", hello.tasks);
    assert_eq!((hello.tasks[0].task_id, hello.tasks[0].status()), (1, Status::Running));
    leader.want(&[(1, Want::Keep, "exec sleep 1000")]).await;
    leader.obeyed().await;
    assert_eq!(agent.processes(1), running);
    assert_eq!(agent.launched(), [] as [u64; 0], "adopted, not launched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_held_to_its_memory_where_the_host_can() {
    let host = isolation::Host::detect();
    if !host.words().iter().any(|word| word == "memory") {
        // Said, so that nobody takes this for a proof.
        eprintln!("this host has no memory cgroup: what a task may use is not checked here");
        return;
    }
    let mut leader = Leader::start().await;
    let mut agent = Agent {
        dir: tempfile::tempdir().unwrap(),
        child: None,
        schedulers: leader.address.clone(),
        isolation: "auto",
    };
    agent.start();
    leader.attached().await;
    let attributes = leader.hellos[0].spec.clone().unwrap().attributes;
    let says = |word: &str| attributes.iter().any(|a| a.name == "isolation" && a.value == word);
    let executor = Path::new(env!("CARGO_BIN_EXE_borealis-agent")).with_file_name("borealis-executor");
    let probed = Command::new(executor).arg("--probe").status().unwrap().success();
    assert_eq!(says(isolation::PID_NAMESPACE), probed && host.root);
    assert!(says("memory") && !says("none"));
    // 64 MiB are allowed. `tail` keeps in memory what has no line ends.
    leader.want(&[(1, Want::Start, "head -c 300000000 /dev/zero | tail; exec sleep 1000")]).await;
    let report = leader.reported(1, Status::Failed).await;
    assert_eq!(report.message, agent::host::message_of_oom());
    leader.want(&[(2, Want::Start, "exec sleep 1000")]).await;
    leader.reported(2, Status::Running).await;
    // Not watched for a minute yet.
    leader.obeyed().await;
    assert_eq!(leader.heartbeat.unused, Some(wire::Resources::default()));
    let cgroups = executor::launch::read(&agent.task(2)).unwrap().cgroups;
    assert!(cgroups.iter().all(|path| Path::new(path).is_dir()) && !cgroups.is_empty());
    leader.want(&[]).await;
    leader.reported(2, Status::Killed).await;
    let gone = || !cgroups.iter().any(|path| Path::new(path).exists());
    let deadline = Instant::now() + PATIENCE;
    while !gone() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(gone(), "the cgroups of an ended task are still there");
}

/// A task of which at most one copy may live, with a grandchild in a session of its own and without environment; deaf.
const ONE: &str = "trap '' TERM; (env -i setsid bash -c \"trap '' TERM; echo > orphan; while :; do sleep 0.1; done\" &) ; \
    while ! test -e orphan; do sleep 0.02; done; while :; do sleep 0.1; done # at most one";
const OTHER: &str = "exec sleep 1000";

fn pid_namespace(pid: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// From the end of a lease until nothing of the task is left, as the agent's limits count on it (`KILL_MS`).
const KILL_MAX: Duration = Duration::from_secs(4);

/// Task 1 is [`ONE`], task 2 is another as usual; both run.
struct Leased {
    /// All that is in the pid namespace of task 1.
    one: Vec<ProcessIdentity>,
    other: Vec<ProcessIdentity>,
}

impl Leased {
    /// `None`: this host cannot shut tasks in.
    async fn start(leader: &mut Leader) -> Option<(Agent, Leased)> {
        let executor = Path::new(env!("CARGO_BIN_EXE_borealis-agent")).with_file_name("borealis-executor");
        if !Command::new(executor).arg("--probe").status().unwrap().success() {
            // Said, so that nobody takes this for a proof.
            eprintln!("this host has no pid namespaces: leases are not checked here");
            return None;
        }
        let agent = Agent::new(leader);
        leader.attached().await;
        leader.want(&[(1, Want::Start, ONE), (2, Want::Start, OTHER)]).await;
        leader.reported(1, Status::Running).await;
        leader.reported(2, Status::Running).await;
        let orphan = agent.task(1).sandbox().join("orphan");
        leader.until("the grandchild", |_| orphan.exists()).await;
        let theirs = pid_namespace(&agent.processes(1)[1].pid.to_string());
        assert!(theirs.is_some() && theirs != pid_namespace("self"));
        let all = identity::all().unwrap().into_iter().map(|stat| stat.pid);
        let inside = all.filter(|pid| pid_namespace(&pid.to_string()) == theirs);
        let one: Vec<_> = inside.filter_map(|pid| identity::of(pid).ok()).collect();
        assert!(one.len() >= 3, "init, shell and grandchild at least: {one:?}");
        let other = agent.processes(2).to_vec();
        Some((agent, Leased { one, other }))
    }

    fn both_run(&self) {
        // Loops make new processes; the shells and the init stay.
        assert!(self.one.iter().filter(|process| identity::is_alive(process)).count() >= 3);
        assert!(self.other.iter().all(identity::is_alive));
    }

    /// Waits until nothing of task 1 is left; it must be within its lease, and the time that a kill may take.
    fn only_the_other_is_left(&self, renewed_at: Instant) {
        let lease = agent::limits::AGENT_LEASE;
        while self.one.iter().any(identity::is_alive) {
            assert!(renewed_at.elapsed() < lease + KILL_MAX, "still alive: {:?}", self.one);
            std::thread::sleep(Duration::from_millis(10));
        }
        // The newest heartbeat that was acknowledged was sent a second before, or more on a busy machine.
        assert!(renewed_at.elapsed() > lease / 2, "killed before its time");
        assert!(self.other.iter().all(identity::is_alive));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_while_a_leader_hears_the_host_and_ends_when_the_agent_is_stopped() {
    let mut leader = Leader::start().await;
    let Some((agent, leased)) = Leased::start(&mut leader).await else { return };
    let began = Instant::now();
    let long = agent::limits::AGENT_LEASE + Duration::from_secs(2);
    leader.until("longer than a lease", |_| began.elapsed() > long).await;
    leased.both_run();
    let pid = rustix_pid(agent.child.as_ref().unwrap().id() as i32);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    leased.only_the_other_is_left(Instant::now());
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let report = leader.reported(1, Status::Killed).await;
    assert!(report.message.starts_with("The task's lease is over"), "{}", report.message);
    // An agent that hears after so long may first go on to a new stream.
    leader.has_obeyed(&[(2, Want::Keep, OTHER)]).await;
    assert_eq!(agent.processes(2).to_vec(), leased.other);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_restarted_goes_on_with_the_lease_and_one_that_is_not_ends_it() {
    let mut leader = Leader::start().await;
    let Some((mut agent, leased)) = Leased::start(&mut leader).await else { return };
    let began = Instant::now();
    agent.kill();
    leader.forget_agent();
    agent.start();
    leader.attached().await;
    let long = agent::limits::AGENT_LEASE + Duration::from_secs(2);
    leader.until("longer than a lease", |_| began.elapsed() > long).await;
    leased.both_run();
    agent.kill();
    leased.only_the_other_is_left(Instant::now());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_renews_no_lease() {
    let mut leader = Leader::start().await;
    let Some((_agent, leased)) = Leased::start(&mut leader).await else { return };
    let began = Instant::now();
    // It hears every heartbeat and answers each.
    leader.fence = Fence { epoch: 7, term: 0, leader: 9 };
    let lease = agent::limits::AGENT_LEASE;
    leader.until("half a lease", |_| began.elapsed() > lease / 2).await;
    let deadline = began + lease + KILL_MAX;
    let gone = |_: &Leader| !leased.one.iter().any(identity::is_alive) || Instant::now() > deadline;
    leader.until("the end of the lease", gone).await;
    leased.only_the_other_is_left(began);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_say_the_digest_once_all_is_acknowledged_and_obeyed() {
    let mut leader = Leader::start().await;
    let agent = Agent::new(&leader);
    leader.attached().await;
    assert_eq!(leader.heartbeat.digest, 0, "no wanted set has come");
    let digest = |tasks: &[(u64, Status)]| {
        proto::digest::of_host(tasks.iter().map(|&(task, status)| (TaskId(task), status)))
    };
    leader.want(&[(1, Want::Start, "exec sleep 1000"), (2, Want::Start, "exit 0")]).await;
    leader.reported(1, Status::Running).await;
    leader.reported(2, Status::Finished).await;
    let one = digest(&[(1, Status::Running)]);
    leader.until("the digest of what lives", |leader| leader.heartbeat.digest == one).await;
    assert!(leader.heartbeat.unused.is_none(), "nothing is lent where nothing is measured");

    // A report without an answer: State may not know of it.
    leader.acknowledges = false;
    leader.want(&[(1, Want::Keep, "exec sleep 1000"), (3, Want::Start, "exec sleep 1000")]).await;
    leader.reported(3, Status::Running).await;
    leader.until("silence", |leader| leader.heartbeat.digest == 0).await;
    let number = leader.heartbeat.number;
    leader.until("two more heartbeats", |leader| leader.heartbeat.number >= number + 2).await;
    assert_eq!(leader.heartbeat.digest, 0);
    leader.acknowledges = true;
    leader.acknowledge().await;
    let both = digest(&[(1, Status::Running), (3, Status::Running)]);
    leader.until("the digest of both", |leader| leader.heartbeat.digest == both).await;

    // An order that is too old is not obeyed, so nothing is said.
    let mut stale = leader.wanted(&[
        (1, Want::Keep, "exec sleep 1000"),
        (3, Want::Keep, "exec sleep 1000"),
        (4, Want::Start, "exec sleep 1000"),
    ]);
    stale.echo = None;
    leader.send(stale).await;
    leader.until("silence", |leader| leader.heartbeat.digest == 0).await;
    assert_eq!(agent.launched(), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_greets_briefly_where_all_is_known_unless_it_is_asked_for_all_or_was_refused() {
    let mut leader = Leader::start().await;
    let agent = Agent::new(&leader);
    leader.attached().await;
    let task = "exec sleep 1000";
    leader.want(&[(1, Want::Start, task)]).await;
    leader.reported(1, Status::Running).await;
    let running = proto::digest::of_host([(TaskId(1), Status::Running)]);
    let settled = async |leader: &mut Leader| {
        leader.has_obeyed(&[(1, Want::Keep, task)]).await;
        leader.until("the digest", |leader| leader.heartbeat.digest == running).await;
    };
    let asked = async |leader: &mut Leader, body| {
        leader.send(leader.frame(body)).await;
        let hellos = leader.hellos.len();
        leader.until("a hello", |leader| leader.hellos.len() > hellos).await;
        let before = leader.heartbeat;
        let session = leader.hellos.last().unwrap().session;
        let behind = |leader: &Leader| leader.heartbeat.session == session && leader.heartbeat != before;
        leader.until("the heartbeat behind it", behind).await;
        let hello = leader.hellos.last().unwrap();
        (hello.level, hello.tasks.len(), hello.digest, leader.heartbeat.generation)
    };
    let (briefly, wholly) =
        (Body::Resync(wire::Resync { brief: true }), Body::Resync(wire::Resync::default()));
    settled(&mut leader).await;
    let all_known = (2, 0, running, leader.generation);
    assert_eq!(asked(&mut leader, briefly.clone()).await, all_known);
    assert_eq!(asked(&mut leader, briefly.clone()).await, all_known, "it still is");
    assert_eq!(asked(&mut leader, wholly).await, (1, 1, 0, 0));
    settled(&mut leader).await;
    // By a scheduler of an earlier version, say. The stream ends, and the next one begins with all.
    let refused = Body::Refused(wire::Refused { reason: "of a newer level".into() });
    assert_eq!(asked(&mut leader, refused).await, (1, 1, 0, 0));
    settled(&mut leader).await;
    assert_eq!(asked(&mut leader, briefly.clone()).await, (2, 0, running, leader.generation));
    // What is not acknowledged is not known.
    leader.acknowledges = false;
    leader.want(&[]).await;
    leader.reported(1, Status::Killed).await;
    let (level, tasks, digest, _) = asked(&mut leader, briefly).await;
    assert_eq!((level, tasks, digest), (1, 1, 0));
    assert_eq!(agent.launched(), [1]);
}
