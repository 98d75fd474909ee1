//! What has ended is remembered, bounded, and forgotten in time; what is lost is replaced no faster than may be.

use std::collections::BTreeSet;

use super::make::{BEGIN, JobMaker, apply, cluster, host, identity};
use crate::limits::{ENDED_PER_JOB_MAX, JOB_HISTORY_MS, SILENT_HOST_MS};
use crate::state::command::Report;
use crate::state::laws;
use crate::{Op, RowValue, State, Status, View, round};

const HOUR_MS: u64 = 3_600_000;

/// Lets time pass to `until`, an hour at a time, with a tick after each.
fn wait(state: &mut State, until_ms: u64) {
    while state.clock() < BEGIN.plus_ms(until_ms) {
        let next = state.clock().plus_ms(HOUR_MS).min(BEGIN.plus_ms(until_ms));
        apply(state, next.since_ms(BEGIN), Op::Tick).reply.unwrap();
        laws::check(state).unwrap();
    }
}

#[test]
fn ended_tasks_jobs_and_hosts_are_kept_for_a_while() {
    let mut state = cluster();
    let register = Op::RegisterHost {
        identity: identity("m", "j", "b"),
        spec: host("h1", 200_000, 65_536, None, &[]),
        held: BTreeSet::new(),
    };
    let id = proto::HostId(apply(&mut state, 0, register).reply.unwrap().id);
    let job = JobMaker { instances: 150, ..JobMaker::new("batch") }.spec();
    apply(&mut state, 0, Op::CreateJob(job.clone())).reply.unwrap();
    for assign in round(&View::new(&state), 1_000).assigns {
        assert_eq!(apply(&mut state, 0, Op::Assign(assign)).reply.unwrap().tasks, 150);
    }
    let reports = state.host(id).unwrap().tasks().enumerate().map(|(n, task)| Report {
        task,
        status: Status::Finished,
        message: "done".repeat(1_000),
        sequence: n as u64 + 1,
    });
    let reports = reports.collect();
    let applied = apply(&mut state, 1, Op::ApplyReports { host: id, journal: "j".into(), reports });
    let history: Vec<_> =
        applied.changed.iter().filter(|c| matches!(c.row, Some(RowValue::History(_)))).collect();
    assert_eq!(history.len(), ENDED_PER_JOB_MAX, "each that is remembered has its row of history");
    let ended = |state: &State| state.job(&job.config.job).map(|job| job.ended().count());
    assert_eq!(ended(&state), Some(ENDED_PER_JOB_MAX), "State remembers the newest");
    let first = state.job(&job.config.job).unwrap().ended().next().unwrap().clone();
    assert!(first.message.as_deref().is_some_and(|m| m.len() <= crate::limits::MESSAGE_BYTES_MAX));
    assert_eq!(first.host.as_deref(), Some("h1"));

    let since = state.host(id).unwrap().record.since;
    apply(&mut state, 2, Op::Silence { host: id, since }).reply.unwrap();
    wait(&mut state, SILENT_HOST_MS);
    assert!(state.host(id).is_some());
    wait(&mut state, SILENT_HOST_MS + 2);
    assert!(state.host(id).is_none(), "a host that stays silent is forgotten");
    wait(&mut state, JOB_HISTORY_MS);
    assert!(ended(&state).is_some());
    wait(&mut state, JOB_HISTORY_MS + 1);
    assert_eq!(ended(&state), None, "an ended job is forgotten");
    assert_eq!(state.save().len(), 1, "only the cluster's own row is left");
}

#[test]
fn no_more_than_fifty_hosts_are_replaced_in_a_minute() {
    let mut state = cluster();
    for number in 0..300 {
        let register = Op::RegisterHost {
            identity: identity(&format!("m{number}"), &format!("j{number}"), "b"),
            spec: host(&format!("h{number}"), 2_000, 8_192, None, &[]),
            held: BTreeSet::new(),
        };
        apply(&mut state, 0, register).reply.unwrap();
    }
    let job = JobMaker { instances: 600, service: true, ..JobMaker::new("web") }.spec();
    apply(&mut state, 0, Op::CreateJob(job)).reply.unwrap();
    for assign in round(&View::new(&state), 1_000).assigns {
        apply(&mut state, 0, Op::Assign(assign)).reply.unwrap();
    }
    // Sixty of 300 may fall silent in a minute: no brake.
    let lost: Vec<_> = state.hosts().take(60).map(|host| (host.id(), host.record.since)).collect();
    for (host, since) in lost {
        assert_eq!(apply(&mut state, 1, Op::Silence { host, since }).reply.unwrap().tasks, 2);
    }
    assert_eq!(state.braked(), None);
    let replaced = |state: &State| state.tasks().filter(|task| task.ancestor.is_some()).count();
    apply(&mut state, 2, Op::Tick).reply.unwrap();
    assert_eq!(replaced(&state), 100, "all tasks of fifty hosts");
    assert_eq!(state.replacements_waiting(), 20);
    assert_eq!(state.next_deadline(), Some(BEGIN.plus_ms(2 + 60_000)));
    apply(&mut state, 60_001, Op::Tick).reply.unwrap();
    assert_eq!(replaced(&state), 100, "not before the minute is over");
    apply(&mut state, 60_002, Op::Tick).reply.unwrap();
    assert_eq!((replaced(&state), state.replacements_waiting()), (120, 0));
    laws::check(&state).unwrap();
}
