//! What the tasks of a job have in common, parsed once. Stored once in State, under the hash of its encoding.
//!
//! The message it was parsed from is carried along unopened, for hosts and for people.

use std::fmt;
use std::sync::Arc;

use proto::{JobKey, Resources, wire};

/// SHA-256 of a config's encoding; its name everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigHash(pub [u8; 32]);

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "config-{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2])
    }
}

/// Who may displace whom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tier {
    /// Production.
    Preferred,
    /// May be displaced.
    Preemptible,
    /// Uses what others have reserved and do not use.
    Revocable,
}

impl Tier {
    /// The tier of that name.
    pub fn named(name: &str) -> Option<Tier> {
        match name {
            "preferred" => Some(Tier::Preferred),
            "preemptible" => Some(Tier::Preemptible),
            "revocable" => Some(Tier::Revocable),
            _ => None,
        }
    }
}

/// One demand on a host's attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Constraint {
    /// Name of the attribute; `host` is the host's own name.
    pub attribute: String,
    /// What is demanded of it.
    pub rule: Rule,
}

/// What a constraint demands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The host has any of the values; negated: it has none of them.
    Value {
        /// Whether the values are forbidden.
        negated: bool,
        /// At least one.
        values: Vec<String>,
    },
    /// At most `count` of the job's tasks on hosts that share a value.
    Limit {
        /// At least 1.
        count: u32,
    },
    /// A value of the host is a whole number and compares so.
    Compare {
        /// How.
        comparison: Comparison,
        /// With what.
        number: i64,
    },
    /// The host has the attribute; negated: it has not.
    Exists {
        /// Whether the attribute is forbidden.
        negated: bool,
    },
}

/// How a number compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
    /// `>`
    More,
}

impl Comparison {
    /// Whether `value` compares so with `number`.
    pub fn holds(self, value: i64, number: i64) -> bool {
        match self {
            Comparison::Less => value < number,
            Comparison::AtMost => value <= number,
            Comparison::AtLeast => value >= number,
            Comparison::More => value > number,
        }
    }

    /// As people write it.
    pub fn sign(self) -> &'static str {
        match self {
            Comparison::Less => "<",
            Comparison::AtMost => "<=",
            Comparison::AtLeast => ">=",
            Comparison::More => ">",
        }
    }
}

/// Hosts that come first, or with a negative weight last, as long as there are others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preference {
    /// Any rule but a limit.
    pub constraint: Constraint,
    /// -100..=100, not 0.
    pub weight: i32,
}

/// Tasks of the job are spread over the values of an attribute as far as there is room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spread {
    /// Name of the attribute.
    pub attribute: String,
    /// (value, percent), each value once, 100 at most in sum; the other values share what they leave. Empty = evenly.
    pub targets: Vec<(String, u32)>,
}

/// What happens to a task whose host is silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionPolicy {
    /// It is replaced; or it waits for its host for ever.
    pub reschedule: bool,
    /// From PARTITIONED until it is replaced.
    pub delay_ms: u64,
}

/// A parsed task config. Equal when the hashes are.
#[derive(Clone, Debug)]
pub struct TaskConfig {
    /// Its name.
    pub hash: ConfigHash,
    /// The job it belongs to.
    pub job: JobKey,
    /// What one task takes from its host: what was asked for, and what its executor needs.
    pub demand: Resources,
    /// What was asked for; what quota is charged.
    pub asked: Resources,
    /// Names of the ports a task is given, in order.
    pub ports: Vec<Arc<str>>,
    /// Ports that a task has wherever it runs, by name.
    pub static_ports: Vec<(Arc<str>, u16)>,
    /// Demands on the host's attributes; those that follow from other fields, too.
    pub constraints: Vec<Constraint>,
    /// Hosts that come first.
    pub preferences: Vec<Preference>,
    /// How tasks are spread.
    pub spreads: Vec<Spread>,
    /// Pending tasks of the job get places together, or none does.
    pub all_or_nothing: bool,
    /// What happens to a task whose host is silent.
    pub partition: PartitionPolicy,
    /// There are never two live copies of an instance: none is replaced before it is certain that it has ended.
    pub at_most_one: bool,
    /// Whether an ended task is always replaced.
    pub service: bool,
    /// Who may displace it.
    pub tier: Tier,
    /// Higher is served first.
    pub priority: i32,
    /// Failures until a batch task is given up; -1 = never.
    pub max_task_failures: i32,
    /// The message this was parsed from, for hosts and people.
    pub wire: wire::TaskConfig,
}

impl PartialEq for TaskConfig {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}
impl Eq for TaskConfig {}

impl TaskConfig {
    /// The value of the `dedicated` constraint, if there is one.
    pub fn dedicated(&self) -> Option<&str> {
        self.constraints.iter().find_map(|c| match &c.rule {
            Rule::Value { negated: false, values } if c.attribute == "dedicated" => {
                values.first().map(String::as_str)
            }
            _ => None,
        })
    }

    /// The limit constraints: (attribute, count).
    pub fn limits(&self) -> impl Iterator<Item = (&str, u32)> {
        self.constraints.iter().filter_map(|c| match c.rule {
            Rule::Limit { count } => Some((c.attribute.as_str(), count)),
            Rule::Value { .. } | Rule::Compare { .. } | Rule::Exists { .. } => None,
        })
    }

    /// Whether it is production: nothing displaces it.
    pub fn is_production(&self) -> bool {
        self.tier == Tier::Preferred
    }

    /// Whether it uses what others have reserved and do not use.
    pub fn is_revocable(&self) -> bool {
        self.tier == Tier::Revocable
    }

    /// What its role's quota is charged for one task.
    pub fn charge(&self) -> Resources {
        if self.is_charged() { self.asked } else { Resources::default() }
    }

    /// Whether its role's quota is charged for it.
    pub fn is_charged(&self) -> bool {
        self.is_production() && self.dedicated().is_none()
    }

    /// Whether a pending task of this config may displace one of `victim`'s: production displaces what is not, and all
    /// displace what only uses what others do not, whosever it is; else a role may displace its own work of the same
    /// tier and lower priority.
    pub fn may_displace(&self, victim: &TaskConfig) -> bool {
        (self.is_production() && !victim.is_production())
            || (!self.is_revocable() && victim.is_revocable())
            || (self.job.role == victim.job.role
                && self.tier == victim.tier
                && self.priority > victim.priority)
    }

    /// The attributes whose values must be counted: those of limits and spreads.
    pub fn counted_attributes(&self) -> impl Iterator<Item = &str> {
        let limits = self.limits().map(|(attribute, _)| attribute);
        let spreads = self.spreads.iter().map(|spread| spread.attribute.as_str());
        // Once each, though a config may name one twice.
        let all: std::collections::BTreeSet<&str> = limits.chain(spreads).collect();
        all.into_iter()
    }

    /// Whether a task with so many failures, the newest included, is tried again.
    pub fn retries_after(&self, failures: u32) -> bool {
        self.service
            || self.max_task_failures == -1
            || i64::from(failures) < i64::from(self.max_task_failures)
    }
}

/// A job as a person wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobSpec {
    /// What its tasks are.
    pub config: Arc<TaskConfig>,
    /// How many.
    pub instances: u32,
}
