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
const COMMAND: Duration = Duration::from_secs(120);

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
    wait::until("production without quota to be refused", PATIENCE, async || {
        let request = tests::api::request("test");
        let (_, why) = cluster.any_api().create_job(&request, &spec).await.refused()?;
        ensure!(why.contains("no quota") && why.contains("short of 2.0 cpu"), "without quota: {why}");
        Ok(())
    })
    .await?;
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
        ensure!(
            summary.contains("frozen")
                && why["why"][0]["nearest_miss"] == ""
                && why["why"][0]["waiting"] == 6,
            "{why}"
        );
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

/// A file with one service of production tasks.
fn production(cluster: &Cluster, key: &JobKey, instances: u32, cpu: &str) -> Result<String> {
    let path = cluster.dir().join(format!("{}-{instances}-{cpu}.aurora", key.name));
    let JobKey { cluster: of, role, environment, name } = key;
    std::fs::write(
        &path,
        format!(
            "p = Process(name = 'sleep', cmdline = 'exec sleep 1000000')\n\
             t = SequentialTask(processes = [p], \
             resources = Resources(cpu = {cpu}, ram = 16*MB, disk = 16*MB))\n\
             jobs = [Service(cluster = '{of}', role = '{role}', environment = '{environment}', \
             name = '{name}', task = t, instances = {instances}, tier = 'preferred')]\n"
        ),
    )?;
    Ok(path.display().to_string())
}

/// A plan's exit code and answer.
fn plan(client: &Client, file: &str) -> Result<(Option<i32>, Value)> {
    let ended = client.run(&["job", "plan", file, "--json"], COMMAND)?;
    let answer = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    Ok((ended.code, answer))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_come_true() -> Result<()> {
    let mut cluster = Cluster::start(Setup::default()).await?;
    let addresses: Vec<String> = cluster.replicas.iter().map(|replica| replica.api.clone()).collect();
    let client = Client::new(&cluster.programs, &addresses);
    let (low, high) = (cluster.key("low"), cluster.key("high"));
    cluster.create(&cores(&low, 6, "preemptible")).await?;
    cluster.all_running(&low, 6).await?;
    let file = production(&cluster, &high, 4, "1.0")?;
    let role = high.role.as_str();

    // 2: it lacks quota.
    say(&client, &["quota", "set", role, "--cpus", "2", "--ram-mib", "4096", "--disk-mib", "4096"])?;
    let (code, answer) = plan(&client, &file)?;
    ensure!(code == Some(2) && answer["within_quota"] == false && answer["exists"] == false, "{answer}");
    ensure!(answer["would_wait"] == 0, "the hosts have room for it: {answer}");
    let quota = say(&client, &["quota", "increment", role, "--cpus", "2"])?;
    ensure!(quota["quota"]["cpu_milli"] == 4000 && quota["quota"]["ram_mib"] == 4096, "{quota}");

    // 1: two find room at once, two in the place of others; and so it comes.
    let (code, answer) = plan(&client, &file)?;
    ensure!(code == Some(1) && answer["feasible"] == true && answer["cut"] == false, "{answer}");
    ensure!(answer["would_place"] == 2 && answer["after_displacing"] == 2, "{answer}");
    ensure!(answer["displaced"] == 2 && answer["victims"].as_array().map(Vec::len) == Some(2), "{answer}");
    say(&client, &["job", "create", &high.to_string(), &file, "--wait"])?;
    let counts = cluster.job(&low).await?.counts;
    let of = |status: proto::wire::Status| counts.iter().find(|count| count.status() == status);
    ensure!(of(proto::wire::Status::Running).map(|count| count.tasks) == Some(4), "{counts:?}");

    // 0: it is there; 1: smaller it would be; 2: larger than the hosts.
    let (code, answer) = plan(&client, &file)?;
    ensure!(code == Some(0) && answer["changes"].as_array().is_some_and(Vec::is_empty), "{answer}");
    let (code, answer) = plan(&client, &production(&cluster, &high, 4, "0.5")?)?;
    ensure!(code == Some(1) && answer["would_place"] == 4 && answer["displaced"] == 0, "{answer}");
    ensure!(answer["changes"][0].as_str().is_some_and(|change| change.contains("resources")), "{answer}");
    say(&client, &["quota", "increment", role, "--cpus", "100"])?;
    let (code, answer) = plan(&client, &production(&cluster, &high, 9, "1.0")?)?;
    ensure!(code == Some(2) && answer["within_quota"] == true && answer["would_wait"] == 1, "{answer}");

    // More of the same, and what takes only what is left over.
    cluster.kill_tasks(&low, &[]).await?;
    let late = cluster.key("late");
    cluster.create(&cores(&late, 1, "preemptible")).await?;
    cluster.all_running(&late, 1).await?;
    let added = say(&client, &["job", "add", &format!("{late}/0"), "2"])?;
    ensure!(added["tasks"] == 2, "{added}");
    cluster.all_running(&late, 3).await?;
    let spare = cluster.key("spare");
    cluster.create(&cores(&spare, 1, "revocable")).await?;
    cluster.all_running(&spare, 1).await?;

    let twice = verdict::launched_once(&cluster.journals()?);
    ensure!(twice.is_empty(), "{twice:?}");
    cluster.must_live()?;
    cluster.stop()
}
