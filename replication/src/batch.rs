//! Proposals become entries without waiting: one goes at once while few entries are in flight, else it joins the
//! next entry. The queue is bounded in commands and bytes.
//!
//! A command is stamped with the term in which it was proposed, and never gets into the log of a later one, even if
//! this replica leads again: openraft compares the leader of the stamp before it appends. So `NotLeader` is said only
//! of what was not appended; of everything behind that, the fate is unknown.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::error::ProposeError;
use crate::ground;
use crate::machine::Machine;
use crate::membership::Leadership;
use crate::raft::{Answer, Data, LeaderId, Types};
use crate::replica::Proposed;
use crate::service::Raft;
use crate::telemetry;

/// Entries that are proposed and not yet answered, at most.
const IN_FLIGHT_MAX: usize = 16;
/// Commands of one entry at most.
const COMMANDS_MAX: usize = 1_000;
/// Bytes of one entry at most, and of one command.
pub(crate) const ENTRY_BYTES_MAX: usize = 256 << 10;
/// Commands that wait at most.
const WAITING_MAX: usize = 16_384;
/// Their bytes at most.
const WAITING_BYTES_MAX: usize = 32 << 20;

const _: () = assert!(
    ENTRY_BYTES_MAX + 64 * COMMANDS_MAX < crate::transport::MESSAGE_BYTES_MAX,
    "an entry fits a message"
);

type Answered<R> = Result<Proposed<R>, ProposeError>;

/// The answer to a submitted command, when it comes. Dropping it changes nothing of the command's fate.
#[must_use = "only the answer says what became of the command"]
pub struct PendingAnswer<M: Machine>(oneshot::Receiver<Answered<M::Reply>>);

impl<M: Machine> Future for PendingAnswer<M> {
    type Output = Answered<M::Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| {
            answer.unwrap_or_else(|_| Err(ProposeError::Unknown { why: "this replica was shut down".into() }))
        })
    }
}

struct Waiting<R> {
    /// In which this replica led when the command was proposed.
    term: u64,
    command: Bytes,
    done: oneshot::Sender<Answered<R>>,
}

/// Takes proposals.
pub(crate) struct Batcher<M: Machine> {
    queue: mpsc::Sender<Waiting<M::Reply>>,
    bytes: Arc<AtomicUsize>,
}

impl<M: Machine> Batcher<M> {
    /// Starts the loop that makes entries.
    pub(crate) fn start(
        raft: Raft,
        node_id: u64,
        leadership: watch::Receiver<Leadership>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        let batching = ground::spawn(run::<M>(raft, node_id, leadership, waiting, Arc::clone(&bytes)));
        (Batcher { queue, bytes }, batching)
    }

    /// Queues a command for the log of `term`.
    pub(crate) fn push(&self, term: u64, command: Bytes) -> Result<PendingAnswer<M>, ProposeError> {
        if command.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: command.len(), bytes_max: ENTRY_BYTES_MAX });
        }
        let length = command.len();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        let full = before + length > WAITING_BYTES_MAX;
        let pushed = if full { None } else { self.queue.try_send(Waiting { term, command, done }).ok() };
        if pushed.is_none() {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            if self.queue.is_closed() {
                return Err(ProposeError::Stopped { why: "it was shut down".into() });
            }
            telemetry::proposals("busy", 1);
            return Err(ProposeError::Busy { commands: WAITING_MAX - self.queue.capacity(), bytes: before });
        }
        Ok(PendingAnswer(answer))
    }
}

async fn run<M: Machine>(
    raft: Raft,
    node_id: u64,
    leadership: watch::Receiver<Leadership>,
    mut waiting: mpsc::Receiver<Waiting<M::Reply>>,
    bytes: Arc<AtomicUsize>,
) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut held: Option<Waiting<M::Reply>> = None;
    loop {
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
        let first = match held.take() {
            Some(first) => first,
            None => match waiting.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let (term, mut size) = (first.term, first.command.len());
        let (mut commands, mut done) = (vec![first.command], vec![first.done]);
        while commands.len() < COMMANDS_MAX {
            let Ok(next) = waiting.try_recv() else { break };
            if size + next.command.len() > ENTRY_BYTES_MAX || next.term != term {
                held = Some(next);
                break;
            }
            size += next.command.len();
            commands.push(next.command);
            done.push(next.done);
        }
        bytes.fetch_sub(size, Ordering::Relaxed);
        if !leads_in(&leadership, term) {
            fail(done, || not_leader(&leadership));
            continue;
        }
        let (responder, answer) = ProgressResponder::<Types, ClientWriteResult<Types>>::complete_only();
        // In this loop, so that entries are proposed in the order in which their commands came.
        let me = LeaderId { term, node_id };
        let write = raft.write(Data::Batch(commands.into())).with_leader(me).responder(responder);
        if let Err(fatal) = write.await {
            fail(done, || ProposeError::Stopped { why: fatal.to_string() });
            continue;
        }
        ground::spawn(settle::<M>(answer, done, leadership.clone(), term, permit));
    }
}

/// Waits for an entry's answer, or for the end of the term in which it was proposed.
async fn settle<M: Machine>(
    answer: impl Future<Output = Result<ClientWriteResult<Types>, impl std::fmt::Debug>>,
    done: Vec<oneshot::Sender<Answered<M::Reply>>>,
    mut leadership: watch::Receiver<Leadership>,
    term: u64,
    _permit: OwnedSemaphorePermit,
) {
    let (count, begun) = (done.len(), Instant::now());
    let lost = lost(&mut leadership, term);
    let answer = tokio::select! {
        // An answer that is there counts, even if the term ended at the same time.
        biased;
        answer = answer => answer,
        () = lost => {
            telemetry::proposals("unknown", count);
            fail(done, || ProposeError::Unknown { why: "leadership was lost before the answer".into() });
            return;
        }
    };
    match answer {
        Ok(Ok(response)) => {
            telemetry::committed(begun.elapsed());
            let index = response.log_id.index;
            let Answer::Replies(replies) = response.data else {
                fail(done, || ProposeError::Unknown {
                    why: "it was applied, but its answer was lost".into(),
                });
                return;
            };
            let replies = replies.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            match replies.downcast::<Vec<M::Reply>>() {
                Ok(replies) => {
                    telemetry::proposals("applied", count);
                    for (done, reply) in done.into_iter().zip(*replies) {
                        let _ = done.send(Ok(Proposed { index, reply }));
                    }
                }
                Err(_) => fail(done, || ProposeError::Unknown {
                    why: "it was applied, but its answer was lost".into(),
                }),
            }
        }
        // Refused before it was appended; an entry that was cut off later is `LogEntryDiscarded`.
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
            telemetry::proposals("not_leader", count);
            fail(done, || not_leader(&leadership));
        }
        Ok(Err(other)) => {
            telemetry::proposals("unknown", count);
            fail(done, || ProposeError::Unknown { why: other.to_string() });
        }
        Err(_) => {
            telemetry::proposals("unknown", count);
            fail(done, || ProposeError::Unknown { why: "this replica stopped before the answer".into() });
        }
    }
}

/// Whether this replica leads in `term`, as far as it knows.
pub(crate) fn leads_in(leadership: &watch::Receiver<Leadership>, term: u64) -> bool {
    let now = leadership.borrow();
    now.is_me && now.term == term
}

/// Resolves when this replica does not lead in `term` any more.
pub(crate) async fn lost(leadership: &mut watch::Receiver<Leadership>, term: u64) {
    let _ = leadership.wait_for(|now| !now.is_me || now.term != term).await;
}

pub(crate) fn not_leader(leadership: &watch::Receiver<Leadership>) -> ProposeError {
    let now = leadership.borrow();
    ProposeError::NotLeader { leader: if now.is_me { None } else { now.leader.clone() } }
}

fn fail<R>(done: Vec<oneshot::Sender<Answered<R>>>, error: impl Fn() -> ProposeError) {
    for done in done {
        let _ = done.send(Err(error()));
    }
}

/// What a refused or lost entry of our own (not a batch) means to its proposer. Not for changes of membership: they
/// are two entries, and the second one's refusal says nothing of the first.
pub(crate) fn explain(
    error: RaftError<Types, ClientWriteError<Types>>,
    leadership: &watch::Receiver<Leadership>,
) -> ProposeError {
    match error {
        // It may have ended before or behind the entry.
        RaftError::Fatal(fatal) => ProposeError::Unknown { why: fatal.to_string() },
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => not_leader(leadership),
        RaftError::APIError(other) => ProposeError::Unknown { why: other.to_string() },
    }
}
