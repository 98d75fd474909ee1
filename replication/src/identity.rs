//! Which cluster and node a data directory belongs to, and how it comes to belong.

use std::path::Path;

use crate::error::StoreError;
use crate::options::Options;

/// Which cluster and node a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random; minted by `init`.
    pub cluster_id: String,
    /// Given once, never again.
    pub node_id: u64,
    /// Random; one per data directory.
    pub store_uuid: String,
    /// The cluster's name.
    pub cluster: String,
    /// The first cluster id of this line of restored clusters.
    pub lineage_id: String,
    /// Rises when a cluster is restored; minutes since 2025 at first.
    pub epoch: u64,
}

/// Reads whose directory this is; `None` when it belongs to no cluster yet.
pub fn identity(dir: &Path) -> Result<Option<Identity>, StoreError> {
    let _ = dir;
    todo!()
}

/// Begins a cluster in an empty directory: mints its id and epoch, makes this node 1 and the only member.
pub async fn init(options: &Options) -> Result<Identity, StoreError> {
    let _ = options;
    todo!()
}

/// For a replica that will join: the uuid of its directory, made at the first call and kept.
pub fn store_uuid(dir: &Path) -> Result<String, StoreError> {
    let _ = dir;
    todo!()
}

/// Writes what [`crate::Replica::admit`] gave into the directory, which until then belongs to no cluster.
pub async fn adopt(options: &Options, identity: &Identity) -> Result<(), StoreError> {
    let _ = (options, identity);
    todo!()
}
