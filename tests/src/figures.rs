//! From measured times to figures: percentiles, and the machine they were measured on.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use crate::journal::Launch;

/// Fewer samples than this have no 99th percentile.
const P99_SAMPLES_MIN: usize = 100;

/// Of a set of times, in milliseconds with three decimals; `None` = too few samples to say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50_ms: Option<f64>,
    /// 90th percentile.
    pub p90_ms: Option<f64>,
    /// 99th, from 100 samples up.
    pub p99_ms: Option<f64>,
    /// The worst.
    pub max_ms: Option<f64>,
}

/// By nearest rank: a figure is always one that was measured.
pub fn percentiles(times: &[Duration]) -> Percentiles {
    let mut sorted = times.to_vec();
    sorted.sort();
    let ms = |time: &Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let rank = |percent: usize| {
        let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted.get(at).map(ms)
    };
    Percentiles {
        p50_ms: rank(50),
        p90_ms: rank(90),
        p99_ms: if sorted.len() >= P99_SAMPLES_MIN { rank(99) } else { None },
        max_ms: sorted.last().map(ms),
    }
}

/// From a kill of the leader to the first launch that a later leader commanded, by the agents' journals. `None` =
/// there was no such launch. What the dead leader still had on its way does not count.
pub fn takeover(launches: &BTreeSet<Launch>, killed_at_ns: u64) -> Option<Duration> {
    let first = later(launches, killed_at_ns).map(|launch| launch.at_ns).min()?;
    Some(Duration::from_nanos(first - killed_at_ns))
}

/// The same until each of these agents has launched something for a later leader.
pub fn takeover_everywhere<'a>(
    launches: &BTreeSet<Launch>,
    killed_at_ns: u64,
    agents: impl Iterator<Item = &'a str>,
) -> Option<Duration> {
    let first = |agent: &str| {
        later(launches, killed_at_ns)
            .filter(|launch| launch.agent == agent)
            .map(|launch| launch.at_ns - killed_at_ns)
            .min()
    };
    let all: Vec<u64> = agents.map(first).collect::<Option<_>>()?;
    all.into_iter().max().map(Duration::from_nanos)
}

/// What a later leader than the killed one commanded.
fn later(launches: &BTreeSet<Launch>, killed_at_ns: u64) -> impl Iterator<Item = &Launch> {
    let old = launches.iter().filter(|launch| launch.at_ns <= killed_at_ns).map(|launch| launch.fence).max();
    launches
        .iter()
        .filter(move |launch| launch.at_ns > killed_at_ns && old.is_none_or(|old| launch.fence > old))
}

/// What the figures were measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor's name.
    pub cpu: String,
    /// Processors this program may use.
    pub cores: usize,
    /// Memory, in MiB.
    pub ram_mib: u64,
    /// Kernel release.
    pub kernel: String,
}

/// This machine.
pub fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let ram_kib: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    Machine {
        cpu: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        ram_mib: ram_kib / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_ends_with_the_first_launch_under_a_higher_fence() {
        let launch = |at_ns, term| Launch {
            at_ns,
            task_id: at_ns,
            fence: proto::Fence { epoch: 1, term, leader: term },
            job: String::new(),
            agent: if at_ns < 160 { "a" } else { "b" }.into(),
        };
        let launches = BTreeSet::from([launch(10, 1), launch(101, 1), launch(150, 2), launch(160, 2)]);
        assert_eq!(
            takeover(&launches, 100),
            Some(Duration::from_nanos(50)),
            "the launch at 101 is the old leader's"
        );
        assert_eq!(takeover(&launches, 155), None, "nobody later than term 2 launched");
        let everywhere =
            |agents: &[&'static str]| takeover_everywhere(&launches, 100, agents.iter().copied());
        assert_eq!(everywhere(&["a", "b"]), Some(Duration::from_nanos(60)));
        assert_eq!((everywhere(&["a", "c"]), everywhere(&[])), (None, None));
    }

    #[test]
    fn percentiles_are_samples() {
        let times: Vec<_> = (1..=20).map(Duration::from_millis).collect();
        let want = Percentiles { p50_ms: Some(10.0), p90_ms: Some(18.0), p99_ms: None, max_ms: Some(20.0) };
        assert_eq!(percentiles(&times), want);
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentiles(&times).p99_ms, Some(99.0));
        assert_eq!(percentiles(&[]).p50_ms, None);
        assert_eq!(percentiles(&[Duration::from_micros(1500)]).p50_ms, Some(1.5));
    }
}
