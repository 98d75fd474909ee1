//! Calling other replicas: the append stream, votes, snapshots, leadership transfer.
//!
//! Each message says who speaks to whom in which cluster. A stream that is owed an answer for too long is broken
//! off, since openraft sets no limit to a stream's life. A dead peer is tried again quickly and never waited for
//! longer than the timers bear.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use proto::wire::raft as wire;
use rpc::raft::raft_client::RaftClient;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::Identity;
use crate::adapter::Adapter;
use crate::ground::{self, Channel};
use crate::log::{Log, lock};
use crate::membership::Member;
use crate::options::Profile;
use crate::raft::{
    LEVEL, Node, Types, Vote, entry_to_wire, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire,
};
use crate::replica::stop;
use crate::snapshot::{self, Snapshot};
use crate::telemetry;

/// Largest message between replicas, in bytes, set on both ends.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Chunks of a snapshot that are read ahead.
const CHUNKS_AHEAD: usize = 4;
/// Before a stream is opened again after it could not be; doubled each time up to the next.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(100);
/// For the question what of a snapshot has arrived.
const PLACE_MAX: Duration = Duration::from_secs(10);
/// A snapshot that takes longer is given up.
const SNAPSHOT_MAX: Duration = Duration::from_secs(1800);

/// On a refusal: the short reason.
pub(crate) const REFUSED: &str = "borealis-refused";
/// The reason that ends a replica: it was removed from the cluster.
pub(crate) const REMOVED: &str = "removed";

type RpcError = RPCError<Types>;
type RaftSnapshot = openraft::alias::SnapshotOf<Types, Arc<Snapshot>>;

/// What a connection is for. A long message must not delay a heartbeat, so each has its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Purpose {
    Append,
    Heartbeat,
    Snapshot,
}

/// Counts a snapshot as being sent while it lives.
struct Sending(Arc<AtomicUsize>);

impl Sending {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Sending(Arc::clone(count))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes connections and keeps them for the next call.
#[derive(Clone)]
pub(crate) struct Transport {
    identity: Arc<Identity>,
    profile: Profile,
    /// Told when others say that this replica belongs to the cluster no more.
    stopped: watch::Sender<Option<String>>,
    /// Snapshots that are being sent.
    sending: Arc<AtomicUsize>,
    /// Whose snapshots are sent.
    adapter: Option<Adapter>,
    /// Whose entries are.
    log: Option<Log>,
    channels: Arc<Mutex<BTreeMap<(String, Purpose), Channel>>>,
    told: Told,
}

/// By node, the level that its newest answer said it can act at, and whether its disk is nearly full.
type Told = Arc<Mutex<BTreeMap<u64, (NonZeroU32, bool)>>>;

impl Transport {
    pub(crate) fn new(
        identity: Arc<Identity>,
        profile: Profile,
        stopped: watch::Sender<Option<String>>,
    ) -> Self {
        let (sending, channels, told) = Default::default();
        Transport { identity, profile, stopped, sending, adapter: None, log: None, channels, told }
    }

    /// The same, sending the snapshots of `adapter` and the entries of `log`.
    pub(crate) fn sending_of(self, adapter: &Adapter, log: &Log) -> Self {
        Transport { adapter: Some(adapter.clone()), log: Some(log.clone()), ..self }
    }

    fn peer_of(
        &self,
        member: &Member,
        purpose: Purpose,
    ) -> Result<(Peer, RaftClient<Channel>), tonic::Status> {
        let peer = self.peer(member.node_id, &Node::of(member), purpose);
        let client = peer.client.clone().map_err(tonic::Status::unavailable)?;
        Ok((peer, client))
    }

    /// The sum of a replica's rows; or tells it that a majority has another.
    pub(crate) async fn sum(
        &self,
        member: &Member,
        request: wire::SumRequest,
    ) -> Result<wire::SumReply, tonic::Status> {
        let (peer, mut client) = self.peer_of(member, Purpose::Snapshot)?;
        let asked = wire::SumRequest { peer: Some(peer.message_peer.clone()), ..request };
        let answer = client.sum(asked).await.inspect_err(|status| drop(peer.refused(status)))?;
        Ok(answer.into_inner())
    }

    /// What must be applied where everything shall be seen that was answered before; `member` must lead.
    pub(crate) async fn read_index(&self, member: &Member) -> Result<u64, tonic::Status> {
        let (peer, mut client) = self.peer_of(member, Purpose::Heartbeat)?;
        let asked = wire::ReadIndexRequest { peer: Some(peer.message_peer.clone()) };
        let answer = client.read_index(asked).await.inspect_err(|status| drop(peer.refused(status)))?;
        Ok(answer.into_inner().index)
    }

    /// All rows of a replica: a header, then chunks.
    pub(crate) async fn fetch(
        &self,
        member: &Member,
    ) -> Result<tonic::Streaming<wire::SnapshotChunk>, tonic::Status> {
        let (peer, mut client) = self.peer_of(member, Purpose::Snapshot)?;
        Ok(client.fetch(wire::FetchRequest { peer: Some(peer.message_peer) }).await?.into_inner())
    }

    /// The level that a node said it can act at, and whether its disk is nearly full, if it ever answered.
    pub(crate) fn told(&self, node_id: u64) -> Option<(NonZeroU32, bool)> {
        lock(&self.told).get(&node_id).copied()
    }

    /// How many snapshots are being sent.
    pub(crate) fn sending(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.sending)
    }

    fn peer(&self, to: u64, node: &Node, purpose: Purpose) -> Peer {
        let key = (node.raft_address.clone(), purpose);
        let mut channels = lock(&self.channels);
        let channel = match channels.get(&key) {
            Some(channel) => Ok(channel.clone()),
            None => self.connect(&node.raft_address).inspect(|channel| {
                channels.insert(key, channel.clone());
            }),
        };
        Peer {
            to,
            message_peer: wire::Peer {
                cluster_id: self.identity.cluster_id.clone(),
                from: self.identity.node_id,
                to,
                to_store_uuid: node.store_uuid.clone(),
                level: LEVEL,
            },
            client: channel.map(|channel| {
                RaftClient::new(channel)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX)
            }),
            transport: self.clone(),
            purpose,
            failures: 0,
            matched: Arc::default(),
        }
    }

    /// A connection that is made at the first call, and anew at the next call after it broke.
    fn connect(&self, address: &str) -> Result<Channel, String> {
        let patience = self.profile.election().1;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| format!("{address:?} is not an address: {e}"))?
            .connect_timeout(patience)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(patience * 2)
            .keep_alive_timeout(patience * 2)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        Ok(ground::connect(&endpoint))
    }
}

impl RaftNetworkFactory<Types> for Transport {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Node) -> Peer {
        self.peer(target, node, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Peer {
        self.peer(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Peer {
        self.peer(target, node, Purpose::Snapshot)
    }
}

/// One other replica.
pub(crate) struct Peer {
    to: u64,
    message_peer: wire::Peer,
    client: Result<RaftClient<Channel>, String>,
    transport: Transport,
    purpose: Purpose,
    /// The term of the newest message, and what of it is known to be in the other's log.
    matched: Arc<Mutex<(u64, u64)>>,
    /// Streams in a row that could not be opened.
    failures: u32,
}

fn unreachable(why: &str) -> Unreachable<Types> {
    Unreachable::from_string(why)
}

impl Peer {
    fn client(&self) -> Result<RaftClient<Channel>, RpcError> {
        self.client.clone().map_err(|why| RPCError::Unreachable(unreachable(&why)))
    }

    /// Longest time that a follower may owe an answer.
    fn answer_max(&self) -> Duration {
        (self.transport.profile.election().1 * 2).max(Duration::from_secs(1))
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> RpcError {
        RPCError::Timeout(Timeout { action, id: self.message_peer.from, target: self.to, timeout })
    }

    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RpcError> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(self.refused(&status)),
            Err(_) => Err(self.timeout(action, limit)),
        }
    }

    /// What a call's bad end means. One that says that this replica was removed ends it.
    fn refused(&self, status: &tonic::Status) -> RpcError {
        if status.metadata().get(REFUSED).is_some_and(|reason| reason == REMOVED) {
            stop(&self.transport.stopped, status.message());
        }
        RPCError::Unreachable(unreachable(&status.to_string()))
    }

    /// Notes what the other has; `Err` if it had more before, in the same term of ours: then it lost what it had
    /// acknowledged, which openraft takes for impossible.
    fn note(&self, answer: &StreamAppendResult<Types>) -> Result<(), RpcError> {
        let mut matched = lock(&self.matched);
        match answer {
            Ok(Some(id)) => matched.1 = matched.1.max(id.index),
            Err(StreamAppendError::Conflict(at)) if at.index <= matched.1 => {
                let (to, had, at) = (self.to, matched.1, at.index);
                tracing::error!(
                    "node {to} acknowledged the log up to {had} and now lacks entry {at}: its directory is an old copy, or its disk lost what was synced; stop it, remove it, and let it join anew with an empty directory"
                );
                telemetry::refused("reverted");
                return Err(RPCError::Unreachable(unreachable("its log went back")));
            }
            _ => {}
        }
        Ok(())
    }

    async fn ask_vote(
        &self,
        request: VoteRequest<Types>,
        pre: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let mut client = self.client()?;
        let message = wire::VoteRequest {
            peer: Some(self.message_peer.clone()),
            vote: Some(vote_to_wire(&request.vote)),
            last: request.last_log_id.as_ref().map(log_id_to_wire),
            pre,
            forced: request.leadership_transfer,
        };
        let reply = self.call(RPCTypes::Vote, option.hard_ttl(), client.vote(message)).await?;
        Ok(VoteResponse {
            vote: vote_from_wire(&reply.vote.unwrap_or_default()),
            vote_granted: reply.granted,
            last_log_id: reply.last.as_ref().map(log_id_from_wire),
        })
    }
}

/// When each message was sent that has no answer yet.
type Owed = Arc<Mutex<VecDeque<Instant>>>;

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Arc<Snapshot>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        let input = futures::stream::once(futures::future::ready(request));
        let mut answers = RaftNetworkV2::stream_append(self, input, option).await?;
        match answers.next().await {
            Some(answer) => Ok(AppendEntriesResponse::from(answer?)),
            None => Err(RPCError::Unreachable(unreachable("the stream ended without an answer"))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> futures::future::BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let mut client = self.client()?;
            let owed = Owed::default();
            let (sent, peer) = (Arc::clone(&owed), self.message_peer.clone());
            let matched = Arc::clone(&self.matched);
            // A snapshot may overtake a stream of entries; what that is about to send may then be dropped, and openraft
            // would send nothing, over and over. Broken off, it begins anew where the other is.
            let overtaken = Arc::new(AtomicBool::new(false));
            let (overtakes, log) = (Arc::clone(&overtaken), self.transport.log.clone());
            let dropped = move || log.as_ref().and_then(|log| log.ends().1);
            let sends_entries = self.purpose == Purpose::Append;
            let messages = input.map(move |request| {
                if sends_entries && request.entries.is_empty() && request.prev_log_id < dropped() {
                    overtakes.store(true, Ordering::Relaxed);
                }
                let term = request.vote.leader_id.term;
                let mut matched = lock(&matched);
                if matched.0 != term {
                    *matched = (term, 0);
                }
                drop(matched);
                lock(&sent).push_back(Instant::now());
                append_to_wire(&peer, &request)
            });
            let limit = self.answer_max();
            // openraft's own back-off delays requests, not the opening of streams: a dead peer would be tried
            // thousands of times a second. Heartbeats are paced by their interval and must not wait.
            if self.failures > 0 && self.purpose == Purpose::Append {
                tokio::time::sleep((RETRY_FIRST * (1 << self.failures.min(4))).min(RETRY_MAX)).await;
            }
            let opened = self.call(RPCTypes::AppendEntries, limit, client.append(messages)).await;
            self.failures = if opened.is_ok() { 0 } else { self.failures.saturating_add(1) };
            let answers = opened?;
            let this = &*self;
            let answers = futures::stream::unfold(Some(answers), move |answers| {
                let (owed, overtaken) = (Arc::clone(&owed), Arc::clone(&overtaken));
                async move {
                    let mut answers = answers?;
                    let mut next = this.next_answer(&mut answers, &owed, limit).await?;
                    if overtaken.load(Ordering::Relaxed) {
                        next =
                            Err(RPCError::Unreachable(unreachable("the log it was about to get is dropped")));
                    }
                    let go_on = matches!(next, Ok(Ok(_))).then_some(answers);
                    Some((next, go_on))
                }
            });
            Ok(answers.boxed() as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.ask_vote(request, false, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.ask_vote(request, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut client = self.client.clone().map_err(|why| StreamingError::Unreachable(unreachable(&why)))?;
        let header = wire::SnapshotHeader {
            peer: Some(self.message_peer.clone()),
            vote: Some(vote_to_wire(&vote)),
            meta: Some(snapshot.snapshot.meta.clone()),
        };
        let _sending = Sending::begin(&self.transport.sending);
        // What arrived of it before is not sent again.
        let place = self.call(RPCTypes::InstallSnapshot, PLACE_MAX, client.place(header.clone())).await;
        let place = match place {
            Ok(place) => (!place.name.is_empty()).then_some((place.name, place.offset)),
            Err(RPCError::Unreachable(why)) => return Err(StreamingError::Unreachable(why)),
            Err(other) => return Err(StreamingError::Unreachable(unreachable(&other.to_string()))),
        };
        if let Some((name, offset)) = &place {
            tracing::info!(to = self.to, id = snapshot.snapshot.meta.id, name, offset, "sends a snapshot");
        }
        let (chunks, outgoing) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let source = Arc::clone(&snapshot.snapshot);
        ground::spawn(async move {
            use wire::snapshot_chunk::Body;
            let mut body = Body::Header(header);
            // Without a place all of it is there.
            let mut unread = place.map(|place| snapshot::chunks(source, Some(place)));
            while chunks.send(wire::SnapshotChunk { body: Some(body) }).await.is_ok() {
                let Some(mut rest) = unread.take() else { return };
                let read = ground::blocking(move || (rest.next(), rest)).await;
                let Ok((Some(next), rest)) = read else { return };
                unread = Some(rest);
                match next {
                    Ok(data) => {
                        telemetry::snapshot_bytes("sent", data.bytes.len());
                        body = Body::Data(data);
                    }
                    Err(error) => return tracing::error!("a snapshot cannot be read to be sent: {error}"),
                }
            }
        });
        let call = client.snapshot(tokio_stream::wrappers::ReceiverStream::new(outgoing));
        let reply = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            reply = tokio::time::timeout(SNAPSHOT_MAX, call) => reply,
        };
        match reply {
            Ok(Ok(reply)) => {
                telemetry::snapshot("sent");
                Ok(SnapshotResponse::new(vote_from_wire(&reply.into_inner().vote.unwrap_or_default())))
            }
            Ok(Err(status)) => {
                if status.code() == tonic::Code::DataLoss {
                    self.suspect(&snapshot.snapshot).await;
                }
                Err(StreamingError::Unreachable(unreachable(&status.to_string())))
            }
            Err(_) => Err(StreamingError::Unreachable(unreachable("the snapshot took too long"))),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let mut client = self.client()?;
        let message = wire::TransferRequest {
            peer: Some(self.message_peer.clone()),
            from: Some(vote_to_wire(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(log_id_to_wire),
        };
        self.call(RPCTypes::TransferLeader, option.hard_ttl(), client.transfer(message)).await?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        let first = [20, 40, 80].map(Duration::from_millis);
        Some(Backoff::new(first.into_iter().chain(std::iter::repeat(Duration::from_millis(100)))))
    }
}

impl Peer {
    /// Sent again as it is, a damaged snapshot would never arrive.
    async fn suspect(&self, snapshot: &Arc<Snapshot>) {
        let Some(adapter) = &self.transport.adapter else { return };
        if let Err(why) = adapter.suspect(snapshot).await {
            let why = format!(
                "its rows are damaged, as another replica found out: {why}; when it is started again it takes a peer's rows"
            );
            adapter.quarantine(&why);
            stop(&self.transport.stopped, why);
        }
    }

    async fn next_answer(
        &self,
        answers: &mut tonic::Streaming<wire::AppendReply>,
        owed: &Owed,
        limit: Duration,
    ) -> Option<Result<StreamAppendResult<Types>, RpcError>> {
        loop {
            match tokio::time::timeout(limit / 2, answers.message()).await {
                Ok(Ok(Some(reply))) => {
                    lock(owed).pop_front();
                    // Those of the time before do not say it.
                    let level = NonZeroU32::new(reply.acts_at).unwrap_or(NonZeroU32::MIN);
                    lock(&self.transport.told).insert(self.to, (level, reply.full));
                    let answer = answer_from_wire(&reply);
                    return Some(answer.and_then(|answer| self.note(&answer).map(|()| answer)));
                }
                Ok(Ok(None)) => return None,
                Ok(Err(status)) => return Some(Err(self.refused(&status))),
                Err(_) => {
                    if lock(owed).front().is_some_and(|sent| sent.elapsed() > limit) {
                        return Some(Err(self.timeout(RPCTypes::AppendEntries, limit)));
                    }
                }
            }
        }
    }
}

fn append_to_wire(peer: &wire::Peer, request: &AppendEntriesRequest<Types>) -> wire::AppendRequest {
    wire::AppendRequest {
        peer: Some(peer.clone()),
        vote: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_wire),
        committed: request.leader_commit.as_ref().map(log_id_to_wire),
        entries: request.entries.iter().map(entry_to_wire).collect(),
    }
}

/// The answer as it goes over the wire, from one whose machine can act at that level.
pub(crate) fn answer_to_wire(
    answer: &StreamAppendResult<Types>,
    acts_at: u32,
    full: bool,
) -> wire::AppendReply {
    use wire::append_reply::Outcome;
    let (outcome, matching, vote) = match answer {
        Ok(matching) => (Outcome::Success, matching.as_ref().map(log_id_to_wire), None),
        Err(StreamAppendError::Conflict(at)) => (Outcome::Conflict, Some(log_id_to_wire(at)), None),
        Err(StreamAppendError::HigherVote(vote)) => (Outcome::HigherVote, None, Some(vote_to_wire(vote))),
    };
    wire::AppendReply { outcome: outcome.into(), matching, vote, acts_at, full }
}

fn answer_from_wire(reply: &wire::AppendReply) -> Result<StreamAppendResult<Types>, RpcError> {
    use wire::append_reply::Outcome;
    let matching = reply.matching.as_ref().map(log_id_from_wire);
    match (reply.outcome(), matching) {
        (Outcome::Success | Outcome::Partial, matching) => Ok(Ok(matching)),
        (Outcome::Conflict, Some(at)) => Ok(Err(StreamAppendError::Conflict(at))),
        (Outcome::HigherVote, _) => {
            Ok(Err(StreamAppendError::HigherVote(vote_from_wire(&reply.vote.unwrap_or_default()))))
        }
        _ => Err(RPCError::Unreachable(unreachable("the answer means nothing"))),
    }
}
