//! What exists once this replica belongs to a cluster.

use std::sync::Arc;

use tokio::sync::watch;

use crate::clocks::Clocks;
use crate::leader::Session;
use crate::machine::Machine;
use crate::peers::Peers;
use crate::route::Route;

/// The replicated State of this replica.
pub type Replica = replication::Replica<Machine>;

/// The parts of a replica that belongs to a cluster.
#[derive(Clone)]
pub struct Running {
    /// Log, rows and State.
    pub replica: Replica,
    /// Connections to the others.
    pub peers: Peers,
    /// The session, while this replica leads.
    pub sessions: watch::Receiver<Option<Arc<Session>>>,
    /// Where agents' frames go.
    pub routes: watch::Receiver<Route>,
    /// What the others' clocks show.
    pub clocks: Clocks,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({})", self.replica.identity().node_id)
    }
}

impl Running {
    /// The session, if this replica leads now.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.sessions.borrow().clone()
    }
}
