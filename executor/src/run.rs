//! The program: one thread that waits for signals, for the control socket and for time, and does what the graph says.
//!
//! The order of the start matters (see `claim`): read the launch, join the cgroups, claim, and only then anything
//! that can be seen. The end too: a terminal status is written only when no process of the task is left, and this
//! process ends only when that record is on the disk. A task of which at most one copy may live is shut in a pid
//! namespace, and killed with it when its lease is over (see `lease`).

mod detach;
mod journal;
mod lease;
mod logs;
mod server;
mod spawn;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use isolation::Cgroup;
use isolation::user::{self, User};
use proto::TaskId;
use proto::wire::control_request::Body;
use proto::wire::{ControlReply, Launch, ProcessState, Status, TaskSpec};
use rustix::process::Signal;

use crate::checkpoint::is_terminal;
use crate::claim::{self, Claim};
use crate::graph::{Do, Event, Exit, Graph};
use crate::layout::TaskDir;
use crate::template::Values;
use crate::{control, identity, launch, tree};
use detach::Woken;
use journal::Journal;
use lease::Lease;
pub use lease::probe;
use server::Server;
use spawn::{Running, Spawner};

/// Exit code: the task ran, and its checkpoint says how it ended.
pub const EXIT_ENDED: u8 = 0;
/// Exit code: wrong arguments, a launch that cannot be read, a cgroup that cannot be joined. Nothing was claimed.
pub const EXIT_UNPREPARED: u8 = 2;
/// Exit code: somebody else has the claim. Nothing was done.
pub const EXIT_NOT_OURS: u8 = 3;
/// Exit code: claimed, but this process could not be set up. There is no terminal record.
pub const EXIT_BROKEN: u8 = 4;

/// How often outputs are looked at for rotation, where a process asks for it.
const ROTATE_EVERY: Duration = Duration::from_secs(1);
/// How often an unwritten checkpoint record is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether anything is left, besides at every SIGCHLD.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How a task is told that ended with its lease.
const LEASE_IS_OVER: &str = "The task's lease is over: no leader was heard of this host in time, and of this job at most \
    one copy of an instance may live.";

/// Runs the task of a directory to its end; the answer is the exit code.
pub fn run(dir: &Path) -> u8 {
    let (dir, launch) = match prepare(dir) {
        Ok(prepared) => prepared,
        Err(why) => {
            note(format_args!("borealis-executor: {why}"));
            return EXIT_UNPREPARED;
        }
    };
    let me = std::process::id() as i32;
    let claimed = identity::of(me).and_then(|id| Ok((claim::take(&dir, &Claim::Executor(id.clone()))?, id)));
    let identity = match claimed {
        Ok((None, identity)) => identity,
        Ok((Some(_), _)) => return EXIT_NOT_OURS,
        Err(why) => {
            note(format_args!("borealis-executor: cannot claim the task of {}: {why}", dir.root().display()));
            return EXIT_UNPREPARED;
        }
    };
    let ended = detach::detach(&dir.executor_log()).and_then(|signals| {
        let mut journal = Journal::create(&dir.checkpoint())?;
        journal.executor(identity);
        let server = Server::new(control::listen(&dir.control_socket())?);
        Ok((signals, journal, server))
    });
    match ended {
        Ok((signals, journal, server)) => {
            Shell::new(dir, launch, signals, journal, server).run();
            EXIT_ENDED
        }
        Err(why) => {
            note(format_args!("cannot set up in {}: {why}", dir.root().display()));
            EXIT_BROKEN
        }
    }
}

fn prepare(dir: &Path) -> anyhow::Result<(TaskDir, Launch)> {
    let root =
        std::fs::canonicalize(dir).map_err(|e| anyhow::anyhow!("task directory {}: {e}", dir.display()))?;
    let dir = TaskDir::new(root);
    let launch = launch::read(&dir)?;
    Cgroup::from_dirs(&launch.cgroups).join(std::process::id() as i32)?;
    Ok((dir, launch))
}

struct Shell {
    dir: TaskDir,
    cgroup: Cgroup,
    task: TaskSpec,
    signals: detach::Signals,
    journal: Journal,
    server: Server,
    began: Instant,
    running: BTreeMap<i32, Running>,
    /// Of a task of which at most one copy may live.
    lease: Option<Lease>,
    /// Whether the graph knows that the lease is over.
    lapsed: bool,
    /// As the cgroup counted them when it was last asked.
    oom_kills: u64,
    status: Status,
    message: String,
    /// Of the launch, until it is used.
    launch: Launch,
}

impl Shell {
    fn new(
        dir: TaskDir,
        launch: Launch,
        signals: detach::Signals,
        journal: Journal,
        server: Server,
    ) -> Shell {
        let task = launch.config.as_ref().and_then(|config| config.task.clone()).unwrap_or_default();
        Shell {
            cgroup: Cgroup::from_dirs(&launch.cgroups),
            dir,
            task,
            signals,
            journal,
            server,
            began: Instant::now(),
            running: BTreeMap::new(),
            lease: None,
            lapsed: false,
            oom_kills: 0,
            status: Status::Unspecified,
            message: String::new(),
            launch,
        }
    }

    fn run(&mut self) {
        self.say(Status::Starting, String::new());
        match self.begin() {
            Ok((mut graph, spawner)) => {
                self.act(&mut graph, &spawner, Event::Tick { anything_left: true });
                while !graph.has_ended() {
                    self.turn(&mut graph, &spawner);
                }
            }
            Err((status, why)) => self.say(status, why),
        }
        // The disk may be full: the task has ended, and this waits until that can be written.
        while let Err(why) = self.journal.flush() {
            note(format_args!("the end of the task is not written yet, trying again: {why}"));
            self.signals.wait(self.server.descriptors(), Some(WRITE_AGAIN));
            self.serve(None);
        }
        self.server.answer_all(&self.reply());
        let _ = std::fs::remove_file(self.dir.control_socket());
    }

    /// What must be right before anything runs; the error is how the task ends, and why.
    fn begin(&mut self) -> Result<(Graph, Spawner), (Status, String)> {
        let failed = |why| (Status::Failed, why);
        let launch = &self.launch;
        let graph = Graph::new(&self.task).map_err(|why| failed(format!("the task cannot be run: {why}")))?;
        let become_user = rustix::process::geteuid().is_root() && !launch.user.is_empty();
        let user: User = if become_user {
            user::find(&launch.user).map_err(|why| failed(why.to_string()))?
        } else {
            user::current()
        };
        let values = Values {
            ports: launch.ports.iter().map(|port| (port.name.clone(), port.port)).collect(),
            task_id: TaskId(launch.task_id).to_string(),
            user: user.name.clone(),
            instance: launch.instance,
            hostname: launch.hostname.clone(),
        };
        let sandbox = launch::sandbox(&self.dir, launch);
        let leased = launch.config.as_ref().is_some_and(|config| config.at_most_one);
        let spawner =
            Spawner::new(&self.task, &values, sandbox, user, become_user, leased).map_err(failed)?;
        if leased {
            let lost = |why| (Status::Lost, why);
            let lease = Lease::hold(launch.lease_until_boottime_ns).map_err(|why| {
                lost(format!("the host cannot shut the task in a pid namespace, as its job needs: {why}"))
            })?;
            let lease = self.lease.insert(lease);
            if lease.is_over() {
                return Err(lost(format!("{LEASE_IS_OVER} It was not started.")));
            }
        }
        Ok((graph, spawner))
    }

    /// Waits for something and deals with it.
    fn turn(&mut self, graph: &mut Graph, spawner: &Spawner) {
        let mut wait = graph.wake_at_ms().map(|at| Duration::from_millis(at.saturating_sub(self.now_ms())));
        let sooner =
            |wait: &mut Option<Duration>, than: Duration| *wait = Some(wait.map_or(than, |w| w.min(than)));
        if graph.waits_for_the_end() {
            sooner(&mut wait, LOOK_AGAIN);
        }
        if self.running.values().any(Running::rotates) {
            sooner(&mut wait, ROTATE_EVERY);
        }
        if self.journal.is_behind() {
            sooner(&mut wait, WRITE_AGAIN);
        }
        if let Some(left) = self.server.next_deadline() {
            sooner(&mut wait, left);
        }
        if let Some(lease) = self.lease.as_ref().filter(|_| !self.lapsed) {
            sooner(&mut wait, lease.left());
        }
        let woken = self.signals.wait(self.server.descriptors(), wait);
        if woken == Woken::Terminated {
            let reason = "the executor was told to stop (SIGTERM), as when the machine shuts down".to_owned();
            self.act(graph, spawner, Event::Kill { at_once: false, reason });
        }
        self.reap(graph, spawner);
        for kill in self.serve(Some(graph)) {
            self.act(graph, spawner, kill);
        }
        self.running.values_mut().for_each(Running::rotate);
        if self.journal.is_behind()
            && let Err(why) = self.journal.flush()
        {
            note(format_args!("cannot write the checkpoint, trying again: {why}"));
        }
        // As often as it leads somewhere: from stage to stage without a wait.
        loop {
            // What ended since the last look is no longer there, and the graph must hear of it too.
            self.reap(graph, spawner);
            let (ended, waits) = (graph.has_ended(), graph.waits_for_the_end());
            let anything_left = !waits || !self.left().is_empty();
            self.act(graph, spawner, Event::Tick { anything_left });
            if anything_left || ended || !graph.waits_for_the_end() {
                break;
            }
        }
        // The answer to a request is what the request led to.
        self.server.answer(&self.reply());
    }

    /// Gives an event to the graph and does what comes out, and what comes out of that.
    fn act(&mut self, graph: &mut Graph, spawner: &Spawner, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(mut event) = events.pop_front() {
            if let Some(end) = self.lapse() {
                events.push_front(std::mem::replace(&mut event, end));
            }
            for action in graph.step(self.now_ms(), event) {
                match action {
                    Do::Say(status, message) => self.say(status, message),
                    Do::Start { process, run } => events.push_back(self.start(spawner, process, run)),
                    Do::Terminate => tree::signal(&self.left(), Signal::TERM),
                    Do::KillAll => tree::signal(&self.left(), Signal::KILL),
                }
            }
        }
    }

    /// The end of the task, once, when its lease is over. The kernel may have killed its processes already: that is
    /// no failure of theirs, so the graph hears this before their ends.
    fn lapse(&mut self) -> Option<Event> {
        let lease = self.lease.as_ref().filter(|lease| !self.lapsed && lease.is_over())?;
        lease.kill();
        self.lapsed = true;
        Some(Event::Kill { at_once: true, reason: LEASE_IS_OVER.to_owned() })
    }

    fn start(&mut self, spawner: &Spawner, process: usize, run: u32) -> Event {
        let name = &self.task.processes[process].name;
        match spawner.start(process, run) {
            Ok(running) => {
                let pid = running.pid();
                let identity = identity::of(pid).ok();
                self.journal.process(name, run, ProcessState::ProcessRunning, identity, &Exit::Code(0));
                self.running.insert(pid, running);
                Event::Started { process }
            }
            Err(why) => {
                note(format_args!("process {name:?} run {run} could not be started: {why}"));
                let exit = Exit::NotStarted(why);
                self.journal.process(name, run, ProcessState::ProcessFailed, None, &exit);
                Event::Ended { process, exit }
            }
        }
    }

    /// Collects whatever ended: our processes, and orphans of theirs.
    fn reap(&mut self, graph: &mut Graph, spawner: &Spawner) {
        while let Some((pid, mut exit)) = detach::reap_one() {
            if let Some(lease) = self.lease.as_mut().filter(|lease| lease.init() == Some(pid)) {
                lease.init_has_ended();
                // No news if the lease is over. Else somebody killed it, and with it all of the task.
                let reason = "The init of the task's pid namespace was killed.".to_owned();
                self.act(graph, spawner, Event::Kill { at_once: true, reason });
            }
            let Some(mut running) = self.running.remove(&pid) else { continue };
            // 137 is how a shell says that its command died by SIGKILL.
            if matches!(exit, Exit::Signal(libc::SIGKILL) | Exit::Code(137)) {
                let oom_kills = self.cgroup.oom_kills();
                if oom_kills > std::mem::replace(&mut self.oom_kills, oom_kills) {
                    exit = Exit::OutOfMemory;
                }
            }
            running.rotate();
            let name = &self.task.processes[running.process].name;
            let state = match exit {
                Exit::Code(0) => ProcessState::ProcessSuccess,
                Exit::Signal(_) | Exit::OutOfMemory => ProcessState::ProcessKilled,
                _ => ProcessState::ProcessFailed,
            };
            self.journal.process(name, running.run, state, None, &exit);
            self.act(graph, spawner, Event::Ended { process: running.process, exit });
        }
    }

    /// Everything of the task that is there, but us.
    fn left(&self) -> BTreeSet<i32> {
        let me = std::process::id() as i32;
        let mut left = tree::below(me);
        // A zombie is nobody's work any more, and in v1 a cgroup lists those.
        let of_cgroup = self.cgroup.processes().unwrap_or_default().into_iter();
        left.extend(of_cgroup.filter(|pid| identity::Stat::of(*pid).is_ok_and(|stat| !stat.is_zombie())));
        left.remove(&me);
        if let Some(init) = self.lease.as_ref().and_then(Lease::init) {
            left.remove(&init);
        }
        left
    }

    /// Takes requests in; what they ask of the graph comes out. They are answered later.
    fn serve(&mut self, graph: Option<&Graph>) -> Vec<Event> {
        let mut events = Vec::new();
        for request in self.server.requests() {
            match request.body {
                Some(Body::Kill(kill)) if graph.is_some() => {
                    events.push(Event::Kill { at_once: kill.at_once, reason: kill.reason });
                }
                Some(Body::Lease(renewed)) => {
                    if let Some(lease) = &self.lease {
                        lease.renew(renewed.until_boottime_ns);
                    }
                }
                _ => {}
            }
        }
        if graph.is_none() {
            self.server.answer(&self.reply());
        }
        events
    }

    fn reply(&self) -> ControlReply {
        ControlReply { status: self.status.into(), message: self.message.clone() }
    }

    fn say(&mut self, status: Status, message: String) {
        if let Some(lease) = self.lease.as_mut().filter(|_| is_terminal(status)) {
            lease.end();
        }
        note(format_args!("{} {message}", status.as_str_name()));
        self.journal.task(status, &message);
        self.status = status;
        self.message = message;
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// Writes a line to the executor's log. A full disk must not end the executor, as `eprintln!` would.
fn note(words: std::fmt::Arguments<'_>) {
    let at_s =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{at_s} {words}\n").as_bytes());
}
