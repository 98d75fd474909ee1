//! "Who is this host?", silence, and the end of hosts.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::{HostId, Resources, TaskId};

use super::command::{Done, Hint, Refusal, RefusalKind, Reply};
use super::host::{Host, HostIdentity, HostRecord, HostSpec};
use super::job::Places;
use super::status::Event;
use super::touch::{Key, Touch};
use super::{Due, State};
use crate::limits::HOSTS_MAX;
use crate::time::Timestamp;

/// What a registration means.
enum Meaning {
    /// A machine never seen.
    New,
    /// The same journal as before: its tasks are what its reports say.
    Known(HostId),
    /// The same machine, its journal gone: the old tasks that it did not find again are lost.
    Wiped(HostId),
    /// Another machine under the name of one that is silent: the old one is gone.
    Replaces(HostId),
}

impl State {
    pub(super) fn register_host(
        &mut self,
        identity: HostIdentity,
        spec: HostSpec,
        held: &BTreeSet<TaskId>,
        touch: &mut Touch,
    ) -> Reply {
        let meaning = self.who_is(&identity, &spec)?;
        if matches!(meaning, Meaning::New) && self.hosts.len() >= HOSTS_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!("the cluster has {HOSTS_MAX} hosts and takes no more"),
            ));
        }
        let id = match meaning {
            Meaning::New => self.enter_host(identity, spec, false, touch),
            Meaning::Replaces(old) => {
                // What an operator wants of the place does not change with the machine in it.
                let draining = self.hosts[&old].record.draining;
                self.remove_host(old, "The host was replaced by another machine", touch);
                self.enter_host(identity, spec, draining, touch)
            }
            Meaning::Wiped(id) => {
                self.lose_tasks(id, held, "The host came back without its journal", touch);
                self.renew_host(id, identity, spec, true, touch);
                id
            }
            Meaning::Known(id) => {
                self.renew_host(id, identity, spec, false, touch);
                id
            }
        };
        self.owe(id, touch);
        touch.deadlines();
        Ok(Done { id: id.0, tasks: self.hosts[&id].tasks.len() as u32, ..Done::default() })
    }

    fn who_is(&self, identity: &HostIdentity, spec: &HostSpec) -> Result<Meaning, Refusal> {
        let refuse = |message: String| Err(Refusal::new(RefusalKind::HostRefused, message));
        if spec.name.is_empty() || identity.journal.is_empty() {
            return Err(Refusal::new(RefusalKind::Invalid, "a host has a name and a journal"));
        }
        let same_machine = |host: &&Host| host.record.identity.machine == identity.machine;
        let by_id = identity.host.and_then(|id| self.hosts.get(&id)).filter(same_machine);
        let by_name = self.host_by_name(&spec.name);
        let Some(host) = by_id.or_else(|| by_name.filter(same_machine)) else {
            // Another machine, be it a cloned image or a stranger: it gets an id of its own.
            return match by_name {
                None => Ok(Meaning::New),
                Some(old) if old.is_silent() => Ok(Meaning::Replaces(old.id())),
                Some(_) => refuse(format!(
                    "host name {:?} belongs to another machine that is alive; give this one another name",
                    spec.name
                )),
            };
        };
        if by_name.is_some_and(|other| other.id() != host.id()) {
            return refuse(format!("host name {:?} belongs to another host; choose another name", spec.name));
        }
        let known = &host.record.identity;
        let same_journal = known.journal == identity.journal;
        if !host.is_silent() && (!same_journal || known.boot != identity.boot) {
            let what = if same_journal { "boot" } else { "journal" };
            return refuse(format!(
                "host {:?} is alive with another {what}; if this is the same machine, wait until the old agent counts as silent",
                host.name()
            ));
        }
        Ok(if same_journal { Meaning::Known(host.id()) } else { Meaning::Wiped(host.id()) })
    }

    fn enter_host(
        &mut self,
        identity: HostIdentity,
        spec: HostSpec,
        draining: bool,
        touch: &mut Touch,
    ) -> HostId {
        let id = HostId(self.new_id());
        self.link_host(Host::new(HostRecord {
            id,
            identity: Arc::new(HostIdentity { host: Some(id), ..identity }),
            spec: Arc::new(spec),
            generation: 0,
            acknowledged: 0,
            since: self.cluster.clock,
            silent_since: None,
            overcommitted: false,
            draining,
            unused: Resources::default(),
            replaced: false,
        }));
        touch.row(Key::Host(id));
        id
    }

    fn renew_host(
        &mut self,
        id: HostId,
        identity: HostIdentity,
        spec: HostSpec,
        wiped: bool,
        touch: &mut Touch,
    ) {
        let clock = self.cluster.clock;
        let overcommitted = !self.hosts[&id].occupied().fits_in(&spec.capacity);
        let old = self.hosts[&id].record.spec.clone();
        let moved = old.attributes != spec.attributes || old.name != spec.name;
        if moved {
            self.note_places(id, &old, Places::remove);
        }
        self.alter_host(id, |record| {
            record.identity = Arc::new(HostIdentity { host: Some(id), ..identity });
            record.spec = Arc::new(spec);
            record.since = clock;
            record.silent_since = None;
            record.replaced = false;
            record.overcommitted = overcommitted;
            if wiped {
                record.acknowledged = 0;
            }
        });
        if moved {
            let spec = self.hosts[&id].record.spec.clone();
            self.note_places(id, &spec, Places::add);
        }
        touch.row(Key::Host(id));
        self.look_at_brake(touch);
    }

    /// Counts all tasks of a host in or out where limits and spreads look.
    fn note_places(&mut self, id: HostId, spec: &HostSpec, how: fn(&mut Places, &str, &str)) {
        let tasks: Vec<TaskId> = self.hosts[&id].tasks.iter().copied().collect();
        for task in tasks {
            let task = self.tasks[&task].clone();
            self.note_place(&task, spec, how);
        }
    }

    pub(super) fn silence(&mut self, id: HostId, since: Timestamp, touch: &mut Touch) -> Reply {
        let stale = |message: String| Err(Refusal::new(RefusalKind::Stale, message));
        if self.is_stopped() {
            return stale("no host is declared silent while the cluster is frozen or held".to_owned());
        }
        let Some(host) = self.hosts.get(&id) else { return stale(format!("{id} is gone")) };
        if host.is_silent() {
            return Ok(Done { id: id.0, tasks: 0, ..Done::default() });
        }
        if host.record.since != since {
            return stale(format!("host {} has registered anew", host.name()));
        }
        let clock = self.cluster.clock;
        self.alter_host(id, |record| record.silent_since = Some(clock));
        self.look_at_brake(touch);
        self.unreserve_host(id, touch);
        let targets: Vec<TaskId> = self.hosts[&id].tasks.iter().copied().collect();
        for &task in &targets {
            self.step_task(task, Event::HostSilent, Some("The host is silent"), touch);
        }
        self.owe(id, touch);
        touch.deadlines();
        Ok(Done { id: id.0, tasks: targets.len() as u32, ..Done::default() })
    }

    /// Ends the tasks of a host that it cannot have any more: all but those it holds. Those being killed are not
    /// replaced.
    fn lose_tasks(&mut self, id: HostId, held: &BTreeSet<TaskId>, why: &str, touch: &mut Touch) -> usize {
        let targets: Vec<TaskId> = self.hosts[&id].tasks.difference(held).copied().collect();
        for &task in &targets {
            self.step_task(task, Event::SaysLost, Some(why), touch);
        }
        debug_assert!(self.hosts[&id].tasks.is_subset(held), "every status on a host ends by loss");
        targets.len()
    }

    /// Forgets a host; its tasks are lost. Gives back how many there were.
    pub(super) fn remove_host(&mut self, id: HostId, why: &str, touch: &mut Touch) -> usize {
        self.unreserve_host(id, touch);
        let lost = self.lose_tasks(id, &BTreeSet::new(), why, touch);
        let Some(host) = self.hosts.remove(&id) else { return lost };
        if let Some(at) = host.deadline() {
            self.deadlines.remove(&(at, Due::Host(id)));
        }
        if self.names.get(host.name()) == Some(&id) {
            self.names.remove(host.name());
        }
        if let Some(since) = host.record.silent_since {
            self.silences.remove(&(since, id));
            self.look_at_brake(touch);
        }
        touch.row(Key::Host(id));
        touch.hint(Hint::HostDirty(id));
        lost
    }
}
