//! What the other replicas' wall clocks show, read every few seconds so that a new leader need not ask.

use std::collections::{BTreeMap, BTreeSet};
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
    /// The clocks of this replica and of those `voters` that were read lately, carried forward to now. Who does not
    /// vote, or was removed, is no part of a quorum.
    pub fn readings_ms(&self, voters: &BTreeSet<u64>) -> Vec<u64> {
        let now = boottime();
        let readings = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        let counted = readings.iter().filter(|(node, _)| voters.contains(node));
        let others = counted.filter_map(|(_, &(wall, at))| {
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
        let own = replica.identity();
        let others = replica.status().members.into_iter().filter(|member| member.node_id != own.node_id);
        let asked = others.map(|member| async move {
            let mut client = ClusterClient::new(peers.channel(&member.api_address));
            let answer = tokio::time::timeout(ANSWER_MAX, client.status(ClusterStatusRequest {})).await;
            let Ok(Ok(status)) = answer else { return };
            let status = status.into_inner();
            // Another replica may answer at that address.
            if status.node_id == member.node_id && status.cluster_id == own.cluster_id {
                let reading = (status.wall_ms, boottime());
                self.0.lock().unwrap_or_else(|broken| broken.into_inner()).insert(member.node_id, reading);
            }
        });
        futures::future::join_all(asked).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_voters_clocks_count() {
        let clocks = Clocks::default();
        let long_ago = boottime().saturating_sub(READING_MAX_AGE * 2);
        for (node, wall, at) in [(2, 200, boottime()), (3, 300, boottime()), (4, 400, long_ago)] {
            clocks.0.lock().unwrap().insert(node, (wall, at));
        }
        assert_eq!(clocks.readings_ms(&BTreeSet::from([1])).len(), 1, "its own");
        let two = clocks.readings_ms(&BTreeSet::from([1, 3]));
        assert!(two.len() == 2 && (300..10_000).contains(&two[1]), "{two:?}");
        assert_eq!(clocks.readings_ms(&BTreeSet::from([1, 2, 3])).len(), 3);
    }
}
