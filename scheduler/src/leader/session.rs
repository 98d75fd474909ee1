//! What the rest of the process knows of the leader's loop: how to propose, how to reach it, when it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::state::command::Request;
use engine::{Command, ConfigHash, Op, Reply, State, Timestamp, View};
use proto::Fence;
use proto::wire::AgentFrame;
use replication::ProposeError;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::clock::SessionClock;
use super::counts::{Counts, Reasons};
use crate::outlet::Outlet;
use crate::running::Replica;

/// One agent's place in the leader's loop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkId(pub u64);

/// What reaches the leader's loop from outside.
#[derive(Debug)]
pub enum Event {
    /// An agent's stream came here.
    Open(LinkId, Outlet),
    /// It said something.
    Frame(LinkId, Box<AgentFrame>),
    /// It is gone.
    Close(LinkId),
    /// Somebody asks what the leader sees.
    Look(Look),
}

/// A question to the leader's view and State.
pub struct Look(Box<Question>);

type Question = dyn FnOnce(&View, &State) + Send;

impl Look {
    pub(super) fn at(self, view: &View, state: &State) {
        (self.0)(view, state);
    }
}

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Look")
    }
}

/// One replica's leadership of one term.
pub struct Session {
    /// Under which agents obey this session.
    pub fence: Fence,
    pub(super) cluster_id: String,
    pub(super) lineage_id: String,
    pub(super) replica: Replica,
    pub(super) clock: SessionClock,
    pub(super) inbox: mpsc::Sender<Event>,
    pub(super) over: watch::Sender<bool>,
    /// The newest copy to count on.
    pub(super) counts: tokio::sync::Mutex<Option<Arc<Counts>>>,
    /// Those who count.
    pub(super) counting: Semaphore,
    pub(super) next_link: AtomicU64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.fence)
    }
}

impl Session {
    /// Puts an operation through the log of this session's term, stamped with State's time; returns what apply
    /// answered.
    pub async fn propose(&self, op: Op, request: Option<Request>) -> Result<Reply, ProposeError> {
        let command = Command { request, ..Command::new(Timestamp(self.clock.now_ms()), op) };
        Ok(self.replica.propose_in(self.fence.term, command.encode().into()).await?.reply)
    }

    /// Seats an agent; `None` if the loop is over or overloaded.
    pub fn open(&self, outlet: Outlet) -> Option<LinkId> {
        let link = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        self.inbox.try_send(Event::Open(link, outlet)).is_ok().then_some(link)
    }

    /// Asks the leader's view and State, once what was acknowledged before is in them; `None` if the loop is over or
    /// overloaded.
    pub async fn look<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&View, &State) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let look = Look(Box::new(move |view, state| drop(answer.send(ask(view, state)))));
        self.inbox.try_send(Event::Look(look)).ok()?;
        answered.await.ok()
    }

    /// Passes an agent's frame on; false if the loop is over or overloaded.
    pub fn frame(&self, link: LinkId, frame: AgentFrame) -> bool {
        self.inbox.try_send(Event::Frame(link, Box::new(frame))).is_ok()
    }

    /// The agent is gone. Lost when the inbox is full: then the link ends at its next unanswered frame.
    pub fn close(&self, link: LinkId) {
        let _ = self.inbox.try_send(Event::Close(link));
    }

    /// Resolves when the session is over.
    pub async fn over(&self) {
        let mut over = self.over.subscribe();
        let _ = over.wait_for(|over| *over).await;
    }

    /// A copy of what rounds read, made now or a moment ago; `None` if the loop is over or overloaded.
    pub(super) async fn counts(&self) -> Option<Arc<Counts>> {
        let mut newest = self.counts.lock().await;
        if let Some(counts) = newest.as_ref().filter(|counts| counts.is_fresh()) {
            return Some(counts.clone());
        }
        let counts = Arc::new(self.look(|view, _| Counts::of(view)).await?);
        *newest = Some(counts.clone());
        Some(counts)
    }

    /// Why the tasks of these configs are pending, counted now, beside the loop. Whatever is not known is left out.
    pub async fn reasons(&self, configs: Vec<ConfigHash>) -> Reasons {
        if configs.is_empty() {
            return Reasons::new();
        }
        let (Some(counts), Ok(_turn)) = (self.counts().await, self.counting.acquire().await) else {
            return Reasons::new();
        };
        tokio::task::spawn_blocking(move || counts.reasons(&configs)).await.unwrap_or_default()
    }

    /// State's time, as far as it has come since its newest command.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.clock.now_ms())
    }

    /// A point behind which every acknowledged change is visible on this replica.
    pub async fn barrier(&self) -> Result<(), replication::ReadError> {
        self.replica.barrier().await
    }
}
