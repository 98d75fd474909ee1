//! `Assign`: a round's placements, re-checked one by one against State as it is now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{HostId, JobId, Resources, TaskId};

use super::State;
use super::breaks::{Break, broken};
use super::command::{Assign, Done, Placement, Refusal, RefusalKind, Reply};
use super::config::TaskConfig;
use super::host::{Going, Host, HostSpec};
use super::job::Places;
use super::status::{Event, Status};
use super::touch::Touch;
use crate::limits::{TASKS_PER_HOST_MAX, TOGETHER_MAX};
use crate::round::veto;

impl State {
    pub(super) fn assign(&mut self, assign: Assign, touch: &mut Touch) -> Reply {
        self.check_open(assign.host)?;
        let (mut placed, mut first_refusal) = (0, None);
        for placement in assign.placements {
            match self.check_placement(assign.host, &placement) {
                Ok(()) => {
                    self.place(assign.host, placement, touch);
                    placed += 1;
                }
                Err(why) => first_refusal = first_refusal.or(Some(why)),
            }
        }
        match first_refusal {
            Some(why) if placed == 0 => stale(why),
            _ => Ok(Done { id: assign.host.0, tasks: placed, ..Done::default() }),
        }
    }

    /// Places for tasks of one job and config, all or none. Each is checked as if those before it were made;
    /// they are made one by one afterwards.
    pub(super) fn assign_together(&mut self, assigns: Vec<Assign>, touch: &mut Touch) -> Reply {
        let count: usize = assigns.iter().map(|assign| assign.placements.len()).sum();
        if count > TOGETHER_MAX as usize {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!("at most {TOGETHER_MAX} tasks are placed together, not {count}"),
            ));
        }
        let mut sum = Tentative::default();
        for assign in &assigns {
            self.check_open(assign.host)?;
            for placement in &assign.placements {
                self.check_placement(assign.host, placement)
                    .and_then(|()| sum.add(self, assign.host, placement))
                    .or_else(stale)?;
            }
        }
        for Assign { host, placements } in assigns {
            placements.into_iter().for_each(|placement| self.place(host, placement, touch));
        }
        Ok(Done { id: 0, tasks: count as u32, ..Done::default() })
    }

    /// Whether a host may be given anything now.
    pub(super) fn check_open(&self, host: HostId) -> Result<(), Refusal> {
        if self.is_stopped() {
            return stale("nothing is placed while the cluster is frozen or held".to_owned());
        }
        let Some(host) = self.hosts.get(&host) else { return stale(format!("{host} is gone")) };
        if host.is_silent() {
            return stale(format!("host {} is silent", host.name()));
        }
        if host.record.draining {
            return stale(format!("host {} is drained", host.name()));
        }
        Ok(())
    }

    fn check_placement(&self, host: HostId, placement: &Placement) -> Result<(), String> {
        let (host, id) = (&self.hosts[&host], placement.task);
        let Some(task) = self.tasks.get(&id) else { return Err(format!("{id} is gone")) };
        if task.status != Status::Pending {
            return Err(format!("{id} is {}", task.status));
        }
        if self.is_of_before(id) {
            return Err(format!("{id} waits for an id of its own, since the cluster was restored"));
        }
        if broken(Break::PlacementUnchecked) {
            return Ok(());
        }
        if host.tasks.len() >= TASKS_PER_HOST_MAX {
            return Err(format!("host {} carries {TASKS_PER_HOST_MAX} tasks", host.name()));
        }
        let free = host.free_for(id, &task.config);
        if !task.demand().fits_in(&free) && !broken(Break::RoomUnchecked) {
            return Err(format!("{id} needs {}; host {} has {free} free for it", task.demand(), host.name()));
        }
        check_ports(host, &task.config, &placement.ports).map_err(|why| format!("{id}: {why}"))?;
        let spec = &host.record.spec;
        if let Some(veto) = veto::of_attributes(&task.config, spec) {
            return Err(format!("{id}: {veto}"));
        }
        for (attribute, limit) in task.config.limits() {
            if !self.limit_holds(task.job, spec, attribute, limit) {
                return Err(format!("{id}: limit not satisfied: {attribute}"));
            }
        }
        Ok(())
    }

    /// Whether each of the host's values of the attribute has room for one more task of the job.
    pub(super) fn limit_holds(&self, job: JobId, spec: &HostSpec, attribute: &str, limit: u32) -> bool {
        let Some(job) = self.jobs.get(&job) else { return false };
        let mut values = spec.values(attribute).peekable();
        values.peek().is_some() && values.all(|value| job.places.of(attribute, value) < limit)
    }

    fn place(&mut self, host: HostId, placement: Placement, touch: &mut Touch) {
        self.unreserve(placement.task, touch);
        let task = self.tasks.get_mut(&placement.task).expect("checked: the task is pending");
        let placed = Arc::make_mut(task);
        placed.host = Some(host);
        placed.ports = placement.ports.into();
        let task = task.clone();
        self.occupy(host, &task);
        self.step_task(task.id, Event::Place, None, touch);
    }
}

/// What placements checked together take in sum.
#[derive(Default)]
struct Tentative {
    config: Option<Arc<TaskConfig>>,
    tasks: BTreeSet<TaskId>,
    /// Per host: how many tasks, the ports they get, and what of the room that is kept there is kept for them.
    hosts: BTreeMap<HostId, (u32, BTreeSet<u16>, Resources)>,
    places: Places,
}

impl Tentative {
    /// Adds a placement that holds alone; refuses it if it does not hold beside those added before.
    fn add(&mut self, state: &State, host: HostId, placement: &Placement) -> Result<(), String> {
        let task = &state.tasks[&placement.task];
        let config = self.config.get_or_insert_with(|| task.config.clone()).clone();
        let id = task.id;
        if config != task.config {
            return Err(format!("{id} is of another config than the tasks it is placed with"));
        }
        if !self.tasks.insert(id) {
            return Err(format!("{id} is placed twice"));
        }
        let host = &state.hosts[&host];
        let (count, ports, own) = self.hosts.entry(host.id()).or_default();
        *count += 1;
        *own = own.plus(host.reserved_for.get(&id).copied().unwrap_or_default());
        let kept = host.reserved.minus_or_zero(*own);
        let room = host.room_without(config.is_revocable(), kept, Going::default());
        if !config.demand.times(*count).fits_in(&room)
            || host.tasks.len() + *count as usize > TASKS_PER_HOST_MAX
        {
            return Err(format!("host {} has no room for {count} of the tasks", host.name()));
        }
        let fixed = config.static_ports.iter().map(|(_, port)| port);
        if let Some(port) = placement.ports.iter().chain(fixed).find(|port| !ports.insert(**port)) {
            return Err(format!("port {port} of host {} is given twice", host.name()));
        }
        for (attribute, limit) in config.limits() {
            for value in host.record.spec.values(attribute) {
                self.places.add(attribute, value);
                let before = state.jobs.get(&task.job).map_or(0, |job| job.places.of(attribute, value));
                if before + self.places.of(attribute, value) > limit {
                    return Err(format!("{id}: limit not satisfied: {attribute}"));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn stale<T>(message: String) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalKind::Stale, message))
}

fn check_ports(host: &Host, config: &TaskConfig, ports: &[u16]) -> Result<(), String> {
    if ports.len() != config.ports.len() {
        return Err(format!("it needs {} ports and was given {}", config.ports.len(), ports.len()));
    }
    for (name, port) in &config.static_ports {
        if host.ports.contains(port) {
            return Err(format!("port {port} ({name}) of host {} is taken", host.name()));
        }
    }
    for (at, &port) in ports.iter().enumerate() {
        if !host.record.spec.offers_port(port) {
            return Err(format!("host {} does not offer port {port}", host.name()));
        }
        let fixed = config.static_ports.iter().any(|(_, fixed)| *fixed == port);
        if host.ports.contains(&port) || ports[..at].contains(&port) || fixed {
            return Err(format!("port {port} of host {} is taken", host.name()));
        }
    }
    Ok(())
}
