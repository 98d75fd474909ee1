//! One stream to any scheduler replica, kept up for ever.
//!
//! The link connects, carries frames both ways, sends a heartbeat each second, and moves on to the next address when
//! a stream ends, is refused, or brings nothing valid for a while. What frames mean is the host's affair: the link
//! hands each to its [`Ear`], and the host answers through the [`Session`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::wire::{self, AgentFrame, SchedulerFrame, agent_frame, scheduler_frame};
use rpc::agents_client::AgentsClient;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::clock;
use crate::host::Event;
use crate::limits::{
    AGENT_LEASE, BACKOFF_MAX, CONNECT_MAX, FRAME_BYTES_MAX, FRAMES_OUT_MAX, HEARTBEAT_EVERY,
    HEARTBEATS_REMEMBERED, REFUSED_BACKOFF, REFUSED_BACKOFF_MAX, SILENCE_MAX, START_AGE_MAX,
};
use crate::telemetry;

/// A stream that ended sooner was hardly one.
const BRIEF: Duration = Duration::from_secs(1);

/// First pause after every replica was tried in vain.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// One stream, as the host sees it.
#[derive(Debug)]
pub struct Session {
    id: u64,
    out: mpsc::Sender<AgentFrame>,
    beats: Mutex<Beats>,
    valid_at_ms: AtomicU64,
    closing: Notify,
}

#[derive(Debug, Default)]
struct Beats {
    greeted: bool,
    number: u64,
    generation: u64,
    unused: Option<wire::Resources>,
    digest: u64,
    /// (number, CLOCK_BOOTTIME in ns when it was sent), rising.
    sent: VecDeque<(u64, u64)>,
}

impl Session {
    /// A session with a random id, and the frames that it sends.
    pub fn new() -> (Self, mpsc::Receiver<AgentFrame>) {
        let (out, frames) = mpsc::channel(FRAMES_OUT_MAX);
        let id = (uuid::Uuid::new_v4().as_u128() as u64).max(1);
        let valid_at_ms = AtomicU64::new(0);
        (Session { id, out, beats: Mutex::default(), valid_at_ms, closing: Notify::new() }, frames)
    }

    /// Random, not 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn beats(&self) -> MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, body: agent_frame::Body) -> bool {
        self.out.try_send(AgentFrame { body: Some(body) }).is_ok()
    }

    /// Says who the host is, then sends a heartbeat. After a whole hello the generation begins at 0: the leader sends
    /// the whole too. After a brief one it is what the host obeys.
    pub fn greet(&self, mut hello: wire::Hello, obeys: u64) {
        hello.session = self.id;
        {
            let mut beats = self.beats();
            beats.digest = hello.digest;
            beats.generation = if hello.digest == 0 { 0 } else { obeys };
            beats.greeted = self.send(agent_frame::Body::Hello(hello));
        }
        self.beat();
    }

    /// Sends a heartbeat, once greeted. The time is taken before it is sent, so a start is never taken for younger.
    pub fn beat(&self) {
        let mut beats = self.beats();
        if !beats.greeted {
            return;
        }
        let (number, sent_ns) = (beats.number + 1, clock::boottime_ns());
        let heartbeat = wire::Heartbeat {
            session: self.id,
            number,
            generation: beats.generation,
            unused: beats.unused,
            digest: beats.digest,
        };
        if self.send(agent_frame::Body::Heartbeat(heartbeat)) {
            beats.number = number;
            beats.sent.push_back((number, sent_ns));
            if beats.sent.len() > HEARTBEATS_REMEMBERED {
                beats.sent.pop_front();
            }
        }
    }

    /// What heartbeats say from here on: the newest wanted set that is wholly obeyed.
    pub fn set_generation(&self, generation: u64) {
        self.beats().generation = generation;
    }

    /// The newest wanted set that is wholly obeyed on this stream.
    pub fn generation(&self) -> u64 {
        self.beats().generation
    }

    /// What heartbeats say besides: what may be lent, and the digest of the tasks.
    pub fn set_state(&self, unused: Option<wire::Resources>, digest: u64) {
        let mut beats = self.beats();
        (beats.unused, beats.digest) = (unused, digest);
    }

    /// Sends reports; `false` = the queue is full or the stream is gone, and nothing was sent.
    pub fn report(&self, reports: Vec<wire::TaskReport>) -> bool {
        self.send(agent_frame::Body::Reports(wire::Reports { session: self.id, reports }))
    }

    /// When the heartbeat that `echo` names was sent, if it was sent in this session and not long ago.
    fn sent_ns(&self, echo: Option<&wire::Echo>) -> Option<u64> {
        let echo = echo.filter(|echo| echo.session == self.id)?;
        let beats = self.beats();
        beats.sent.iter().find(|(number, _)| *number == echo.number).map(|(_, sent_ns)| *sent_ns)
    }

    /// Whether the heartbeat that `echo` names was sent in this session, and lately.
    pub fn is_fresh(&self, echo: Option<&wire::Echo>, now_ns: u64) -> bool {
        self.sent_ns(echo)
            .is_some_and(|sent_ns| u128::from(now_ns.saturating_sub(sent_ns)) < START_AGE_MAX.as_nanos())
    }

    /// Until when tasks of which at most one copy may live have their lease, by a leader that sent this echo.
    pub fn leased_until_ns(&self, echo: Option<&wire::Echo>) -> Option<u64> {
        self.sent_ns(echo).map(|sent_ns| sent_ns.saturating_add(AGENT_LEASE.as_nanos() as u64))
    }

    /// Notes that a frame was valid: the replica at the other end is of use.
    pub fn mark_valid(&self) {
        self.valid_at_ms.store(clock::boottime_ms().max(1), Ordering::Relaxed);
    }

    /// Ends the stream; the link goes on to another replica.
    pub fn close(&self) {
        self.closing.notify_one();
    }
}

/// Why a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It never came to be, or broke before anything valid came.
    Failed(String),
    /// It served for a while.
    Broke(String),
    /// The scheduler refused the host.
    Refused,
    /// The host's thread is gone: so is the agent.
    Stopped,
}

/// The host behind a link is gone: so is the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Who listens at a link, for the host.
pub trait Ear: Send {
    /// A stream begins; the greeting is due.
    fn connected(&mut self, session: &Arc<Session>) -> impl Future<Output = Result<(), Gone>> + Send;
    /// A frame came.
    fn frame(
        &mut self,
        session: &Arc<Session>,
        frame: SchedulerFrame,
    ) -> impl Future<Output = Result<(), Gone>> + Send;
    /// The stream ended.
    fn disconnected(&mut self, session: &Arc<Session>) -> impl Future<Output = Result<(), Gone>> + Send;
    /// Until the first heartbeat after that of the greeting.
    fn first_beat(&self) -> Duration {
        HEARTBEAT_EVERY
    }
    /// A heartbeat is due.
    fn beat(&mut self, session: &Session) {
        session.beat();
    }
    /// When the host wants to look at its tasks; `None` = it does so by itself.
    fn look_at(&self) -> Option<Instant> {
        None
    }
    /// It is time to look.
    fn look(&mut self, _session: &Arc<Session>) -> impl Future<Output = Result<(), Gone>> + Send {
        std::future::ready(Ok(()))
    }
}

/// The host's own thread, which takes events from a queue.
impl Ear for mpsc::Sender<Event> {
    async fn connected(&mut self, session: &Arc<Session>) -> Result<(), Gone> {
        self.send(Event::Connected(session.clone())).await.map_err(|_| Gone)
    }

    async fn frame(&mut self, session: &Arc<Session>, frame: SchedulerFrame) -> Result<(), Gone> {
        self.send(Event::Frame(session.id(), Box::new(frame))).await.map_err(|_| Gone)
    }

    async fn disconnected(&mut self, session: &Arc<Session>) -> Result<(), Gone> {
        metrics::gauge!(telemetry::CONNECTED).set(0.0);
        self.send(Event::Disconnected(session.id())).await.map_err(|_| Gone)
    }
}

/// How a link comes by connections.
#[derive(Clone, Debug)]
pub struct Lines {
    /// By address; `None` = every stream has a connection of its own, which ends with it.
    shared: Option<Arc<Mutex<BTreeMap<String, Channel>>>>,
}

impl Lines {
    /// One connection for each stream.
    pub fn own() -> Self {
        Lines { shared: None }
    }

    /// One connection for each address, for all links that have a clone of this; it is made anew when it breaks.
    pub fn shared() -> Self {
        Lines { shared: Some(Arc::default()) }
    }

    async fn connect(&self, address: &str) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| format!("the address is not one: {e}"))?
            .connect_timeout(CONNECT_MAX)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_millis(1500))
            .keep_alive_while_idle(true);
        if let Some(shared) = &self.shared {
            let mut lines = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let line = lines.entry(address.to_owned()).or_insert_with(|| endpoint.connect_lazy());
            return Ok(line.clone());
        }
        match timeout(CONNECT_MAX, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(e)) => Err(format!("cannot connect: {}", bottom(&e))),
            Err(e) => Err(format!("cannot connect: {e}")),
        }
    }
}

/// The transport's own words say nothing; the reason is at the bottom.
fn bottom(error: &dyn std::error::Error) -> String {
    let mut why = error;
    while let Some(source) = why.source() {
        why = source;
    }
    why.to_string()
}

/// Keeps a stream up until the host is gone. `first` chooses the address to begin with.
pub async fn run(addresses: Vec<String>, first: usize, lines: Lines, mut ear: impl Ear) {
    let mut backoff = BACKOFF_FIRST;
    let mut refused = REFUSED_BACKOFF;
    let mut tried = 0;
    let mut at = first;
    loop {
        let Some(address) = addresses.get(at % addresses.len().max(1)) else { return };
        let begun = Instant::now();
        let end = attach(address, &lines, &mut ear).await;
        metrics::counter!(telemetry::STREAMS_ENDED).increment(1);
        match end {
            End::Stopped => return,
            End::Broke(why) => {
                tracing::info!(%address, why, "the stream to a scheduler ended; trying the next");
                (tried, backoff, refused) = (0, BACKOFF_FIRST, REFUSED_BACKOFF);
                if begun.elapsed() < BRIEF {
                    // Whoever cuts streams off is overloaded; coming again at once would keep it so.
                    sleep(jittered(BACKOFF_FIRST)).await;
                }
            }
            End::Failed(why) => {
                tracing::debug!(%address, why, "no stream to this scheduler");
                tried += 1;
                if tried % addresses.len() == 0 {
                    if tried == addresses.len() {
                        tracing::warn!(%address, why, "no scheduler can be reached; tasks go on, trying again");
                    }
                    sleep(jittered(backoff)).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
            End::Refused => {
                sleep(jittered(refused)).await;
                refused = (refused * 2).min(REFUSED_BACKOFF_MAX);
            }
        }
        at = (at + 1) % addresses.len();
    }
}

/// Between three quarters and all of `pause`, so that a fleet does not come back in step.
fn jittered(pause: Duration) -> Duration {
    let chance = (uuid::Uuid::new_v4().as_u128() % 1000) as u32;
    pause * 3 / 4 + pause / 4 * chance / 1000
}

async fn attach(address: &str, lines: &Lines, ear: &mut impl Ear) -> End {
    let failed = |what: &str, why: &dyn std::fmt::Display| End::Failed(format!("{what}: {why}"));
    let channel = match lines.connect(address).await {
        Ok(channel) => channel,
        Err(why) => return End::Failed(why),
    };
    let mut client = AgentsClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
    let (session, frames) = Session::new();
    let session = Arc::new(session);
    if ear.connected(&session).await.is_err() {
        return End::Stopped;
    }
    let answer = timeout(SILENCE_MAX, client.attach(ReceiverStream::new(frames))).await;
    let end = match answer {
        Ok(Ok(answer)) => converse(&session, answer.into_inner(), ear).await,
        Ok(Err(status)) => {
            use std::error::Error as _;
            let why = status.source().map_or_else(|| status.message().to_owned(), bottom);
            failed("the scheduler ended the stream", &why)
        }
        Err(e) => failed("no answer", &e),
    };
    if ear.disconnected(&session).await.is_err() {
        return End::Stopped;
    }
    end
}

async fn converse(
    session: &Arc<Session>,
    mut incoming: tonic::Streaming<SchedulerFrame>,
    ear: &mut impl Ear,
) -> End {
    let began_ms = clock::boottime_ms();
    let mut beat = tokio::time::interval_at(Instant::now() + ear.first_beat(), HEARTBEAT_EVERY);
    // Not later and later: who speaks for many hosts has spread their heartbeats.
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let ended = |why: String| match session.valid_at_ms.load(Ordering::Relaxed) {
        0 => End::Failed(why),
        _ => End::Broke(why),
    };
    loop {
        let look_at = ear.look_at();
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(frame)) => {
                    let refused = matches!(frame.body, Some(scheduler_frame::Body::Refused(_)));
                    if ear.frame(session, frame).await.is_err() {
                        return End::Stopped;
                    }
                    if refused {
                        return End::Refused;
                    }
                }
                Ok(None) => return ended("the scheduler closed it".into()),
                Err(status) => return ended(status.message().to_owned()),
            },
            _ = beat.tick() => {
                ear.beat(session);
                let heard_ms = session.valid_at_ms.load(Ordering::Relaxed).max(began_ms);
                let silent_ms = clock::boottime_ms().saturating_sub(heard_ms);
                if u128::from(silent_ms) > SILENCE_MAX.as_millis() {
                    return ended(format!("nothing valid was heard for {silent_ms} ms"));
                }
            }
            () = until(look_at) => if ear.look(session).await.is_err() {
                return End::Stopped;
            },
            () = session.closing.notified() => return ended("the agent begins anew".into()),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> wire::Hello {
        wire::Hello::default()
    }

    #[test]
    fn a_start_is_fresh_only_by_a_heartbeat_of_this_session() {
        let (session, _frames) = Session::new();
        session.beat();
        let echo = |session: u64, number| Some(wire::Echo { session, number });
        let now_ns = clock::boottime_ns;
        assert!(
            !session.is_fresh(echo(session.id(), 1).as_ref(), now_ns()),
            "nothing was sent before the greeting"
        );
        session.greet(hello(), 7);
        assert!(session.is_fresh(echo(session.id(), 1).as_ref(), now_ns()));
        assert!(!session.is_fresh(echo(session.id(), 2).as_ref(), now_ns()), "not sent yet");
        assert!(!session.is_fresh(echo(session.id() ^ 1, 1).as_ref(), now_ns()), "of another session");
        assert!(!session.is_fresh(None, now_ns()));
        let age_ns = START_AGE_MAX.as_nanos() as u64;
        assert!(!session.is_fresh(echo(session.id(), 1).as_ref(), now_ns() + age_ns), "too old");
    }

    #[test]
    fn a_full_queue_drops_heartbeats_and_refuses_reports() {
        let (session, mut frames) = Session::new();
        session.greet(hello(), 7);
        for _ in 0..2 * FRAMES_OUT_MAX {
            session.beat();
        }
        assert!(!session.report(vec![]));
        let mut numbers = Vec::new();
        while let Ok(frame) = frames.try_recv() {
            if let Some(agent_frame::Body::Heartbeat(heartbeat)) = frame.body {
                numbers.push(heartbeat.number);
            }
        }
        assert_eq!(numbers, (1..FRAMES_OUT_MAX as u64).collect::<Vec<_>>(), "rising without holes");
        assert!(session.report(vec![]));
    }

    #[test]
    fn pauses_are_jittered_downwards() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_millis(1000));
            assert!((750..=1000).contains(&(pause.as_millis() as u64)), "{pause:?}");
        }
    }
}
