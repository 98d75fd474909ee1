//! The memory of requests: a repeated one gets the first one's answer. Bounded, never evicted early.

use std::sync::Arc;

use super::State;
use super::command::{Refusal, RefusalKind, Reply, Request};
use super::touch::{Key, Touch};
use crate::limits::{REQUEST_AHEAD_MS, REQUEST_ID_BYTES_MAX, REQUEST_WINDOW_MS, REQUESTS_MAX};
use crate::time::Timestamp;

/// Under what a request is remembered.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RequestKey {
    /// Of the caller.
    pub identity: String,
    /// Unique per identity.
    pub id: String,
}

/// What is remembered of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// Under what.
    pub key: Arc<RequestKey>,
    /// Of what was asked.
    pub body_hash: Box<[u8]>,
    /// How long it is kept.
    pub until: Timestamp,
    /// What was answered.
    pub reply: Reply,
}

/// What State says of a request before it is carried out.
pub(super) enum Known {
    /// It is new.
    New,
    /// It was answered before; this is the answer.
    Answered(Reply),
    /// It cannot be carried out; this is not remembered.
    Refused(Refusal),
}

impl State {
    pub(super) fn look_up_request(&self, request: &Request) -> Known {
        let refuse = |kind, message| Known::Refused(Refusal::new(kind, message));
        if request.id.is_empty() || request.id.len() > REQUEST_ID_BYTES_MAX {
            return refuse(
                RefusalKind::Invalid,
                format!("a request id has 1 to {REQUEST_ID_BYTES_MAX} bytes"),
            );
        }
        if request.identity.len() > REQUEST_ID_BYTES_MAX || request.body_hash.len() > REQUEST_ID_BYTES_MAX {
            return refuse(
                RefusalKind::Invalid,
                format!("identity and body hash have at most {REQUEST_ID_BYTES_MAX} bytes"),
            );
        }
        let clock = self.cluster.clock;
        let key = RequestKey { identity: request.identity.clone(), id: request.id.clone() };
        if let Some(known) = self.requests.get(&key) {
            if *known.body_hash == request.body_hash[..] {
                return Known::Answered(known.reply.clone());
            }
            return refuse(
                RefusalKind::RequestReused,
                format!("request id {:?} was used before for something else; make a new id", request.id),
            );
        }
        if clock > request.created.plus_ms(REQUEST_WINDOW_MS) {
            return refuse(
                RefusalKind::RequestExpired,
                format!(
                    "request {:?} was made at {}, more than an hour before the cluster's time {clock}: its fate is unknown; look before you retry with a new id",
                    request.id, request.created
                ),
            );
        }
        if request.created > clock.plus_ms(REQUEST_AHEAD_MS) {
            return refuse(
                RefusalKind::RequestExpired,
                format!(
                    "request {:?} claims to be made at {}, more than five minutes after the cluster's time {clock}; set the caller's clock",
                    request.id, request.created
                ),
            );
        }
        if self.requests.len() >= REQUESTS_MAX {
            return refuse(
                RefusalKind::Limit,
                format!(
                    "the cluster remembers {REQUESTS_MAX} requests of the last hour and has no room for another; retry later"
                ),
            );
        }
        Known::New
    }

    /// Refusals are remembered as well: a copy of a refused request that arrives late must not be carried out.
    pub(super) fn remember(&mut self, request: Request, reply: &Reply, touch: &mut Touch) {
        let until = self.cluster.clock.max(request.created).plus_ms(REQUEST_WINDOW_MS);
        let key = Arc::new(RequestKey { identity: request.identity, id: request.id });
        let remembered =
            Remembered { key: key.clone(), body_hash: request.body_hash.into(), until, reply: reply.clone() };
        self.requests.insert(key.clone(), Arc::new(remembered));
        self.forgettable.insert((until, key.clone()));
        touch.row(Key::Request(key));
        touch.deadlines();
    }
}
