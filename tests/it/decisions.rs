//! What the engine decides, seen from the command line on a real cluster: quota, preemption, restarts, drains, freeze.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use proto::JobKey;
use proto::wire::{GetJobReply, JobSpec};
use serde_json::Value;
use tests::client::Client;
use tests::cluster::{Cluster, PATIENCE, Setup};
use tests::{jobs, verdict, wait};

/// For one command, which may wait for tasks.
const COMMAND: Duration = Duration::from_secs(40);

/// A service of so many tasks of one core.
fn cores(key: &JobKey, instances: u32, tier: &str) -> JobSpec {
    let mut spec = jobs::sleeper(key, instances);
    if let Some(config) = &mut spec.config {
        config.tier = tier.into();
        if let Some(resources) = config.task.as_mut().and_then(|task| task.resources.as_mut()) {
            resources.cpu_milli = 1000;
        }
    }
    spec
}

/// Runs a command that must succeed, and reads its answer.
fn say(client: &Client, words: &[&str]) -> Result<Value> {
    let text = client.run(&[words, &["--json"]].concat(), COMMAND)?.ok()?;
    serde_json::from_str(&text).with_context(|| format!("{words:?} answered {text}"))
}

fn placed(job: &GetJobReply, instance: u32) -> Option<(u64, String)> {
    job.tasks.iter().find(|task| task.instance == instance).map(|task| (task.task_id, task.host.clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_comes_first_and_operators_decide() -> Result<()> {
    let mut cluster = Cluster::start(Setup::default()).await?;
    let addresses: Vec<String> = cluster.replicas.iter().map(|replica| replica.api.clone()).collect();
    let client = Client::new(&cluster.programs, &addresses);
    let (low, high) = (cluster.key("low"), cluster.key("high"));
    cluster.create(&cores(&low, 8, "preemptible")).await?;
    cluster.all_running(&low, 8).await?;

    // Production needs quota.
    let spec = cores(&high, 2, "preferred");
    let refused = cluster.create(&spec).await.map_err(|why| why.to_string());
    ensure!(
        refused.as_ref().is_err_and(|why| why.contains("no quota") && why.contains("short of 2.0 cpu")),
        "without quota: {refused:?}"
    );
    let role = high.role.as_str();
    say(&client, &["quota", "set", role, "--cpus", "2", "--ram-mib", "4096", "--disk-mib", "4096"])?;

    // It displaces what is not, and no more than it needs.
    cluster.create(&spec).await?;
    cluster.all_running(&high, 2).await?;
    let quota = say(&client, &["quota", "get", role])?;
    ensure!(quota["roles"][0]["charged"]["cpu_milli"] == 2000, "{quota}");
    ensure!(quota["roles"][0]["other"]["cpu_milli"] == 8000, "{quota}");
    let low_key = low.to_string();
    let why = wait::until("the displaced to be told why they wait", PATIENCE, async || {
        let why = say(&client, &["job", "why", &low_key])?;
        ensure!(why["why"][0]["vetoes"]["cpu"] == 2, "{why}");
        Ok(why)
    })
    .await?;
    ensure!(why["why"][0]["waiting"] == 2 && why["why"][0]["hosts"] == 2, "{why}");
    let miss = why["why"][0]["nearest_miss"].as_str().unwrap_or_default();
    ensure!(miss == "needs 1.0 cpu; the best host has 0.0 free", "{why}");

    // A restarted task keeps its place, though others wait for one.
    let before = placed(&cluster.job(&high).await?, 0).context("instance 0")?;
    say(&client, &["job", "restart", &format!("{high}/0")])?;
    wait::until("instance 0 to be another task on the same host", PATIENCE, async || {
        let now = placed(&cluster.job(&high).await?, 0).context("instance 0 is on its way")?;
        ensure!(now.0 != before.0 && now.1 == before.1, "it was {before:?} and is {now:?}");
        Ok(())
    })
    .await?;
    cluster.all_running(&high, 2).await?;

    // A drained host is empty, and production has moved.
    let host = before.1;
    let unknown = client.run(&["host", "drain", &host, "no-such-host"], COMMAND)?;
    ensure!(unknown.code == Some(10) && unknown.stderr.contains("no host is called"), "{unknown:?}");
    say(&client, &["host", "drain", &host, "--wait"])?;
    let status = say(&client, &["host", "status", &host])?;
    ensure!(status["hosts"][0]["mode"] == "drained" && status["hosts"][0]["tasks"] == 0, "{status}");
    let moved = cluster.all_running(&high, 2).await?;
    ensure!(moved.tasks.iter().all(|task| task.host != host), "{:?}", moved.tasks);
    say(&client, &["host", "activate", &host])?;

    // Frozen, nothing is placed; thawed, all that has room is.
    say(&client, &["cluster", "freeze"])?;
    let late = cluster.key("late");
    cluster.kill_tasks(&low, &[]).await?;
    cluster.create(&cores(&late, 6, "preemptible")).await?;
    let late_key = late.to_string();
    wait::until("the frozen cluster to say so", PATIENCE, async || {
        let why = say(&client, &["job", "why", &late_key])?;
        let summary = why["why"][0]["summary"].as_str().unwrap_or_default();
        ensure!(summary.contains("frozen") && why["why"][0]["waiting"] == 6, "{why}");
        Ok(())
    })
    .await?;
    say(&client, &["cluster", "thaw"])?;
    cluster.all_running(&late, 6).await?;

    let twice = verdict::launched_once(&cluster.journals()?);
    ensure!(twice.is_empty(), "{twice:?}");
    cluster.must_live()?;
    cluster.stop()
}
