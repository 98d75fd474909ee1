//! What the other replicas' wall clocks show, read every few seconds so that a new leader need not ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::wire::ClusterStatusRequest;
use rpc::cluster_client::ClusterClient;

use crate::leader::clock::{boottime, wall_ms};
use crate::limits::CLOCK_READ;
use crate::peers::Peers;
use crate::running::Replica;

/// A reading older than this says nothing of a clock now.
const READING_MAX_AGE: Duration = Duration::from_secs(60);

/// How long another replica may take to say what its clock shows.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Readings by node id: the wall clock there, and when (by own boot time) it was read.
#[derive(Clone, Debug, Default)]
pub struct Clocks(Arc<Mutex<BTreeMap<u64, (u64, Duration)>>>);

impl Clocks {
    /// The clocks of this replica and of those read lately, carried forward to now.
    pub fn readings_ms(&self) -> Vec<u64> {
        let now = boottime();
        let readings = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        let others = readings.values().filter_map(|&(wall, at)| {
            let age = now.saturating_sub(at);
            (age <= READING_MAX_AGE)
                .then(|| wall.saturating_add(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
        });
        std::iter::once(wall_ms()).chain(others).collect()
    }

    /// Reads the others' clocks for as long as the replica runs.
    pub async fn keep(self, replica: Replica, peers: Peers) {
        loop {
            self.read(&replica, &peers).await;
            tokio::time::sleep(CLOCK_READ).await;
        }
    }

    /// Reads the others' clocks, all at once; who does not answer in time is left out.
    pub async fn read(&self, replica: &Replica, peers: &Peers) {
        let own = replica.identity().node_id;
        let others = replica.status().members.into_iter().filter(|member| member.node_id != own);
        let asked = others.map(|member| async move {
            let mut client = ClusterClient::new(peers.channel(&member.api_address));
            let answer = tokio::time::timeout(ANSWER_MAX, client.status(ClusterStatusRequest {})).await;
            if let Ok(Ok(status)) = answer {
                let reading = (status.into_inner().wall_ms, boottime());
                self.0.lock().unwrap_or_else(|broken| broken.into_inner()).insert(member.node_id, reading);
            }
        });
        futures::future::join_all(asked).await;
    }
}
