//! The network: calls of one replica reach another's service as they are, but take time, stall and break.
//!
//! A call is one connection, like a stream of HTTP/2: its frames keep their order, and it breaks as a whole. What
//! travels is what tonic would send, so the messages, their limits and the service are the product's.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, StdError, http};

use crate::log::lock;
use crate::service::RaftService;
use crate::sim::breaks::{self, Break};
use crate::sim::faults::{self, Fault};
use crate::sim::life::Life;

type Server = rpc::raft::raft_server::RaftServer<RaftService>;
type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// A connection on which nothing passes for so long is given up.
const STALLED_MAX: Duration = Duration::from_secs(2);
/// Frames of one direction of a call that are under way at most.
const FRAMES_MAX: usize = 256;

/// What lies between all replicas.
pub(crate) struct Net {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    chance: StdRng,
    servers: BTreeMap<String, (Arc<Life>, Server)>,
    /// Nothing passes from the one place to the other.
    cut: BTreeSet<(usize, usize)>,
    /// Of 1,000 frames so many break their connection.
    loss: u32,
    /// Of 1,000 so many are late.
    late: u32,
    /// How long any takes, in milliseconds, between.
    slow_ms: (u64, u64),
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Net {
            state: Mutex::new(State {
                chance: StdRng::seed_from_u64(seed),
                servers: BTreeMap::new(),
                cut: BTreeSet::new(),
                loss: 0,
                late: 0,
                slow_ms: (1, 3),
            }),
            changed: Notify::new(),
        }
    }

    /// This life now answers at `address`.
    pub(crate) fn listen(&self, address: &str, life: Arc<Life>, server: Server) {
        lock(&self.state).servers.insert(address.to_owned(), (life, server));
    }

    /// Nobody does any more.
    pub(crate) fn hang_up(&self, address: &str) {
        lock(&self.state).servers.remove(address);
    }

    /// From now on these do not pass: (from, to).
    pub(crate) fn set_cut(&self, cut: BTreeSet<(usize, usize)>) {
        lock(&self.state).cut = cut;
        self.changed.notify_waiters();
    }

    /// From now on so many of 1,000 frames are lost, and late.
    pub(crate) fn set_weather(&self, loss: u32, late: u32) {
        let mut state = lock(&self.state);
        (state.loss, state.late) = (loss, late);
    }

    /// From now on each takes so long, in milliseconds, between.
    pub(crate) fn set_slow_ms(&self, between: (u64, u64)) {
        lock(&self.state).slow_ms = between;
    }

    fn is_cut(&self, way: (usize, usize)) -> bool {
        lock(&self.state).cut.contains(&way)
    }

    /// When what is sent now arrives; `Err` if the connection breaks on the way.
    fn send(&self, behind: Instant) -> Result<Instant, StdError> {
        let mut state = lock(&self.state);
        let (loss, late, (min, max)) = (state.loss, state.late, state.slow_ms);
        if state.chance.random_range(0..1000) < loss {
            faults::fired(Fault::Loss);
            return Err("the connection broke".into());
        }
        let mut takes = state.chance.random_range(min..=max);
        if state.chance.random_range(0..1000) < late {
            faults::fired(Fault::Reordered);
            takes = state.chance.random_range(20..300);
        }
        Ok((Instant::now() + Duration::from_millis(takes)).max(behind))
    }

    /// Waits until what arrives at `at` passes.
    async fn arrive(&self, way: (usize, usize), at: Instant) -> Result<(), StdError> {
        tokio::time::sleep_until(at).await;
        let given_up = Instant::now() + STALLED_MAX;
        while self.is_cut(way) {
            let changed = self.changed.notified();
            if tokio::time::timeout_at(given_up, changed).await.is_err() {
                return Err("nothing passes".into());
            }
        }
        Ok(())
    }
}

/// One direction of a call.
struct Pipe {
    net: Arc<Net>,
    way: (usize, usize),
    frames: mpsc::Receiver<Sent>,
    /// Whose death breaks it.
    sender: Arc<Life>,
}

/// A frame and when it arrives; without one, the end.
struct Sent(Instant, Result<Option<Frame<Bytes>>, StdError>);

impl Pipe {
    fn new(net: &Arc<Net>, sender: &Arc<Life>, to: usize) -> (mpsc::Sender<Sent>, Pipe) {
        let (put, frames) = mpsc::channel(FRAMES_MAX);
        (put, Pipe { net: Arc::clone(net), way: (sender.place, to), frames, sender: Arc::clone(sender) })
    }

    async fn next(&mut self) -> Result<Option<Frame<Bytes>>, StdError> {
        let Some(Sent(at, frame)) = self.frames.recv().await else {
            if self.sender.silent.load(std::sync::atomic::Ordering::Relaxed) {
                // Until the connection's keep-alive notices.
                tokio::time::sleep(STALLED_MAX).await;
            }
            return Err("the other end is gone".into());
        };
        self.net.arrive(self.way, at).await?;
        frame
    }

    /// What arrives, as a body; `kept` lives as long as it.
    fn body(self, kept: Option<Guard>) -> Body {
        let frames = futures::stream::unfold(Some((self, kept)), |pipe| async move {
            let (mut pipe, kept) = pipe?;
            match pipe.next().await {
                Ok(Some(frame)) => Some((Ok(frame), Some((pipe, kept)))),
                Ok(None) => None,
                Err(broken) => Some((Err(broken), None)),
            }
        });
        Body::new(StreamBody::new(frames))
    }
}

/// Stamps and sends a body's frames until it ends or the connection breaks.
async fn pump<B>(net: Arc<Net>, mut body: B, put: mpsc::Sender<Sent>)
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    let mut last = Instant::now();
    loop {
        let frame = match body.frame().await {
            Some(Ok(frame)) => Ok(Some(frame)),
            None => Ok(None),
            Some(Err(error)) => Err(error.into()),
        };
        let more = matches!(frame, Ok(Some(_)));
        let sent = match net.send(last) {
            Ok(at) => {
                last = at;
                Sent(at, frame)
            }
            Err(broken) => Sent(last, Err(broken)),
        };
        let broken = sent.1.is_err();
        if put.send(sent).await.is_err() || !more || broken {
            return;
        }
    }
}

/// Ends a task when nobody waits for what it does.
struct Guard(AbortHandle);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where calls of one replica go.
#[derive(Clone)]
pub(crate) struct Route {
    from: Arc<Life>,
    address: String,
}

impl Route {
    pub(crate) fn new(from: Arc<Life>, uri: &http::Uri) -> Self {
        Route { from, address: uri.authority().map(ToString::to_string).unwrap_or_default() }
    }

    async fn call(self, request: Request) -> Result<Response, StdError> {
        let Route { from, address } = self;
        let net = Arc::clone(&from.net);
        let found = lock(&net.state).servers.get(&address).cloned();
        let Some((to, mut server)) = found else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            return Err("the connection was refused".into());
        };
        let is_append = request.uri().path().ends_with("/Append");
        let (head, body) = request.into_parts();
        let (put, there) = Pipe::new(&net, &from, to.place);
        let (put_back, mut back) = Pipe::new(&net, &to, from.place);
        let body = if is_append && breaks::is(Break::AcknowledgeBeforeQuorum) {
            forged(body, put_back.clone())
        } else {
            body
        };
        let pumping = Guard(from.run(pump(Arc::clone(&net), body, put)).abort_handle());
        let (answered, answer) = oneshot::channel();
        let way = Arc::clone(&net);
        let serving = to.run(async move {
            let request = http::Request::from_parts(head, there.body(None));
            let Ok(response) = server.call(request).await;
            let (head, body) = response.into_parts();
            let _ = answered.send(head);
            if is_append && breaks::is(Break::AcknowledgeBeforeQuorum) {
                return pump(way, body, mpsc::channel(FRAMES_MAX).0).await;
            }
            pump(way, body, put_back).await;
        });
        drop(serving);
        let Ok(mut head) = answer.await else {
            back.next().await?;
            return Err("the other end is gone".into());
        };
        let at = net.send(Instant::now())?;
        net.arrive(back.way, at).await?;
        head.version = http::Version::HTTP_2;
        Ok(http::Response::from_parts(head, back.body(Some(pumping))))
    }
}

/// For a break: each request is answered at once, as if all of it were in the other's log.
fn forged(body: Body, answers: mpsc::Sender<Sent>) -> Body {
    use prost::Message as _;
    use proto::wire::raft as wire;
    let frames = body.map_frame(move |frame| {
        let data = frame.data_ref().and_then(|data| wire::AppendRequest::decode(data.get(5..)?).ok());
        if let Some(request) = data {
            let last = request.entries.last().map_or(request.previous, |entry| entry.id);
            let reply = wire::AppendReply {
                outcome: wire::append_reply::Outcome::Success.into(),
                matching: last,
                vote: None,
                acts_at: 0,
                full: false,
            };
            let body = reply.encode_to_vec();
            let mut bytes = vec![0];
            bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
            bytes.extend_from_slice(&body);
            let _ = answers.try_send(Sent(Instant::now(), Ok(Some(Frame::data(bytes.into())))));
        }
        frame
    });
    Body::new(frames)
}

/// What tonic's client calls: a connection of the system, or a simulated one.
#[derive(Clone)]
pub(crate) enum Channel {
    System(tonic::transport::Channel),
    Simulated(Route),
}

impl Service<Request> for Channel {
    type Response = Response;
    type Error = StdError;
    type Future = futures::future::BoxFuture<'static, Result<Response, StdError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        match self {
            Channel::System(channel) => channel.poll_ready(context).map_err(Into::into),
            Channel::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self {
            Channel::System(channel) => {
                let call = channel.call(request);
                Box::pin(async move { Ok(call.await?) })
            }
            Channel::Simulated(route) => Box::pin(route.clone().call(request)),
        }
    }
}
