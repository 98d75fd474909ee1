//! Scenarios: a task, then events with their time in seconds, then the exact trace.
//!
//! A start is answered at once with `Started`, unless the process is named in a `broken` line.

use expect_test::{Expect, expect};
use proto::wire::{Ordering, Process};

use super::*;

fn task(script: &str) -> TaskSpec {
    let mut task = TaskSpec { max_failures: 1, finalization_wait_seconds: 30, ..TaskSpec::default() };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = |text: &str| text.split_once('=').unwrap().1.parse::<u32>().unwrap();
        match word {
            "process" => {
                let mut words = rest.split(' ');
                let mut process = Process {
                    name: words.next().unwrap().into(),
                    max_failures: 1,
                    min_duration_seconds: 5,
                    ..Process::default()
                };
                for word in words {
                    match word {
                        "daemon" => process.daemon = true,
                        "ephemeral" => process.ephemeral = true,
                        "final" => process.r#final = true,
                        _ if word.starts_with("max_failures=") => process.max_failures = number(word),
                        _ if word.starts_with("min_duration=") => process.min_duration_seconds = number(word),
                        _ => panic!("{word}"),
                    }
                }
                task.processes.push(process);
            }
            "order" => {
                let processes = rest.split(' ').map(str::to_owned).collect();
                task.orderings.push(Ordering { processes });
            }
            _ if word.starts_with("max_failures=") => task.max_failures = number(word),
            _ if word.starts_with("max_concurrency=") => task.max_concurrency = number(word),
            _ if word.starts_with("wait=") => task.finalization_wait_seconds = number(word),
            _ => panic!("{line}"),
        }
    }
    task
}

/// Runs `events` on `task`; `left` and `gone` are ticks with and without something left.
fn check(spec: &str, events: &str, expected: Expect) {
    let spec = task(spec);
    let mut graph = Graph::new(&spec).unwrap();
    let index = |name: &str| spec.processes.iter().position(|p| p.name == name).unwrap();
    let mut broken = Vec::new();
    let mut trace = String::new();
    for line in events.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        if words[0] == "broken" {
            broken.push(index(words[1]));
            continue;
        }
        let now_ms = (words[0].parse::<f64>().unwrap() * 1000.0) as u64;
        let event = match words[1..] {
            ["tick"] | ["left"] => Event::Tick { anything_left: true },
            ["gone"] => Event::Tick { anything_left: false },
            ["end", name, code] => {
                Event::Ended { process: index(name), exit: Exit::Code(code.parse().unwrap()) }
            }
            ["signal", name, n] => {
                Event::Ended { process: index(name), exit: Exit::Signal(n.parse().unwrap()) }
            }
            ["kill"] => Event::Kill { at_once: false, reason: "user wants it".into() },
            ["kill", "now"] => Event::Kill { at_once: true, reason: String::new() },
            _ => panic!("{line}"),
        };
        let mut done = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in graph.step(now_ms, event) {
                done.push(match action {
                    Do::Say(status, message) => {
                        format!("{} {message}", status.as_str_name()).trim_end().into()
                    }
                    Do::Start { process, run } => {
                        events.push(if broken.contains(&process) {
                            Event::Ended { process, exit: Exit::NotStarted("no disk".into()) }
                        } else {
                            Event::Started { process }
                        });
                        format!("start {}/{run}", spec.processes[process].name)
                    }
                    Do::Terminate => "terminate".into(),
                    Do::KillAll => "kill all".into(),
                });
            }
        }
        let wake = match graph.wake_at_ms() {
            Some(at) => format!("  [until {}]", at as f64 / 1000.0),
            None => String::new(),
        };
        trace.push_str(&format!("{line}: {}{wake}\n", done.join("; ")));
    }
    expected.assert_eq(&trace);
}

#[test]
fn in_order_and_in_parallel() {
    check(
        "process a\nprocess b\nprocess c\nprocess other\norder a b c",
        "0 tick\n1 end a 0\n2 end other 0\n3 end b 0\n4 end c 0\n4 gone",
        expect![[r#"
            0 tick: start a/0; start other/0; RUNNING
            1 end a 0: start b/0
            2 end other 0: 
            3 end b 0: start c/0
            4 end c 0: terminate  [until 34]
            4 gone: FINISHED
        "#]],
    );
}

#[test]
fn a_failed_process_is_run_again_after_its_wait_until_it_failed_too_often() {
    check(
        "process a max_failures=3\nprocess b",
        "0 tick\n1 end a 7\n2 tick\n6 tick\n7 signal a 11\n12 tick\n13 end a 9\n14 end b 0\n14 gone",
        expect![[r#"
            0 tick: start a/0; start b/0; RUNNING
            1 end a 7:   [until 6]
            2 tick:   [until 6]
            6 tick: start a/1
            7 signal a 11:   [until 12]
            12 tick: start a/2
            13 end a 9: terminate  [until 43]
            14 end b 0:   [until 43]
            14 gone: FAILED process "a" failed 3 times, the last run exited with code 9
        "#]],
    );
}

#[test]
fn without_a_limit_of_failures_it_is_run_for_ever_and_never_in_a_tight_loop() {
    check(
        "process a max_failures=0 min_duration=0",
        "0 tick\n1 end a 1\n1.1 tick\n1.1 end a 1\n1.2 tick",
        expect![[r#"
            0 tick: start a/0; RUNNING
            1 end a 1:   [until 1.1]
            1.1 tick: start a/1
            1.1 end a 1:   [until 1.2]
            1.2 tick: start a/2
        "#]],
    );
}

#[test]
fn a_daemon_is_run_again_after_success_and_a_task_ends_without_its_ephemerals() {
    check(
        "process log daemon ephemeral\nprocess main",
        "0 tick\n1 end log 0\n6 tick\n7 end main 0\n7 left\n8 signal log 15\n8 gone\n8 gone",
        expect![[r#"
            0 tick: start log/0; start main/0; RUNNING
            1 end log 0:   [until 6]
            6 tick: start log/1
            7 end main 0: terminate  [until 37]
            7 left:   [until 37]
            8 signal log 15:   [until 37]
            8 gone: FINISHED
            8 gone: 
        "#]],
    );
    check(
        "process e ephemeral\nprocess main",
        "0 tick\n1 end e 1\n2 end main 0\n2 gone",
        expect![[r#"
        0 tick: start e/0; start main/0; RUNNING
        1 end e 1: 
        2 end main 0: terminate  [until 32]
        2 gone: FINISHED
    "#]],
    );
}

#[test]
fn several_failures_may_be_allowed_and_what_comes_after_them_is_stuck() {
    check(
        "process a\nprocess b\nprocess c\nmax_failures=2",
        "0 tick\n1 end a 1\n2 end b 0\n3 end c 0\n3 gone",
        expect![[r#"
            0 tick: start a/0; start b/0; start c/0; RUNNING
            1 end a 1: 
            2 end b 0: 
            3 end c 0: terminate  [until 33]
            3 gone: FINISHED
        "#]],
    );
    check(
        "process a\nprocess b\norder a b\nmax_failures=0",
        "0 tick\n1 end a 2\n1 gone",
        expect![[r#"
        0 tick: start a/0; RUNNING
        1 end a 2: terminate  [until 31]
        1 gone: FAILED process "b" can never start: process "a" exited with code 2
    "#]],
    );
}

#[test]
fn only_so_many_at_once() {
    check(
        "process a\nprocess b\nprocess c\nmax_concurrency=2",
        "0 tick\n1 end b 0\n2 end a 0\n3 end c 0\n3 gone",
        expect![[r#"
            0 tick: start a/0; start b/0; RUNNING
            1 end b 0: start c/0
            2 end a 0: 
            3 end c 0: terminate  [until 33]
            3 gone: FINISHED
        "#]],
    );
}

#[test]
fn finals_run_after_success_failure_and_kill() {
    let spec = "process main\nprocess tidy final\nprocess tell final\norder tidy tell";
    check(
        spec,
        "0 tick\n1 end main 0\n1 gone\n2 end tidy 0\n3 end tell 0\n3 gone",
        expect![[r#"
        0 tick: start main/0; RUNNING
        1 end main 0: terminate  [until 31]
        1 gone: start tidy/0  [until 31]
        2 end tidy 0: start tell/0  [until 31]
        3 end tell 0: kill all  [until 3.05]
        3 gone: FINISHED
    "#]],
    );
    check(
        spec,
        "0 tick\n1 end main 1\n1 gone\n2 end tidy 0\n3 end tell 0\n3 gone",
        expect![[r#"
        0 tick: start main/0; RUNNING
        1 end main 1: terminate  [until 31]
        1 gone: start tidy/0  [until 31]
        2 end tidy 0: start tell/0  [until 31]
        3 end tell 0: kill all  [until 3.05]
        3 gone: FAILED process "main" exited with code 1
    "#]],
    );
    check(
        spec,
        "0 tick\n1 kill\n1 left\n2 signal main 15\n2 gone\n3 end tidy 0\n3 end tell 0\n3 gone",
        expect![[r#"
            0 tick: start main/0; RUNNING
            1 kill: KILLING user wants it; terminate  [until 31]
            1 left:   [until 31]
            2 signal main 15:   [until 31]
            2 gone: start tidy/0  [until 31]
            3 end tidy 0: start tell/0  [until 31]
            3 end tell 0: kill all  [until 3.05]
            3 gone: KILLED user wants it
        "#]],
    );
    // A failed final fails a task that had finished, and stops the finals after it.
    check(
        spec,
        "0 tick\n1 end main 0\n1 gone\n2 end tidy 5\n2 gone",
        expect![[r#"
        0 tick: start main/0; RUNNING
        1 end main 0: terminate  [until 31]
        1 gone: start tidy/0  [until 31]
        2 end tidy 5: kill all  [until 2.05]
        2 gone: FAILED process "tell" can never start: process "tidy" exited with code 5
    "#]],
    );
}

#[test]
fn a_kill_escalates_when_the_wait_is_over() {
    check(
        "process deaf\nprocess tidy final\nwait=3",
        "0 tick\n1 kill\n2 left\n2 kill\n4 left\n4.02 left\n4.05 left\n4.06 signal deaf 9\n4.06 gone",
        expect![[r#"
            0 tick: start deaf/0; RUNNING
            1 kill: KILLING user wants it; terminate  [until 4]
            2 left:   [until 4]
            2 kill:   [until 4]
            4 left: kill all  [until 4.05]
            4.02 left:   [until 4.05]
            4.05 left: kill all  [until 4.1]
            4.06 signal deaf 9:   [until 4.1]
            4.06 gone: KILLED user wants it
        "#]],
    );
    // Finals get what is left of the wait.
    check(
        "process a\nprocess slow final\nwait=3",
        "0 tick\n1 kill\n2 signal a 15\n2 gone\n4 left\n4 signal slow 9\n4 gone",
        expect![[r#"
            0 tick: start a/0; RUNNING
            1 kill: KILLING user wants it; terminate  [until 4]
            2 signal a 15:   [until 4]
            2 gone: start slow/0  [until 4]
            4 left: kill all  [until 4.05]
            4 signal slow 9:   [until 4.05]
            4 gone: KILLED user wants it
        "#]],
    );
}

#[test]
fn a_kill_at_once_skips_the_wait() {
    check(
        "process a\nprocess tidy final",
        "0 tick\n1 kill now\n1 signal a 9\n1 gone",
        expect![[r#"
        0 tick: start a/0; RUNNING
        1 kill now: KILLING killed; kill all  [until 1.05]
        1 signal a 9:   [until 1.05]
        1 gone: KILLED killed
    "#]],
    );
    check(
        "process a\nprocess tidy final",
        "0 tick\n1 kill\n1.5 kill now\n1.6 signal a 9\n1.6 gone",
        expect![[r#"
            0 tick: start a/0; RUNNING
            1 kill: KILLING user wants it; terminate  [until 31]
            1.5 kill now: kill all  [until 1.55]
            1.6 signal a 9: kill all  [until 1.65]
            1.6 gone: KILLED user wants it
        "#]],
    );
}

#[test]
fn a_process_that_cannot_be_started_counts_as_failed() {
    check(
        "process a\nprocess b",
        "broken b\n0 tick\n1 signal a 15\n1 gone",
        expect![[r#"
        0 tick: start a/0; start b/0; terminate  [until 30]
        1 signal a 15:   [until 30]
        1 gone: FAILED process "b" could not be started: no disk
    "#]],
    );
}

#[test]
fn events_that_come_late_or_twice_change_nothing() {
    check(
        "process a",
        "0 tick\n1 end a 0\n1 end a 1\n1 gone\n1 gone\n2 kill\n2 end a 1",
        expect![[r#"
        0 tick: start a/0; RUNNING
        1 end a 0: terminate  [until 31]
        1 end a 1:   [until 31]
        1 gone: FINISHED
        1 gone: 
        2 kill: 
        2 end a 1: 
    "#]],
    );
}

#[test]
fn tasks_that_make_no_sense_are_refused() {
    for (spec, want) in [
        ("", "`processes` has 0 entries; a task has 1 to 1000"),
        ("process a\nprocess a", "`process \"a\"` is there twice"),
        ("process ../a", "`process \"../a\"` begins with a dot"),
        ("process a\norder a b", "`orderings` names \"b\", which is no process"),
        ("process a\nprocess b\norder a b a", "`orderings` go in a circle through \"a\""),
        ("process a\norder a a", "`orderings` go in a circle through \"a\""),
        (
            "process a daemon\nprocess b\norder a b",
            "`orderings` has \"a\" before \"b\", where the first is a daemon, which is never done",
        ),
        (
            "process a ephemeral\nprocess b\norder a b",
            "`orderings` has \"a\" before \"b\", where only the first is ephemeral, for which the task does not wait",
        ),
        (
            "process a\nprocess b final\norder a b",
            "`orderings` has \"a\" before \"b\", where only one of the two is final; finals run after all others by themselves",
        ),
    ] {
        assert_eq!(Graph::new(&task(spec)).unwrap_err().to_string(), want, "{spec}");
    }
}
