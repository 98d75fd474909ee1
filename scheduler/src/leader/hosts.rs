//! The agents' links at the leader: hello, heartbeats, reports, and what each host is owed.
//!
//! What a host is owed is computed from State each time; this table only knows which hosts to look at. Losing it
//! (a new leader begins with an empty one) costs a hello of each agent, a brief one where nothing has changed: then
//! nothing is sent back but a welcome.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engine::state::record::status_wire;
use engine::{ConfigHash, State, Status, Timestamp};
use prost::Message as _;
use proto::wire::{AgentFrame, Hello, Reports, SchedulerFrame, agent_frame, scheduler_frame};
use proto::{HostId, Resources, wire};

use super::clock::boottime;
use super::session::{LinkId, Session};
use crate::limits::{
    AGENT_LEVEL_MAX, COMPARE, CONFIGS_BYTES_MAX, LEADER_LEASE, RESEND, SILENCE, UNUSED_EVERY,
};
use crate::outlet::Outlet;
use crate::telemetry;

/// Reports of one agent that may wait behind those in the log; more, and it starts over with a hello.
const REPORTS_WAITING_MAX: usize = 10_000;

/// All links, and which hosts are theirs.
#[derive(Debug)]
pub(super) struct Hosts {
    links: BTreeMap<LinkId, Link>,
    by_host: BTreeMap<HostId, LinkId>,
    /// When each host was last heard, by CLOCK_BOOTTIME.
    heard: BTreeMap<HostId, Duration>,
    begun: Duration,
    started: Instant,
    swept: Duration,
    dirty: BTreeSet<HostId>,
    /// Links whose hosts said something else about what they do not use.
    unused: BTreeSet<LinkId>,
    /// Links whose hosts said what they have, to be compared with State.
    digests: BTreeSet<LinkId>,
}

#[derive(Debug)]
struct Link {
    outlet: Outlet,
    stage: Stage,
    journal: String,
    /// Session and number of the newest heartbeat.
    heartbeat: Option<(u64, u64)>,
    obeyed: u64,
    /// Its hello was brief: what it obeys, it obeys under this epoch, and need not be sent again.
    keeps: bool,
    sent: Option<(u64, Instant)>,
    configs_sent: BTreeSet<ConfigHash>,
    /// Reports are in the log; later ones wait, so that an acknowledgement never skips one that was lost.
    reporting: bool,
    waiting: Vec<wire::TaskReport>,
    /// What the host's tasks have reserved and do not use: as it said last, as State was told, and when.
    unused: Resources,
    told: Option<(Resources, Instant)>,
    /// What the host has, in one number, and when it was last compared.
    digest: u64,
    compared: Instant,
    /// How often in a row it differed.
    differed: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// No hello yet.
    Silent,
    /// Its registration or its first reports are in the log.
    Registering,
    /// It is told what to run.
    Up(HostId),
}

/// What the loop shall propose on behalf of an agent.
#[derive(Debug)]
pub(super) enum Ask {
    /// Register, or find out that nothing has changed.
    Hello(LinkId, Box<Hello>),
    /// Reports to apply and then acknowledge.
    Reports(LinkId, HostId, String, Vec<wire::TaskReport>),
}

impl Link {
    /// Whether it obeys the host's newest wanted set already, and has not been sent another.
    fn needs_nothing(&self, newest: impl FnOnce() -> Option<u64>) -> bool {
        self.keeps && self.sent.is_none() && newest() == Some(self.obeyed)
    }
}

impl Hosts {
    /// An empty table: every host counts as heard now.
    pub(super) fn new() -> Self {
        let now = boottime();
        Hosts {
            links: BTreeMap::new(),
            by_host: BTreeMap::new(),
            heard: BTreeMap::new(),
            begun: now,
            started: Instant::now(),
            swept: now,
            dirty: BTreeSet::new(),
            unused: BTreeSet::new(),
            digests: BTreeSet::new(),
        }
    }

    /// A new link.
    pub(super) fn open(&mut self, id: LinkId, outlet: Outlet) {
        let link = Link {
            outlet,
            stage: Stage::Silent,
            journal: String::new(),
            heartbeat: None,
            obeyed: 0,
            keeps: false,
            sent: None,
            configs_sent: BTreeSet::new(),
            reporting: false,
            waiting: Vec::new(),
            unused: Resources::default(),
            told: None,
            digest: 0,
            // The first comparison comes a while after the hello, which said all; not of all hosts at once.
            compared: Instant::now() + COMPARE / 2 * (id.0 % 64) as u32 / 64,
            differed: 0,
        };
        self.links.insert(id, link);
    }

    /// A link is gone. Its host has been heard until now; silence begins.
    pub(super) fn close(&mut self, id: LinkId) {
        if let Some(link) = self.links.remove(&id)
            && let Stage::Up(host) = link.stage
            && self.by_host.get(&host) == Some(&id)
        {
            self.by_host.remove(&host);
        }
    }

    fn hang_up(&mut self, id: LinkId) {
        if let Some(link) = self.links.get(&id) {
            link.outlet.close();
        }
        self.close(id);
    }

    /// Takes an agent's frame; returns what must go through the log before it is answered.
    pub(super) fn frame(&mut self, session: &Session, id: LinkId, frame: AgentFrame) -> Option<Ask> {
        let link = self.links.get_mut(&id)?;
        match frame.body? {
            agent_frame::Body::Hello(hello) => {
                if let Some(reason) = refusal(session, &hello) {
                    self.refuse(id, reason);
                    return None;
                }
                link.stage = Stage::Registering;
                link.journal =
                    hello.identity.as_ref().map(|identity| identity.journal_id.clone()).unwrap_or_default();
                link.heartbeat = None;
                link.obeyed = 0;
                link.keeps = is_brief(&hello);
                link.sent = None;
                link.configs_sent.clear();
                link.reporting = true; // until what the hello said is applied
                link.waiting.clear();
                Some(Ask::Hello(id, Box::new(hello)))
            }
            agent_frame::Body::Heartbeat(heartbeat) => {
                if link.heartbeat.is_none_or(|(s, n)| s != heartbeat.session || n < heartbeat.number) {
                    link.heartbeat = Some((heartbeat.session, heartbeat.number));
                }
                link.obeyed = heartbeat.generation;
                let Stage::Up(host) = link.stage else { return None };
                let unused = heartbeat.unused.as_ref().and_then(|unused| Resources::try_from(unused).ok());
                link.unused = unused.unwrap_or_default();
                if link.told.is_none_or(|(told, _)| told != link.unused) {
                    self.unused.insert(id);
                }
                link.digest = heartbeat.digest;
                if link.digest != 0 && (link.differed > 0 || link.compared.elapsed() >= COMPARE) {
                    self.digests.insert(id);
                }
                self.heard.insert(host, boottime());
                let late = link
                    .sent
                    .is_none_or(|(generation, at)| generation > link.obeyed && at.elapsed() >= RESEND);
                if late {
                    self.dirty.insert(host);
                } else {
                    self.send(session, id, scheduler_frame::Body::Welcome(wire::Welcome { host_id: host.0 }));
                }
                None
            }
            agent_frame::Body::Reports(Reports { reports, .. }) => {
                if link.stage == Stage::Silent {
                    return None; // the hello that was asked for repeats them
                }
                link.waiting.extend(reports);
                if link.waiting.len() > REPORTS_WAITING_MAX {
                    self.again(id);
                    return None;
                }
                if let Stage::Up(host) = link.stage {
                    self.heard.insert(host, boottime());
                }
                self.next_reports(id)
            }
        }
    }

    /// The host behind a link is registered, and what it said in its hello is applied.
    pub(super) fn up(&mut self, session: &Session, id: LinkId, host: HostId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.stage = Stage::Up(host);
        self.heard.insert(host, boottime());
        if let Some(older) = self.by_host.insert(host, id).filter(|older| *older != id) {
            self.hang_up(older);
            self.by_host.insert(host, id);
        }
        self.dirty.insert(host);
        self.send(session, id, scheduler_frame::Body::Welcome(wire::Welcome { host_id: host.0 }));
    }

    /// The host behind a link may not join as it is.
    pub(super) fn refuse(&mut self, id: LinkId, reason: String) {
        tracing::warn!(link = id.0, reason, "refused an agent");
        if let Some(link) = self.links.get(&id) {
            let body = Some(scheduler_frame::Body::Refused(wire::Refused { reason }));
            link.outlet.send(SchedulerFrame { body, ..SchedulerFrame::default() });
        }
        self.hang_up(id);
    }

    /// What the agent said could not be put through the log, or is not enough: it shall say all that it has.
    pub(super) fn again(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.stage = Stage::Silent;
            link.waiting.clear();
            if !link.outlet.send(crate::route::resync(false)) {
                self.hang_up(id);
            }
        }
    }

    /// Hosts that are linked here and yet count as silent, or gone, in State: they came back in the moment in which
    /// that was decided. They register anew.
    pub(super) fn reseat_unheard(&mut self, is_heard: impl Fn(HostId) -> bool) {
        let links = &self.links;
        let is_up = |host, link| links.get(link).is_some_and(|link| link.stage == Stage::Up(host));
        let unheard = self.by_host.iter().filter(|&(&host, link)| is_up(host, link) && !is_heard(host));
        let unheard: Vec<LinkId> = unheard.map(|(_, link)| *link).collect();
        for link in unheard {
            self.again(link);
        }
    }

    /// What hosts do not use any more, or use again, compared with what State was told: at once where it is less, else
    /// now and then.
    pub(super) fn unused(&mut self, state: &State) -> Vec<(HostId, Resources)> {
        let mut changed = Vec::new();
        for id in std::mem::take(&mut self.unused) {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let Stage::Up(host) = link.stage else { continue };
            let Some(known) = state.host(host) else { continue };
            let (told, at) = link.told.unwrap_or((known.record.unused, self.started));
            let due = at.elapsed() >= UNUSED_EVERY || !told.fits_in(&link.unused);
            if told == link.unused {
                link.told = Some((told, at));
            } else if due {
                link.told = Some((link.unused, Instant::now()));
                changed.push((host, link.unused));
            } else {
                self.unused.insert(id);
            }
        }
        changed
    }

    /// What a host does not use did not get into State, as far as is known: it is compared, and proposed, again.
    pub(super) fn not_told(&mut self, host: HostId) {
        if let Some(&id) = self.by_host.get(&host)
            && let Some(link) = self.links.get_mut(&id)
        {
            link.told = None;
            self.unused.insert(id);
        }
    }

    /// Compares what hosts have with what State believes. Where it differed twice in a row, the host says hello again,
    /// with all that it has.
    pub(super) fn compare(&mut self, state: &State) {
        for id in std::mem::take(&mut self.digests) {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let Stage::Up(host) = link.stage else { continue };
            let settled =
                !link.reporting && link.sent.is_some_and(|(generation, _)| generation == link.obeyed);
            let Some(digest) = digest(state, host).filter(|_| settled) else { continue };
            link.compared = Instant::now();
            link.differed = if digest == link.digest { 0 } else { link.differed + 1 };
            if link.differed >= 2 {
                link.differed = 0;
                metrics::counter!(telemetry::RESYNCS).increment(1);
                tracing::warn!(%host, "the host has other tasks than State says; it says hello again");
                self.again(id);
            }
        }
    }

    /// The reports that go through the log next, if none of this agent are there now.
    fn next_reports(&mut self, id: LinkId) -> Option<Ask> {
        let link = self.links.get_mut(&id)?;
        let Stage::Up(host) = link.stage else { return None };
        if link.reporting || link.waiting.is_empty() {
            return None;
        }
        link.reporting = true;
        Some(Ask::Reports(id, host, link.journal.clone(), std::mem::take(&mut link.waiting)))
    }

    /// Reports up to `sequence` are applied; returns those that waited behind them.
    pub(super) fn acknowledge(&mut self, session: &Session, id: LinkId, sequence: u64) -> Option<Ask> {
        self.send(session, id, scheduler_frame::Body::Acknowledged(wire::Acknowledged { sequence }));
        self.links.get_mut(&id)?.reporting = false;
        self.next_reports(id)
    }

    /// State changed what this host is owed.
    pub(super) fn mark(&mut self, host: HostId) {
        if self.by_host.contains_key(&host) {
            self.dirty.insert(host);
        }
    }

    /// Looks at all linked hosts again.
    pub(super) fn mark_all(&mut self) {
        self.dirty.extend(self.by_host.keys());
    }

    /// Sends their wanted sets to the hosts that are owed one; not while a quorum has been silent.
    pub(super) fn dispatch(&mut self, session: &Session) {
        // While the cluster is held after a restore, hosts only report: what State does not know goes on running.
        let held = || session.replica.read(|machine| machine.state.cluster().held.is_some());
        if self.dirty.is_empty() || !acknowledged(session) || held() {
            return;
        }
        for host in std::mem::take(&mut self.dirty) {
            let Some(&id) = self.by_host.get(&host) else { continue };
            let Some(link) = self.links.get_mut(&id) else { continue };
            if link.heartbeat.is_none() {
                continue; // its first heartbeat, sent right behind the hello, brings us back here
            }
            if link.needs_nothing(|| session.replica.read(|machine| generation(&machine.state, host))) {
                link.sent = Some((link.obeyed, Instant::now()));
                continue;
            }
            let Some(wanted) = wanted_set(session, host, &mut link.configs_sent) else { continue };
            link.sent = Some((wanted.generation, Instant::now()));
            metrics::counter!(telemetry::WANTED_SETS).increment(1);
            if !self.send(session, id, scheduler_frame::Body::Wanted(wanted)) {
                self.unsent(id);
            }
        }
    }

    /// What was to be sent did not go out: the next heartbeat brings all of it again, the configs too.
    fn unsent(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.sent = None;
            link.configs_sent.clear();
        }
    }

    /// Hosts of State that have not been heard for too long, of those that `known` lists as not silent,
    /// each with its registration.
    pub(super) fn silent(
        &mut self,
        known: impl Iterator<Item = (HostId, Timestamp)>,
    ) -> Vec<(HostId, Timestamp)> {
        let now = boottime();
        // Time in which this process itself did not run says nothing about the hosts.
        let stalled = now.saturating_sub(self.swept).saturating_sub(Duration::from_secs(1));
        self.swept = now;
        if !stalled.is_zero() {
            tracing::warn!(
                stalled_ms = stalled.as_millis(),
                "this replica itself stood still; hosts get that time back"
            );
            self.begun += stalled;
            self.heard.values_mut().for_each(|heard| *heard += stalled);
        }
        let begun = self.begun;
        let heard = &self.heard;
        known
            .filter(|(host, _)| {
                now.saturating_sub(heard.get(host).copied().unwrap_or(begun).max(begun)) > SILENCE
            })
            .collect()
    }

    /// False if the frame was dropped.
    fn send(&mut self, session: &Session, id: LinkId, body: scheduler_frame::Body) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        if !acknowledged(session) {
            return false; // a leader without a quorum says nothing; agents hear it later, or from the next one
        }
        let frame = SchedulerFrame {
            body: Some(body),
            cluster_id: session.cluster_id.clone(),
            lineage_id: session.lineage_id.clone(),
            fence: Some(session.fence.into()),
            echo: link.heartbeat.map(|(session, number)| wire::Echo { session, number }),
        };
        let sent = link.outlet.send(frame);
        if !sent {
            self.hang_up(id);
        }
        sent
    }
}

/// Whether a quorum has acknowledged this leader lately enough to act on its word.
fn acknowledged(session: &Session) -> bool {
    session.replica.quorum_acknowledged().is_some_and(|at| at.elapsed() < LEADER_LEASE)
}

/// Whether it says only that nothing has changed.
pub(super) fn is_brief(hello: &Hello) -> bool {
    hello.digest != 0
}

/// Whether State can take a brief hello's word: it is obeyed in the same epoch, and believes the same of the host's tasks.
pub(super) fn agrees(state: &State, host: HostId, hello: &Hello) -> bool {
    let epoch = hello.fence.as_ref().map(|fence| fence.epoch);
    epoch == Some(state.cluster().epoch) && digest(state, host) == Some(hello.digest)
}

/// Of the host's newest wanted set.
fn generation(state: &State, host: HostId) -> Option<u64> {
    state.host(host).map(|host| host.record.generation)
}

/// What State believes that a host has, in one number; `None` while something of it is on its way.
fn digest(state: &State, host: HostId) -> Option<u64> {
    let host = state.host(host)?;
    let mut tasks = Vec::with_capacity(host.tasks().len());
    for id in host.tasks() {
        let task = state.task(id)?;
        if !matches!(task.status, Status::Starting | Status::Running) {
            return None;
        }
        tasks.push((id, status_wire(task.status)));
    }
    Some(proto::digest::of_host(tasks))
}

/// Why a hello cannot be taken at all.
fn refusal(session: &Session, hello: &Hello) -> Option<String> {
    if let Some(reason) = too_new(hello) {
        return Some(reason);
    }
    let (Some(_), Some(_)) = (&hello.identity, &hello.spec) else {
        return Some(
            "the hello names no identity or no capacity; is the agent of another version?".to_owned(),
        );
    };
    if hello.cluster_id.is_empty() || hello.cluster_id == session.cluster_id {
        return None;
    }
    let epoch = hello.fence.as_ref().map_or(0, |fence| fence.epoch);
    if hello.lineage_id == session.lineage_id && epoch < session.fence.epoch {
        return None;
    }
    Some(format!(
        "the agent belongs to cluster {}, this is {}; give it an empty --dir, or the addresses of its own cluster",
        hello.cluster_id, session.cluster_id
    ))
}

/// An agent of a newer level may count on what this program does not do.
fn too_new(hello: &Hello) -> Option<String> {
    (hello.level > AGENT_LEVEL_MAX).then(|| {
        format!(
            "the agent speaks at level {}, this scheduler understands levels up to {AGENT_LEVEL_MAX}; upgrade the schedulers before the agents, or start the agent's earlier version",
            hello.level
        )
    })
}

/// What State says the host shall run, with the configs it has not been sent on this stream.
fn wanted_set(
    session: &Session,
    host: HostId,
    configs_sent: &mut BTreeSet<ConfigHash>,
) -> Option<wire::WantedSet> {
    session.replica.read(|machine| {
        let wanted = machine.state.wanted(host)?;
        let (mut configs, mut bytes) = (Vec::new(), 0);
        for task in &wanted.tasks {
            // What runs already needs none: a new leader need not send them all again.
            // What is left out goes when the host is sent its set again, since it does not obey this one.
            if task.want == engine::Want::Start
                && bytes < CONFIGS_BYTES_MAX
                && configs_sent.insert(task.config)
            {
                let config = machine.state.config(&task.config)?;
                bytes += config.wire.encoded_len();
                configs.push(wire::StoredConfig {
                    hash: task.config.0.to_vec().into(),
                    config: Some(config.wire.clone()),
                });
            }
        }
        let tasks = wanted
            .tasks
            .into_iter()
            .map(|task| wire::WantedTask {
                task_id: task.id.0,
                want: match task.want {
                    engine::Want::Start => wire::Want::Start,
                    engine::Want::Keep => wire::Want::Keep,
                    engine::Want::Kill => wire::Want::Kill,
                }
                .into(),
                config_hash: task.config.0.to_vec().into(),
                instance: task.instance,
                ports: task
                    .ports
                    .into_iter()
                    .map(|(name, port)| wire::NamedPort { name: name.to_string(), port: port.into() })
                    .collect(),
            })
            .collect();
        Some(wire::WantedSet { generation: wanted.generation, tasks, configs })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::state::command::StartSession;
    use engine::validate::check_host_spec;
    use engine::{Command, HostIdentity, Op};
    use tokio::sync::{Notify, mpsc};

    use super::*;

    const ONE_CORE: Resources = Resources { cpu_milli: 1000, ram_mib: 64, disk_mib: 64, gpus: 0 };

    #[test]
    fn an_agent_of_a_newer_level_is_told_what_to_do() {
        let hello = |level| Hello { level, ..Hello::default() };
        assert_eq!(too_new(&hello(0)), None, "from the time before levels");
        assert_eq!(too_new(&hello(AGENT_LEVEL_MAX)), None);
        let reason = too_new(&hello(AGENT_LEVEL_MAX + 1)).unwrap();
        assert!(reason.contains("upgrade the schedulers"), "{reason}");
    }

    #[test]
    fn what_did_not_go_out_is_sent_again_with_its_configs() {
        let mut hosts = Hosts::new();
        let (queue, _frames) = mpsc::channel(8);
        let link = LinkId(1);
        hosts.open(link, Outlet::Direct { queue, hang_up: Arc::new(Notify::new()) });
        let known = hosts.links.get_mut(&link).unwrap();
        known.sent = Some((7, Instant::now()));
        known.configs_sent.insert(ConfigHash([1; 32]));
        hosts.unsent(link);
        let known = &hosts.links[&link];
        assert!(known.sent.is_none() && known.configs_sent.is_empty(), "{known:?}");
    }

    #[test]
    fn what_did_not_get_into_state_is_proposed_again() {
        let mut state = State::default();
        let (cluster, lineage) = ("west".into(), "l".into());
        let session =
            StartSession { term: 1, leader: 1, cluster, lineage, epoch: 1, ..StartSession::default() };
        state.apply(Command::new(Timestamp(1), Op::StartSession(session))).reply.unwrap();
        let spec = wire::HostSpec { name: "h1".into(), address: "h1:1".into(), ..wire::HostSpec::default() };
        let spec = check_host_spec(&wire::HostSpec { capacity: Some(ONE_CORE.into()), ..spec }).unwrap();
        let identity =
            HostIdentity { host: None, journal: "j".into(), machine: "m".into(), boot: "b".into() };
        let register = Op::RegisterHost { identity, spec, held: BTreeSet::new() };
        let host = HostId(state.apply(Command::new(Timestamp(2), register)).reply.unwrap().id);

        let mut hosts = Hosts::new();
        hosts.started -= UNUSED_EVERY;
        let (queue, _frames) = mpsc::channel(8);
        let link = LinkId(1);
        hosts.open(link, Outlet::Direct { queue, hang_up: Arc::new(Notify::new()) });
        hosts.links.get_mut(&link).unwrap().stage = Stage::Up(host);
        hosts.by_host.insert(host, link);
        hosts.links.get_mut(&link).unwrap().unused = ONE_CORE;
        hosts.unused.insert(link);
        assert_eq!(hosts.unused(&state), [(host, ONE_CORE)]);
        assert_eq!(hosts.unused(&state), [], "it is being proposed");
        hosts.not_told(host);
        assert_eq!(hosts.unused(&state), [(host, ONE_CORE)], "it failed");
        hosts.not_told(HostId(99));
    }

    #[test]
    fn a_linked_host_that_is_silent_in_state_is_asked_once_to_say_hello() {
        let mut hosts = Hosts::new();
        let (queue, mut frames) = mpsc::channel(8);
        let (link, host) = (LinkId(1), HostId(7));
        hosts.open(link, Outlet::Direct { queue, hang_up: Arc::new(Notify::new()) });
        hosts.reseat_unheard(|_| false);
        assert!(frames.try_recv().is_err(), "it is not up yet");
        hosts.links.get_mut(&link).unwrap().stage = Stage::Up(host);
        hosts.by_host.insert(host, link);
        hosts.reseat_unheard(|_| true);
        assert!(frames.try_recv().is_err(), "State hears it");
        hosts.reseat_unheard(|_| false);
        hosts.reseat_unheard(|_| false);
        let asked = frames.try_recv().unwrap();
        assert!(matches!(asked.body, Some(scheduler_frame::Body::Resync(_))), "{asked:?}");
        assert!(frames.try_recv().is_err(), "once");
    }

    /// A State with one host that runs one task.
    fn running() -> (State, HostId) {
        use std::collections::BTreeSet;

        use engine::{Assign, Command, HostIdentity, Op, Placement, Report, StartSession};

        let at = Timestamp(1_800_000_000_000);
        let mut state = State::default();
        let mut apply = |op| state.apply(Command::new(at, op)).reply.unwrap();
        apply(Op::StartSession(StartSession {
            wall_clocks: vec![at],
            epoch: 1,
            term: 1,
            leader: 1,
            ..StartSession::default()
        }));
        let capacity = wire::Resources { cpu_milli: 4000, ram_mib: 4096, disk_mib: 4096, gpus: 0 };
        let spec = wire::HostSpec { name: "h1".into(), capacity: Some(capacity), ..Default::default() };
        let spec = engine::validate::check_host_spec(&spec).unwrap();
        let identity = HostIdentity { journal: "j".into(), machine: "m".into(), ..HostIdentity::default() };
        let host = HostId(apply(Op::RegisterHost { identity, spec, held: BTreeSet::new() }).id);
        let key = proto::JobKey::new("c", "www", "prod", "web").unwrap();
        let task = wire::TaskSpec {
            resources: Some(wire::Resources { cpu_milli: 2000, ram_mib: 64, disk_mib: 64, gpus: 0 }),
            processes: vec![wire::Process { name: "p".into(), cmdline: "run".into(), ..Default::default() }],
            ..Default::default()
        };
        let config =
            wire::TaskConfig { job: Some((&key).into()), task: Some(task), ..wire::TaskConfig::default() };
        let spec = wire::JobSpec { config: Some(config), instances: 1 };
        apply(Op::CreateJob(engine::validate::check_job_spec(&spec).unwrap()));
        let task = state.job(&key).unwrap().live().next().unwrap().1;
        let mut apply = |op| state.apply(Command::new(at, op)).reply.unwrap();
        apply(Op::Assign(Assign { host, placements: vec![Placement { task, ports: Vec::new() }] }));
        let report = Report { task, status: Status::Running, message: String::new(), sequence: 1 };
        apply(Op::ApplyReports { host, journal: "j".into(), reports: vec![report] });
        (state, host)
    }

    fn linked(host: HostId) -> (Hosts, mpsc::Receiver<SchedulerFrame>, LinkId) {
        let mut hosts = Hosts::new();
        let (queue, frames) = mpsc::channel(8);
        let link = LinkId(1);
        hosts.open(link, Outlet::Direct { queue, hang_up: Arc::new(Notify::new()) });
        let seat = hosts.links.get_mut(&link).unwrap();
        (seat.stage, seat.obeyed, seat.sent) = (Stage::Up(host), 7, Some((7, Instant::now())));
        hosts.by_host.insert(host, link);
        (hosts, frames, link)
    }

    #[test]
    fn a_host_that_twice_has_other_tasks_than_state_is_asked_to_say_hello() {
        let (state, host) = running();
        let (mut hosts, mut frames, link) = linked(host);
        let right = digest(&state, host).unwrap();
        for (said, asked) in
            [(right, false), (right ^ 2, false), (right, false), (right ^ 2, false), (right ^ 2, true)]
        {
            hosts.links.get_mut(&link).unwrap().digest = said;
            hosts.digests.insert(link);
            hosts.compare(&state);
            assert_eq!(frames.try_recv().is_ok(), asked, "{said} of {right}");
        }
    }

    #[test]
    fn a_brief_hello_is_believed_only_where_state_believes_the_same() {
        let (state, host) = running();
        let right = digest(&state, host).unwrap();
        let fence = |epoch| Some(wire::Fence { epoch, term: 9, leader: 9 });
        for (fence, digest, agreed) in [
            (fence(1), right, true),
            (fence(1), right ^ 2, false),
            (fence(2), right, false), // another history, with generations of its own
            (fence(0), right, false),
            (None, right, false),
        ] {
            let hello = Hello { fence, digest, ..Hello::default() };
            assert!(is_brief(&hello));
            assert_eq!(agrees(&state, host, &hello), agreed, "{hello:?}");
        }
        let newest = generation(&state, host);
        let (mut hosts, ..) = linked(host);
        let link = hosts.links.values_mut().next().unwrap();
        for (keeps, sent, obeyed, needs_nothing) in [
            (true, None, newest.unwrap(), true),
            (true, None, newest.unwrap() - 1, false),
            (true, Some((7, Instant::now())), newest.unwrap(), false),
            (false, None, newest.unwrap(), false), // it was asked for all that it has
        ] {
            (link.keeps, link.sent, link.obeyed) = (keeps, sent, obeyed);
            assert_eq!(link.needs_nothing(|| newest), needs_nothing, "{link:?}");
        }
    }

    #[test]
    fn what_a_host_needs_back_is_told_at_once_and_what_it_lends_now_and_then() {
        let (state, host) = running();
        let (mut hosts, _frames, link) = linked(host);
        hosts.started = Instant::now().checked_sub(UNUSED_EVERY).unwrap();
        let mut says = |cpu_milli| {
            let unused = Resources { cpu_milli, ..Resources::default() };
            hosts.links.get_mut(&link).unwrap().unused = unused;
            hosts.unused.insert(link);
            hosts.unused(&state).into_iter().map(|(_, unused)| unused.cpu_milli).collect::<Vec<_>>()
        };
        assert_eq!(says(0), [] as [u64; 0], "State knows that");
        assert_eq!(says(1000), [1000], "the first word for a while");
        assert_eq!(says(500), [500], "less is told at once");
        assert_eq!(says(900), [] as [u64; 0], "more is told later");
        assert_eq!(says(0), [0]);
    }
}
