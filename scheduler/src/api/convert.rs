//! State into messages, refusals into statuses. The only file that does.

use engine::state::host::HostMode;
use engine::state::record::{host_spec_wire, status_wire};
use engine::{EndedTask, Refusal, RefusalKind, State, Task};
use proto::wire::{self, HostView, JobSummary, NamedPort, StatusCount, TaskView};
use proto::{JobKey, TaskId};
use replication::{ProposeError, ReadError};
use tonic::{Code, Status};

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What apply refused, for a client.
pub fn refused(refusal: &Refusal) -> Status {
    let code = match refusal.kind {
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::AlreadyExists => Code::AlreadyExists,
        RefusalKind::Invalid | RefusalKind::RequestReused => Code::InvalidArgument,
        RefusalKind::Stale | RefusalKind::HostRefused | RefusalKind::RequestExpired => {
            Code::FailedPrecondition
        }
        RefusalKind::Limit | RefusalKind::Quota => Code::ResourceExhausted,
    };
    Status::new(code, refusal.message.clone())
}

/// What became of a proposal that has no answer.
pub fn unproposed(why: ProposeError) -> Status {
    match why {
        ProposeError::Busy { .. } => busy(format!("{why}; nothing was done")),
        ProposeError::NotLeader { .. } | ProposeError::Stopped { .. } | ProposeError::NoRoom => {
            Status::unavailable(format!("{why}; nothing was done"))
        }
        ProposeError::TooLarge { .. } | ProposeError::Unreadable(_) => {
            Status::invalid_argument(why.to_string())
        }
        ProposeError::Unknown { .. } => Status::deadline_exceeded(format!(
            "{why}: whether the request was done is unknown; look, or repeat it (under the same id, if it has one)"
        )),
    }
}

/// Why a read was not possible.
pub fn unread(why: ReadError) -> Status {
    match why {
        ReadError::Busy { .. } => busy(why.to_string()),
        _ => Status::unavailable(format!("{why}; try again")),
    }
}

/// A queue is full: says when to come again, also to gRPC libraries that heed it.
fn busy(why: String) -> Status {
    let mut status = Status::unavailable(why);
    let after_ms = replication::RETRY_AFTER.as_millis() as u64;
    status.metadata_mut().insert("grpc-retry-pushback-ms", after_ms.into());
    status
}

/// A live task. `reason` is why it is pending, if a round has looked at it.
pub fn task_view(state: &State, task: &Task, reason: Option<&str>) -> TaskView {
    let host = task.host.and_then(|host| state.host(host));
    let message = reason.or(task.message.as_deref()).unwrap_or_default();
    TaskView {
        task_id: task.id.0,
        instance: task.instance,
        status: status_wire(task.status).into(),
        since_ms: task.since.0,
        host: host.map(|host| host.name().to_string()).unwrap_or_default(),
        agent_address: host.map(|host| host.record.spec.address.clone()).unwrap_or_default(),
        ports: task
            .named_ports()
            .map(|(name, port)| NamedPort { name: name.to_string(), port: port.into() })
            .collect(),
        message: message.to_owned(),
        ancestor: task.ancestor.map_or(0, |TaskId(id)| id),
    }
}

/// An ended task.
pub fn ended_view(state: &State, task: &EndedTask) -> TaskView {
    let agent = task.host.as_deref().and_then(|name| state.host_by_name(name));
    TaskView {
        task_id: task.id.0,
        instance: task.instance,
        status: status_wire(task.status).into(),
        since_ms: task.at.0,
        host: task.host.as_deref().unwrap_or_default().to_owned(),
        agent_address: agent.map(|host| host.record.spec.address.clone()).unwrap_or_default(),
        ports: Vec::new(),
        message: task.message.as_deref().unwrap_or_default().to_owned(),
        ancestor: task.ancestor.map_or(0, |TaskId(id)| id),
    }
}

/// A line of `job list`.
pub fn summary(job: &engine::Job) -> JobSummary {
    let counts = job.counts();
    JobSummary {
        key: Some(key(job.key())),
        instances: job.instances(),
        pending: counts.waiting(),
        active: counts.moving(),
        running: counts.of(engine::Status::Running),
        service: job.config().service,
    }
}

/// Live tasks of a job by status; statuses that none has are left out.
pub fn counts(job: &engine::Job) -> Vec<StatusCount> {
    let counts = engine::Status::ALL
        .into_iter()
        .map(|status| StatusCount { status: status_wire(status).into(), tasks: job.counts().of(status) });
    counts.filter(|count| count.tasks > 0).collect()
}

/// A job key.
pub fn key(key: &JobKey) -> proto::wire::JobKey {
    key.into()
}

/// A host and what it has left.
pub fn host_view(host: &engine::Host) -> HostView {
    HostView {
        host_id: host.id().0,
        spec: Some(host_spec_wire(&host.record.spec)),
        free: Some(host.free().into()),
        tasks: u32::try_from(host.tasks().len()).unwrap_or(u32::MAX),
        silent: host.is_silent(),
        mode: match host.mode() {
            HostMode::Active => wire::HostMode::HostActive,
            HostMode::Draining => wire::HostMode::HostDraining,
            HostMode::Drained => wire::HostMode::HostDrained,
        }
        .into(),
        unused: Some(host.lendable().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_says_when_to_come_again() {
        let busy = [
            unproposed(ProposeError::Busy { commands: 16_384, bytes: 9 }),
            unread(ReadError::Busy { reads: 16_384 }),
        ];
        for status in busy {
            assert!(status.message().contains("retry after 100 ms"), "{status}");
            assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "100");
        }
        assert!(unread(ReadError::NoQuorum).metadata().is_empty());
    }
}
