//! One cgroup per task, in every hierarchy that counts.
//!
//! v1: a directory `ROOT/TASK` in each of cpu, cpuacct, memory, pids and freezer that is mounted.
//! v2: one directory `ROOT/TASK`. `ROOT` is the agent's own, so that agents on one machine do not meet.
//! The files are plain text files, so the v2 code is tested on a tree of ordinary ones.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Error;
use crate::host::{Hierarchy, Host};

/// What a task may use. 0 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a core; a share of a busy machine, and a ceiling only with `cpu_hard`.
    pub cpu_milli: u64,
    /// Whether `cpu_milli` is a ceiling on an idle machine as well.
    pub cpu_hard: bool,
    /// MiB of memory, a ceiling: beyond it the kernel kills.
    pub ram_mib: u64,
    /// Processes and threads.
    pub pids_max: u64,
}

/// What a task uses. `None` = its cgroup does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Nanoseconds of cpu time since it began.
    pub cpu_ns: Option<u64>,
    /// Bytes of memory, with what of the page cache it has touched lately: all but what the kernel may take away
    /// without being missed (`inactive_file`).
    pub ram_bytes: Option<u64>,
}

/// The place where one agent keeps its tasks' cgroups.
#[derive(Clone, Debug)]
pub struct Cgroups {
    roots: Vec<PathBuf>,
    v2: Option<Vec<String>>,
}

/// The cgroup of one task: a directory per hierarchy. Dropping it does not remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    dirs: Vec<PathBuf>,
}

/// Microseconds of the quota's period.
const CFS_PERIOD_MICROS: u64 = 100_000;
/// Smallest shares and quota that the kernel takes.
const CPU_SHARES_MIN: u64 = 2;
const CFS_QUOTA_MICROS_MIN: u64 = 1_000;

impl Cgroups {
    /// Makes the root directory `name` (such as `borealis/HOST`) in each hierarchy of `host`.
    /// `Ok(None)`: the host has no usable cgroups.
    pub fn new(host: &Host, name: &str) -> Result<Option<Self>, Error> {
        Self::of(&host.cgroups, name)
    }

    fn of(hierarchy: &Hierarchy, name: &str) -> Result<Option<Self>, Error> {
        check_name(name, true)?;
        let cgroups = match hierarchy {
            Hierarchy::None => return Ok(None),
            Hierarchy::V1(controllers) => {
                // Some controllers may be mounted together.
                let mounts: BTreeSet<&PathBuf> = controllers.values().collect();
                Cgroups { roots: mounts.into_iter().map(|mount| mount.join(name)).collect(), v2: None }
            }
            Hierarchy::V2 { mount, controllers } => {
                let wanted = ["cpu", "memory", "pids"];
                let held = controllers.iter().filter(|c| wanted.contains(&c.as_str())).cloned().collect();
                Cgroups { roots: vec![mount.join(name)], v2: Some(held) }
            }
        };
        for root in &cgroups.roots {
            std::fs::create_dir_all(root).map_err(|e| Error::new("make the cgroup", root, e))?;
        }
        if let (Some(controllers), Hierarchy::V2 { mount, .. }) = (&cgroups.v2, hierarchy) {
            // A controller reaches a cgroup only if every one above hands it down.
            let mut at = mount.clone();
            hand_down(&at, controllers)?;
            for part in Path::new(name) {
                at.push(part);
                hand_down(&at, controllers)?;
            }
        }
        Ok(Some(cgroups))
    }

    /// Makes the cgroup of a task with its limits. One that exists already is used again, with these limits.
    /// On an error nothing is left behind.
    pub fn create(&self, task: &str, limits: &Limits) -> Result<Cgroup, Error> {
        check_name(task, false)?;
        let cgroup = self.open(task);
        let made = cgroup.dirs.iter().try_for_each(|dir| {
            std::fs::create_dir_all(dir).map_err(|e| Error::new("make the cgroup", dir, e))?;
            limit(dir, limits, self.v2.is_some())
        });
        if let Err(e) = made {
            let _ = cgroup.remove();
            return Err(e);
        }
        Ok(cgroup)
    }

    /// The cgroup of a task, whether or not it exists.
    pub fn open(&self, task: &str) -> Cgroup {
        Cgroup { dirs: self.roots.iter().map(|root| root.join(task)).collect() }
    }

    /// Names of the tasks that have a cgroup here, in any hierarchy, sorted.
    pub fn list(&self) -> Result<Vec<String>, Error> {
        let mut names = BTreeSet::new();
        for root in &self.roots {
            for entry in std::fs::read_dir(root).map_err(|e| Error::new("list the cgroups in", root, e))? {
                let entry = entry.map_err(|e| Error::new("list the cgroups in", root, e))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    names.extend(entry.file_name().into_string().ok());
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Removes the root itself, when no task has a cgroup any more.
    pub fn remove(&self) -> Result<(), Error> {
        Cgroup { dirs: self.roots.clone() }.remove()
    }
}

impl Cgroup {
    /// The cgroup made of these directories, as the agent named them.
    pub fn from_dirs<D: AsRef<Path>>(dirs: impl IntoIterator<Item = D>) -> Cgroup {
        Cgroup { dirs: dirs.into_iter().map(|dir| dir.as_ref().to_path_buf()).collect() }
    }

    /// The directories, to be handed to an executor.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Moves a process into it, with all its threads. What it starts from then on is in it as well.
    pub fn join(&self, pid: i32) -> Result<(), Error> {
        self.dirs.iter().try_for_each(|dir| write(&dir.join("cgroup.procs"), &pid.to_string()))
    }

    /// Processes in it, sorted. A cgroup that does not exist has none. Zombies are left out by the kernel in v2 only.
    pub fn processes(&self) -> Result<Vec<i32>, Error> {
        let mut pids = BTreeSet::new();
        for dir in &self.dirs {
            let path = dir.join("cgroup.procs");
            match std::fs::read_to_string(&path) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok())),
                Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => {}
                Err(e) => return Err(Error::new("read", &path, e)),
            }
        }
        // 0 stands for a process of another pid namespace; a signal to 0 would hit ourselves.
        Ok(pids.into_iter().filter(|pid| *pid > 0).collect())
    }

    /// Sends SIGKILL to every process in it but `except`, again until none is left or `patience` has passed.
    /// The answer is what was left; empty = all gone. Blocking.
    pub fn kill_all(&self, except: Option<i32>, patience: Duration) -> Result<Vec<i32>, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let mut left = self.processes()?;
            left.retain(|pid| Some(*pid) != except && !is_zombie(*pid));
            if left.is_empty() {
                return Ok(left);
            }
            let kill_file = self.dirs.iter().map(|dir| dir.join("cgroup.kill")).find(|path| path.exists());
            match kill_file {
                Some(path) if except.is_none() => write(&path, "1")?,
                _ => {
                    for pid in &left {
                        kill(*pid);
                    }
                }
            }
            if Instant::now() >= deadline {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many processes the kernel killed in it for want of memory; 0 where that cannot be known.
    pub fn oom_kills(&self) -> u64 {
        let count = |text: String| {
            text.lines().find_map(|line| line.strip_prefix("oom_kill ").and_then(|n| n.trim().parse().ok()))
        };
        ["memory.events", "memory.oom_control"]
            .iter()
            .flat_map(|file| self.dirs.iter().map(move |dir| dir.join(file)))
            .find_map(|path| std::fs::read_to_string(path).ok().and_then(count))
            .unwrap_or(0)
    }

    /// What its processes use, those that have ended included.
    pub fn used(&self) -> Used {
        let cpu_ns = self.number("cpuacct.usage", "").or_else(|| {
            let micros = self.number("cpu.stat", "usage_usec ")?;
            micros.checked_mul(1000)
        });
        let bytes = self.number("memory.current", "").or_else(|| self.number("memory.usage_in_bytes", ""));
        // In v1 the first of these counts this cgroup alone, and the other those below it too.
        let idle = self.number("memory.stat", "total_inactive_file ");
        let idle = idle.or_else(|| self.number("memory.stat", "inactive_file ")).unwrap_or(0);
        Used { cpu_ns, ram_bytes: bytes.map(|bytes| bytes.saturating_sub(idle)) }
    }

    /// The number behind `word` at the beginning of a line of a file, in whichever directory has it.
    fn number(&self, file: &str, word: &str) -> Option<u64> {
        self.dirs.iter().find_map(|dir| {
            let text = std::fs::read_to_string(dir.join(file)).ok()?;
            text.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
        })
    }

    /// Whether any of its directories exists.
    pub fn exists(&self) -> bool {
        self.dirs.iter().any(|dir| dir.exists())
    }

    /// Removes it with the cgroups that the task made below. Fails while processes are in it; waits a little
    /// ([`REMOVE_PATIENCE`]) for those that have died and are not yet gone. Gone already = done.
    pub fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        loop {
            let removed = self.dirs.iter().try_for_each(|dir| remove_tree(dir, 0));
            let dying = |left: Vec<i32>| left.into_iter().all(is_zombie);
            match removed {
                Err(e)
                    if e.cause.raw_os_error() == Some(libc::EBUSY)
                        && Instant::now() < deadline
                        && self.processes().is_ok_and(dying) =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                removed => return removed,
            }
        }
    }
}

/// How long [`Cgroup::remove`] waits for the kernel to let go of dead processes.
pub const REMOVE_PATIENCE: Duration = Duration::from_millis(500);
/// Depth to which a task's own cgroups are removed.
const DEPTH_MAX: usize = 16;

fn remove_tree(dir: &Path, depth: usize) -> Result<(), Error> {
    if depth < DEPTH_MAX
        && let Ok(entries) = std::fs::read_dir(dir)
    {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            remove_tree(&entry.path(), depth + 1)?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::new("remove the cgroup", dir, e)),
        _ => Ok(()),
    }
}

fn limit(dir: &Path, limits: &Limits, v2: bool) -> Result<(), Error> {
    for (file, value) in files(limits, v2) {
        let path = dir.join(file);
        // In v1 a directory has the files of its own controllers only.
        if v2 || path.exists() {
            write(&path, &value)?;
        }
    }
    Ok(())
}

/// Which files get which values.
fn files(limits: &Limits, v2: bool) -> Vec<(&'static str, String)> {
    let quota = (limits.cpu_milli * CFS_PERIOD_MICROS / 1000).max(CFS_QUOTA_MICROS_MIN);
    let hard = limits.cpu_hard && limits.cpu_milli > 0;
    let bytes = limits.ram_mib.saturating_mul(1 << 20);
    let or_max = |n: u64| if n == 0 { "max".to_owned() } else { n.to_string() };
    let shares = (limits.cpu_milli * 1024 / 1000).clamp(CPU_SHARES_MIN, 262_144);
    if v2 {
        let mut files = Vec::new();
        if limits.cpu_milli > 0 {
            // The kernel's own mapping: shares 2..262144 to weight 1..10000.
            files.push(("cpu.weight", (1 + (shares - 2) * 9999 / 262_142).to_string()));
        }
        let quota = if hard { quota.to_string() } else { "max".into() };
        files.push(("cpu.max", format!("{quota} {CFS_PERIOD_MICROS}")));
        files.push(("memory.max", or_max(bytes)));
        files.push(("pids.max", or_max(limits.pids_max)));
        return files;
    }
    let mut files = Vec::new();
    if limits.cpu_milli > 0 {
        files.push(("cpu.shares", shares.to_string()));
    }
    if hard {
        files.push(("cpu.cfs_period_us", CFS_PERIOD_MICROS.to_string()));
    }
    files.push(("cpu.cfs_quota_us", if hard { quota.to_string() } else { "-1".into() }));
    files.push(("memory.limit_in_bytes", if bytes == 0 { "-1".into() } else { bytes.to_string() }));
    files.push(("pids.max", or_max(limits.pids_max)));
    files
}

/// Lets the cgroups below `dir` have the controllers.
fn hand_down(dir: &Path, controllers: &[String]) -> Result<(), Error> {
    let path = dir.join("cgroup.subtree_control");
    let has = std::fs::read_to_string(&path).map_err(|e| Error::new("read", &path, e))?;
    let has: Vec<&str> = has.split_whitespace().collect();
    let lacking: Vec<String> =
        controllers.iter().filter(|c| !has.contains(&c.as_str())).map(|c| format!("+{c}")).collect();
    if lacking.is_empty() { Ok(()) } else { write(&path, &lacking.join(" ")) }
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    let mut options = std::fs::OpenOptions::new();
    let written =
        options.write(true).open(path).and_then(|mut f| io::Write::write_all(&mut f, value.as_bytes()));
    written.map_err(|e| Error::new(format!("write {value} to"), path, e))
}

/// A name becomes a path below the mount point.
fn check_name(name: &str, slashes: bool) -> Result<(), Error> {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let fine = if slashes { name.split('/').all(good) } else { good(name) };
    if fine {
        return Ok(());
    }
    let problem = "use letters, digits, `-`, `_` and `.`, and do not begin with a dot";
    Err(Error::new(
        "use as a cgroup's name",
        Path::new(name),
        io::Error::new(io::ErrorKind::InvalidInput, problem),
    ))
}

fn is_zombie(pid: i32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // Gone already is as good.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_files() {
        let limits = Limits { cpu_milli: 250, cpu_hard: false, ram_mib: 64, pids_max: 100 };
        let show = |limits: &Limits, v2| {
            files(limits, v2)
                .iter()
                .map(|(file, value)| format!("{file}={value}"))
                .collect::<Vec<_>>()
                .join("; ")
        };
        for (limits, v2, want) in [
            (
                limits,
                false,
                "cpu.shares=256; cpu.cfs_quota_us=-1; memory.limit_in_bytes=67108864; pids.max=100",
            ),
            (
                Limits { cpu_hard: true, ..limits },
                false,
                "cpu.shares=256; cpu.cfs_period_us=100000; cpu.cfs_quota_us=25000; memory.limit_in_bytes=67108864; pids.max=100",
            ),
            (
                Limits { cpu_milli: 1, cpu_hard: true, ..Limits::default() },
                false,
                "cpu.shares=2; cpu.cfs_period_us=100000; cpu.cfs_quota_us=1000; memory.limit_in_bytes=-1; pids.max=max",
            ),
            (limits, true, "cpu.weight=10; cpu.max=max 100000; memory.max=67108864; pids.max=100"),
            (
                Limits { cpu_hard: true, ..limits },
                true,
                "cpu.weight=10; cpu.max=25000 100000; memory.max=67108864; pids.max=100",
            ),
            (Limits::default(), true, "cpu.max=max 100000; memory.max=max; pids.max=max"),
        ] {
            assert_eq!(show(&limits, v2), want);
        }
    }

    #[test]
    fn names_that_leave_the_root_are_refused() {
        let cgroups = Cgroups { roots: vec![], v2: None };
        for bad in ["", ".", "..", "a/b", "../a", "a b", ".hidden"] {
            assert!(cgroups.create(bad, &Limits::default()).is_err(), "{bad:?}");
            assert!(Cgroups::of(&Hierarchy::V1(Default::default()), &format!("a/{bad}/../c")).is_err());
        }
    }

    /// An ordinary directory that looks like a v2 tree: the kernel would make these files in each new directory.
    fn fake_v2(mount: &Path) -> Hierarchy {
        for dir in ["", "borealis", "borealis/h1", "borealis/h1/task-1-1"] {
            std::fs::create_dir_all(mount.join(dir)).unwrap();
            for file in
                ["cgroup.subtree_control", "cgroup.procs", "cpu.weight", "cpu.max", "memory.max", "pids.max"]
            {
                std::fs::write(mount.join(dir).join(file), "").unwrap();
            }
        }
        std::fs::write(mount.join("cgroup.subtree_control"), "cpu").unwrap();
        Hierarchy::V2 {
            mount: mount.into(),
            controllers: ["io", "cpu", "memory", "pids"].map(String::from).to_vec(),
        }
    }

    #[test]
    fn v2_writes_the_right_files() {
        let temp = tempfile::tempdir().unwrap();
        let mount = temp.path();
        let cgroups = Cgroups::of(&fake_v2(mount), "borealis/h1").unwrap().unwrap();
        let read = |file: &str| std::fs::read_to_string(mount.join(file)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "+memory +pids");
        assert_eq!(read("borealis/cgroup.subtree_control"), "+cpu +memory +pids");
        assert_eq!(read("borealis/h1/cgroup.subtree_control"), "+cpu +memory +pids");

        let limits = Limits { cpu_milli: 1500, cpu_hard: true, ram_mib: 1, pids_max: 7 };
        let cgroup = cgroups.create("task-1-1", &limits).unwrap();
        assert_eq!(read("borealis/h1/task-1-1/cpu.max"), "150000 100000");
        assert_eq!(read("borealis/h1/task-1-1/memory.max"), "1048576");
        assert_eq!(read("borealis/h1/task-1-1/pids.max"), "7");
        assert_eq!(cgroups.list().unwrap(), ["task-1-1"]);

        cgroup.join(4242).unwrap();
        assert_eq!(read("borealis/h1/task-1-1/cgroup.procs"), "4242");
        std::fs::write(mount.join("borealis/h1/task-1-1/cgroup.procs"), "3\n1\n0\n").unwrap();
        assert_eq!(cgroup.processes().unwrap(), [1, 3]);
        std::fs::write(mount.join("borealis/h1/task-1-1/memory.events"), "low 0\noom 2\noom_kill 3\n")
            .unwrap();
        assert_eq!(cgroup.oom_kills(), 3);

        assert_eq!(cgroup.used(), Used::default());
        for (file, text) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"),
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 600\nactive_file 100\ninactive_file 300\n"),
        ] {
            std::fs::write(mount.join("borealis/h1/task-1-1").join(file), text).unwrap();
        }
        assert_eq!(cgroup.used(), Used { cpu_ns: Some(1_500_000), ram_bytes: Some(700) });

        // A real kernel refuses a limit that is not there; so does the tree.
        assert!(cgroups.create("task-1-2", &limits).unwrap_err().to_string().contains("cpu.weight"));
    }

    #[test]
    fn v2_kills_the_whole_cgroup_by_its_file() {
        let temp = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        std::fs::write(temp.path().join("cgroup.procs"), child.id().to_string()).unwrap();
        std::fs::write(temp.path().join("cgroup.kill"), "").unwrap();
        let cgroup = Cgroup::from_dirs([temp.path()]);
        let left = cgroup.kill_all(None, Duration::ZERO).unwrap();
        assert_eq!(left, [child.id() as i32]);
        assert_eq!(std::fs::read_to_string(temp.path().join("cgroup.kill")).unwrap(), "1");
        // With an exception there is no such file to use: each process is killed by itself.
        assert_eq!(cgroup.kill_all(Some(1), Duration::from_secs(20)).unwrap(), [0; 0]);
        child.wait().unwrap();
    }
}
