//! A job: its record, its live tasks, and the newest of its ended ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::{JobId, JobKey, Resources, TaskId};

use super::config::TaskConfig;
use super::status::Status;
use crate::limits::JOB_HISTORY_MS;
use crate::time::Timestamp;

/// What is stored of a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobRecord {
    /// Of this life of the job; one created anew has another.
    pub id: JobId,
    /// What people call it.
    pub key: Arc<JobKey>,
    /// Of newly created tasks.
    pub config: Arc<TaskConfig>,
    /// Slots.
    pub instances: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Since when no task of it lives and none is still to be made.
    pub ended: Option<Timestamp>,
}

/// How many live tasks a job has in each status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts([u32; Status::ALL.len()]);

impl Counts {
    /// Live tasks in `status`.
    pub fn of(&self, status: Status) -> u32 {
        self.0[status as usize]
    }

    /// Live tasks that no host carries.
    pub fn waiting(&self) -> u32 {
        self.of(Status::Pending) + self.of(Status::Throttled)
    }

    /// Live tasks on a host that do not run, or no more as they should.
    pub fn moving(&self) -> u32 {
        self.total() - self.waiting() - self.of(Status::Running)
    }

    /// All live tasks.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, status: Status) {
        self.0[status as usize] += 1;
    }

    pub(crate) fn remove(&mut self, status: Status) {
        self.0[status as usize] -= 1;
    }
}

/// What State remembers of an ended task; the rest is a row of history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndedTask {
    /// The job it belonged to.
    pub job: JobId,
    /// Which.
    pub id: TaskId,
    /// The slot it filled.
    pub instance: u32,
    /// Terminal.
    pub status: Status,
    /// When it ended.
    pub at: Timestamp,
    /// Why, in words.
    pub message: Option<Arc<str>>,
    /// Name of the host it was on.
    pub host: Option<Arc<str>>,
    /// The task it had replaced.
    pub ancestor: Option<TaskId>,
    /// Events of it that have a row.
    pub events: u32,
}

/// Of the tasks of a job with limits or spreads: how many are on hosts with each value of the attributes these name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    counts: BTreeMap<Box<str>, BTreeMap<Box<str>, u32>>,
}

impl Places {
    /// Tasks on hosts that have `value` of `attribute`.
    pub fn of(&self, attribute: &str, value: &str) -> u32 {
        self.counts.get(attribute).and_then(|values| values.get(value)).copied().unwrap_or(0)
    }

    /// The values of an attribute with their counts; none is zero.
    pub fn values(&self, attribute: &str) -> impl Iterator<Item = (&str, u32)> {
        self.counts.get(attribute).into_iter().flatten().map(|(value, &count)| (&**value, count))
    }

    /// An attribute is not asked for any more.
    pub(crate) fn forget(&mut self, attribute: &str) {
        self.counts.remove(attribute);
    }

    pub(crate) fn add(&mut self, attribute: &str, value: &str) {
        let values = match self.counts.get_mut(attribute) {
            Some(values) => values,
            None => self.counts.entry(attribute.into()).or_default(),
        };
        match values.get_mut(value) {
            Some(count) => *count += 1,
            None => {
                values.insert(value.into(), 1);
            }
        }
    }

    pub(crate) fn remove(&mut self, attribute: &str, value: &str) {
        let Some(values) = self.counts.get_mut(attribute) else { return };
        match values.get_mut(value) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.counts.remove(attribute);
        }
    }
}

/// A job with all that lives of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    /// What is stored.
    pub record: JobRecord,
    pub(crate) live: BTreeMap<u32, TaskId>,
    pub(crate) counts: Counts,
    /// What quota is charged for its live tasks.
    pub(crate) charged: Resources,
    pub(crate) ended: BTreeMap<(Timestamp, TaskId), Arc<EndedTask>>,
    pub(crate) places: Arc<Places>,
    /// How many live tasks ask for each attribute that is counted in `places`.
    pub(crate) counting: BTreeMap<Box<str>, u32>,
}

impl Job {
    pub(crate) fn new(record: JobRecord) -> Job {
        Job {
            record,
            live: BTreeMap::new(),
            counts: Counts::default(),
            charged: Resources::default(),
            ended: BTreeMap::new(),
            places: Arc::default(),
            counting: BTreeMap::new(),
        }
    }

    /// Its id.
    pub fn id(&self) -> JobId {
        self.record.id
    }

    /// What people call it.
    pub fn key(&self) -> &JobKey {
        &self.record.key
    }

    /// Of newly created tasks.
    pub fn config(&self) -> &Arc<TaskConfig> {
        &self.record.config
    }

    /// Slots.
    pub fn instances(&self) -> u32 {
        self.record.instances
    }

    /// Live tasks per status.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether it has live tasks, or some are still to be made.
    pub fn is_active(&self) -> bool {
        self.record.ended.is_none()
    }

    /// Where its tasks with limits or spreads are.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Live tasks: (instance, task), by instance.
    pub fn live(&self) -> impl Iterator<Item = (u32, TaskId)> {
        self.live.iter().map(|(&instance, &task)| (instance, task))
    }

    /// In words, which of these instances do not live, and which do; `None` when all of them live.
    pub fn without(&self, instances: &[u32]) -> Option<String> {
        let missing: Vec<u32> =
            instances.iter().copied().filter(|instance| !self.live.contains_key(instance)).collect();
        let which = match missing[..] {
            [] => return None,
            [one] => format!("instance {one}"),
            _ => format!("instances {}", ranges(missing.iter().copied())),
        };
        let all = ranges(0..self.instances());
        let (live, all) = match self.live.len() {
            0 => (", and none of them lives".to_owned(), all),
            n if n >= self.instances() as usize => (String::new(), ranges(self.live.keys().copied())),
            _ => (format!(", of which {} live", ranges(self.live.keys().copied())), all),
        };
        Some(format!("job {} has no live {which}: its instances are {all}{live}", self.key()))
    }

    /// The newest ended tasks, newest first; bounded.
    pub fn ended(&self) -> impl Iterator<Item = &EndedTask> {
        self.ended.values().rev().map(AsRef::as_ref)
    }

    /// When it is forgotten, or while it lives the oldest of its ended tasks is.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let oldest = || self.ended.first_key_value().map(|((at, _), _)| *at);
        self.record.ended.or_else(oldest).map(|at| at.plus_ms(JOB_HISTORY_MS))
    }

    /// Whether it is counted where its tasks are, since limits or spreads ask.
    pub(crate) fn counts_places(&self) -> bool {
        !self.counting.is_empty()
    }
}

/// Ranges of instances that one sentence names.
const RANGES_NAMED_MAX: usize = 20;

/// Rising numbers, as people write them: `0,2-4`.
fn ranges(numbers: impl Iterator<Item = u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    let mut more = false;
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => {
                more = parts.len() == RANGES_NAMED_MAX;
                if more {
                    break;
                }
                parts.push((number, number));
            }
        }
    }
    let words = parts.iter().map(|&(first, last)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    });
    let words: Vec<String> = words.collect();
    format!("{}{}", words.join(","), if more { ",..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_ranges() {
        assert_eq!(ranges([0, 2, 3, 4, 9].into_iter()), "0,2-4,9");
        assert_eq!(ranges(0..100_000), "0-99999");
        assert_eq!(ranges((0..100).map(|n| 2 * n)).split(',').count(), RANGES_NAMED_MAX + 1);
        assert_eq!(ranges([u32::MAX - 1, u32::MAX].into_iter()), "4294967294-4294967295");
    }
}
