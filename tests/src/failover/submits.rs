//! A constant load of short jobs, for each real host from one submitter. Each request is repeated, at every replica in turn, until it is done;
//! none waits long for one replica, which may be the lost leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tokio::task::JoinHandle;

use crate::api::{Answer, Api, request};
use crate::cluster::{Cluster, PATIENCE};
use crate::{jobs, wait};

/// Between an answer and the next job of one submitter.
const PAUSE: Duration = Duration::from_millis(100);
/// For an answer of one replica. A stopped one never gives any.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

/// The load at work.
pub(super) struct Submits {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<Vec<String>>>>,
}

impl Submits {
    /// `number` makes the jobs' names unique.
    pub(super) fn start(cluster: &Cluster, number: usize) -> Submits {
        let shared = Arc::<Shared>::default();
        let submitter = |n| {
            let host = format!("host-{}", n + 1);
            let apis = cluster.apis().iter().map(|api| api.within(ANSWER_WITHIN)).collect();
            let name = format!("load-{number}-{n}");
            tokio::spawn(submitter((name, host), apis, cluster.name.clone(), Arc::clone(&shared)))
        };
        Submits { tasks: (0..cluster.real_agents().len()).map(submitter).collect(), shared }
    }

    /// Waits until each submitter could have been answered twice more.
    pub(super) async fn progress(&self) -> Result<()> {
        let goal = self.shared.acknowledged.load(Ordering::Relaxed) + 2 * self.tasks.len() as u64;
        wait::until("submits to be acknowledged", PATIENCE, async || {
            ensure!(self.tasks.iter().all(|task| !task.is_finished()), "a submitter has ended");
            ensure!(self.shared.acknowledged.load(Ordering::Relaxed) >= goal);
            Ok(())
        })
        .await
    }

    /// Ends the load; the keys of all its jobs.
    pub(super) async fn finish(self) -> Result<Vec<String>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut submitted = Vec::new();
        for task in self.tasks {
            submitted.extend(task.await??);
        }
        Ok(submitted)
    }
}

async fn submitter(
    (name, host): (String, String),
    apis: Vec<Api>,
    cluster: String,
    shared: Arc<Shared>,
) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    let mut turn = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let key = jobs::key(&cluster, &format!("{name}-{}", keys.len()));
        let (ask, spec) = (request(&name), jobs::on_host(jobs::job(&key, 1, "true"), &host));
        let begun = Instant::now();
        loop {
            turn += 1;
            match apis[turn % apis.len()].create_job(&ask, &spec).await {
                Answer::Done(_) => break,
                Answer::Refused(tonic::Code::Unavailable | tonic::Code::ResourceExhausted, _)
                | Answer::Unknown(_) => {}
                Answer::Refused(code, why) => bail!("{key} was refused: {code:?} {why}"),
            }
            ensure!(begun.elapsed() < PATIENCE, "{key} was not created within {PATIENCE:?}");
            tokio::time::sleep(RETRY).await;
        }
        keys.push(key.to_string());
        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(keys)
}
