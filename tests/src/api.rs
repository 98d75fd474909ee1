//! Typed calls to one replica, each with a deadline, and what an answer means for the one who asked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use proto::JobKey;
use proto::wire;
use rpc::borealis_client::BorealisClient;
use rpc::cluster_client::ClusterClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Longer than a replica itself waits for its log (and for a leader before that).
pub const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// As much as an answer about a large job may hold.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Answer<T> {
    /// It was done.
    Done(T),
    /// It was not done, and will not be: the code and the reason.
    Refused(Code, String),
    /// It may have been done, or may be done yet.
    Unknown(String),
}

impl<T> Answer<T> {
    /// The reply, or an error that says what came instead.
    pub fn done(self) -> Result<T> {
        match self {
            Answer::Done(reply) => Ok(reply),
            Answer::Refused(code, why) => bail!("refused ({code:?}): {why}"),
            Answer::Unknown(why) => bail!("fate unknown: {why}"),
        }
    }

    /// The code and reason of a refusal, or an error that says what came instead.
    pub fn refused(self) -> Result<(Code, String)> {
        match self {
            Answer::Done(_) => bail!("done, where a refusal was expected"),
            Answer::Refused(code, why) => Ok((code, why)),
            Answer::Unknown(why) => bail!("fate unknown, where a refusal was expected: {why}"),
        }
    }
}

impl<T> From<Result<tonic::Response<T>, Status>> for Answer<T> {
    fn from(answer: Result<tonic::Response<T>, Status>) -> Self {
        match answer {
            Ok(reply) => Answer::Done(reply.into_inner()),
            Err(status) if is_fate_unknown(&status) => Answer::Unknown(describe(&status)),
            Err(status) => Answer::Refused(status.code(), status.message().to_owned()),
        }
    }
}

/// Whether a failed call may have been done. `Unavailable` is a replica's word that nothing was done, but only
/// where a replica said it: the transport uses the same code for a connection that broke after the request left.
fn is_fate_unknown(status: &Status) -> bool {
    let from_transport = std::error::Error::source(status).is_some();
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => true,
        _ => from_transport && !never_connected(status),
    }
}

/// A request for which no connection could be made has not left.
fn never_connected(status: &Status) -> bool {
    describe(status).contains("tcp connect error")
}

fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// One replica's API.
#[derive(Clone, Debug)]
pub struct Api {
    /// HOST:PORT.
    pub address: String,
    channel: Channel,
    deadline: Duration,
}

impl Api {
    /// Connects when first used, and again whenever the connection broke. Needs a tokio runtime around it.
    pub fn new(address: &str) -> Result<Api> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .with_context(|| format!("{address:?} is not HOST:PORT"))?
            .connect_timeout(Duration::from_secs(2));
        Ok(Api { address: address.into(), channel: endpoint.connect_lazy(), deadline: CALL_DEADLINE })
    }

    /// The same replica, with another deadline for each call.
    pub fn within(&self, deadline: Duration) -> Api {
        Api { deadline, ..self.clone() }
    }

    fn users(&self) -> BorealisClient<Channel> {
        BorealisClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn operators(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    async fn call<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Answer<T> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(answer) => answer.into(),
            Err(_) => Answer::Unknown(format!("no answer from {} within {:?}", self.address, self.deadline)),
        }
    }

    /// Creates a job.
    pub async fn create_job(
        &self,
        request: &wire::Request,
        spec: &wire::JobSpec,
    ) -> Answer<wire::CreateJobReply> {
        let message = wire::CreateJobRequest { request: Some(request.clone()), spec: Some(spec.clone()) };
        self.call(self.users().create_job(message)).await
    }

    /// Kills instances of a job; none named = all.
    pub async fn kill_tasks(
        &self,
        request: &wire::Request,
        job: &JobKey,
        instances: &[u32],
    ) -> Answer<wire::KillTasksReply> {
        let message = wire::KillTasksRequest {
            request: Some(request.clone()),
            job: Some(job.into()),
            instances: instances.to_vec(),
            message: "killed by a test".into(),
        };
        self.call(self.users().kill_tasks(message)).await
    }

    /// Sets what a role's production tasks may take.
    pub async fn set_quota(
        &self,
        request: &wire::Request,
        role: &str,
        quota: wire::Resources,
    ) -> Answer<wire::SetQuotaReply> {
        let message = wire::SetQuotaRequest {
            request: Some(request.clone()),
            role: role.into(),
            quota: Some(quota),
            increment: true,
        };
        self.call(self.users().set_quota(message)).await
    }

    /// More instances of a job, like its instance 0.
    pub async fn add_instances(
        &self,
        request: &wire::Request,
        job: &JobKey,
        count: u32,
    ) -> Answer<wire::AddInstancesReply> {
        let job = Some(job.into());
        let message = wire::AddInstancesRequest { request: Some(request.clone()), job, like: 0, count };
        self.call(self.users().add_instances(message)).await
    }

    /// Why instances of a job wait.
    pub async fn why_pending(&self, job: &JobKey, instances: &[u32]) -> Answer<wire::WhyPendingReply> {
        let message = wire::WhyPendingRequest { job: Some(job.into()), instances: instances.to_vec() };
        self.call(self.users().why_pending(message)).await
    }

    /// What creating a job would do.
    pub async fn plan_job(&self, spec: &wire::JobSpec) -> Answer<wire::PlanJobReply> {
        self.call(self.users().plan_job(wire::PlanJobRequest { spec: Some(spec.clone()) })).await
    }

    /// A job and its tasks, linearizable.
    pub async fn get_job(&self, job: &JobKey) -> Answer<wire::GetJobReply> {
        let message = wire::GetJobRequest { job: Some(job.into()), ..Default::default() };
        self.call(self.users().get_job(message)).await
    }

    /// The same, with its task config.
    pub async fn get_job_and_config(&self, job: &JobKey) -> Answer<wire::GetJobReply> {
        let message = wire::GetJobRequest { job: Some(job.into()), config: true, ..Default::default() };
        self.call(self.users().get_job(message)).await
    }

    /// The quotas of all roles, and what they take.
    pub async fn get_quota(&self) -> Answer<wire::GetQuotaReply> {
        self.call(self.users().get_quota(wire::GetQuotaRequest::default())).await
    }

    /// All jobs, linearizable.
    pub async fn list_jobs(&self) -> Answer<wire::ListJobsReply> {
        self.call(self.users().list_jobs(wire::ListJobsRequest::default())).await
    }

    /// All hosts.
    pub async fn list_hosts(&self) -> Answer<wire::ListHostsReply> {
        self.call(self.users().list_hosts(wire::ListHostsRequest {})).await
    }

    /// Hosts get no tasks, and theirs move away.
    pub async fn drain_hosts(
        &self,
        request: &wire::Request,
        hosts: &[String],
    ) -> Answer<wire::DrainHostsReply> {
        let message = wire::DrainHostsRequest {
            request: Some(request.clone()),
            hosts: hosts.to_vec(),
            message: "drained by a test".into(),
        };
        self.call(self.users().drain_hosts(message)).await
    }

    /// What this replica says of itself.
    pub async fn status(&self) -> Answer<wire::ClusterStatusReply> {
        self.call(self.operators().status(wire::ClusterStatusRequest {})).await
    }

    /// The sums of all replicas' State at one point of the log.
    pub async fn fingerprint(&self) -> Answer<wire::FingerprintReply> {
        self.call(self.operators().fingerprint(wire::FingerprintRequest { at: 0 })).await
    }

    /// Makes this replica the first of a new cluster.
    pub async fn init(&self) -> Answer<wire::InitReply> {
        self.call(self.operators().init(wire::InitRequest {})).await
    }

    /// Makes this replica a member of the cluster that the replica `via` belongs to.
    pub async fn join(&self, via: &str) -> Answer<wire::JoinReply> {
        self.call(self.operators().join(wire::JoinRequest { via: via.into(), learner: false })).await
    }
}

/// A request under a fresh id.
pub fn request(identity: &str) -> wire::Request {
    let created_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let id = format!("{identity}-{:032x}", rand::random::<u128>());
    wire::Request { identity: identity.into(), id, created_ms, ..wire::Request::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_port_is_a_refusal_and_a_silent_one_is_unknown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let api = Api::new(&address).unwrap().within(Duration::from_millis(200));
        assert!(matches!(api.init().await, Answer::Unknown(_)), "nobody answers on {address}");
        drop((api, listener));
        // Where nobody ever listens.
        let api = Api::new("127.0.0.1:1").unwrap();
        let (code, why) = api.init().await.refused().unwrap();
        assert_eq!(code, Code::Unavailable, "{why}");
    }

    #[test]
    fn a_replica_that_says_it_did_nothing_is_believed() {
        let answer: Answer<()> = Err(Status::unavailable("no leader; nothing was done")).into();
        assert!(matches!(answer, Answer::Refused(Code::Unavailable, _)));
        let answer: Answer<()> = Err(Status::deadline_exceeded("unknown")).into();
        assert!(matches!(answer, Answer::Unknown(_)));
    }
}
