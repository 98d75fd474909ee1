//! The service for users: jobs and hosts.

use std::sync::Arc;

use engine::Op;
use engine::state::command::Request as Asked;
use prost::Message;
use proto::JobKey;
use proto::wire::{
    self, CreateJobReply, CreateJobRequest, GetJobReply, GetJobRequest, KillTasksReply, KillTasksRequest,
    ListHostsReply, ListHostsRequest, ListJobsReply, ListJobsRequest,
};
use rpc::borealis_client::BorealisClient;
use sha2::Digest as _;
use tonic::{Request, Response, Status};

use super::convert;
use super::forward::{Kind, Place, call, leader, mark, measured};
use crate::leader::Session;
use crate::limits::{JOBS_PER_ANSWER_MAX, REQUEST_WAIT, TASKS_PER_ANSWER_MAX};
use crate::running::Running;
use crate::server::Node;

/// The service behind `borealis job` and `borealis host`.
#[derive(Debug)]
pub struct Jobs {
    node: Arc<Node>,
}

impl Jobs {
    /// The service of this replica.
    pub fn new(node: Arc<Node>) -> Self {
        Jobs { node }
    }

    /// A job key of this cluster.
    #[allow(clippy::result_large_err, reason = "tonic's own error type, at the door")]
    fn key(&self, key: Option<&wire::JobKey>) -> Result<JobKey, Status> {
        let key = key.ok_or_else(|| Status::invalid_argument("the request names no job"))?;
        let key = JobKey::try_from(key).map_err(|bad| Status::invalid_argument(format!("job key: {bad}")))?;
        let own = &self.node.options.cluster;
        if key.cluster != *own {
            return Err(Status::invalid_argument(format!(
                "{key} is a job of cluster {}, but this is cluster {own}; check the key and the addresses",
                key.cluster
            )));
        }
        Ok(key)
    }
}

/// Who asks, with the hash of what is asked; refuses a request without an id.
#[allow(clippy::result_large_err, reason = "tonic's own error type, at the door")]
fn asked(request: Option<wire::Request>, body: &impl Message) -> Result<Asked, Status> {
    let request = request.filter(|request| !request.id.is_empty()).ok_or_else(|| {
        Status::invalid_argument(
            "the request has no request id; without one a repeated request would be done twice",
        )
    })?;
    Ok(Asked {
        identity: request.identity,
        id: request.id,
        created: engine::Timestamp(request.created_ms),
        body_hash: sha2::Sha256::digest(body.encode_to_vec()).to_vec(),
    })
}

/// Puts a user's operation through the log.
async fn change(session: &Session, op: Op, asked: Asked) -> Result<engine::Done, Status> {
    match tokio::time::timeout(REQUEST_WAIT, session.propose(op, Some(asked))).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(refusal))) => Err(convert::refused(&refusal)),
        Ok(Err(why)) => Err(convert::unproposed(why)),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer from the log within {} s: whether the request was done is unknown; repeat it with the same request id, or look",
            REQUEST_WAIT.as_secs()
        ))),
    }
}

/// Waits until this leader may answer for everything acknowledged before.
async fn fresh(session: &Session) -> Result<(), Status> {
    match tokio::time::timeout(REQUEST_WAIT, session.barrier()).await {
        Ok(answer) => answer.map_err(convert::unread),
        Err(_) => {
            Err(Status::unavailable("no majority of the replicas confirmed the leader in time; try again"))
        }
    }
}

/// How old an answer from this replica's own State is at most.
#[allow(clippy::result_large_err, reason = "tonic's own error type, at the door")]
fn age_ms(running: &Running) -> Result<u64, Status> {
    let age = running.replica.age().ok_or_else(|| {
        Status::unavailable(
            "this replica has heard no leader since it started, so the age of its State is unknown",
        )
    })?;
    Ok(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

fn read_job(
    running: &Running,
    session: Option<&Session>,
    key: &JobKey,
    config: bool,
) -> Result<GetJobReply, Box<Status>> {
    running.replica.read(|machine| {
        let state = &machine.state;
        let job = state.job(key).ok_or_else(|| {
            Status::not_found(format!(
                "there is no job {key}; `borealis job list {}` shows those of the role",
                key.role
            ))
        })?;
        let tasks = state.tasks_of(job).take(TASKS_PER_ANSWER_MAX).map(|task| {
            let reason = match task.status {
                engine::Status::Pending => session.and_then(|session| session.why_pending(&task.config.hash)),
                _ => None,
            };
            convert::task_view(state, task, reason.as_ref().map(|group| group.reason.as_str()))
        });
        let mut spec = wire::JobSpec { config: None, instances: job.instances() };
        if config {
            spec.config = Some(job.config().wire.clone());
        }
        Ok(GetJobReply {
            spec: Some(spec),
            tasks: tasks.collect(),
            ended: job.ended().map(|task| convert::ended_view(state, task)).collect(),
            age_ms: 0,
        })
    })
}

fn read_jobs(running: &Running, ask: &ListJobsRequest) -> ListJobsReply {
    let some = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
    let (role, environment) = (some(&ask.role), some(&ask.environment));
    running.replica.read(|machine| ListJobsReply {
        jobs: machine
            .state
            .jobs(role.as_deref(), environment.as_deref())
            .take(JOBS_PER_ANSWER_MAX)
            .map(convert::summary)
            .collect(),
        age_ms: 0,
    })
}

#[tonic::async_trait]
impl rpc::borealis_server::Borealis for Jobs {
    async fn create_job(
        &self,
        request: Request<CreateJobRequest>,
    ) -> Result<Response<CreateJobReply>, Status> {
        measured("create_job", async {
            let running = self.node.running()?;
            let place = leader(&running, &request).await?;
            let ask = request.into_inner();
            let session = match place {
                Place::Here(session) => session,
                Place::There(channel) => {
                    return call(&running, Kind::Change, BorealisClient::new(channel).create_job(mark(ask)))
                        .await;
                }
            };
            let spec = ask.spec.ok_or_else(|| Status::invalid_argument("the request describes no job"))?;
            let by = asked(ask.request, &spec)?;
            self.key(spec.config.as_ref().and_then(|config| config.job.as_ref()))?;
            let spec = engine::validate::check_job_spec(&spec)
                .map_err(|bad| Status::invalid_argument(format!("the job is not valid: {bad}")))?;
            let done = change(&session, Op::CreateJob(spec), by).await?;
            Ok(Response::new(CreateJobReply { tasks: done.tasks }))
        })
        .await
    }

    async fn kill_tasks(
        &self,
        request: Request<KillTasksRequest>,
    ) -> Result<Response<KillTasksReply>, Status> {
        measured("kill_tasks", async {
            let running = self.node.running()?;
            let place = leader(&running, &request).await?;
            let mut ask = request.into_inner();
            let session = match place {
                Place::Here(session) => session,
                Place::There(channel) => {
                    return call(&running, Kind::Change, BorealisClient::new(channel).kill_tasks(mark(ask)))
                        .await;
                }
            };
            let by = ask.request.take();
            let by = asked(by, &ask)?;
            let job = self.key(ask.job.as_ref())?;
            let op = Op::KillTasks { job, instances: ask.instances, message: ask.message };
            let done = change(&session, op, by).await?;
            Ok(Response::new(KillTasksReply { tasks: done.tasks }))
        })
        .await
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<GetJobReply>, Status> {
        measured("get_job", async {
            let running = self.node.running()?;
            let key = self.key(request.get_ref().job.as_ref())?;
            if request.get_ref().stale {
                let age_ms = age_ms(&running)?;
                let reply = read_job(&running, None, &key, request.get_ref().config).map_err(|why| *why)?;
                return Ok(Response::new(GetJobReply { age_ms, ..reply }));
            }
            match leader(&running, &request).await? {
                Place::Here(session) => {
                    fresh(&session).await?;
                    read_job(&running, Some(&session), &key, request.get_ref().config)
                        .map(Response::new)
                        .map_err(|why| *why)
                }
                Place::There(channel) => {
                    let ask = mark(request.into_inner());
                    call(&running, Kind::Read, BorealisClient::new(channel).get_job(ask)).await
                }
            }
        })
        .await
    }

    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsReply>, Status> {
        measured("list_jobs", async {
            let running = self.node.running()?;
            if request.get_ref().stale {
                let age_ms = age_ms(&running)?;
                return Ok(Response::new(ListJobsReply { age_ms, ..read_jobs(&running, request.get_ref()) }));
            }
            match leader(&running, &request).await? {
                Place::Here(session) => {
                    fresh(&session).await?;
                    Ok(Response::new(read_jobs(&running, request.get_ref())))
                }
                Place::There(channel) => {
                    let ask = mark(request.into_inner());
                    call(&running, Kind::Read, BorealisClient::new(channel).list_jobs(ask)).await
                }
            }
        })
        .await
    }

    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsReply>, Status> {
        measured("list_hosts", async {
            let running = self.node.running()?;
            match leader(&running, &request).await? {
                Place::Here(session) => {
                    fresh(&session).await?;
                    let hosts = running
                        .replica
                        .read(|machine| machine.state.hosts().map(convert::host_view).collect());
                    Ok(Response::new(ListHostsReply { hosts }))
                }
                Place::There(channel) => {
                    let ask = mark(request.into_inner());
                    call(&running, Kind::Read, BorealisClient::new(channel).list_hosts(ask)).await
                }
            }
        })
        .await
    }
}
