//! Many kills of the leader under a load of submits and kills; afterwards every promise is compared with the truth.
//!
//! `BOREALIS_CHAOS_KILLS` sets how many kills (20 when it is not set). Nothing here is timed: each wait has a
//! deadline that only a hang reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::cluster::{Cluster, PATIENCE, Setup};
use tests::load::{self, Driver, Tally};
use tests::{oracle, verdict, wait};

const DRIVERS: usize = 8;

fn kills_wanted() -> Result<u64> {
    match std::env::var("BOREALIS_CHAOS_KILLS") {
        Ok(text) => text.parse().with_context(|| format!("BOREALIS_CHAOS_KILLS is {text:?}, not a number")),
        Err(_) => Ok(20),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_leader_kills_break_no_promise() -> Result<()> {
    let kills = kills_wanted()?;
    let begun = Instant::now();
    let mut cluster = Cluster::start(Setup::default()).await?;
    let tally = Arc::new(Tally::default());
    let drivers: Vec<_> = (1..=DRIVERS)
        .map(|n| tokio::spawn(Driver::new(&format!("driver-{n}"), &cluster, cluster.dir(), &tally).run()))
        .collect();

    let mut terms = Vec::new();
    for kill in 1..=kills {
        cluster.leader().await.with_context(|| format!("before kill {kill}"))?;
        // The load must have got through to this leader, or the kill shows nothing.
        progress(&tally, 2 * DRIVERS as u64).await.with_context(|| format!("before kill {kill}"))?;
        // Not always just after an answer.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..50))).await;
        // Whoever is killed led at this moment, by its own word: another may have been elected meanwhile.
        let (leader, term) =
            cluster.leader_and_term().await.with_context(|| format!("before kill {kill}"))?;
        cluster.replicas[leader].kill()?;
        terms.push(term);
        if kill % 2 == 0 {
            // Every other time the others are on their own for a while.
            progress(&tally, DRIVERS as u64)
                .await
                .with_context(|| format!("after kill {kill}, two replicas left"))?;
        }
        cluster.replicas[leader].start()?;
        cluster.serves(leader).await?;
        caught_up(&cluster, leader).await.with_context(|| format!("after kill {kill}"))?;
        let (_, later) = cluster.leader_and_term().await.with_context(|| format!("after kill {kill}"))?;
        ensure!(later > term, "the leader of term {term} was killed, and term {later} is no later one");
        cluster.must_live()?;
    }

    tally.stop.store(true, Ordering::Relaxed);
    let mut surprises = Vec::new();
    let mut histories = Vec::new();
    for driver in drivers {
        let driver = driver.await??;
        histories.push(oracle::read(&driver.book)?);
        surprises.extend(driver.surprises);
    }
    cluster.leader().await?;
    cluster.hosts_known().await?;
    let tasks = load::quiet(&cluster, PATIENCE).await?;

    let seen: BTreeMap<String, BTreeSet<u32>> = tasks
        .iter()
        .map(|(job, tasks)| (job.clone(), tasks.iter().map(|task| task.instance).collect()))
        .collect();
    let mut breaches = oracle::judge(&histories, &seen);
    breaches.extend(surprises);
    breaches.extend(tasks.iter().flat_map(|(job, tasks)| verdict::one_per_instance(job, tasks)));
    let journals = cluster.journals()?;
    breaches.extend(verdict::launched_once(&journals));
    breaches.extend(verdict::never_replaced(&journals));
    ensure!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
    // A killed task's executor may still be on its way out.
    wait::until("the agents and the API to agree", PATIENCE, async || {
        let breaches = load::agents_breaches(&cluster).await?;
        ensure!(breaches.is_empty(), "{breaches:?}");
        Ok(())
    })
    .await?;
    let sums = cluster.equal_sums().await?;
    cluster.must_live()?;

    let launches: usize = journals.iter().map(|journal| journal.launches.len()).sum();
    let fates: Vec<_> = histories.iter().flat_map(|history| oracle::fates(history)).collect();
    let done = fates.iter().filter(|(_, fate)| *fate == oracle::Fate::Done).count();
    eprintln!(
        "chaos: {kills} leaders killed in {:.0?}, of terms {terms:?}; {} requests, {done} acknowledged, {} tries of unknown fate, {} refused \
         tries; {launches} launches, none twice; {} tasks live as promised; equal sums {} at log index {}",
        begun.elapsed(),
        fates.len(),
        tally.unknown.load(Ordering::Relaxed),
        tally.refused.load(Ordering::Relaxed),
        seen.values().map(BTreeSet::len).sum::<usize>(),
        sums.sum,
        sums.log_index,
    );
    ensure!(done as u64 > kills && launches as u64 > kills, "too little happened to show anything");
    cluster.stop()
}

/// Waits until so many more requests were acknowledged.
async fn progress(tally: &Tally, more: u64) -> Result<()> {
    let goal = tally.done.load(Ordering::Relaxed) + more;
    wait::until("the load to make progress", PATIENCE, async || {
        let done = tally.done.load(Ordering::Relaxed);
        ensure!(done >= goal, "{done} of {goal} requests acknowledged");
        Ok(())
    })
    .await
}

/// Waits until a replica has applied what the leader had applied when this was called.
async fn caught_up(cluster: &Cluster, replica: usize) -> Result<()> {
    let goal = wait::until("the leader to say how far it is", PATIENCE, async || {
        let leader = cluster.leader().await?;
        Ok(cluster.api(leader).within(Duration::from_secs(5)).status().await.done()?.applied_index)
    })
    .await?;
    wait::until("a restarted replica to catch up", PATIENCE, async || {
        let at = cluster.api(replica).status().await.done()?.applied_index;
        ensure!(at >= goal, "it has applied {at} of {goal}");
        Ok(())
    })
    .await
}
