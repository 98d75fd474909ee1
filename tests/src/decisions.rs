//! Inputs and measurements of the pure engine: clusters that exist only in memory, decided on by the real rounds and
//! accepted by the real `apply`. No processes, no disk.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use engine::state::command::{Assign, Placement, StartSession};
use engine::state::laws;
use engine::validate::{check_host_spec, check_job_spec};
use engine::{Command, Hint, HostIdentity, Op, State, Timestamp, View, round};
use proto::{HostId, Resources, wire};

pub(crate) const BEGIN: Timestamp = Timestamp(1_800_000_000_000);
/// What every host has: 64 cores, 256 GiB, 1 TiB.
pub(crate) const HOST: Resources =
    Resources { cpu_milli: 64_000, ram_mib: 256 * 1024, disk_mib: 1024 * 1024, gpus: 0 };
/// Roles among which jobs are dealt out.
const ROLES: usize = 20;

/// What the jobs of a case demand of hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demand {
    /// Resources only.
    Plain,
    /// A zone out of some, or not out of some.
    Value,
    /// At most 2 of a job on a host, and 4 in a rack.
    Limit,
    /// Evenly over zones.
    Spread,
}

impl Demand {
    /// All, in the order in which they are shown.
    pub const ALL: [Demand; 4] = [Demand::Plain, Demand::Value, Demand::Limit, Demand::Spread];

    /// As the figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Demand::Plain => "plain",
            Demand::Value => "value",
            Demand::Limit => "limit",
            Demand::Spread => "spread",
        }
    }
}

/// A cluster in memory.
#[derive(Debug)]
pub struct Memory {
    /// All of it.
    pub state: State,
    pub(crate) hints: Vec<Hint>,
    pub(crate) hosts: Vec<HostId>,
    capacity: Resources,
    /// Every command since the last look, as it would be proposed; `None` = nobody wants them.
    record: Option<Vec<bytes::Bytes>>,
}

impl Memory {
    /// So many hosts of 64 cores, 256 GiB and 1 TiB, two to a rack, in ten zones.
    pub fn with_hosts(hosts: usize) -> Result<Memory> {
        Memory::of(hosts, HOST)
    }

    /// The same, of another size.
    pub fn of(hosts: usize, capacity: Resources) -> Result<Memory> {
        Memory::begun(hosts, capacity, None)
    }

    /// As `with_hosts`; what is applied from the first command on is kept as it would be proposed.
    pub fn recorded(hosts: usize) -> Result<Memory> {
        Memory::begun(hosts, HOST, Some(Vec::new()))
    }

    fn begun(hosts: usize, capacity: Resources, record: Option<Vec<bytes::Bytes>>) -> Result<Memory> {
        let mut memory =
            Memory { state: State::default(), hints: Vec::new(), hosts: Vec::new(), capacity, record };
        let session = StartSession {
            term: 1,
            leader: 1,
            wall_clocks: vec![BEGIN],
            cluster: "bench".into(),
            lineage: "lineage".into(),
            epoch: 1,
        };
        memory.apply(Op::StartSession(session))?;
        for number in 0..hosts {
            let attribute = |name: &str, value: String| wire::Attribute { name: name.into(), value };
            let spec = wire::HostSpec {
                name: format!("host-{number}"),
                address: "127.0.0.1:1".into(),
                capacity: Some(capacity.into()),
                ports: vec![wire::PortRange { first: 31_000, last: 32_000 }],
                attributes: vec![
                    attribute("rack", format!("r{}", number / 2)),
                    attribute("zone", format!("z{}", number % 10)),
                ],
                version: String::new(),
            };
            let identity = HostIdentity {
                host: None,
                journal: format!("j{number}"),
                machine: format!("m{number}"),
                boot: "b".into(),
            };
            let spec = check_host_spec(&spec)?;
            let done = memory.apply(Op::RegisterHost { identity, spec, held: BTreeSet::new() })?;
            memory.hosts.push(HostId(done.id));
        }
        Ok(memory)
    }

    /// Applies a command that must be accepted.
    pub fn apply(&mut self, op: Op) -> Result<engine::Done> {
        let command = Command::new(BEGIN, op);
        if let Some(record) = &mut self.record {
            record.push(command.encode().into());
        }
        let applied = self.state.apply(command);
        self.hints.extend(applied.hints);
        applied.reply.context("State refused a command")
    }

    /// The commands since the last call, of a memory that keeps them.
    pub fn take_record(&mut self) -> Vec<bytes::Bytes> {
        self.record.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Fills every host to so many percent with one task each.
    pub fn fill(&mut self, percent: u64) -> Result<()> {
        if percent == 0 {
            return Ok(());
        }
        let part = |amount: u64| amount * percent / 100;
        let demand = Resources {
            cpu_milli: part(self.capacity.cpu_milli),
            ram_mib: part(self.capacity.ram_mib),
            disk_mib: part(self.capacity.disk_mib),
            gpus: 0,
        };
        let hosts = self.hosts.clone();
        for (number, hosts) in hosts.chunks(10_000).enumerate() {
            let spec = wire_job("filler", &format!("filler-{number}"), demand, hosts.len() as u32);
            self.run_on(&spec, hosts)?;
        }
        Ok(())
    }

    /// Makes a job, and places its first tasks on these hosts, one each.
    pub(crate) fn run_on(&mut self, spec: &wire::JobSpec, hosts: &[HostId]) -> Result<()> {
        let spec = check_job_spec(spec)?;
        self.apply(Op::CreateJob(spec.clone()))?;
        let job = self.state.job(&spec.config.job).context("the job was made")?;
        let tasks: Vec<_> = self.state.tasks_of(job).map(|task| task.id).collect();
        for (&host, task) in hosts.iter().zip(tasks) {
            let placements = vec![Placement { task, ports: Vec::new() }];
            self.apply(Op::Assign(Assign { host, placements }))?;
        }
        Ok(())
    }

    /// `jobs` jobs that are `tasks` tasks in sum, of 200 shapes.
    pub fn submit(&mut self, demand: Demand, jobs: usize, tasks: usize) -> Result<()> {
        for number in 0..jobs {
            let shape = number % 200;
            let resources = Resources {
                cpu_milli: 50 + 2 * shape as u64,
                ram_mib: 64 + 8 * (shape as u64 * 37 % 200),
                disk_mib: 64 + 16 * (shape as u64 * 73 % 200),
                gpus: 0,
            };
            let role = format!("role-{}", number % ROLES);
            let count = (tasks / jobs) as u32;
            let mut spec = wire_job(&role, &format!("job-{number}"), resources, count);
            if let Some(config) = &mut spec.config {
                demand_of(config, demand, number);
            }
            self.apply(Op::CreateJob(check_job_spec(&spec)?))?;
        }
        Ok(())
    }
}

fn demand_of(config: &mut wire::TaskConfig, demand: Demand, number: usize) {
    use wire::constraint::Rule;
    let mut constrain = |attribute: &str, rule: Rule| {
        config.constraints.push(wire::Constraint { attribute: attribute.into(), rule: Some(rule) });
    };
    match demand {
        Demand::Plain => {}
        Demand::Value => {
            let values = (0..1 + number % 4).map(|n| format!("z{}", (number + n) % 10)).collect();
            constrain("zone", Rule::Value(wire::ValueRule { negated: number.is_multiple_of(2), values }));
        }
        Demand::Limit => {
            constrain("host", Rule::Limit(wire::LimitRule { count: 2 }));
            constrain("rack", Rule::Limit(wire::LimitRule { count: 4 }));
        }
        Demand::Spread => {
            config.spreads.push(wire::Spread { attribute: "zone".into(), targets: Vec::new() });
        }
    }
}

pub(crate) fn wire_job(role: &str, name: &str, demand: Resources, instances: u32) -> wire::JobSpec {
    let process = wire::Process { name: "main".into(), cmdline: "run".into(), ..wire::Process::default() };
    let task = wire::TaskSpec {
        name: "task".into(),
        resources: Some(demand.into()),
        processes: vec![process],
        ..wire::TaskSpec::default()
    };
    let key = wire::JobKey {
        cluster: "bench".into(),
        role: role.into(),
        environment: "prod".into(),
        name: name.into(),
    };
    let config = wire::TaskConfig {
        job: Some(key),
        task: Some(task),
        service: true,
        tier: "preemptible".into(),
        max_task_failures: -1,
        ..wire::TaskConfig::default()
    };
    wire::JobSpec { config: Some(config), instances }
}

/// What placing all pending tasks took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Placed {
    /// Tasks placed; `apply` has accepted each.
    pub tasks: usize,
    /// Tasks that found no place.
    pub waiting: usize,
    /// Rounds.
    pub rounds: usize,
    /// In `round` alone.
    pub round: Duration,
    /// In `apply` alone.
    pub apply: Duration,
    /// In `View::new`, once.
    pub view: Duration,
    /// In keeping the view up to date.
    pub absorb: Duration,
}

/// Places all that is pending, from a fresh view.
pub fn place_all(memory: &mut Memory) -> Result<Placed> {
    let mut placed = Placed::default();
    memory.hints.clear();
    let mut view = timed(&mut placed.view, || View::new(&memory.state));
    loop {
        let decided = timed(&mut placed.round, || round(&view, usize::MAX));
        placed.rounds += 1;
        placed.waiting = decided.report.waiting;
        if decided.report.placed == 0 {
            break;
        }
        timed(&mut placed.absorb, || view.launch(&decided));
        for assign in decided.assigns {
            let wanted = assign.placements.len();
            let done = timed(&mut placed.apply, || memory.apply(Op::Assign(assign.clone())))?;
            ensure!(done.tasks as usize == wanted, "apply took {} of {wanted} placements", done.tasks);
            placed.tasks += wanted;
        }
        let hints = std::mem::take(&mut memory.hints);
        timed(&mut placed.absorb, || view.absorb(&memory.state, &hints));
        if decided.report.waiting == 0 {
            break;
        }
    }
    laws::check(&memory.state)?;
    Ok(placed)
}

pub(crate) fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    *sum += begun.elapsed();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_cases_are_placed_whole() -> Result<()> {
        for demand in Demand::ALL {
            for percent in [0, 50] {
                let mut memory = Memory::with_hosts(100)?;
                memory.fill(percent)?;
                memory.submit(demand, 50, 500)?;
                let placed = place_all(&mut memory)?;
                ensure!((placed.tasks, placed.waiting) == (500, 0), "{demand:?} at {percent}%: {placed:?}");
            }
        }
        Ok(())
    }
}
