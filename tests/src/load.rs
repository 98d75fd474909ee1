//! Drivers that submit and kill, each with its book; and what is checked once everything is quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use proto::{JobKey, wire};

use crate::api::{Answer, Api, request};
use crate::cluster::Cluster;
use crate::jobs;
use crate::oracle::{Book, Intent, Outcome, Wish};
use crate::verdict::{self, Living};
use crate::wait;

/// Jobs one driver keeps alive; at this many it kills the oldest.
const JOBS_MAX: usize = 5;
/// Tries of one request before the driver gives it up with its fate unknown.
const TRIES_MAX: u32 = 40;
/// Longest wait for one answer. Shorter than a replica's own, so that some fates stay unknown.
const TRY_DEADLINE: Duration = Duration::from_secs(4);

/// What the drivers count together.
#[derive(Debug, Default)]
pub struct Tally {
    /// Set: the drivers stop after the request they are at.
    pub stop: AtomicBool,
    /// Tries that were told "done".
    pub done: AtomicU64,
    /// Tries that were told that nothing was done.
    pub refused: AtomicU64,
    /// Tries of unknown fate.
    pub unknown: AtomicU64,
    /// Requests given up with an unknown fate.
    pub given_up: AtomicU64,
}

/// One driver: it owns its jobs, and asks one thing at a time.
#[derive(Debug)]
pub struct Driver {
    /// Unique among the drivers.
    pub name: String,
    /// Its book lies here.
    pub book: PathBuf,
    /// Refusals that nothing explains: breaches.
    pub surprises: Vec<String>,
    cluster: String,
    apis: Vec<Api>,
    tally: Arc<Tally>,
    jobs: Vec<(JobKey, u32)>,
    made: u64,
}

impl Driver {
    /// Drives the cluster through all its replicas.
    pub fn new(name: &str, cluster: &Cluster, dir: &Path, tally: &Arc<Tally>) -> Driver {
        Driver {
            name: name.into(),
            book: dir.join(format!("{name}.book")),
            surprises: Vec::new(),
            cluster: cluster.name.clone(),
            apis: cluster.apis().iter().map(|api| api.within(TRY_DEADLINE)).collect(),
            tally: tally.clone(),
            jobs: Vec::new(),
            made: 0,
        }
    }

    /// Works until told to stop.
    pub async fn run(mut self) -> Result<Driver> {
        let mut book = Book::create(&self.book)?;
        while !self.tally.stop.load(Ordering::Relaxed) {
            let (job, wish) = self.next();
            let fate = self.ask(&mut book, &job, &wish).await?;
            if let (Wish::Create(instances), Outcome::Done) = (&wish, fate) {
                self.jobs.push((job, *instances));
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..40))).await;
        }
        Ok(self)
    }

    fn next(&mut self) -> (JobKey, Wish) {
        if self.jobs.len() >= JOBS_MAX {
            let (job, _) = self.jobs.remove(0);
            return (job, Wish::Kill(vec![]));
        }
        if self.jobs.len() > 2 && rand::random_range(0..4) == 0 {
            let at = rand::random_range(0..self.jobs.len());
            let (job, instances) = &mut self.jobs[at];
            if *instances > 1 {
                *instances -= 1;
                return (job.clone(), Wish::Kill(vec![*instances]));
            }
        }
        self.made += 1;
        let key = jobs::key(&self.cluster, &format!("{}-{}", self.name, self.made));
        (key, Wish::Create(rand::random_range(1..=2)))
    }

    async fn ask(&mut self, book: &mut Book, job: &JobKey, wish: &Wish) -> Result<Outcome> {
        let request = request(&self.name);
        let intent = Intent { request: request.id.clone(), job: job.to_string(), wish: wish.clone() };
        let mut unknown = false;
        for _ in 0..TRIES_MAX {
            let api = &self.apis[rand::random_range(0..self.apis.len())];
            book.intend(&intent)?;
            let answer = match wish {
                Wish::Create(n) => to_unit(api.create_job(&request, &jobs::sleeper(job, *n)).await),
                Wish::Kill(instances) => to_unit(api.kill_tasks(&request, job, instances).await),
            };
            let outcome = book.told(&request.id, &answer)?;
            let counter = match outcome {
                Outcome::Done => &self.tally.done,
                Outcome::Refused => &self.tally.refused,
                Outcome::Unknown => &self.tally.unknown,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            match answer {
                Answer::Done(()) => return Ok(Outcome::Done),
                Answer::Unknown(_) => {
                    unknown = true;
                    // Now and then nobody asks again.
                    if rand::random_range(0..4) == 0 {
                        break;
                    }
                }
                Answer::Refused(tonic::Code::Unavailable | tonic::Code::ResourceExhausted, _) => {}
                Answer::Refused(code, why) => {
                    self.surprises.push(format!("{wish:?} of {job} was refused: {code:?} {why}"));
                    return Ok(Outcome::Refused);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if unknown {
            self.tally.given_up.fetch_add(1, Ordering::Relaxed);
        }
        Ok(if unknown { Outcome::Unknown } else { Outcome::Refused })
    }
}

fn to_unit<T>(answer: Answer<T>) -> Answer<()> {
    match answer {
        Answer::Done(_) => Answer::Done(()),
        Answer::Refused(code, why) => Answer::Refused(code, why),
        Answer::Unknown(why) => Answer::Unknown(why),
    }
}

/// All live tasks, by job key; jobs without any are left out.
pub async fn live_tasks(api: &Api) -> Result<BTreeMap<String, Vec<wire::TaskView>>> {
    let mut tasks = BTreeMap::new();
    let jobs = api.list_jobs().await.done()?.jobs;
    for job in jobs.iter().filter(|job| job.pending + job.active + job.running > 0) {
        let Some(key) = job.key.as_ref().and_then(|key| JobKey::try_from(key).ok()) else {
            anyhow::bail!("a job without a key: {job:?}")
        };
        match api.get_job(&key).await {
            // It may have ended between the two calls.
            Answer::Refused(tonic::Code::NotFound, _) => {}
            answer => drop(tasks.insert(key.to_string(), answer.done()?.tasks)),
        }
    }
    Ok(tasks)
}

/// Waits until every live task is RUNNING, and returns them.
pub async fn quiet(cluster: &Cluster, within: Duration) -> Result<BTreeMap<String, Vec<wire::TaskView>>> {
    wait::until("every live task to be RUNNING", within, async || {
        let tasks = live_tasks(cluster.any_api()).await?;
        let all = tasks.iter().flat_map(|(job, tasks)| tasks.iter().map(move |task| (job, task)));
        let restless: Vec<String> = all
            .filter(|(_, task)| task.status() != wire::Status::Running)
            .map(|(job, task)| format!("{job}/{} {:?} {}", task.instance, task.status(), task.message))
            .collect();
        ensure!(restless.is_empty(), "{} are not: {:?}", restless.len(), &restless[..restless.len().min(5)]);
        Ok(tasks)
    })
    .await
}

/// How the agents' living tasks differ from what the API calls RUNNING; empty = not at all.
pub async fn agents_breaches(cluster: &Cluster) -> Result<Vec<String>> {
    let tasks = live_tasks(cluster.any_api()).await?;
    let running: BTreeSet<u64> = tasks
        .values()
        .flatten()
        .filter(|task| task.status() == wire::Status::Running)
        .map(|task| task.task_id)
        .collect();
    let living: Vec<Living> = cluster
        .tasks_on_disk()?
        .into_iter()
        .filter(|(_, task)| !task.living().is_empty())
        .map(|(_, task)| Living { task_id: task.task_id, job: task.job })
        .collect();
    Ok(verdict::agents_agree(&running, &living))
}
