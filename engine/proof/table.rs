//! Every cell of the status table: golden for people, laws for the rest, and Aurora's table where we kept it.

use std::fmt::Write as _;

use crate::Status;
use crate::state::status::{Event, Replace, Verdict, step};

fn rows() -> impl Iterator<Item = Option<Status>> {
    Status::ALL.into_iter().map(Some).chain([None])
}

fn shown(verdict: Verdict) -> String {
    match verdict {
        Verdict::Move(to) => to.to_string(),
        Verdict::End { to, fails, replace } => {
            let replaced = match replace {
                Replace::Never => "",
                Replace::Service => ", replaced if a service",
                Replace::Retry => ", replaced if a service or it may fail again",
                Replace::Always => ", replaced",
            };
            format!("{to}{}{replaced}", if fails { ", a failure" } else { "" })
        }
        Verdict::Delete => "disappears".to_owned(),
        Verdict::Ignore => "-".to_owned(),
        Verdict::KillAgain => "owed again".to_owned(),
        Verdict::Illegal => "refused".to_owned(),
    }
}

#[test]
fn the_table_reads_as_the_golden_file() {
    let mut text = String::from(
        "# What each event does to a task in each status. `-`: nothing. `owed again`: the host is sent its wanted\n\
         # set anew, which ends the task. `(none)`: a task that State does not have alive on the host that speaks.\n",
    );
    for from in rows() {
        writeln!(text, "\n{}", from.map_or("(none)", Status::name)).unwrap();
        for event in Event::ALL {
            writeln!(text, "  {:<13} {}", format!("{event:?}"), shown(step(from, event))).unwrap();
        }
    }
    super::golden::compare("status_table.txt", &text);
}

#[test]
fn every_cell_keeps_the_laws_of_the_table() {
    for from in rows() {
        for event in Event::ALL {
            let verdict = step(from, event);
            let cell = format!("{from:?} x {event:?} = {verdict:?}");
            let alive = from.is_some_and(|from| !from.is_terminal());
            match verdict {
                Verdict::Move(to) => {
                    assert!(alive && !to.is_terminal() && from != Some(to), "{cell}");
                    let placed = event == Event::Place;
                    let on_host = from.is_some_and(Status::is_on_host);
                    assert_eq!(
                        to.is_on_host(),
                        on_host || placed,
                        "a task gets a host by a placement only: {cell}"
                    );
                    let released = matches!(event, Event::Born | Event::Expired | Event::Restart);
                    assert!(to != Status::Pending || released, "{cell}");
                    assert!((to == Status::Partitioned) == (event == Event::HostSilent), "{cell}");
                }
                Verdict::End { to, fails, .. } => {
                    assert!(to.is_terminal() && from.is_some_and(Status::is_on_host), "{cell}");
                    assert!(!fails || to == Status::Failed, "{cell}");
                }
                Verdict::Delete => {
                    assert!(event == Event::Kill && from.is_some_and(|from| !from.is_on_host()), "{cell}")
                }
                Verdict::KillAgain => {
                    assert!(
                        matches!(event, Event::SaysAssigned | Event::SaysStarting | Event::SaysRunning),
                        "{cell}"
                    );
                }
                Verdict::Ignore | Verdict::Illegal => {}
            }
        }
    }
}

#[test]
fn nothing_hangs_for_ever() {
    for from in Status::ALL.into_iter().filter(|from| from.is_on_host()) {
        let gone = step(Some(from), Event::SaysLost);
        assert!(matches!(gone, Verdict::End { .. }), "{from} ends when the host does not have it: {gone:?}");
        let silent = step(Some(from), Event::HostSilent);
        let partitioned = from == Status::Partitioned || silent == Verdict::Move(Status::Partitioned);
        assert!(partitioned || matches!(silent, Verdict::End { .. }), "{from} on a silent host: {silent:?}");
        if from != Status::Running {
            let expired = step(Some(from), Event::Expired);
            assert!(matches!(expired, Verdict::End { to: Status::Lost, .. }), "{from} expires: {expired:?}");
        }
        let killed = step(Some(from), Event::Kill);
        let never = matches!(killed, Verdict::End { replace: Replace::Never, .. });
        assert!(
            killed == Verdict::Move(Status::Killing) || from == Status::Killing || never,
            "{from}: {killed:?}"
        );
    }
}

#[test]
fn killed_tasks_are_never_replaced() {
    for event in Event::ALL {
        match step(Some(Status::Killing), event) {
            Verdict::End { replace, fails, .. } => assert!(replace == Replace::Never && !fails, "{event:?}"),
            Verdict::Move(to) => panic!("a task being killed becomes {to} by {event:?}"),
            Verdict::Delete | Verdict::Ignore | Verdict::KillAgain | Verdict::Illegal => {}
        }
    }
}

#[test]
fn the_corrections_to_aurora_hold() {
    let end = |to, replace| Verdict::End { to, fails: false, replace };
    for (from, event, want) in [
        // A service that finishes while partitioned is replaced.
        (Status::Partitioned, Event::SaysFinished, end(Status::Finished, Replace::Service)),
        // A batch task that finishes with success while it is moved away is not run again.
        (Status::Draining, Event::SaysFinished, end(Status::Finished, Replace::Service)),
        (Status::Preempting, Event::SaysFinished, end(Status::Finished, Replace::Service)),
        // STARTING times out; ASSIGNED on a silent host waits no longer than others.
        (Status::Starting, Event::Expired, end(Status::Lost, Replace::Always)),
        (Status::Assigned, Event::HostSilent, Verdict::Move(Status::Partitioned)),
        (Status::Partitioned, Event::SaysKilled, end(Status::Killed, Replace::Always)),
    ] {
        assert_eq!(step(Some(from), event), want, "{from} x {event:?}");
    }
}
