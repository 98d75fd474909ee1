//! The one thread that owns the journal and the tasks: it takes events, decides by [`plan`], writes down, acts, reports.
//!
//! Each turn takes the events that wait, then syncs the journal once, then says what that sync made true. So a report
//! is on the disk before it is sent, a fence before anything under it is obeyed, an intent before its executor exists.
//!
//! What is where: `recover` at start, `orders` for frames of the scheduler, `launch` for starts, `tasks` for what
//! executors do, `state` for what heartbeats say of all of them, `view` for people. Not here: sockets (see [`crate::link`]) and anything that may block for long
//! (see [`crate::work`]).

mod launch;
mod orders;
mod recover;
mod state;
mod tasks;
mod view;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isolation::Cgroups;
use proto::TaskId;
use proto::wire::{self, SchedulerFrame};
use tokio::sync::mpsc;

pub use tasks::message_of_oom;
pub use view::{TaskView, View, Views};

use crate::clock;
use crate::journal::{self, Journal};
use crate::limits::{EVENTS_PER_TURN_MAX, REPORTS_PER_FRAME_MAX, RESEND_AFTER, SWEEP_EVERY};
use crate::link::Session;
use crate::plan::Wanted;
use crate::sandbox::Sandboxes;
use crate::telemetry;
use crate::usage::Usage;
use crate::watch::Watcher;
use crate::work::{Done, Job, Workers};

use tasks::Task;

/// Between two regular looks at everything.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while some task cannot be watched.
const LOOK_OFTEN: Duration = Duration::from_millis(50);

/// Something that the host's thread must know.
#[derive(Debug)]
pub enum Event {
    /// A stream begins; the greeting is due.
    Connected(Arc<Session>),
    /// The stream of this session ended.
    Disconnected(u64),
    /// A frame came on the stream of this session.
    Frame(u64, Box<SchedulerFrame>),
    /// The task's executor wrote or ended.
    Stirred(TaskId),
    /// A worker is done.
    Done(Done),
    /// Stop, and leave the tasks alone.
    Stop,
}

/// What the host is made of.
#[derive(Debug)]
pub struct Setup {
    /// What it offers.
    pub spec: wire::HostSpec,
    /// The program that runs one task.
    pub executor: PathBuf,
    /// Where tasks' cgroups are made; `None` = nowhere.
    pub cgroups: Option<Cgroups>,
    /// Whether tasks run as the unix user of their role.
    pub users: bool,
    /// Sandboxes of ended tasks that are kept.
    pub keep_sandboxes: usize,
    /// For how long.
    pub keep_sandbox_age: Duration,
}

/// Why the host's thread stopped.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// Nothing can be remembered any more, so nothing may be started.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// Something that the host cannot do without.
    #[error("cannot {what}: {source}")]
    Io {
        /// As a verb.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The host's cgroups cannot be listed, so what runs in them is not known.
    #[error(transparent)]
    Isolation(#[from] isolation::Error),
}

/// The host.
pub struct Host {
    setup: Setup,
    journal: Journal,
    sandboxes: Sandboxes,
    watcher: Watcher,
    workers: Workers,
    views: Views,
    boot_id: String,
    session: Option<Arc<Session>>,
    /// Whether the leader has registered the host on this stream.
    registered: bool,
    /// The newest that was taken; with what a start needs.
    wanted: Option<Wanted>,
    /// Generation of the newest wanted set that is wholly obeyed.
    obeys: u64,
    /// A scheduler refused the last hello: the next one is whole, which every version understands.
    explain: bool,
    details: BTreeMap<TaskId, wire::WantedTask>,
    configs: BTreeMap<Vec<u8>, wire::TaskConfig>,
    tasks: BTreeMap<TaskId, Task>,
    /// Generation of the newest wanted set that named a task.
    named: BTreeMap<TaskId, u64>,
    /// Reports that are not acknowledged, by sequence.
    outbox: BTreeMap<u64, wire::TaskReport>,
    /// Sequence up to which reports were sent on this stream.
    sent: u64,
    acknowledged: u64,
    /// Of tasks of which at most one copy may live; CLOCK_BOOTTIME, 0 = no leader has acknowledged a heartbeat yet.
    leased_until_ns: u64,
    /// What their executors were told.
    lease_told_ns: u64,
    /// What the tasks use, and what of it may be lent.
    usage: Usage,
    unused: Option<wire::Resources>,
    /// Of the live tasks.
    digest: u64,
    moved_at: Instant,
    looked_at: Instant,
    swept_at: Option<Instant>,
    changed: bool,
}

impl Host {
    /// Takes in what the journal and the directories say. Capacity is offered only after this.
    pub fn recover(
        setup: Setup,
        journal: Journal,
        sandboxes: Sandboxes,
        watcher: Watcher,
        workers: Workers,
        views: Views,
    ) -> Result<Self, Fatal> {
        let boot_id = executor::identity::boot_id()
            .map_err(|source| Fatal::Io { what: "read the machine's boot id".into(), source })?;
        let now = Instant::now();
        let mut host = Host {
            setup,
            journal,
            sandboxes,
            watcher,
            workers,
            views,
            boot_id,
            session: None,
            registered: false,
            wanted: None,
            obeys: 0,
            explain: false,
            details: BTreeMap::new(),
            configs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            named: BTreeMap::new(),
            outbox: BTreeMap::new(),
            sent: 0,
            acknowledged: 0,
            leased_until_ns: 0,
            lease_told_ns: 0,
            usage: Usage::default(),
            unused: None,
            digest: 0,
            moved_at: now,
            looked_at: now,
            swept_at: None,
            changed: true,
        };
        host.recover_tasks()?;
        host.end_turn()?;
        Ok(host)
    }

    /// Works until told to stop, or until something that it cannot do without fails. Blocking.
    pub fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<(), Fatal> {
        loop {
            let look_every =
                if self.tasks.values().any(Task::must_be_looked_at) { LOOK_OFTEN } else { LOOK_EVERY };
            let patience = look_every.saturating_sub(self.looked_at.elapsed());
            let first = runtime.block_on(async { tokio::time::timeout(patience, events.recv()).await });
            let mut turn = match first {
                Ok(Some(Event::Stop) | None) => return Ok(()),
                Ok(Some(event)) => vec![event],
                Err(_) => Vec::new(),
            };
            while turn.len() < EVENTS_PER_TURN_MAX
                && let Ok(event) = events.try_recv()
            {
                turn.push(event);
            }
            if !self.turn(turn)? {
                return Ok(());
            }
            if self.looked_at.elapsed() >= look_every {
                self.look()?;
                self.looked_at = Instant::now();
            }
            self.end_turn()?;
        }
    }

    /// Takes events in their order; `false` = stop.
    fn turn(&mut self, events: Vec<Event>) -> Result<bool, Fatal> {
        for event in events {
            match event {
                Event::Stop => return Ok(false),
                Event::Connected(session) => self.connected(session)?,
                Event::Disconnected(id) => {
                    if self.session.as_ref().is_some_and(|session| session.id() == id) {
                        self.session = None;
                        self.registered = false;
                    }
                }
                Event::Frame(id, frame) => {
                    if let Some(session) = self.session.clone().filter(|session| session.id() == id) {
                        self.frame(&session, *frame)?;
                    }
                }
                Event::Stirred(task) => {
                    self.look_at(task)?;
                }
                Event::Done(done) => self.done(done)?,
            }
        }
        Ok(true)
    }

    /// The regular look: tasks, kills that are due, reports without an answer, old sandboxes.
    fn look(&mut self) -> Result<(), Fatal> {
        for task in self.tasks.keys().copied().collect::<Vec<_>>() {
            self.look_at(task)?;
        }
        self.replan(None)?;
        self.measure();
        if self.moved_at.elapsed() >= RESEND_AFTER && !self.outbox.is_empty() {
            self.sent = self.acknowledged;
            self.moved_at = Instant::now();
        }
        if self.swept_at.is_none_or(|at| at.elapsed() >= SWEEP_EVERY) {
            self.swept_at = Some(Instant::now());
            self.sweep();
        }
        Ok(())
    }

    /// Makes what was appended durable, then says it.
    fn end_turn(&mut self) -> Result<(), Fatal> {
        self.renew_leases();
        self.sync()?;
        self.send_reports();
        if self.journal.compact_if_large()? {
            tracing::info!(bytes = self.journal.length(), "the journal was written anew");
        }
        if std::mem::take(&mut self.changed) {
            self.digest = self.digest_of_tasks();
            self.lend();
            self.publish();
        }
        self.say_state();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Fatal> {
        let began = Instant::now();
        if self.journal.sync()? {
            metrics::histogram!(telemetry::JOURNAL_SYNC_SECONDS).record(began.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Sends what this stream has not carried yet, in the order of sequences: an acknowledgement speaks for all up to
    /// it. Of one task only the newest report is sent again.
    fn send_reports(&mut self) {
        metrics::gauge!(telemetry::REPORTS_WAITING).set(self.outbox.len() as f64);
        let Some(session) = self.session.clone().filter(|_| self.registered) else { return };
        while let Some((&last, _)) = self.outbox.last_key_value().filter(|(last, _)| **last > self.sent) {
            let batch: Vec<_> = self
                .outbox
                .range(self.sent + 1..)
                .take(REPORTS_PER_FRAME_MAX)
                .map(|(_, report)| report.clone())
                .collect();
            let up_to = batch.last().map_or(last, |report| report.sequence);
            if !session.report(batch) {
                return;
            }
            self.sent = up_to;
            self.moved_at = Instant::now();
        }
    }

    fn sweep(&mut self) {
        let needed = |task| self.tasks.contains_key(&task) || self.journal.book().tasks.contains_key(&task);
        let (count_max, age_max) = (self.setup.keep_sandboxes, self.setup.keep_sandbox_age);
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock::wall_ms());
        match self.sandboxes.expired(needed, count_max, age_max, now) {
            Ok(paths) if paths.is_empty() => {}
            Ok(paths) => {
                let _later_if_full = self.workers.queue(Job::Remove(paths));
            }
            Err(e) => tracing::warn!(error = %e, "cannot list the sandboxes"),
        }
    }
}
