//! What users asked for, by their accepted requests alone: which instances of which jobs shall live.

use std::collections::{BTreeMap, BTreeSet};

use proto::{JobId, JobKey};

use crate::{JobSpec, State, Status};

/// One life of a job.
#[derive(Debug)]
pub(crate) struct Page {
    id: JobId,
    pub(crate) service: bool,
    /// Slots.
    instances: u32,
    pub(crate) wanted: BTreeSet<u32>,
    /// The instances that the update in flight wants.
    update: Option<u32>,
}

/// All jobs that were accepted, by key; of each its newest life.
#[derive(Default, Debug)]
pub(crate) struct Book(BTreeMap<JobKey, Page>);

impl Book {
    pub(crate) fn pages(&self) -> impl Iterator<Item = (&JobKey, &Page)> {
        self.0.iter()
    }

    pub(crate) fn instances(&self, key: &JobKey) -> u32 {
        self.0.get(key).map_or(0, |page| page.instances)
    }

    pub(crate) fn updating(&self) -> impl Iterator<Item = (&JobKey, u32)> {
        self.0.iter().filter(|(_, page)| page.update.is_some()).map(|(key, page)| (key, page.instances))
    }

    /// A job was made, or the same one was there already.
    pub(crate) fn made(&mut self, id: JobId, spec: &JobSpec) {
        if self.0.get(&spec.config.job).is_some_and(|page| page.id == id) {
            return;
        }
        let wanted = (0..spec.instances).collect();
        let (service, instances) = (spec.config.service, spec.instances);
        self.0.insert(spec.config.job.clone(), Page { id, service, instances, wanted, update: None });
    }

    /// These instances were killed, or all.
    pub(crate) fn killed(&mut self, key: &JobKey, instances: &[u32]) {
        let Some(page) = self.0.get_mut(key) else { return };
        if instances.is_empty() {
            page.wanted.clear();
            page.update = None;
        }
        page.wanted.retain(|instance| !instances.contains(instance));
    }

    /// These instances were restarted; those without a live task in State as it was get one.
    pub(crate) fn restarted(&mut self, key: &JobKey, instances: &[u32], before: &State) {
        let (Some(page), Some(job)) = (self.0.get_mut(key), before.job(key)) else { return };
        page.wanted
            .extend(instances.iter().filter(|instance| job.live().all(|(live, _)| live != **instance)));
    }

    pub(crate) fn added(&mut self, key: &JobKey, count: u32) {
        let Some(page) = self.0.get_mut(key) else { return };
        page.wanted.extend(page.instances..page.instances + count);
        page.instances += count;
    }

    pub(crate) fn update_begun(&mut self, spec: &JobSpec) {
        let Some(page) = self.0.get_mut(&spec.config.job) else { return };
        page.update = Some(spec.instances);
        page.instances = page.instances.max(spec.instances);
    }

    /// Instances move; `before` is State as it was. One that is being killed at that moment stays killed.
    pub(crate) fn moved(&mut self, key: &JobKey, instances: &[u32], before: &State) {
        let Some(page) = self.0.get_mut(key) else { return };
        let Some(slots) = page.update else { return };
        let job = before.job(key);
        for &instance in instances {
            let live = job.and_then(|job| job.live().find(|(at, _)| *at == instance));
            let status = live.and_then(|(_, task)| before.task(task)).map(|task| task.status);
            if instance >= slots {
                page.wanted.remove(&instance);
            } else if status != Some(Status::Killing) {
                page.wanted.insert(instance);
            }
        }
    }

    pub(crate) fn update_ended(&mut self, key: &JobKey) {
        let Some(page) = self.0.get_mut(key) else { return };
        if let Some(instances) = page.update.take() {
            page.instances = instances;
        }
    }
}
