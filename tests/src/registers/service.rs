//! The register map's gRPC door at one replica.

use std::pin::Pin;

use bytes::Bytes;
use futures::future::{Either, ready};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream, StreamExt as _};
use metrics_exporter_prometheus::PrometheusHandle;
use prost::Message as _;
use replication::{MembershipError, PendingAnswer, ProposeError, Proposed, ReadError, Replica, Voting};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};

use super::machine::{Registers, Reply};
use super::wire::command::Kind;
use super::wire::registers_server;
use super::wire::*;

/// Commands of one stream without an answer at most; more are busy. Their bytes are bounded by the replica's queue.
const STREAM_COMMANDS_MAX: usize = 4096;
/// Answers of one message at most.
const ANSWERS_MAX: usize = 512;
/// Messages of answers that wait for a client that does not read.
const MESSAGES_WAITING_MAX: usize = 4;

/// Serves one replica.
#[derive(Clone)]
pub struct Service {
    /// Of the map.
    pub replica: Replica<Registers>,
    /// A named break: reads show whatever stands here, so that a test can prove that this is noticed.
    pub stale_reads: bool,
    /// What this process counts.
    pub metrics: PrometheusHandle,
}

fn refused(error: ProposeError) -> Refused {
    let why = error.to_string();
    let (code, leader) = match error {
        ProposeError::NotLeader { leader } => (Code::Unavailable, leader.map(|leader| leader.api_address)),
        ProposeError::Busy { .. } | ProposeError::NoRoom => (Code::ResourceExhausted, None),
        ProposeError::TooLarge { .. } | ProposeError::Unreadable(_) => (Code::InvalidArgument, None),
        // Whatever else there is, the client must not take it for a no.
        _ => (Code::Unknown, None),
    };
    Refused { code: code as i32, why, leader: leader.unwrap_or_default() }
}

fn status(refused: Refused) -> Status {
    let mut status = Status::new(Code::from_i32(refused.code), refused.why);
    if let Ok(leader) = MetadataValue::try_from(&refused.leader)
        && !refused.leader.is_empty()
    {
        status.metadata_mut().insert("leader", leader);
    }
    status
}

fn unreadable(error: ReadError) -> Status {
    let why = error.to_string();
    let leader = match error {
        ReadError::NotLeader { leader } => leader.map(|leader| leader.api_address).unwrap_or_default(),
        _ => String::new(),
    };
    status(Refused { code: Code::Unavailable as i32, why, leader })
}

impl Service {
    async fn propose(&self, kind: Kind) -> Result<Reply, Status> {
        let command = Bytes::from(Command { kind: Some(kind) }.encode_to_vec());
        match self.replica.propose(command).await {
            Ok(Proposed { reply, .. }) => Ok(reply),
            Err(error) => Err(status(refused(error))),
        }
    }

    fn submit(&self, numbered: Numbered, waiting: usize) -> impl Future<Output = Answered> + use<> {
        let number = numbered.number;
        let submitted = match numbered.command {
            _ if waiting >= STREAM_COMMANDS_MAX => Err(ProposeError::Busy { commands: waiting, bytes: 0 }),
            command => self.replica.submit(command.unwrap_or_default().encode_to_vec().into()),
        };
        let answer: Either<PendingAnswer<Registers>, _> = match submitted {
            Ok(answer) => Either::Left(answer),
            Err(error) => Either::Right(ready(Err(error))),
        };
        answer.map(move |answer| Answered {
            number,
            kind: Some(match answer {
                Ok(Proposed { reply: Reply::Put(put), .. }) => answered::Kind::Put(put),
                Ok(Proposed { reply: Reply::Cas(cas), .. }) => answered::Kind::Cas(cas),
                Err(error) => answered::Kind::Refused(refused(error)),
            }),
        })
    }

    /// Takes commands and gives answers until the client has sent its last command and has every answer.
    async fn serve(
        self,
        mut asked: Streaming<ProposeRequest>,
        answers: mpsc::Sender<Result<ProposeReply, Status>>,
    ) {
        let mut waiting = FuturesUnordered::new();
        let mut open = true;
        while open || !waiting.is_empty() {
            tokio::select! {
                message = asked.message(), if open => match message {
                    Ok(Some(message)) => {
                        for numbered in message.commands {
                            waiting.push(self.submit(numbered, waiting.len()));
                        }
                    }
                    Ok(None) => open = false,
                    // The client is gone; what was submitted goes its way.
                    Err(_) => return,
                },
                Some(first) = waiting.next(), if !waiting.is_empty() => {
                    let mut reply = ProposeReply { answers: vec![first] };
                    while reply.answers.len() < ANSWERS_MAX
                        && let Some(Some(next)) = waiting.next().now_or_never()
                    {
                        reply.answers.push(next);
                    }
                    // While the client does not read, nothing more is taken from it.
                    if answers.send(Ok(reply)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl registers_server::Registers for Service {
    type ProposeStream = Pin<Box<dyn Stream<Item = Result<ProposeReply, Status>> + Send>>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutReply>, Status> {
        match self.propose(Kind::Put(request.into_inner())).await? {
            Reply::Put(put) => Ok(Response::new(put)),
            Reply::Cas(_) => Err(Status::internal("a put was answered as a compare-and-set")),
        }
    }

    async fn cas(&self, request: Request<CasRequest>) -> Result<Response<CasReply>, Status> {
        match self.propose(Kind::Cas(request.into_inner())).await? {
            Reply::Cas(cas) => Ok(Response::new(cas)),
            Reply::Put(_) => Err(Status::internal("a compare-and-set was answered as a put")),
        }
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        if !self.stale_reads {
            self.replica.barrier().await.map_err(unreadable)?;
        }
        let register = self.replica.read(|map| map.get(&request.get_ref().key));
        Ok(Response::new(GetReply { register: Some(register) }))
    }

    async fn propose(
        &self,
        request: Request<Streaming<ProposeRequest>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        let (answers, given) = mpsc::channel(MESSAGES_WAITING_MAX);
        tokio::spawn(self.clone().serve(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(given).boxed()))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let status = self.replica.status();
        Ok(Response::new(StatusReply {
            node_id: status.node_id,
            state: status.state,
            term: status.term,
            leader: status.leader.unwrap_or(0),
            voters: status.members.iter().filter(|member| member.voter).count() as u32,
            last_log: status.last_log,
            committed: status.committed,
            applied: status.applied,
            stored: status.stored,
            snapshot: status.snapshot,
            purged: status.purged,
        }))
    }

    async fn sum(&self, request: Request<SumRequest>) -> Result<Response<SumReply>, Status> {
        let found = match request.get_ref().index {
            0 => self.replica.fingerprint().await.map_err(|error| status(refused(error)))?,
            index => {
                let found = self.replica.fingerprint_of(index).await;
                found.ok_or_else(|| Status::not_found(format!("there is no sum at index {index}")))?
            }
        };
        Ok(Response::new(SumReply { index: found.index, sum: found.sum.to_vec().into() }))
    }

    async fn metrics(&self, _: Request<MetricsRequest>) -> Result<Response<MetricsReply>, Status> {
        Ok(Response::new(MetricsReply { text: self.metrics.render() }))
    }

    async fn take_snapshot(
        &self,
        _: Request<TakeSnapshotRequest>,
    ) -> Result<Response<TakeSnapshotReply>, Status> {
        self.replica.snapshot().await;
        Ok(Response::new(TakeSnapshotReply {}))
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitReply>, Status> {
        let asked = request.into_inner();
        match self
            .replica
            .admit(&asked.store_uuid, &asked.raft_address, &asked.api_address, Voting::Voter, 1)
            .await
        {
            Ok(admitted) => Ok(Response::new(AdmitReply {
                cluster_id: admitted.identity.cluster_id,
                node_id: admitted.identity.node_id,
                lineage_id: admitted.identity.lineage_id,
                epoch: admitted.identity.epoch,
            })),
            Err(MembershipError::Propose(error)) => Err(status(refused(error))),
            Err(error) => Err(Status::failed_precondition(error.to_string())),
        }
    }
}
