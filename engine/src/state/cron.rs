//! Jobs that run by a schedule: their templates. When a run is due is decided elsewhere; here a run is one command.
//!
//! The role of a template is charged as if it ran, or what its run takes where that is more.

use std::sync::Arc;

use proto::{JobKey, Resources};

use super::State;
use super::command::{Done, Refusal, RefusalKind, Reply};
use super::config::JobSpec;
use super::touch::{Key, Touch};
use crate::limits::{CRONS_MAX, INSTANCES_PER_JOB_MAX, TEXT_BYTES_MAX};
use crate::time::Timestamp;

/// A template and its schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cron {
    /// What each run is.
    pub spec: JobSpec,
    /// When it runs, in cron's words.
    pub schedule: Arc<str>,
    /// When this template was put.
    pub created: Timestamp,
}

impl Cron {
    /// What a run is charged.
    fn charge(&self) -> Resources {
        self.spec.config.charge().times(self.spec.instances)
    }
}

impl State {
    /// The template of a job.
    pub fn cron(&self, key: &JobKey) -> Option<&Cron> {
        self.crons.get(key)
    }

    /// All templates, in key order.
    pub fn crons(&self) -> impl ExactSizeIterator<Item = &Cron> {
        self.crons.values()
    }

    pub(super) fn put_cron(&mut self, spec: JobSpec, schedule: &str, touch: &mut Touch) -> Reply {
        let key = Arc::new(spec.config.job.clone());
        let refuse = |kind, message: String| Err(Refusal::new(kind, message));
        if spec.instances == 0 || spec.instances > INSTANCES_PER_JOB_MAX {
            let asked = spec.instances;
            return refuse(
                RefusalKind::Invalid,
                format!("job {key} asks for {asked} instances; a job has 1 to {INSTANCES_PER_JOB_MAX}"),
            );
        }
        if schedule.is_empty() || schedule.len() > TEXT_BYTES_MAX {
            return refuse(RefusalKind::Invalid, format!("the schedule of job {key} is empty or too long"));
        }
        if !self.crons.contains_key(&key) && self.crons.len() >= CRONS_MAX {
            return refuse(
                RefusalKind::Limit,
                format!("the cluster has {CRONS_MAX} cron jobs and takes no more"),
            );
        }
        let created = self.cluster.clock;
        let mut cron = Cron { spec, schedule: schedule.into(), created };
        let promised = self.crons.get(&key).map(|old| self.promised_to_cron(&key, old)).unwrap_or_default();
        let more = self.promised_to_cron(&key, &cron).minus_or_zero(promised);
        let config = cron.spec.config.clone();
        self.check_charge(&config, more, &format!("{more} more for its runs"))?;
        cron.spec.config = self.refer(&config, touch);
        if let Some(old) = self.crons.insert(key.clone(), cron) {
            self.release(&old.spec.config, touch);
        }
        touch.row(Key::Cron(key));
        Ok(Done::default())
    }

    pub(super) fn drop_cron(&mut self, key: &JobKey, touch: &mut Touch) -> Reply {
        let Some((key, cron)) = self.crons.remove_entry(key) else { return no_cron(key) };
        self.release(&cron.spec.config, touch);
        touch.row(Key::Cron(key));
        Ok(Done::default())
    }

    /// Makes the job, unless its last run still lives.
    pub(super) fn run_cron(&mut self, key: &JobKey, touch: &mut Touch) -> Reply {
        let Some(cron) = self.crons.get(key) else { return no_cron(key) };
        if self.job(key).is_some_and(|job| job.is_active()) {
            return Err(Refusal::new(
                RefusalKind::AlreadyExists,
                format!("the last run of cron job {key} still lives"),
            ));
        }
        // Quota was asked when the template was put.
        self.make_job(cron.spec.clone(), touch)
    }

    fn promised_to_cron(&self, key: &JobKey, cron: &Cron) -> Resources {
        let job = self.job(key);
        // What a work item still makes of the run is promised there.
        let making = job.map(|job| self.still_made(job.id())).unwrap_or_default();
        let has = job.map(|job| job.charged).unwrap_or_default().plus(making);
        cron.charge().minus_or_zero(has)
    }

    /// What templates may still be charged to a role.
    pub(super) fn promised_to_crons(&self, role: &str) -> Resources {
        let of_role = self.crons.iter().filter(|(key, _)| key.role == role);
        of_role.fold(Resources::default(), |sum, (key, cron)| sum.plus(self.promised_to_cron(key, cron)))
    }
}

fn no_cron(key: &JobKey) -> Reply {
    Err(Refusal::new(RefusalKind::NotFound, format!("there is no cron job {key}")))
}
