//! The service for users: jobs and hosts.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::limits::INSTANCES_NAMED_MAX;
use engine::state::command::Request as Asked;
use engine::{ConfigHash, Op, Plan, Timestamp};
use prost::Message;
use proto::JobKey;
use proto::wire::{
    self, ActivateHostsReply, ActivateHostsRequest, AddInstancesReply, AddInstancesRequest, CreateJobReply,
    CreateJobRequest, DrainHostsReply, DrainHostsRequest, FreezeReply, FreezeRequest, GetJobReply,
    GetJobRequest, GetQuotaReply, GetQuotaRequest, KillTasksReply, KillTasksRequest, ListHostsReply,
    ListHostsRequest, ListJobsReply, ListJobsRequest, PlanJobReply, PlanJobRequest, RestartTasksReply,
    RestartTasksRequest, ResumeReply, ResumeRequest, SetQuotaReply, SetQuotaRequest, WhyPendingReply,
    WhyPendingRequest,
};
use rpc::borealis_client::BorealisClient;
use sha2::Digest as _;
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::forward::{Kind, Place, call, leader, mark, measured};
use super::{convert, why};
use crate::leader::{Reasons, Session};
use crate::limits::{
    ANSWER_BYTES_MAX, FOLLOWER_READ_WAIT, JOBS_PER_ANSWER_MAX, PLANS_MAX, REQUEST_WAIT, ROLES_PER_ANSWER_MAX,
    TASKS_PER_ANSWER_MAX,
};
use crate::running::Running;
use crate::server::Node;

/// The service behind `borealis job` and `borealis host`.
#[derive(Debug)]
pub struct Jobs {
    node: Arc<Node>,
    /// Plans in the making.
    plans: Arc<Semaphore>,
}

impl Jobs {
    /// The service of this replica.
    pub fn new(node: Arc<Node>) -> Self {
        Jobs { node, plans: Arc::new(Semaphore::new(PLANS_MAX)) }
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
        created: Timestamp(request.created_ms),
        body_hash: sha2::Sha256::digest(body.encode_to_vec()).to_vec(),
    })
}

/// Goes on with the request where this replica leads, or answers with what the leader does: gives names to what runs
/// here, the session, and the message.
macro_rules! led {
    ($self:ident, $request:ident, $kind:ident, $method:ident => $running:ident, $session:ident, $ask:ident) => {
        let $running = $self.node.running()?;
        let place = leader(&$running, &$request).await?;
        #[allow(unused_mut, reason = "only changes take their request out")]
        let mut $ask = $request.into_inner();
        let $session = match place {
            Place::Here(session) => session,
            Place::There(channel) => {
                let mut leader = users(channel);
                return call(&$running, Kind::$kind, leader.$method(mark($ask))).await;
            }
        };
    };
}

/// Goes on with a read that State alone can answer where this replica shows everything acknowledged before, or answers
/// with what the leader says: gives names to what runs here, and the message.
macro_rules! shown {
    ($self:ident, $request:ident, $method:ident => $running:ident, $ask:ident) => {
        let $running = $self.node.running()?;
        let elsewhere = reader(&$running, &$request).await?;
        let $ask = $request.into_inner();
        if let Some(channel) = elsewhere {
            return call(&$running, Kind::Read, users(channel).$method(mark($ask))).await;
        }
    };
}

/// The service of the replica behind a channel. Its answers may be large.
fn users(channel: Channel) -> BorealisClient<Channel> {
    BorealisClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// Refuses a list of instances that is too long.
#[allow(clippy::result_large_err, reason = "tonic's own error type, at the door")]
fn few(instances: &[u32]) -> Result<(), Status> {
    if instances.len() <= INSTANCES_NAMED_MAX {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "a request names at most {INSTANCES_NAMED_MAX} instances, or none for all; not {}",
        instances.len()
    )))
}

fn no_job(key: &JobKey) -> Box<Status> {
    Box::new(Status::not_found(format!(
        "there is no job {key}; `borealis job list {}` shows those of the role",
        key.role
    )))
}

fn busy() -> Status {
    Status::unavailable("the leader has too much to do, or leads no more; try again in a moment")
}

/// Puts a user's operation through the log, under the request's id if it has one.
pub(super) async fn change(
    session: &Session,
    op: Op,
    asked: impl Into<Option<Asked>>,
) -> Result<engine::Done, Status> {
    let asked = asked.into();
    let next =
        if asked.is_some() { "repeat it with the same request id, or look" } else { "look, or repeat it" };
    match tokio::time::timeout(REQUEST_WAIT, session.propose(op, asked)).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(refusal))) => Err(convert::refused(&refusal)),
        Ok(Err(why)) => Err(convert::unproposed(why)),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer from the log within {} s: whether the request was done is unknown; {next}",
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

/// Whether this replica, which does not lead, shows everything acknowledged before; else the leader must be asked.
async fn fresh_here(running: &Running) -> bool {
    matches!(tokio::time::timeout(FOLLOWER_READ_WAIT, running.replica.barrier()).await, Ok(Ok(())))
}

/// Where a read is answered that State alone can answer: here, once this replica shows everything acknowledged
/// before, or behind the channel to the leader.
async fn reader<T>(running: &Running, request: &Request<T>) -> Result<Option<Channel>, Status> {
    match leader(running, request).await? {
        Place::Here(session) => fresh(&session).await.map(|()| None),
        Place::There(_) if fresh_here(running).await => Ok(None),
        Place::There(channel) => Ok(Some(channel)),
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

/// The configs of tasks of a job that are pending, where any is: why they are is counted beside the leader's loop.
fn pending(running: &Running, key: &JobKey) -> Vec<ConfigHash> {
    running.replica.read(|machine| {
        let state = &machine.state;
        let Some(job) = state.job(key).filter(|job| job.counts().of(engine::Status::Pending) > 0) else {
            return Vec::new();
        };
        let tasks = state.tasks_of(job).take(TASKS_PER_ANSWER_MAX);
        let pending = tasks.filter(|task| task.status == engine::Status::Pending);
        let configs: BTreeSet<_> = pending.map(|task| task.config.hash).collect();
        configs.into_iter().collect()
    })
}

/// Whether a job has tasks that wait for something: until when, and for what, only the leader can say.
fn waits(running: &Running, key: &JobKey) -> bool {
    use engine::Status::{Partitioned, Pending, Throttled};
    running.replica.read(|machine| {
        let job = machine.state.job(key);
        job.is_some_and(|job| [Pending, Throttled, Partitioned].iter().any(|is| job.counts().of(*is) > 0))
    })
}

/// A job, as this replica has it. With `now` of a leader, where this one leads, and why its tasks are pending.
fn read_job(
    running: &Running,
    now: Option<Timestamp>,
    reasons: &Reasons,
    key: &JobKey,
    ask: &GetJobRequest,
) -> Result<GetJobReply, Box<Status>> {
    let named: BTreeSet<u32> = ask.instances.iter().copied().collect();
    running.replica.read(|machine| {
        let state = &machine.state;
        let job = state.job(key).ok_or_else(|| no_job(key))?;
        let is_named = |instance| named.is_empty() || named.contains(&instance);
        let tasks = state.tasks_of(job).filter(|task| is_named(task.instance));
        let now = now.unwrap_or_default().max(state.clock());
        let tasks = tasks
            .take(TASKS_PER_ANSWER_MAX)
            .map(|task| convert::task_view(state, task, why::of_task(state, now, reasons, task).as_deref()));
        let mut spec = wire::JobSpec { config: None, instances: job.instances() };
        if ask.config {
            spec.config = Some(job.config().wire.clone());
        }
        Ok(GetJobReply {
            spec: Some(spec),
            tasks: tasks.collect(),
            ended: job
                .ended()
                .filter(|task| is_named(task.instance))
                .map(|task| convert::ended_view(state, task))
                .collect(),
            age_ms: 0,
            counts: convert::counts(job),
            over: job
                .instances()
                .saturating_sub(job.counts().total())
                .saturating_sub(state.still_to_make(job.id())),
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
            led!(self, request, Change, create_job => running, session, ask);
            let spec = ask.spec.ok_or_else(|| Status::invalid_argument("the request describes no job"))?;
            let by = asked(ask.request, &spec)?;
            self.key(spec.config.as_ref().and_then(|config| config.job.as_ref()))?;
            let spec = engine::validate::check_job_spec(&spec)
                .map_err(|bad| Status::invalid_argument(format!("the job is not valid: {bad}")))?;
            let done = change(&session, Op::CreateJob(spec), by).await?;
            Ok(Response::new(CreateJobReply { tasks: done.tasks, unchanged: done.unchanged }))
        })
        .await
    }

    async fn kill_tasks(
        &self,
        request: Request<KillTasksRequest>,
    ) -> Result<Response<KillTasksReply>, Status> {
        measured("kill_tasks", async {
            led!(self, request, Change, kill_tasks => running, session, ask);
            let by = ask.request.take();
            let by = asked(by, &ask)?;
            let job = self.key(ask.job.as_ref())?;
            few(&ask.instances)?;
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
            few(&request.get_ref().instances)?;
            if request.get_ref().stale {
                let age_ms = age_ms(&running)?;
                let reply = read_job(&running, None, &Reasons::new(), &key, request.get_ref());
                let reply = reply.map_err(|why| *why)?;
                return Ok(Response::new(GetJobReply { age_ms, ..reply }));
            }
            let (now, reasons) = match leader(&running, &request).await? {
                Place::Here(session) => {
                    fresh(&session).await?;
                    (Some(session.now()), session.reasons(pending(&running, &key)).await)
                }
                Place::There(_) if fresh_here(&running).await && !waits(&running, &key) => {
                    (None, Reasons::new())
                }
                Place::There(channel) => {
                    let ask = mark(request.into_inner());
                    return call(&running, Kind::Read, users(channel).get_job(ask)).await;
                }
            };
            let reply = read_job(&running, now, &reasons, &key, request.get_ref());
            reply.map(Response::new).map_err(|why| *why)
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
            shown!(self, request, list_jobs => running, ask);
            Ok(Response::new(read_jobs(&running, &ask)))
        })
        .await
    }

    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsReply>, Status> {
        measured("list_hosts", async {
            shown!(self, request, list_hosts => running, _ask);
            let hosts =
                running.replica.read(|machine| machine.state.hosts().map(convert::host_view).collect());
            Ok(Response::new(ListHostsReply { hosts }))
        })
        .await
    }

    async fn restart_tasks(
        &self,
        request: Request<RestartTasksRequest>,
    ) -> Result<Response<RestartTasksReply>, Status> {
        measured("restart_tasks", async {
            led!(self, request, Change, restart_tasks => running, session, ask);
            let by = asked(ask.request.take(), &ask)?;
            let job = self.key(ask.job.as_ref())?;
            few(&ask.instances)?;
            let op = Op::RestartTasks { job, instances: ask.instances, message: ask.message };
            let done = change(&session, op, by).await?;
            Ok(Response::new(RestartTasksReply { tasks: done.tasks }))
        })
        .await
    }

    async fn add_instances(
        &self,
        request: Request<AddInstancesRequest>,
    ) -> Result<Response<AddInstancesReply>, Status> {
        measured("add_instances", async {
            led!(self, request, Change, add_instances => running, session, ask);
            let by = asked(ask.request.take(), &ask)?;
            let job = self.key(ask.job.as_ref())?;
            let done =
                change(&session, Op::AddInstances { job, like: ask.like, count: ask.count }, by).await?;
            Ok(Response::new(AddInstancesReply { tasks: done.tasks }))
        })
        .await
    }

    async fn why_pending(
        &self,
        request: Request<WhyPendingRequest>,
    ) -> Result<Response<WhyPendingReply>, Status> {
        measured("why_pending", async {
            led!(self, request, Read, why_pending => running, session, ask);
            let key = self.key(ask.job.as_ref())?;
            few(&ask.instances)?;
            fresh(&session).await?;
            let now = session.now();
            let whys = session.look(move |view, state| {
                let job = state.job(&key).ok_or_else(|| no_job(&key))?;
                match job.without(&ask.instances) {
                    Some(without) => Err(Box::new(Status::not_found(without))),
                    None => Ok(why::of_job(view, state, now, job, &ask.instances)),
                }
            });
            let whys: Result<_, Box<Status>> = whys.await.ok_or_else(busy)?;
            Ok(Response::new(WhyPendingReply { whys: whys.map_err(|why| *why)? }))
        })
        .await
    }

    async fn plan_job(&self, request: Request<PlanJobRequest>) -> Result<Response<PlanJobReply>, Status> {
        measured("plan_job", async {
            led!(self, request, Read, plan_job => running, session, ask);
            let spec = ask.spec.ok_or_else(|| Status::invalid_argument("the request describes no job"))?;
            self.key(spec.config.as_ref().and_then(|config| config.job.as_ref()))?;
            let spec = engine::validate::check_job_spec(&spec)
                .map_err(|bad| Status::invalid_argument(format!("the job is not valid: {bad}")))?;
            fresh(&session).await?;
            let turn = self.plans.clone().try_acquire_owned().map_err(|_| {
                Status::unavailable(format!(
                    "{PLANS_MAX} plans are being made already; try again in a moment"
                ))
            })?;
            let asked = spec.clone();
            let plan = session.look(move |view, _| Plan::new(view, &asked)).await.ok_or_else(busy)?;
            // Beside the leader's loop: it may take seconds.
            let reply = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                why::plan(plan, &spec, |show| running.replica.read(|machine| show(&machine.state)))
            });
            let reply = reply.await.map_err(|why| Status::internal(format!("the plan broke off: {why}")))?;
            Ok(Response::new(reply))
        })
        .await
    }

    async fn get_quota(&self, request: Request<GetQuotaRequest>) -> Result<Response<GetQuotaReply>, Status> {
        measured("get_quota", async {
            shown!(self, request, get_quota => running, ask);
            let roles = running.replica.read(|machine| {
                let roles =
                    machine.state.roles().filter(|(name, _)| ask.role.is_empty() || *name == ask.role);
                let view = |(name, role)| why::quota_view(&machine.state, name, role);
                roles.take(ROLES_PER_ANSWER_MAX).map(view).collect()
            });
            Ok(Response::new(GetQuotaReply { roles }))
        })
        .await
    }

    async fn set_quota(&self, request: Request<SetQuotaRequest>) -> Result<Response<SetQuotaReply>, Status> {
        measured("set_quota", async {
            led!(self, request, Change, set_quota => running, session, ask);
            let by = asked(ask.request.take(), &ask)?;
            let quota = ask.quota.ok_or_else(|| Status::invalid_argument("the request says no amounts"))?;
            let quota = proto::Resources::try_from(&quota)
                .map_err(|bad| Status::invalid_argument(format!("the quota is not valid: {bad}")))?;
            let op = Op::SetQuota { role: ask.role.clone(), quota, increment: ask.increment };
            change(&session, op, by).await?;
            let quota = running.replica.read(|machine| {
                machine.state.role(&ask.role).and_then(|role| role.quota).unwrap_or_default()
            });
            Ok(Response::new(SetQuotaReply { quota: Some(quota.into()) }))
        })
        .await
    }

    async fn drain_hosts(
        &self,
        request: Request<DrainHostsRequest>,
    ) -> Result<Response<DrainHostsReply>, Status> {
        measured("drain_hosts", async {
            led!(self, request, Change, drain_hosts => running, session, ask);
            let by = asked(ask.request.take(), &ask)?;
            let op = Op::DrainHosts { hosts: ask.hosts, message: ask.message };
            let done = change(&session, op, by).await?;
            Ok(Response::new(DrainHostsReply { tasks: done.tasks }))
        })
        .await
    }

    async fn activate_hosts(
        &self,
        request: Request<ActivateHostsRequest>,
    ) -> Result<Response<ActivateHostsReply>, Status> {
        measured("activate_hosts", async {
            led!(self, request, Change, activate_hosts => running, session, ask);
            let by = asked(ask.request.take(), &ask)?;
            change(&session, Op::ActivateHosts { hosts: ask.hosts }, by).await?;
            Ok(Response::new(ActivateHostsReply {}))
        })
        .await
    }

    async fn freeze(&self, request: Request<FreezeRequest>) -> Result<Response<FreezeReply>, Status> {
        measured("freeze", async {
            led!(self, request, Change, freeze => running, session, ask);
            let by = asked(ask.request.take(), &ask)?;
            change(&session, Op::Freeze { frozen: ask.frozen }, by).await?;
            let held = running.replica.read(|machine| machine.state.hosts_back().is_some());
            Ok(Response::new(FreezeReply { held }))
        })
        .await
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<ResumeReply>, Status> {
        measured("resume", async {
            led!(self, request, Change, resume => running, session, ask);
            let by = asked(ask.request.take(), &ask)?;
            change(&session, Op::Resume, by).await?;
            Ok(Response::new(ResumeReply {}))
        })
        .await
    }
}
