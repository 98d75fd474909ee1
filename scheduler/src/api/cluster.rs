//! The cluster service: birth and membership, status, fingerprints, and the relay between replicas.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::{Op, Timestamp};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::wire::{
    AdmitReply, AdmitRequest, BackupPart, BackupRequest, ChangeMemberReply, ChangeMemberRequest,
    ClusterStatusReply, ClusterStatusRequest, FingerprintReply, FingerprintRequest, Held, InitReply,
    InitRequest, JoinReply, JoinRequest, MemberView, RelayDown, RelayUp, ReplicaSum, SetClockReply,
    SetClockRequest, TakeSnapshotReply, TakeSnapshotRequest, TransferLeadershipReply,
    TransferLeadershipRequest, backup_part, change_member_request::Change, relay_up,
};
use replication::{MembershipError, Voting};
use rpc::cluster_client::ClusterClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::forward::{Kind, Place, call, leader, mark};
use super::jobs::change;
use crate::leader::clock::wall_ms;
use crate::leader::{LinkId, Session};
use crate::limits::{CLOCK_SET_AHEAD_MAX, RELAY_QUEUE_MAX};
use crate::outlet::Outlet;
use crate::server::Node;

/// How long another replica may take to apply up to the point of a fingerprint and sum its rows.
const FINGERPRINT_WAIT: Duration = Duration::from_secs(12);

/// How long a replica waits to be admitted; longer than the leader takes for a membership change.
const ADMIT_WAIT: Duration = Duration::from_secs(20);

/// Chunks of a backup that are read ahead.
const BACKUP_PARTS_AHEAD: usize = 4;

/// A leader that was just elected has its session after this time, or does not lead.
const SESSION_WAIT: Duration = Duration::from_millis(500);

/// A member that answered the leader within this time counts as heard.
const HEARD_LATELY: Duration = Duration::from_secs(5);

/// The service behind `borealis cluster`.
#[derive(Debug)]
pub struct Operators {
    node: Arc<Node>,
}

impl Operators {
    /// The service of this replica.
    pub fn new(node: Arc<Node>) -> Self {
        Operators { node }
    }

    fn status_now(&self) -> ClusterStatusReply {
        let Ok(running) = self.node.running() else {
            return ClusterStatusReply {
                cluster: self.node.options.cluster.clone(),
                state: "belongs to no cluster yet: run `borealis cluster init` or `borealis cluster join`"
                    .to_owned(),
                wall_ms: wall_ms(),
                ..ClusterStatusReply::default()
            };
        };
        let (identity, status) = (running.replica.identity(), running.replica.status());
        let (apply_level, clock) =
            running.replica.read(|machine| (machine.state.cluster().level, machine.state.clock()));
        ClusterStatusReply {
            cluster: identity.cluster.clone(),
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id,
            epoch: identity.epoch,
            term: status.term,
            leader: status.leader.unwrap_or(0),
            members: status.members.iter().map(member_view).collect(),
            last_log_index: status.last_log,
            applied_index: status.applied,
            stored_index: status.stored,
            snapshot_index: status.snapshot,
            state: status.state,
            wall_ms: wall_ms(),
            stopped: running.replica.read(|machine| stopped(&machine.state)),
            committed_index: status.committed,
            purged_index: status.purged,
            sync_p99_us: status.sync_p99.map_or(0, |p99| (p99.as_micros() as u64).max(1)),
            log_bytes: status.log_bytes,
            snapshot_age_ms: status.snapshot_age.map_or(0, |age| (age.as_millis() as u64).max(1)),
            apply_level,
            acts_at: engine::limits::LEVEL,
            clock_ms: clock.0,
            age_ms: running.replica.age().map_or(u64::MAX, |age| age.as_millis() as u64),
            dir: self.node.options.dir.display().to_string(),
            held: running.replica.read(|machine| machine.state.hosts_back()).map(held),
        }
    }
}

fn held((hosts_back, hosts): (usize, usize)) -> Held {
    let count = |hosts| u32::try_from(hosts).unwrap_or(u32::MAX);
    Held { hosts_back: count(hosts_back), hosts: count(hosts) }
}

/// Which decisions are stopped, and what a person can do about it.
fn stopped(state: &engine::State) -> String {
    if let Some((back, all)) = state.hosts_back() {
        return format!(
            "held after a restore: nothing is placed, killed or expires; {back} of {all} hosts have come back; `borealis cluster resume` lets it go on"
        );
    }
    let why = if state.cluster().frozen {
        "frozen: nothing is placed, and nothing expires; `borealis cluster thaw` lets it go on"
    } else if state.braked().is_some() {
        "many hosts fell silent at once, so none of their tasks is replaced; as hosts return it goes on, or by `borealis cluster thaw`"
    } else {
        ""
    };
    why.to_owned()
}

fn member_view(member: &replication::Member) -> MemberView {
    MemberView {
        node_id: member.node_id,
        raft_address: member.raft_address.clone(),
        api_address: member.api_address.clone(),
        voter: member.voter,
        lag: member.lag,
        full: member.full,
        heard: member.heard.is_some_and(|ago| ago < HEARD_LATELY),
        learner: member.learner,
        heard_ms: member.heard.map_or(0, |ago| (ago.as_millis() as u64).max(1)),
        acts_at: member.acts_at.map_or(0, |level| level.get()),
    }
}

/// The sum of that member, if it was that member that answered at its address. An older program does not say who it is.
fn sum_of(member: &replication::Member, cluster_id: &str, reply: FingerprintReply) -> Result<String, String> {
    let is_meant = reply.node_id == member.node_id && reply.cluster_id == cluster_id;
    if reply.node_id == 0 || is_meant {
        return Ok(reply.sum);
    }
    let of = if reply.cluster_id == cluster_id {
        String::new()
    } else {
        format!(" of cluster {}", reply.cluster_id)
    };
    let (who, address) = (proto::NodeId(reply.node_id), &member.api_address);
    Err(format!("another replica answers at this address, {address}: {who}{of}"))
}

fn failed(why: impl std::fmt::Display) -> Status {
    Status::failed_precondition(why.to_string())
}

/// What a change of membership that did not happen means for whoever asked.
fn unchanged(why: MembershipError) -> Status {
    match why {
        MembershipError::Propose(why) => convert::unproposed(why),
        MembershipError::Refused(why) => failed(why),
    }
}

fn voting(learner: bool) -> Voting {
    if learner { Voting::Learner } else { Voting::Voter }
}

/// Goes on to its end when the caller goes away: a replica half born could neither serve nor be born again.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(work).await.map_err(|why| Status::internal(format!("the work broke off: {why}")))?
}

async fn begin_cluster(node: Arc<Node>) -> Result<replication::Identity, Status> {
    let _birth = node.birth.lock().await;
    unborn(&node).await?;
    let options = node.replication().map_err(failed)?;
    let identity = replication::init(&options).await.map_err(failed)?;
    node.start().await.map_err(|why| failed(format!("{why:#}")))?;
    tracing::info!(cluster_id = identity.cluster_id, "a new cluster");
    Ok(identity)
}

async fn join_cluster(
    node: Arc<Node>,
    JoinRequest { via, learner }: JoinRequest,
) -> Result<replication::Identity, Status> {
    let _birth = node.birth.lock().await;
    unborn(&node).await?;
    let options = node.replication().map_err(failed)?;
    // Before anybody hears of it: who is admitted is a member.
    replication::refuse_used(&options.dir).map_err(failed)?;
    let store_uuid = replication::store_uuid(&options.dir).map_err(failed)?;
    let ask = AdmitRequest {
        store_uuid: store_uuid.clone(),
        raft_address: node.options.raft_address().to_owned(),
        api_address: node.options.api_address().to_owned(),
        cluster: node.options.cluster.clone(),
        learner,
        acts_at: engine::limits::LEVEL,
    };
    let mut leader = ClusterClient::new(node.peers.channel(&via));
    let admitted = tokio::time::timeout(ADMIT_WAIT, leader.admit(ask)).await.map_err(|_| {
        Status::deadline_exceeded(format!(
            "{via} did not admit this replica in time; repeat the command: it goes on where it stopped"
        ))
    })??;
    let admitted = admitted.into_inner();
    let identity = replication::Identity {
        cluster_id: admitted.cluster_id,
        node_id: admitted.node_id,
        store_uuid,
        cluster: node.options.cluster.clone(),
        lineage_id: admitted.lineage_id,
        epoch: admitted.epoch,
    };
    replication::adopt(&options, &identity).await.map_err(failed)?;
    node.start().await.map_err(|why| failed(format!("{why:#}")))?;
    tracing::info!(cluster_id = identity.cluster_id, node_id = identity.node_id, "joined");
    Ok(identity)
}

/// Refuses a replica that is a member already. One whose earlier try ended before it ran runs after this.
async fn unborn(node: &Node) -> Result<(), Status> {
    let what = if node.running().is_ok() {
        "nothing was changed"
    } else if replication::identity(&node.options.dir).map_err(failed)?.is_some() {
        node.start().await.map_err(|why| failed(format!("{why:#}")))?;
        "it had not started then and runs now"
    } else {
        return Ok(());
    };
    let running = node.running()?;
    let identity = running.replica.identity();
    Err(Status::already_exists(format!(
        "this replica is {} of cluster {} already; {what}",
        proto::NodeId(identity.node_id),
        identity.cluster_id
    )))
}

#[tonic::async_trait]
impl rpc::cluster_server::Cluster for Operators {
    async fn init(&self, _: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        let identity = whole(begin_cluster(self.node.clone())).await?;
        Ok(Response::new(InitReply { cluster_id: identity.cluster_id, node_id: identity.node_id }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let identity = whole(join_cluster(self.node.clone(), request.into_inner())).await?;
        Ok(Response::new(JoinReply { cluster_id: identity.cluster_id, node_id: identity.node_id }))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitReply>, Status> {
        let running = self.node.running()?;
        let place = leader(&running, &request).await?;
        let ask = request.into_inner();
        let identity = running.replica.identity();
        if ask.cluster != identity.cluster {
            return Err(failed(format!(
                "the joining replica was started with --cluster {}, but this is cluster {}",
                ask.cluster, identity.cluster
            )));
        }
        if let Place::There(channel) = place {
            return call(&running, Kind::Change, ClusterClient::new(channel).admit(mark(ask))).await;
        }
        let (voting, acts_at) = (voting(ask.learner), ask.acts_at.max(1));
        let admitted = running
            .replica
            .admit(&ask.store_uuid, &ask.raft_address, &ask.api_address, voting, acts_at)
            .await
            .map_err(unchanged)?;
        Ok(Response::new(AdmitReply {
            cluster_id: identity.cluster_id.clone(),
            node_id: admitted.identity.node_id,
            members: admitted.members.iter().map(member_view).collect(),
            lineage_id: admitted.identity.lineage_id,
            epoch: admitted.identity.epoch,
        }))
    }

    async fn status(&self, _: Request<ClusterStatusRequest>) -> Result<Response<ClusterStatusReply>, Status> {
        Ok(Response::new(self.status_now()))
    }

    async fn fingerprint(
        &self,
        request: Request<FingerprintRequest>,
    ) -> Result<Response<FingerprintReply>, Status> {
        let running = self.node.running()?;
        if request.get_ref().at > 0 {
            let at = request.into_inner().at;
            let own = running.replica.fingerprint_of(at).await.ok_or_else(|| {
                Status::unavailable(format!("this replica has no sum of its rows at log index {at}"))
            })?;
            let sum = convert::hex(&own.sum);
            let identity = running.replica.identity();
            return Ok(Response::new(FingerprintReply {
                log_index: at,
                sum,
                replicas: vec![],
                node_id: identity.node_id,
                cluster_id: identity.cluster_id.clone(),
            }));
        }
        if let Place::There(channel) = leader(&running, &request).await? {
            return call(
                &running,
                Kind::Read,
                ClusterClient::new(channel).fingerprint(mark(request.into_inner())),
            )
            .await;
        }
        let own = running.replica.fingerprint().await.map_err(convert::unproposed)?;
        let asked = running.replica.status().members.into_iter().map(|member| {
            let (peers, identity) = (running.peers.clone(), running.replica.identity());
            async move {
                let ask = FingerprintRequest { at: own.index };
                let mut client = ClusterClient::new(peers.channel(&member.api_address));
                let said = if member.node_id == identity.node_id {
                    Ok(convert::hex(&own.sum))
                } else {
                    match tokio::time::timeout(FINGERPRINT_WAIT, client.fingerprint(ask)).await {
                        Ok(Ok(reply)) => sum_of(&member, &identity.cluster_id, reply.into_inner()),
                        Ok(Err(why)) => Err(why.message().to_owned()),
                        Err(_) => Err("no answer".to_owned()),
                    }
                };
                let (sum, problem) = match said {
                    Ok(sum) => (sum, String::new()),
                    Err(problem) => (String::new(), problem),
                };
                ReplicaSum { node_id: member.node_id, sum, problem }
            }
        });
        let replicas = futures::future::join_all(asked).await;
        Ok(Response::new(FingerprintReply {
            log_index: own.index,
            sum: convert::hex(&own.sum),
            replicas,
            node_id: running.replica.identity().node_id,
            cluster_id: running.replica.identity().cluster_id.clone(),
        }))
    }

    async fn change_member(
        &self,
        request: Request<ChangeMemberRequest>,
    ) -> Result<Response<ChangeMemberReply>, Status> {
        let running = self.node.running()?;
        let place = leader(&running, &request).await?;
        let ask = request.into_inner();
        if let Place::There(channel) = place {
            return call(&running, Kind::Change, ClusterClient::new(channel).change_member(mark(ask))).await;
        }
        let (replica, node_id, what) = (running.replica.clone(), ask.node_id, ask.change());
        let members = whole(async move {
            let changed = match what {
                Change::Promote => replica.set_voting(node_id, Voting::Voter).await,
                Change::Demote => replica.set_voting(node_id, Voting::Learner).await,
                Change::Remove => replica.remove(node_id).await,
                Change::Unspecified => {
                    return Err(Status::invalid_argument("the request does not say what shall change"));
                }
            };
            changed.map_err(unchanged)?;
            Ok(replica.status().members)
        })
        .await?;
        tracing::info!(node_id, ?what, "the membership was changed");
        Ok(Response::new(ChangeMemberReply { members: members.iter().map(member_view).collect() }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipReply>, Status> {
        let running = self.node.running()?;
        let place = leader(&running, &request).await?;
        let ask = request.into_inner();
        if let Place::There(channel) = place {
            // Not through `call`: that the leader changes meanwhile is what was asked for.
            let mut leader = ClusterClient::new(channel);
            return tokio::time::timeout(ADMIT_WAIT, leader.transfer_leadership(mark(ask))).await.map_err(
                |_| Status::deadline_exceeded("the leader did not answer in time; look who leads"),
            )?;
        }
        let begun = std::time::Instant::now();
        let to = (ask.to != 0).then_some(ask.to);
        let now = running.replica.transfer(to).await.map_err(unchanged)?;
        let took_us = begun.elapsed().as_micros() as u64;
        Ok(Response::new(TransferLeadershipReply { leader: Some(member_view(&now)), took_us }))
    }

    async fn set_clock(&self, request: Request<SetClockRequest>) -> Result<Response<SetClockReply>, Status> {
        let running = self.node.running()?;
        let place = leader(&running, &request).await?;
        let ask = request.into_inner();
        let session = match place {
            Place::Here(session) => session,
            Place::There(channel) => {
                let set =
                    call(&running, Kind::Change, ClusterClient::new(channel).set_clock(mark(ask))).await;
                return set.map_err(|status| match status.code() {
                    tonic::Code::Unimplemented => failed(
                        "the leader's program is of level 1, which knows no such command: start newer programs on all members first",
                    ),
                    _ => status,
                });
            }
        };
        let (before, own) = (session.now(), wall_ms());
        if ask.to_ms > own.saturating_add(CLOCK_SET_AHEAD_MAX.as_millis() as u64) {
            return Err(Status::invalid_argument(format!(
                "{} is after what the clock of the leader's machine shows ({}), and there is no way back: set the clocks of the machines first",
                Timestamp(ask.to_ms),
                Timestamp(own)
            )));
        }
        // Without a request id: the time is absolute and a repeated one changes nothing, and the cluster whose time is
        // far behind would refuse every request as made in the future.
        change(&session, Op::SetClock { to: Timestamp(ask.to_ms) }, None).await?;
        session.set_clock(ask.to_ms);
        let clock = running.replica.read(|machine| machine.state.clock());
        tracing::warn!(%before, %clock, "the cluster's clock was set by hand");
        Ok(Response::new(SetClockReply { before_ms: before.0, clock_ms: clock.0 }))
    }

    async fn take_snapshot(
        &self,
        _: Request<TakeSnapshotRequest>,
    ) -> Result<Response<TakeSnapshotReply>, Status> {
        let running = self.node.running()?;
        let meta = running.replica.snapshot_now().await.map_err(failed)?;
        Ok(Response::new(TakeSnapshotReply {
            node_id: running.replica.identity().node_id,
            log_index: meta.last.as_ref().map_or(0, |last| last.index),
            rows: meta.rows,
            bytes: meta.files.iter().map(|file| file.bytes).sum(),
            id: meta.id,
        }))
    }

    type BackupStream = BoxStream<'static, Result<BackupPart, Status>>;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let running = self.node.running()?;
        let backup = running.replica.backup().await.map_err(failed)?;
        let (parts, stream) = mpsc::channel(BACKUP_PARTS_AHEAD);
        tokio::task::spawn_blocking(move || {
            let part = |part| Ok(BackupPart { part: Some(part) });
            if parts.blocking_send(part(backup_part::Part::Manifest(backup.manifest().clone()))).is_err() {
                return;
            }
            let read = backup.chunks(|data| parts.blocking_send(part(backup_part::Part::Data(data))).is_ok());
            if let Err(why) = read {
                let _reader_may_be_gone = parts.blocking_send(Err(failed(why)));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }

    type RelayStream = BoxStream<'static, Result<RelayDown, Status>>;

    async fn relay(
        &self,
        request: Request<Streaming<RelayUp>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let running = self.node.running()?;
        // A relay often comes in the moments between the election and the session's first command.
        let mut sessions = running.sessions.clone();
        let begun = tokio::time::timeout(SESSION_WAIT, sessions.wait_for(Option::is_some)).await;
        let session = begun.ok().and_then(Result::ok).and_then(|session| session.clone());
        let session = session.ok_or_else(|| Status::unavailable("this replica does not lead"))?;
        let (down, frames) = mpsc::channel(RELAY_QUEUE_MAX);
        tokio::spawn(seat_relayed(session, request.into_inner(), down));
        Ok(Response::new(ReceiverStream::new(frames).map(Ok).boxed()))
    }
}

/// Seats the agents of another replica on this session until either ends.
async fn seat_relayed(session: Arc<Session>, mut up: Streaming<RelayUp>, down: mpsc::Sender<RelayDown>) {
    let mut links: BTreeMap<u64, LinkId> = BTreeMap::new();
    loop {
        let message = tokio::select! {
            message = up.message() => message,
            () = session.over() => break,
        };
        let Ok(Some(message)) = message else { break };
        match message.body {
            Some(relay_up::Body::Frame(frame)) => {
                let link = match links.get(&message.stream) {
                    Some(link) => Some(*link),
                    None => session.open(Outlet::Relayed { stream: message.stream, down: down.clone() }),
                };
                let Some(link) = link else { break };
                // Before anything can fail: whatever is opened here is closed below.
                links.insert(message.stream, link);
                if !session.frame(link, frame) {
                    break;
                }
            }
            Some(relay_up::Body::Closed(_)) => {
                if let Some(link) = links.remove(&message.stream) {
                    session.close(link);
                }
            }
            None => {}
        }
    }
    for link in links.into_values() {
        session.close(link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_counts_only_from_the_member_that_was_meant() {
        let member = replication::Member {
            node_id: 2,
            raft_address: "a:2".into(),
            api_address: "a:1".into(),
            store_uuid: "s".into(),
            voter: true,
            learner: false,
            lag: None,
            heard: None,
            acts_at: None,
            full: false,
        };
        let reply = |node_id, cluster_id: &str| FingerprintReply {
            sum: "aa".into(),
            node_id,
            cluster_id: cluster_id.into(),
            ..FingerprintReply::default()
        };
        assert_eq!(sum_of(&member, "c", reply(2, "c")).as_deref(), Ok("aa"));
        assert_eq!(sum_of(&member, "c", reply(0, "")).as_deref(), Ok("aa"), "an older program");
        for (other, words) in [(reply(3, "c"), "a:1: node-3"), (reply(2, "d"), "node-2 of cluster d")] {
            let why = sum_of(&member, "c", other).unwrap_err();
            assert!(why.contains("another replica answers at this address") && why.contains(words), "{why}");
        }
    }
}
