//! What those are told that wait to be replaced, when more hosts are silent than are replaced in a minute.

use super::make::{BEGIN, JobMaker, apply, cluster, host, identity};
use crate::{Op, Status, View, round};

#[test]
fn who_is_over_the_limit_is_told_when_its_turn_comes() {
    let mut state = cluster();
    for n in 0..52 {
        let name = format!("h{n}");
        let (identity, spec) = (identity(&name, &name, "b"), host(&name, 1000, 1024, None, &[]));
        apply(&mut state, 0, Op::RegisterHost { identity, spec, held: Default::default() }).reply.unwrap();
    }
    let spec = JobMaker { instances: 52, service: true, ..JobMaker::new("web") }.spec();
    apply(&mut state, 0, Op::CreateJob(spec.clone())).reply.unwrap();
    for assign in round(&View::new(&state), 100).assigns {
        apply(&mut state, 0, Op::Assign(assign)).reply.unwrap();
    }
    let hosts: Vec<_> = state.hosts().map(|host| (host.id(), host.record.since)).collect();
    for (n, (host, since)) in (1..).zip(hosts) {
        apply(&mut state, 100 * n, Op::Silence { host, since }).reply.unwrap();
        // Else the brake would be on.
        apply(&mut state, 100 * n, Op::Freeze { frozen: false }).reply.unwrap();
    }
    apply(&mut state, 6_000, Op::Tick).reply.unwrap();
    let job = state.job(&spec.config.job).unwrap();
    let left: Vec<_> = state.tasks_of(job).filter(|task| task.status == Status::Partitioned).collect();
    assert_eq!(left.len(), 2, "50 of 52 were replaced");
    let waits = state.waits(&left, BEGIN.plus_ms(36_000)).unwrap();
    assert_eq!(waits.until, Some(BEGIN.plus_ms(66_000)));
    assert_eq!(
        waits.words,
        "hosts h50, h51 are silent, for up to 31 s; the tasks are due to be replaced, unless their hosts return \
         first; but tasks of at most 50 hosts are replaced in 1 min: its turn comes in 30 s or later"
    );
}
