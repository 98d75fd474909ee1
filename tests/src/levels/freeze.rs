//! Makes the parts of a golden directory that need running programs: a data directory and a backup. What was measured
//! of them, and of the histories that lie there already, is written down last.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Level;
use super::golden::{self, CLUSTER};
use crate::api::request;
use crate::cluster::{Cluster, PATIENCE, Setup};
use crate::{jobs, wait};

/// Fills `level.dir`, which holds `commands` and `proto`.
pub async fn freeze(level: &Level) -> Result<()> {
    let mut cluster =
        Cluster::start(Setup { replicas: 1, agents: 1, simulated: 6, ..Setup::default() }).await?;
    anyhow::ensure!(cluster.name == CLUSTER, "the cluster has another name: {}", cluster.name);
    history(&cluster).await?;
    let backup = level.dir.join("backup");
    let to = backup.display().to_string();
    cluster.client().run(&["cluster", "backup", "--to", &to], PATIENCE)?.ok()?;
    cluster.create(&jobs::sleeper(&cluster.key("behind-backup"), 2)).await?;
    cluster.all_running(&cluster.key("behind-backup"), 2).await?;
    cluster.client().run(&["cluster", "snapshot"], PATIENCE)?.ok()?;
    cluster.create(&jobs::sleeper(&cluster.key("behind-snapshot"), 3)).await?;
    cluster.all_running(&cluster.key("behind-snapshot"), 3).await?;
    cluster.replicas[0].kill()?;
    let left = cluster.replicas[0].dir.clone();
    let data = level.dir.join("data");
    // RocksDB's lock and notes, and what only holds room, are no data.
    golden::copy(&left, &data, &|name| {
        !name.starts_with("LOG")
            && !name.starts_with("LOCK")
            && !name.starts_with("lock")
            && name != "ballast"
            && !name.ends_with(".spare")
    })?;
    cut_segments(&data.join("log"))?;
    cluster.stop()?;

    let work = tempfile::tempdir()?;
    let measured = level.measure(work.path())?;
    let text = serde_json::to_string_pretty(&measured)? + "\n";
    let path = level.dir.join("expected.json");
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// A little of all that users and operators can ask for.
async fn history(cluster: &Cluster) -> Result<()> {
    let api = cluster.api(0);
    let key = |name: &str| cluster.key(name);
    let quota = proto::wire::Resources { cpu_milli: 8_000, ram_mib: 8_192, disk_mib: 8_192, gpus: 0 };
    api.set_quota(&request("freeze"), jobs::ROLE, quota).await.done()?;
    for (name, instances) in [("web", 6), ("batch", 4), ("short", 2)] {
        cluster.create(&jobs::sleeper(&key(name), instances)).await?;
        cluster.all_running(&key(name), instances).await?;
    }
    cluster.kill_tasks(&key("short"), &[]).await?;
    cluster.all_gone(&key("short")).await?;
    cluster.kill_tasks(&key("batch"), &[1]).await?;
    api.add_instances(&request("freeze"), &key("web"), 2).await.done()?;
    cluster.all_running(&key("web"), 8).await?;
    let host = api.list_hosts().await.done()?.hosts.first().and_then(|host| host.spec.clone());
    let host = host.context("a host has a name")?.name;
    api.drain_hosts(&request("freeze"), std::slice::from_ref(&host)).await.done()?;
    wait::until("the drained host to be empty", PATIENCE, async || {
        let hosts = api.list_hosts().await.done()?.hosts;
        let left = hosts.iter().find(|of| of.spec.as_ref().is_some_and(|spec| spec.name == host));
        anyhow::ensure!(left.is_some_and(|host| host.tasks == 0), "it has tasks yet");
        Ok(())
    })
    .await?;
    cluster.all_running(&key("web"), 8).await.map(drop)
}

/// A segment was written in advance, with zeros; they are not kept.
fn cut_segments(log: &Path) -> Result<()> {
    for entry in fs::read_dir(log)? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "seg") {
            continue;
        }
        let bytes = fs::read(&path)?;
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        fs::File::options().write(true).open(&path)?.set_len(end as u64)?;
    }
    Ok(())
}
