//! `borealis cluster snapshot` and `backup`: one replica stores what it has, or sends all of it here.

use std::path::Path;

use proto::NodeId;
use proto::wire::{BackupRequest, TakeSnapshotRequest, backup_part};
use rpc::cluster_client::ClusterClient;
use serde_json::json;

use crate::connection::{connect, words};
use crate::error::{Error, Kind};
use crate::table::table;
use crate::{Context, TIMEOUT};

/// Largest chunk of a backup, in bytes, with room for its frame.
const PART_BYTES_MAX: usize = 4 << 20;

/// Lets every replica that is asked take a snapshot.
pub(crate) async fn run_snapshot(context: &Context<'_>) -> Result<(), Error> {
    let connection = context.connect(None, TIMEOUT)?;
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

/// Writes a backup of the first replica that answers as the new directory `to`.
pub(crate) async fn run_backup(context: &Context<'_>, to: &Path) -> Result<(), Error> {
    if to.exists() {
        return Err(Error::new(Kind::InvalidParameter, format!("{} exists already", to.display()))
            .hint("name a directory that does not exist yet: a backup is never written over"));
    }
    let connection = context.connect(None, TIMEOUT)?;
    let mut said = Vec::new();
    for address in connection.addresses() {
        let client = match connect(address, connection.timeout()).await {
            Ok(channel) => ClusterClient::new(channel).max_decoding_message_size(PART_BYTES_MAX),
            Err(why) => {
                said.push(format!("{address}: {why}"));
                continue;
            }
        };
        let manifest = receive(client, to).await?;
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
    Err(Error::new(Kind::Network, format!("no replica answered:\n  {}", said.join("\n  ")))
        .hint("name the replicas with --addr"))
}

async fn receive(
    mut client: ClusterClient<tonic::transport::Channel>,
    to: &Path,
) -> Result<proto::wire::raft::BackupManifest, Error> {
    let broken = |why: String| {
        Error::new(Kind::Failed, format!("the backup did not arrive: {why}")).hint("run the command again")
    };
    let unread = |status: tonic::Status| broken(words(&status));
    let mut parts = client.backup(BackupRequest {}).await.map_err(unread)?.into_inner();
    let first = parts.message().await.map_err(unread)?.and_then(|part| part.part);
    let Some(backup_part::Part::Manifest(manifest)) = first else {
        return Err(broken("the replica did not say what it is of".to_owned()));
    };
    // Written here as it comes; the disk is this command's only business, so it may wait for it.
    let arriving = to.with_extension("part");
    if arriving.exists() {
        std::fs::remove_dir_all(&arriving)
            .map_err(|why| broken(format!("removing {} failed: {why}", arriving.display())))?;
    }
    let files = manifest.snapshot.clone().unwrap_or_default().files;
    let stored = |why: transfer::Error| broken(why.to_string());
    let mut receiver = transfer::Receiver::begin(&arriving, files).map_err(stored)?;
    while let Some(part) = parts.message().await.map_err(unread)? {
        let Some(backup_part::Part::Data(data)) = part.part else {
            return Err(broken("the replica began anew".to_owned()));
        };
        receiver.take(&data).map_err(stored)?;
    }
    receiver.finish().map_err(stored)?;
    transfer::seal(&arriving, &manifest, to).map_err(stored)?;
    Ok(manifest)
}
