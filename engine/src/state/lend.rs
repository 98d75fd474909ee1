//! What tasks have reserved and do not use is lent to revocable ones, and they go first when it is needed back.

use std::cmp::Reverse;

use proto::{HostId, Resources, TaskId};

use super::State;
use super::command::{Done, Hint, Reply};
use super::host::Going;
use super::place::stale;
use super::preempt::is_displaceable;
use super::status::Event;
use super::touch::{Key, Touch};

impl State {
    /// What a host may lend has changed. Where that is less than what is lent, revocable tasks go, the youngest first.
    pub(super) fn report_unused(&mut self, id: HostId, unused: Resources, touch: &mut Touch) -> Reply {
        let Some(host) = self.hosts.get(&id) else { return stale(format!("{id} is gone")) };
        if host.is_silent() {
            return stale(format!("host {} counts as silent", host.name()));
        }
        let reserved = host.used().minus_or_zero(host.revocable());
        // Disk and devices are not lent: what is written there stays.
        let unused = Resources { disk_mib: 0, gpus: 0, ..unused.min(reserved) };
        self.alter_host(id, |record| record.unused = unused);
        touch.row(Key::Host(id));
        touch.hint(Hint::HostDirty(id));
        let tasks = self.take_back(id, touch);
        Ok(Done { id: id.0, tasks, ..Done::default() })
    }

    /// Stops revocable tasks until what stays is not more than the host has.
    fn take_back(&mut self, id: HostId, touch: &mut Touch) -> u32 {
        let host = &self.hosts[&id];
        let capacity = host.record.spec.capacity;
        let tasks = host.tasks.iter().filter_map(|task| self.tasks.get(task));
        let mut revocable: Vec<_> = tasks.filter(|task| task.config.is_revocable()).collect();
        revocable.sort_by_key(|task| (is_displaceable(task), Reverse(task.created), task.id));
        // Those on their way out go first: they are gone already.
        let (mut going, mut victims): (Going, Vec<TaskId>) = (Going::default(), Vec::new());
        for task in revocable {
            let stays = host.used().minus_or_zero(going.all);
            let lent = host.unused_now().min(host.revocable().minus_or_zero(going.revocable));
            if is_displaceable(task) && stays.fits_in(&capacity.plus(lent)) {
                break;
            }
            going = going.with(&task.config);
            if is_displaceable(task) {
                victims.push(task.id);
            }
        }
        let overcommitted = !host.occupied().fits_in(&capacity);
        self.alter_host(id, |record| record.overcommitted = overcommitted);
        self.step_each(&victims, Event::Preempt, "What it was lent is needed back", touch)
    }
}
