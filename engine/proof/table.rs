//! Every cell of the status table: golden for people, laws for the rest, Aurora's table where we kept it, and each
//! cell that a command can reach driven through `apply`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proto::{HostId, TaskId};

use super::make::{JobMaker, apply, cluster, host, identity};
use crate::state::command::{Assign, Placement, Preempt, Report};
use crate::state::laws;
use crate::state::status::{Event, Replace, Verdict, step};
use crate::{Command, JobSpec, Op, Reply, State, Status, Task};

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

/// One host that has room for one task, one task on its way through the table, and production that would displace it.
struct Walk {
    state: State,
    spec: JobSpec,
    host: HostId,
    task: TaskId,
    taker: TaskId,
}

impl Walk {
    fn new(service: bool) -> Walk {
        let mut state = cluster();
        let quota = proto::Resources { cpu_milli: 9_000, ram_mib: 9_000, disk_mib: 9_000, gpus: 0 };
        apply(&mut state, 0, Op::SetQuota { role: "top".into(), quota, increment: false }).reply.unwrap();
        let host = HostId(apply(&mut state, 0, register()).reply.unwrap().id);
        let maker =
            JobMaker { service, max_task_failures: if service { 1 } else { 3 }, ..JobMaker::new("job") };
        let mut job = maker.clone();
        job.partition = Some(proto::wire::PartitionPolicy { reschedule: true, delay_seconds: 60 });
        let spec = job.spec();
        apply(&mut state, 0, Op::CreateJob(spec.clone())).reply.unwrap();
        let top = JobMaker { role: "top".into(), tier: "preferred".into(), ..JobMaker::new("top") }.spec();
        apply(&mut state, 0, Op::CreateJob(top)).reply.unwrap();
        let of = |role: &str| state.tasks().find(|task| task.config.job.role == role).expect("made").id;
        let (task, taker) = (of("www"), of("top"));
        Walk { state, spec, host, task, taker }
    }

    fn run(&mut self, op: Op) -> Reply {
        let at = self.state.clock();
        let reply = self.state.apply(Command::new(at, op)).reply;
        laws::check(&self.state).unwrap();
        reply
    }

    fn says(&mut self, task: TaskId, status: Status) -> Reply {
        let report = Report { task, status, message: String::new(), sequence: 1 };
        self.run(Op::ApplyReports { host: self.host, journal: "j".into(), reports: vec![report] })
    }

    fn cause(&mut self, event: Event) -> Reply {
        let job = self.spec.config.job.clone();
        let (instances, message) = (vec![0], String::new());
        match event {
            Event::Born | Event::Throttle => unreachable!("no command does that to a task that is there"),
            Event::Place => self.run(Op::Assign(Assign {
                host: self.host,
                placements: vec![Placement { task: self.task, ports: Vec::new() }],
            })),
            Event::Kill => self.run(Op::KillTasks { job, instances, message }),
            Event::Restart => self.run(Op::RestartTasks { job, instances, message }),
            Event::Drain => self.run(Op::DrainHosts { hosts: vec!["h1".into()], message }),
            Event::Preempt => {
                let victims = vec![self.task];
                self.run(Op::Preempt(Preempt { host: self.host, task: self.taker, victims }))
            }
            Event::HostSilent => {
                let since = self.state.host(self.host).expect("known").record.since;
                self.run(Op::Silence { host: self.host, since })
            }
            Event::Expired => {
                let due = self.state.task(self.task).and_then(Task::deadline);
                let at = due.unwrap_or(self.state.clock().plus_ms(3_500_000));
                let reply = self.state.apply(Command::new(at, Op::Tick)).reply;
                laws::check(&self.state).unwrap();
                reply
            }
            says => {
                if self.state.host(self.host).is_some_and(|host| host.is_silent()) {
                    self.run(register_with(self.task)).unwrap();
                }
                let status = Status::ALL.into_iter().find(|of| Event::of_report(*of) == Some(says));
                self.says(self.task, status.expect("a report"))
            }
        }
    }

    /// Brings the task into a status.
    fn enter(service: bool, status: Status) -> Walk {
        let mut walk = Walk::new(service);
        match status {
            Status::Init => unreachable!("never at rest"),
            Status::Pending => return walk,
            Status::Throttled => {
                for _ in 0..2 {
                    walk.cause(Event::Place).unwrap();
                    walk.cause(Event::SaysFailed).unwrap();
                    let job = walk.state.job(&walk.spec.config.job).expect("it lives");
                    walk.task = job.live().next().expect("tried again").1;
                }
                return walk;
            }
            _ => walk.cause(Event::Place).unwrap(),
        };
        let way = match status {
            Status::Assigned => None,
            Status::Starting => Some(Event::SaysStarting),
            Status::Running => Some(Event::SaysRunning),
            Status::Draining => Some(Event::Drain),
            Status::Killing => Some(Event::Kill),
            Status::Preempting => Some(Event::Preempt),
            Status::Restarting => Some(Event::Restart),
            Status::Partitioned => Some(Event::HostSilent),
            Status::Finished => Some(Event::SaysFinished),
            Status::Failed => Some(Event::SaysFailed),
            Status::Killed => Some(Event::SaysKilled),
            Status::Lost => Some(Event::SaysLost),
            Status::Init | Status::Throttled | Status::Pending => unreachable!("done above"),
        };
        if let Some(way) = way {
            walk.cause(way).unwrap();
        }
        walk
    }

    fn generation(&self) -> u64 {
        self.state.host(self.host).expect("known").record.generation
    }
}

fn register() -> Op {
    let spec = host("h1", 1_000, 8_192, None, &[]);
    Op::RegisterHost { identity: identity("m", "j", "b"), spec, held: BTreeSet::new() }
}

fn register_with(task: TaskId) -> Op {
    let spec = host("h1", 1_000, 8_192, None, &[]);
    Op::RegisterHost { identity: identity("m", "j", "b"), spec, held: BTreeSet::from([task]) }
}

/// Whether a command exists that lets the event happen to a task in the status, and asks the table.
fn reaches(from: Status, event: Event) -> bool {
    let ended = from.is_terminal();
    match event {
        Event::Born | Event::Throttle => false,
        // The instance is named, not the task: after the end that is another task, or none.
        Event::Kill | Event::Restart => !ended,
        Event::Drain | Event::HostSilent | Event::Expired => !ended,
        // Nothing happens on a silent host before it is back.
        Event::Preempt | Event::Place => from != Status::Partitioned,
        _ => true,
    }
}

#[test]
fn apply_does_what_each_cell_says() {
    let mut cells = 0;
    for service in [true, false] {
        for from in Status::ALL.into_iter().filter(|from| *from != Status::Init) {
            for event in Event::ALL.into_iter().filter(|event| reaches(from, *event)) {
                let mut walk = Walk::enter(service, from);
                let before = walk.state.task(walk.task).cloned();
                assert_eq!(before.as_ref().map(|task| task.status), (!from.is_terminal()).then_some(from));
                let mut generation = walk.generation();
                if from == Status::Partitioned && Event::ALL[7..14].contains(&event) {
                    // The host says hello first, and is owed its wanted set for that.
                    generation += 1;
                }
                let reply = walk.cause(event);
                let after = walk.state.task(walk.task).cloned();
                // A host that speaks of a task that it does not have is answered by the table's last row.
                let says = Event::ALL[7..14].contains(&event);
                let verdict = step(Some(from).filter(|from| !says || from.is_on_host()), event);
                let cell = format!("{from} x {event:?} = {verdict:?} (service: {service}), was {reply:?}");
                match verdict {
                    Verdict::Move(to) => assert_eq!(after.map(|task| task.status), Some(to), "{cell}"),
                    Verdict::End { to, fails, replace } => {
                        let before = before.expect("it lived");
                        assert_eq!(after, None, "{cell}");
                        let job = walk.state.job(&walk.spec.config.job).expect("remembered");
                        let ended = job.ended().find(|ended| ended.id == walk.task);
                        assert_eq!(ended.map(|ended| ended.status), Some(to), "{cell}");
                        let failures = before.failures + u32::from(fails);
                        let again = match replace {
                            Replace::Never => false,
                            Replace::Service => service,
                            Replace::Retry => service || failures < 3,
                            Replace::Always => true,
                        };
                        let next = job.live().next().and_then(|(_, task)| walk.state.task(task));
                        assert_eq!(next.is_some(), again, "{cell}");
                        if let Some(next) = next {
                            assert_eq!(
                                (next.ancestor, next.failures, next.instance),
                                (Some(walk.task), failures, 0),
                                "{cell}"
                            );
                        }
                    }
                    Verdict::Delete => {
                        let job = walk.state.job(&walk.spec.config.job).expect("remembered");
                        let known = job.live().count() + job.ended().filter(|e| e.id == walk.task).count();
                        assert_eq!((after, known), (None, 0), "{cell}");
                    }
                    Verdict::Ignore => {
                        assert_eq!(after, before, "{cell}");
                        assert!(!says || walk.generation() == generation, "{cell}");
                    }
                    Verdict::KillAgain => {
                        assert_eq!((after, walk.generation()), (before, generation + 1), "{cell}");
                    }
                    Verdict::Illegal => {
                        assert_eq!(after, before, "{cell}");
                        assert!(reply.is_err(), "{cell}");
                    }
                }
                cells += 1;
            }
        }
    }
    // Of each kind of job: 14 statuses, and of 16 events those that reach them.
    assert_eq!(cells, 2 * (14 * 14 - 4 * 5 - 2));
}

#[test]
fn tasks_are_born_as_the_table_says() {
    for (from, event) in [(Status::Pending, Event::Born), (Status::Throttled, Event::Throttle)] {
        let walk = Walk::enter(true, from);
        let status = walk.state.task(walk.task).map(|task| task.status);
        assert_eq!(status.map(Verdict::Move), Some(step(Some(Status::Init), event)));
    }
}
