//! The cluster's processes: started, watched, started again. When to start again is decided by [`pause`], pure.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::sync::mpsc;

use super::settings::{Machine, Member, Role};
use crate::error::{Error, Kind};

/// A process that ends by itself sooner than this has a fault that a restart does not cure.
const QUICK: Duration = Duration::from_secs(5);
/// Longest pause before a restart.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Of a log that is shown, in bytes and lines.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 15;

/// A member and its process.
#[derive(Debug)]
pub(crate) struct Child {
    /// What it is.
    pub(crate) member: Member,
    /// Of the running process.
    pub(crate) pid: Option<u32>,
    /// Of the newest process, running or not.
    pub(crate) last_pid: u32,
    /// Where an agent listens, as it says.
    pub(crate) address: String,
    started: Instant,
    quick_deaths: u32,
}

/// A process has ended.
#[derive(Debug)]
pub(crate) struct Death {
    /// Index of the member.
    pub(crate) index: usize,
    /// Of what has ended.
    pub(crate) pid: u32,
    /// How.
    pub(crate) status: ExitStatus,
}

/// All members.
#[derive(Debug)]
pub(crate) struct Children {
    /// In the order of the settings.
    pub(crate) all: Vec<Child>,
    programs: PathBuf,
    deaths: mpsc::Sender<Death>,
}

impl Children {
    /// Of `members`, whose programs lie in `programs`. Nothing is started yet. Deaths arrive at the receiver.
    pub(crate) fn new(
        members: Vec<Member>,
        programs: PathBuf,
    ) -> Result<(Self, mpsc::Receiver<Death>), Error> {
        for member in &members {
            let program = programs.join(member.program);
            if !program.is_file() {
                return Err(Error::new(
                    Kind::Failed,
                    format!("the program {} is missing", program.display()),
                )
                .hint("build it (`make build`), or say in BOREALIS_BIN which directory has the programs"));
            }
        }
        let (deaths, arriving) = mpsc::channel(members.len().max(1));
        let child = |member| Child {
            member,
            pid: None,
            last_pid: 0,
            address: String::new(),
            started: Instant::now(),
            quick_deaths: 0,
        };
        Ok((Children { all: members.into_iter().map(child).collect(), programs, deaths }, arriving))
    }

    /// Starts the process of one member. It ends when this thread does, however that comes.
    pub(crate) fn start(&mut self, index: usize) -> Result<(), Error> {
        let child = &mut self.all[index];
        let failed = |what: String, why: std::io::Error| Error::new(Kind::Failed, format!("{what}: {why}"));
        let member = &child.member;
        let log = File::options().create(true).append(true).open(&member.log);
        let mut log = log.map_err(|why| failed(format!("{} cannot be opened", member.log.display()), why))?;
        let _ = writeln!(log, "--- {} starts ---", member.name);
        // What an agent writes there again tells that it listens.
        let _ = fs::remove_file(address_file(member));
        child.address.clear();

        let errors = log
            .try_clone()
            .map_err(|why| failed(format!("{} cannot be shared", member.log.display()), why))?;
        let mut command = tokio::process::Command::new(self.programs.join(member.program));
        command.args(&member.arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        // A group of its own: Ctrl-C at the terminal is for `dev`, which stops its children in order.
        command.process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec the closure makes two system calls and touches no memory but its own copy
        // of `parent`; it neither allocates nor locks.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have ended before the signal was asked for.
                if rustix::process::getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(rustix::io::Errno::SRCH.into())
                }
            });
        }
        let mut process =
            command.spawn().map_err(|why| failed(format!("{} cannot be started", member.name), why))?;
        let pid = process.id().unwrap_or_default();
        (child.pid, child.last_pid, child.started) = (Some(pid), pid, Instant::now());
        let deaths = self.deaths.clone();
        tokio::spawn(async move {
            if let Ok(status) = process.wait().await {
                let _ = deaths.send(Death { index, pid, status }).await;
            }
        });
        Ok(())
    }

    /// Notes a death; answers after which pause the member is started again.
    pub(crate) fn died(&mut self, death: &Death, restart_after: Duration) -> Duration {
        let child = &mut self.all[death.index];
        child.pid = None;
        child.address.clear();
        let by_itself = death.status.code().is_some();
        child.quick_deaths =
            if by_itself && child.started.elapsed() < QUICK { child.quick_deaths + 1 } else { 0 };
        pause(restart_after, child.quick_deaths)
    }

    /// Sends `signal` to those members that `which` chooses.
    pub(crate) fn signal(&self, signal: Signal, which: impl Fn(&Member) -> bool) {
        for child in self.all.iter().filter(|child| which(&child.member)) {
            // A child that has not been waited for keeps its pid, so this can hit no other process.
            if let Some(pid) = child.pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    /// Reads where agents listen. True if there is news.
    pub(crate) fn read_addresses(&mut self) -> bool {
        let mut news = false;
        for child in
            self.all.iter_mut().filter(|child| child.member.role == Role::Agent && child.pid.is_some())
        {
            let text = fs::read_to_string(address_file(&child.member)).unwrap_or_default();
            let address = text.trim();
            if !address.is_empty() && address != child.address {
                child.address = address.to_owned();
                news = true;
            }
        }
        news
    }
}

/// Where an agent says its address.
fn address_file(member: &Member) -> PathBuf {
    member.dir.join("address")
}

/// Before the next start. A process killed from outside comes back after the time asked for; one that keeps ending
/// by itself, later and later.
fn pause(restart_after: Duration, quick_deaths: u32) -> Duration {
    let factor = 1 << quick_deaths.saturating_sub(1).min(10);
    (restart_after * factor).min(PAUSE_MAX.max(restart_after))
}

/// How a process ended, in words.
pub(crate) fn words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(9)) => "was killed (SIGKILL)".to_owned(),
        (None, Some(15)) => "was terminated (SIGTERM)".to_owned(),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of a log since its process was started last.
pub(crate) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let last = text.rsplit(" starts ---\n").next().unwrap_or_default();
    let lines: Vec<&str> = last.lines().collect();
    let lines = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    lines.iter().map(|line| format!("\n  | {}", crate::table::clean(line))).collect()
}

/// What this machine has for tasks: its cores, three quarters of its memory, half of the disk that is free.
pub(crate) fn machine(dir: &Path) -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total_kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let disk = rustix::fs::statvfs(dir).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize) >> 20);
    Machine {
        cpu_milli: cores * 1000,
        ram_mib: total_kib.unwrap_or(1_u64 << 20) * 3 / 4 / 1024,
        disk_mib: disk / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_ending_by_itself_comes_back_later_and_later() {
        let pauses: Vec<u64> = (0..8).map(|deaths| pause(Duration::from_secs(3), deaths).as_secs()).collect();
        assert_eq!(pauses, [3, 3, 6, 12, 24, 48, 60, 60]);
        assert_eq!(pause(Duration::from_secs(120), 9), Duration::from_secs(120));
        assert_eq!(pause(Duration::ZERO, 4_000_000), Duration::ZERO);
    }

    #[test]
    fn a_tail_is_of_the_last_start() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        fs::write(&log, "--- x starts ---\nold\n--- x starts ---\nport in use\n").unwrap();
        assert_eq!(tail(&log), "\n  | port in use");
        assert_eq!(tail(&dir.path().join("none")), "");
    }
}
