//! A running replica: propose, read, who leads, who belongs.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use crate::error::{AdmitError, ProposeError, ReadError, StartError};
use crate::machine::Machine;
use crate::membership::{Admitted, Fingerprint, Leadership, Status};
use crate::options::Options;
use crate::service::RaftService;
use crate::Identity;

/// A command was committed and applied.
#[derive(Debug)]
pub struct Proposed<R> {
    /// Of the entry that carried the command.
    pub index: u64,
    /// What the machine answered.
    pub reply: R,
}

/// A running replica. Clones are handles of the same one.
pub struct Replica<M: Machine> {
    machine: PhantomData<Arc<M>>,
}

impl<M: Machine> Clone for Replica<M> {
    fn clone(&self) -> Self {
        Replica { machine: PhantomData }
    }
}

#[allow(clippy::todo, unused_variables, clippy::unused_async)]
impl<M: Machine> Replica<M> {
    /// Opens the directory, checks it, loads the machine from its rows and takes part in the cluster.
    ///
    /// Serves nothing: the caller serves [`Replica::raft_service`] at the raft address.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        todo!()
    }

    /// The service that other replicas call. Message limits are set.
    pub fn raft_service(&self) -> rpc::raft::raft_server::RaftServer<RaftService> {
        todo!()
    }

    /// Proposes one command and waits until it was applied. Only the leader can.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed<M::Reply>, ProposeError> {
        todo!()
    }

    /// Looks at the machine as it is here and now, maybe behind the leader. Keep it short: apply waits.
    pub fn read<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        todo!()
    }

    /// Returns when this machine shows everything that was answered before the call. Only the leader can.
    pub async fn barrier(&self) -> Result<(), ReadError> {
        todo!()
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        todo!()
    }

    /// On the leader: the newest instant of which a quorum has confirmed that it followed this leader then.
    pub fn quorum_acknowledged(&self) -> Option<Instant> {
        todo!()
    }

    /// Which cluster, which node, which directory.
    pub fn identity(&self) -> &Identity {
        todo!()
    }

    /// How it is. Never waits.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// On the leader: gives a joining replica its node id, adds it as a learner, and makes it a voter in the
    /// background once it has caught up. The same store uuid gets the same answer.
    pub async fn admit(&self, store_uuid: &str, raft_address: &str, api_address: &str) -> Result<Admitted, AdmitError> {
        todo!()
    }

    /// On the leader: makes all replicas sum their rows at one index, and waits for the own sum.
    pub async fn fingerprint(&self) -> Result<Fingerprint, ProposeError> {
        todo!()
    }

    /// The newest sum that this replica computed because the leader asked all.
    pub fn fingerprint_at(&self) -> Option<Fingerprint> {
        todo!()
    }

    /// Resolves when the replica cannot go on (its disk failed, its bytes are corrupt), with the reason. The
    /// process should then end with that message.
    pub async fn stopped(&self) -> String {
        todo!()
    }

    /// Stops taking part, writes what is worth writing, and frees the directory.
    pub async fn shutdown(&self) {
        todo!()
    }
}
