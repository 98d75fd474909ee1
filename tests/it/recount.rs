//! Every figure that the API tells of waiting tasks, quotas, hosts and gauges, against a plain count of its own lists.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use proto::JobKey;
use proto::wire::{self, JobSpec};
use tests::api::request;
use tests::cluster::{Cluster, PATIENCE, Setup};
use tests::recount::{self, Lists};
use tests::{jobs, scrape, wait};

/// A service of so many tasks of so much cpu.
fn service(key: &JobKey, instances: u32, tier: &str, cpu_milli: u64) -> JobSpec {
    let mut spec = jobs::sleeper(key, instances);
    if let Some(config) = &mut spec.config {
        config.tier = tier.into();
        if let Some(resources) = config.task.as_mut().and_then(|task| task.resources.as_mut()) {
            resources.cpu_milli = cpu_milli;
        }
    }
    spec
}

fn constraint(attribute: &str, values: &[&str]) -> wire::Constraint {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    let rule = wire::constraint::Rule::Value(wire::ValueRule { negated: false, values });
    wire::Constraint { attribute: attribute.into(), rule: Some(rule) }
}

fn limit(attribute: &str, count: u32) -> wire::Constraint {
    let rule = wire::constraint::Rule::Limit(wire::LimitRule { count });
    wire::Constraint { attribute: attribute.into(), rule: Some(rule) }
}

fn with(mut spec: JobSpec, change: impl FnOnce(&mut wire::TaskConfig)) -> JobSpec {
    change(spec.config.as_mut().expect("a job has a config"));
    spec
}

/// All lists, as they are when nothing moves between two looks.
async fn lists(cluster: &Cluster) -> Result<Lists> {
    let api = cluster.api(cluster.leader().await?);
    let look = async || -> Result<Lists> {
        let mut lists = Lists { hosts: api.list_hosts().await.done()?.hosts, ..Lists::default() };
        for job in api.list_jobs().await.done()?.jobs {
            let key = job.key.as_ref().context("a job without a key")?.try_into()?;
            lists.jobs.push(api.get_job_and_config(&key).await.done()?);
        }
        Ok(lists)
    };
    let (first, second) = (look().await?, look().await?);
    let places = |lists: &Lists| -> BTreeMap<u64, (i32, String)> {
        let tasks = lists.jobs.iter().flat_map(|job| &job.tasks);
        tasks.map(|task| (task.task_id, (task.status, task.host.clone()))).collect()
    };
    ensure!(places(&first) == places(&second), "tasks move");
    let moves =
        [wire::Status::Assigned, wire::Status::Starting, wire::Status::Draining, wire::Status::Killing];
    let moving = second.jobs.iter().flat_map(|job| &job.tasks).filter(|task| moves.contains(&task.status()));
    ensure!(moving.count() == 0, "tasks are on their way");
    Ok(second)
}

async fn check(cluster: &Cluster, when: &str) -> Result<Lists> {
    wait::until(&format!("every figure to be what a count gives, {when}"), PATIENCE, async || {
        let leader = cluster.leader().await?;
        let api = cluster.api(leader);
        let seen = lists(cluster).await?;
        recount::check_hosts(&seen)?;
        recount::check_quotas(&seen, &api.get_quota().await.done()?.roles)?;
        for job in &seen.jobs {
            let key = job.spec.as_ref().and_then(|spec| spec.config.as_ref()?.job.clone());
            let key = JobKey::try_from(&key.context("a job without a config")?)?;
            recount::check_why(&seen, job, &api.why_pending(&key, &[]).await.done()?.whys)?;
        }
        recount::check_gauges(&seen, &scrape::of(&cluster.replicas[leader].api).await?)?;
        Ok(seen)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_figure_is_what_a_count_gives() -> Result<()> {
    let mut cluster = Cluster::start(Setup { agents: 1, simulated: 8, ..Setup::default() }).await?;
    let key = |role: &str, name: &str| JobKey::new(&cluster.name, role, "test", name);
    let quota = |cpu_milli| wire::Resources { cpu_milli, ram_mib: 8_192, disk_mib: 8_192, gpus: 0 };
    let api = cluster.api(cluster.leader().await?);
    for (role, cpu_milli) in [("www", 9_000), ("games", 4_000)] {
        let request = request("t");
        let set = async || api.set_quota(&request, role, quota(cpu_milli)).await.done();
        wait::until("a quota to be set", PATIENCE, set).await?;
    }
    // Of 32 cores, on 8 hosts in 4 racks.
    let own = |value: &str| constraint("dedicated", &[value]);
    let specs = [
        service(&key("www", "web")?, 6, "preferred", 1_000),
        service(&key("games", "match")?, 4, "preferred", 500),
        with(service(&key("games", "spread")?, 6, "preemptible", 500), |c| {
            c.constraints = vec![limit("rack", 1)]
        }),
        with(service(&key("games", "own")?, 2, "preferred", 1_000), |c| {
            c.constraints = vec![own("games/own")]
        }),
        with(service(&key("www", "far")?, 3, "preemptible", 250), |c| {
            c.constraints = vec![constraint("zone", &["z9"])];
        }),
        service(&key("www", "huge")?, 2, "preemptible", 5_000),
        with(service(&key("www", "gang")?, 40, "preemptible", 750), |c| c.all_or_nothing = true),
    ];
    for spec in &specs {
        cluster.create(spec).await?;
    }
    let seen = check(&cluster, "at first").await?;
    ensure!(seen.jobs.len() == specs.len(), "{} jobs are listed", seen.jobs.len());

    // Rooms shrink, and nothing gets better for those that wait.
    let fill = key("www", "fill")?;
    cluster.create(&service(&fill, 6, "preemptible", 2_500)).await?;
    check(&cluster, "with less room").await?;

    // A host goes, and some room comes back.
    let host = seen.hosts.first().and_then(|host| host.spec.clone()).context("a host")?.name;
    let (drain, hosts) = (request("t"), [host]);
    wait::until("a host to be drained", PATIENCE, async || api.drain_hosts(&drain, &hosts).await.done())
        .await?;
    check(&cluster, "with a drained host").await?;
    cluster.kill_tasks(&fill, &[1, 3]).await?;
    cluster.kill_tasks(&key("www", "huge")?, &[]).await?;
    let seen = check(&cluster, "after kills").await?;

    // What is not there is refused, and what is there is named.
    for refused in [
        api.why_pending(&fill, &[1, 7]).await.refused()?,
        api.kill_tasks(&request("t"), &fill, &[1]).await.refused()?,
        api.kill_tasks(&request("t"), &fill, &[0, 9]).await.refused()?,
    ] {
        let named = "its instances are 0-5, of which 0,2,4-5 live";
        ensure!(refused.0 == tonic::Code::NotFound && refused.1.contains(named), "{refused:?}");
    }
    let same = api.create_job(&request("t"), &specs[0]).await.done()?;
    ensure!(same.unchanged && same.tasks == 6, "{same:?}");

    // Who checks is checked: a figure that is wrong by one is found.
    let quotas = api.get_quota().await.done()?.roles;
    recount::check_quotas(&seen, &quotas)?;
    let mut bent = quotas.clone();
    let charged = bent.iter_mut().find(|role| role.role == "games").and_then(|role| role.charged.as_mut());
    charged.context("games is charged")?.cpu_milli += 1;
    ensure!(recount::check_quotas(&seen, &bent).is_err(), "a wrong charge was not found");
    let gang = seen.jobs.iter().find(|job| job.tasks.len() == 40).context("the gang")?;
    let whys = api.why_pending(&key("www", "gang")?, &[]).await.done()?.whys;
    recount::check_why(&seen, gang, &whys)?;
    for bend in [
        |why: &mut wire::Why| why.waiting += 1,
        |why: &mut wire::Why| why.fit = why.fit.map(|fit| fit + 1),
        |why: &mut wire::Why| why.vetoes.iter_mut().for_each(|veto| veto.hosts += 1),
    ] {
        let mut bent = whys.clone();
        bent.iter_mut().for_each(bend);
        ensure!(recount::check_why(&seen, gang, &bent).is_err(), "a wrong figure was not found: {bent:?}");
    }
    cluster.must_live()?;
    cluster.stop()
}
