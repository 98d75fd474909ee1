//! The memory of requests, and State's clock.

use std::collections::BTreeSet;

use super::make::{BEGIN, JobMaker, apply, cluster, host, identity, session};
use crate::limits::{CLOCK_JUMP_MAX_MS, REQUEST_AHEAD_MS, REQUEST_WINDOW_MS, SESSION_GRACE_MS};
use crate::state::command::{Report, Request, StartSession};
use crate::state::laws;
use crate::{Command, Op, RefusalKind, Reply, State, Status, Timestamp, View, round};

fn request(id: &str, created: Timestamp, body: u8) -> Request {
    Request { identity: "alice".into(), id: id.into(), created, body_hash: vec![body] }
}

fn create(state: &mut State, at: Timestamp, name: &str, request: Request) -> Reply {
    let reply = state.apply(Command::new(at, Op::CreateJob(JobMaker::new(name).spec())).by(request)).reply;
    laws::check(state).unwrap();
    reply
}

fn kind(reply: Reply) -> RefusalKind {
    reply.expect_err("refused").kind
}

#[test]
fn a_repeated_request_gets_the_first_answer_and_does_nothing() {
    let mut state = cluster();
    let first = create(&mut state, BEGIN, "a", request("r1", BEGIN, 1)).unwrap();
    let key = JobMaker::new("a").spec().config.job.clone();
    let kill = Op::KillTasks { job: key, instances: vec![], message: String::new() };
    assert_eq!(apply(&mut state, 1, kill).reply.unwrap().tasks, 1);
    assert!(!state.job_by_id(proto::JobId(first.id)).unwrap().is_active());
    // The retry arrives after the job was killed: it must not bring it back.
    assert_eq!(create(&mut state, BEGIN.plus_ms(2), "a", request("r1", BEGIN, 1)), Ok(first));
    assert_eq!(state.tasks().len(), 0);
}

#[test]
fn a_refusal_is_remembered_too() {
    let mut state = cluster();
    create(&mut state, BEGIN, "a", request("r1", BEGIN, 1)).unwrap();
    let other = |state: &mut State, id| {
        let spec = JobMaker { instances: 5, ..JobMaker::new("a") }.spec();
        state.apply(Command::new(BEGIN, Op::CreateJob(spec)).by(request(id, BEGIN, 2))).reply
    };
    let refused = other(&mut state, "r2");
    assert_eq!(kind(refused.clone()), RefusalKind::AlreadyExists);
    let key = JobMaker::new("a").spec().config.job.clone();
    apply(&mut state, 1, Op::KillTasks { job: key, instances: vec![], message: String::new() })
        .reply
        .unwrap();
    assert_eq!(other(&mut state, "r2"), refused, "a late copy of a refused request is not carried out");
}

#[test]
fn requests_are_refused_outside_their_window_or_with_another_body() {
    let mut state = cluster();
    create(&mut state, BEGIN, "a", request("r1", BEGIN, 1)).unwrap();
    assert_eq!(kind(create(&mut state, BEGIN, "b", request("r1", BEGIN, 2))), RefusalKind::RequestReused);
    let ahead = BEGIN.plus_ms(REQUEST_AHEAD_MS + 1);
    assert_eq!(kind(create(&mut state, BEGIN, "b", request("r2", ahead, 1))), RefusalKind::RequestExpired);
    let old = Timestamp(BEGIN.0 - REQUEST_WINDOW_MS - 1);
    assert_eq!(kind(create(&mut state, BEGIN, "b", request("r3", old, 1))), RefusalKind::RequestExpired);
    assert_eq!(state.requests_remembered(), 1, "what was not looked into is not remembered");
}

#[test]
fn a_request_is_remembered_for_its_whole_window_and_no_longer() {
    let mut state = cluster();
    let created = BEGIN.plus_ms(REQUEST_AHEAD_MS);
    create(&mut state, BEGIN, "a", request("r1", created, 1)).unwrap();
    let until = created.plus_ms(REQUEST_WINDOW_MS);
    assert_eq!(state.next_deadline(), Some(until), "kept from its creation, which is later than its arrival");
    for step in 1..=13 {
        apply(&mut state, step * 300_000, Op::Tick).reply.unwrap();
        laws::check(&state).unwrap();
        let remembered = state.clock() < until;
        assert_eq!(state.requests_remembered(), usize::from(remembered), "at {}", state.clock());
    }
    let late = create(&mut state, until.plus_ms(1), "a", request("r1", created, 1));
    assert_eq!(kind(late), RefusalKind::RequestExpired, "forgotten, and too old to be believed");
}

#[test]
fn the_clock_never_goes_back_and_jumps_only_with_a_session() {
    let mut state = cluster();
    let tick = |state: &mut State, at| state.apply(Command::new(at, Op::Tick)).reply;
    tick(&mut state, BEGIN.plus_ms(1000)).unwrap();
    tick(&mut state, BEGIN).unwrap();
    assert_eq!(state.clock(), BEGIN.plus_ms(1000));
    let far = BEGIN.plus_ms(1000 + CLOCK_JUMP_MAX_MS + 1);
    assert_eq!(kind(tick(&mut state, far)), RefusalKind::Invalid);
    assert_eq!(state.clock(), BEGIN.plus_ms(1000));

    let start = |term, walls: &[u64]| {
        let wall_clocks = walls.iter().map(|&ms| far.plus_ms(ms)).collect();
        Command::new(
            far,
            Op::StartSession(StartSession { term, leader: 1, wall_clocks, ..Default::default() }),
        )
    };
    assert_eq!(kind(state.apply(start(2, &[])).reply), RefusalKind::Invalid, "no readings");
    assert_eq!(
        kind(state.apply(start(2, &[0, 100_000, 100_000])).reply),
        RefusalKind::Invalid,
        "one lonely clock"
    );
    assert_eq!(state.cluster().term, 1, "a refused session changes nothing");
    state.apply(start(2, &[0, 10_000, 100_000])).reply.unwrap();
    assert_eq!((state.clock(), state.cluster().term), (far, 2));
}

#[test]
fn sessions_are_ordered_and_the_first_names_the_cluster() {
    let mut state = State::default();
    assert_eq!(kind(apply(&mut state, 0, Op::Tick).reply), RefusalKind::Stale);
    state.apply(session(BEGIN, 3)).reply.unwrap();
    assert_eq!((&*state.cluster().name, state.cluster().epoch), ("west", 7));
    assert_eq!(kind(state.apply(session(BEGIN, 2)).reply), RefusalKind::Stale);
    let again = StartSession { term: 4, leader: 2, cluster: "east".into(), epoch: 99, ..Default::default() };
    state.apply(Command::new(BEGIN, Op::StartSession(again))).reply.unwrap();
    assert_eq!((&*state.cluster().name, state.cluster().epoch), ("west", 7), "names are given once");
}

#[test]
fn after_a_gap_hosts_report_before_anything_times_out() {
    let mut state = cluster();
    let register = Op::RegisterHost {
        identity: identity("m", "j", "b"),
        spec: host("h1", 8000, 8192, None, &[]),
        held: BTreeSet::new(),
    };
    let id = proto::HostId(apply(&mut state, 1, register).reply.unwrap().id);
    apply(&mut state, 2, Op::CreateJob(JobMaker { instances: 2, ..JobMaker::new("a") }.spec()))
        .reply
        .unwrap();
    for assign in round(&View::new(&state), 5).assigns {
        apply(&mut state, 3, Op::Assign(assign)).reply.unwrap();
    }
    let tasks: Vec<_> = state.host(id).unwrap().tasks().collect();

    let back = 600_000;
    state.apply(session(BEGIN.plus_ms(back), 2)).reply.unwrap();
    apply(&mut state, back, Op::Tick).reply.unwrap();
    laws::check(&state).unwrap();
    assert_eq!(state.tasks().filter(|task| task.status == Status::Assigned).count(), 2, "nothing was lost");
    assert_eq!(state.next_deadline(), Some(BEGIN.plus_ms(back + SESSION_GRACE_MS)));
    let report = Report { task: tasks[0], status: Status::Running, message: String::new(), sequence: 1 };
    let reports = Op::ApplyReports { host: id, journal: "j".into(), reports: vec![report] };
    apply(&mut state, back + 1_000, reports).reply.unwrap();
    apply(&mut state, back + SESSION_GRACE_MS, Op::Tick).reply.unwrap();
    laws::check(&state).unwrap();
    assert_eq!(state.task(tasks[0]).map(|task| task.status), Some(Status::Running));
    assert_eq!(state.task(tasks[1]), None, "what was not reported is lost");
}
