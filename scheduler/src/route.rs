//! Where agents' frames go at the moment: to this replica's own session, to the leader through a relay, nowhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::wire::{AgentFrame, RelayUp, SchedulerFrame, relay_down, relay_up, scheduler_frame};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::leader::{LinkId, Session};
use crate::limits::{MESSAGE_BYTES_MAX, RELAY_QUEUE_MAX};
use crate::outlet::Outlet;
use crate::peers::Peers;
use crate::running::Replica;

/// Where agents' frames go.
#[derive(Clone, Debug, Default)]
pub enum Route {
    /// No leader is known.
    #[default]
    Nowhere,
    /// This replica leads.
    Here(Arc<Session>),
    /// Another replica leads; frames are relayed.
    There(Arc<Relay>),
}

/// One agent's place on a route.
#[derive(Debug)]
pub enum Seat {
    /// Frames are dropped; the agent will be asked to say hello again.
    None,
    /// On this replica's session.
    Here(Arc<Session>, LinkId),
    /// On the relay, under this stream number.
    There(Arc<Relay>, u64),
}

impl Route {
    /// Takes a seat for the agent behind `outlet`, which is numbered `stream` on this replica.
    pub fn sit(&self, stream: u64, outlet: &Outlet) -> Seat {
        match self {
            Route::Nowhere => Seat::None,
            Route::Here(session) => match session.open(outlet.clone()) {
                Some(link) => Seat::Here(session.clone(), link),
                None => Seat::None,
            },
            Route::There(relay) => {
                relay.streams().insert(stream, outlet.clone());
                Seat::There(relay.clone(), stream)
            }
        }
    }
}

impl Seat {
    /// Passes a frame on; false if it was dropped.
    pub fn pass(&self, frame: AgentFrame) -> bool {
        match self {
            Seat::None => false,
            Seat::Here(session, link) => session.frame(*link, frame),
            Seat::There(relay, stream) => relay.send(*stream, relay_up::Body::Frame(frame)),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        match self {
            Seat::None => {}
            Seat::Here(session, link) => session.close(*link),
            Seat::There(relay, stream) => {
                relay.streams().remove(stream);
                relay.send(*stream, relay_up::Body::Closed(true));
            }
        }
    }
}

/// One stream to the leader for all the agents of this replica.
#[derive(Debug)]
pub struct Relay {
    from: u64,
    up: mpsc::Sender<RelayUp>,
    streams: Mutex<BTreeMap<u64, Outlet>>,
}

impl Relay {
    fn send(&self, stream: u64, body: relay_up::Body) -> bool {
        self.up.try_send(RelayUp { from: self.from, stream, body: Some(body) }).is_ok()
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Outlet>> {
        self.streams.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Opens the stream to the leader.
    async fn open(
        from: u64,
        leader: Channel,
    ) -> Result<(Arc<Self>, tonic::Streaming<proto::wire::RelayDown>), tonic::Status> {
        let (up, queue) = mpsc::channel(RELAY_QUEUE_MAX);
        let mut client = rpc::cluster_client::ClusterClient::new(leader)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let down = client.relay(ReceiverStream::new(queue)).await?.into_inner();
        Ok((Arc::new(Relay { from, up, streams: Mutex::default() }), down))
    }

    /// Hands the leader's frames to the agents until the stream ends.
    async fn carry(&self, mut down: tonic::Streaming<proto::wire::RelayDown>) -> tonic::Status {
        loop {
            let message = match down.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return tonic::Status::ok("the leader ended the stream"),
                Err(why) => return why,
            };
            let outlet = self.streams().get(&message.stream).cloned();
            let Some(outlet) = outlet else { continue };
            let open = match message.body {
                Some(relay_down::Body::Frame(frame)) => outlet.send(frame),
                Some(relay_down::Body::Closed(_)) => false,
                None => true,
            };
            if !open {
                outlet.close();
            }
        }
    }
}

/// A frame that asks an agent to say hello again: with all that it has, or briefly if it can, since what it said went
/// to a leader that is gone.
pub fn resync(brief: bool) -> SchedulerFrame {
    let body = Some(scheduler_frame::Body::Resync(proto::wire::Resync { brief }));
    SchedulerFrame { body, ..SchedulerFrame::default() }
}

/// Keeps the route up to date until the replica stops.
pub async fn keep(
    replica: Replica,
    peers: Peers,
    mut sessions: watch::Receiver<Option<Arc<Session>>>,
    route: watch::Sender<Route>,
) {
    let mut leadership = replica.leadership();
    loop {
        let session = sessions.borrow_and_update().clone();
        let leader = leadership.borrow_and_update().clone();
        if let Some(session) = session {
            route.send_replace(Route::Here(session));
            if sessions.changed().await.is_err() {
                return;
            }
            route.send_replace(Route::Nowhere);
            continue;
        }
        route.send_replace(Route::Nowhere);
        let relayed = async {
            let Some(member) = leader.leader.filter(|_| !leader.is_me) else {
                return std::future::pending::<()>().await;
            };
            loop {
                match Relay::open(replica.identity().node_id, peers.channel(&member.api_address)).await {
                    Ok((relay, down)) => {
                        route.send_replace(Route::There(relay.clone()));
                        let why = relay.carry(down).await;
                        tracing::info!(leader = member.node_id, %why, "the stream to the leader ended");
                        route.send_replace(Route::Nowhere);
                    }
                    Err(why) => {
                        tracing::debug!(leader = member.node_id, %why, "the leader takes no relay yet")
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = relayed => {}
            changed = sessions.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}
