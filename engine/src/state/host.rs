//! A machine: who it is, what it offers, what of that is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{HostId, Resources, TaskId};

use super::config::TaskConfig;
use super::task::Task;
use crate::limits::SILENT_HOST_MS;
use crate::time::Timestamp;

/// Who a host says it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostIdentity {
    /// What the cluster called it; `None` = not yet known.
    pub host: Option<HostId>,
    /// Random, made with the agent's journal; another one means the disk was wiped.
    pub journal: String,
    /// Of the machine; another one means a cloned image.
    pub machine: String,
    /// Of the boot.
    pub boot: String,
}

/// What a host is and offers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostSpec {
    /// Unique in the cluster; also the attribute `host`.
    pub name: Arc<str>,
    /// host:port of the agent's own pages.
    pub address: String,
    /// All it has.
    pub capacity: Resources,
    /// Ranges it gives ports from, inclusive, sorted, apart.
    pub ports: Vec<(u16, u16)>,
    /// (name, value), sorted; a name may stand several times.
    pub attributes: Vec<(String, String)>,
    /// Of the agent.
    pub version: String,
}

impl HostSpec {
    /// The values of an attribute. `host` is the name where no attribute says otherwise.
    pub fn values<'a>(&'a self, attribute: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        let start = self.attributes.partition_point(|(name, _)| name.as_str() < attribute);
        let said = self.attributes[start..].iter().take_while(move |(name, _)| name == attribute);
        let said = said.map(|(_, value)| value.as_str());
        let own = (attribute == "host" && said.clone().next().is_none()).then_some(&*self.name);
        said.chain(own)
    }

    /// Whether a port lies in one of the ranges.
    pub fn offers_port(&self, port: u16) -> bool {
        self.ports.iter().any(|&(first, last)| first <= port && port <= last)
    }

    /// How many ports the ranges hold.
    pub fn port_count(&self) -> usize {
        self.ports.iter().map(|&(first, last)| usize::from(last - first) + 1).sum()
    }

    /// The lowest ports that are not in use, in order.
    pub fn free_ports<'a>(&'a self, used: impl Fn(u16) -> bool + 'a) -> impl Iterator<Item = u16> + 'a {
        self.ports.iter().flat_map(|&(first, last)| first..=last).filter(move |&port| !used(port))
    }
}

/// What is stored of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostRecord {
    /// Which.
    pub id: HostId,
    /// Who it says it is.
    pub identity: Arc<HostIdentity>,
    /// What it is and offers.
    pub spec: Arc<HostSpec>,
    /// Rises with every change of what it is owed.
    pub generation: u64,
    /// Highest sequence of a report applied, for this journal.
    pub acknowledged: u64,
    /// When it registered.
    pub since: Timestamp,
    /// Since when it is not heard; `None` = heard.
    pub silent_since: Option<Timestamp>,
    /// It came back smaller than what it runs.
    pub overcommitted: bool,
    /// It gets no tasks, and its own move away.
    pub draining: bool,
    /// What its tasks that are not revocable have reserved and do not use, as it said last.
    pub unused: Resources,
    /// Since it fell silent, tasks of it were replaced: it counts in the minute's limit.
    pub replaced: bool,
}

/// A host with all that it carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// What is stored.
    pub record: HostRecord,
    pub(crate) used: Resources,
    pub(crate) revocable: Resources,
    pub(crate) displaceable: Resources,
    pub(crate) ports: BTreeSet<u16>,
    pub(crate) tasks: BTreeSet<TaskId>,
    pub(crate) reserved: Resources,
    pub(crate) reserved_for: BTreeMap<TaskId, Resources>,
}

/// What tasks on their way out take: all of them, and of that the revocable ones.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Going {
    pub(crate) all: Resources,
    pub(crate) revocable: Resources,
}

impl Going {
    /// One more goes.
    pub(crate) fn with(self, config: &TaskConfig) -> Going {
        let revocable = if config.is_revocable() { config.demand } else { Resources::default() };
        Going { all: self.all.plus(config.demand), revocable: self.revocable.plus(revocable) }
    }

    /// One less.
    pub(crate) fn without(self, config: &TaskConfig) -> Going {
        let revocable = if config.is_revocable() { config.demand } else { Resources::default() };
        Going {
            all: self.all.minus_or_zero(config.demand),
            revocable: self.revocable.minus_or_zero(revocable),
        }
    }
}

/// What an operator wants of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostMode {
    /// It gets tasks.
    Active,
    /// It gets none, and its own move away.
    Draining,
    /// The same, and none are left.
    Drained,
}

impl Host {
    pub(crate) fn new(record: HostRecord) -> Host {
        Host {
            record,
            used: Resources::default(),
            revocable: Resources::default(),
            displaceable: Resources::default(),
            ports: BTreeSet::new(),
            tasks: BTreeSet::new(),
            reserved: Resources::default(),
            reserved_for: BTreeMap::new(),
        }
    }

    /// Which.
    pub fn id(&self) -> HostId {
        self.record.id
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.record.spec.name
    }

    /// Whether it was not heard for too long.
    pub fn is_silent(&self) -> bool {
        self.record.silent_since.is_some()
    }

    /// What an operator wants of it.
    pub fn mode(&self) -> HostMode {
        match (self.record.draining, self.tasks.is_empty()) {
            (false, _) => HostMode::Active,
            (true, false) => HostMode::Draining,
            (true, true) => HostMode::Drained,
        }
    }

    /// Whether it may get tasks: it is heard and not drained.
    pub fn is_open(&self) -> bool {
        !self.is_silent() && !self.record.draining
    }

    /// Room that is kept for pending tasks: (task, what it takes).
    pub fn reserved(&self) -> impl ExactSizeIterator<Item = (TaskId, Resources)> {
        self.reserved_for.iter().map(|(&task, &demand)| (task, demand))
    }

    /// What is left for a task of that config: what is kept for others is not.
    pub fn free_for(&self, task: TaskId, config: &TaskConfig) -> Resources {
        let own = self.reserved_for.get(&task).copied().unwrap_or_default();
        let kept = self.reserved.minus_or_zero(own);
        self.room_without(config.is_revocable(), kept, Going::default())
    }

    /// What is left for a task, a revocable one or another, beside what is kept for others, once `going` are gone.
    pub(crate) fn room_without(&self, revocable: bool, kept: Resources, going: Going) -> Resources {
        let ours = self.revocable.minus_or_zero(going.revocable);
        let used = self.used.minus_or_zero(going.all);
        let lendable = self.lendable_of(used.minus_or_zero(ours));
        let lent = if revocable { lendable } else { lendable.min(ours) };
        self.record.spec.capacity.plus(lent).minus_or_zero(used.plus(kept))
    }

    /// One of its tasks is gone.
    pub(crate) fn let_go(&mut self, task: &Task) {
        self.used = self.used.minus(task.demand()).expect("law: a host's use is the sum of its tasks'");
        if task.config.is_revocable() {
            self.revocable = self.revocable.minus_or_zero(task.demand());
        } else {
            // What is gone is not lent any more, nor again when others come.
            self.record.unused = self.unused_now();
        }
        if !task.config.is_production() {
            self.displaceable = self.displaceable.minus_or_zero(task.demand());
        }
        for port in task.port_numbers() {
            self.ports.remove(&port);
        }
        self.tasks.remove(&task.id);
    }

    /// What may be lent of what tasks that are not revocable have reserved: what they do not use.
    fn lendable_of(&self, reserved: Resources) -> Resources {
        self.record.unused.min(reserved)
    }

    /// What revocable tasks may take beyond what is free, theirs included. A host that came back smaller than what is
    /// reserved on it lends only what it has.
    pub fn lendable(&self) -> Resources {
        let reserved = self.used.minus_or_zero(self.revocable);
        self.unused_now().minus_or_zero(reserved.minus_or_zero(self.record.spec.capacity))
    }

    /// What tasks that are not revocable have reserved and do not use.
    pub(super) fn unused_now(&self) -> Resources {
        self.lendable_of(self.used.minus_or_zero(self.revocable))
    }

    /// What its revocable tasks take; part of `used`.
    pub fn revocable(&self) -> Resources {
        self.revocable
    }

    /// What its tasks take of what it has: what is lent counts once.
    pub fn occupied(&self) -> Resources {
        self.used.minus_or_zero(self.unused_now().min(self.revocable))
    }

    /// How many ports of its ranges no task has.
    pub fn free_port_count(&self) -> usize {
        let spec = &self.record.spec;
        let taken = self.ports.iter().filter(|port| spec.offers_port(**port)).count();
        spec.port_count().saturating_sub(taken)
    }

    /// What its tasks take.
    pub fn used(&self) -> Resources {
        self.used
    }

    /// What those of its tasks take that are not production.
    pub fn displaceable(&self) -> Resources {
        self.displaceable
    }

    /// What is left for tasks that are not revocable.
    pub fn free(&self) -> Resources {
        self.record.spec.capacity.minus_or_zero(self.occupied())
    }

    /// Ports that its tasks have.
    pub fn used_ports(&self) -> &BTreeSet<u16> {
        &self.ports
    }

    /// Its live tasks, in id order.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = TaskId> {
        self.tasks.iter().copied()
    }

    /// When it is forgotten. A drained one is not: it would come back as one that gets tasks.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.record.silent_since.filter(|_| !self.record.draining).map(|at| at.plus_ms(SILENT_HOST_MS))
    }
}
