//! Records read what they wrote, and wrong bytes are refused, never believed and never a panic.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::make::{BEGIN, JobMaker, apply, cluster, host as host_spec, identity};
use crate::limits::LEVEL;
use crate::state::command::Report;
use crate::{Command, Op, State, Status, View, round};

/// A State with a row in every table.
pub(crate) fn full() -> State {
    let mut state = cluster();
    let register = Op::RegisterHost {
        identity: identity("m", "j", "b"),
        spec: host_spec("h1", 8000, 8192, Some((10, 20)), &[("rack", "a")]),
        held: BTreeSet::from([proto::TaskId(7)]),
    };
    let host = proto::HostId(apply(&mut state, 1, register).reply.unwrap().id);
    let web = JobMaker { instances: 3, service: true, ports: vec!["http".into()], ..JobMaker::new("web") };
    let request =
        crate::Request { identity: "alice".into(), id: "r".into(), created: BEGIN, body_hash: vec![1] };
    state.apply(Command::new(BEGIN, Op::CreateJob(web.spec())).by(request)).reply.unwrap();
    apply(&mut state, 2, Op::CreateJob(JobMaker { instances: 20_000, ..JobMaker::new("big") }.spec()))
        .reply
        .unwrap();
    let decided = round(&View::new(&state), 5);
    for assign in decided.assigns {
        apply(&mut state, 3, Op::Assign(assign)).reply.unwrap();
    }
    let ids: Vec<_> = state.host(host).unwrap().tasks().collect();
    let report = |task, status, sequence| Report { task, status, message: "why".into(), sequence };
    let reports = vec![
        report(ids[0], Status::Failed, 1),
        report(ids[1], Status::Failed, 2),
        report(ids[2], Status::Running, 3),
    ];
    apply(&mut state, 4, Op::ApplyReports { host, journal: "j".into(), reports }).reply.unwrap();
    let since = state.host(host).unwrap().record.since;
    apply(&mut state, 5, Op::Silence { host, since }).reply.unwrap();
    let register = Op::RegisterHost {
        identity: identity("m2", "j2", "b"),
        spec: host_spec("h2", 8000, 8192, None, &[]),
        held: BTreeSet::new(),
    };
    let second = proto::HostId(apply(&mut state, 6, register).reply.unwrap().id);
    let quota = proto::Resources { cpu_milli: 9_000, ram_mib: 9_000, disk_mib: 9_000, gpus: 1 };
    apply(&mut state, 6, Op::SetQuota { role: "games".into(), quota, increment: false }).reply.unwrap();
    // Room is kept for what was restarted, an update is in flight, and a cron job waits for its time.
    let spec =
        JobMaker { service: true, role: "games".into(), tier: "preferred".into(), ..JobMaker::new("a") };
    let key = spec.spec().config.job.clone();
    apply(&mut state, 7, Op::CreateJob(spec.spec())).reply.unwrap();
    let task = state.job(&key).unwrap().live().next().unwrap().1;
    let placement = crate::Placement { task, ports: Vec::new() };
    apply(&mut state, 7, Op::Assign(crate::Assign { host: second, placements: vec![placement] }))
        .reply
        .unwrap();
    let restart = Op::RestartTasks { job: key.clone(), instances: vec![], message: String::new() };
    apply(&mut state, 8, restart).reply.unwrap();
    let reports = vec![report(task, Status::Killed, 1)];
    apply(&mut state, 8, Op::ApplyReports { host: second, journal: "j2".into(), reports }).reply.unwrap();
    let update = JobMaker { instances: 2, cpu_milli: 2_000, ..spec.clone() }.spec();
    apply(&mut state, 9, Op::StartUpdate(update)).reply.unwrap();
    apply(&mut state, 9, Op::UpdateInstances { job: key, instances: vec![1] }).reply.unwrap();
    let nightly = JobMaker { instances: 3, ..JobMaker::new("nightly") }.spec();
    apply(&mut state, 9, Op::PutCron { spec: nightly, schedule: "0 3 * * *".into() }).reply.unwrap();
    let unused = proto::Resources { cpu_milli: 500, ..proto::Resources::default() };
    apply(&mut state, 9, Op::ReportUnused { host: second, unused }).reply.unwrap();
    crate::state::laws::check(&state).unwrap();
    state
}

type Row = (Box<[u8]>, Box<[u8]>);

fn rows(state: &State) -> Vec<Row> {
    state.save().into_iter().map(|(key, row)| (key.into(), row.into())).collect()
}

#[test]
fn load_reads_what_save_wrote() {
    let state = full();
    let tables: std::collections::BTreeSet<u8> = state.save().keys().map(|key| key[0]).collect();
    assert_eq!(
        tables.into_iter().collect::<Vec<_>>(),
        (1..=12).collect::<Vec<u8>>(),
        "every table has a row"
    );
    assert_eq!(State::load(rows(&state).into_iter()), Ok(state.clone()));
    assert_eq!(State::load(rows(&state).into_iter().rev()), Ok(state), "the order of rows does not matter");
}

#[test]
fn a_row_that_does_not_belong_is_corrupt() {
    let state = full();
    let complaint = |rows: Vec<Row>| State::load(rows.into_iter()).unwrap_err().to_string();
    let without = |table: u8| rows(&state).into_iter().filter(|(key, _)| key[0] != table).collect::<Vec<_>>();
    assert!(complaint(without(2)).contains("its config is not stored"));
    assert!(complaint(without(3)).contains("its job is not stored"));
    assert!(complaint(without(5)).contains("its host is not stored"));
    let strange = |key: &[u8]| {
        rows(&state).into_iter().chain([(key.into(), [1u8].as_slice().into())]).collect::<Vec<_>>()
    };
    assert!(complaint(strange(&[13, 1])).contains("does not know it"));
    assert!(complaint(strange(&[])).contains("its key is empty"));
    assert!(complaint(strange(&[4, 1])).contains("a task's row cannot be read"));
}

#[test]
fn what_is_of_a_newer_level_is_refused() {
    let mut command = Command::new(BEGIN, Op::Tick);
    command.level = LEVEL + 1;
    let newer = format!("of level {}; this program can act at levels 1 to {LEVEL}", LEVEL + 1);
    assert!(Command::decode(&command.encode()).unwrap_err().to_string().contains(&newer));
    // Whoever cannot act at a level cannot read the command that raises it: it stops there, and never goes on as before.
    let raise = Command::new(BEGIN, Op::RaiseLevel { to: LEVEL + 1 });
    assert!(Command::decode(&raise.encode()).unwrap_err().to_string().contains(&newer));
    command.level = 0;
    assert!(Command::decode(&command.encode()).is_err());
    let mut state = small();
    for level in [0, LEVEL + 1] {
        state.cluster.level = level;
        let complaint = State::load(rows(&state).into_iter()).unwrap_err().to_string();
        assert!(
            complaint.contains(&format!("the cluster acts at level {level}; this program can")),
            "{complaint}"
        );
    }
    for level in 1..=LEVEL {
        state.cluster.level = level;
        assert_eq!(State::load(rows(&state).into_iter()), Ok(state.clone()));
    }
}

/// What a level-1 program wrote stays what it was, and what is new is of the level that it needs.
#[test]
fn a_command_is_of_the_level_that_its_op_needs() {
    for (op, level) in [
        (Op::Tick, 1),
        (Op::Freeze { frozen: true }, 1),
        (Op::SetClock { to: BEGIN }, 2),
        (Op::RaiseLevel { to: 2 }, 2),
        (Op::RaiseLevel { to: 9 }, 9),
    ] {
        assert_eq!(Command::new(BEGIN, op).level, level);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), table in 0u8..12) {
        let _ = Command::decode(&bytes);
        let _ = State::load([([table].as_slice().into(), bytes.into())].into_iter());
    }

    #[test]
    fn bent_rows_never_panic(at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut rows = rows(&small());
        let row = &mut rows[at.index(10)].1;
        if !row.is_empty() {
            let byte = byte.index(row.len());
            row[byte] ^= 1 << bit;
        }
        let _ = State::load(rows.into_iter());
    }
}

fn small() -> State {
    let mut state = cluster();
    let register = Op::RegisterHost {
        identity: identity("m", "j", "b"),
        spec: host_spec("h1", 8000, 8192, None, &[]),
        held: BTreeSet::new(),
    };
    apply(&mut state, 1, register).reply.unwrap();
    apply(&mut state, 2, Op::CreateJob(JobMaker { instances: 6, ..JobMaker::new("web") }.spec()))
        .reply
        .unwrap();
    for assign in round(&View::new(&state), 5).assigns {
        apply(&mut state, 3, Op::Assign(assign)).reply.unwrap();
    }
    state
}
