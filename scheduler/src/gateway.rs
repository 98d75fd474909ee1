//! Agents' streams on this replica: each is seated on the current route, and reseated when the leader changes.
//!
//! Nothing here decides anything or reads State; the fence is checked end to end, by leader and agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use proto::wire::{AgentFrame, SchedulerFrame, agent_frame};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::limits::{AGENT_OUTBOX_MAX, AGENT_STREAMS_MAX};
use crate::outlet::Outlet;
use crate::route::{Route, Seat, resync};
use crate::server::Node;
use crate::telemetry;

/// The service that agents speak to.
#[derive(Debug)]
pub struct Gateway {
    node: Arc<Node>,
    streams: Arc<Semaphore>,
    next: AtomicU64,
}

impl Gateway {
    /// A gateway of this replica.
    pub fn new(node: Arc<Node>) -> Self {
        Gateway { node, streams: Arc::new(Semaphore::new(AGENT_STREAMS_MAX)), next: AtomicU64::new(1) }
    }
}

#[tonic::async_trait]
impl rpc::agents_server::Agents for Gateway {
    type AttachStream = BoxStream<'static, Result<SchedulerFrame, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<AgentFrame>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let running = self.node.running()?;
        let Ok(permit) = self.streams.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!(
                "this replica holds {AGENT_STREAMS_MAX} agents, its maximum; try another replica"
            )));
        };
        let (queue, frames) = mpsc::channel(AGENT_OUTBOX_MAX);
        let hang_up = Arc::new(Notify::new());
        let outlet = Outlet::Direct { queue, hang_up: hang_up.clone() };
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let routes = running.routes.clone();
        tokio::spawn(async move {
            metrics::gauge!(telemetry::AGENT_STREAMS).increment(1.0);
            carry(stream, request.into_inner(), outlet, hang_up, routes).await;
            metrics::gauge!(telemetry::AGENT_STREAMS).decrement(1.0);
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(frames).map(Ok).boxed()))
    }
}

/// Carries one agent's frames until it goes or is hung up on.
async fn carry(
    stream: u64,
    mut inbound: Streaming<AgentFrame>,
    outlet: Outlet,
    hang_up: Arc<Notify>,
    mut routes: watch::Receiver<Route>,
) {
    let mut greeted = false;
    let mut seat = routes.borrow_and_update().sit(stream, &outlet);
    loop {
        tokio::select! {
            frame = inbound.message() => {
                let Ok(Some(frame)) = frame else { return };
                greeted |= matches!(frame.body, Some(agent_frame::Body::Hello(_)));
                if !seat.pass(frame) && !matches!(seat, Seat::None) {
                    return; // a full queue: the agent comes again, and says everything anew
                }
            }
            changed = routes.changed() => {
                if changed.is_err() {
                    return;
                }
                drop(std::mem::replace(&mut seat, Seat::None)); // leave before sitting down: the number is the same
                seat = routes.borrow_and_update().sit(stream, &outlet);
                if greeted && !matches!(seat, Seat::None) && !outlet.send(resync(true)) {
                    return;
                }
            }
            () = hang_up.notified() => return,
        }
    }
}
