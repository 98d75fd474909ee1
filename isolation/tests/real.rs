//! The kernel's own cgroups, where this machine lets us.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use isolation::{Cgroups, Hierarchy, Host, Limits};

const PATIENCE: Duration = Duration::from_secs(20);

fn root(name: &str) -> Option<Cgroups> {
    let host = Host::detect();
    println!("{:?}: {:?}", host.words(), host.missing);
    let made = Cgroups::new(&host, &format!("borealis-test-{}-{name}", std::process::id()));
    match host.cgroups {
        Hierarchy::None => {
            assert!(made.unwrap().is_none());
            println!("skipped: this machine does not let us make cgroups");
            None
        }
        _ => made.unwrap(),
    }
}

/// A shell that waits until it is told (by a line) to run `script`, so that it can be moved first.
fn shell(script: &str) -> Child {
    Command::new("/bin/sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn go(child: &mut Child) {
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
}

fn end(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let status = child.wait().unwrap();
            panic!("it did not end by itself: {status}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_cgroup_from_making_to_removing() {
    let Some(cgroups) = root("life") else { return };
    let cgroup = cgroups.create("task-1-1", &Limits { cpu_milli: 500, ..Limits::default() }).unwrap();
    assert_eq!(cgroups.list().unwrap(), ["task-1-1"]);
    assert_eq!(cgroup.processes().unwrap(), [0; 0]);

    let mut child = shell("(sleep 60 &) ; setsid sleep 60 & wait");
    cgroup.join(child.id() as i32).unwrap();
    go(&mut child);
    let deadline = Instant::now() + PATIENCE;
    while cgroup.processes().unwrap().len() < 3 {
        assert!(Instant::now() < deadline, "{:?}", cgroup.processes());
        std::thread::yield_now();
    }
    let why = cgroup.remove().unwrap_err().to_string();
    assert!(why.contains("still in it"), "{why}");
    // The exception survives.
    let left = cgroup.kill_all(Some(child.id() as i32), PATIENCE).unwrap();
    assert_eq!(left, [0; 0]);
    assert!(cgroup.exists());
    let _ = child.kill();
    child.wait().unwrap();
    assert_eq!(cgroup.kill_all(None, PATIENCE).unwrap(), [0; 0]);
    let deadline = Instant::now() + PATIENCE;
    while let Err(why) = cgroup.remove() {
        assert!(Instant::now() < deadline, "{why}");
    }
    cgroup.remove().unwrap();
    assert_eq!(cgroups.list().unwrap(), Vec::<String>::new());
    cgroups.remove().unwrap();
}

#[test]
fn what_is_used_is_counted() {
    let Some(cgroups) = root("used") else { return };
    let cgroup = cgroups.create("busy", &Limits::default()).unwrap();
    let before = cgroup.used();
    // A file of 40 MB that is read once is no use that anybody would miss; the same in a variable is.
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "head -c 40000000 /dev/zero > {0}; cat {0} > /dev/null; x=$(tr '\\0' x < {0}); echo $(( $(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo $i) )); read end",
        file.path().display()
    );
    let mut child = shell(&script);
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    cgroup.join(child.id() as i32).unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"go\n").unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "300000\n");
    let after = cgroup.used();
    println!("{before:?} {after:?}");
    if let (Some(before), Some(after)) = (before.cpu_ns, after.cpu_ns) {
        assert!((20_000_000..60_000_000_000).contains(&(after - before)), "{before} {after}");
    }
    if let Some(bytes) = after.ram_bytes {
        assert!((40_000_000..120_000_000).contains(&bytes), "{bytes}");
    }
    drop(input);
    end(&mut child);
    cgroup.remove().unwrap();
    cgroups.remove().unwrap();
}

#[test]
fn memory_and_processes_are_held_to_their_limits() {
    let Some(cgroups) = root("limits") else { return };
    let words = Host::detect().words();
    if words.iter().any(|word| word == "memory") {
        let cgroup = cgroups.create("hog", &Limits { ram_mib: 16, ..Limits::default() }).unwrap();
        let mut child = shell("x=$(head -c 100000000 /dev/zero | tr '\\0' x)");
        cgroup.join(child.id() as i32).unwrap();
        go(&mut child);
        let status = end(&mut child);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
        assert!(cgroup.oom_kills() >= 1);
        assert!(cgroup.used().ram_bytes.is_some());
        assert_eq!(cgroup.kill_all(None, PATIENCE).unwrap(), [0; 0]);
        cgroup.remove().unwrap();
    }
    if words.iter().any(|word| word == "pids") {
        let cgroup = cgroups.create("forker", &Limits { pids_max: 3, ..Limits::default() }).unwrap();
        let mut child = shell("for i in 1 2 3 4 5 6; do sleep 60 & done; echo all six");
        cgroup.join(child.id() as i32).unwrap();
        go(&mut child);
        let deadline = Instant::now() + PATIENCE;
        while cgroup.processes().unwrap().len() < 2 {
            assert!(Instant::now() < deadline);
        }
        // The shell gives up at the third, or tries again for ever; either way there are never more.
        let looked = Instant::now();
        while child.try_wait().unwrap().is_none() && looked.elapsed() < Duration::from_secs(1) {
            assert!(cgroup.processes().unwrap().len() <= 3);
        }
        assert!((2..=3).contains(&cgroup.processes().unwrap().len()));
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(cgroup.kill_all(None, PATIENCE).unwrap(), [0; 0]);
        cgroup.remove().unwrap();
    }
    cgroups.remove().unwrap();
}
