//! Processes of this machine, seen through `/proc`: who they are, whether they live, which belong to a directory.
//!
//! A pid alone may be another process after a while; a pid, its start time and the boot id together may not.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::wait;

/// A process that cannot be mistaken for another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to start.
    pub start_ticks: u64,
    /// Of the machine's current run.
    pub boot_id: String,
}

impl From<&proto::wire::ProcessIdentity> for Identity {
    fn from(wire: &proto::wire::ProcessIdentity) -> Self {
        Identity { pid: wire.pid, start_ticks: wire.start_ticks, boot_id: wire.boot_id.trim().to_owned() }
    }
}

impl Identity {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Result<Identity> {
        let stat = Stat::read(pid)?;
        Ok(Identity { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? })
    }

    /// Whether it runs still: not gone, not another's pid, not a zombie.
    pub fn alive(&self) -> bool {
        let same_boot = boot_id().is_ok_and(|boot| boot == self.boot_id);
        let same = |stat: &Stat| stat.start_ticks == self.start_ticks && !matches!(stat.state, 'Z' | 'X');
        same_boot && Stat::read(self.pid).as_ref().is_ok_and(same)
    }
}

/// The id of the machine's current run.
pub fn boot_id() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(text.trim().to_owned())
}

/// What the harness needs of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> Result<Stat> {
        let text =
            fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid}"))?;
        Stat::parse(&text).with_context(|| format!("/proc/{pid}/stat reads {text:?}"))
    }

    /// The name, in parentheses, may hold anything; the fields after the last `)` are plain.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Stat {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

/// Sends `signal` with kill(2).
pub fn signal(pid: i32, signal: i32) -> Result<()> {
    ensure!(pid > 1, "pid {pid} is not one to send a signal to");
    // SAFETY: kill takes two integers and touches no memory of ours.
    let sent = unsafe { libc::kill(pid, signal) };
    ensure!(sent == 0, "kill({pid}, {signal}): {}", std::io::Error::last_os_error());
    Ok(())
}

/// CLOCK_BOOTTIME, in nanoseconds: the clock of the agents' journals.
pub fn boottime_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that outlives the call.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    assert_eq!(read, 0, "CLOCK_BOOTTIME cannot be read: {}", std::io::Error::last_os_error());
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A process and what it looks like to people.
#[derive(Clone, Debug)]
pub struct Found {
    /// Who it is.
    pub identity: Identity,
    /// Its arguments, joined by spaces.
    pub command: String,
}

/// Processes that belong to `dir`: its path is among their arguments, they stand in it, or they descend from one
/// that does. Never this process, its ancestors, or a zombie.
pub fn of_directory(dir: &Path) -> Vec<Found> {
    let boot_id = boot_id().unwrap_or_default();
    let pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let seen: Vec<(i32, Stat)> =
        pids.into_iter().filter_map(|pid| Some((pid, Stat::read(pid).ok()?))).collect();
    let mut mine = BTreeSet::new();
    let mut pid = std::process::id() as i32;
    while pid > 0 && mine.insert(pid) {
        pid = seen.iter().find(|(other, _)| *other == pid).map_or(0, |(_, stat)| stat.parent);
    }
    let mut belong: BTreeSet<i32> =
        seen.iter().map(|(pid, _)| *pid).filter(|pid| !mine.contains(pid) && names(*pid, dir)).collect();
    loop {
        let before = belong.len();
        let more = seen.iter().filter(|(pid, stat)| belong.contains(&stat.parent) && !mine.contains(pid));
        belong.extend(more.map(|(pid, _)| *pid).collect::<Vec<_>>());
        if belong.len() == before {
            break;
        }
    }
    seen.into_iter()
        .filter(|(pid, stat)| belong.contains(pid) && !matches!(stat.state, 'Z' | 'X'))
        .map(|(pid, stat)| Found {
            identity: Identity { pid, start_ticks: stat.start_ticks, boot_id: boot_id.clone() },
            command: arguments(pid).join(" "),
        })
        .collect()
}

fn names(pid: i32, dir: &Path) -> bool {
    let under = |path: PathBuf| path.starts_with(dir);
    let stands = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(under);
    stands || arguments(pid).iter().any(|argument| mentions(argument, dir))
}

/// Whether `argument` holds the path `dir` or one below it, not merely one that begins alike.
fn mentions(argument: &str, dir: &Path) -> bool {
    let dir = String::from_utf8_lossy(dir.as_os_str().as_bytes());
    argument.match_indices(dir.as_ref()).any(|(at, _)| {
        let next = argument[at + dir.len()..].chars().next();
        next.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '.')))
    })
}

fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|&b| b == 0)
        .filter(|a| !a.is_empty())
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect()
}

/// Kills whatever belongs to `dir`, each by its pid, until nothing is left.
pub fn sweep(dir: &Path, within: Duration) -> Result<usize> {
    let mut killed = BTreeSet::new();
    wait::until_blocking("a directory's processes to be gone", within, || {
        let left = of_directory(dir);
        for found in &left {
            // Between the look and the signal it may have ended by itself.
            if found.identity.alive() && signal(found.identity.pid, libc::SIGKILL).is_ok() {
                killed.insert(found.identity.clone());
            }
        }
        let names: Vec<_> = left.iter().map(|f| format!("{} {}", f.identity.pid, f.command)).collect();
        ensure!(left.is_empty(), "still there: {names:?}");
        Ok(())
    })?;
    Ok(killed.len())
}

/// Removes the cgroups of a killed agent and of its tasks, in which nothing runs any more. An agent that stops by
/// itself does so, and one that is started again uses them.
pub fn remove_cgroups(agent_dir: &Path) {
    let suffix = format!("-{:08x}", crc32c::crc32c(agent_dir.as_os_str().as_encoded_bytes()));
    let folders = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    for hierarchy in folders(Path::new("/sys/fs/cgroup")) {
        for agent in folders(&hierarchy.join("borealis")) {
            if agent.to_string_lossy().ends_with(&suffix) {
                for task in folders(&agent) {
                    let _ = std::fs::remove_dir(task);
                }
                let _ = std::fs::remove_dir(agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn stat_is_read_behind_any_name() {
        let line = "7 (a) b ) (c) S 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1 1";
        assert_eq!(Stat::parse(line), Some(Stat { state: 'S', parent: 3, start_ticks: 4242 }));
        assert_eq!(Stat::parse("7 (x"), None);
    }

    #[test]
    fn a_path_that_begins_alike_is_another() {
        let dir = Path::new("/tmp/a");
        for (argument, want) in [
            ("/tmp/a", true),
            ("--dir=/tmp/a/x", true),
            ("/tmp/ab", false),
            ("/tmp/a-b", false),
            ("/tmp", false),
        ] {
            assert_eq!(mentions(argument, dir), want, "{argument}");
        }
    }

    #[test]
    fn a_sweep_finds_children_too_and_leaves_others_alone() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spawn =
            |dir: &Path| Command::new("sh").args(["-c", "sleep 60 & wait"]).current_dir(dir).spawn().unwrap();
        let (mut swept, mut spared) = (spawn(dir.path()), spawn(other.path()));
        wait::until_blocking("the child's child", Duration::from_secs(60), || {
            ensure!(of_directory(dir.path()).len() == 2 && of_directory(other.path()).len() == 2);
            Ok(())
        })
        .unwrap();
        let identity = Identity::of(spared.id() as i32).unwrap();
        assert_eq!(sweep(dir.path(), Duration::from_secs(60)).unwrap(), 2);
        assert!(!swept.wait().unwrap().success());
        assert!(identity.alive());
        sweep(other.path(), Duration::from_secs(60)).unwrap();
        spared.wait().unwrap();
        assert!(!identity.alive());
    }
}
