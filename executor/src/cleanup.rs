//! Ends what a dead executor left behind.
//!
//! For the agent: an executor that is gone without a terminal record was killed (by the kernel for want of memory,
//! by a person, by a fault of its own). The shells of its processes die with it by `PR_SET_PDEATHSIG`, but their
//! children do not. They are found by the task's cgroups, where there are any, and else by the sessions of the
//! recorded processes and by the task's marks in their environment; a process that left its session and cleared its
//! environment on a host without cgroups is not found.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use isolation::Cgroup;
use proto::TaskId;
use proto::wire::{Launch, ProcessIdentity};
use rustix::process::Signal;

use crate::checkpoint::{self, Summary};
use crate::identity::{self, Stat};
use crate::layout::TaskDir;
use crate::{launch, records, tree};

/// Environment variable with the task's id, in every process of a task.
pub const TASK_ID_VARIABLE: &str = "BOREALIS_TASK_ID";
/// Environment variable with the sandbox' path, in every process of a task.
pub const SANDBOX_VARIABLE: &str = "BOREALIS_SANDBOX";

/// What [`kill_leftovers`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Processes that got SIGKILL.
    pub killed: Vec<i32>,
    /// Processes that had not ended when the patience did: the task may still run. Empty = all gone.
    pub remaining: Vec<i32>,
}

/// Why it is not known whether something is left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The launch or the checkpoint cannot be read.
    #[error(transparent)]
    Records(#[from] records::Error),
    /// The cgroups cannot be read.
    #[error(transparent)]
    Cgroup(#[from] isolation::Error),
    /// The process table cannot be read.
    #[error("cannot list the processes of this host: {0}")]
    Processes(#[from] io::Error),
}

/// Sends SIGKILL to everything that belongs to the task, its executor included, until nothing is left or `patience`
/// has passed. Blocking. Safe to call for a task that never started or has ended.
/// A damaged launch or checkpoint does not keep it from killing what it finds otherwise.
pub fn kill_leftovers(dir: &TaskDir, patience: Duration) -> Result<Leftovers, Error> {
    let launch = match launch::read(dir) {
        Ok(launch) => launch,
        Err(e) if e.is_not_found() => Launch::default(),
        Err(records::Error::Corrupt(_)) => Launch::default(),
        Err(e) => return Err(e.into()),
    };
    let summary = match checkpoint::read(dir) {
        Err(records::Error::Corrupt(_)) => Summary::default(),
        read => read?,
    };
    let cgroup = Cgroup::from_dirs(&launch.cgroups);
    let search = Search::new(dir, &launch, &summary);
    let deadline = Instant::now() + patience;
    let mut killed = BTreeSet::new();
    loop {
        let mut left: BTreeSet<i32> = cgroup.processes()?.into_iter().collect();
        if let Some(executor) = summary.executor.as_ref().filter(|executor| identity::is_alive(executor)) {
            // It first, or it would start processes again.
            tree::signal(&BTreeSet::from([executor.pid]), Signal::KILL);
            left.extend(tree::below(executor.pid));
            left.insert(executor.pid);
        }
        if launch.cgroups.is_empty() {
            left.extend(search.look()?);
        }
        left.remove(&(std::process::id() as i32));
        left.retain(|pid| Stat::of(*pid).is_ok_and(|stat| !stat.is_zombie()));
        tree::signal(&left, Signal::KILL);
        killed.extend(left.iter().copied());
        if left.is_empty() || Instant::now() >= deadline {
            return Ok(Leftovers {
                killed: killed.into_iter().collect(),
                remaining: left.into_iter().collect(),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends SIGKILL to an executor that is known otherwise, and to all below it: for a task whose directory is gone or
/// cannot be read. `true` = it does not run any more.
pub fn kill_executor(executor: &ProcessIdentity) -> bool {
    if identity::is_alive(executor) {
        let below = tree::below(executor.pid);
        tree::signal(&BTreeSet::from([executor.pid]), Signal::KILL);
        tree::signal(&below.into_iter().collect(), Signal::KILL);
    }
    !identity::is_alive(executor)
}

/// How the processes of a task are recognised where there is no cgroup.
struct Search {
    /// Session id with the start of its leader.
    sessions: Vec<(i32, u64)>,
    /// What stands in the environment of each.
    marks: Vec<Vec<u8>>,
}

impl Search {
    fn new(dir: &TaskDir, launch: &Launch, summary: &Summary) -> Search {
        let boot_id = identity::boot_id().unwrap_or_default();
        let of_this_boot = summary.started.iter().filter(|started| started.boot_id == boot_id);
        let sandbox = crate::launch::sandbox(dir, launch);
        let mut marks = vec![format!("{SANDBOX_VARIABLE}={}", sandbox.display()).into_bytes()];
        if launch.task_id != 0 {
            marks.push(format!("{TASK_ID_VARIABLE}={}", TaskId(launch.task_id)).into_bytes());
        }
        Search { sessions: of_this_boot.map(|started| (started.pid, started.start_ticks)).collect(), marks }
    }

    fn look(&self) -> io::Result<BTreeSet<i32>> {
        let all = identity::all()?;
        // A number is not given to another process while a session has it; but it may be after the session's end.
        let taken_by_another =
            |sid: i32, start: u64| all.iter().any(|s| s.pid == sid && s.start_ticks != start);
        let sessions: Vec<_> =
            self.sessions.iter().filter(|(sid, start)| !taken_by_another(*sid, *start)).collect();
        let in_session = |stat: &Stat| {
            sessions.iter().any(|(sid, start)| stat.session == *sid && stat.start_ticks >= *start)
        };
        Ok(all
            .iter()
            .filter(|stat| in_session(stat) || self.is_marked(stat.pid))
            .map(|stat| stat.pid)
            .collect())
    }

    fn is_marked(&self, pid: i32) -> bool {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has = |mark: &Vec<u8>| environment.split(|byte| *byte == 0).any(|entry| entry == mark);
        self.marks.iter().all(has)
    }
}
