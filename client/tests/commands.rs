//! The real program against replicas whose answers are scripted: retries, request ids, exit codes, words.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::wire::{
    ActivateHostsReply, ActivateHostsRequest, AddInstancesReply, AddInstancesRequest, CreateJobReply,
    CreateJobRequest, DrainHostsReply, DrainHostsRequest, FreezeReply, FreezeRequest, GetJobReply,
    GetJobRequest, GetQuotaReply, GetQuotaRequest, JobSpec, KillTasksReply, KillTasksRequest, ListHostsReply,
    ListHostsRequest, ListJobsReply, ListJobsRequest, PlanJobReply, PlanJobRequest, QuotaView, Resources,
    RestartTasksReply, RestartTasksRequest, ResumeReply, ResumeRequest, SetQuotaReply, SetQuotaRequest,
    StatusCount, TaskView, Why, WhyPendingReply, WhyPendingRequest,
};
use rpc::borealis_server::{Borealis, BorealisServer};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

const KEY: &str = "west/www-data/prod/web";

/// A replica. Each method answers with what the test's function says about the n-th call.
struct Replica {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<KillTasksRequest>>>,
    changes: Changes,
    _runtime: tokio::runtime::Runtime,
}

/// The id and the body, in words, of each other change that was asked for.
type Changes = Arc<Mutex<Vec<(String, String)>>>;
type OnKill = Box<dyn Fn(usize) -> Result<KillTasksReply, Status> + Send + Sync>;
type OnGet = Box<dyn Fn(usize) -> Result<GetJobReply, Status> + Send + Sync>;

struct Service {
    kill: OnKill,
    get: OnGet,
    gets: Mutex<usize>,
    calls: Arc<Mutex<Vec<KillTasksRequest>>>,
    changes: Changes,
}

#[tonic::async_trait]
impl Borealis for Service {
    async fn create_job(
        &self,
        request: Request<CreateJobRequest>,
    ) -> Result<Response<CreateJobReply>, Status> {
        let spec = request.into_inner().spec.unwrap_or_default();
        // A job of one instance is there already.
        Ok(Response::new(CreateJobReply { tasks: spec.instances, unchanged: spec.instances == 1 }))
    }
    async fn kill_tasks(
        &self,
        request: Request<KillTasksRequest>,
    ) -> Result<Response<KillTasksReply>, Status> {
        let number = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(request.into_inner());
            calls.len() - 1
        };
        (self.kill)(number).map(Response::new)
    }
    async fn get_job(&self, _: Request<GetJobRequest>) -> Result<Response<GetJobReply>, Status> {
        let number = {
            let mut gets = self.gets.lock().unwrap();
            *gets += 1;
            *gets - 1
        };
        (self.get)(number).map(Response::new)
    }
    async fn list_jobs(&self, _: Request<ListJobsRequest>) -> Result<Response<ListJobsReply>, Status> {
        Ok(Response::new(ListJobsReply::default()))
    }
    async fn list_hosts(&self, _: Request<ListHostsRequest>) -> Result<Response<ListHostsReply>, Status> {
        Ok(Response::new(ListHostsReply::default()))
    }
    async fn restart_tasks(
        &self,
        request: Request<RestartTasksRequest>,
    ) -> Result<Response<RestartTasksReply>, Status> {
        let ask = request.into_inner();
        self.change(ask.request, &[&ask.instances, &ask.message])?;
        Ok(Response::new(RestartTasksReply { tasks: ask.instances.len() as u32 }))
    }
    async fn add_instances(
        &self,
        request: Request<AddInstancesRequest>,
    ) -> Result<Response<AddInstancesReply>, Status> {
        let ask = request.into_inner();
        self.change(ask.request, &[&ask.like, &ask.count])?;
        Ok(Response::new(AddInstancesReply { tasks: ask.count }))
    }
    async fn why_pending(
        &self,
        request: Request<WhyPendingRequest>,
    ) -> Result<Response<WhyPendingReply>, Status> {
        let instances = request.into_inner().instances;
        let waiting = instances.len() as u32;
        let why = Why { instances, waiting, summary: "the cluster is frozen".into(), ..Why::default() };
        Ok(Response::new(WhyPendingReply { whys: vec![why] }))
    }
    async fn plan_job(&self, request: Request<PlanJobRequest>) -> Result<Response<PlanJobReply>, Status> {
        // The file's number of instances chooses the answer.
        let spec = request.into_inner().spec.unwrap_or_default();
        let reply =
            PlanJobReply { feasible: spec.instances < 3, within_quota: true, ..PlanJobReply::default() };
        Ok(Response::new(match spec.instances {
            1 => PlanJobReply { exists: true, ..reply },
            2 => PlanJobReply { would_place: 1, after_displacing: 1, displaced: 3, ..reply },
            _ => PlanJobReply { would_place: 2, would_wait: 1, cut: true, ..reply },
        }))
    }
    async fn get_quota(&self, request: Request<GetQuotaRequest>) -> Result<Response<GetQuotaReply>, Status> {
        let role = request.into_inner().role;
        let some = |cpu_milli| Some(Resources { cpu_milli, ..Resources::default() });
        let view = QuotaView { role, quota: some(4000), promised: some(1500), ..QuotaView::default() };
        Ok(Response::new(GetQuotaReply { roles: vec![view] }))
    }
    async fn set_quota(&self, request: Request<SetQuotaRequest>) -> Result<Response<SetQuotaReply>, Status> {
        let ask = request.into_inner();
        self.change(ask.request, &[&ask.role, &ask.increment])?;
        Ok(Response::new(SetQuotaReply { quota: ask.quota }))
    }
    async fn drain_hosts(
        &self,
        request: Request<DrainHostsRequest>,
    ) -> Result<Response<DrainHostsReply>, Status> {
        let ask = request.into_inner();
        self.change(ask.request, &[&ask.hosts, &ask.message])?;
        Ok(Response::new(DrainHostsReply { tasks: 7 }))
    }
    async fn activate_hosts(
        &self,
        request: Request<ActivateHostsRequest>,
    ) -> Result<Response<ActivateHostsReply>, Status> {
        let ask = request.into_inner();
        self.change(ask.request, &[&ask.hosts])?;
        Ok(Response::new(ActivateHostsReply {}))
    }
    async fn freeze(&self, request: Request<FreezeRequest>) -> Result<Response<FreezeReply>, Status> {
        let ask = request.into_inner();
        self.change(ask.request, &[&ask.frozen])?;
        Ok(Response::new(FreezeReply { held: !ask.frozen }))
    }
    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<ResumeReply>, Status> {
        self.change(request.into_inner().request, &[&"resume"])?;
        Ok(Response::new(ResumeReply {}))
    }
}

impl Service {
    /// Notes a change; the first one is answered with no leader, so that it comes again. Roles and hosts called
    /// `nobody` are refused.
    fn change(
        &self,
        request: Option<proto::wire::Request>,
        body: &[&dyn std::fmt::Debug],
    ) -> Result<(), Status> {
        let mut changes = self.changes.lock().unwrap();
        let body = body.iter().map(|part| format!("{part:?}")).collect::<Vec<_>>().join(" ");
        let refused = body.contains("nobody");
        changes.push((request.unwrap_or_default().id, body));
        match changes.len() {
            1 => Err(Status::unavailable("no leader is known")),
            _ if refused => Err(Status::not_found("there is no nobody")),
            _ => Ok(()),
        }
    }
}

impl Replica {
    fn start(kill: OnKill, get: OnGet) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let changes = Changes::default();
        let (gets, called) = (Mutex::default(), calls.clone());
        let service = Service { kill, get, gets, calls: called, changes: changes.clone() };
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(BorealisServer::new(service));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Replica { address, calls, changes, _runtime: runtime }
    }

    fn killing(kill: impl Fn(usize) -> Result<KillTasksReply, Status> + Send + Sync + 'static) -> Self {
        Replica::start(Box::new(kill), Box::new(|_| Err(Status::not_found("no such job"))))
    }

    fn getting(get: impl Fn(usize) -> Result<GetJobReply, Status> + Send + Sync + 'static) -> Self {
        Replica::start(Box::new(|_| Ok(KillTasksReply { tasks: 1 })), Box::new(get))
    }

    fn request_ids(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|call| call.request.clone().unwrap().id).collect()
    }
}

fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_borealis"));
    command.args(line.split_whitespace()).env_remove("BOREALIS_ADDR").env("XDG_CONFIG_HOME", "/nonexistent");
    command
}

fn run(line: &str) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(line).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn ended(child: &mut Child) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the program did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An answer with these live tasks and no others.
fn listing(tasks: Vec<TaskView>) -> GetJobReply {
    let counts = tasks.iter().map(|task| StatusCount { status: task.status, tasks: 1 }).collect();
    GetJobReply { tasks, counts, ..GetJobReply::default() }
}

/// An address where nothing ever listens.
fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

#[test]
fn a_request_keeps_its_id_until_it_is_answered() {
    let replica = Replica::killing(|number| match number {
        0 => Err(Status::unavailable("no leader is known")),
        1 => Err(Status::deadline_exceeded("the log did not answer")),
        _ => Ok(KillTasksReply { tasks: 3 }),
    });
    // Of the two addresses one never answers.
    let (code, out, err) =
        run(&format!("job killall {KEY} --json --addr {},{} --timeout 20s", nowhere(), replica.address));
    assert_eq!(code, 0, "{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let ids = replica.request_ids();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(
        (answer["request_id"].as_str(), &answer["tasks"]),
        (Some(ids[0].as_str()), &serde_json::json!(3))
    );
    let calls = replica.calls.lock().unwrap();
    let request = calls[0].request.clone().unwrap();
    assert!(!request.identity.is_empty() && request.created_ms > 1_700_000_000_000);
    assert!(calls.iter().all(|call| call.request == calls[0].request), "the same in every attempt");
}

#[test]
fn no_leader_is_told_with_what_each_replica_said() {
    let replica = Replica::killing(|_| Err(Status::unavailable("no leader is known")));
    let nowhere = nowhere();
    let (code, out, err) =
        run(&format!("job killall {KEY} --addr {nowhere},{} --timeout 4s", replica.address));
    assert_eq!((code, out.as_str()), (7, ""));
    assert!(err.contains(&format!("{nowhere}: Connection refused")), "{err}");
    assert!(err.contains(&format!("{}: no leader is known", replica.address)), "{err}");
    assert!(err.contains("nothing was done") && err.contains("hint: "), "{err}");
    assert!(err.contains("waiting for the cluster"), "people are told before the time is over: {err}");
}

#[test]
fn a_lost_answer_is_an_unknown_fate() {
    let replica = Replica::killing(|number| match number {
        0 => Err(Status::deadline_exceeded("the log did not answer")),
        _ => Err(Status::unavailable("no leader is known")),
    });
    let (code, _, err) = run(&format!("job killall {KEY} --addr {} --timeout 1s", replica.address));
    assert_eq!(code, 9, "{err}");
    assert!(err.contains(&format!("--request-id {}", replica.request_ids()[0])), "{err}");
    let (code, _, err) = run(&format!("job killall {KEY} --addr {} --timeout 1s --json", replica.address));
    assert_eq!(code, 7, "nothing was lost in this one: {err}");
    let error: serde_json::Value = serde_json::from_str(err.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"]["exit_code"], 7);
}

#[test]
fn a_given_request_id_is_used() {
    let replica = Replica::killing(|_| Ok(KillTasksReply { tasks: 1 }));
    assert_eq!(run(&format!("job kill {KEY}/0,2-3 --request-id mine-1 --addr {}", replica.address)).0, 0);
    let calls = replica.calls.lock().unwrap();
    assert_eq!(
        (calls[0].request.as_ref().unwrap().id.as_str(), &calls[0].instances[..]),
        ("mine-1", &[0, 2, 3][..])
    );
}

#[test]
fn a_replica_that_hangs_or_breaks_is_no_end() {
    // Accepts and closes.
    let breaking = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let breaks_at = breaking.local_addr().unwrap();
    std::thread::spawn(move || breaking.incoming().for_each(drop));
    // Accepts and says nothing.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs_at = hanging.local_addr().unwrap();

    for (address, line, want) in [
        (breaks_at, format!("job killall {KEY}"), 9),
        (breaks_at, format!("job status {KEY}"), 7),
        (hangs_at, format!("job killall {KEY}"), 9),
        (hangs_at, format!("job status {KEY}"), 7),
    ] {
        let begun = Instant::now();
        let (code, _, err) = run(&format!("{line} --addr {address} --timeout 1s"));
        assert_eq!(code, want, "{line}: {err}");
        assert!(begun.elapsed() < Duration::from_secs(12), "{line} took {:?}", begun.elapsed());
    }
    let replica = Replica::killing(|_| Ok(KillTasksReply { tasks: 1 }));
    let line = format!("job killall {KEY} --addr {breaks_at},{hangs_at},{} --timeout 20s", replica.address);
    assert_eq!(run(&line).0, 0);
}

#[test]
fn refusals_have_exit_codes_and_are_not_repeated() {
    for (code, want) in [
        (Code::NotFound, 10),
        (Code::AlreadyExists, 10),
        (Code::FailedPrecondition, 10),
        (Code::InvalidArgument, 10),
        (Code::ResourceExhausted, 10),
        (Code::PermissionDenied, 30),
        (Code::Unauthenticated, 30),
        (Code::Internal, 20),
    ] {
        let replica = Replica::killing(move |_| Err(Status::new(code, "because of \x1b[31mthis")));
        let (exit, _, err) = run(&format!("job killall {KEY} --addr {} --timeout 5s", replica.address));
        assert_eq!(exit, want, "{code:?}: {err}");
        assert!(
            err.contains("killing all instances of west/www-data/prod/web: because of  [31mthis"),
            "{err}"
        );
        assert_eq!(replica.request_ids().len(), 1, "{code:?}");
    }
}

#[test]
fn wrong_words_have_exit_codes() {
    for (line, want) in [
        ("job frobnicate", 5),
        ("", 5),
        ("job status", 6),
        ("job status a/b/c", 6),
        ("job status a/b/c/d --addr nonsense", 6),
        ("job kill a/b/c/d", 6),
        ("job kill a/b/c/d/x", 6),
        ("job killall a/b/c/d --timeout 1y", 6),
        ("job create a/b/c/d /nonexistent/file.aurora", 3),
        ("job create a/b/c/d /nonexistent/file.aurora --bind x", 6),
        ("task logs a/b/c/d", 6),
        ("cluster init", 6),
        ("cluster init --addr a:1,b:2", 6),
        ("job list a/b/c/d", 6),
        ("job restart a/b/c", 6),
        ("job restart a/b/c/d/0-x", 6),
        ("job add a/b/c/d 2", 6),
        ("job add a/b/c/d/0,1 2", 6),
        ("job why a/b/c", 6),
        ("job plan /nonexistent/file.aurora", 3),
        ("quota get www prod", 6),
        ("quota set", 6),
        ("quota set www --cpus 2", 6),
        ("quota increment www", 6),
        ("quota increment www --cpus x", 6),
        ("host drain", 6),
        ("host activate", 6),
        ("host status", 6),
        ("cluster freeze now", 6),
        ("--help", 0),
        ("--version", 0),
    ] {
        let (code, _, err) = run(&format!("{line} --timeout 1s").replace("1y --timeout 1s", "1y"));
        assert_eq!(code, want, "{line}: {err}");
        assert!(want == 0 || !err.is_empty(), "{line}");
    }
}

#[test]
fn an_interrupted_command_says_what_may_have_happened() {
    let replica = Replica::killing(|_| Err(Status::unavailable("no leader is known")));
    let mut child = command(&format!("job killall {KEY} --addr {} --timeout 60s", replica.address))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while replica.request_ids().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(ended(&mut child), 130);
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains(&format!("--request-id {}", replica.request_ids()[0])), "{err}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let mut child = command("completion zsh").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(ended(&mut child), 0);
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(err, "");
}

#[test]
fn status_is_shown_for_people_and_machines() {
    let replica = Replica::getting(|_| {
        let task = TaskView {
            task_id: (17 << 40) | 5,
            status: proto::wire::Status::Running.into(),
            ..TaskView::default()
        };
        let spec = JobSpec { instances: 1, ..JobSpec::default() };
        Ok(GetJobReply { spec: Some(spec), ..listing(vec![task]) })
    });
    let (code, out, _) = run(&format!("job status {KEY} --addr {}", replica.address));
    assert_eq!(code, 0);
    assert!(out.contains("1 instance: 1 RUNNING") && out.contains("task-17-5"), "{out}");
    let (_, out, _) = run(&format!("job status {KEY} --addr {} --json", replica.address));
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&value["tasks"][0]["status"], &value["tasks"][0]["task_id"]),
        (&"RUNNING".into(), &"task-17-5".into())
    );
}

#[test]
fn changes_are_repeated_with_their_id_and_refusals_are_not() {
    for (line, body, word) in [
        (format!("job restart {KEY}/0,2-3 --message slow"), "[0, 2, 3] \"slow\"", "restarting 3 tasks"),
        (format!("job add {KEY}/1 4"), "1 4", "added 4 instances like 1"),
        ("quota set www --cpus 2 --ram-mib 9 --disk-mib 9".to_owned(), "\"www\" false", "quota of 2.0 cpu"),
        ("quota increment www --cpus 2".to_owned(), "\"www\" true", "role www has a quota of"),
        ("host drain h1 h2 --message disk".to_owned(), "[\"h1\", \"h2\"] \"disk\"", "7 tasks move away"),
        ("host activate h1".to_owned(), "[\"h1\"]", "host h1 may get tasks again"),
        ("cluster freeze".to_owned(), "true", "frozen"),
        ("cluster thaw".to_owned(), "false", "thawed"),
    ] {
        let replica = Replica::killing(|_| Ok(KillTasksReply::default()));
        let (code, out, err) =
            run(&format!("{line} --request-id mine-1 --timeout 20s --addr {}", replica.address));
        assert_eq!(code, 0, "{line}: {err}");
        assert!(out.contains(word), "{line}: {out}");
        let once = ("mine-1".to_owned(), body.to_owned());
        assert_eq!(*replica.changes.lock().unwrap(), [once.clone(), once], "{line}");
    }
    for line in ["quota increment nobody --cpus 1", "host drain nobody", "host activate nobody"] {
        let replica = Replica::killing(|_| Ok(KillTasksReply::default()));
        let (code, _, err) = run(&format!("{line} --timeout 20s --addr {}", replica.address));
        assert_eq!(code, 10, "{line}: {err}");
        assert!(err.contains("there is no nobody"), "{line}: {err}");
        assert_eq!(replica.changes.lock().unwrap().len(), 2, "{line}: a refusal is not repeated");
    }
}

#[test]
fn a_kill_says_how_its_instances_come_back() {
    let replica = Replica::killing(|number| match number {
        0 => Ok(KillTasksReply { tasks: 2 }),
        1 => Ok(KillTasksReply { tasks: 1 }),
        2 => Ok(KillTasksReply { tasks: 3 }),
        _ => {
            Err(Status::not_found("job x has no live instance 7: its instances are 0-2; nothing was killed"))
        }
    });
    let address = replica.address;
    for (line, want) in [
        ("kill KEY/0,2", "killing 2 tasks of KEY; `borealis job restart KEY/0,2` would start them again\n"),
        (
            "kill KEY/0,2",
            "killing 1 task of KEY (1 instance had ended, or was being killed, already); `borealis job restart KEY/0,2` would start them again\n",
        ),
        ("killall KEY", "killing 3 tasks of KEY\n"),
    ] {
        let (code, out, err) = run(&format!("job {} --addr {address}", line.replace("KEY", KEY)));
        assert_eq!((code, out), (0, want.replace("KEY", KEY)), "{err}");
    }
    let (code, _, err) = run(&format!("job kill {KEY}/7 --addr {address}"));
    assert!(code == 10 && err.contains("no live instance 7") && err.contains("nothing was killed"), "{err}");
}

#[test]
fn logs_wait_for_an_agent_no_longer_than_asked() {
    // Accepts and says nothing.
    let agent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let agent_address = agent.local_addr().unwrap().to_string();
    let replica = Replica::getting(move |_| {
        let task = TaskView { task_id: (17 << 40) | 5, ..TaskView::default() };
        Ok(listing(vec![TaskView { agent_address: agent_address.clone(), ..task }]))
    });
    let begun = Instant::now();
    let line = format!("task logs {KEY}/0 --process main --timeout 3s --addr {}", replica.address);
    let (code, _, err) = run(&line);
    assert_eq!(code, 7, "{err}");
    assert!(err.contains("no answer within 3s"), "{err}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[test]
fn questions_are_answered_for_people_and_machines() {
    let replica = Replica::killing(|_| Ok(KillTasksReply::default()));
    let address = replica.address;
    let (code, out, err) = run(&format!("job why {KEY}/1,4 --addr {address}"));
    assert_eq!((code, out.as_str()), (0, "2 instances wait (1,4):\n  the cluster is frozen\n"), "{err}");
    let (code, out, err) = run(&format!("quota get www --json --addr {address}"));
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["roles"][0]["promised"]["cpu_milli"]), (0, &1500.into()), "{err}");
    let (code, _, err) = run(&format!("host status h1 --addr {address}"));
    assert!(code == 10 && err.contains("no host is called h1"), "{code}: {err}");
}

#[test]
fn a_plan_ends_with_0_1_or_2() {
    let replica = Replica::killing(|_| Ok(KillTasksReply::default()));
    let dir = tempfile::tempdir().unwrap();
    for (instances, want, word) in [
        (1, 0, "nothing would change"),
        (2, 1, "placed later  1 instance, once 3 tasks of others are displaced"),
        (3, 2, "placed now    at least 2 instances"),
    ] {
        let file = dir.path().join(format!("{instances}.aurora"));
        std::fs::write(&file, HELLO.replace("instances = 2", &format!("instances = {instances}"))).unwrap();
        let (code, out, err) = run(&format!("job plan {} --addr {}", file.display(), replica.address));
        assert_eq!(code, want, "{out}{err}");
        assert!(out.contains(word), "{out}");
    }
}

const HELLO: &str = r#"
hello = Process(name = 'hello', cmdline = 'echo hello')
task = SequentialTask(processes = [hello], resources = Resources(cpu = 0.1, ram = 16 * MB, disk = 16 * MB))
jobs = [Service(cluster = 'west', role = 'www-data', environment = 'prod', name = 'web', task = task, instances = 2)]
"#;

#[test]
fn a_job_is_created_from_a_file_and_waited_for() {
    let task = |instance, status: proto::wire::Status, message: &str| TaskView {
        instance,
        status: status.into(),
        message: message.into(),
        ..TaskView::default()
    };
    let replica = Replica::getting(move |number| {
        use proto::wire::Status::{Pending, Running};
        let second = if number < 2 { task(1, Pending, "no host has 9 cpu") } else { task(1, Running, "") };
        Ok(listing(vec![task(0, Running, ""), second]))
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hello.aurora");
    std::fs::write(&file, HELLO).unwrap();
    let (file, address) = (file.display(), replica.address);
    let (code, out, err) = run(&format!("job create {KEY} {file} --wait --addr {address}"));
    assert_eq!(code, 0, "{err}");
    assert_eq!(out, format!("created {KEY} with 2 instances: 2 RUNNING\n"));
    assert_eq!(err, format!("{KEY}: 1 PENDING, 1 RUNNING (1: no host has 9 cpu)\n{KEY}: 2 RUNNING\n"));

    // The same again makes nothing.
    let one = dir.path().join("one.aurora");
    std::fs::write(&one, HELLO.replace("instances = 2", "instances = 1")).unwrap();
    let line = format!("job create {KEY} {} --addr {address}", one.display());
    let (code, out, err) = run(&line);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with(&format!("{KEY} exists just so, with 1 instance that lives: nothing was made")),
        "{out}"
    );
    let value: serde_json::Value = serde_json::from_str(&run(&format!("{line} --json")).1).unwrap();
    assert_eq!(value["unchanged"], true);

    let (code, out, _) = run(&format!("job inspect {file}"));
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["instances"]), (0, &2.into()));
    let (code, _, err) = run(&format!("job create west/www-data/prod/other {file} --addr {address}"));
    assert_eq!(code, 3);
    assert!(err.contains("west/www-data/prod/web"), "the jobs that are there are named: {err}");
}

#[test]
fn a_wrong_file_is_shown_where_it_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.aurora");
    std::fs::write(&file, HELLO.replace("cmdline", "cmdlin")).unwrap();
    let (code, out, err) = run(&format!("job create {KEY} {} --addr {}", file.display(), nowhere()));
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.starts_with("error: ") && err.contains(&format!("{}:2:", file.display())), "{err}");
    assert!(err.contains('^') && err.contains("hint: "), "{err}");
}

#[test]
fn a_job_that_fails_or_waits_too_long_is_no_success() {
    for (status, message, want) in [
        (proto::wire::Status::Failed, "process `hello` ended with 1", 4),
        (proto::wire::Status::Pending, "no host has 9 cpu", 9),
    ] {
        let replica = Replica::getting(move |_| {
            let task = |instance| TaskView {
                instance,
                status: status.into(),
                message: message.into(),
                ..TaskView::default()
            };
            Ok(match status {
                proto::wire::Status::Failed => {
                    GetJobReply { ended: vec![task(0), task(1)], over: 2, ..GetJobReply::default() }
                }
                _ => listing(vec![task(0), task(1)]),
            })
        });
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hello.aurora");
        std::fs::write(&file, HELLO).unwrap();
        let line =
            format!("job create {KEY} {} --wait --timeout 1s --addr {}", file.display(), replica.address);
        let (code, _, err) = run(&line);
        assert_eq!(code, want, "{err}");
        assert!(err.contains(message) && err.contains("exists, but"), "{err}");
    }
}

#[test]
fn dev_refuses_what_it_must_not_touch() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "x").unwrap();
    let (code, _, err) = run(&format!("dev --dir {}", dir.path().display()));
    assert_eq!(code, 6, "{err}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was written");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    if port < 65_400 {
        let (code, _, err) =
            run(&format!("dev --dir {} --base-port {port}", dir.path().join("new").display()));
        assert_eq!(code, 4, "{err}");
        assert!(err.contains(&format!("cannot listen on 127.0.0.1:{port}: the port is in use")), "{err}");
    }
}
