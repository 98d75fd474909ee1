//! What other replicas may ask of this one. A message for another cluster, node or store is refused before Raft
//! sees it, and so is one that cannot be read.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use proto::wire::raft as wire;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::Identity;
use crate::adapter::Adapter;
use crate::error::StoreError;
use crate::freshness::Freshness;
use crate::ground;
use crate::identity::off_thread;
use crate::log::lock;
use crate::membership::Fingerprint;
use crate::raft::{
    LEVEL, Types, entry_from_wire, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire,
};
use crate::reads;
use crate::snapshot::{self, Incoming};
use crate::state::cut::Pending;
use crate::telemetry;
use crate::transport::{REFUSED, REMOVED, answer_to_wire};

/// Chunks of all rows that are read ahead.
const FETCH_CHUNKS_AHEAD: usize = 4;
/// How long a hand-over waits for the entries before it.
const TRANSFER_WAIT: Duration = Duration::from_millis(500);
/// Between two warnings of one peer's messages that are refused for one reason.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Peers and reasons that are warned of within that time.
const WARNED_MAX: usize = 64;

pub(crate) type Raft = openraft::Raft<Types, Adapter>;
type RaftSnapshot = openraft::alias::SnapshotOf<Types, Arc<snapshot::Snapshot>>;

/// The replica's word on its rows.
#[tonic::async_trait]
pub(crate) trait Sums: Send + Sync {
    /// The sum at that entry, once it is known.
    async fn sum_at(&self, index: u64) -> Option<Fingerprint>;
    /// A majority has this sum there.
    fn quarantine(&self, index: u64, majority: [u8; 8]);
}

/// Serves the calls of other replicas.
#[derive(Clone)]
pub struct RaftService {
    pub(crate) raft: Raft,
    pub(crate) identity: Arc<Identity>,
    pub(crate) dir: PathBuf,
    /// How long a read waits for a quorum.
    pub(crate) read_max: Duration,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) adapter: Adapter,
    pub(crate) sums: Arc<dyn Sums>,
    /// The highest level that the machine can act at.
    pub(crate) acts_at: u32,
    /// Whether the disk is nearly full.
    pub(crate) full: Arc<AtomicBool>,
    /// Which transfer of a snapshot is the newest; held while it writes.
    pub(crate) receiving: Arc<tokio::sync::Mutex<u64>>,
    /// Whose refused messages were spoken of lately.
    pub(crate) warned: Arc<Mutex<Warned>>,
}

/// When a refusal was last put in words, by the peer and the reason: a replica of another cluster comes again many
/// times a second, for as long as it runs.
#[derive(Debug, Default)]
pub(crate) struct Warned(BTreeMap<(u64, &'static str), Instant>);

impl Warned {
    /// Whether to speak of it now.
    fn is_due(&mut self, peer: u64, reason: &'static str, now: Instant) -> bool {
        self.0.retain(|_, at| now.saturating_duration_since(*at) < WARN_EVERY);
        if self.0.contains_key(&(peer, reason)) || self.0.len() >= WARNED_MAX {
            return false;
        }
        self.0.insert((peer, reason), now);
        true
    }
}

impl RaftService {
    fn check(&self, peer: Option<&wire::Peer>) -> Result<(), Status> {
        let removed = |id: u64| self.pending.with(|present| present.at.removed.contains(&id));
        let checked = check_peer(&self.identity, peer).and_then(|()| check_removed(peer, removed));
        checked.map_err(|(reason, why)| {
            telemetry::refused(reason);
            let from = peer.map_or(0, |peer| peer.from);
            if reason == REMOVED || !lock(&self.warned).is_due(from, reason, Instant::now()) {
                tracing::debug!("a message was refused: {why}");
            } else {
                tracing::warn!(
                    from,
                    "messages of another replica are refused: {why}; this is said once a minute at most"
                );
            }
            let mut status = Status::failed_precondition(why);
            status.metadata_mut().insert(REFUSED, MetadataValue::from_static(reason));
            status
        })
    }
}

impl RaftService {
    /// Without room, no entries and no snapshot; what keeps the peace is heard.
    fn check_room(&self) -> Result<(), Status> {
        if !self.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        telemetry::refused("no_room");
        Err(Status::resource_exhausted(format!(
            "the disk of node {} is nearly full; it takes no entries until there is room",
            self.identity.node_id
        )))
    }
}

/// A replica that was removed may not have heard of it, and must not disturb those that are left.
fn check_removed(
    peer: Option<&wire::Peer>,
    removed: impl Fn(u64) -> bool,
) -> Result<(), (&'static str, String)> {
    match peer {
        Some(peer) if removed(peer.from) => Err((
            REMOVED,
            format!(
                "node {} was removed from the cluster; to use this machine again, let a replica with an empty directory join",
                peer.from
            ),
        )),
        _ => Ok(()),
    }
}

/// Whether a message is meant for this replica; otherwise a short reason and a sentence.
fn check_peer(me: &Identity, peer: Option<&wire::Peer>) -> Result<(), (&'static str, String)> {
    let Some(peer) = peer else {
        return Err(("nobody", "the message does not say who speaks to whom".into()));
    };
    if peer.level > LEVEL {
        let newer = peer.level;
        return Err((
            "level",
            format!(
                "node {} speaks at level {newer}, this one understands levels up to {LEVEL}; upgrade this replica",
                peer.from
            ),
        ));
    }
    if peer.cluster_id != me.cluster_id {
        return Err(("cluster", format!("this is cluster {}, not {}", me.cluster_id, peer.cluster_id)));
    }
    if peer.to != me.node_id {
        return Err(("node", format!("this is node {}, not {}", me.node_id, peer.to)));
    }
    if peer.to_store_uuid != me.store_uuid {
        return Err(("store", format!("this is store {}, not {}", me.store_uuid, peer.to_store_uuid)));
    }
    if peer.from == me.node_id || peer.from == 0 {
        return Err(("node", format!("node {} cannot be another replica", peer.from)));
    }
    Ok(())
}

/// Index of the newest entry that the machine has applied.
pub(crate) fn applied(raft: &Raft) -> u64 {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.last_applied.map_or(0, |id| id.index)
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this replica has stopped: {error}"))
}

fn broken(error: StoreError) -> Status {
    match error {
        StoreError::Corrupt(_) | StoreError::Arrived { .. } | StoreError::Rows { .. } => {
            Status::data_loss(error.to_string())
        }
        other => Status::internal(other.to_string()),
    }
}

fn append_from_wire(message: wire::AppendRequest) -> Result<AppendEntriesRequest<Types>, Status> {
    let vote = message.vote.as_ref().ok_or_else(|| Status::invalid_argument("the message has no vote"))?;
    let entries = message.entries.into_iter().map(entry_from_wire).collect::<Result<Vec<_>, _>>();
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(vote),
        prev_log_id: message.previous.as_ref().map(log_id_from_wire),
        leader_commit: message.committed.as_ref().map(log_id_from_wire),
        entries: entries.map_err(|unread| Status::invalid_argument(unread.to_string()))?,
    })
}

#[tonic::async_trait]
impl rpc::raft::raft_server::Raft for RaftService {
    type AppendStream = BoxStream<'static, Result<wire::AppendReply, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        // Why the input ended early; told to the caller behind the answers that are due.
        let ended: Arc<Mutex<Option<Status>>> = Arc::default();
        let why = Arc::clone(&ended);
        let this = self.clone();
        // What each message said was committed, and when it came; answers come in the order of the messages.
        let said: Arc<Mutex<VecDeque<(u64, Instant)>>> = Arc::default();
        let asked = Arc::clone(&said);
        let input = futures::stream::unfold(request.into_inner(), move |mut messages| {
            let (this, why, asked) = (this.clone(), Arc::clone(&why), Arc::clone(&asked));
            async move {
                let next = match messages.message().await {
                    Ok(Some(message)) => this
                        .check(message.peer.as_ref())
                        .and_then(|()| if message.entries.is_empty() { Ok(()) } else { this.check_room() })
                        .and_then(|()| append_from_wire(message)),
                    Ok(None) => return None,
                    Err(status) => Err(status),
                };
                match next {
                    Ok(request) => {
                        let committed = request.leader_commit.map_or(0, |id| id.index);
                        lock(&asked).push_back((committed, Instant::now()));
                        Some((request, messages))
                    }
                    Err(status) => {
                        *lock(&why) = Some(status);
                        None
                    }
                }
            }
        });
        let this = self.clone();
        let answers = self.raft.stream_append(input).map(move |answer| {
            let said = lock(&said).pop_front();
            match answer {
                Ok(answer) => {
                    if let (Ok(_), Some((committed, at))) = (&answer, said) {
                        this.freshness.heard(committed, at, applied(&this.raft));
                    }
                    Ok(answer_to_wire(&answer, this.acts_at, this.full.load(Ordering::Relaxed)))
                }
                Err(fatal) => Err(stopped(fatal)),
            }
        });
        let last = futures::stream::once(async move { lock(&ended).take() })
            .filter_map(|status| async move { status.map(Err) });
        Ok(Response::new(answers.chain(last).boxed()))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        let message = request.into_inner();
        self.check(message.peer.as_ref())?;
        let vote =
            message.vote.as_ref().ok_or_else(|| Status::invalid_argument("the message has no vote"))?;
        let mut asked = VoteRequest::new(vote_from_wire(vote), message.last.as_ref().map(log_id_from_wire));
        asked.leadership_transfer = message.forced;
        let reply = if message.pre { self.raft.pre_vote(asked).await } else { self.raft.vote(asked).await };
        let reply = reply.map_err(stopped)?;
        Ok(Response::new(wire::VoteReply {
            vote: Some(vote_to_wire(&reply.vote)),
            granted: reply.vote_granted,
            last: reply.last_log_id.as_ref().map(log_id_to_wire),
        }))
    }

    async fn place(
        &self,
        request: Request<wire::SnapshotHeader>,
    ) -> Result<Response<wire::SnapshotPlace>, Status> {
        let header = request.into_inner();
        self.check(header.peer.as_ref())?;
        self.check_room()?;
        let meta = header.meta.ok_or_else(|| Status::invalid_argument("the header names no snapshot"))?;
        let home = snapshot::home(&self.dir);
        // A transfer that is still under way goes no further: this one takes over.
        let mut newest = self.receiving.lock().await;
        *newest += 1;
        let incoming = off_thread(move || Incoming::begin(&home, meta)).await.map_err(broken)?;
        Ok(Response::new(incoming.place()))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotChunk>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        use wire::snapshot_chunk::Body;
        let mut chunks = request.into_inner();
        let Some(wire::SnapshotChunk { body: Some(Body::Header(header)) }) = chunks.message().await? else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        self.check(header.peer.as_ref())?;
        self.check_room()?;
        let (Some(vote), Some(meta)) = (header.vote, header.meta) else {
            return Err(Status::invalid_argument("the header lacks the vote or the snapshot's description"));
        };
        let vote = vote_from_wire(&vote);
        // A sender that was deposed need not send it all.
        let current = self.raft.metrics().borrow_watched().vote;
        if current > vote {
            return Ok(Response::new(wire::SnapshotReply { vote: Some(vote_to_wire(&current)) }));
        }
        let home = snapshot::home(&self.dir);
        let ticket = {
            let mut newest = self.receiving.lock().await;
            *newest += 1;
            *newest
        };
        let mut incoming = off_thread(move || Incoming::begin(&home, meta)).await.map_err(broken)?;
        while let Some(chunk) = chunks.message().await? {
            let Some(Body::Data(data)) = chunk.body else {
                return Err(Status::invalid_argument("a snapshot has one header"));
            };
            let newest = self.receiving.lock().await;
            if *newest != ticket {
                return Err(Status::aborted("another transfer goes on with it"));
            }
            let bytes = data.bytes.len();
            incoming = off_thread(move || incoming.take(&data).map(|()| incoming)).await.map_err(broken)?;
            telemetry::snapshot_bytes("received", bytes);
        }
        let snapshot = off_thread(move || incoming.finish()).await.map_err(broken)?;
        // Before anything here gives way to it.
        let looked_at = Arc::clone(&snapshot);
        if let Err(damaged) = off_thread(move || snapshot::check_rows(&looked_at)).await {
            snapshot.doom();
            return Err(broken(damaged));
        }
        let meta = snapshot.raft_meta().map_err(|corrupt| Status::data_loss(corrupt.to_string()))?;
        let arrived = Arc::clone(&snapshot);
        let reply = self.raft.install_full_snapshot(vote, RaftSnapshot { meta, snapshot }).await;
        self.adapter.drop_unless_kept(&arrived);
        let reply = reply.map_err(stopped)?;
        Ok(Response::new(wire::SnapshotReply { vote: Some(vote_to_wire(&reply.vote)) }))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexReply>, Status> {
        self.check(request.get_ref().peer.as_ref())?;
        let confirmed = reads::confirmed(&self.raft, self.read_max).await;
        let index = confirmed.map_err(|why| Status::unavailable(why.to_string()))?;
        Ok(Response::new(wire::ReadIndexReply { index }))
    }

    async fn sum(&self, request: Request<wire::SumRequest>) -> Result<Response<wire::SumReply>, Status> {
        let asked = request.into_inner();
        self.check(asked.peer.as_ref())?;
        let own = self.sums.sum_at(asked.index).await;
        let own = own.ok_or_else(|| Status::unavailable(format!("no sum at entry {}", asked.index)))?;
        if let Some(majority) = asked.majority {
            self.sums.quarantine(asked.index, majority.to_be_bytes());
        }
        Ok(Response::new(wire::SumReply { sum: u64::from_be_bytes(own.sum) }))
    }

    type FetchStream = BoxStream<'static, Result<wire::SnapshotChunk, Status>>;

    async fn fetch(
        &self,
        request: Request<wire::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        use wire::snapshot_chunk::Body;
        self.check(request.get_ref().peer.as_ref())?;
        let snapshot = self.adapter.take_snapshot().await.map_err(broken)?;
        let (chunks, stream) = tokio::sync::mpsc::channel(FETCH_CHUNKS_AHEAD);
        ground::spawn(async move {
            let header = wire::SnapshotHeader { meta: Some(snapshot.meta.clone()), peer: None, vote: None };
            let mut next = Ok(Body::Header(header));
            let mut unread = snapshot::chunks(snapshot, None);
            while chunks.send(next.map(|body| wire::SnapshotChunk { body: Some(body) })).await.is_ok() {
                let Ok((Some(read), rest)) = ground::blocking(move || (unread.next(), unread)).await else {
                    return;
                };
                (next, unread) = (read.map(Body::Data).map_err(broken), rest);
            }
        });
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(stream).boxed()))
    }

    async fn transfer(
        &self,
        request: Request<wire::TransferRequest>,
    ) -> Result<Response<wire::TransferReply>, Status> {
        let message = request.into_inner();
        self.check(message.peer.as_ref())?;
        let from =
            message.from.as_ref().ok_or_else(|| Status::invalid_argument("the message has no vote"))?;
        // What is on its way shall arrive first: openraft drops the call at a replica that lacks entries.
        if let Some(last) = &message.last {
            let wait = self.raft.wait(Some(TRANSFER_WAIT));
            let _too_late_is_dropped = wait.log_index_at_least(Some(last.index), "hand-over").await;
        }
        let asked = TransferLeaderRequest::new(
            vote_from_wire(from),
            message.to,
            message.last.as_ref().map(log_id_from_wire),
        );
        match self.raft.handle_transfer_leader(asked).await.map_err(stopped)? {
            Ok(()) => Ok(Response::new(wire::TransferReply {})),
            Err(refused) => Err(Status::aborted(refused.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_spoken_of_once_a_minute_for_each_peer() {
        let (mut warned, now) = (Warned::default(), Instant::now());
        assert!(warned.is_due(2, "cluster", now));
        assert!(!warned.is_due(2, "cluster", now + Duration::from_secs(59)));
        assert!(warned.is_due(2, "store", now) && warned.is_due(3, "cluster", now));
        assert!(warned.is_due(2, "cluster", now + Duration::from_secs(60)));
        let many = (0..1000).filter(|peer| warned.is_due(*peer, "node", now + Duration::from_secs(60)));
        assert!(many.count() < WARNED_MAX);
    }

    #[test]
    fn a_message_for_somebody_else_is_refused() {
        let me = Identity {
            cluster_id: "c".into(),
            node_id: 2,
            store_uuid: "s".into(),
            cluster: "west".into(),
            lineage_id: "c".into(),
            epoch: 1,
        };
        let peer = |cluster_id: &str, from, to, store: &str| wire::Peer {
            cluster_id: cluster_id.into(),
            from,
            to,
            to_store_uuid: store.into(),
            level: LEVEL,
        };
        assert_eq!(check_peer(&me, Some(&peer("c", 1, 2, "s"))), Ok(()));
        for bad in [
            None,
            Some(peer("other", 1, 2, "s")),
            Some(peer("c", 1, 3, "s")),
            Some(peer("c", 1, 2, "t")),
            Some(peer("c", 1, 2, "")),
            Some(peer("c", 2, 2, "s")),
            Some(peer("c", 0, 2, "s")),
            Some(wire::Peer { level: LEVEL + 1, ..peer("c", 1, 2, "s") }),
        ] {
            assert!(check_peer(&me, bad.as_ref()).is_err(), "{bad:?}");
        }
    }
}
