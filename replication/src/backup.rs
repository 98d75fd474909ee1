//! Backups: a snapshot taken for the purpose, described so that a new cluster can be made of it.
//!
//! Any replica can take one, at what it has stored itself. Not here: how a backup becomes a cluster (`offline`).

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use proto::wire::raft as wire;

use crate::error::StoreError;
use crate::ground;
use crate::identity::off_thread;
use crate::machine::Machine;
use crate::replica::Replica;
use crate::snapshot::{self, Snapshot};

/// The newest level of manifests that this program writes.
const LEVEL: u32 = 1;

/// A backup that can be written or sent. Its files stay until it is dropped.
#[derive(Clone, Debug)]
pub struct Backup {
    manifest: wire::BackupManifest,
    snapshot: Arc<Snapshot>,
}

impl Backup {
    /// What it is of, and its files.
    pub fn manifest(&self) -> &wire::BackupManifest {
        &self.manifest
    }

    /// Reads the files in order and hands each chunk to `send`, which may say "stop". Blocks.
    pub fn chunks(&self, mut send: impl FnMut(wire::SnapshotData) -> bool) -> Result<(), StoreError> {
        for chunk in snapshot::chunks(Arc::clone(&self.snapshot), None) {
            if !send(chunk?) {
                break;
            }
        }
        Ok(())
    }

    /// Writes it as the new directory `name`, whole or not at all; until then it is `arriving`, which nobody else may
    /// use. Blocks.
    fn write_to(&self, arriving: &Path, name: &Path) -> Result<(), StoreError> {
        let files = self.manifest.snapshot.iter().flat_map(|snapshot| snapshot.files.clone());
        let mut receiver = transfer::Receiver::begin(arriving, files.collect())?;
        let from = receiver.missing().map(|(name, offset)| (name.to_owned(), offset));
        if from.is_some() {
            for chunk in snapshot::chunks(Arc::clone(&self.snapshot), from) {
                receiver.take(&chunk?)?;
            }
        }
        receiver.finish()?;
        Ok(transfer::seal(arriving, &self.manifest, name)?)
    }
}

impl<M: Machine> Replica<M> {
    /// Stores all that is applied here and takes a backup of it, once it has read it back. The rest of the replica goes
    /// on meanwhile.
    pub async fn backup(&self) -> Result<Backup, StoreError> {
        let snapshot = self.take_snapshot().await?;
        let looked_at = Arc::clone(&snapshot);
        off_thread(move || snapshot::check_rows(&looked_at)).await.map_err(|why| {
            StoreError::Refused(format!(
                "no backup was made, for it could not be restored: {why}. Take it from another replica"
            ))
        })?;
        let identity = self.identity();
        let since = ground::wall_time().duration_since(UNIX_EPOCH).unwrap_or_default();
        let manifest = wire::BackupManifest {
            level: LEVEL,
            snapshot: Some(snapshot.meta.clone()),
            cluster: identity.cluster.clone(),
            cluster_id: identity.cluster_id.clone(),
            lineage_id: identity.lineage_id.clone(),
            epoch: identity.epoch,
            node_id: identity.node_id,
            taken_ms: since.as_millis() as u64,
        };
        Ok(Backup { manifest, snapshot })
    }

    /// Takes a backup and writes it as the new directory `name`. Until it is whole it has another name, which ends with
    /// [`Replica::part_ending`].
    pub async fn backup_to(&self, name: &Path) -> Result<wire::BackupManifest, StoreError> {
        let mut arriving = name.as_os_str().to_owned();
        arriving.push(format!(".{}{}", uuid::Uuid::new_v4().simple(), self.part_ending()));
        let (backup, name) = (self.backup().await?, name.to_owned());
        off_thread(move || {
            let written = backup.write_to(arriving.as_ref(), &name);
            if written.is_err() {
                let _is_no_backup = std::fs::remove_dir_all(&arriving);
            }
            written.map(|()| backup.manifest)
        })
        .await
    }

    /// The ending of a backup's name that this replica writes or, when it was killed meanwhile, has left behind. No
    /// other replica uses it.
    pub fn part_ending(&self) -> String {
        format!(".{}.part", self.identity().store_uuid)
    }
}
