//! The processes below a process, and signals to them.
//!
//! The executor is a child subreaper: whatever a task's processes leave behind becomes its child, so "everything
//! of the task" is what is below the executor, however often it forked or made sessions.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::identity::{self, Stat};

/// Everything below `root`, without zombies, sorted. What forks meanwhile may be missed: ask again.
pub fn below(root: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut ahead = vec![root];
    while let Some(pid) = ahead.pop() {
        let Some(children) = children(pid) else { return below_by_parent(root) };
        ahead.extend(children.into_iter().filter(|child| found.insert(*child)));
    }
    found.retain(|pid| Stat::of(*pid).is_ok_and(|stat| !stat.is_zombie()));
    found
}

/// `None`: this kernel does not list children.
fn children(pid: i32) -> Option<Vec<i32>> {
    let mut children = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Some(children) };
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => children.extend(text.split_whitespace().filter_map(|word| word.parse::<i32>().ok())),
            // The thread is there and the file is not.
            Err(_) if !thread.path().join("children").exists() && thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(children)
}

/// The same from the table of all processes.
fn below_by_parent(root: i32) -> BTreeSet<i32> {
    let all = identity::all().unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut ahead = vec![root];
    while let Some(parent) = ahead.pop() {
        ahead.extend(
            all.iter()
                .filter(|stat| stat.parent == parent)
                .map(|stat| stat.pid)
                .filter(|pid| found.insert(*pid)),
        );
    }
    found.retain(|pid| all.iter().any(|stat| stat.pid == *pid && !stat.is_zombie()));
    found
}

/// Sends a signal to each; those that are gone already do not matter.
pub fn signal(pids: &BTreeSet<i32>, signal: Signal) {
    for pid in pids.iter().filter(|pid| **pid > 1).filter_map(|pid| Pid::from_raw(*pid)) {
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_looking_find_the_same() {
        let script = "sleep 60 & (sleep 60 & sleep 60; true) & wait";
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while below(pid).len() != 4 {
            assert!(std::time::Instant::now() < deadline, "{:?}", below(pid));
            std::thread::yield_now();
        }
        let found = below(pid);
        assert_eq!(below_by_parent(pid), found);
        signal(&found, Signal::KILL);
        let _ = child.kill();
        child.wait().unwrap();
    }
}
