//! `borealis dev` as a supervisor, with programs that do not become a cluster: what it says, what it leaves behind.
//! A cluster that works is the business of the tests of the whole.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with programs that are these shell scripts.
fn programs(scheduler: &str, agent: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, script) in [("borealis-scheduler", scheduler), ("borealis-agent", agent)] {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

/// A port such that the ones that one replica needs are free at the moment.
fn base_port() -> u16 {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    // Tests run at the same time; each begins to look elsewhere.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let seed = u16::try_from(std::process::id() % 1_900).unwrap() + NEXT.fetch_add(100, Ordering::Relaxed);
    let mut ports = (0..170).map(|n| 29_000 + (seed + n * 11) % 1_900);
    ports.find(|port| free(*port) && free(port + 10)).unwrap()
}

fn dev(programs: &Path, dir: &Path, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_borealis"))
        .args(["dev", "--replicas", "1", "--agents", "1", "--base-port", &base_port().to_string(), "--dir"])
        .arg(dir)
        .args(more)
        .env("BOREALIS_BIN", programs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Exit code and stderr.
fn end(mut child: Child) -> (Option<i32>, String) {
    let status = until("the end of `borealis dev`", || child.try_wait().unwrap());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status.code(), text)
}

/// Pids in `cluster.json`, once all processes run.
fn pids(dir: &Path) -> Vec<i32> {
    until("cluster.json", || {
        let text = std::fs::read_to_string(dir.join("cluster.json")).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).expect("never a part of a file");
        let all =
            [&value["replicas"], &value["agents"]].map(|list| list.as_array().unwrap().clone()).concat();
        all.iter().map(|one| i32::try_from(one["pid"].as_i64()?).ok().filter(|pid| *pid > 0)).collect()
    })
}

fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_process_that_cannot_start_has_the_last_word() {
    let (programs, dir) =
        (programs("echo the disk is too slow >&2; exit 3", "exec sleep 1000"), tempfile::tempdir().unwrap());
    let (code, err) = end(dev(programs.path(), dir.path(), &[]));
    assert_eq!(code, Some(4), "{err}");
    assert!(
        err.contains("scheduler-1 ended with exit code 3") && err.contains("| the disk is too slow"),
        "{err}"
    );
    assert!(!dir.path().join("cluster.json").exists());
}

#[test]
fn a_missing_program_is_named() {
    let (empty, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (code, err) = end(dev(empty.path(), dir.path(), &[]));
    assert_eq!(code, Some(4));
    assert!(err.contains("borealis-scheduler is missing") && err.contains("BOREALIS_BIN"), "{err}");
}

#[test]
fn what_becomes_no_cluster_in_time_is_ended() {
    let (programs, dir) =
        (programs("echo waiting; exec sleep 1000", "exec sleep 1000"), tempfile::tempdir().unwrap());
    let child = dev(programs.path(), dir.path(), &["--timeout", "5s"]);
    let pids = pids(dir.path());
    let (code, err) = end(child);
    assert_eq!(code, Some(9), "{err}");
    assert!(err.contains("scheduler-1 does not answer") && err.contains("scheduler-1.log: waiting"), "{err}");
    assert!(pids.into_iter().all(is_gone), "nothing is left");
}

#[test]
fn a_signal_ends_everything_and_a_second_dev_is_refused() {
    let (programs, dir) = (programs("exec sleep 1000", "exec sleep 1000"), tempfile::tempdir().unwrap());
    let first = dev(programs.path(), dir.path(), &[]);
    let pids = pids(dir.path());
    let (code, err) = end(dev(programs.path(), dir.path(), &[]));
    assert_eq!(code, Some(4));
    assert!(err.contains("another `borealis dev` runs"), "{err}");
    signal(first.id(), rustix::process::Signal::TERM);
    let (code, err) = end(first);
    assert_eq!(code, Some(0), "{err}");
    assert!(pids.into_iter().all(is_gone));
    assert!(!dir.path().join("cluster.json").exists());
}

#[test]
fn the_processes_die_with_a_dev_that_is_killed() {
    let (programs, dir) = (programs("exec sleep 1000", "exec sleep 1000"), tempfile::tempdir().unwrap());
    let child = dev(programs.path(), dir.path(), &[]);
    let pids = pids(dir.path());
    signal(child.id(), rustix::process::Signal::KILL);
    assert_eq!(end(child).0, None);
    for pid in pids {
        until("the end of a process", || is_gone(pid).then_some(()));
    }
}
