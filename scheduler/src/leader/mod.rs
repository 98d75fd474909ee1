//! What the elected replica does, for one term: it looks at State, decides, proposes, and tells hosts what State
//! says they shall run.
//!
//! One loop owns the links, the view and the hints, and never waits for the log: proposals are in flight beside it.
//! A session begins with a command of its own term, which is also the barrier: once that is applied, everything
//! committed before is. It ends when (term, node id) is no longer this replica's.
//!
//! Not here: decisions. Placements come from `engine::round`, everything else from `apply`.

pub mod clock;
mod counts;
mod hosts;
mod session;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use engine::state::command::StartSession;
use engine::state::record::{read_identity, read_report, status_wire};
use engine::validate::check_host_spec;
use engine::{
    Assign, Command, Hint, HostIdentity, HostSpec, Op, Preempt, Refusal, RefusalKind, Reply, State, Status,
    Timestamp, View,
};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use proto::wire::{Hello, TaskReport};
use proto::{Fence, HostId, TaskId, WorkId};
use replication::{Leadership, ProposeError};
use tokio::sync::{Semaphore, mpsc, watch};

pub use counts::Reasons;
pub use session::{Event, LinkId, Session};

use self::clock::{SessionClock, session_start, wall_ms};
use self::counts::Vetoes;
use self::hosts::{Ask, Hosts, agrees, is_brief};
use crate::clocks::Clocks;
use crate::limits::{
    COUNTING_MAX, LEADER_INBOX_MAX, PLACEMENTS_PER_ROUND_MAX, PROPOSALS_MAX, REPORT_FIXED_BYTES,
    REPORTS_BYTES_MAX, ROUND_PACE, SWEEP,
};
use crate::machine::{Drained, Hints};
use crate::peers::Peers;
use crate::running::Replica;
use crate::telemetry;

/// How often the gauges of State are brought up to date.
const GAUGES: Duration = Duration::from_secs(1);
/// After counting why tasks wait, so many times that long nothing is counted for the gauges.
const COUNT_RESTS: u32 = 4;
/// Between two tries to begin a session: just elected, raft may not take proposals for a moment.
const BEGIN_AGAIN: Duration = Duration::from_millis(2);
/// Between two tries after State refused one: each is an entry of the log.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);
/// State's time this far behind the wall clock means that nobody led for a while. A session that begins there does
/// not start in the past for want of readings: catching up takes ten times as long, and until then it refuses
/// requests as made in the future.
const BEHIND_MS: u64 = 10_000;
/// Tasks for which one round displaces others.
const PREEMPTIONS_PER_ROUND_MAX: usize = 100;
/// Events taken in one turn of the loop before it looks at State again.
const EVENTS_PER_TURN: usize = 1_024;
/// A round that placed this many is followed by a pause of `ROUND_PACE`, so that its effects arrive first.
const BUSY_ROUND: usize = 1_000;

/// Leads whenever this replica is elected, until the process stops.
pub async fn run(
    replica: Replica,
    clocks: Clocks,
    peers: Peers,
    sessions: watch::Sender<Option<Arc<Session>>>,
) {
    let mut leadership = replica.leadership();
    // Why it could not begin, so that it is not told over and over.
    let mut said: Option<String> = None;
    loop {
        let now = leadership.borrow_and_update().clone();
        if now.is_me {
            match begin(&replica, &clocks, &peers, &now).await {
                Ok((mut leader, mut inbox)) => {
                    said = None;
                    sessions.send_replace(Some(leader.session.clone()));
                    metrics::gauge!(telemetry::LEADING).set(1.0);
                    tracing::info!(fence = %leader.session.fence, "leading");
                    leader.lead(&now, &mut leadership, &mut inbox).await;
                    sessions.send_replace(None);
                    leader.session.over.send_replace(true);
                    metrics::gauge!(telemetry::LEADING).set(0.0);
                    gauges(&State::default()); // the next leader counts; two counts would add up
                    show_vetoes(&counts::vetoes(std::iter::empty()));
                    leader.hints.collect(false);
                    tracing::info!(fence = %leader.session.fence, "leading no more");
                    continue;
                }
                Err(why) => {
                    let pause = match &why {
                        NotBegun::Unproposed(why) => {
                            let reason = why.to_string();
                            if said.as_ref() != Some(&reason) {
                                tracing::info!(%why, "could not begin to lead yet");
                                said = Some(reason);
                            }
                            if matches!(why, ProposeError::NoRoom) { REFUSED_AGAIN } else { BEGIN_AGAIN }
                        }
                        NotBegun::Refused(refusal) => {
                            tracing::error!(%refusal, "State refused the session's first command; not leading");
                            REFUSED_AGAIN
                        }
                    };
                    let _ = tokio::time::timeout(pause, leadership.changed()).await;
                    continue;
                }
            }
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Why a session did not begin.
#[derive(Debug)]
enum NotBegun {
    /// Its first command was not applied, or nobody knows.
    Unproposed(ProposeError),
    /// State says no: what this replica would decide under this fence counts for nothing.
    Refused(Refusal),
}

/// The first command of the term; when it is applied, State is as new as anything acknowledged.
async fn begin(
    replica: &Replica,
    clocks: &Clocks,
    peers: &Peers,
    now: &Leadership,
) -> Result<(Leader, mpsc::Receiver<Event>), NotBegun> {
    let begun = Instant::now();
    let identity = replica.identity();
    let members = replica.status().members;
    // Just restarted, it may not know yet who votes: then all members might.
    let nobody_votes = members.iter().all(|member| !member.voter);
    let voting = members.iter().filter(|member| member.voter || nobody_votes);
    let voters: BTreeSet<u64> = voting.map(|member| member.node_id).collect();
    let state_ms = replica.read(|machine| machine.state.clock().0);
    let mut readings_ms = clocks.readings_ms(&voters);
    if wall_ms() > state_ms.saturating_add(BEHIND_MS) && readings_ms.len() <= voters.len() / 2 {
        // The cluster was off, and this replica came up before the others could be asked.
        clocks.read(replica, peers).await;
        readings_ms = clocks.readings_ms(&voters);
    }
    let at = Timestamp(session_start(state_ms, wall_ms(), &readings_ms, voters.len()));
    let op = Op::StartSession(StartSession {
        term: now.term,
        leader: identity.node_id,
        wall_clocks: readings_ms.into_iter().map(Timestamp).collect(),
        cluster: identity.cluster.clone(),
        lineage: identity.lineage_id.clone(),
        epoch: identity.epoch,
    });
    let command = Command::new(at, op);
    let proposed = replica.propose_in(now.term, command.encode().into()).await;
    proposed.map_err(NotBegun::Unproposed)?.reply.map_err(NotBegun::Refused)?;
    let (epoch, clock_ms, hints) = replica
        .read(|machine| (machine.state.cluster().epoch, machine.state.clock().0, machine.hints.clone()));
    hints.collect(true);
    let (inbox, events) = mpsc::channel(LEADER_INBOX_MAX);
    let session = Arc::new(Session {
        fence: Fence { epoch, term: now.term, leader: identity.node_id },
        cluster_id: identity.cluster_id.clone(),
        lineage_id: identity.lineage_id.clone(),
        replica: replica.clone(),
        clock: SessionClock::new(clock_ms),
        inbox,
        over: watch::channel(false).0,
        counts: tokio::sync::Mutex::default(),
        counting: Semaphore::new(COUNTING_MAX),
        next_link: AtomicU64::new(1),
    });
    let view = replica.read(|machine| View::new(&machine.state));
    metrics::histogram!(telemetry::SESSION_START_SECONDS).record(begun.elapsed().as_secs_f64());
    let leader = Leader {
        session,
        hints,
        hosts: Hosts::new(),
        view,
        flights: FuturesUnordered::new(),
        round_due: true,
        round_after: Instant::now(),
        ticking: false,
        working: false,
        raising: false,
        silencing: Vec::new(),
        shown: None,
        count_after: Some(Instant::now()),
    };
    Ok((leader, events))
}

type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;
type Fate = Result<Reply, ProposeError>;

/// A proposal of the loop, answered.
enum Landed {
    /// Of one host, or of all hosts whose tasks are placed together.
    Assigned(Vec<Assign>, Fate),
    Preempted(Preempt, Fate),
    Registered(LinkId, Fate, Box<Hello>),
    Reported {
        part: ReportsPart,
        fate: Fate,
    },
    Silenced(HostId, Fate),
    Lent(HostId, Fate),
    /// How often each veto stands, and how long that took to count; `None` where it could not be counted.
    Counted(Option<(Vetoes, Duration)>),
    Ticked(Fate),
    Worked(Fate),
    /// To this level.
    Raised(u32, Fate),
}

/// What an agent reported, less what is in the log or applied already.
struct ReportsPart {
    link: LinkId,
    host: HostId,
    journal: String,
    /// Still to be proposed.
    rest: Vec<TaskReport>,
    /// Newest of all; acknowledged when nothing is left.
    sequence: u64,
    /// They came with a hello: the host is up once they are applied.
    hello: bool,
}

struct Leader {
    session: Arc<Session>,
    hints: Arc<Hints>,
    hosts: Hosts,
    view: View,
    flights: FuturesUnordered<Flight>,
    round_due: bool,
    round_after: Instant,
    ticking: bool,
    working: bool,
    raising: bool,
    silencing: Vec<HostId>,
    /// When the gauges were last brought up to date.
    shown: Option<Instant>,
    /// When the next count of vetoes begins; `None` while one is made.
    count_after: Option<Instant>,
}

impl Leader {
    async fn lead(
        &mut self,
        term: &Leadership,
        leadership: &mut watch::Receiver<Leadership>,
        inbox: &mut mpsc::Receiver<Event>,
    ) {
        let hints = self.hints.clone();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                changed = leadership.changed() => {
                    let now = leadership.borrow_and_update();
                    if changed.is_err() || !now.is_me || now.term != term.term {
                        return;
                    }
                }
                Some(landed) = self.flights.next(), if !self.flights.is_empty() => self.land(landed),
                event = inbox.recv() => {
                    let Some(event) = event else { return };
                    self.take(event);
                    for _ in 1..EVENTS_PER_TURN {
                        let Ok(event) = inbox.try_recv() else { break };
                        self.take(event);
                    }
                }
                () = hints.bell.notified() => {}
                () = tokio::time::sleep_until(self.round_after.into()),
                    if self.round_due && self.flights.len() < PROPOSALS_MAX => {}
                _ = sweep.tick() => self.sweep(),
            }
            self.look();
            self.decide();
            self.hosts.dispatch(&self.session);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Open(link, outlet) => self.hosts.open(link, outlet),
            Event::Close(link) => self.hosts.close(link),
            Event::Look(look) => {
                // What was acknowledged before is in State by now, and has to be in the view.
                self.look();
                let view = &self.view;
                self.session.replica.read(|machine| look.at(view, &machine.state));
            }
            Event::Frame(link, frame) => {
                let ask = self.hosts.frame(&self.session, link, *frame);
                self.heed(ask);
            }
        }
    }

    fn heed(&mut self, ask: Option<Ask>) {
        match ask {
            None => {}
            Some(Ask::Hello(link, hello)) => self.greet(link, hello),
            Some(Ask::Reports(link, host, journal, reports)) => {
                self.report(link, host, journal, reports, false)
            }
        }
    }

    /// Registers a host, unless State knows it just so.
    fn greet(&mut self, link: LinkId, hello: Box<Hello>) {
        let (Some(identity), Some(spec)) = (&hello.identity, &hello.spec) else { return };
        let identity = read_identity(identity.clone());
        let spec = match check_host_spec(spec) {
            Ok(spec) => spec,
            Err(bad) => return self.hosts.refuse(link, format!("the agent's hello is not valid: {bad}")),
        };
        let brief = is_brief(&hello);
        let known = self.session.replica.read(|machine| {
            let state = &machine.state;
            registered(state, &identity, &spec).filter(|host| !brief || agrees(state, *host, &hello))
        });
        let doubted = brief && known.is_none();
        let said = if doubted {
            "doubted"
        } else if brief {
            "brief"
        } else {
            "whole"
        };
        metrics::counter!(telemetry::HELLOS, "said" => said).increment(1);
        if doubted {
            return self.hosts.again(link);
        }
        if let Some(host) = known {
            return self.greeted(link, host, *hello);
        }
        let held = hello.tasks.iter().map(|report| TaskId(report.task_id)).collect();
        self.fly(Op::RegisterHost { identity, spec, held }, move |fate| {
            Landed::Registered(link, fate, hello)
        });
    }

    /// The host is registered; what its agent knows of tasks is applied before it is told anything.
    fn greeted(&mut self, link: LinkId, host: HostId, hello: Hello) {
        let journal = hello.identity.map(|identity| identity.journal_id).unwrap_or_default();
        let newest = hello.tasks.iter().map(|report| report.sequence).max().unwrap_or(0);
        let news: Vec<TaskReport> = self.session.replica.read(|machine| {
            hello.tasks.into_iter().filter(|report| is_news(&machine.state, host, report)).collect()
        });
        if news.is_empty() {
            self.hosts.up(&self.session, link, host);
            let waited = self.hosts.acknowledge(&self.session, link, newest);
            self.heed(waited);
        } else {
            self.report(link, host, journal, news, true);
        }
    }

    fn report(
        &mut self,
        link: LinkId,
        host: HostId,
        journal: String,
        mut rest: Vec<TaskReport>,
        hello: bool,
    ) {
        // A hello brings them by task. In this order an interrupted one leaves no gap below what State acknowledges.
        rest.sort_by_key(|report| report.sequence);
        for report in &mut rest {
            let end = report.message.floor_char_boundary(engine::limits::MESSAGE_BYTES_MAX);
            report.message.truncate(end);
        }
        let sequence = rest.last().map_or(0, |report| report.sequence);
        self.report_part(ReportsPart { link, host, journal, rest, sequence, hello });
    }

    /// Proposes as many as one command carries; the rest follows when these are applied.
    fn report_part(&mut self, mut part: ReportsPart) {
        let count = fitting(&part.rest);
        let reports = part.rest.drain(..count).filter_map(read_report).collect();
        let (host, journal) = (part.host, part.journal.clone());
        self.fly(Op::ApplyReports { host, journal, reports }, move |fate| Landed::Reported { part, fate });
    }

    /// Puts `op` in flight. The number in flight is bounded by the agents and the queue of proposals.
    fn fly(&mut self, op: Op, landed: impl FnOnce(Fate) -> Landed + Send + 'static) {
        let session = self.session.clone();
        let kind = kind(&op);
        self.flights.push(Box::pin(async move {
            let fate = session.propose(op, None).await;
            let outcome = match &fate {
                Ok(Ok(_)) => "applied",
                Ok(Err(_)) => "refused",
                Err(ProposeError::Unknown { .. }) => "unknown",
                Err(_) => "failed",
            };
            metrics::counter!(telemetry::PROPOSALS, "kind" => kind, "outcome" => outcome).increment(1);
            landed(fate)
        }));
    }

    fn land(&mut self, landed: Landed) {
        match landed {
            Landed::Assigned(assigns, fate) => {
                let placed = match &fate {
                    Ok(Ok(done)) => u64::from(done.tasks),
                    Ok(Err(refusal)) => {
                        tracing::debug!(%refusal, "placements refused");
                        0
                    }
                    Err(why) => {
                        tracing::debug!(%why, "placements not committed");
                        0
                    }
                };
                let wanted: usize = assigns.iter().map(|assign| assign.placements.len()).sum();
                let refused = (wanted as u64).saturating_sub(placed);
                metrics::counter!(telemetry::PLACEMENTS).increment(placed);
                metrics::counter!(telemetry::PLACEMENTS_REFUSED).increment(refused);
                if refused > 0 {
                    // Not at once: whatever stood in the way (a full queue, an older view) may still be there.
                    self.round_due = true;
                    self.round_after = self.round_after.max(Instant::now() + ROUND_PACE);
                }
                if !matches!(fate, Err(ProposeError::Unknown { .. })) {
                    let view = &mut self.view;
                    self.session.replica.read(|machine| {
                        assigns.iter().for_each(|assign| view.settle(&machine.state, assign));
                    });
                }
            }
            Landed::Preempted(preempt, fate) => {
                let outcome = if matches!(fate, Ok(Ok(_))) { "made" } else { "refused" };
                let victims = preempt.victims.len() as u64;
                metrics::counter!(telemetry::PREEMPTIONS, "outcome" => outcome).increment(victims);
                if !matches!(fate, Err(ProposeError::Unknown { .. })) {
                    let view = &mut self.view;
                    self.session.replica.read(|machine| view.settle_preempt(&machine.state, &preempt));
                }
                self.complain("preempt", fate);
            }
            Landed::Registered(link, Ok(Ok(done)), hello) => self.greeted(link, HostId(done.id), *hello),
            Landed::Registered(link, Ok(Err(refusal)), _) => self.hosts.refuse(link, refusal.to_string()),
            Landed::Registered(link, Err(why), _) => {
                tracing::debug!(%why, "a registration was not committed");
                self.hosts.again(link);
            }
            Landed::Reported { part, fate: Ok(Ok(_)) } if !part.rest.is_empty() => self.report_part(part),
            Landed::Reported { part: ReportsPart { link, host, sequence, hello, .. }, fate } => match fate {
                Ok(Ok(_)) => {
                    if hello {
                        self.hosts.up(&self.session, link, host);
                    }
                    let waited = self.hosts.acknowledge(&self.session, link, sequence);
                    self.heed(waited);
                }
                Ok(Err(refusal)) => {
                    tracing::info!(%host, %refusal, "reports refused; the agent says hello again");
                    self.hosts.again(link);
                }
                Err(why) => {
                    tracing::debug!(%host, %why, "reports not committed; the agent says hello again");
                    self.hosts.again(link);
                }
            },
            Landed::Silenced(host, fate) => {
                self.silencing.retain(|other| *other != host);
                self.complain("silence", fate);
            }
            Landed::Lent(host, fate) => {
                if !matches!(fate, Ok(Ok(_))) {
                    self.hosts.not_told(host);
                }
                self.complain("unused", fate);
            }
            Landed::Counted(found) => {
                let took = found.as_ref().map_or(Duration::ZERO, |(_, took)| *took);
                self.count_after = Some(Instant::now() + GAUGES.max(took * COUNT_RESTS));
                if let Some((vetoes, _)) = &found {
                    show_vetoes(vetoes);
                }
            }
            Landed::Ticked(fate) => {
                self.ticking = false;
                self.complain("tick", fate);
            }
            Landed::Raised(to, fate) => {
                self.raising = false;
                match fate {
                    Ok(Ok(_)) => {
                        tracing::info!(level = to, "all members can: the cluster acts at this level")
                    }
                    fate => self.complain("level", fate),
                }
            }
            Landed::Worked(fate) => {
                self.working = false;
                // The next step at once, unless something stands in its way.
                if matches!(fate, Ok(Ok(_))) {
                    let next = self.session.replica.read(|machine| machine.state.next_work());
                    self.advance(next);
                }
                self.complain("work", fate);
            }
        }
    }

    fn complain(&self, what: &str, fate: Fate) {
        match fate {
            Ok(Ok(_)) | Ok(Err(Refusal { kind: RefusalKind::Stale, .. })) => {}
            Ok(Err(refusal)) => tracing::warn!(what, %refusal, "State refused the leader's own command"),
            Err(why) => tracing::debug!(what, %why, "not committed"),
        }
    }

    /// Brings the view up to date, and notes which hosts are owed something.
    fn look(&mut self) {
        match self.hints.drain() {
            Drained::Hints(hints) if hints.is_empty() => {}
            Drained::Hints(hints) => {
                let (session, view) = (&self.session, &mut self.view);
                session.replica.read(|machine| view.absorb(&machine.state, &hints));
                for hint in &hints {
                    if let Hint::HostDirty(host) = hint {
                        self.hosts.mark(*host);
                    }
                }
                self.round_due |= hints.iter().any(|hint| hint.wakes_round());
            }
            Drained::Everything => {
                self.view = self.session.replica.read(|machine| View::new(&machine.state));
                self.hosts.mark_all();
                self.round_due = true;
            }
        }
    }

    /// One round, when something has changed since the last.
    fn decide(&mut self) {
        let begun = Instant::now();
        if !self.round_due || begun < self.round_after || self.flights.len() >= PROPOSALS_MAX {
            return;
        }
        self.round_due = false;
        let round = engine::round(&self.view, PLACEMENTS_PER_ROUND_MAX);
        self.view.launch(&round);
        let preempts = if round.report.waiting > 0 {
            let view = &mut self.view;
            let budget = PREEMPTIONS_PER_ROUND_MAX;
            self.session.replica.read(|machine| engine::preemptions(view, &machine.state, &round, budget))
        } else {
            Vec::new()
        };
        for assign in round.assigns {
            self.fly(Op::Assign(assign.clone()), move |fate| Landed::Assigned(vec![assign], fate));
        }
        for together in round.together {
            self.fly(Op::AssignTogether(together.clone()), move |fate| Landed::Assigned(together, fate));
        }
        for preempt in preempts {
            self.fly(Op::Preempt(preempt.clone()), move |fate| Landed::Preempted(preempt, fate));
        }
        metrics::histogram!(telemetry::ROUND_SECONDS).record(begun.elapsed().as_secs_f64());
        let uncounted = round.report.groups.iter().any(|group| group.uncounted);
        if round.report.placed >= BUSY_ROUND || uncounted {
            self.round_after = Instant::now() + ROUND_PACE;
            self.round_due = true;
        }
    }

    /// Counts, beside the loop, why tasks wait: for the gauges.
    fn count_vetoes(&mut self) {
        if self.count_after.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.count_after = None;
        let session = self.session.clone();
        self.flights.push(Box::pin(async move {
            let Some(counts) = session.counts().await else { return Landed::Counted(None) };
            Landed::Counted(tokio::task::spawn_blocking(move || counts.vetoes()).await.ok())
        }));
    }

    /// The next step of a work item, one at a time.
    fn advance(&mut self, work: Option<WorkId>) {
        if let Some(work) = work.filter(|_| !self.working) {
            self.working = true;
            self.fly(Op::AdvanceWork(work), Landed::Worked);
        }
    }

    /// The level rises once all members can act at a higher one.
    fn raise(&mut self, acts_at: u32) {
        if self.raising || acts_at >= engine::limits::LEVEL {
            return;
        }
        if let Ok(to) = self.session.replica.all_act_at()
            && to > acts_at
        {
            self.raising = true;
            self.fly(Op::RaiseLevel { to }, move |fate| Landed::Raised(to, fate));
        }
    }

    /// Deadlines, work items, silent hosts, and the level.
    fn sweep(&mut self) {
        self.count_vetoes();
        let now = Timestamp(self.session.clock.now_ms());
        let show = self.shown.is_none_or(|at| at.elapsed() >= GAUGES);
        if show {
            self.shown = Some(Instant::now());
        }
        let hosts = &mut self.hosts;
        let (deadline, work, live, stopped, unused, level, clock) = self.session.replica.read(|machine| {
            let state = &machine.state;
            hosts.reseat_unheard(|host| state.host(host).is_some_and(|host| !host.is_silent()));
            let live: Vec<_> = state
                .hosts()
                .filter(|host| !host.is_silent())
                .map(|host| (host.id(), host.record.since))
                .collect();
            if show {
                gauges(state);
            }
            hosts.compare(state);
            let (level, clock) = (state.cluster().level, state.clock());
            let (deadline, work) = (state.next_deadline(), state.next_work());
            (deadline, work, live, state.is_stopped(), hosts.unused(state), level, clock)
        });
        // Ahead of the session's own only where somebody set it, and the answer was lost.
        self.session.clock.reach(clock.0);
        self.raise(level);
        for (host, unused) in unused {
            self.fly(Op::ReportUnused { host, unused }, move |fate| Landed::Lent(host, fate));
        }
        if !self.ticking && deadline.is_some_and(|due| due <= now) {
            self.ticking = true;
            self.fly(Op::Tick, Landed::Ticked);
        }
        self.advance(work);
        for (host, since) in self.hosts.silent(live.into_iter()) {
            if !stopped && !self.silencing.contains(&host) {
                self.silencing.push(host);
                tracing::warn!(%host, "not heard for too long: its tasks are PARTITIONED");
                self.fly(Op::Silence { host, since }, move |fate| Landed::Silenced(host, fate));
            }
        }
    }
}

/// How many of `reports`, at least one, one command may carry.
fn fitting(reports: &[TaskReport]) -> usize {
    let mut bytes = 0;
    let over = reports.iter().position(|report| {
        bytes += report.message.len() + REPORT_FIXED_BYTES;
        bytes > REPORTS_BYTES_MAX
    });
    over.unwrap_or(reports.len()).max(1).min(reports.len())
}

/// The name of an operation of the loop, for metrics.
fn kind(op: &Op) -> &'static str {
    match op {
        Op::Assign(_) => "assign",
        Op::RegisterHost { .. } => "register_host",
        Op::ApplyReports { .. } => "reports",
        Op::Silence { .. } => "silence",
        Op::Tick => "tick",
        Op::AdvanceWork(_) => "advance_work",
        Op::Preempt(_) => "preempt",
        Op::AssignTogether(_) => "assign_together",
        Op::ReportUnused { .. } => "unused",
        Op::RaiseLevel { .. } => "raise_level",
        Op::StartSession(_)
        | Op::CreateJob(_)
        | Op::KillTasks { .. }
        | Op::Freeze { .. }
        | Op::Resume
        | Op::RestartTasks { .. }
        | Op::AddInstances { .. }
        | Op::SetQuota { .. }
        | Op::DrainHosts { .. }
        | Op::ActivateHosts { .. }
        | Op::StartUpdate(_)
        | Op::UpdateInstances { .. }
        | Op::EndUpdate { .. }
        | Op::PutCron { .. }
        | Op::DropCron { .. }
        | Op::SetClock { .. }
        | Op::RunCron { .. } => "other",
    }
}

/// The host of exactly this identity and spec, if State has it and hears it.
fn registered(state: &State, identity: &HostIdentity, spec: &HostSpec) -> Option<HostId> {
    let host = state.host_by_name(&spec.name).filter(|host| !host.is_silent())?;
    // While the cluster is held, people want to know which hosts are back.
    if state.cluster().held.is_some_and(|held| host.record.since < held) {
        return None;
    }
    let known = HostIdentity { host: identity.host, ..HostIdentity::clone(&host.record.identity) };
    (known == *identity && *host.record.spec == *spec && identity.host.is_none_or(|id| id == host.id()))
        .then(|| host.id())
}

/// Whether State may learn something from a report that a hello repeats.
fn is_news(state: &State, host: HostId, report: &TaskReport) -> bool {
    let acknowledged = state.host(host).map_or(0, |host| host.record.acknowledged);
    let differs =
        |task: &engine::Task| task.host == Some(host) && status_wire(task.status) != report.status();
    report.sequence > acknowledged || state.task(TaskId(report.task_id)).is_some_and(differs)
}

fn show_vetoes(vetoes: &Vetoes) {
    for (kind, hosts) in vetoes {
        metrics::gauge!(telemetry::VETOES, "kind" => kind.label()).set(*hosts as f64);
    }
}

fn gauges(state: &State) {
    let mut tasks = [0_u64; Status::ALL.len()];
    let mut active = 0_u32;
    for job in state.jobs(None, None).filter(|job| job.is_active()) {
        active += 1;
        for status in Status::ALL {
            tasks[status as usize] += u64::from(job.counts().of(status));
        }
    }
    for status in Status::ALL.into_iter().filter(|status| !status.is_terminal()) {
        metrics::gauge!(telemetry::TASKS, "status" => status.name()).set(tasks[status as usize] as f64);
    }
    metrics::gauge!(telemetry::JOBS).set(f64::from(active));
    metrics::gauge!(telemetry::RESERVATIONS).set(state.reservations().len() as f64);
    metrics::gauge!(telemetry::BRAKED).set(f64::from(u8::from(state.braked().is_some())));
    metrics::gauge!(telemetry::REPLACEMENTS_WAITING).set(state.replacements_waiting() as f64);
    metrics::gauge!(telemetry::FROZEN).set(f64::from(u8::from(state.is_stopped())));
    let silent = state.hosts().filter(|host| host.is_silent()).count();
    metrics::gauge!(telemetry::HOSTS, "heard" => "no").set(silent as f64);
    metrics::gauge!(telemetry::HOSTS, "heard" => "yes").set((state.hosts().len() - silent) as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::round::{GroupReport, VetoKind};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_session_that_state_refuses_does_not_lead() {
        let dir = tempfile::tempdir().unwrap();
        let profile = replication::Profile::Fast;
        let mut options =
            replication::Options::new(dir.path(), "west", "127.0.0.1:1", "127.0.0.1:2", profile);
        options.accept_slow_disk = true;
        replication::init(&options).await.unwrap();
        let replica = Replica::start(options).await.unwrap();
        let (clocks, peers) = (Clocks::default(), Peers::default());
        let mut leadership = replica.leadership();
        let elected = tokio::time::timeout(Duration::from_secs(20), leadership.wait_for(|now| now.is_me));
        let now = elected.await.expect("an election").unwrap().clone();
        assert!(begin(&replica, &clocks, &peers, &now).await.is_ok());
        // State knows a later session than the one that this replica believes in.
        let later = StartSession { term: now.term + 1, leader: 1, ..StartSession::default() };
        let command = Command::new(Timestamp(wall_ms()), Op::StartSession(later));
        replica.propose(command.encode().into()).await.unwrap().reply.unwrap();
        let begun = begin(&replica, &clocks, &peers, &now).await.map(drop);
        assert!(matches!(begun, Err(NotBegun::Refused(_))), "{begun:?}");
        replica.shutdown().await;
    }

    #[test]
    fn vetoes_are_of_the_groups_that_wait_now() {
        let group = |vetoes: &[(VetoKind, u32)]| GroupReport {
            job: proto::JobId(1),
            config: engine::ConfigHash([0; 32]),
            placed: 0,
            waiting: 1,
            hosts: 20,
            vetoes: vetoes.iter().copied().collect(),
            fit: None,
            reason: "because".into(),
            cut_short: false,
            uncounted: false,
        };
        let two = [group(&[(VetoKind::Cpu, 3), (VetoKind::Ram, 1)]), group(&[(VetoKind::Cpu, 4)])];
        for _ in 0..2 {
            let sums = counts::vetoes(two.iter());
            assert_eq!((sums[&VetoKind::Cpu], sums[&VetoKind::Ram], sums[&VetoKind::Limit]), (7, 1, 0));
        }
        assert!(
            counts::vetoes(std::iter::empty()).values().all(|sum| *sum == 0),
            "what waited waits no more"
        );
    }

    #[test]
    fn a_command_carries_reports_up_to_a_size_and_at_least_one() {
        let report = |bytes: usize| TaskReport { message: "x".repeat(bytes), ..TaskReport::default() };
        assert_eq!(fitting(&[]), 0);
        assert_eq!(fitting(&vec![report(0); 10]), 10);
        assert_eq!(fitting(&[report(REPORTS_BYTES_MAX), report(0)]), 1);
        let count = fitting(&vec![report(1_000); 10_000]);
        assert!((100..=REPORTS_BYTES_MAX / 1_000).contains(&count), "{count}");
    }
}
