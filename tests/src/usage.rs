//! What processes have used so far, by `/proc`: processor time, also by thread, context switches, memory. And what a disk
//! has written: a process's own count is of whole pages of the cache, however large, and says nothing of that.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{AddAssign, Sub};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Of some processes in sum, since each began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Processor time, user and system, in microseconds; the kernel counts it in ticks of 10 ms.
    pub cpu_us: u64,
    /// Times that a thread gave up the processor to wait.
    pub waits: u64,
    /// Times that a thread was made to give it up.
    pub preempted: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.cpu_us += other.cpu_us;
        self.waits += other.waits;
        self.preempted += other.preempted;
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, earlier: Usage) -> Usage {
        Usage {
            cpu_us: self.cpu_us.saturating_sub(earlier.cpu_us),
            waits: self.waits.saturating_sub(earlier.waits),
            preempted: self.preempted.saturating_sub(earlier.preempted),
        }
    }
}

/// Of these processes; one that is gone counts nothing.
pub fn of(pids: &[i32]) -> Usage {
    let mut sum = Usage::default();
    pids.iter().for_each(|pid| sum += of_one(*pid));
    sum
}

fn of_one(pid: i32) -> Usage {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let mut usage = Usage { cpu_us: cpu_us(&read(format!("/proc/{pid}/stat"))), ..Usage::default() };
    // A process's own file tells of its first thread only.
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let status = read(thread.path().join("status").display().to_string());
        usage.waits += field(&status, "voluntary_ctxt_switches:");
        usage.preempted += field(&status, "nonvoluntary_ctxt_switches:");
    }
    usage
}

/// Processor time of a process by its threads' names, in microseconds; threads of one name together.
pub fn threads(pid: i32) -> BTreeMap<String, u64> {
    let mut by_name = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")).map(|(name, _)| name);
        *by_name.entry(name.unwrap_or_default().to_owned()).or_default() += cpu_us(&stat);
    }
    by_name
}

/// Resident memory of a process, in KiB.
pub fn rss_kib(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Bytes that the disk below `path` has written, for whomever; `None` where that is not one disk.
pub fn disk_written(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    // In sectors of 512 bytes, whatever the disk's own are.
    Some(text.split_ascii_whitespace().nth(6)?.parse::<u64>().ok()? * 512)
}

fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Fields 14 and 15 of `/proc/PID/stat`, in ticks of which there are always 100 a second on Linux.
fn cpu_us(stat: &str) -> u64 {
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split_ascii_whitespace()).into_iter().flatten();
    let ticks = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>();
    ticks * 10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_seen() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 0 0 0 21 4 0 0 20 0 1 0 4242 1 1 1";
        assert_eq!(cpu_us(stat), 250_000);
        let me = std::process::id() as i32;
        let before = of(&[me]);
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!((of(&[me]) - before).waits > 0, "it has slept");
        assert_eq!(of(&[i32::MAX]), Usage::default());
        assert!(!threads(me).is_empty() && threads(i32::MAX).is_empty());
    }
}
