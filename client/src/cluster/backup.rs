//! `borealis cluster snapshot` and `backup`: one replica stores what it has, or sends all of it here.

use std::path::{Path, PathBuf};

use proto::NodeId;
use proto::wire::{BackupRequest, TakeSnapshotRequest, backup_part};
use rpc::cluster_client::ClusterClient;
use serde_json::json;

use crate::connection::{connect, words};
use crate::error::{Error, Kind};
use crate::table::{clean, table};
use crate::{Context, TIMEOUT};

/// Largest chunk of a backup, in bytes, with room for its frame.
const PART_BYTES_MAX: usize = 4 << 20;

/// Lets every replica that is asked take a snapshot.
pub(crate) async fn run_snapshot(context: &Context<'_>) -> Result<(), Error> {
    let connection = context.connect(None, TIMEOUT)?;
    connection.check_cluster().await?;
    let (mut lines, mut values, mut failed) = (Vec::new(), Vec::new(), None);
    for address in connection.addresses() {
        match snapshot_of(address, connection.timeout()).await {
            Ok(reply) => {
                lines.push(vec![
                    address.clone(),
                    NodeId(reply.node_id).to_string(),
                    reply.log_index.to_string(),
                    reply.rows.to_string(),
                    reply.bytes.to_string(),
                ]);
                values.push(json!({ "address": address, "node_id": reply.node_id, "id": reply.id, "log_index": reply.log_index, "rows": reply.rows, "bytes": reply.bytes }));
            }
            Err(why) => {
                lines.push(vec![address.clone(), "-".into(), "-".into(), "-".into(), why.clone()]);
                values.push(json!({ "address": address, "problem": why }));
                failed = Some(format!("{address} took no snapshot: {why}"));
            }
        }
    }
    let text = table(&["ADDRESS", "REPLICA", "LOG INDEX", "ROWS", "BYTES"], &lines);
    context.output.answer(&text, &json!({ "snapshots": values }))?;
    failed.map_or(Ok(()), |why| Err(Error::new(Kind::Failed, why)))
}

async fn snapshot_of(
    address: &str,
    timeout: std::time::Duration,
) -> Result<proto::wire::TakeSnapshotReply, String> {
    let mut client = ClusterClient::new(connect(address, timeout).await?);
    let reply = tokio::time::timeout(timeout, client.take_snapshot(TakeSnapshotRequest {})).await;
    let reply = reply.map_err(|_| "no answer in time".to_owned())?;
    Ok(reply.map_err(|status| words(&status))?.into_inner())
}

/// Writes a backup of the first replica that can send one as the new directory `to`.
pub(crate) async fn run_backup(context: &Context<'_>, to: &Path) -> Result<(), Error> {
    if to.exists() {
        return Err(Error::new(Kind::InvalidParameter, format!("{} exists already", to.display()))
            .hint("name a directory that does not exist yet: a backup is never written over"));
    }
    let connection = context.connect(None, TIMEOUT)?;
    connection.check_cluster().await?;
    let expected = context.common.cluster.as_deref();
    let (mut said, mut kind) = (Vec::new(), Kind::Network);
    for address in connection.addresses() {
        let channel = match connect(address, connection.timeout()).await {
            Ok(channel) => channel,
            Err(why) => {
                said.push(format!("{address}: {why}"));
                continue;
            }
        };
        let client = ClusterClient::new(channel).max_decoding_message_size(PART_BYTES_MAX);
        let manifest = match receive(client, expected, to).await {
            Ok(manifest) => manifest,
            Err(Missed::There(why)) => {
                context.output.note(&format!("no backup from {address}: {why}"));
                said.push(format!("{address}: {why}"));
                kind = Kind::Failed;
                continue;
            }
            Err(Missed::Here(error)) => return Err(error),
        };
        let snapshot = manifest.snapshot.unwrap_or_default();
        let bytes: u64 = snapshot.files.iter().map(|file| file.bytes).sum();
        let index = snapshot.last.map_or(0, |last| last.index);
        let text = format!(
            "{} is a backup of {}, taken from {}: {} rows at log index {index}, {bytes} bytes, every file checked\nnext: keep it on another machine; `borealis cluster restore` makes a new cluster of it",
            to.display(),
            manifest.cluster,
            NodeId(manifest.node_id),
            snapshot.rows,
        );
        return context.output.answer(
            &text,
            &json!({ "dir": to.display().to_string(), "cluster": manifest.cluster, "epoch": manifest.epoch, "node_id": manifest.node_id, "rows": snapshot.rows, "log_index": index, "bytes": bytes }),
        );
    }
    Err(Error::new(kind, format!("no replica sent a backup:\n  {}", said.join("\n  ")))
        .hint("name the replicas with --addr"))
}

/// Why there is no backup.
enum Missed {
    /// That replica did not send one: another may.
    There(String),
    /// No other would help.
    Here(Error),
}

impl From<transfer::Error> for Missed {
    fn from(why: transfer::Error) -> Self {
        match why {
            // What was sent is not what it should be.
            transfer::Error::Bad { .. } => Missed::There(why.to_string()),
            transfer::Error::Io { .. } | transfer::Error::Level { .. } => {
                Missed::Here(Error::new(Kind::Failed, format!("the backup cannot be written: {why}")))
            }
        }
    }
}

/// A directory in which a backup arrives: made by this command, used by nobody else, and gone when it ends.
struct Arriving(PathBuf);

impl Arriving {
    /// Beside `to`, under a name that nobody has.
    fn beside(to: &Path) -> Option<Self> {
        let mut name = to.file_name()?.to_owned();
        name.push(format!(".{}.part", uuid::Uuid::now_v7().simple()));
        Some(Arriving(to.with_file_name(name)))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // Whole, it has another name by now.
        let _is_mostly_gone = std::fs::remove_dir_all(&self.0);
    }
}

async fn receive(
    mut client: ClusterClient<tonic::transport::Channel>,
    expected: Option<&str>,
    to: &Path,
) -> Result<proto::wire::raft::BackupManifest, Missed> {
    let unread = |status: tonic::Status| Missed::There(words(&status));
    let mut parts = client.backup(BackupRequest {}).await.map_err(unread)?.into_inner();
    let first = parts.message().await.map_err(unread)?.and_then(|part| part.part);
    let Some(backup_part::Part::Manifest(manifest)) = first else {
        return Err(Missed::There("the replica did not say what it is of".to_owned()));
    };
    if let Some(expected) = expected.filter(|expected| *expected != manifest.cluster) {
        let what = format!("the replica is of the cluster `{}`, not `{expected}`", clean(&manifest.cluster));
        return Err(Missed::Here(Error::new(Kind::InvalidParameter, what).hint(
            "name the right cluster with --cluster, or its replicas with --addr; nothing was written",
        )));
    }
    // Written here as it comes; the disk is this command's only business, so it may wait for it.
    let arriving = Arriving::beside(to).ok_or_else(|| {
        let what = format!("{} cannot be the name of a new directory", to.display());
        Missed::Here(Error::new(Kind::InvalidParameter, what))
    })?;
    let files = manifest.snapshot.clone().unwrap_or_default().files;
    let mut receiver = transfer::Receiver::begin(&arriving.0, files)?;
    while let Some(part) = parts.message().await.map_err(unread)? {
        let Some(backup_part::Part::Data(data)) = part.part else {
            return Err(Missed::There("the replica began anew".to_owned()));
        };
        receiver.take(&data)?;
    }
    receiver.finish()?;
    transfer::seal(&arriving.0, &manifest, to)?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_arrives_beside_its_place_under_a_name_of_its_own() {
        let home = tempfile::tempdir().unwrap();
        for name in ["c", "c.1", "c.2", "c.part", "c/"] {
            let (one, other) =
                (Arriving::beside(&home.path().join(name)), Arriving::beside(&home.path().join(name)));
            let (one, other) = (one.unwrap(), other.unwrap());
            assert_ne!(one.0, other.0);
            assert_eq!(one.0.parent(), Some(home.path()));
            let begin = format!("{}.", name.trim_end_matches('/'));
            let arriving = one.0.file_name().unwrap().to_string_lossy().into_owned();
            assert!(arriving.starts_with(&begin) && arriving.ends_with(".part"), "{arriving}");
        }
        assert!(Arriving::beside(Path::new("..")).is_none());
        std::fs::create_dir(home.path().join("c.part")).unwrap();
        let arriving = Arriving::beside(&home.path().join("c")).unwrap();
        std::fs::create_dir(&arriving.0).unwrap();
        let path = arriving.0.clone();
        drop(arriving);
        assert!(!path.exists() && home.path().join("c.part").exists());
    }
}
