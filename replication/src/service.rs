//! What other replicas may ask of this one.

use proto::wire::raft as wire;
use tonic::{Request, Response, Status, Streaming};

/// Serves the calls of other replicas.
#[derive(Clone)]
pub struct RaftService {}

#[tonic::async_trait]
impl rpc::raft::raft_server::Raft for RaftService {
    type AppendStream = futures::stream::BoxStream<'static, Result<wire::AppendReply, Status>>;

    async fn append(&self, _: Request<Streaming<wire::AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        Err(Status::unavailable("not yet"))
    }
    async fn vote(&self, _: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        Err(Status::unavailable("not yet"))
    }
    async fn snapshot(&self, _: Request<Streaming<wire::SnapshotChunk>>) -> Result<Response<wire::SnapshotReply>, Status> {
        Err(Status::unavailable("not yet"))
    }
    async fn transfer(&self, _: Request<wire::TransferRequest>) -> Result<Response<wire::TransferReply>, Status> {
        Err(Status::unavailable("not yet"))
    }
}
