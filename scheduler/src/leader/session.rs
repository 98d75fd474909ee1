//! What the rest of the process knows of the leader's loop: how to propose, how to reach it, when it is over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use engine::round::GroupReport;
use engine::state::command::Request;
use engine::{Command, ConfigHash, Op, Reply, State, Timestamp, View};
use proto::Fence;
use proto::wire::AgentFrame;
use replication::ProposeError;
use tokio::sync::{mpsc, oneshot, watch};

use super::clock::SessionClock;
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
    /// Why tasks are pending, by their config, from the newest round.
    pub(super) why_pending: Mutex<BTreeMap<ConfigHash, Arc<GroupReport>>>,
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

    /// Why tasks of that config are pending, as far as a round of this session has looked.
    pub fn why_pending(&self, config: &ConfigHash) -> Option<Arc<GroupReport>> {
        self.why_pending.lock().unwrap_or_else(|broken| broken.into_inner()).get(config).cloned()
    }

    /// Why tasks are pending, as far as rounds of this session have looked.
    pub fn reasons(&self) -> BTreeMap<ConfigHash, Arc<GroupReport>> {
        self.why_pending.lock().unwrap_or_else(|broken| broken.into_inner()).clone()
    }

    /// A point behind which every acknowledged change is visible on this replica.
    pub async fn barrier(&self) -> Result<(), replication::ReadError> {
        self.replica.barrier().await
    }
}
