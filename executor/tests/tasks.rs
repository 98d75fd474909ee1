//! The real program on real processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use executor::checkpoint::{self, Summary};
use executor::claim::{self, Claim};
use executor::layout::{Stream, TaskDir};
use executor::{cleanup, control, identity, launch, records, tree};
use isolation::{Cgroups, Host, Limits};
use prost::Message as _;
use proto::wire::{
    ControlReply, JobKey, Launch, NamedPort, Ordering, Process, ProcessState, Status, TaskConfig, TaskSpec,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a launch, and perhaps its executor; both go at the end.
struct Task {
    dir: TaskDir,
    launch: Launch,
    child: Option<Child>,
    _temp: tempfile::TempDir,
}

fn process(name: &str, cmdline: &str) -> Process {
    Process {
        name: name.into(),
        cmdline: cmdline.into(),
        max_failures: 1,
        min_duration_seconds: 1,
        ..Process::default()
    }
}

fn task(processes: Vec<Process>) -> Task {
    let temp = tempfile::tempdir().unwrap();
    let dir = TaskDir::new(temp.path().join("task"));
    fs::create_dir_all(dir.sandbox()).unwrap();
    let spec = TaskSpec {
        name: "t".into(),
        processes,
        max_failures: 1,
        finalization_wait_seconds: 30,
        ..TaskSpec::default()
    };
    let key = JobKey { cluster: "c".into(), role: "r".into(), environment: "test".into(), name: "j".into() };
    let launch = Launch {
        level: executor::LEVEL,
        task_id: (7 << 40) + u64::from(std::process::id()),
        instance: 3,
        config: Some(TaskConfig { job: Some(key), task: Some(spec), ..TaskConfig::default() }),
        ports: vec![NamedPort { name: "http".into(), port: 31_337 }],
        hostname: "host-1".into(),
        ..Launch::default()
    };
    Task { dir, launch, child: None, _temp: temp }
}

impl Task {
    fn spec(&mut self) -> &mut TaskSpec {
        self.launch.config.as_mut().unwrap().task.as_mut().unwrap()
    }

    fn order(mut self, names: &[&str]) -> Self {
        self.spec().orderings.push(Ordering { processes: names.iter().map(|n| n.to_string()).collect() });
        self
    }

    fn start(&mut self) {
        launch::write(&self.dir, &self.launch).unwrap();
        self.spawn();
    }

    fn spawn(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_borealis-executor"))
            .arg(self.dir.root())
            .env_clear()
            .env("SECRET_OF_THE_AGENT", "1")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    fn summary(&self) -> Summary {
        checkpoint::read(&self.dir).unwrap()
    }

    fn until(&self, what: &str, done: impl Fn(&Summary) -> bool) -> Summary {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let summary = self.summary();
            if done(&summary) {
                return summary;
            }
            let log = fs::read_to_string(self.dir.executor_log()).unwrap_or_default();
            assert!(Instant::now() < deadline, "waited for {what}: {summary:?}\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn until_running(&self, process: &str) -> Summary {
        self.until(process, |s| {
            s.processes.get(process).is_some_and(|p| p.state == ProcessState::ProcessRunning)
        })
    }

    /// Waits until a process has printed a whole line, and returns it.
    fn line(&self, process: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.stdout(process, 0);
            if text.contains('\n') {
                return text.lines().next().unwrap().to_owned();
            }
            assert!(Instant::now() < deadline, "{process} prints nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait(&mut self) -> (ExitStatus, Summary) {
        let deadline = Instant::now() + PATIENCE;
        let child = self.child.as_mut().unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return (status, self.summary());
            }
            assert!(Instant::now() < deadline, "still runs: {:?}", self.summary());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ended(&mut self, status: Status, message: &str) -> Summary {
        let (exit, summary) = self.wait();
        assert_eq!(exit.code(), Some(0));
        assert_eq!((summary.status, summary.message.as_str()), (Some(status), message));
        summary
    }

    fn stdout(&self, process: &str, run: u32) -> String {
        fs::read_to_string(self.dir.log(process, run, Stream::Stdout).unwrap()).unwrap_or_default()
    }

    fn ask(&self, request: &proto::wire::ControlRequest) -> ControlReply {
        control::request(&self.dir.control_socket(), request, PATIENCE).unwrap()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let left = cleanup::kill_leftovers(&self.dir, PATIENCE);
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            assert_eq!(left.unwrap().remaining, [0; 0]);
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn processes_run_in_order() {
    let first = process("first", "sleep 0.3; echo made > file");
    let mut task = task(vec![process("second", "cat file"), first]).order(&["first", "second"]);
    task.start();
    let summary = task.ended(Status::Finished, "");
    assert_eq!(task.stdout("second", 0), "made\n");
    assert_eq!(summary.processes["second"].state, ProcessState::ProcessSuccess);
    assert!(!task.dir.control_socket().exists());
    assert!(!summary.executor_is_alive());
}

#[test]
fn processes_run_at_the_same_time() {
    // Each waits for the other, so they end only if both are there.
    let wait =
        |mine: &str, other: &str| format!("touch {mine}; while ! test -e {other}; do sleep 0.02; done");
    let mut task = task(vec![process("a", &wait("a", "b")), process("b", &wait("b", "a"))]);
    task.start();
    task.ended(Status::Finished, "");
}

#[test]
fn a_failed_process_is_run_again_no_sooner_than_asked() {
    let mut flaky = process("flaky", "date +%s%N; echo x >> runs; test $(wc -l < runs) = 3");
    flaky.max_failures = 3;
    let mut task = task(vec![flaky]);
    task.start();
    let summary = task.ended(Status::Finished, "");
    assert_eq!(summary.processes["flaky"].run, 2);
    let times: Vec<u64> = (0..3).map(|run| task.stdout("flaky", run).trim().parse().unwrap()).collect();
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] >= 1_000_000_000, "{times:?}");
    }
}

#[test]
fn a_task_fails_with_its_process_and_what_runs_is_ended() {
    let mut task =
        task(vec![process("bad", "echo oops >&2; sleep 0.2; exit 7"), process("other", "sleep 600")]);
    task.start();
    let summary = task.ended(Status::Failed, "process \"bad\" exited with code 7");
    assert_eq!(fs::read_to_string(task.dir.log("bad", 0, Stream::Stderr).unwrap()).unwrap(), "oops\n");
    assert_eq!(summary.processes["other"].signal, 15);
    assert!(!identity::is_alive(summary.processes["other"].identity.as_ref().unwrap()));
}

#[test]
fn a_death_by_signal_is_named() {
    let mut task = task(vec![process("crash", "kill -SEGV $$")]);
    task.start();
    task.ended(Status::Failed, "process \"crash\" was killed by signal 11 (SIGSEGV)");
}

#[test]
fn a_kill_escalates_to_everything_the_task_left_anywhere() {
    // Deaf to SIGTERM; with a child that forked twice, has a session of its own, no environment, and is deaf as well.
    let script = "trap '' TERM; \
        (env -i setsid bash -c \"trap '' TERM; echo \\$\\$ > orphan; while :; do sleep 0.1; done\" &) ; \
        while ! test -s orphan; do sleep 0.02; done; echo ready; while :; do sleep 0.1; done";
    let mut task = task(vec![process("deaf", script), process("tidy", "echo tidy")]);
    task.spec().processes[1].r#final = true;
    // Long enough to ask once more meanwhile.
    task.spec().finalization_wait_seconds = 5;
    task.start();
    let summary = task.until_running("deaf");
    assert_eq!(task.line("deaf"), "ready");
    let orphan: i32 = fs::read_to_string(task.dir.sandbox().join("orphan")).unwrap().trim().parse().unwrap();
    let orphan = identity::of(orphan).unwrap();
    assert!(identity::is_alive(&orphan));

    let asked = Instant::now();
    let reply = task.ask(&control::kill("by hand", false));
    assert_eq!((reply.status(), reply.message.as_str()), (Status::Killing, "by hand"));
    assert_eq!(task.ask(&control::ping(Status::Unspecified, Duration::ZERO)).status(), Status::Killing);
    let end = task.ended(Status::Killed, "by hand");
    assert!(asked.elapsed() >= Duration::from_secs(5), "SIGKILL came before the wait was over");
    assert_eq!(end.processes["deaf"].signal, 9);
    assert!(!identity::is_alive(&orphan));
    assert!(!identity::is_alive(summary.processes["deaf"].identity.as_ref().unwrap()));
    assert!(!end.processes.contains_key("tidy"), "no time was left for the final process");
}

#[test]
fn a_polite_kill_lets_processes_and_finals_finish() {
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let mut task = task(vec![process("main", script), process("tidy", "echo tidied")]);
    task.spec().processes[1].r#final = true;
    task.start();
    assert_eq!(task.line("main"), "ready");
    task.ask(&control::kill("update", false));
    task.ended(Status::Killed, "update");
    assert_eq!(task.stdout("main", 0), "ready\nbye\n");
    assert_eq!(task.stdout("tidy", 0), "tidied\n");
}

#[test]
fn a_kill_at_once_does_not_wait() {
    let mut task = task(vec![process("deaf", "trap '' TERM; echo ready; while :; do sleep 0.1; done")]);
    task.spec().finalization_wait_seconds = 600;
    task.start();
    assert_eq!(task.line("deaf"), "ready");
    task.ask(&control::kill("", true));
    task.ended(Status::Killed, "killed");
}

#[test]
fn a_watcher_hears_of_a_change_at_once() {
    let mut task = task(vec![process("main", "sleep 600")]);
    task.start();
    task.until_running("main");
    assert_eq!(
        task.ask(&control::ping(Status::Running, Duration::from_millis(50))).status(),
        Status::Running
    );
    let (_directory, short) = control::short_path(&task.dir.control_socket()).unwrap();
    let mut watcher = std::os::unix::net::UnixStream::connect(short).unwrap();
    watcher.set_read_timeout(Some(PATIENCE)).unwrap();
    let question = control::ping(Status::Running, Duration::from_secs(600)).encode_to_vec();
    records::write_frame(&mut watcher, &question).unwrap();
    task.ask(&control::kill("enough", false));
    let answer = records::read_frame(&mut watcher, control::MESSAGE_BYTES_MAX).unwrap();
    assert_eq!(ControlReply::decode(&answer[..]).unwrap().status(), Status::Killing);
    task.ended(Status::Killed, "enough");
}

#[test]
fn nonsense_on_the_control_socket_is_survived() {
    let mut task = task(vec![process("main", "sleep 600")]);
    task.start();
    task.until_running("main");
    let mut open = Vec::new();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF, 0xB0], &[0xFF; 2000], &records::frame(&[0xFF; 40])]
    {
        let (_directory, short) = control::short_path(&task.dir.control_socket()).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(short).unwrap();
        let _ = std::io::Write::write_all(&mut stream, bytes);
        open.push(stream);
    }
    assert_eq!(task.ask(&control::ping(Status::Unspecified, Duration::ZERO)).status(), Status::Running);
    task.ask(&control::kill("", false));
    task.ended(Status::Killed, "killed");
}

#[test]
fn whoever_claims_first_decides() {
    let mut late = task(vec![process("main", "touch ran")]);
    launch::write(&late.dir, &late.launch).unwrap();
    assert_eq!(claim::take(&late.dir, &Claim::Abandoned).unwrap(), None);
    late.spawn();
    let (exit, summary) = late.wait();
    assert_eq!(exit.code(), Some(3));
    assert_eq!(summary, Summary::default());
    assert!(!late.dir.checkpoint().exists() && !late.dir.executor_log().exists());
    assert!(!late.dir.sandbox().join("ran").exists());

    let mut early = task(vec![process("main", "sleep 600")]);
    early.start();
    let summary = early.until_running("main");
    let holder = claim::take(&early.dir, &Claim::Abandoned).unwrap();
    assert_eq!(holder, summary.executor.map(Claim::Executor));
    // A second executor of the same directory leaves the first alone.
    let second =
        Command::new(env!("CARGO_BIN_EXE_borealis-executor")).arg(early.dir.root()).status().unwrap();
    assert_eq!(second.code(), Some(3));
    assert_eq!(early.ask(&control::ping(Status::Unspecified, Duration::ZERO)).status(), Status::Running);
}

#[test]
fn what_cannot_be_read_is_said_and_nothing_is_claimed() {
    let mut broken = task(vec![process("main", "touch ran")]);
    launch::write(&broken.dir, &broken.launch).unwrap();
    let bytes = fs::read(broken.dir.launch()).unwrap();
    for cut in [0, 5, bytes.len() - 1] {
        fs::write(broken.dir.launch(), &bytes[..cut]).unwrap();
        broken.spawn();
        assert_eq!(broken.wait().0.code(), Some(2), "cut {cut}");
        assert!(!broken.dir.claim().exists());
    }
    broken.launch.level = executor::LEVEL + 1;
    broken.start();
    assert_eq!(broken.wait().0.code(), Some(2));
    broken.launch.level = executor::LEVEL;
    broken.launch.cgroups = vec!["/no/such/cgroup".into()];
    broken.start();
    assert_eq!(broken.wait().0.code(), Some(2));
    assert!(!broken.dir.claim().exists());
    broken.launch.cgroups.clear();
    launch::write(&broken.dir, &broken.launch).unwrap();
}

#[test]
fn a_torn_checkpoint_is_read_as_far_as_it_is_whole() {
    let mut task = task(vec![process("main", "exit 3")]);
    task.start();
    let whole = task.ended(Status::Failed, "process \"main\" exited with code 3");
    let bytes = fs::read(task.dir.checkpoint()).unwrap();
    fs::write(task.dir.checkpoint(), &bytes[..bytes.len() - 1]).unwrap();
    let torn = task.summary();
    assert!(torn.torn_bytes > 0);
    assert_eq!(torn.status, Some(Status::Running));
    assert_eq!(torn.processes, whole.processes);
    let mut bad = bytes.clone();
    bad[20] ^= 1;
    fs::write(task.dir.checkpoint(), &bad).unwrap();
    assert!(matches!(checkpoint::read(&task.dir), Err(records::Error::Corrupt(_))));
    fs::write(task.dir.checkpoint(), &bytes).unwrap();
}

#[test]
fn what_a_process_is_given() {
    let script = "echo {{thermos.ports[http]}} {{mesos.instance}} {{mesos.hostname}} {{thermos.task_id}}; pwd; env; \
        ps -o sid= -p $$ | tr -d ' '; echo $$; ls /proc/self/fd | wc -l; grep NoNewPrivs /proc/self/status";
    let mut task = task(vec![process("main", script)]);
    task.start();
    task.ended(Status::Finished, "");
    let id = proto::TaskId(task.launch.task_id).to_string();
    let text = task.stdout("main", 0);
    let lines: Vec<&str> = text.lines().collect();
    let sandbox = fs::canonicalize(task.dir.sandbox()).unwrap();
    assert_eq!(lines[0], format!("31337 3 host-1 {id}"));
    assert_eq!(Path::new(lines[1]), sandbox);
    let environment: BTreeMap<&str, &str> = lines.iter().filter_map(|line| line.split_once('=')).collect();
    let names: Vec<&str> =
        environment.keys().copied().filter(|n| !["_", "SHLVL", "PWD", "OLDPWD"].contains(n)).collect();
    let want = [
        "BOREALIS_INSTANCE",
        "BOREALIS_PORT_HTTP",
        "BOREALIS_SANDBOX",
        "BOREALIS_TASK_ID",
        "HOME",
        "LOGNAME",
        "PATH",
        "USER",
    ];
    assert_eq!(names, want);
    assert_eq!(Path::new(environment["HOME"]), sandbox);
    let [.., sid, pid, descriptors, privileges] = lines[..] else { panic!("{text}") };
    assert_eq!(sid, pid, "it leads a session");
    assert_eq!(descriptors, "4", "stdin, stdout, stderr, and the one that ls looks with");
    assert_eq!(privileges, "NoNewPrivs:\t1");
}

#[test]
fn a_port_that_the_task_does_not_have_fails_it() {
    let mut task = task(vec![process("main", "serve {{thermos.ports[web]}}")]);
    task.start();
    task.ended(
        Status::Failed,
        "process \"main\": `{{thermos.ports[web]}}` is no port of this task; it has http",
    );
}

#[test]
fn a_task_that_makes_no_sense_fails() {
    let mut task = task(vec![process("../../escape", "true")]);
    task.start();
    task.ended(Status::Failed, "the task cannot be run: `process \"../../escape\"` begins with a dot");
}

#[test]
fn an_unknown_user_fails_the_task_and_a_known_one_runs_it() {
    let mut unknown = task(vec![process("main", "touch ran")]);
    unknown.launch.user = "no-such-role".into();
    unknown.start();
    if !is_root() {
        // Without root there is one user for all roles.
        unknown.ended(Status::Finished, "");
        return;
    }
    unknown.ended(
        Status::Failed,
        "there is no unix user \"no-such-role\" on this host; create it, or use a role that is a user here",
    );
    assert!(!unknown.dir.sandbox().join("ran").exists());

    let script = "id -un; id -Gn; echo $USER; touch mine; echo again >> /dev/stdout; grep -E 'Cap(Prm|Bnd)' /proc/self/status";
    let mut known = task(vec![process("main", script)]);
    known.launch.user = "nobody".into();
    known.start();
    known.ended(Status::Finished, "");
    let text = known.stdout("main", 0);
    let none = "0000000000000000";
    assert_eq!(text, format!("nobody\nnogroup\nnobody\nagain\nCapPrm:\t{none}\nCapBnd:\t{none}\n"));
}

#[test]
fn a_link_in_the_sandbox_does_not_lead_the_logs_elsewhere() {
    let mut task = task(vec![process("main", "true")]);
    let elsewhere = task.dir.root().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, task.dir.logs()).unwrap();
    task.start();
    let (_, summary) = task.wait();
    assert_eq!(summary.status, Some(Status::Failed));
    assert!(summary.message.contains("cannot make its output files"), "{}", summary.message);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn outputs_are_rotated() {
    let mut task = task(vec![process("main", "")]);
    let stdout = task.dir.log("main", 0, Stream::Stdout).unwrap();
    // Until it was rotated twice, and then as much as must be rotated once more.
    let main = &mut task.spec().processes[0];
    main.cmdline = format!(
        "until test -e {}.2; do head -c 10000 /dev/zero | tr '\\0' x; sleep 0.1; done; head -c 60000 /dev/zero | tr '\\0' x",
        stdout.display()
    );
    main.log_rotate_bytes = 50_000;
    main.log_backups = 2;
    task.start();
    task.ended(Status::Finished, "");
    let size =
        |suffix: &str| fs::metadata(format!("{}{suffix}", stdout.display())).map(|data| data.len()).ok();
    assert!(size("").unwrap() <= 50_000);
    assert!(size(".1").unwrap() > 50_000 && size(".2").unwrap() > 50_000);
    assert_eq!(size(".3"), None);
}

#[test]
fn what_a_dead_executor_left_is_found_and_killed() {
    let script = "(env -i setsid sleep 601 &) ; (setsid sleep 602 &) ; sleep 603 & echo ready; wait";
    let host = Host::detect();
    let cgroups = Cgroups::new(&host, &format!("borealis-test-{}", std::process::id())).unwrap();
    for cgroups in [None, cgroups] {
        // Without a cgroup, what hides session and environment is not found.
        let hidden = cgroups.is_some();
        let script = if hidden { script } else { &script[script.find(';').unwrap() + 1..] };
        let mut task = task(vec![process("main", script)]);
        let cgroup = cgroups.as_ref().map(|cgroups| cgroups.create("task-7-1", &Limits::default()).unwrap());
        if let Some(cgroup) = &cgroup {
            task.launch.cgroups = cgroup.dirs().iter().map(|dir| dir.display().to_string()).collect();
        }
        task.start();
        assert_eq!(task.line("main"), "ready");
        let summary = task.until_running("main");
        let executor = task.child.as_ref().unwrap().id() as i32;
        let deadline = Instant::now() + PATIENCE;
        let sleeps = loop {
            let below = tree::below(executor);
            let names =
                below.iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
            let sleeping = names.filter(|name| name == "sleep\n").count();
            if sleeping == 2 + usize::from(hidden) {
                break below.into_iter().map(|pid| identity::of(pid).unwrap()).collect::<Vec<_>>();
            }
            assert!(Instant::now() < deadline, "{below:?}");
        };
        let child = task.child.as_mut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!summary.executor_is_alive());
        assert!(!task.summary().is_terminal());
        assert!(sleeps.iter().any(identity::is_alive));

        let left = cleanup::kill_leftovers(&task.dir, PATIENCE).unwrap();
        assert_eq!(left.remaining, [0; 0]);
        assert!(left.killed.len() >= sleeps.len() - 1, "{left:?} of {sleeps:?}");
        assert!(!sleeps.iter().any(identity::is_alive));
        assert_eq!(cleanup::kill_leftovers(&task.dir, PATIENCE).unwrap(), cleanup::Leftovers::default());
        if let Some(cgroup) = cgroup {
            cgroup.remove().unwrap();
        }
        if let Some(cgroups) = cgroups {
            cgroups.remove().unwrap();
        }
    }
}

#[test]
fn a_task_that_uses_all_its_memory_fails_and_says_so() {
    let host = Host::detect();
    if !host.words().iter().any(|word| word == "memory") {
        println!("skipped: this host cannot limit memory");
        return;
    }
    let cgroups = Cgroups::new(&host, &format!("borealis-test-oom-{}", std::process::id())).unwrap().unwrap();
    let cgroup = cgroups.create("task-7-2", &Limits { ram_mib: 24, ..Limits::default() }).unwrap();
    let mut task = task(vec![process("hog", "x=$(head -c 200000000 /dev/zero | tr '\\0' x)")]);
    task.launch.cgroups = cgroup.dirs().iter().map(|dir| dir.display().to_string()).collect();
    task.start();
    let summary = task.ended(
        Status::Failed,
        "process \"hog\" was killed by the kernel, since the task had used all its memory",
    );
    assert_eq!(summary.processes["hog"].signal, 9);
    cgroup.remove().unwrap();
    cgroups.remove().unwrap();
}

#[test]
fn sigterm_ends_the_task_as_a_kill_does_and_sighup_does_nothing() {
    let mut task = task(vec![process("main", "sleep 600")]);
    task.start();
    task.until_running("main");
    let pid = rustix::process::Pid::from_child(task.child.as_ref().unwrap());
    for signal in [rustix::process::Signal::HUP, rustix::process::Signal::INT] {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    assert_eq!(task.ask(&control::ping(Status::Unspecified, Duration::ZERO)).status(), Status::Running);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    task.ended(Status::Killed, "the executor was told to stop (SIGTERM), as when the machine shuts down");
}

#[test]
fn an_idle_executor_is_small_and_sleeps() {
    for lease in [None, Some(Duration::from_secs(600))] {
        if lease.is_some() && !can_shut_in() {
            return;
        }
        let processes = vec![process("main", "sleep 600")];
        let mut task =
            lease.map_or_else(|| task(processes.clone()), |lease| leased(processes.clone(), lease));
        task.start();
        let summary = task.until_running("main");
        task.ask(&control::ping(Status::Unspecified, Duration::ZERO));
        let mut pids = vec![task.child.as_ref().unwrap().id() as i32];
        if lease.is_some() {
            let main = summary.processes["main"].identity.clone().unwrap().pid;
            let init =
                shut_in(&summary, "main").into_iter().map(|process| process.pid).find(|pid| *pid != main);
            pids.push(init.unwrap());
        }
        for pid in pids {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
            let (status, sums) = (read("status"), read("smaps_rollup"));
            let field = |text: &str, name: &str| {
                text.lines().find(|line| line.starts_with(name)).unwrap_or_default().replace(' ', "")
            };
            let private = ["Pss:", "Private_Clean:", "Private_Dirty:"].map(|name| field(&sums, name));
            println!("{} {} {}", field(&status, "Name"), field(&status, "VmRSS"), private.join(" "));
            assert!(field(&status, "Threads").ends_with("\t1"));
            assert!(field(&status, "VmRSS").starts_with("VmRSS:"));
        }
    }
}

/// Deaf to SIGTERM; with a grandchild that has a session of its own, no environment, and is deaf as well.
const HARD_TO_KILL: &str = "trap '' TERM; \
    (env -i setsid bash -c \"trap '' TERM; echo > orphan; while :; do sleep 0.1; done\" &) ; \
    while ! test -e orphan; do sleep 0.02; done; echo ready; while :; do sleep 0.1; done";
/// What is asked of a lease: after it has ended, nothing lives longer than this. The agent counts on it (`KILL_MS`).
const KILLED_WITHIN: Duration = Duration::from_secs(4);
/// A lease within which a task surely begins.
const LEASE: Duration = Duration::from_secs(6);

fn boottime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A task of which at most one copy may live, with so much of a lease.
fn leased(processes: Vec<Process>, lease: Duration) -> Task {
    let mut task = task(processes);
    task.launch.config.as_mut().unwrap().at_most_one = true;
    task.launch.lease_until_boottime_ns = (boottime() + lease).as_nanos() as u64;
    task
}

fn pid_namespace(pid: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Everything in the pid namespace of a task's process, and nothing else. It must be another than ours.
fn shut_in(summary: &Summary, process: &str) -> Vec<identity::ProcessIdentity> {
    let pid = summary.processes[process].identity.as_ref().unwrap().pid;
    let theirs = pid_namespace(&pid.to_string());
    assert!(theirs.is_some() && theirs != pid_namespace("self"));
    let all = identity::all().unwrap().into_iter().map(|stat| stat.pid);
    let inside = all.filter(|pid| pid_namespace(&pid.to_string()) == theirs);
    inside.filter_map(|pid| identity::of(pid).ok()).collect()
}

fn until_gone(processes: &[identity::ProcessIdentity], deadline: Duration) {
    while processes.iter().any(identity::is_alive) {
        assert!(boottime() < deadline, "still alive: {processes:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn can_shut_in() -> bool {
    let probe = Command::new(env!("CARGO_BIN_EXE_borealis-executor")).arg("--probe").output().unwrap();
    println!("{}", String::from_utf8_lossy(&probe.stderr));
    assert!(probe.status.success() || !is_root() || !probe.stderr.is_empty());
    probe.status.success()
}

#[test]
fn a_lease_that_ends_takes_all_of_the_task_with_it() {
    if !can_shut_in() {
        return;
    }
    let processes =
        vec![process("deaf", HARD_TO_KILL), process("again", "exit 1"), process("tidy", "echo tidy")];
    let mut task = leased(processes, LEASE);
    task.spec().processes[1].max_failures = 0;
    task.spec().processes[2].r#final = true;
    let end = Duration::from_nanos(task.launch.lease_until_boottime_ns);
    task.start();
    let summary = task.until_running("deaf");
    assert_eq!(task.line("deaf"), "ready");
    let inside = shut_in(&summary, "deaf");
    assert!(inside.len() >= 3, "init, shell and orphan at least: {inside:?}");
    assert!(inside.iter().all(identity::is_alive) && boottime() < end);
    until_gone(&inside, end + KILLED_WITHIN);
    assert!(boottime() >= end, "killed before its lease was over");
    let (exit, summary) = task.wait();
    assert_eq!((exit.code(), summary.status), (Some(0), Some(Status::Killed)));
    assert!(summary.message.starts_with("The task's lease is over: no leader"), "{}", summary.message);
    assert!(!summary.processes.contains_key("tidy"), "no time was left for the final process");
    assert!(boottime() < end + KILLED_WITHIN, "the executor said it late");
}

#[test]
fn a_lease_ends_although_the_executor_is_stopped() {
    if !can_shut_in() {
        return;
    }
    let mut task = leased(vec![process("deaf", HARD_TO_KILL)], LEASE);
    let end = Duration::from_nanos(task.launch.lease_until_boottime_ns);
    task.start();
    let summary = task.until_running("deaf");
    assert_eq!(task.line("deaf"), "ready");
    let inside = shut_in(&summary, "deaf");
    let executor = rustix::process::Pid::from_child(task.child.as_ref().unwrap());
    rustix::process::kill_process(executor, rustix::process::Signal::STOP).unwrap();
    // The init waits for those that a stopped executor cannot collect: it is dead when it takes no memory any more.
    let dead = |process: &identity::ProcessIdentity| {
        fs::read_to_string(format!("/proc/{}/statm", process.pid)).map_or(true, |text| text.starts_with("0 "))
    };
    while !inside.iter().all(dead) {
        assert!(boottime() < end + KILLED_WITHIN, "still alive: {inside:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(boottime() >= end);
    rustix::process::kill_process(executor, rustix::process::Signal::CONT).unwrap();
    assert_eq!(task.wait().1.status, Some(Status::Killed));
}

#[test]
fn what_is_shut_in_dies_with_its_executor_and_with_its_init() {
    if !can_shut_in() {
        return;
    }
    for victim in ["executor", "init"] {
        let mut task = leased(vec![process("deaf", HARD_TO_KILL)], Duration::from_secs(600));
        task.start();
        let summary = task.until_running("deaf");
        assert_eq!(task.line("deaf"), "ready");
        let inside = shut_in(&summary, "deaf");
        let executor = task.child.as_ref().unwrap().id() as i32;
        let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let init = inside.iter().find(|process| name(process.pid).trim() == "borealis-init").unwrap();
        let pid = if victim == "init" { init.pid } else { executor };
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until_gone(&inside, boottime() + PATIENCE);
        let (_, summary) = task.wait();
        assert_eq!(summary.is_terminal(), victim == "init", "{summary:?}");
    }
}

#[test]
fn a_lease_goes_on_while_it_is_renewed_and_no_longer() {
    if !can_shut_in() {
        return;
    }
    let mut task = leased(vec![process("main", "sleep 600")], LEASE);
    let first = Duration::from_nanos(task.launch.lease_until_boottime_ns);
    task.start();
    let summary = task.until_running("main");
    let inside = shut_in(&summary, "main");
    let mut until = first;
    while boottime() < first + Duration::from_secs(1) {
        until = boottime() + LEASE;
        control::tell(&task.dir.control_socket(), &control::lease(until.as_nanos() as u64)).unwrap();
        // One that comes late takes nothing back.
        control::tell(&task.dir.control_socket(), &control::lease(1)).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(inside.iter().all(identity::is_alive), "{:?}", task.summary());
    until_gone(&inside, until + KILLED_WITHIN);
    assert!(boottime() >= until);
    assert_eq!(task.wait().1.status, Some(Status::Killed));
}

#[test]
fn a_task_whose_lease_is_over_before_it_begins_is_not_started() {
    if !can_shut_in() {
        return;
    }
    for missing in [false, true] {
        let mut task = leased(vec![process("main", "touch began")], Duration::ZERO);
        if missing {
            task.launch.lease_until_boottime_ns = 0;
        }
        task.start();
        let (_, summary) = task.wait();
        assert_eq!(summary.status, Some(Status::Lost));
        assert!(summary.message.ends_with("It was not started."), "{}", summary.message);
        assert!(summary.processes.is_empty() && !task.dir.sandbox().join("began").exists());
    }
}

#[test]
fn a_task_that_is_shut_in_ends_by_itself_as_any_other_and_sees_itself() {
    if !can_shut_in() {
        return;
    }
    let script = "(sleep 0.1 &); read -r stat < /proc/self/stat; echo $$ ${stat%% *} $(ls -d /proc/1 /proc/$$) $PWD $BOREALIS_TASK_ID";
    let mut task =
        leased(vec![process("first", script), process("then", "exit 0")], Duration::from_secs(600))
            .order(&["first", "then"]);
    task.start();
    task.ended(Status::Finished, "");
    let line = task.stdout("first", 0);
    let words: Vec<&str> = line.split_whitespace().collect();
    let id = proto::TaskId(task.launch.task_id).to_string();
    assert_eq!(words[0], words[1], "the shell's number is the same in /proc: {line}");
    assert_eq!(
        words[2..],
        ["/proc/1", &format!("/proc/{}", words[0]), task.dir.sandbox().to_str().unwrap(), &id]
    );
}
