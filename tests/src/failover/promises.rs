//! What must be as it was when leaders are lost: real tasks by their processes, simulated ones by their ids, and every
//! acknowledged job launched once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::look;
use crate::cluster::{Cluster, PATIENCE};
use crate::journal::Journal;
use crate::million::Crowd;
use crate::processes::Identity;
use crate::{verdict, wait};

/// Promises that were not kept, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Breaches {
    /// Tasks that are gone, and jobs that were acknowledged and never launched.
    pub(super) lost: usize,
    /// Tasks that were launched twice, or of which there are two.
    pub(super) doubled: usize,
    /// Processes that are other ones, and tasks that are replaced.
    pub(super) restarted: usize,
}

/// How it was before.
pub(super) struct Promises {
    crowd: Option<Crowd>,
    simulated: BTreeSet<u64>,
    base: BTreeSet<u64>,
    living: BTreeMap<(u64, String), Identity>,
}

impl Promises {
    /// Looks at all that runs.
    pub(super) async fn take(cluster: &Cluster, crowd: Option<Crowd>) -> Result<Promises> {
        let simulated = match crowd {
            Some(crowd) => crowd.ids(cluster).await?,
            None => BTreeSet::new(),
        };
        Ok(Promises { crowd, simulated, base: base(cluster).await?, living: living(cluster).await? })
    }

    /// Looks again. The jobs of the load end by themselves; all of them must have been launched.
    /// `seen`: all launches so far.
    pub(super) async fn check(
        &self,
        cluster: &Cluster,
        submitted: &[String],
        seen: &mut Journal,
    ) -> Result<Breaches> {
        let launched = wait::until("every acknowledged job to be launched", PATIENCE, async || {
            look(cluster, seen)?;
            let missing = unlaunched(seen, submitted);
            let first = missing.iter().next();
            ensure!(missing.is_empty(), "{} of {} were not: {first:?}", missing.len(), submitted.len());
            Ok(())
        })
        .await;
        if let Err(why) = &launched {
            eprintln!("{why:#}");
        }
        let mut breaches = Breaches {
            lost: unlaunched(seen, submitted).len(),
            doubled: verdict::launched_once(std::slice::from_ref(seen)).len(),
            restarted: 0,
        };
        breaches.lost += self.base.difference(&base(cluster).await?).count();
        let now = cluster.living()?;
        breaches.restarted +=
            self.living.iter().filter(|(name, identity)| now.get(*name) != Some(*identity)).count();
        if let Some(crowd) = self.crowd {
            let now = crowd.ids(cluster).await?;
            let (gone, new) =
                (self.simulated.difference(&now).count(), now.difference(&self.simulated).count());
            breaches.restarted += gone.min(new);
            breaches.lost += gone.saturating_sub(new);
            breaches.doubled += new.saturating_sub(gone);
        }
        Ok(breaches)
    }
}

/// The processes of the base; those of the load's jobs come and go.
async fn living(cluster: &Cluster) -> Result<BTreeMap<(u64, String), Identity>> {
    let base = base(cluster).await?;
    Ok(cluster.living()?.into_iter().filter(|((id, _), _)| base.contains(id)).collect())
}

async fn base(cluster: &Cluster) -> Result<BTreeSet<u64>> {
    let job = cluster.job(&cluster.key("base")).await?;
    Ok(job.tasks.iter().map(|task| task.task_id).collect())
}

/// The keys of jobs that no agent has launched.
fn unlaunched<'a>(seen: &Journal, submitted: &'a [String]) -> BTreeSet<&'a str> {
    let launched: BTreeSet<&str> =
        seen.launches.iter().filter_map(|launch| launch.job.rsplit_once('/').map(|(key, _)| key)).collect();
    submitted.iter().map(String::as_str).filter(|key| !launched.contains(key)).collect()
}
