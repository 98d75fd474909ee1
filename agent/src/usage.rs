//! What tasks use of what they have reserved, and so what may be lent. Pure: whoever calls brings the clock and the
//! counters.
//!
//! Of each task the largest use within the last minute counts, and a tenth more. A task that was not watched for a
//! whole minute lends nothing. A use above the reservation, which a task may have of cpu, is taken from what others
//! lend.

use std::collections::{BTreeMap, VecDeque};

use isolation::Used;
use proto::TaskId;
use proto::wire::Resources;

/// Between two samples.
pub const SAMPLE_EVERY_MS: u64 = 5_000;
/// How long a use counts, and how long a task is watched before it lends.
pub const WINDOW_MS: u64 = 60_000;
/// What is lent is whole steps, so that it does not flutter: in thousandths of a core, and in MiB.
pub const STEP_CPU_MILLI: u64 = 100;
/// See [`STEP_CPU_MILLI`].
pub const STEP_RAM_MIB: u64 = 64;

/// The tasks that are watched.
#[derive(Debug, Default)]
pub struct Usage {
    tasks: BTreeMap<TaskId, Watched>,
    sampled_ms: Option<u64>,
}

#[derive(Debug)]
struct Watched {
    reserved: Resources,
    since_ms: u64,
    /// When the newest sample was taken, and the cpu time that it counted.
    last: (u64, Option<u64>),
    /// By time.
    samples: VecDeque<Sample>,
}

/// `None`: not known.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at_ms: u64,
    cpu_milli: Option<u64>,
    ram_bytes: Option<u64>,
}

impl Usage {
    /// Whether it is time for new samples.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.sampled_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= SAMPLE_EVERY_MS)
    }

    /// Takes in samples of all tasks that may lend: what each has reserved, and what was counted.
    pub fn sample(&mut self, now_ms: u64, tasks: impl IntoIterator<Item = (TaskId, Resources, Used)>) {
        self.sampled_ms = Some(now_ms);
        let mut had = std::mem::take(&mut self.tasks);
        for (task, reserved, used) in tasks {
            let first = || Watched {
                reserved,
                since_ms: now_ms,
                last: (now_ms, used.cpu_ns),
                samples: VecDeque::new(),
            };
            let mut watched = had.remove(&task).unwrap_or_else(first);
            watched.add(now_ms, used);
            self.tasks.insert(task, watched);
        }
    }

    /// Drops tasks that have ended.
    pub fn retain(&mut self, live: impl Fn(TaskId) -> bool) {
        self.tasks.retain(|task, _| live(*task));
    }

    /// What may be lent: cpu and ram.
    pub fn unused(&self, now_ms: u64) -> Resources {
        let known = self.tasks.values().filter(|task| now_ms.saturating_sub(task.since_ms) >= WINDOW_MS);
        let (mut cpu_milli, mut ram_bytes) = (0_i128, 0_i128);
        for task in known {
            let left = |reserved: u64, used: u64| i128::from(reserved) - (i128::from(used) * 11 + 9) / 10;
            if let Some(used) = task.largest(|sample| sample.cpu_milli) {
                cpu_milli += left(task.reserved.cpu_milli, used);
            }
            if let Some(used) = task.largest(|sample| sample.ram_bytes) {
                ram_bytes += left(task.reserved.ram_mib.saturating_mul(1 << 20), used);
            }
        }
        let steps = |sum: i128, step: u64| u64::try_from(sum / i128::from(step)).unwrap_or(0);
        Resources {
            cpu_milli: steps(cpu_milli, STEP_CPU_MILLI) * STEP_CPU_MILLI,
            ram_mib: steps(ram_bytes, STEP_RAM_MIB << 20) * STEP_RAM_MIB,
            ..Resources::default()
        }
    }
}

impl Watched {
    fn add(&mut self, now_ms: u64, used: Used) {
        let (at_ms, had_ns) = std::mem::replace(&mut self.last, (now_ms, used.cpu_ns));
        // Nanoseconds of cpu in a millisecond of time: a millionth is a core, so a thousandth of that is a thousandth.
        let cpu_milli = match (had_ns, used.cpu_ns, now_ms.saturating_sub(at_ms)) {
            (Some(had_ns), Some(has_ns), elapsed_ms) if elapsed_ms > 0 => {
                Some(has_ns.saturating_sub(had_ns).div_ceil(elapsed_ms.saturating_mul(1000)))
            }
            _ => None,
        };
        self.samples.push_back(Sample { at_ms: now_ms, cpu_milli, ram_bytes: used.ram_bytes });
        while self.samples.front().is_some_and(|oldest| now_ms.saturating_sub(oldest.at_ms) > WINDOW_MS) {
            self.samples.pop_front();
        }
    }

    fn largest(&self, of: impl Fn(&Sample) -> Option<u64>) -> Option<u64> {
        self.samples.iter().filter_map(of).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVED: Resources = Resources { cpu_milli: 2000, ram_mib: 1024, disk_mib: 9, gpus: 1 };

    fn used(cpu_ns: u64, ram_mib: u64) -> Used {
        Used { cpu_ns: Some(cpu_ns), ram_bytes: Some(ram_mib << 20) }
    }

    fn lent(usage: &Usage, now_ms: u64) -> (u64, u64) {
        let unused = usage.unused(now_ms);
        assert_eq!((unused.disk_mib, unused.gpus), (0, 0));
        (unused.cpu_milli, unused.ram_mib)
    }

    #[test]
    fn the_largest_use_of_a_minute_and_a_tenth_more_are_kept_back() {
        let mut usage = Usage::default();
        let (mut now_ms, mut cpu_ns) = (1_000, 0);
        let task = TaskId(1);
        for number in 0..=12 {
            // Half a core; in the fourth step a whole one, and in the sixth much memory.
            let cores = if number == 4 { 2 } else { 1 };
            cpu_ns += cores * 2_500_000_000;
            let ram_mib = if number == 6 { 500 } else { 100 };
            assert!(usage.is_due(now_ms));
            usage.sample(now_ms, [(task, RESERVED, used(cpu_ns, ram_mib))]);
            assert!(!usage.is_due(now_ms + SAMPLE_EVERY_MS - 1));
            assert_eq!(lent(&usage, now_ms) != (0, 0), number == 12, "not before a minute has passed");
            now_ms += SAMPLE_EVERY_MS;
        }
        now_ms -= SAMPLE_EVERY_MS;
        // 2000 - 1100 of cpu; 1024 - 550 = 474 MiB, in steps of 64.
        assert_eq!(lent(&usage, now_ms), (900, 448));
        for _ in 0..12 {
            now_ms += SAMPLE_EVERY_MS;
            cpu_ns += 2_500_000_000;
            usage.sample(now_ms, [(task, RESERVED, used(cpu_ns, 100))]);
        }
        // The peaks are a minute old: 2000 - 550 and 1024 - 110.
        assert_eq!(lent(&usage, now_ms), (1400, 896));
        usage.retain(|_| false);
        assert_eq!(lent(&usage, now_ms), (0, 0), "the task has ended");
    }

    #[test]
    fn who_uses_more_than_reserved_takes_from_others_and_nothing_is_below_zero() {
        let mut usage = Usage::default();
        let greedy = |seconds: u64| used(seconds * 3_000_000_000, 1024);
        for seconds in (0..=60).step_by(5) {
            let idle = (TaskId(1), RESERVED, used(0, 0));
            usage.sample(seconds * 1000, [idle, (TaskId(2), RESERVED, greedy(seconds))]);
        }
        // 2000 + 2000 - 3300; 1024 - 102.4.
        assert_eq!(lent(&usage, 60_000), (700, 896));
        let mut alone = Usage::default();
        for seconds in (0..=60).step_by(5) {
            alone.sample(seconds * 1000, [(TaskId(2), RESERVED, greedy(seconds))]);
        }
        assert_eq!(lent(&alone, 60_000), (0, 0));
    }

    #[test]
    fn what_cannot_be_measured_is_not_lent() {
        let mut usage = Usage::default();
        for seconds in (0..=60).step_by(5) {
            let used = Used { cpu_ns: None, ram_bytes: Some(0) };
            usage.sample(seconds * 1000, [(TaskId(1), RESERVED, used)]);
        }
        assert_eq!(lent(&usage, 60_000), (0, 1024));
        // A counter that was set back, and one that is absurd.
        for (now_ms, cpu_ns) in [(70_000, 5), (75_000, 0), (75_000, 9), (80_000, u64::MAX), (1, 0)] {
            usage.sample(now_ms, [(TaskId(1), RESERVED, used(cpu_ns, u64::MAX >> 20))]);
        }
        assert_eq!(lent(&usage, 80_000), (0, 0));
    }
}
