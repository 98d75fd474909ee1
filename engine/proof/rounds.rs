//! Rounds beside a slow and obvious reference: on small clusters of any kind, whatever is placed holds, and whatever
//! still waits fits on no host. Roles whose tasks wait for their turn have equal shares, up to one slice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::make::{BEGIN, JobMaker, cluster, compare, exists, host, identity, limit, spread, value};
use super::recount::takes_without;
use crate::round::{dominant_share, veto};
use crate::state::command::{Preempt, Report};
use crate::state::laws;
use crate::{Command, Done, Hint, Host, Op, State, Status, Task, TaskConfig, Tier, View, preemptions, round};

/// Tasks that a role may place before another one's share is looked at.
const SLICE: u32 = 16;

#[derive(Clone, Debug)]
struct Shape {
    role: u8,
    instances: u32,
    cpu: u64,
    ports: usize,
    tier: u8,
    priority: i32,
    constraint: u8,
    order: u8,
    together: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Submit(Shape),
    /// A task of a host ends.
    End(usize),
    /// Instances of a job are killed for good.
    Kill(usize),
    Drain(usize),
    Activate(usize),
    Silence(usize),
    /// What the tasks of a host have reserved and do not use.
    Lend(usize, u64),
    /// A host comes back, larger or smaller.
    Register(usize, u64),
    Round(usize),
}

fn shape() -> impl Strategy<Value = Shape> {
    let numbers = (0..3_u8, 1..12_u32, 1..9_u64, 0..3_usize, 0..3_u8, 0..3_i32);
    (numbers, 0..9_u8, 0..6_u8, prop::bool::weighted(0.15)).prop_map(
        |((role, instances, cpu, ports, tier, priority), constraint, order, together)| Shape {
            role,
            instances,
            cpu: cpu * 250,
            ports,
            tier,
            priority,
            constraint,
            order,
            together,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => shape().prop_map(Step::Submit),
        4 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Kill),
        1 => any::<usize>().prop_map(Step::Drain),
        1 => any::<usize>().prop_map(Step::Activate),
        1 => any::<usize>().prop_map(Step::Silence),
        1 => (any::<usize>(), 0..9_u64).prop_map(|(host, cpu)| Step::Lend(host, cpu * 500)),
        1 => (any::<usize>(), 1..9_u64).prop_map(|(host, cpu)| Step::Register(host, cpu * 1_000)),
        8 => prop_oneof![Just(usize::MAX), 1..20_usize].prop_map(Step::Round),
    ]
}

struct World {
    state: State,
    view: View,
    hints: Vec<Hint>,
    made: u32,
    sequence: u64,
}

impl World {
    fn new(hosts: usize) -> World {
        let mut world =
            World { state: cluster(), view: View::default(), hints: Vec::new(), made: 0, sequence: 0 };
        let quota = proto::Resources { cpu_milli: 1 << 30, ram_mib: 1 << 30, disk_mib: 1 << 30, gpus: 0 };
        for role in 0..3 {
            let op = Op::SetQuota { role: format!("role{role}"), quota, increment: false };
            world.must(op);
        }
        (0..hosts).for_each(|host| world.register(host, 4_000));
        world
    }

    fn run(&mut self, op: Op) -> Result<Done, crate::Refusal> {
        let applied = self.state.apply(Command::new(BEGIN, op));
        laws::check(&self.state).expect("the laws hold");
        self.hints.extend(applied.hints);
        applied.reply
    }

    fn must(&mut self, op: Op) -> Done {
        self.run(op).expect("a good command")
    }

    fn register(&mut self, at: usize, cpu: u64) {
        let name = format!("h{at}");
        let (zone, rack, cores) =
            (["a", "b", "c"][at % 3], format!("r{}", at / 2), format!("{}", 8 * (at % 3)));
        let mut attributes = vec![("zone", zone), ("rack", rack.as_str()), ("cores", cores.as_str())];
        if at.is_multiple_of(5) {
            attributes.push(("ssd", "1"));
        }
        let spec = host(&name, cpu, 64_000, Some((31_000, 31_007)), &attributes);
        let machine = identity(&name, &format!("j{at}"), "b");
        // A host that is heard is not registered again by another; that is refused and changes nothing.
        let known = self.state.host_by_name(&name).map(|host| host.tasks().collect());
        let _ = self.run(Op::RegisterHost { identity: machine, spec, held: known.unwrap_or_default() });
    }

    fn host(&self, at: usize) -> Option<&Host> {
        self.state.hosts().nth(at.checked_rem(self.state.hosts().len())?)
    }

    fn submit(&mut self, shape: &Shape) {
        self.made += 1;
        let mut job = JobMaker::new(&format!("job{}", self.made));
        job.role = format!("role{}", shape.role);
        job.instances = shape.instances;
        job.cpu_milli = shape.cpu;
        job.ports = (0..shape.ports).map(|port| format!("p{port}")).collect();
        job.tier = ["preferred", "preemptible", "revocable"][usize::from(shape.tier)].into();
        job.priority = shape.priority;
        job.all_or_nothing = shape.together;
        job.constraints = match shape.constraint {
            1 => vec![limit("host", 1)],
            2 => vec![limit("host", 2), limit("rack", 3)],
            3 => vec![value("zone", "a|b", false)],
            4 => vec![value("zone", "a", true), limit("zone", 4)],
            5 => vec![compare("cores", proto::wire::Comparison::AtLeast, "8")],
            6 => vec![exists("ssd", false)],
            7 => vec![value("host", "h1|h2", false)],
            _ => Vec::new(),
        };
        match shape.order {
            1 => job.spreads = vec![spread("zone", "")],
            2 => job.spreads = vec![spread("zone", "a|60,b|40"), spread("rack", "")],
            3 => {
                let constraint = Some(value("zone", "c", false));
                job.preferences = vec![proto::wire::Preference { constraint, weight: 10 }];
            }
            _ => {}
        }
        self.must(Op::CreateJob(job.spec()));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Submit(shape) => self.submit(shape),
            Step::End(at) => {
                let placed: Vec<&Task> = self.state.tasks().filter(|task| task.host.is_some()).collect();
                let Some(task) = at.checked_rem(placed.len()).map(|at| placed[at]) else { return };
                let (id, host) = (task.id, task.host.expect("placed"));
                let journal = self.state.host(host).expect("known").record.identity.journal.clone();
                self.sequence += 1;
                let status = if at.is_multiple_of(2) { Status::Finished } else { Status::Killed };
                let report = Report { task: id, status, message: String::new(), sequence: self.sequence };
                // A silent host's reports are refused.
                let _ = self.run(Op::ApplyReports { host, journal, reports: vec![report] });
            }
            Step::Kill(at) => {
                let tasks = self.state.tasks().len();
                let Some(task) = at.checked_rem(tasks).and_then(|at| self.state.tasks().nth(at)) else {
                    return;
                };
                let (job, instances) = (task.config.job.clone(), vec![task.instance]);
                self.must(Op::KillTasks { job, instances, message: String::new() });
            }
            Step::Drain(at) => {
                let Some(name) = self.host(*at).map(|host| host.name().to_string()) else { return };
                self.must(Op::DrainHosts { hosts: vec![name], message: String::new() });
            }
            Step::Activate(at) => {
                let Some(name) = self.host(*at).map(|host| host.name().to_string()) else { return };
                self.must(Op::ActivateHosts { hosts: vec![name] });
            }
            Step::Silence(at) => {
                let Some(host) = self.host(*at) else { return };
                let (host, since) = (host.id(), host.record.since);
                let _ = self.run(Op::Silence { host, since });
            }
            Step::Lend(at, cpu_milli) => {
                let Some(host) = self.host(*at).map(Host::id) else { return };
                let unused = proto::Resources { cpu_milli: *cpu_milli, ram_mib: 8_000, disk_mib: 0, gpus: 0 };
                // A silent host's word is refused.
                let _ = self.run(Op::ReportUnused { host, unused });
            }
            Step::Register(at, cpu) => self.register(at % 12, *cpu),
            Step::Round(budget) => {
                self.round(*budget);
            }
        }
    }

    /// A round on the view that was kept so far; all of it is applied at once, so all of it must hold.
    fn round(&mut self, budget: usize) -> usize {
        self.view.absorb(&self.state, &std::mem::take(&mut self.hints));
        // What was kept for a task that then found a place elsewhere is there for the next round.
        let kept = self.state.reservations().len() > 0;
        let decided = round(&self.view, budget);
        self.view.launch(&decided);
        assert!(decided.report.placed <= budget, "no more than it may");
        let mut placed = 0;
        for assign in &decided.assigns {
            let done = self.must(Op::Assign(assign.clone()));
            assert_eq!(done.tasks as usize, assign.placements.len(), "apply takes all of {assign:?}");
            placed += assign.placements.len();
        }
        for together in &decided.together {
            placed += self.must(Op::AssignTogether(together.clone())).tasks as usize;
            let task = self.state.task(together[0].placements[0].task).expect("placed");
            assert_eq!(self.waiting_of(task).count(), 0, "all of a gang or none");
        }
        assert_eq!(placed, decided.report.placed);
        let waiting: usize = decided.report.groups.iter().map(|group| group.waiting).sum();
        let pending = self.state.tasks().filter(|task| task.status == Status::Pending).count();
        assert_eq!((waiting, decided.report.waiting), (pending, pending), "each task is placed or waits");
        for group in &decided.report.groups {
            assert_eq!(group.waiting > 0, !group.reason.is_empty(), "who waits is told why: {group:?}");
            if group.waiting > 0 && !group.cut_short && !kept {
                self.must_wait(group.config);
            }
        }
        let displaced = preemptions(&mut self.view, &self.state, &decided, 5);
        let hosts: BTreeSet<_> = displaced.iter().map(|preempt| preempt.host).collect();
        assert_eq!(hosts.len(), displaced.len(), "each host makes room for one task");
        for assign in decided.assigns.iter().chain(decided.together.iter().flatten()) {
            self.view.settle(&self.state, assign);
        }
        for preempt in displaced {
            self.must_displace(&preempt);
            self.must(Op::Preempt(preempt.clone()));
            self.view.settle_preempt(&self.state, &preempt);
        }
        placed
    }

    /// Who may displace whom, written anew; and of all sets of these tasks none that is smaller would do.
    fn must_displace(&self, preempt: &Preempt) {
        let task = |id| self.state.task(id).expect("it lives");
        let (taker, host) = (task(preempt.task), self.state.host(preempt.host).expect("known"));
        let (mine, production) = (&taker.config, |config: &TaskConfig| config.tier == Tier::Preferred);
        assert!(!taker.displaced, "who was displaced displaces nobody: {preempt:?}");
        for victim in preempt.victims.iter().map(|id| task(*id)) {
            let its = &victim.config;
            let own = mine.job.role == its.job.role && mine.priority > its.priority;
            let may = match (mine.tier, its.tier) {
                (Tier::Preferred, Tier::Preemptible) => true,
                (Tier::Preferred | Tier::Preemptible, Tier::Revocable) => true,
                (Tier::Preemptible | Tier::Revocable, Tier::Preferred) => false,
                (Tier::Revocable, Tier::Preemptible) => false,
                _ => own,
            };
            assert!(may, "{} of {} may not displace {} of {}", taker.id, mine.job, victim.id, its.job);
            let equal = production(mine) && production(its) && mine.priority <= its.priority;
            assert!(!equal, "production displaces no equal production: {preempt:?}");
            assert_eq!(victim.host, Some(host.id()));
            assert!(matches!(victim.status, Status::Assigned | Status::Starting | Status::Running));
        }
        let all = preempt.victims.len();
        assert!(all <= 12, "few tasks fit on these hosts");
        for set in 0..1_u32 << all {
            let gone = (0..all).filter(|at| set & (1 << at) != 0).map(|at| preempt.victims[at]).collect();
            let fits = takes_without(&self.state, host, taker, &gone);
            assert_eq!(fits, set + 1 == 1 << all, "{} on {} without {gone:?}", taker.id, host.name());
        }
    }

    fn waiting_of<'a>(&'a self, like: &'a Task) -> impl Iterator<Item = &'a Task> {
        let pending = self.state.tasks().filter(|task| task.status == Status::Pending);
        pending.filter(|task| task.config.hash == like.config.hash)
    }

    /// The slow and obvious way: no host takes a task of the config; or, of a gang, they do not take all.
    fn must_wait(&self, config: crate::ConfigHash) {
        let of = |task: &&Task| task.status == Status::Pending && task.config.hash == config;
        let waiting: Vec<&Task> = self.state.tasks().filter(of).collect();
        let one = waiting[0];
        if one.config.all_or_nothing {
            if one.config.limits().next().is_none() {
                let room: usize = self.state.hosts().map(|host| self.room(one, host)).sum();
                assert!(room < waiting.len(), "{room} of {} tasks of {} fit", waiting.len(), one.config.job);
            }
            return;
        }
        for task in waiting {
            for host in self.state.hosts() {
                assert!(
                    self.room(task, host) == 0,
                    "{} of {} waits, and fits on {}",
                    task.id,
                    task.config.job,
                    host.name()
                );
            }
        }
    }

    /// How many tasks like this one a host takes.
    fn room(&self, task: &Task, host: &Host) -> usize {
        let config = &task.config;
        let job = self.state.job(&config.job).expect("its job is known");
        let limited = config.limits().any(|(attribute, limit)| {
            host.record.spec.values(attribute).any(|value| job.places().of(attribute, value) >= limit)
        });
        if !host.is_open() || limited || veto::of_attributes(config, &host.record.spec).is_some() {
            return 0;
        }
        let free = host.free_for(task.id, config);
        let ports = host.free_port_count().checked_div(config.ports.len()).unwrap_or(usize::MAX);
        let fits = |count: &usize| config.demand.times(*count as u32).fits_in(&free);
        (1..=100).take_while(fits).count().min(ports)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_waits_fits_nowhere(hosts in 1..10_usize, steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new(hosts);
        steps.iter().for_each(|step| world.step(step));
        // However it came about, what nothing changes for any more waits for a reason.
        while world.round(usize::MAX) > 0 {}
        let waiting: BTreeSet<_> =
            world.state.tasks().filter(|task| task.status == Status::Pending).map(|task| task.config.hash).collect();
        waiting.into_iter().for_each(|config| world.must_wait(config));
    }

    /// Every role wants more than a round may place.
    #[test]
    fn shares_of_roles_differ_by_a_slice_at_most(
        demands in prop::collection::vec((1..9_u64, 1..9_u64), 2..5),
        budgets in prop::collection::vec(40..200_usize, 1..6),
    ) {
        let mut world = World::new(0);
        for number in 0..40 {
            let spec = host(&format!("h{number}"), 64_000, 64_000, None, &[]);
            let identity = identity(&format!("m{number}"), &format!("j{number}"), "b");
            world.must(Op::RegisterHost { identity, spec, held: BTreeSet::new() });
        }
        let mut largest = BTreeMap::new();
        for (role, (cpu, ram)) in demands.iter().enumerate() {
            let mut job = JobMaker::new("job");
            (job.role, job.instances) = (format!("role{role}"), 1_500);
            (job.cpu_milli, job.ram_mib) = (cpu * 100, ram * 100);
            let spec = job.spec();
            largest.insert(format!("role{role}"), spec.config.demand.times(SLICE));
            world.must(Op::CreateJob(spec));
        }
        let capacity = world.state.hosts().fold(proto::Resources::default(), |sum, host| {
            sum.plus(host.record.spec.capacity)
        });
        for budget in budgets {
            world.view.absorb(&world.state, &std::mem::take(&mut world.hints));
            let decided = round(&world.view, budget);
            world.view.launch(&decided);
            for assign in &decided.assigns {
                world.must(Op::Assign(assign.clone()));
            }
            let cut_short = decided.report.groups.iter().all(|group| group.cut_short);
            prop_assume!(cut_short);
            let share = |role: &str, less: proto::Resources| {
                let used = world.state.role(role).map(|role| role.used()).unwrap_or_default();
                dominant_share(used.minus_or_zero(less), capacity)
            };
            for (ahead, slice) in &largest {
                for behind in largest.keys() {
                    let (before, now) = (share(ahead, *slice), share(behind, proto::Resources::default()));
                    prop_assert!(before <= now, "{} had {} when it was served before {} with {}", ahead, before, behind, now);
                }
            }
        }
    }
}
