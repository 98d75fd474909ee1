//! `Assign`: a round's placements, re-checked one by one against State as it is now.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::State;
use super::command::{Assign, Done, Placement, Refusal, RefusalKind, Reply};
use super::config::TaskConfig;
use super::host::{Host, HostSpec};
use super::status::{Event, Status};
use super::touch::Touch;
use crate::limits::TASKS_PER_HOST_MAX;
use crate::round::veto;

impl State {
    pub(super) fn assign(&mut self, assign: Assign, touch: &mut Touch) -> Reply {
        let stale = |message: String| Err(Refusal::new(RefusalKind::Stale, message));
        if self.is_stopped() {
            return stale("nothing is placed while the cluster is frozen or held".to_owned());
        }
        let Some(host) = self.hosts.get(&assign.host) else {
            return stale(format!("{} is gone", assign.host));
        };
        if host.is_silent() {
            return stale(format!("host {} is silent", host.name()));
        }
        let (mut placed, mut first_refusal) = (0, None);
        for placement in assign.placements {
            match self.check_placement(&self.hosts[&assign.host], &placement) {
                Ok(()) => {
                    self.place(assign.host, placement, touch);
                    placed += 1;
                }
                Err(why) => first_refusal = first_refusal.or(Some(why)),
            }
        }
        match first_refusal {
            Some(why) if placed == 0 => stale(why),
            _ => Ok(Done { id: assign.host.0, tasks: placed }),
        }
    }

    fn check_placement(&self, host: &Host, placement: &Placement) -> Result<(), String> {
        let id = placement.task;
        let Some(task) = self.tasks.get(&id) else { return Err(format!("{id} is gone")) };
        if task.status != Status::Pending {
            return Err(format!("{id} is {}", task.status));
        }
        if host.tasks.len() >= TASKS_PER_HOST_MAX {
            return Err(format!("host {} carries {TASKS_PER_HOST_MAX} tasks", host.name()));
        }
        if !capacity_holds(host, &task.config) {
            return Err(format!(
                "{id} needs {}; host {} has {} free",
                task.demand(),
                host.name(),
                host.free()
            ));
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
    fn limit_holds(&self, job: proto::JobId, spec: &HostSpec, attribute: &str, limit: u32) -> bool {
        let mut counts: BTreeMap<&str, u32> = spec.values(attribute).map(|value| (value, 0)).collect();
        let Some(job) = self.jobs.get(&job) else { return false };
        for host in self.tasks_of(job).filter_map(|task| task.host) {
            let Some(host) = self.hosts.get(&host) else { continue };
            for value in host.record.spec.values(attribute) {
                if let Some(count) = counts.get_mut(value) {
                    *count += 1;
                }
            }
        }
        !counts.is_empty() && counts.values().all(|&count| count < limit)
    }

    fn place(&mut self, host: proto::HostId, placement: Placement, touch: &mut Touch) {
        let task = self.tasks.get_mut(&placement.task).expect("checked: the task is pending");
        task.host = Some(host);
        task.ports = Arc::from(placement.ports);
        let task = task.clone();
        self.occupy(host, &task);
        self.step_task(task.id, Event::Place, None, touch);
    }
}

#[cfg(not(test))]
fn capacity_holds(host: &Host, config: &TaskConfig) -> bool {
    config.demand.fits_in(&host.free())
}

/// As above, with a switch by which the tests prove that their hunter finds a dropped re-check.
#[cfg(test)]
fn capacity_holds(host: &Host, config: &TaskConfig) -> bool {
    config.demand.fits_in(&host.free()) || tests::DROP_CAPACITY_CHECK.with(std::cell::Cell::get)
}

fn check_ports(host: &Host, config: &TaskConfig, ports: &[u16]) -> Result<(), String> {
    if ports.len() != config.ports.len() {
        return Err(format!("it needs {} ports and was given {}", config.ports.len(), ports.len()));
    }
    for (at, &port) in ports.iter().enumerate() {
        if !host.record.spec.offers_port(port) {
            return Err(format!("host {} does not offer port {port}", host.name()));
        }
        if host.ports.contains(&port) || ports[..at].contains(&port) {
            return Err(format!("port {port} of host {} is taken", host.name()));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        /// Drops the re-check of a host's room, to prove that the laws notice.
        pub(crate) static DROP_CAPACITY_CHECK: Cell<bool> = const { Cell::new(false) };
    }
}
