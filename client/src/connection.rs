//! Asks a cluster: tries its replicas in turn until one answers or the deadline has come.
//!
//! Every replica forwards to the leader, so the client needs not know who leads. A request that changes something
//! keeps its id through all attempts, so an attempt whose answer was lost does no harm when it is repeated. What
//! an attempt's end means is decided by [`judge`], which is pure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use rand::Rng as _;
use rpc::borealis_client::BorealisClient;
use rpc::cluster_client::ClusterClient;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::duration;
use crate::error::{Error, Kind};
use crate::output::Output;
use crate::table::clean;

/// How long one replica may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long one attempt may take: a little more than a replica itself waits for its log.
const ATTEMPT_MAX: Duration = Duration::from_secs(13);
/// With less time than this, no further attempt is begun.
const ATTEMPT_MIN: Duration = Duration::from_millis(100);
/// An attempt to change something is not cut off sooner, even if the command's time is over meanwhile: a replica
/// without a leader waits 3 s before it says that nothing was done, and a cut would make that an unknown fate.
const CERTAINTY: Duration = Duration::from_secs(4);
/// A replica that is alive but answers no ping for this long is given up.
const PING_MAX: Duration = Duration::from_secs(2);
/// Pauses between two passes over all replicas grow from this ...
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// ... to this.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// After this long without an answer, people are told what is being waited for.
const SILENT_MAX: Duration = Duration::from_secs(1);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What an attempt that brought no answer means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Nothing was done; another attempt is safe.
    NotDone,
    /// It may have been done, or may yet be; only the same request again is safe.
    Unknown,
    /// No attempt will bring another answer.
    Final(Kind),
}

/// Judges a status. One that this side made up, because the connection broke, has a source.
pub(crate) fn judge(status: &Status) -> Verdict {
    match status.code() {
        _ if status.source().is_some() => Verdict::Unknown,
        Code::Unavailable => Verdict::NotDone,
        Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => Verdict::Unknown,
        Code::Unauthenticated | Code::PermissionDenied => Verdict::Final(Kind::Authentication),
        Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::OutOfRange
        | Code::ResourceExhausted => Verdict::Final(Kind::Refused),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => {
            Verdict::Final(Kind::Unknown)
        }
    }
}

/// One thing asked of the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// What is being done to which object, to follow "while": `creating west/www-data/prod/web`.
    pub(crate) doing: &'a str,
    /// What it changes.
    pub(crate) effect: Effect<'a>,
}

/// What a request changes, and with that, what a lost answer means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect<'a> {
    /// Nothing: ask again.
    Reads,
    /// Something, at most once under this id: the same request again tells.
    Once(&'a str),
    /// Something, and it has no id: only a look at the cluster tells.
    Bare,
}

impl<'a> Effect<'a> {
    fn id(self) -> Option<&'a str> {
        if let Effect::Once(id) = self { Some(id) } else { None }
    }
}

/// A cluster, by the addresses of its replicas.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    addresses: Vec<String>,
    deadline: Instant,
    timeout: Duration,
    output: &'a Output,
    current: Cell<usize>,
    channels: RefCell<BTreeMap<usize, Channel>>,
    in_flight: &'a RefCell<Option<String>>,
    /// The cluster that was named on the command line, until it is known to be the one that answers.
    expected: RefCell<Option<String>>,
}

impl<'a> Connection<'a> {
    /// For all that one command asks, at most `timeout` long. `in_flight` holds the id of a request whose fate
    /// is open, for whoever is interrupted meanwhile.
    pub(crate) fn new(
        addresses: Vec<String>,
        timeout: Duration,
        output: &'a Output,
        in_flight: &'a RefCell<Option<String>>,
    ) -> Self {
        Connection {
            addresses,
            deadline: Instant::now() + timeout,
            timeout,
            output,
            current: Cell::new(0),
            channels: RefCell::default(),
            in_flight,
            expected: RefCell::default(),
        }
    }

    /// The same, of the cluster of that name only.
    pub(crate) fn of_cluster(self, name: Option<&str>) -> Self {
        self.expected.replace(name.map(str::to_owned));
        self
    }

    /// Whoever answers must be of the cluster that was named. Where nobody says, the request itself will tell.
    pub(crate) async fn check_cluster(&self) -> Result<(), Error> {
        let Some(expected) = self.expected.take() else { return Ok(()) };
        for address in &self.addresses {
            let Ok(reply) = crate::cluster::status::ask(address, CONNECT_MAX).await else { continue };
            if reply.cluster.is_empty() || reply.cluster == expected {
                return Ok(());
            }
            let what = format!("{address} is of the cluster `{}`, not `{expected}`", clean(&reply.cluster));
            return Err(Error::new(Kind::InvalidParameter, what)
                .hint("name the right cluster with --cluster, or its replicas with --addr"));
        }
        Ok(())
    }

    /// The replicas' addresses.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// When the command's time is over.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The time the command was given.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks for what people ask.
    pub(crate) async fn ask<T, F>(
        &self,
        ask: Ask<'_>,
        call: impl Fn(BorealisClient<Channel>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call(ask, |channel| {
            call(BorealisClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
        })
        .await
    }

    /// Asks for what operators ask.
    pub(crate) async fn operate<T, F>(
        &self,
        ask: Ask<'_>,
        call: impl Fn(ClusterClient<Channel>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call(ask, |channel| {
            call(ClusterClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
        })
        .await
    }

    async fn call<T, F>(&self, ask: Ask<'_>, call: impl Fn(Channel) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.check_cluster().await?;
        let mut said: BTreeMap<usize, String> = BTreeMap::new();
        let (begun, mut told) = (Instant::now(), false);
        let (mut unknown, mut pause) = (false, PAUSE_MIN);
        self.in_flight.replace(ask.effect.id().map(str::to_owned));
        loop {
            // One pass over all replicas, beginning with the one that answered last.
            let first = self.current.get();
            for index in (0..self.addresses.len()).map(|step| (first + step) % self.addresses.len()) {
                if self.left() < ATTEMPT_MIN && !said.is_empty() {
                    return Err(self.over(ask, unknown, &said));
                }
                let (verdict, words) = match self.attempt(index, ask, &call).await {
                    Ok(answer) => {
                        self.current.set(index);
                        self.in_flight.replace(None);
                        return Ok(answer);
                    }
                    Err(end) => end,
                };
                self.channels.borrow_mut().remove(&index);
                unknown |= verdict == Verdict::Unknown;
                if let Verdict::Final(kind) = verdict {
                    self.in_flight.replace(None);
                    let lost = unknown && ask.effect == Effect::Bare;
                    return Err(if lost { unlooked(ask, &words) } else { refused(kind, ask, &words) });
                }
                said.insert(index, words);
            }
            if !told && begun.elapsed() >= SILENT_MAX && self.left() >= PAUSE_MIN {
                told = true;
                let why = said.values().next().map(String::as_str).unwrap_or_default();
                let left = duration::words(Duration::from_secs(self.left().as_secs()));
                self.output.note(&format!(
                    "waiting for the cluster while {} ({why}); giving up in {left}",
                    ask.doing
                ));
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::time::sleep(jittered.min(self.left())).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    async fn attempt<T, F>(
        &self,
        index: usize,
        ask: Ask<'_>,
        call: &impl Fn(Channel) -> F,
    ) -> Result<T, (Verdict, String)>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        // The first attempt is made even when the time is very short.
        let left = self.left().max(ATTEMPT_MIN);
        let limit = if ask.effect == Effect::Reads { left } else { left.max(CERTAINTY) }.min(ATTEMPT_MAX);
        let known = self.channels.borrow().get(&index).cloned();
        let channel = match known {
            Some(channel) => channel,
            None => {
                let channel = connect(&self.addresses[index], left.min(CONNECT_MAX)).await;
                let channel = channel.map_err(|why| (Verdict::NotDone, why))?;
                self.channels.borrow_mut().insert(index, channel.clone());
                channel
            }
        };
        match tokio::time::timeout(limit, call(channel)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err((judge(&status), words(&status))),
            Err(_) => Err((Verdict::Unknown, format!("no answer within {}", duration::words(limit)))),
        }
    }

    /// The time is over.
    fn over(&self, ask: Ask<'_>, unknown: bool, said: &BTreeMap<usize, String>) -> Error {
        let within = duration::words(self.timeout);
        let answers: String =
            said.iter().map(|(&i, why)| format!("\n  {}: {why}", self.addresses[i])).collect();
        match ask.effect {
            Effect::Bare if unknown => unlooked(ask, &format!("no answer within {within}{answers}")),
            Effect::Once(id) if unknown => {
                let what = format!(
                    "no answer within {within} while {}; it may have been done all the same{answers}",
                    ask.doing
                );
                Error::new(Kind::TimedOut, what)
                    .hint(format!("look what is there, or run the same command again with --request-id {id}: it is done at most once"))
                    .request(id)
            }
            _ => {
                let refused = said.values().all(|why| why.contains("refused"));
                let hint = if refused {
                    "nothing listens there: start a cluster with `borealis dev`, or name yours with --addr or BOREALIS_ADDR"
                } else {
                    "a majority of the replicas must run and reach each other: see `borealis cluster status`"
                };
                let nothing = if ask.effect == Effect::Reads { "" } else { "; nothing was done" };
                let what =
                    format!("no leader answered within {within} while {}{nothing}{answers}", ask.doing);
                Error::new(Kind::Network, what).hint(hint)
            }
        }
    }
}

/// Connects to one replica, or says why not.
pub(crate) async fn connect(address: &str, timeout: Duration) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|why| why.to_string())?;
    let endpoint = endpoint
        .connect_timeout(timeout)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(PING_MAX);
    match tokio::time::timeout(timeout, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(why)) => Err(root(&why)),
        Err(_) => Err(format!("no connection within {}", duration::words(timeout))),
    }
}

/// What a status says, for people.
pub(crate) fn words(status: &Status) -> String {
    match status.source() {
        Some(source) => format!("the connection broke: {}", root(source)),
        None if status.message().is_empty() => status.code().description().to_lowercase(),
        None => clean(status.message()),
    }
}

/// The innermost cause says most.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    clean(&cause.to_string())
        .trim_end_matches(|c: char| c == ')' || c.is_ascii_digit())
        .replace(" (os error ", "")
}

/// An answer to a request without an id was lost, and another attempt brought nothing, or a refusal that may come of the
/// first one's success.
fn unlooked(ask: Ask<'_>, words: &str) -> Error {
    let what = format!("an answer was lost while {}, which may or may not have happened: {words}", ask.doing);
    Error::new(Kind::TimedOut, what)
        .hint("look with `borealis cluster status`, and run the command again if it did not happen")
}

fn refused(kind: Kind, ask: Ask<'_>, words: &str) -> Error {
    let error = Error::new(kind, format!("the cluster refused while {}: {words}", ask.doing));
    match (kind, ask.effect.id()) {
        (Kind::Authentication, _) => error.hint("ask whoever runs the cluster for the right to do this"),
        (Kind::Unknown, Some(id)) => error
            .hint(format!(
                "whether it was done is not known: look, or run the command again with --request-id {id}"
            ))
            .request(id),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_meaning() {
        use Verdict::{Final, NotDone, Unknown};
        for (code, want) in [
            (Code::Unavailable, NotDone),
            (Code::DeadlineExceeded, Unknown),
            (Code::Cancelled, Unknown),
            (Code::Aborted, Unknown),
            (Code::NotFound, Final(Kind::Refused)),
            (Code::AlreadyExists, Final(Kind::Refused)),
            (Code::FailedPrecondition, Final(Kind::Refused)),
            (Code::InvalidArgument, Final(Kind::Refused)),
            (Code::ResourceExhausted, Final(Kind::Refused)),
            (Code::OutOfRange, Final(Kind::Refused)),
            (Code::Unauthenticated, Final(Kind::Authentication)),
            (Code::PermissionDenied, Final(Kind::Authentication)),
            (Code::Internal, Final(Kind::Unknown)),
            (Code::Unimplemented, Final(Kind::Unknown)),
        ] {
            assert_eq!(judge(&Status::new(code, "why")), want, "{code:?}");
            let mut broken = Status::new(code, "why");
            broken.set_source(std::sync::Arc::new(std::io::Error::other("broken pipe")));
            assert_eq!(judge(&broken), Unknown, "{code:?} made up on this side");
        }
    }
}
