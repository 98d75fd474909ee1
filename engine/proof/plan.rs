//! Plans: what a job would get, whom it would displace, and that nothing is counted twice.

use std::collections::BTreeSet;

use proto::TaskId;

use super::make::{self, JobMaker, apply, cluster};
use crate::{Op, Plan, State, View};

/// So many hosts of `cpu` cores each.
fn hosts(count: u64, cpu: u64) -> State {
    let mut state = cluster();
    for n in 0..count {
        let name = format!("h{n}");
        let spec = make::host(&name, cpu * 1000, 1 << 20, None, &[]);
        let identity = make::identity(&name, &name, "boot");
        apply(&mut state, 1, Op::RegisterHost { identity, spec, held: BTreeSet::new() }).reply.unwrap();
    }
    state
}

fn job(name: &str, instances: u32, cpu: u64, tier: &str) -> JobMaker {
    let (name, tier) = (name.to_owned(), tier.to_owned());
    JobMaker { name, instances, cpu_milli: cpu * 1000, ram_mib: 1, disk_mib: 1, tier, ..JobMaker::new("job") }
}

/// Makes a job, and places all that has room.
fn run(state: &mut State, job: &JobMaker) {
    let quota = proto::Resources { cpu_milli: 1 << 30, ram_mib: 1 << 30, disk_mib: 1 << 30, gpus: 0 };
    let _ = apply(state, 1, Op::SetQuota { role: job.role.clone(), quota, increment: false });
    apply(state, 1, Op::CreateJob(job.spec())).reply.unwrap();
    let round = crate::round(&View::new(state), 10_000);
    for assign in round.assigns {
        apply(state, 1, Op::Assign(assign)).reply.unwrap();
    }
}

/// Placed at once, after displacing so many, waiting.
fn planned(state: &State, job: &JobMaker) -> (usize, usize, usize, usize) {
    let mut plan = Plan::new(&View::new(state), &job.spec());
    plan.make(|look| look(state), || true);
    assert!(!plan.cut, "nothing was left out");
    let victims: Vec<TaskId> = plan.displaced.iter().flat_map(|preempt| preempt.victims.clone()).collect();
    let once: BTreeSet<TaskId> = victims.iter().copied().collect();
    assert_eq!(once.len(), victims.len(), "nobody is displaced twice");
    (plan.now, plan.displacing, victims.len(), plan.waiting())
}

#[test]
fn what_has_room_is_placed_however_many() {
    let state = hosts(3, 10_000);
    assert_eq!(planned(&state, &job("web", 20_000, 1, "preemptible")), (20_000, 0, 0, 0));
    assert_eq!(planned(&state, &job("web", 30_001, 1, "preemptible")), (30_000, 0, 0, 1));
}

#[test]
fn others_are_displaced_beside_what_the_plan_placed() {
    let mut state = hosts(1, 4);
    run(&mut state, &job("low", 2, 1, "preemptible"));
    // One in the free half, one in the place of both.
    assert_eq!(planned(&state, &job("web", 2, 2, "preferred")), (1, 1, 2, 0));
    assert_eq!(planned(&state, &job("web", 3, 2, "preferred")), (1, 1, 2, 1));
    assert_eq!(planned(&state, &job("web", 2, 2, "preemptible")), (1, 0, 0, 1), "its equals stay");
}

#[test]
fn a_host_makes_room_for_several() {
    let mut state = hosts(2, 200);
    run(&mut state, &job("low", 400, 1, "preemptible"));
    assert_eq!(planned(&state, &job("web", 300, 1, "preferred")), (0, 300, 300, 0));
    assert_eq!(planned(&state, &job("web", 401, 1, "preferred")), (0, 400, 400, 1));
}

#[test]
fn limits_count_what_the_plan_placed() {
    let mut state = hosts(3, 4);
    run(&mut state, &job("low", 11, 1, "preemptible"));
    let limited = |instances| JobMaker {
        constraints: vec![make::limit("host", 2)],
        ..job("web", instances, 1, "preferred")
    };
    assert_eq!(planned(&state, &limited(6)), (1, 5, 5, 0));
    assert_eq!(planned(&state, &limited(7)), (1, 5, 5, 1));
}

#[test]
fn tasks_that_are_placed_together_displace_nobody() {
    let mut state = hosts(2, 4);
    run(&mut state, &job("low", 6, 1, "preemptible"));
    let together = |instances| JobMaker { all_or_nothing: true, ..job("web", instances, 1, "preferred") };
    assert_eq!(planned(&state, &together(2)), (2, 0, 0, 0));
    assert_eq!(planned(&state, &together(3)), (0, 0, 0, 3));
}

#[test]
fn a_job_that_changes_gives_its_room_back() {
    let mut state = hosts(2, 4);
    run(&mut state, &job("web", 2, 4, "preferred"));
    assert_eq!(planned(&state, &job("web", 4, 2, "preferred")), (4, 0, 0, 0));
    assert_eq!(planned(&state, &job("other", 1, 2, "preferred")), (0, 0, 0, 1));
    assert_eq!(
        planned(
            &state,
            &JobMaker { constraints: vec![make::limit("host", 1)], ..job("web", 2, 1, "preferred") }
        ),
        (2, 0, 0, 0)
    );
}

#[test]
fn a_plan_that_takes_too_long_says_so() {
    let mut state = hosts(1, 4);
    run(&mut state, &job("low", 4, 1, "preemptible"));
    let mut plan = Plan::new(&View::new(&state), &job("web", 2, 1, "preferred").spec());
    plan.make(|look| look(&state), || false);
    assert!(plan.cut && plan.displaced.is_empty() && plan.waiting() == 2);
    assert!(plan.why.is_some_and(|why| why.reason.contains("needs 1.0 cpu")));
}
