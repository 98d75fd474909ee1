//! `Preempt`: tasks of one host make room for a pending one. The round chose them; here it is re-checked that each may
//! be displaced, that they suffice, and that no fewer would.

use std::collections::BTreeSet;

use proto::{HostId, Resources, TaskId};

use super::State;
use super::command::{Done, Preempt, Reply};
use super::config::TaskConfig;
use super::host::{Going, Host};
use super::place::stale;
use super::status::{Event, Status};
use super::task::Task;
use super::touch::Touch;
use crate::limits::{PREEMPTION_ROOM_MS, VICTIMS_MAX};
use crate::round::veto;

/// Whether a task can be displaced as it is now: one that is being stopped, or whose host is silent, cannot.
pub(super) fn is_displaceable(task: &Task) -> bool {
    matches!(task.status, Status::Assigned | Status::Starting | Status::Running)
}

/// Whether a pending task of `config` may displace `victim` as it is now.
pub(crate) fn may_displace(config: &TaskConfig, victim: &Task) -> bool {
    is_displaceable(victim) && config.may_displace(&victim.config)
}

/// Whether a task is on its way out for good: its room is as good as free. One that is restarted comes back to it.
pub(crate) fn is_leaving(task: &Task) -> bool {
    matches!(task.status, Status::Killing | Status::Preempting | Status::Draining)
}

/// Whether a task of `config` fits on a host, beside the room that is kept there, once tasks that take `going` and have
/// the ports `freed` are gone.
pub(crate) fn fits_once_gone(
    host: &Host,
    config: &TaskConfig,
    kept: Resources,
    going: Going,
    freed: &BTreeSet<u16>,
) -> bool {
    let room = host.room_without(config.is_revocable(), kept, going);
    let in_ranges = freed.iter().filter(|port| host.record.spec.offers_port(**port)).count();
    let open = |port: &u16| !host.ports.contains(port) || freed.contains(port);
    config.demand.fits_in(&room)
        && config.ports.len() <= host.free_port_count() + in_ranges
        && config.static_ports.iter().all(|(_, port)| open(port))
}

impl State {
    pub(super) fn preempt(&mut self, preempt: Preempt, touch: &mut Touch) -> Reply {
        let Preempt { host, task, victims } = preempt;
        self.check_open(host)?;
        self.check_preemption(host, task, &victims).or_else(stale)?;
        let taker = &self.tasks[&task];
        let why = format!("Preempted by {} (job {})", task, taker.config.job);
        for &victim in &victims {
            self.step_task(victim, Event::Preempt, Some(&why), touch);
        }
        self.reserve(task, host, PREEMPTION_ROOM_MS, touch);
        Ok(Done { id: host.0, tasks: victims.len() as u32, ..Done::default() })
    }

    fn check_preemption(&self, host: HostId, id: TaskId, victims: &[TaskId]) -> Result<(), String> {
        let Some(task) = self.tasks.get(&id) else { return Err(format!("{id} is gone")) };
        if task.status != Status::Pending {
            return Err(format!("{id} is {}", task.status));
        }
        if task.displaced {
            return Err(format!("{id} replaces one that was displaced, and displaces nobody"));
        }
        if self.reservations.contains_key(&id) {
            return Err(format!("room is kept for {id} already"));
        }
        if victims.is_empty() || victims.len() > VICTIMS_MAX || victims.windows(2).any(|w| w[0] >= w[1]) {
            return Err(format!("victims are 1 to {VICTIMS_MAX} tasks in id order, each once"));
        }
        let host = &self.hosts[&host];
        for victim in victims {
            let known = self.tasks.get(victim).filter(|victim| victim.host == Some(host.id()));
            let Some(victim) = known else {
                return Err(format!("{victim} is not on host {}", host.name()));
            };
            if !may_displace(&task.config, victim) {
                return Err(format!("{id} may not displace {} ({})", victim.id, victim.status));
            }
        }
        if let Some(veto) = veto::of_attributes(&task.config, &host.record.spec) {
            return Err(format!("{id}: {veto}"));
        }
        // Tasks of other jobs do not count for the limits of this one.
        for (attribute, limit) in task.config.limits() {
            if !self.limit_holds(task.job, &host.record.spec, attribute, limit) {
                return Err(format!("{id}: limit not satisfied: {attribute}"));
            }
        }
        let without = |spared: Option<TaskId>| {
            let gone = victims.iter().filter(|victim| Some(**victim) != spared);
            self.fits_without(host, task, gone.filter_map(|victim| self.task(*victim)))
        };
        if !without(None) {
            return Err(format!("{id} would not fit on host {} without them", host.name()));
        }
        match victims.iter().find(|victim| without(Some(**victim))) {
            Some(spared) => Err(format!("{id} fits on host {} with {spared} in place", host.name())),
            None => Ok(()),
        }
    }

    /// Whether a task fits on a host once `gone` are.
    fn fits_without<'a>(&'a self, host: &Host, task: &Task, gone: impl Iterator<Item = &'a Task>) -> bool {
        let (mut going, mut freed) = (Going::default(), BTreeSet::new());
        let tasks = host.tasks.iter().filter_map(|task| self.task(*task));
        for victim in tasks.filter(|task| is_leaving(task)).chain(gone) {
            going = going.with(&victim.config);
            freed.extend(victim.port_numbers());
        }
        fits_once_gone(host, &task.config, host.reserved, going, &freed)
    }
}
