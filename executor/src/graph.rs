//! PURE. The process graph of one task: what to start, what to kill, and how the task ends.
//!
//! [`Graph::step`] takes an event and the time and returns what to do; [`Graph::wake_at_ms`] says when to come back
//! though nothing happens. The shell (`run/`) does it. No clock, no process, no file here.
//!
//! A task goes through stages, each at most once and in this order:
//! 1. *Active*: the regular processes run. It ends when they have all ended, when too many have failed, when what is
//!    left can never start, or when the task is killed. How the task ends is decided here, but for failed finals.
//! 2. *Cleaning*: what still runs gets SIGTERM.
//! 3. *Finalizing*: the `final` processes run. Cleaning and this share the finalization wait.
//! 4. *Killing*: what is left gets SIGKILL, again and again, until nothing is left.
//! 5. *Ended*.
//!
//! Thermos' rules, with two differences. A run that died by a signal which we did not send counts as a failed run:
//! Thermos reruns it for ever in place, so a program that crashes by SIGSEGV or is killed for want of memory would
//! never show as a failed task. And between two runs of one process there is always a short wait, even when
//! `min_duration` is 0.

use std::collections::{BTreeMap, BTreeSet};

use proto::BadField;
use proto::wire::{Status, TaskSpec};

use crate::layout::check_process_name;

/// Shortest wait between the end of a run and the next run of the same process.
pub const RERUN_WAIT_MS_MIN: u64 = 100;
/// How often SIGKILL is sent again while something is left.
pub const KILL_AGAIN_MS: u64 = 50;
/// Most processes of one task.
pub const PROCESSES_MAX: usize = 1_000;

/// How one run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// By the kernel, since the task had used all its memory.
    OutOfMemory,
    /// It was never there: why.
    NotStarted(String),
}

impl Exit {
    fn is_success(&self) -> bool {
        *self == Exit::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal(signal) => write!(f, "was killed by signal {signal}{}", signal_name(*signal)),
            Exit::OutOfMemory => {
                write!(f, "was killed by the kernel, since the task had used all its memory")
            }
            Exit::NotStarted(why) => write!(f, "could not be started: {why}"),
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU)",
        25 => " (SIGXFSZ)",
        31 => " (SIGSYS)",
        _ => "",
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first one, and whenever time has passed.
    Tick {
        /// Whether any process of the task exists, whoever its parent is. Needed in Cleaning and Killing only.
        anything_left: bool,
    },
    /// The run of a process that was asked for is there.
    Started {
        /// Index in the task.
        process: usize,
    },
    /// A run ended, or could not begin.
    Ended {
        /// Index in the task.
        process: usize,
        /// How.
        exit: Exit,
    },
    /// Somebody wants the task to end.
    Kill {
        /// With SIGKILL, and without the final processes.
        at_once: bool,
        /// For the message.
        reason: String,
    },
}

/// What to do now, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Write this status. A terminal one comes last, when nothing is left.
    Say(Status, String),
    /// Start a run and answer with `Started` or `Ended`.
    Start {
        /// Index in the task.
        process: usize,
        /// Counts from 0.
        run: u32,
    },
    /// SIGTERM to everything of the task.
    Terminate,
    /// SIGKILL to everything of the task.
    KillAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Active,
    Cleaning,
    Finalizing,
    Killing,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Since always or after a run; may run (again) at this time.
    Waiting {
        not_before_ms: u64,
    },
    Running,
    /// Succeeded, or was an ephemeral that failed for good: what comes after it may run.
    Done,
    /// For good.
    Failed,
}

#[derive(Clone, Debug)]
struct Process {
    name: String,
    after: BTreeSet<usize>,
    max_failures: u32,
    daemon: bool,
    ephemeral: bool,
    is_final: bool,
    rerun_wait_ms: u64,
    state: State,
    /// Runs begun.
    runs: u32,
    failures: u32,
    last: Option<Exit>,
}

/// The graph with its present state.
#[derive(Clone, Debug)]
pub struct Graph {
    processes: Vec<Process>,
    max_failures: u32,
    max_concurrency: usize,
    finalization_wait_ms: u64,
    stage: Stage,
    /// Of Cleaning and Finalizing together; in Killing, of the next SIGKILL.
    deadline_ms: u64,
    /// Decided when Active ends.
    outcome: Option<(Status, String)>,
    said_running: bool,
}

impl Graph {
    /// Checks the task and makes its graph: names once each and fit for a directory; orderings among processes that
    /// exist, of one kind (regular or final), without a circle; nothing after a daemon, since it never succeeds for
    /// good; only ephemerals after an ephemeral, since the task does not wait for it.
    pub fn new(task: &TaskSpec) -> Result<Graph, BadField> {
        if task.processes.is_empty() || task.processes.len() > PROCESSES_MAX {
            let count = task.processes.len();
            return Err(BadField::new(
                "processes",
                format!("has {count} entries; a task has 1 to {PROCESSES_MAX}"),
            ));
        }
        let mut index = BTreeMap::new();
        let mut processes = Vec::new();
        for (at, process) in task.processes.iter().enumerate() {
            check_process_name(&process.name)?;
            if index.insert(process.name.as_str(), at).is_some() {
                return Err(BadField::new(format!("process {:?}", process.name), "is there twice"));
            }
            processes.push(Process {
                name: process.name.clone(),
                after: BTreeSet::new(),
                max_failures: process.max_failures,
                daemon: process.daemon,
                ephemeral: process.ephemeral,
                is_final: process.r#final,
                rerun_wait_ms: (u64::from(process.min_duration_seconds) * 1000).max(RERUN_WAIT_MS_MIN),
                state: State::Waiting { not_before_ms: 0 },
                runs: 0,
                failures: 0,
                last: None,
            });
        }
        for ordering in &task.orderings {
            for pair in ordering.processes.windows(2) {
                let find = |name: &String| {
                    let missing =
                        || BadField::new("orderings", format!("names {name:?}, which is no process"));
                    index.get(name.as_str()).copied().ok_or_else(missing)
                };
                let (first, then) = (find(&pair[0])?, find(&pair[1])?);
                check_pair(&processes[first], &processes[then])?;
                processes[then].after.insert(first);
            }
        }
        check_circles(&processes)?;
        Ok(Graph {
            processes,
            max_failures: task.max_failures,
            max_concurrency: if task.max_concurrency == 0 {
                usize::MAX
            } else {
                task.max_concurrency as usize
            },
            finalization_wait_ms: u64::from(task.finalization_wait_seconds) * 1000,
            stage: Stage::Active,
            deadline_ms: 0,
            outcome: None,
            said_running: false,
        })
    }

    /// Takes an event in and says what to do. `now_ms` is of any clock that only grows.
    pub fn step(&mut self, now_ms: u64, event: Event) -> Vec<Do> {
        let mut out = Vec::new();
        let mut anything_left = None;
        match event {
            Event::Tick { anything_left: left } => anything_left = Some(left),
            Event::Started { .. } if !self.said_running => {
                self.said_running = true;
                if self.stage == Stage::Active {
                    out.push(Do::Say(Status::Running, String::new()));
                }
            }
            Event::Started { .. } => {}
            Event::Ended { process, exit } => self.ended(process, exit, now_ms),
            Event::Kill { at_once, reason } => self.kill(at_once, reason, now_ms, &mut out),
        }
        // Each stage may lead to the next within one step.
        if self.stage == Stage::Active {
            match self.verdict(false) {
                Some(outcome) => {
                    self.outcome = Some(outcome);
                    self.clean(now_ms, &mut out);
                }
                None => self.start_what_may(false, now_ms, &mut out),
            }
        }
        if self.stage == Stage::Cleaning {
            if now_ms >= self.deadline_ms {
                self.begin_killing(now_ms);
            } else if anything_left == Some(false) && !self.any_running() {
                self.stage = Stage::Finalizing;
            }
        }
        if self.stage == Stage::Finalizing {
            if now_ms >= self.deadline_ms {
                self.begin_killing(now_ms);
            } else if self.verdict(true).is_some() {
                self.judge_finals();
                self.begin_killing(now_ms);
            } else {
                self.start_what_may(true, now_ms, &mut out);
            }
        }
        if self.stage == Stage::Killing {
            if anything_left == Some(false) && !self.any_running() {
                self.stage = Stage::Ended;
                let (status, message) = self.outcome.clone().unwrap_or((Status::Lost, "no outcome".into()));
                out.push(Do::Say(status, message));
            } else if now_ms >= self.deadline_ms {
                self.deadline_ms = now_ms + KILL_AGAIN_MS;
                out.push(Do::KillAll);
            }
        }
        out
    }

    /// When to give the next `Tick`, if nothing happens before; `None` = only an event can change anything.
    pub fn wake_at_ms(&self) -> Option<u64> {
        let rerun = |finals| {
            let waits = self.candidates(finals).filter_map(|p| match p.state {
                State::Waiting { not_before_ms } => Some(not_before_ms),
                _ => None,
            });
            if self.running() < self.max_concurrency { waits.min() } else { None }
        };
        match self.stage {
            Stage::Active => rerun(false),
            Stage::Finalizing => Some(rerun(true).map_or(self.deadline_ms, |at| at.min(self.deadline_ms))),
            Stage::Cleaning | Stage::Killing => Some(self.deadline_ms),
            Stage::Ended => None,
        }
    }

    /// Whether the next thing waits for everything of the task to be gone: then somebody must look often.
    pub fn waits_for_the_end(&self) -> bool {
        matches!(self.stage, Stage::Cleaning | Stage::Killing)
    }

    /// Whether the terminal status has been said.
    pub fn has_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    fn ended(&mut self, process: usize, exit: Exit, now_ms: u64) {
        let Some(process) = self.processes.get_mut(process) else { return };
        if process.state != State::Running {
            return;
        }
        // A regular process that ends after Active was told to; it is not judged.
        let judged = match self.stage {
            Stage::Active => !process.is_final,
            Stage::Finalizing => process.is_final,
            _ => false,
        };
        let again = State::Waiting { not_before_ms: now_ms + process.rerun_wait_ms };
        process.state = if !judged || (exit.is_success() && !process.daemon) {
            State::Done
        } else if exit.is_success() {
            again
        } else {
            process.failures += 1;
            if process.max_failures == 0 || process.failures < process.max_failures {
                again
            } else if process.ephemeral {
                State::Done
            } else {
                State::Failed
            }
        };
        process.last = Some(exit);
    }

    fn kill(&mut self, at_once: bool, reason: String, now_ms: u64, out: &mut Vec<Do>) {
        if self.stage == Stage::Active {
            let message = if reason.is_empty() { "killed".to_owned() } else { reason };
            out.push(Do::Say(Status::Killing, message.clone()));
            self.outcome = Some((Status::Killed, message));
            self.clean(now_ms, out);
        }
        if at_once && matches!(self.stage, Stage::Cleaning | Stage::Finalizing) {
            // No need to be polite first.
            out.retain(|action| *action != Do::Terminate);
            self.begin_killing(now_ms);
        }
    }

    fn clean(&mut self, now_ms: u64, out: &mut Vec<Do>) {
        self.stage = Stage::Cleaning;
        self.deadline_ms = now_ms.saturating_add(self.finalization_wait_ms);
        out.push(Do::Terminate);
    }

    fn begin_killing(&mut self, now_ms: u64) {
        self.stage = Stage::Killing;
        self.deadline_ms = now_ms;
    }

    fn any_running(&self) -> bool {
        self.running() > 0
    }

    fn running(&self) -> usize {
        self.processes.iter().filter(|p| p.state == State::Running).count()
    }

    /// Processes of a kind that wait, and that nothing but time and room keeps from running.
    fn candidates(&self, finals: bool) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |p| p.is_final == finals && self.may_run(p))
    }

    fn may_run(&self, process: &Process) -> bool {
        matches!(process.state, State::Waiting { .. })
            && process.after.iter().all(|before| self.processes[*before].state == State::Done)
    }

    fn start_what_may(&mut self, finals: bool, now_ms: u64, out: &mut Vec<Do>) {
        let mut room = self.max_concurrency.saturating_sub(self.running());
        for at in 0..self.processes.len() {
            let process = &self.processes[at];
            let due = matches!(process.state, State::Waiting { not_before_ms } if not_before_ms <= now_ms);
            if room > 0 && due && process.is_final == finals && self.may_run(process) {
                room -= 1;
                let process = &mut self.processes[at];
                process.state = State::Running;
                out.push(Do::Start { process: at, run: process.runs });
                process.runs += 1;
            }
        }
    }

    /// How the processes of one kind have ended together, if they have. Finals run to their end even if the task has
    /// failed already.
    fn verdict(&self, finals: bool) -> Option<(Status, String)> {
        let too_many = self.too_many_failed();
        if too_many && !finals {
            return Some((Status::Failed, self.why_failed()));
        }
        let mut of_kind = self.processes.iter().filter(|p| p.is_final == finals);
        if of_kind.all(|p| p.ephemeral || p.is_over()) {
            let failed = (Status::Failed, self.why_failed());
            return Some(if too_many { failed } else { (Status::Finished, String::new()) });
        }
        let stuck = !self.any_running() && self.candidates(finals).next().is_none();
        stuck.then(|| {
            let left = self.processes.iter().find(|p| p.is_final == finals && !p.ephemeral && !p.is_over());
            let left = left.map_or("", |p| p.name.as_str());
            (Status::Failed, format!("process {left:?} can never start: {}", self.why_failed()))
        })
    }

    fn too_many_failed(&self) -> bool {
        let failed = self.processes.iter().filter(|p| p.state == State::Failed).count();
        self.max_failures > 0 && failed >= self.max_failures as usize
    }

    /// A finished task of which too many finals failed has failed; a decided failure or kill stays.
    fn judge_finals(&mut self) {
        if let (Some((Status::Finished, _)), Some((Status::Failed, why))) =
            (&self.outcome, self.verdict(true))
        {
            self.outcome = Some((Status::Failed, why));
        }
    }

    fn why_failed(&self) -> String {
        let failed = self.processes.iter().filter(|p| p.state == State::Failed);
        let mut reasons = failed.map(|p| {
            let last = p.last.as_ref().map_or(String::new(), ToString::to_string);
            match p.failures {
                0 | 1 => format!("process {:?} {last}", p.name),
                runs => format!("process {:?} failed {runs} times, the last run {last}", p.name),
            }
        });
        let first = reasons.next().unwrap_or_default();
        match reasons.count() {
            0 => first,
            more => format!("{first}; and {more} more failed"),
        }
    }
}

impl Process {
    fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Failed)
    }
}

fn check_pair(first: &Process, then: &Process) -> Result<(), BadField> {
    let problem = if first.is_final != then.is_final {
        "where only one of the two is final; finals run after all others by themselves"
    } else if first.daemon {
        "where the first is a daemon, which is never done"
    } else if first.ephemeral && !then.ephemeral {
        "where only the first is ephemeral, for which the task does not wait"
    } else {
        return Ok(());
    };
    Err(BadField::new("orderings", format!("has {:?} before {:?}, {problem}", first.name, then.name)))
}

fn check_circles(processes: &[Process]) -> Result<(), BadField> {
    let mut placed = BTreeSet::new();
    loop {
        let next: Vec<usize> = (0..processes.len())
            .filter(|at| !placed.contains(at) && processes[*at].after.is_subset(&placed))
            .collect();
        if next.is_empty() {
            break;
        }
        placed.extend(next);
    }
    match (0..processes.len()).find(|at| !placed.contains(at)) {
        Some(at) => {
            Err(BadField::new("orderings", format!("go in a circle through {:?}", processes[at].name)))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
