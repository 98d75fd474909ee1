//! Ends the tasks of the local cluster: executors outlive their agents on purpose, so whoever wants an empty
//! machine must find them. A process is of this cluster if it is
//!
//! - an executor whose command line names a place beneath one of the cluster's agents, or
//! - a process whose environment says that its task's sandbox is such a place, or
//! - a descendant of these.
//!
//! Signals go through a pidfd opened before the process is looked at again, so none can hit a successor of its pid.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

/// For executors to end their tasks in order.
const GRACE: Duration = Duration::from_secs(4);
/// For everything to be gone after SIGKILL.
const KILL_MAX: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// The variable by which a task's processes know their sandbox.
const SANDBOX: &[u8] = b"BOREALIS_SANDBOX=";

/// A process, as far as it matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Process {
    pid: i32,
    parent: i32,
    start_ticks: u64,
    is_executor: bool,
    /// Its command line and environment, separated by NUL.
    arguments: Vec<u8>,
    environment: Vec<u8>,
}

impl Process {
    /// Reads `/proc/PID`. `None` for what is gone, ended, or not ours to read.
    fn read(pid: i32) -> Option<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let stat = std::fs::read(proc.join("stat")).ok()?;
        let (state, parent, start_ticks) = parse_stat(&String::from_utf8_lossy(&stat))?;
        if matches!(state, 'Z' | 'X') {
            return None;
        }
        let program = std::fs::read_link(proc.join("exe")).unwrap_or_default();
        let is_executor =
            program.file_name().is_some_and(|name| name.as_bytes().starts_with(b"borealis-executor"));
        let arguments = std::fs::read(proc.join("cmdline")).unwrap_or_default();
        let environment = std::fs::read(proc.join("environ")).unwrap_or_default();
        Some(Process { pid, parent, start_ticks, is_executor, arguments, environment })
    }
}

/// State, parent and start time. The name in parentheses may hold anything.
fn parse_stat(text: &str) -> Option<(char, i32, u64)> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Which of `processes` are of the cluster whose agents have the directories `agents`.
fn belonging<'p>(processes: &'p [Process], agents: &[PathBuf]) -> Vec<&'p Process> {
    let beneath = |path: &[u8]| {
        let path = Path::new(OsStr::from_bytes(path));
        agents.iter().any(|agent| path.starts_with(agent) && path != agent)
    };
    let named = |words: &[u8]| words.split(|byte| *byte == 0).any(&beneath);
    let housed = |environment: &[u8]| {
        environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| variable.strip_prefix(SANDBOX))
            .any(&beneath)
    };
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mine = |process: &&Process| {
        (process.is_executor && named(&process.arguments)) || housed(&process.environment)
    };
    let mut waiting: Vec<i32> = processes.iter().filter(mine).map(|process| process.pid).collect();
    let mut found = BTreeSet::new();
    while let Some(pid) = waiting.pop() {
        if found.insert(pid) {
            waiting.extend(children.get(&pid).into_iter().flatten());
        }
    }
    processes.iter().filter(|process| found.contains(&process.pid)).collect()
}

fn send(process: &Process, signal: Signal) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // The handle is of whoever has the pid now; that is meant only if it still is the process that was seen.
    if Process::read(process.pid).is_some_and(|now| now.start_ticks == process.start_ticks) {
        let _ = pidfd_send_signal(handle, signal);
    }
}

/// Ends all tasks of the agents with these (absolute) directories: first in order, then by force. Answers the pids
/// of what is still there.
pub(crate) async fn end(agents: &[PathBuf]) -> Vec<i32> {
    let begun = Instant::now();
    let mut asked = BTreeSet::new();
    loop {
        let processes = all();
        let mut left = belonging(&processes, agents);
        left.retain(|process| u32::try_from(process.pid) != Ok(std::process::id()));
        if left.is_empty() || begun.elapsed() > GRACE + KILL_MAX {
            return left.iter().map(|process| process.pid).collect();
        }
        let executors = left.iter().any(|process| process.is_executor);
        for process in left {
            if begun.elapsed() > GRACE || !executors {
                send(process, Signal::KILL);
            } else if process.is_executor && asked.insert(process.pid) {
                send(process, Signal::TERM);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_is_found() {
        let process = |pid, parent, is_executor, arguments: &str, environment: &str| Process {
            pid,
            parent,
            start_ticks: 1,
            is_executor,
            arguments: arguments.replace(' ', "\0").into_bytes(),
            environment: environment.replace(' ', "\0").into_bytes(),
        };
        let processes = [
            process(10, 1, true, "borealis-executor /d/agent-1/tasks/task-1-1", ""),
            process(11, 10, false, "sh -c x", ""),
            process(12, 11, false, "sleep 1000", ""),
            process(13, 1, false, "orphan", "A=b BOREALIS_SANDBOX=/d/agent-1/tasks/task-1-2/sandbox"),
            // Not ours: another cluster's, an editor on a file of ours, a shell that stands in our directory, the agent.
            process(20, 1, true, "borealis-executor /d2/agent-1/tasks/task-1-1", ""),
            process(21, 1, false, "vi /d/agent-1/tasks/task-1-1/sandbox/x", ""),
            process(22, 1, false, "bash", "PWD=/d/agent-1/tasks HOME=/d/agent-1/x"),
            process(23, 1, false, "borealis-agent --dir /d/agent-1", ""),
            process(24, 1, true, "borealis-executor /d/agent-10/tasks/task-1-1", ""),
        ];
        let pids: Vec<i32> = belonging(&processes, &["/d/agent-1".into()]).iter().map(|p| p.pid).collect();
        assert_eq!(pids, [10, 11, 12, 13]);
    }

    #[test]
    fn orphans_of_a_task_are_ended_by_what_they_were_given() {
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().canonicalize().unwrap().join("agent-1");
        let mut orphan = std::process::Command::new("sleep")
            .arg("1000")
            .env("BOREALIS_SANDBOX", agent.join("tasks/x/sandbox"))
            .spawn()
            .unwrap();
        // A program that has just begun does not show its environment at once.
        let shown =
            || std::fs::read(format!("/proc/{}/environ", orphan.id())).is_ok_and(|text| !text.is_empty());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !shown() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let left = runtime.block_on(end(&[agent]));
        let status = orphan.try_wait().unwrap();
        orphan.kill().unwrap();
        assert_eq!(left, [0; 0]);
        assert!(status.is_some(), "it was ended");
    }
}
