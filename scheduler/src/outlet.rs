//! The way to one agent: its own stream on this replica, or the stream of the replica that relays for it.

use std::sync::Arc;

use proto::wire::{RelayDown, SchedulerFrame, relay_down};
use tokio::sync::{Notify, mpsc};

/// Sends frames to one agent. Never waits: who cannot take a frame is hung up on, and comes again.
#[derive(Clone, Debug)]
pub enum Outlet {
    /// The agent's stream ends at this replica.
    Direct {
        /// The agent's stream.
        queue: mpsc::Sender<SchedulerFrame>,
        /// Ends the stream when rung.
        hang_up: Arc<Notify>,
    },
    /// The agent's stream ends at another replica, which knows it by this number.
    Relayed {
        /// Number of the agent's stream at the relay.
        stream: u64,
        /// The relay's own stream.
        down: mpsc::Sender<RelayDown>,
    },
}

impl Outlet {
    /// Queues a frame; false if the queue is full or gone.
    pub fn send(&self, frame: SchedulerFrame) -> bool {
        match self {
            Outlet::Direct { queue, .. } => queue.try_send(frame).is_ok(),
            Outlet::Relayed { stream, down } => {
                let body = Some(relay_down::Body::Frame(frame));
                down.try_send(RelayDown { stream: *stream, body }).is_ok()
            }
        }
    }

    /// Ends the agent's stream.
    pub fn close(&self) {
        match self {
            Outlet::Direct { hang_up, .. } => hang_up.notify_one(),
            Outlet::Relayed { stream, down } => {
                let body = Some(relay_down::Body::Closed(true));
                let _ = down.try_send(RelayDown { stream: *stream, body });
            }
        }
    }
}
