//! The real agent with simulated hosts against the scripted leader: the promises are those of any agent.

use std::collections::BTreeMap;
use std::path::Path;

use agent::simulated::journal as shared;

use super::*;

/// An agent's directory and the agent that speaks for its simulated hosts.
struct Fleet {
    dir: tempfile::TempDir,
    child: Option<Child>,
    address: String,
    more: Vec<String>,
}

impl Fleet {
    fn new(address: &str, hosts: u32, more: &[&str]) -> Fleet {
        let mut fleet = Fleet {
            dir: tempfile::tempdir().unwrap(),
            child: None,
            address: address.to_owned(),
            more: more.iter().map(|word| (*word).to_owned()).collect(),
        };
        fleet.start(hosts);
        fleet
    }

    fn command(&self, hosts: u32) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_borealis-agent"));
        command.args(["--name", "sim", "--simulated", &hosts.to_string(), "--attribute", "kind=mine"]);
        command.arg("--dir").arg(self.dir.path()).args(["--schedulers", &self.address]).args(&self.more);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn start(&mut self, hosts: u32) {
        self.child = Some(self.command(hosts).spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Task ids of all launch intents on the disk, each as often as a launch is there.
    fn launched(&self) -> Vec<u64> {
        let mut launches = BTreeMap::new();
        let mut note = |_, record: wire::JournalRecord| {
            if let Some(wire::journal_record::Body::Intent(intent)) = record.body {
                launches.insert((intent.task_id, record.boottime_ns), ());
            }
        };
        shared::replay(self.dir.path(), &mut note).unwrap();
        launches.into_keys().map(|(task, _)| task).collect()
    }

    /// Statuses of a task that are on the disk, in the order written.
    fn written(&self, task: u64) -> Vec<Status> {
        let mut statuses = Vec::new();
        let mut note = |_, record: wire::JournalRecord| {
            if let Some(wire::journal_record::Body::Report(made)) = record.body {
                statuses.extend(made.report.filter(|report| report.task_id == task).map(|r| r.status()));
            }
        };
        shared::replay(self.dir.path(), &mut note).unwrap();
        statuses
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.kill();
    }
}

fn statuses(leader: &Leader, task: u64) -> Vec<Status> {
    leader.reports.iter().filter(|report| report.task_id == task).map(|report| report.status()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_tasks_start_run_and_end_as_their_command_lines_say() {
    let mut leader = Leader::start().await;
    let mut fleet = Fleet::new(&leader.address, 1, &[]);
    leader.attached().await;
    let spec = leader.hellos[0].spec.clone().unwrap();
    assert_eq!((spec.name.as_str(), spec.capacity.unwrap().cpu_milli), ("sim-0", 16_000));
    let attribute = |name: &str| spec.attributes.iter().find(|a| a.name == name).map(|a| a.value.clone());
    assert_eq!(attribute("rack").as_deref(), Some("r0000"));
    assert_eq!(attribute("kind").as_deref(), Some("mine"), "what was given counts");
    assert_eq!(attribute("host").as_deref(), Some("sim-0"));
    leader
        .want(&[
            (1, Want::Start, "exec nginx"),
            (2, Want::Start, "exit 3"),
            (3, Want::Start, "sleep 0.2"),
            (4, Want::Start, "true"),
        ])
        .await;
    let failed = leader.reported(2, Status::Failed).await;
    assert_eq!(failed.message, "The task pretended to end with exit code 3.");
    leader.reported(3, Status::Finished).await;
    leader.reported(4, Status::Finished).await;
    assert_eq!(statuses(&leader, 1), [Status::Starting, Status::Running]);
    assert_eq!(statuses(&leader, 3), [Status::Starting, Status::Running, Status::Finished]);
    // What was said is on the disk, and so is what had to be there before: whenever the agent dies.
    fleet.kill();
    assert_eq!(fleet.launched(), [1, 2, 3, 4]);
    assert_eq!(fleet.written(1).last(), Some(&Status::Running));
    assert_eq!(fleet.written(2).last(), Some(&Status::Failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_tasks_outlive_their_agent_and_are_killed_by_the_wanted_set() {
    let mut leader = Leader::start().await;
    let mut fleet = Fleet::new(&leader.address, 1, &["--simulated-use-percent", "75"]);
    leader.attached().await;
    leader.want(&[(1, Want::Start, "run"), (2, Want::Start, "run"), (3, Want::Start, "sleep 1")]).await;
    leader.reported(3, Status::Running).await;
    leader.reported(2, Status::Running).await;
    let digest = proto::digest::of_host([1, 2].map(|id| (TaskId(id), Status::Running)));
    leader.reported(3, Status::Finished).await;
    leader.until("the digest of the two that live", |leader| leader.heartbeat.digest == digest).await;
    let unused = leader.heartbeat.unused.unwrap();
    assert_eq!((unused.cpu_milli, unused.ram_mib, unused.disk_mib), (50, 32, 0));

    let mut second = fleet.command(1);
    let second = second.stderr(Stdio::piped()).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("another agent runs in"), "{second:?}");
    for _ in 0..3 {
        fleet.kill();
        leader.forget_agent();
        fleet.start(1);
        leader.attached().await;
        let hello = leader.hellos.last().unwrap();
        let first = leader.hellos[0].identity.clone();
        assert_eq!(hello.identity, first.map(|id| wire::HostIdentity { host_id: 42, ..id }));
        assert_eq!((hello.cluster_id.as_str(), hello.fence), ("cluster", Some(leader.fence.into())));
        assert_eq!(statuses(&leader, 1), [Status::Running]);
        leader.want(&[(1, Want::Keep, ""), (2, Want::Keep, ""), (3, Want::Keep, "")]).await;
        leader.obeyed().await;
        assert_eq!(fleet.launched(), [1, 2, 3], "none twice");
    }
    leader.want(&[(1, Want::Kill, ""), (3, Want::Keep, "")]).await;
    assert_eq!(leader.reported(1, Status::Killed).await.message, "Killed by the scheduler.");
    leader.reported(2, Status::Killed).await;
    leader.obeyed().await;
    leader.want(&[]).await;
    for task in [1, 2, 3] {
        leader.forgotten(task).await;
    }
    // A forgotten task is never started again, nor after a restart.
    fleet.kill();
    leader.forget_agent();
    fleet.start(1);
    leader.attached().await;
    leader.reports.clear();
    leader.want(&[(2, Want::Start, "run")]).await;
    leader.reported(2, Status::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulated_host_obeys_only_whom_it_may() {
    let mut leader = Leader::start().await;
    let mut fleet = Fleet::new(&leader.address, 1, &[]);
    leader.attached().await;
    leader.fence = Fence { epoch: 7, term: 3, leader: 2 };
    leader.want(&[(1, Want::Start, "run")]).await;
    leader.reported(1, Status::Running).await;
    // A deposed leader would kill task 1 and start task 2; another cluster too.
    let mut deposed = leader.wanted(&[(2, Want::Start, "run")]);
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
        let mut stale = leader.wanted(&[(1, Want::Keep, ""), (3, Want::Start, "run")]);
        stale.echo = Some(echo);
        leader.send(stale).await;
    }
    leader.want(&[(1, Want::Keep, ""), (4, Want::Keep, ""), (5, Want::Kill, "")]).await;
    let lost = leader.reported(4, Status::Lost).await;
    assert_eq!(lost.message, "The host was to keep the task and does not have it.");
    leader.reported(5, Status::Killed).await;
    leader.obeyed().await;
    leader.want(&[(1, Want::Keep, ""), (4, Want::Start, "run")]).await;
    leader.obeyed().await;
    assert_eq!(fleet.launched(), [1]);

    // The fence outlives the agent.
    fleet.kill();
    leader.forget_agent();
    fleet.start(1);
    leader.attached().await;
    assert_eq!(leader.hellos.last().unwrap().fence, Some(leader.fence.into()));
    deposed.echo = leader.frame(Body::Resync(wire::Resync::default())).echo;
    leader.send(deposed).await;
    leader.send(leader.frame(Body::Resync(wire::Resync::default()))).await;
    leader.attached().await;
    assert_eq!(fleet.launched(), [1]);
    assert_eq!(statuses(&leader, 1).last(), Some(&Status::Running));
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_reports_come_again_until_they_are_acknowledged() {
    let mut leader = Leader::start().await;
    leader.acknowledges = false;
    let mut fleet = Fleet::new(&leader.address, 1, &["--simulated-start-ms", "300"]);
    leader.attached().await;
    let asked = Instant::now();
    leader.want(&[(1, Want::Start, "exit 0")]).await;
    leader.reported(1, Status::Starting).await;
    let report = leader.reported(1, Status::Finished).await;
    assert!(asked.elapsed() >= Duration::from_millis(300), "{:?}", asked.elapsed());
    leader.reports.clear();
    assert_eq!(leader.reported(1, Status::Finished).await, report, "again on the same stream");
    assert_eq!(leader.heartbeat.digest, 0, "nothing is agreed yet");
    // Not named any more, but not forgotten either: nobody has applied its end.
    leader.want(&[]).await;
    leader.obeyed().await;
    fleet.kill();
    leader.forget_agent();
    fleet.start(1);
    leader.attached().await;
    assert_eq!(leader.reported(1, Status::Finished).await, report, "again after a restart");
    leader.acknowledges = true;
    leader.acknowledge().await;
    leader.want(&[]).await;
    leader.forgotten(1).await;
}

#[test]
fn a_directory_is_of_one_kind_of_agent_and_of_all_its_hosts() {
    let mut fleet = Fleet::new("127.0.0.1:1", 3, &[]);
    let deadline = Instant::now() + PATIENCE;
    // The books of all hosts are written as soon as they try to connect.
    let hosts = |fleet: &Fleet| {
        let mut hosts = std::collections::BTreeSet::new();
        shared::replay(fleet.dir.path(), &mut |host, _| _ = hosts.insert(host)).map(|()| hosts.len())
    };
    while hosts(&fleet).unwrap_or(0) < 3 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    fleet.kill();
    let refused = |mut command: Command| {
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let words = refused(fleet.command(2));
    assert!(words.contains("speaks of host number 2") && words.contains("as many as before"), "{words}");
    let mut real = Command::new(env!("CARGO_BIN_EXE_borealis-agent"));
    real.args(["--name", "a", "--schedulers", "127.0.0.1:1", "--dir"]).arg(fleet.dir.path());
    let words = refused(real);
    assert!(words.contains("whose hosts are simulated"), "{words}");
    let other =
        Fleet { dir: tempfile::tempdir().unwrap(), child: None, address: "127.0.0.1:1".into(), more: vec![] };
    std::fs::write(journal::Journal::path(other.dir.path()), "").unwrap();
    let words = refused(other.command(2));
    assert!(words.contains("of a host that is not simulated"), "{words}");
}

/// What a leader knows of one of many hosts.
struct Seat {
    outlet: Outlet,
    host: usize,
    echo: wire::Echo,
    hello: wire::Hello,
    fence: Fence,
    running: usize,
    sequence: u64,
}

/// A leader of many hosts, by session.
struct Many {
    leader: Leader,
    seats: BTreeMap<u64, Seat>,
    running: usize,
    reports: usize,
}

impl Many {
    async fn start() -> Many {
        Many { leader: Leader::start().await, seats: BTreeMap::new(), running: 0, reports: 0 }
    }

    fn say(seat: &Seat, body: Body) -> impl Future<Output = ()> + use<> {
        let frame = SchedulerFrame {
            body: Some(body),
            cluster_id: "cluster".into(),
            lineage_id: "lineage".into(),
            fence: Some(seat.fence.into()),
            echo: Some(seat.echo),
        };
        let outlet = seat.outlet.clone();
        async move { drop(outlet.send(Ok(frame)).await) }
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Many) -> bool) {
        let deadline = Instant::now() + 2 * PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "not in time: {what}; {} run", self.running);
            let frame = tokio::time::timeout(Duration::from_millis(100), self.leader.frames.recv()).await;
            let Ok(Some((outlet, frame))) = frame else { continue };
            match frame.body.expect("a frame has a body") {
                agent_frame::Body::Hello(hello) => {
                    let name = hello.spec.as_ref().unwrap().name.clone();
                    let host = name.strip_prefix("sim-").unwrap().parse().unwrap();
                    let echo = wire::Echo { session: hello.session, number: 0 };
                    let (session, tasks, fence) = (hello.session, hello.tasks.clone(), self.leader.fence);
                    let mut seat = Seat { outlet, host, echo, hello, fence, running: 0, sequence: 0 };
                    // A host that heard nothing for a while comes anew, with all that it has to say.
                    let before = self.seats.iter().find(|(_, seat)| seat.host == host).map(|(id, _)| *id);
                    if let Some(before) = before.and_then(|before| self.seats.remove(&before)) {
                        (seat.running, seat.sequence) = (before.running, before.sequence);
                        self.note(&mut seat, &tasks);
                    }
                    let heard = tasks.iter().map(|report| report.sequence).max().unwrap_or(0);
                    seat.sequence = seat.sequence.max(heard);
                    Self::say(&seat, Body::Welcome(wire::Welcome { host_id: 100 + host as u64 })).await;
                    let sequence = seat.sequence;
                    Self::say(&seat, Body::Acknowledged(wire::Acknowledged { sequence })).await;
                    self.seats.insert(session, seat);
                }
                agent_frame::Body::Heartbeat(heartbeat) => {
                    let Some(seat) = self.seats.get_mut(&heartbeat.session) else { continue };
                    seat.echo.number = heartbeat.number;
                    Self::say(seat, Body::Welcome(wire::Welcome { host_id: 100 + seat.host as u64 })).await;
                }
                agent_frame::Body::Reports(reports) => {
                    let Some(mut seat) = self.seats.remove(&reports.session) else { continue };
                    let rising = |pair: &[wire::TaskReport]| pair[0].sequence < pair[1].sequence;
                    assert!(reports.reports.windows(2).all(rising), "rising, each once");
                    self.note(&mut seat, &reports.reports);
                    let sequence = seat.sequence;
                    Self::say(&seat, Body::Acknowledged(wire::Acknowledged { sequence })).await;
                    self.seats.insert(reports.session, seat);
                }
            }
        }
    }

    /// Counts what is new. What was not acknowledged for a while is said again, as it was.
    fn note(&mut self, seat: &mut Seat, reports: &[wire::TaskReport]) {
        for report in reports.iter().filter(|report| report.sequence > seat.sequence) {
            self.running += usize::from(report.status() == Status::Running);
            seat.running += usize::from(report.status() == Status::Running);
            self.reports += 1;
        }
        let newest = reports.iter().map(|report| report.sequence).max().unwrap_or(0);
        seat.sequence = seat.sequence.max(newest);
    }

    async fn attached(&mut self, hosts: usize) {
        let there = move |many: &Many| {
            many.seats.len() == hosts && many.seats.values().all(|seat| seat.echo.number > 0)
        };
        self.until("all hosts and their heartbeats", there).await;
    }

    /// Wants it until so many run: orders that a busy machine has let grow old are given once more.
    async fn obeyed(&mut self, generation: u64, told: u64, tasks: u64, config: &wire::TaskConfig) {
        let deadline = Instant::now() + 2 * PATIENCE;
        let running = self.seats.len() * tasks as usize;
        while self.running != running {
            assert!(Instant::now() < deadline, "{} of {running} run", self.running);
            self.want(generation, told, tasks, config).await;
            let again = Instant::now() + 3 * agent::limits::START_AGE_MAX;
            self.until("all tasks run", |many| many.running == running || Instant::now() > again).await;
        }
    }

    /// Wants the first `tasks` tasks of each host, of which it has been told `told` before.
    async fn want(&mut self, generation: u64, told: u64, tasks: u64, config: &wire::TaskConfig) {
        let hash = wire::StoredConfig { hash: proto::config_hash(config).to_vec().into(), config: None }.hash;
        for seat in self.seats.values() {
            let task = |number: u64| wire::WantedTask {
                task_id: (9 << 40) + (seat.host as u64) * 1000 + number,
                want: if number < told { Want::Keep } else { Want::Start }.into(),
                config_hash: hash.clone(),
                ..Default::default()
            };
            let mut set =
                wire::WantedSet { generation, tasks: (0..tasks).map(task).collect(), configs: vec![] };
            if told == 0 {
                let config = Some(config.clone());
                set.configs.push(wire::StoredConfig { hash: hash.clone(), config });
            }
            Self::say(seat, Body::Wanted(set)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_simulated_hosts_has_a_standing_of_its_own() {
    const HOSTS: usize = 300;
    let mut many = Many::start().await;
    let mut fleet = Fleet::new(&many.leader.address, HOSTS as u32, &[]);
    many.attached(HOSTS).await;
    let journals: std::collections::BTreeSet<_> =
        many.seats.values().map(|seat| seat.hello.identity.as_ref().unwrap().journal_id.clone()).collect();
    assert_eq!(journals.len(), HOSTS);
    many.obeyed(1, 0, 10, &config("run")).await;
    assert!(many.seats.values().all(|seat| seat.running == 10));
    fleet.kill();
    many.seats.clear();
    fleet.start(HOSTS as u32);
    many.attached(HOSTS).await;
    for seat in many.seats.values() {
        let identity = seat.hello.identity.as_ref().unwrap();
        assert_eq!(identity.host_id, 100 + seat.host as u64);
        assert!(journals.contains(&identity.journal_id));
        assert_eq!(seat.hello.tasks.len(), 10);
        assert!(seat.hello.tasks.iter().all(|report| report.status() == Status::Running));
    }
    assert_eq!(fleet.launched().len(), HOSTS * 10);
}

/// CPU time of a process in milliseconds, and its resident memory in KiB.
fn cost(pid: u32) -> (u64, u64) {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap();
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap().split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    (10 * (fields[11] + fields[12]), 4 * fields[21])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_simulated_task_costs() {
    const HOSTS: usize = 500;
    const TASKS: u64 = 200;
    for (words, steps) in [("one wanted set for each host", 1), ("twenty wanted sets for each host", 20)] {
        let mut many = Many::start().await;
        let fleet = Fleet::new(&many.leader.address, HOSTS as u32, &[]);
        many.attached(HOSTS).await;
        let pid = fleet.child.as_ref().unwrap().id();
        let (begun, (cpu_ms, rss_kib)) = (Instant::now(), cost(pid));
        for step in 0..steps {
            let (told, tasks) = (TASKS * step / steps, TASKS * (step + 1) / steps);
            many.obeyed(step + 1, told, tasks, &config("run")).await;
        }
        let (wall, (cpu_after_ms, rss_after_kib)) = (begun.elapsed(), cost(pid));
        let count = HOSTS as f64 * TASKS as f64;
        let bytes = std::fs::read_dir(fleet.dir.path()).unwrap().flatten();
        let bytes: u64 = bytes.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
        println!(
            "{words}: {:.1} us of CPU and {:.0} bytes of memory a task, {:.0} bytes of journal; {:.0} running/s",
            (cpu_after_ms - cpu_ms) as f64 * 1000.0 / count,
            rss_after_kib.saturating_sub(rss_kib) as f64 * 1024.0 / count,
            bytes as f64 / count,
            count / wall.as_secs_f64(),
        );
        assert_eq!(many.reports, 2 * HOSTS * TASKS as usize, "STARTING and RUNNING of each, once");
    }
}
