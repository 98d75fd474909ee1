//! Why a task cannot go on a host: values with a kind and an amount, ordered from "nearly fits" to "never".

use std::fmt;

use proto::Resources;
use proto::resources::{cores, mib};

use crate::state::config::{Constraint, Rule, TaskConfig};
use crate::state::host::HostSpec;

/// The kinds of vetoes, nearest first; what metrics and reports count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum VetoKind {
    /// Too little cpu is free.
    Cpu,
    /// Too little memory is free.
    Ram,
    /// Too little disk is free.
    Disk,
    /// Too few GPUs are free.
    Gpu,
    /// Too few ports are free.
    Ports,
    /// A port that the task must have is taken.
    StaticPort,
    /// The host carries as many tasks as a host may.
    Tasks,
    /// Enough tasks of the job share the host's value of an attribute.
    Limit,
    /// The host's attributes are not what the job demands.
    Constraint,
    /// The host is reserved for other jobs.
    Dedicated,
    /// The host is drained.
    Maintenance,
}

impl VetoKind {
    /// All of them, nearest first.
    pub const ALL: [VetoKind; 11] = [
        VetoKind::Cpu,
        VetoKind::Ram,
        VetoKind::Disk,
        VetoKind::Gpu,
        VetoKind::Ports,
        VetoKind::StaticPort,
        VetoKind::Tasks,
        VetoKind::Limit,
        VetoKind::Constraint,
        VetoKind::Dedicated,
        VetoKind::Maintenance,
    ];

    /// As a label of a metric.
    pub fn label(self) -> &'static str {
        match self {
            VetoKind::Cpu => "cpu",
            VetoKind::Ram => "ram",
            VetoKind::Disk => "disk",
            VetoKind::Gpu => "gpu",
            VetoKind::Ports => "ports",
            VetoKind::StaticPort => "static_port",
            VetoKind::Tasks => "tasks",
            VetoKind::Limit => "limit",
            VetoKind::Constraint => "constraint",
            VetoKind::Dedicated => "dedicated",
            VetoKind::Maintenance => "maintenance",
        }
    }
}

/// One reason why a task cannot go on a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Veto {
    /// Something the task takes is short.
    Insufficient {
        /// What the task takes.
        wanted: Resources,
        /// What the host has free.
        free: Resources,
    },
    /// Ports are short.
    Ports {
        /// How many the task needs.
        wanted: usize,
        /// How many the host has free.
        free: usize,
    },
    /// A port that the task must have is taken by another.
    StaticPort {
        /// What the task calls it.
        name: String,
        /// Its number.
        port: u16,
    },
    /// The host carries as many tasks as a host may.
    Tasks,
    /// Enough tasks of the job share the host's value of the attribute.
    Limit {
        /// Of which attribute.
        attribute: String,
        /// How many may.
        count: u32,
    },
    /// The host's attributes are not what the job demands.
    Constraint(Constraint),
    /// The host is reserved for other jobs.
    Dedicated,
    /// The host is drained.
    Maintenance,
    /// One task would fit; all of them do not.
    Together {
        /// How many there are.
        tasks: usize,
    },
}

/// How near a veto came: smaller is nearer. The kind's rank, then the relative shortage in thousandths.
pub(crate) type Nearness = (u8, u64);

/// What is short, and how much of the demand, in thousandths, summed over the kinds.
pub(crate) fn shortage(wanted: Resources, free: Resources) -> (u64, [bool; 4]) {
    let parts = [
        (wanted.cpu_milli, free.cpu_milli),
        (wanted.ram_mib, free.ram_mib),
        (wanted.disk_mib, free.disk_mib),
        (wanted.gpus, free.gpus),
    ];
    let mut distance = 0;
    let short = parts.map(|(wanted, free)| {
        if wanted > free {
            distance += (wanted - free).saturating_mul(1000) / wanted;
        }
        wanted > free
    });
    (distance, short)
}

/// The veto of a host's attributes alone: dedicated first, then the constraints in order.
pub(crate) fn of_attributes(config: &TaskConfig, spec: &HostSpec) -> Option<Veto> {
    if config.dedicated().is_none() && spec.values("dedicated").next().is_some() {
        return Some(Veto::Dedicated);
    }
    let broken = config.constraints.iter().find(|c| !holds(c, spec));
    broken.map(|constraint| Veto::Constraint(constraint.clone()))
}

/// Whether a constraint may hold on a host, counts of limits aside: a limit wants the attribute to exist.
pub(crate) fn holds(constraint: &Constraint, spec: &HostSpec) -> bool {
    let mut have = spec.values(&constraint.attribute);
    match &constraint.rule {
        Rule::Value { negated, values } => have.any(|value| values.iter().any(|v| v == value)) != *negated,
        Rule::Compare { comparison, number } => {
            have.any(|value| value.parse().is_ok_and(|value| comparison.holds(value, *number)))
        }
        Rule::Exists { negated } => have.next().is_some() != *negated,
        Rule::Limit { .. } => have.next().is_some(),
    }
}

/// What is wanted and what is free, in words that differ where the amounts do.
fn amounts(what: &'static str, wanted: u64, free: u64) -> (&'static str, String, String) {
    match (mib(wanted), mib(free)) {
        (w, f) if w == f && wanted != free => (what, format!("{wanted} MiB"), format!("{free} MiB")),
        (w, f) => (what, w, f),
    }
}

impl fmt::Display for Veto {
    /// Reads on from "nearest miss: ".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Veto::Insufficient { wanted, free } => {
                let (_, short) = shortage(*wanted, *free);
                let words = [
                    ("cpu", cores(wanted.cpu_milli), cores(free.cpu_milli)),
                    amounts("ram", wanted.ram_mib, free.ram_mib),
                    amounts("disk", wanted.disk_mib, free.disk_mib),
                    ("gpu", wanted.gpus.to_string(), free.gpus.to_string()),
                ];
                let words = words.iter().zip(short).filter(|(_, short)| *short).map(|(words, _)| words);
                let wants: Vec<_> =
                    words.clone().map(|(what, wanted, _)| format!("{wanted} {what}")).collect();
                let many = wants.len() > 1;
                let has: Vec<_> = words
                    .map(|(what, _, free)| if many { format!("{free} {what}") } else { free.clone() })
                    .collect();
                write!(f, "needs {}; the best host has {} free", wants.join(" and "), has.join(" and "))
            }
            Veto::Ports { wanted, free } => write!(f, "needs {wanted} ports; the best host has {free} free"),
            Veto::StaticPort { name, port } => {
                write!(f, "needs port {port} ({name}) itself; on every host that fits another task has it")
            }
            Veto::Tasks => write!(f, "every host that fits carries as many tasks as a host may"),
            Veto::Limit { attribute, count } => {
                write!(f, "limit not satisfied: at most {count} of the job's tasks for each {attribute}")
            }
            Veto::Constraint(Constraint { attribute, rule }) => match rule {
                Rule::Value { negated, values } => {
                    let not = if *negated { "none of " } else { "" };
                    write!(f, "constraint not satisfied: {attribute} must be {not}{}", values.join(" or "))
                }
                Rule::Compare { comparison, number } => {
                    write!(f, "constraint not satisfied: {attribute} must be {} {number}", comparison.sign())
                }
                Rule::Exists { negated: true } => {
                    write!(f, "constraint not satisfied: every host has the attribute {attribute}")
                }
                Rule::Limit { .. } | Rule::Exists { negated: false } => {
                    write!(f, "constraint not satisfied: no host has the attribute {attribute}")
                }
            },
            Veto::Dedicated => write!(f, "the hosts are dedicated to other jobs"),
            Veto::Maintenance => write!(f, "the hosts are drained for maintenance"),
            Veto::Together { tasks } => write!(f, "some of the {tasks} find one, the others do not"),
        }
    }
}
