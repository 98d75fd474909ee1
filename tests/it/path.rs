//! The main path on real processes, and what must hold while they are killed: tasks keep their processes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proto::wire::GetJobReply;
use tests::api::{Answer, request};
use tests::cluster::{Cluster, PATIENCE, Setup};
use tests::processes::Identity;
use tests::{jobs, scrape, verdict, wait};

fn ids(job: &GetJobReply) -> Vec<(u32, u64)> {
    let mut ids: Vec<_> = job.tasks.iter().map(|task| (task.instance, task.task_id)).collect();
    ids.sort_unstable();
    ids
}

type Living = BTreeMap<(u64, String), Identity>;

/// All processes of `before` run still, under the same names of the same tasks.
fn untouched(cluster: &Cluster, before: &Living) -> Result<()> {
    ensure!(!before.is_empty(), "nothing ran before, so nothing is shown");
    let now = cluster.living()?;
    for (name, identity) in before {
        let found = now.get(name).with_context(|| format!("{name:?} was {identity:?} and lives no more"))?;
        ensure!(found == identity, "{name:?} was {identity:?} and is {found:?}: it was restarted");
    }
    Ok(())
}

/// Nothing was launched twice, and what lives on the agents is what the API says.
async fn consistent(cluster: &Cluster) -> Result<()> {
    let twice = verdict::launched_once(&cluster.journals()?);
    ensure!(twice.is_empty(), "{twice:?}");
    wait::until("the agents and the API to agree", PATIENCE, async || {
        let breaches = tests::load::agents_breaches(cluster).await?;
        ensure!(breaches.is_empty(), "{breaches:?}");
        Ok(())
    })
    .await
}

/// The last steps of a test with three replicas: they are equal, no promise is broken, and all that should live does.
async fn ends_sound(mut cluster: Cluster) -> Result<()> {
    cluster.equal_sums().await?;
    consistent(&cluster).await?;
    cluster.must_live()?;
    cluster.stop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_is_seen_and_is_killed() -> Result<()> {
    let mut cluster = Cluster::start(Setup::default()).await?;
    let key = cluster.key("hello");
    cluster.create(&jobs::sleeper(&key, 3)).await?;
    let job = cluster.all_running(&key, 3).await?;
    ensure!(ids(&job).iter().map(|(instance, _)| *instance).eq(0..3), "instances {:?}", ids(&job));
    for n in 0..3 {
        let what = format!("replica {} to answer", n + 1);
        let seen = wait::until(&what, PATIENCE, async || cluster.api(n).get_job(&key).await.done()).await?;
        ensure!(ids(&seen) == ids(&job), "replica {} says {:?}, others {:?}", n + 1, ids(&seen), ids(&job));
    }
    let living = cluster.living()?;
    ensure!(living.len() == 6, "three executors and three processes, not {living:?}");
    cluster.kill_tasks(&key, &[1]).await?;
    wait::until("instance 1 to be gone", PATIENCE, async || {
        let left: Vec<_> = ids(&cluster.job(&key).await?).iter().map(|(instance, _)| *instance).collect();
        ensure!(left == [0, 2], "instances {left:?} live");
        Ok(())
    })
    .await?;
    cluster.kill_tasks(&key, &[]).await?;
    cluster.all_gone(&key).await?;
    wait::until("the processes to be gone", PATIENCE, async || {
        let left: Vec<_> = living.values().filter(|identity| identity.alive()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    consistent(&cluster).await?;
    cluster.must_live()?;
    cluster.stop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_replica_restarts_from_its_disk_and_its_task_keeps_its_pid() -> Result<()> {
    let mut cluster = Cluster::start(Setup { replicas: 1, agents: 1, ..Setup::default() }).await?;
    let key = cluster.key("keeps");
    cluster.create(&jobs::sleeper(&key, 2)).await?;
    let before = ids(&cluster.all_running(&key, 2).await?);
    let living = cluster.living()?;
    for turn in 0..2 {
        cluster.replicas[0].kill()?;
        cluster.replicas[0].start()?;
        cluster.serves(0).await?;
        cluster.leader().await?;
        cluster.commands_all_agents(&format!("after-{turn}")).await?;
        ensure!(ids(&cluster.all_running(&key, 2).await?) == before, "other tasks than before");
        untouched(&cluster, &living)?;
    }
    consistent(&cluster).await?;
    cluster.stop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_tasks_do_not_notice() -> Result<()> {
    let mut cluster = Cluster::start(Setup::default()).await?;
    let key = cluster.key("keeps");
    cluster.create(&jobs::sleeper(&key, 4)).await?;
    let before = ids(&cluster.all_running(&key, 4).await?);
    let living = cluster.living()?;
    let old = cluster.leader().await?;
    cluster.replicas[old].kill()?;
    let new = cluster.leader().await?;
    ensure!(new != old, "a dead replica leads");
    cluster.commands_all_agents("by-the-new-leader").await?;
    ensure!(ids(&cluster.all_running(&key, 4).await?) == before, "other tasks than before");
    untouched(&cluster, &living)?;
    cluster.replicas[old].start()?;
    cluster.serves(old).await?;
    ends_sound(cluster).await
}

/// Hellos that a replica has had as the leader: brief ones that it believed, and all.
async fn hellos(cluster: &Cluster, n: usize) -> Result<(f64, f64)> {
    let all = scrape::of(&cluster.replicas[n].api).await?;
    let said = |how: &str| all.value(&format!("borealis_scheduler_hellos_total{{said=\"{how}\"}}"));
    Ok((said("brief").unwrap_or(0.0), all.sum("borealis_scheduler_hellos_total")))
}

/// Agents have nothing to tell a new leader that State does not hold, and say just that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_is_told_briefly_that_nothing_has_changed() -> Result<()> {
    let mut cluster = Cluster::start(Setup { agents: 3, apart: true, ..Setup::default() }).await?;
    let key = cluster.key("known");
    cluster.create(&jobs::sleeper(&key, 6)).await?;
    cluster.all_running(&key, 6).await?;
    let living = cluster.living()?;
    // An agent that has not heard yet that its last report is known says all of it again.
    for turn in 1.. {
        let mut before = Vec::new();
        for n in 0..3 {
            before.push(hellos(&cluster, n).await?);
        }
        let old = cluster.leader().await?;
        cluster.replicas[old].kill()?;
        before[old] = (0.0, 0.0);
        cluster.leader().await?;
        cluster.hosts_known().await?;
        let brief = wait::until("every agent's hello", PATIENCE, async || {
            // Not always the first one that was elected.
            let new = cluster.leader().await?;
            let (brief, all) = hellos(&cluster, new).await?;
            ensure!(all - before[new].1 >= 3.0, "{all} since it was started");
            Ok(brief - before[new].0)
        })
        .await?;
        cluster.replicas[old].start()?;
        cluster.serves(old).await?;
        if brief >= 3.0 {
            break;
        }
        ensure!(turn < 5, "of the hellos to the new leader {brief} were brief, for the {turn}th time");
    }
    untouched(&cluster, &living)?;
    ends_sound(cluster).await
}

/// A leader that is stopped for a while, and then goes on, commands nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_does_no_harm() -> Result<()> {
    let cluster = Cluster::start(Setup::default()).await?;
    let key = cluster.key("keeps");
    cluster.create(&jobs::sleeper(&key, 2)).await?;
    let before = ids(&cluster.all_running(&key, 2).await?);
    let living = cluster.living()?;
    let old = cluster.leader().await?;
    cluster.replicas[old].signal(libc::SIGSTOP)?;
    let others: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    wait::until("another leader", PATIENCE, async || {
        for n in &others {
            let status = cluster.api(*n).within(Duration::from_secs(2)).status().await.done()?;
            if status.leader == status.node_id {
                return Ok(());
            }
        }
        anyhow::bail!("neither of the others leads")
    })
    .await?;
    let after = cluster.key("meanwhile");
    let submit = request("test");
    wait::until("a job to be created meanwhile", PATIENCE, async || {
        cluster.api(others[0]).create_job(&submit, &jobs::sleeper(&after, 1)).await.done().map(|_| ())
    })
    .await?;
    cluster.replicas[old].signal(libc::SIGCONT)?;
    cluster.leader().await?;
    cluster.hosts_known().await?;
    cluster.all_running(&after, 1).await?;
    ensure!(ids(&cluster.all_running(&key, 2).await?) == before, "other tasks than before");
    untouched(&cluster, &living)?;
    ends_sound(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_finds_its_tasks_running() -> Result<()> {
    let mut cluster = Cluster::start(Setup { agents: 1, ..Setup::default() }).await?;
    let key = cluster.key("keeps");
    cluster.create(&jobs::sleeper(&key, 3)).await?;
    let before = ids(&cluster.all_running(&key, 3).await?);
    let living = cluster.living()?;
    cluster.agents[0].kill()?;
    untouched(&cluster, &living).context("without their agent")?;
    cluster.agents[0].start()?;
    cluster.commands_all_agents("after-the-agent").await?;
    ensure!(ids(&cluster.all_running(&key, 3).await?) == before, "other tasks than before");
    untouched(&cluster, &living).context("with their new agent")?;
    // The new agent can still kill what the old one started.
    cluster.kill_tasks(&key, &[]).await?;
    cluster.all_gone(&key).await?;
    consistent(&cluster).await?;
    cluster.must_live()?;
    cluster.stop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_replicas_die_at_once_and_come_back() -> Result<()> {
    let mut cluster = Cluster::start(Setup::default()).await?;
    let key = cluster.key("keeps");
    cluster.create(&jobs::sleeper(&key, 4)).await?;
    let before = ids(&cluster.all_running(&key, 4).await?);
    let living = cluster.living()?;
    for replica in &cluster.replicas {
        replica.signal(libc::SIGKILL)?;
    }
    for replica in &mut cluster.replicas {
        replica.reap()?;
    }
    untouched(&cluster, &living).context("without any replica")?;
    for replica in &mut cluster.replicas {
        replica.start()?;
    }
    for n in 0..3 {
        cluster.serves(n).await?;
    }
    cluster.leader().await?;
    cluster.commands_all_agents("after-all").await?;
    ensure!(ids(&cluster.all_running(&key, 4).await?) == before, "other tasks than before");
    untouched(&cluster, &living)?;
    ends_sound(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_every_answer_is_clear_and_comes_in_bounded_time() -> Result<()> {
    let mut cluster = Cluster::start(Setup { agents: 1, ..Setup::default() }).await?;
    let key = cluster.key("before");
    cluster.create(&jobs::sleeper(&key, 1)).await?;
    cluster.all_running(&key, 1).await?;
    let living = cluster.living()?;
    let leader = cluster.leader().await?;
    // Once the leader stays, once it goes.
    for keep in [leader, (leader + 1) % 3] {
        let killed: Vec<usize> = (0..3).filter(|n| *n != keep).collect();
        for n in &killed {
            cluster.replicas[*n].kill()?;
        }
        let refused = cluster.key("refused");
        let ask = request("test");
        let begun = Instant::now();
        match cluster.api(keep).create_job(&ask, &jobs::sleeper(&refused, 1)).await {
            Answer::Done(_) => anyhow::bail!("one of three replicas committed a job"),
            Answer::Refused(code, why) => {
                ensure!(code == tonic::Code::Unavailable && why.contains("leader"), "{code:?}: {why}");
            }
            // What the leader had in hand when it lost its quorum. A call that merely ran into our own deadline
            // is a hang.
            Answer::Unknown(why) => ensure!(!why.starts_with("no answer"), "{why}"),
        }
        ensure!(begun.elapsed() < Duration::from_secs(18), "it took {:?}", begun.elapsed());
        let answer = cluster.api(keep).get_job(&key).await;
        ensure!(!matches!(answer, Answer::Done(_)), "a linearizable read without a quorum");
        let status =
            cluster.api(keep).status().await.done().context("a replica always answers for itself")?;
        ensure!(!status.state.is_empty(), "its state is not said in words");
        let run = cluster.client().run(&["job", "status", &key.to_string()], Duration::from_secs(90))?;
        ensure!(matches!(run.code, Some(7 | 9)), "{run:?}");
        ensure!(!run.stderr.trim().is_empty(), "nothing said: {run:?}");
        for n in &killed {
            cluster.replicas[*n].start()?;
            cluster.serves(*n).await?;
        }
        cluster.leader().await?;
        // The same request may be repeated until it is done; at most one job comes of it.
        wait::until("the job to be created after all", PATIENCE, async || {
            cluster.any_api().create_job(&ask, &jobs::sleeper(&refused, 1)).await.done().map(|_| ())
        })
        .await?;
        cluster.all_running(&refused, 1).await?;
        cluster.kill_tasks(&refused, &[]).await?;
        cluster.all_gone(&refused).await?;
    }
    untouched(&cluster, &living)?;
    consistent(&cluster).await?;
    cluster.must_live()?;
    cluster.stop()
}
