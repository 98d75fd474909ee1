//! Every replica answers; what the leader must do is forwarded to it, once.

use std::error::Error as _;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::leader::Session;
use crate::limits::LEADER_WAIT;
use crate::running::Running;
use crate::telemetry;

/// On a forwarded request: the receiver must lead, and never forwards again.
const FORWARDED: &str = "borealis-forwarded";
/// How long a forwarded request may take; longer than the leader itself waits.
const FORWARD_WAIT: Duration = Duration::from_secs(12);

/// Where the leader is.
pub enum Place {
    /// On this replica.
    Here(Arc<Session>),
    /// Behind this channel.
    There(Channel),
}

/// What a request does when its answer is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It reads: ask again.
    Read,
    /// It changes something: the fate is unknown.
    Change,
}

fn no_leader(why: &str) -> Status {
    Status::unavailable(format!("{why}; nothing was done: try again in a moment"))
}

/// Finds the leader; waits a little for one to appear.
pub async fn leader<T>(running: &Running, request: &Request<T>) -> Result<Place, Status> {
    let forwarded = request.metadata().contains_key(FORWARDED);
    let mut leadership = running.replica.leadership();
    let mut sessions = running.sessions.clone();
    let deadline = Instant::now() + LEADER_WAIT;
    loop {
        if let Some(session) = sessions.borrow_and_update().clone() {
            return Ok(Place::Here(session));
        }
        let now = leadership.borrow_and_update().clone();
        if let Some(member) = now.leader.filter(|_| !now.is_me && !forwarded) {
            return Ok(Place::There(running.peers.channel(&member.api_address)));
        }
        if forwarded && !now.is_me {
            return Err(no_leader("this replica leads no more"));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() && now.is_me && running.replica.status().full {
            return Err(no_leader(
                "the disk of the leader is nearly full, so it takes no changes, and no other replica has room either: make room (`borealis cluster status` shows where)",
            ));
        }
        if left.is_zero() {
            return Err(no_leader(
                "no leader is known: a majority of the replicas must run and reach each other",
            ));
        }
        tokio::select! {
            _ = sessions.changed() => {}
            _ = leadership.changed() => {}
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// Marks a request as forwarded.
pub fn mark<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
    request
}

/// Awaits a forwarded call, and says honestly what a lost answer means.
pub async fn call<T>(
    running: &Running,
    kind: Kind,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Response<T>, Status> {
    let mut leadership = running.replica.leadership();
    let before = leadership.borrow_and_update().clone();
    let moved = async {
        loop {
            if leadership.changed().await.is_err() {
                return std::future::pending().await;
            }
            let now = leadership.borrow_and_update();
            if now.leader.as_ref().map(|m| m.node_id) != before.leader.as_ref().map(|m| m.node_id) {
                return;
            }
        }
    };
    tokio::select! {
        answer = tokio::time::timeout(FORWARD_WAIT, call) => match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(judge(kind, status)),
            Err(_) => Err(lost(kind, "the leader did not answer in time")),
        },
        () = moved => Err(lost(kind, "the leader changed before it answered")),
    }
}

fn lost(kind: Kind, why: &str) -> Status {
    match kind {
        Kind::Read => Status::unavailable(format!("{why}; try again")),
        Kind::Change => Status::deadline_exceeded(format!(
            "{why}: whether the request was done is unknown; look, or repeat it (under the same id, if it has one)"
        )),
    }
}

/// An answer of the leader passes as it is; a broken connection does not mean that nothing happened.
fn judge(kind: Kind, status: Status) -> Status {
    let Some(source) = status.source() else { return status };
    let mut cause = Some(source);
    while let Some(error) = cause {
        if error.to_string().contains("tcp connect error") {
            return no_leader("the leader cannot be reached");
        }
        cause = error.source();
    }
    lost(kind, "the connection to the leader broke")
}

/// Counts a request and its time.
pub async fn measured<T>(
    operation: &'static str,
    work: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Response<T>, Status> {
    let begun = Instant::now();
    let answer = work.await;
    let outcome = match &answer {
        Ok(_) => "ok",
        Err(status) if status.code() == tonic::Code::DeadlineExceeded => "unknown",
        Err(status) if status.code() == tonic::Code::Unavailable => "unavailable",
        Err(_) => "refused",
    };
    metrics::counter!(telemetry::REQUESTS, "operation" => operation, "outcome" => outcome).increment(1);
    metrics::histogram!(telemetry::REQUEST_SECONDS, "operation" => operation)
        .record(begun.elapsed().as_secs_f64());
    answer
}
