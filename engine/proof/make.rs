//! Jobs, hosts and a started cluster, with good defaults.

use proto::wire;

use crate::state::command::StartSession;
use crate::validate::{check_host_spec, check_job_spec};
use crate::{Applied, Command, HostIdentity, HostSpec, JobSpec, Op, State, Timestamp};

/// When every test cluster begins.
pub(crate) const BEGIN: Timestamp = Timestamp(1_800_000_000_000);

/// A job as tests describe it.
#[derive(Clone, Debug)]
pub(crate) struct JobMaker {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) instances: u32,
    pub(crate) cpu_milli: u64,
    pub(crate) ram_mib: u64,
    pub(crate) disk_mib: u64,
    pub(crate) gpus: u32,
    pub(crate) ports: Vec<String>,
    pub(crate) service: bool,
    pub(crate) tier: String,
    pub(crate) priority: i32,
    pub(crate) max_task_failures: i32,
    pub(crate) constraints: Vec<wire::Constraint>,
    pub(crate) cmdline: String,
    pub(crate) all_or_nothing: bool,
    pub(crate) at_most_one: bool,
    pub(crate) static_ports: Vec<wire::NamedPort>,
    pub(crate) preferences: Vec<wire::Preference>,
    pub(crate) spreads: Vec<wire::Spread>,
    pub(crate) partition: Option<wire::PartitionPolicy>,
}

impl JobMaker {
    pub(crate) fn new(name: &str) -> JobMaker {
        JobMaker {
            name: name.to_owned(),
            role: "www".to_owned(),
            instances: 1,
            cpu_milli: 1000,
            ram_mib: 128,
            disk_mib: 64,
            gpus: 0,
            ports: Vec::new(),
            service: false,
            tier: "preemptible".to_owned(),
            priority: 0,
            max_task_failures: 1,
            constraints: Vec::new(),
            cmdline: "run".to_owned(),
            all_or_nothing: false,
            at_most_one: false,
            static_ports: Vec::new(),
            preferences: Vec::new(),
            spreads: Vec::new(),
            partition: None,
        }
    }

    pub(crate) fn spec(&self) -> JobSpec {
        let job = wire::JobKey {
            cluster: "west".into(),
            role: self.role.clone(),
            environment: "prod".into(),
            name: self.name.clone(),
        };
        let process =
            wire::Process { name: "main".into(), cmdline: self.cmdline.clone(), ..Default::default() };
        let resources = wire::Resources {
            cpu_milli: self.cpu_milli,
            ram_mib: self.ram_mib,
            disk_mib: self.disk_mib,
            gpus: self.gpus,
        };
        let task = wire::TaskSpec {
            name: self.name.clone(),
            resources: Some(resources),
            processes: vec![process],
            ports: self.ports.clone(),
            static_ports: self.static_ports.clone(),
            ..Default::default()
        };
        let config = wire::TaskConfig {
            job: Some(job),
            task: Some(task),
            service: self.service,
            tier: self.tier.clone(),
            priority: self.priority,
            max_task_failures: self.max_task_failures,
            constraints: self.constraints.clone(),
            all_or_nothing: self.all_or_nothing,
            at_most_one: self.at_most_one,
            preferences: self.preferences.clone(),
            spreads: self.spreads.clone(),
            partition_policy: self.partition,
            ..Default::default()
        };
        check_job_spec(&wire::JobSpec { config: Some(config), instances: self.instances })
            .expect("a good job")
    }
}

/// A value constraint.
pub(crate) fn value(attribute: &str, values: &str, negated: bool) -> wire::Constraint {
    let values = values.split('|').map(str::to_owned).collect();
    let rule = wire::constraint::Rule::Value(wire::ValueRule { negated, values });
    wire::Constraint { attribute: attribute.into(), rule: Some(rule) }
}

/// A limit constraint.
pub(crate) fn limit(attribute: &str, count: u32) -> wire::Constraint {
    let rule = wire::constraint::Rule::Limit(wire::LimitRule { count });
    wire::Constraint { attribute: attribute.into(), rule: Some(rule) }
}

/// A constraint on a number.
pub(crate) fn compare(attribute: &str, comparison: wire::Comparison, number: &str) -> wire::Constraint {
    let compare =
        wire::CompareRule { comparison: comparison.into(), number: number.parse().expect("a number") };
    wire::Constraint { attribute: attribute.into(), rule: Some(wire::constraint::Rule::Compare(compare)) }
}

/// A constraint on the attribute alone.
pub(crate) fn exists(attribute: &str, negated: bool) -> wire::Constraint {
    let rule = wire::constraint::Rule::Exists(wire::ExistsRule { negated });
    wire::Constraint { attribute: attribute.into(), rule: Some(rule) }
}

/// A spread with targets written as `VALUE|PERCENT,...`.
pub(crate) fn spread(attribute: &str, targets: &str) -> wire::Spread {
    let targets = targets.split(',').filter_map(|target| target.split_once('|'));
    let targets = targets.map(|(value, percent)| wire::SpreadTarget {
        value: value.into(),
        percent: percent.parse().expect("a percentage"),
    });
    wire::Spread { attribute: attribute.into(), targets: targets.collect() }
}

/// A host's spec.
pub(crate) fn host(
    name: &str,
    cpu_milli: u64,
    ram_mib: u64,
    ports: Option<(u32, u32)>,
    attributes: &[(&str, &str)],
) -> HostSpec {
    let capacity = proto::Resources { cpu_milli, ram_mib, disk_mib: 100_000, gpus: 0 };
    host_with(name, capacity, ports, attributes)
}

/// The same, with all that it has.
pub(crate) fn host_with(
    name: &str,
    capacity: proto::Resources,
    ports: Option<(u32, u32)>,
    attributes: &[(&str, &str)],
) -> HostSpec {
    let proto::Resources { cpu_milli, ram_mib, disk_mib, gpus } = capacity;
    check_host_spec(&wire::HostSpec {
        name: name.into(),
        address: format!("{name}:1"),
        capacity: Some(wire::Resources { cpu_milli, ram_mib, disk_mib, gpus: gpus as u32 }),
        ports: ports.into_iter().map(|(first, last)| wire::PortRange { first, last }).collect(),
        attributes: attributes
            .iter()
            .map(|(name, value)| wire::Attribute { name: (*name).into(), value: (*value).into() })
            .collect(),
        version: String::new(),
    })
    .expect("a good host")
}

/// A host's identity.
pub(crate) fn identity(machine: &str, journal: &str, boot: &str) -> HostIdentity {
    HostIdentity { host: None, journal: journal.into(), machine: machine.into(), boot: boot.into() }
}

/// The first command of a session.
pub(crate) fn session(at: Timestamp, term: u64) -> Command {
    Command::new(
        at,
        Op::StartSession(StartSession {
            term,
            leader: 1,
            wall_clocks: vec![at],
            cluster: "west".into(),
            lineage: "lineage-1".into(),
            epoch: 7,
        }),
    )
}

/// A State whose first session has begun.
pub(crate) fn cluster() -> State {
    let mut state = State::default();
    state.apply(session(BEGIN, 1)).reply.expect("the first session starts");
    state
}

/// Applies an op `ms` after the beginning.
pub(crate) fn apply(state: &mut State, ms: u64, op: Op) -> Applied {
    state.apply(Command::new(BEGIN.plus_ms(ms), op))
}
