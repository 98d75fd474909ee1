//! Linearizable reads by read index, on any replica: the leader names the entry that everything answered before lies
//! at or before, once a quorum has confirmed that it leads; whoever reads waits until its machine has applied that.
//!
//! Reads that come while one question is under way share the next: the cost of a confirmation does not grow with
//! them. No leases: they trust clocks.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::error::ReadError;
use crate::ground;
use crate::membership::Leadership;
use crate::service::Raft;
use crate::transport::Transport;

/// Reads without an answer at most.
const WAITING_MAX: usize = 16_384;
/// Between two questions that had no answer.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

type Answered = oneshot::Sender<Result<(), ReadError>>;

/// Takes reads that want to see everything.
pub(crate) struct Reads {
    queue: mpsc::Sender<Answered>,
    /// Reads without an answer.
    waiting: Semaphore,
}

/// What a question takes.
pub(crate) struct Asker {
    pub(crate) raft: Raft,
    pub(crate) transport: Transport,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Longest wait for a quorum, and for the machine.
    pub(crate) limit: Duration,
}

impl Reads {
    /// Starts the loop that asks.
    pub(crate) fn start(asker: Asker) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let asking = ground::spawn(asker.run(waiting));
        (Reads { queue, waiting: Semaphore::new(WAITING_MAX) }, asking)
    }

    /// Returns when this machine shows everything that was answered before the call.
    pub(crate) async fn barrier(&self) -> Result<(), ReadError> {
        let stopped = || ReadError::Stopped { why: "it was shut down".into() };
        let busy = || ReadError::Busy { reads: WAITING_MAX };
        let _waits = self.waiting.try_acquire().map_err(|_| busy())?;
        let (answered, answer) = oneshot::channel();
        self.queue.try_send(answered).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => busy(),
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

impl Asker {
    async fn run(self, mut waiting: mpsc::Receiver<Answered>) {
        let mut readers = Vec::new();
        while waiting.recv_many(&mut readers, WAITING_MAX).await > 0 {
            let readers = std::mem::take(&mut readers);
            match self.index().await {
                Ok(index) => drop(ground::spawn(show(self.raft.clone(), index, self.limit, readers))),
                Err(error) => answer(readers, &Err(error)),
            }
        }
    }

    /// The entry, as soon as somebody leads who can name it; a leader that falls is not waited for.
    async fn index(&self) -> Result<u64, ReadError> {
        let mut leadership = self.leadership.clone();
        let mut failed = ReadError::NotLeader { leader: None };
        let asking = async {
            loop {
                let now = leadership.borrow_and_update().clone();
                let asked = tokio::select! {
                    asked = self.ask(&now) => asked,
                    changed = leadership.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return Err(ReadError::Stopped { why: "it was shut down".into() }),
                    },
                };
                match asked {
                    Err(error @ (ReadError::NotLeader { leader: None } | ReadError::NoQuorum)) => {
                        failed = error
                    }
                    answer => return answer,
                }
                // The news of another leader comes by itself; if there is none, it was a connection that broke.
                let _news = tokio::time::timeout(AGAIN_AFTER, leadership.changed()).await;
            }
        };
        let answer = tokio::time::timeout(self.limit, asking).await;
        answer.unwrap_or(Err(failed))
    }

    async fn ask(&self, now: &Leadership) -> Result<u64, ReadError> {
        if now.is_me {
            return confirmed(&self.raft, self.limit).await;
        }
        let Some(leader) = &now.leader else { return Err(ReadError::NotLeader { leader: None }) };
        self.transport.read_index(leader).await.map_err(|status| match status.code() {
            // A program that does not know the question.
            tonic::Code::Unimplemented => ReadError::NotLeader { leader: Some(leader.clone()) },
            _ => ReadError::NoQuorum,
        })
    }
}

/// On the leader: what must be applied, once a quorum has confirmed that it leads. Who leads instead is not said.
pub(crate) async fn confirmed(raft: &Raft, limit: Duration) -> Result<u64, ReadError> {
    match tokio::time::timeout(limit, raft.get_read_linearizer(ReadPolicy::ReadIndex)).await {
        Ok(Ok(read)) => Ok(read.read_log_id().index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => {
            Err(ReadError::NotLeader { leader: None })
        }
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
            Err(ReadError::NoQuorum)
        }
        Ok(Err(RaftError::Fatal(fatal))) => Err(ReadError::Stopped { why: fatal.to_string() }),
    }
}

/// Answers once the machine has applied `index`.
async fn show(raft: Raft, index: u64, limit: Duration, readers: Vec<Answered>) {
    let applied = raft.wait(Some(limit)).applied_index_at_least(Some(index), "a read").await;
    let shown = match applied {
        Ok(_) => Ok(()),
        Err(openraft::metrics::WaitError::Timeout(..)) => Err(ReadError::Behind { index }),
        Err(openraft::metrics::WaitError::ShuttingDown) => {
            Err(ReadError::Stopped { why: "it was shut down".into() })
        }
    };
    answer(readers, &shown);
}

fn answer(readers: Vec<Answered>, with: &Result<(), ReadError>) {
    for reader in readers {
        let _ = reader.send(with.clone());
    }
}
