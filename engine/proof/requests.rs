//! The memory of requests, and State's clock.

use std::collections::BTreeSet;

use super::make::{BEGIN, JobMaker, apply, cluster, host, identity, session};
use crate::limits::{
    CLOCK_JUMP_MAX_MS, CLOCK_SET_LATE_MS, CLOCK_SET_MAX_MS, REQUEST_AHEAD_MS, REQUEST_WINDOW_MS,
    SESSION_GRACE_MS,
};
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
    let again = StartSession { term: 4, leader: 2, cluster: "east".into(), epoch: 6, ..Default::default() };
    state.apply(Command::new(BEGIN, Op::StartSession(again))).reply.unwrap();
    assert_eq!((&*state.cluster().name, state.cluster().epoch), ("west", 7), "names are given once");
    assert_eq!(state.cluster().held, None);
    let restored =
        StartSession { term: 5, leader: 9, cluster: "west".into(), epoch: 8, ..Default::default() };
    state.apply(Command::new(BEGIN, Op::StartSession(restored))).reply.unwrap();
    assert_eq!(
        (state.cluster().epoch, state.cluster().held),
        (8, Some(BEGIN)),
        "a later epoch: a restored State"
    );
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

#[test]
fn absurd_commands_are_refused_and_change_nothing() {
    let mut state = cluster();
    let register = Op::RegisterHost {
        identity: identity("m", "j", "b"),
        spec: host("h1", 8000, 8192, None, &[]),
        held: BTreeSet::new(),
    };
    let id = proto::HostId(apply(&mut state, 1, register).reply.unwrap().id);
    let quota = proto::Resources { cpu_milli: 4_000, ram_mib: 4_096, disk_mib: 4_096, gpus: 0 };
    let set = |quota, increment| Op::SetQuota { role: "www".into(), quota, increment };
    apply(&mut state, 1, set(quota, false)).reply.unwrap();
    let job = JobMaker { service: true, tier: "preferred".into(), ..JobMaker::new("a") };
    let (spec, key) = (job.spec(), job.spec().config.job.clone());
    apply(&mut state, 1, Op::CreateJob(spec.clone())).reply.unwrap();
    let task = state.tasks().next().unwrap().id;
    let update = JobMaker { instances: 2, ..job.clone() }.spec();
    apply(&mut state, 1, Op::StartUpdate(update)).reply.unwrap();
    let with = |instances| crate::JobSpec { config: spec.config.clone(), instances };
    let other = JobMaker { name: "b".into(), ..job.clone() }.spec();
    let most = proto::Resources { cpu_milli: u64::MAX, ..quota };
    let gang = JobMaker { all_or_nothing: true, tier: "preemptible".into(), ..JobMaker::new("g") }.spec();
    let (message, hosts) = (String::new(), |count| vec!["h1".to_owned(); count]);
    let place = |tasks: usize| crate::Assign {
        host: id,
        placements: vec![crate::Placement { task, ports: vec![1; 3] }; tasks],
    };
    use RefusalKind::{Invalid, Limit, NotFound, Quota, Stale};
    let cases = [
        (set(most, false), Invalid, "more than any cluster has"),
        (set(most, true), Invalid, "more than any cluster has"),
        (set(proto::Resources::default(), false), Quota, "kill production tasks first"),
        (Op::SetQuota { role: "a/b".into(), quota, increment: false }, Invalid, "role"),
        (Op::CreateJob(crate::JobSpec { instances: 0, ..other.clone() }), Invalid, "asks for 0 instances"),
        (
            Op::CreateJob(crate::JobSpec { instances: 1_000_000_000, ..other.clone() }),
            Invalid,
            "asks for 1000000000 instances",
        ),
        (Op::CreateJob(crate::JobSpec { instances: 100_000, ..other }), Quota, "it is short of"),
        (Op::CreateJob(crate::JobSpec { instances: 1_001, ..gang }), Limit, "at most 1000"),
        (
            Op::AddInstances { job: key.clone(), like: 0, count: 1_000_000_000 },
            Invalid,
            "1000000000 instances cannot be added at once",
        ),
        (Op::AddInstances { job: key.clone(), like: 0, count: 0 }, Invalid, "0 instances"),
        (Op::AddInstances { job: key.clone(), like: u32::MAX, count: 1 }, NotFound, "no live instance"),
        (
            Op::KillTasks { job: key.clone(), instances: vec![0; 10_001], message: message.clone() },
            Limit,
            "at most 10000 instances",
        ),
        (
            Op::RestartTasks { job: key.clone(), instances: vec![7], message: message.clone() },
            NotFound,
            "no live instance 7",
        ),
        (Op::DrainHosts { hosts: hosts(1_001), message: message.clone() }, Invalid, "1 to 1000 hosts"),
        (Op::DrainHosts { hosts: vec![], message }, Invalid, "1 to 1000 hosts, not 0"),
        (Op::ActivateHosts { hosts: hosts(1_001) }, Invalid, "1 to 1000 hosts"),
        (Op::StartUpdate(with(1)), RefusalKind::AlreadyExists, "end it first"),
        (Op::UpdateInstances { job: key.clone(), instances: vec![] }, Invalid, "names 1 to"),
        (Op::UpdateInstances { job: key.clone(), instances: vec![0; 10_001] }, Invalid, "not 10001"),
        (
            Op::UpdateInstances { job: key.clone(), instances: vec![u32::MAX] },
            NotFound,
            "no instance 4294967295",
        ),
        (Op::PutCron { spec: with(0), schedule: "* * * * *".into() }, Invalid, "asks for 0 instances"),
        (Op::PutCron { spec: with(1), schedule: String::new() }, Invalid, "empty or too long"),
        (Op::PutCron { spec: with(1), schedule: "*".repeat(2_000) }, Invalid, "empty or too long"),
        (Op::PutCron { spec: with(100_000), schedule: "* * * * *".into() }, Quota, "for its runs"),
        (Op::RunCron { job: key.clone() }, NotFound, "no cron job"),
        (Op::DropCron { job: key }, NotFound, "no cron job"),
        (Op::AssignTogether(vec![place(1_001)]), Limit, "at most 1000"),
        (Op::AssignTogether(vec![place(1)]), Stale, "needs 0 ports and was given 3"),
        (Op::Assign(place(2)), Stale, "needs 0 ports"),
        (
            Op::Preempt(crate::Preempt { host: id, task, victims: vec![task; 101] }),
            Stale,
            "1 to 100 tasks in id order",
        ),
        (Op::ReportUnused { host: proto::HostId(u64::MAX), unused: most }, Stale, "is gone"),
    ];
    for (op, want, words) in cases {
        let said = format!("{op:?}");
        let said = &said[..said.len().min(120)];
        let mut after = state.clone();
        let applied = apply(&mut after, 1, op);
        let refused = applied.reply.expect_err(said);
        assert_eq!(refused.kind, want, "{said}: {refused}");
        assert!(refused.message.contains(words), "{said}: wanted {words:?}, got {refused}");
        assert!(after == state, "{said} was refused and changed State");
        assert!(applied.changed.iter().all(|change| change.key[0] == 1), "{said} changed rows");
    }
    // A host may report any number: more than is reserved is not lent.
    apply(&mut state, 1, Op::ReportUnused { host: id, unused: most }).reply.unwrap();
    laws::check(&state).unwrap();
    assert_eq!(state.host(id).unwrap().lendable(), proto::Resources::default());
}

/// A State of the level at which the clock can be set.
fn settable() -> State {
    let mut state = cluster();
    apply(&mut state, 0, Op::RaiseLevel { to: 2 }).reply.unwrap();
    state
}

#[test]
fn the_level_rises_by_a_command_and_never_falls() {
    let mut state = cluster();
    assert_eq!(state.cluster().level, 1, "a new cluster begins at the first");
    let before = state.save();
    let early = apply(&mut state, 0, Op::SetClock { to: BEGIN.plus_ms(5) }).reply.unwrap_err();
    assert!(early.message.contains("from level 2 on; this cluster acts at level 1"), "{early}");
    assert_eq!(state.save(), before);
    apply(&mut state, 1, Op::RaiseLevel { to: 2 }).reply.unwrap();
    assert_eq!(state.cluster().level, 2);
    for to in [0, 1, 2] {
        assert_eq!(kind(apply(&mut state, 2, Op::RaiseLevel { to }).reply), RefusalKind::Stale);
    }
    assert_eq!(state.cluster().level, 2);
    // Commands of the level before go on to mean what they meant.
    apply(&mut state, 3, Op::Freeze { frozen: true }).reply.unwrap();
    assert!(state.cluster().frozen);
}

#[test]
fn the_clock_is_set_forward_by_any_time_and_never_back() {
    let mut state = settable();
    let day = 24 * 3_600_000;
    apply(&mut state, 1_000, Op::SetClock { to: BEGIN.plus_ms(9 * day) }).reply.unwrap();
    assert_eq!(state.clock(), BEGIN.plus_ms(9 * day));
    assert_eq!(state.cluster().grace_until, state.clock().plus_ms(SESSION_GRACE_MS));
    // The same again is no jump; a time before it is refused, with the reason.
    apply(&mut state, 2_000, Op::SetClock { to: BEGIN.plus_ms(9 * day) }).reply.unwrap();
    // It goes on while the command is under way.
    let under_way = Timestamp(state.clock().0 - CLOCK_SET_LATE_MS);
    assert!(apply(&mut state, 2_000, Op::SetClock { to: under_way }).reply.unwrap().unchanged);
    let back = apply(&mut state, 3_000, Op::SetClock { to: BEGIN.plus_ms(8 * day) }).reply.unwrap_err();
    assert!(back.message.contains("the clock never goes back"), "{back}");
    let far = state.clock().plus_ms(CLOCK_SET_MAX_MS + 1);
    assert!(apply(&mut state, 3_000, Op::SetClock { to: far }).reply.is_err());
    assert_eq!(state.clock(), BEGIN.plus_ms(9 * day));
    // A command of the session that does not know it yet does not turn time back.
    apply(&mut state, 4_000, Op::Tick).reply.ok();
    assert_eq!(state.clock(), BEGIN.plus_ms(9 * day));
    laws::check(&state).unwrap();
}

/// By a jump requests are forgotten early; each that could still come is refused by its age.
#[test]
fn a_request_is_not_carried_out_twice_over_a_clock_that_was_set() {
    for jump_ms in
        [0, REQUEST_WINDOW_MS / 2, REQUEST_WINDOW_MS, 2 * REQUEST_WINDOW_MS, 90 * REQUEST_WINDOW_MS]
    {
        for created_ms in [0, 1_000, REQUEST_AHEAD_MS] {
            let mut state = settable();
            let asked = || request("r1", BEGIN.plus_ms(created_ms), 1);
            create(&mut state, BEGIN.plus_ms(1_000), "a", asked()).unwrap();
            let to = BEGIN.plus_ms(1_000 + jump_ms);
            apply(&mut state, 1_000, Op::SetClock { to }).reply.unwrap();
            state.apply(Command::new(to, Op::Tick)).reply.ok();
            let key = JobMaker::new("a").spec().config.job.clone();
            let kill = Op::KillTasks { job: key, instances: vec![], message: String::new() };
            state.apply(Command::new(to, kill)).reply.unwrap();
            let _answered_or_refused = create(&mut state, to.plus_ms(1), "a", asked());
            assert_eq!(state.tasks().len(), 0, "jump {jump_ms}, created {created_ms}: it was made again");
        }
    }
}

/// What should have passed waits for the hosts' word, as after any gap in time.
#[test]
fn no_transient_status_expires_because_the_clock_was_set() {
    let mut state = settable();
    let register = Op::RegisterHost {
        identity: identity("m", "j", "b"),
        spec: host("h1", 4_000, 8_192, None, &[]),
        held: BTreeSet::new(),
    };
    apply(&mut state, 1, register).reply.unwrap();
    create(&mut state, BEGIN.plus_ms(2), "a", request("r1", BEGIN, 1)).unwrap();
    for assign in round(&View::new(&state), 5).assigns {
        apply(&mut state, 3, Op::Assign(assign)).reply.unwrap();
    }
    let to = BEGIN.plus_ms(5 * 24 * 3_600_000);
    apply(&mut state, 4, Op::SetClock { to }).reply.unwrap();
    state.apply(Command::new(to, Op::Tick)).reply.ok();
    let status = |state: &State| state.tasks().map(|task| task.status).collect::<Vec<_>>();
    assert_eq!(status(&state), [Status::Assigned]);
    state.apply(Command::new(to.plus_ms(SESSION_GRACE_MS), Op::Tick)).reply.unwrap();
    assert_eq!(status(&state), [Status::Pending], "then it counts as lost, and is tried again");
}
