//! What the rest of the process knows of the leader's loop: how to propose, how to reach it, when it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::limits::LEVEL_FIRST;
use engine::state::command::Request;
use engine::{Command, ConfigHash, Op, Refusal, RefusalKind, Reply, State, Timestamp, View};
use proto::wire::AgentFrame;
use proto::{Fence, NodeId};
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
    /// answered. What is of a level that the cluster has not reached is refused here: a member that cannot read it would
    /// stop.
    pub async fn propose(&self, op: Op, request: Option<Request>) -> Result<Reply, ProposeError> {
        let needs = op.level();
        if needs > LEVEL_FIRST && !matches!(op, Op::RaiseLevel { .. }) {
            let acts_at = self.replica.read(|machine| machine.state.cluster().level);
            if needs > acts_at {
                let message = too_low(needs, acts_at, &self.replica.status().members);
                return Ok(Err(Refusal { kind: RefusalKind::Invalid, message }));
            }
        }
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

    /// State's clock was set to this: the session's goes on from there.
    pub fn set_clock(&self, ms: u64) {
        self.clock.reach(ms);
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

/// Why a level is not reached, and who is in the way.
fn too_low(needs: u32, acts_at: u32, members: &[replication::Member]) -> String {
    let behind = members.iter().filter_map(|member| match member.acts_at {
        None => Some(format!("{} has not said at which it can", NodeId(member.node_id))),
        Some(level) if level.get() < needs => {
            Some(format!("{} can act at level {level} only", NodeId(member.node_id)))
        }
        Some(_) => None,
    });
    let behind: Vec<String> = behind.collect();
    let why = if behind.is_empty() { "it rises in a moment".to_owned() } else { behind.join(", ") };
    format!(
        "this is done from level {needs} on, and the cluster acts at level {acts_at}: {why}; once newer programs run on all members the level rises by itself, then repeat this"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_in_the_way_of_a_level_is_named() {
        let member = |node_id, acts_at: Option<u32>| replication::Member {
            node_id,
            raft_address: String::new(),
            api_address: String::new(),
            store_uuid: String::new(),
            voter: true,
            learner: false,
            lag: None,
            heard: None,
            acts_at: acts_at.and_then(std::num::NonZeroU32::new),
            full: false,
        };
        let why = too_low(2, 1, &[member(1, Some(2)), member(2, Some(1)), member(3, None)]);
        assert!(why.contains("node-2 can act at level 1 only, node-3 has not said"), "{why}");
        assert!(!why.contains("node-1"), "{why}");
        assert!(too_low(2, 1, &[member(1, Some(2))]).contains("rises in a moment"));
    }
}
