//! What a round reads, kept by the leader beside State: flat columns of hosts, pending tasks in groups of equal
//! config, placements proposed and not yet settled.
//!
//! The view takes hints and looks at State; it is as right as the last look. Whatever it believes wrongly is
//! caught by `apply`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::{HostId, JobId, Resources, TaskId};

use super::attributes::Attributes;
use super::bits::Bits;
use super::{GroupReport, Round};
use crate::state::State;
use crate::state::command::{Assign, Hint};
use crate::state::config::{ConfigHash, TaskConfig};
use crate::state::host::HostSpec;
use crate::state::status::Status;

/// Pending tasks of one job with one config.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) job: JobId,
    pub(super) config: Arc<TaskConfig>,
    pub(super) pending: BTreeSet<TaskId>,
    /// The last fruitless try: the view's version then, and what was found.
    pub(super) tried: Option<(u64, Arc<GroupReport>)>,
}

/// A placement proposed and not yet settled.
#[derive(Clone, Debug)]
struct InFlight {
    host: HostId,
    job: JobId,
    config: Arc<TaskConfig>,
    ports: Vec<u16>,
}

/// What hosts have, by slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub(super) ids: Vec<Option<HostId>>,
    pub(super) free: Vec<Resources>,
    pub(super) capacity: Vec<Resources>,
    /// Tasks that the host may still take.
    pub(super) room: Vec<usize>,
    pub(super) specs: Vec<Arc<HostSpec>>,
    pub(super) ports: Vec<Arc<BTreeSet<u16>>>,
    /// Hosts that are heard.
    pub(super) heard: Bits,
}

/// What a round reads.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub(super) columns: Columns,
    pub(super) attributes: Attributes,
    pub(super) slots: BTreeMap<HostId, usize>,
    vacant: Vec<usize>,
    pub(super) groups: BTreeMap<ConfigHash, Group>,
    group_of: BTreeMap<TaskId, ConfigHash>,
    in_flight: BTreeMap<TaskId, InFlight>,
    in_flight_on: BTreeMap<HostId, BTreeSet<TaskId>>,
    /// Of jobs with limits that have pending tasks: where their tasks are, in flight included.
    pub(super) spread: BTreeMap<JobId, BTreeMap<HostId, u32>>,
    pub(super) stopped: Option<&'static str>,
    /// Rises whenever something became free, or hosts came or went.
    pub(super) version: u64,
}

impl View {
    /// A view of all that State has, as a new leader needs it.
    pub fn new(state: &State) -> View {
        let mut view = View::default();
        view.absorb(state, &state.hints_after_election());
        view
    }

    /// Looks at what the hints name; costs what has changed.
    pub fn absorb(&mut self, state: &State, hints: &[Hint]) {
        let (mut hosts, mut jobs) = (BTreeSet::new(), BTreeSet::new());
        for &hint in hints {
            match hint {
                Hint::HostDirty(host) => {
                    hosts.insert(host);
                    // A placement that State has taken in is no longer in flight.
                    let settled: Vec<TaskId> =
                        self.in_flight_on.get(&host).into_iter().flatten().copied().collect();
                    for task in settled {
                        self.look_at_task(state, task, &mut hosts);
                    }
                }
                Hint::TaskPending(task) => {
                    jobs.extend(state.task(task).map(|task| task.job));
                    self.look_at_task(state, task, &mut hosts);
                }
                Hint::JobChanged(job) => {
                    jobs.insert(job);
                }
                Hint::FreezeChanged => self.look_at_freeze(state),
                Hint::DeadlineChanged | Hint::WorkDue(_) => {}
            }
        }
        for host in hosts {
            self.look_at_host(state, host);
        }
        for job in jobs {
            self.look_at_spread(state, job);
        }
    }

    /// The round's placements are being proposed: they take their room until they are settled.
    pub fn launch(&mut self, round: &Round) {
        for report in &round.report.groups {
            if report.waiting > 0
                && !report.cut_short
                && let Some(group) = self.groups.get_mut(&report.config)
            {
                group.tried = Some((self.version, report.clone()));
            }
        }
        for Assign { host, placements } in &round.assigns {
            let Some(&slot) = self.slots.get(host) else { continue };
            for placement in placements {
                let Some(hash) = self.group_of.remove(&placement.task) else { continue };
                let Some(group) = self.groups.get_mut(&hash) else { continue };
                group.pending.remove(&placement.task);
                let (job, config) = (group.job, group.config.clone());
                if group.pending.is_empty() {
                    self.groups.remove(&hash);
                }
                self.columns.free[slot] = self.columns.free[slot].minus_or_zero(config.demand);
                self.columns.room[slot] = self.columns.room[slot].saturating_sub(1);
                if !placement.ports.is_empty() {
                    Arc::make_mut(&mut self.columns.ports[slot]).extend(&placement.ports);
                }
                if let Some(spread) = self.spread.get_mut(&job) {
                    *spread.entry(*host).or_default() += 1;
                }
                let flight = InFlight { host: *host, job, config, ports: placement.ports.clone() };
                self.in_flight.insert(placement.task, flight);
                self.in_flight_on.entry(*host).or_default().insert(placement.task);
            }
        }
    }

    /// The fate of a proposal is known (applied or refused): what of it was not taken in is pending again.
    /// While the fate is unknown, do not call this.
    pub fn settle(&mut self, state: &State, assign: &Assign) {
        let (mut hosts, mut jobs) = (BTreeSet::from([assign.host]), BTreeSet::new());
        for placement in &assign.placements {
            if let Some(flight) = self.drop_flight(placement.task) {
                hosts.insert(flight.host);
                jobs.insert(flight.job);
            }
            self.look_at_task(state, placement.task, &mut hosts);
        }
        for host in hosts {
            self.look_at_host(state, host);
        }
        for job in jobs {
            self.look_at_spread(state, job);
        }
    }

    /// Pending tasks that no proposal is about.
    pub fn pending(&self) -> usize {
        self.group_of.len()
    }

    /// Placements proposed and not yet settled.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Why the tasks of that config are pending, as the last round that tried them found.
    pub fn why_pending(&self, config: &ConfigHash) -> Option<&Arc<GroupReport>> {
        self.groups.get(config)?.tried.as_ref().map(|(_, report)| report)
    }

    fn look_at_freeze(&mut self, state: &State) {
        self.version += 1;
        self.stopped = if state.cluster().held {
            Some("the cluster is held after a restore; `borealis cluster resume` lets it go on")
        } else if state.cluster().frozen {
            Some("the cluster is frozen; `borealis cluster thaw` lets it go on")
        } else {
            None
        };
    }

    fn look_at_task(&mut self, state: &State, id: TaskId, hosts: &mut BTreeSet<HostId>) {
        let task = state.task(id).filter(|task| task.status == Status::Pending);
        let Some(task) = task else {
            hosts.extend(self.drop_flight(id).map(|flight| flight.host));
            if let Some(hash) = self.group_of.remove(&id)
                && let Some(group) = self.groups.get_mut(&hash)
            {
                group.pending.remove(&id);
                if group.pending.is_empty() {
                    self.groups.remove(&hash);
                }
            }
            return;
        };
        if self.in_flight.contains_key(&id) {
            return;
        }
        self.group_of.insert(id, task.config.hash);
        let group = self.groups.entry(task.config.hash).or_insert_with(|| Group {
            job: task.job,
            config: task.config.clone(),
            pending: BTreeSet::new(),
            tried: None,
        });
        group.pending.insert(id);
    }

    fn drop_flight(&mut self, id: TaskId) -> Option<InFlight> {
        let flight = self.in_flight.remove(&id)?;
        if let Some(on) = self.in_flight_on.get_mut(&flight.host) {
            on.remove(&id);
            if on.is_empty() {
                self.in_flight_on.remove(&flight.host);
            }
        }
        Some(flight)
    }

    fn look_at_host(&mut self, state: &State, id: HostId) {
        let Some(host) = state.host(id) else {
            if let Some(slot) = self.slots.remove(&id) {
                self.attributes.leave(slot, &self.columns.specs[slot].clone());
                self.columns.heard.set(slot, false);
                self.columns.ids[slot] = None;
                self.vacant.push(slot);
                self.version += 1;
            }
            return;
        };
        let slot = self.slots.get(&id).copied().unwrap_or_else(|| self.new_slot(id));
        let spec = &host.record.spec;
        let old_spec = self.columns.specs[slot].clone();
        let mut better = false;
        if old_spec != *spec {
            self.attributes.leave(slot, &old_spec);
            self.attributes.enter(slot, spec);
            self.columns.specs[slot] = spec.clone();
            better = true;
        }
        let heard = !host.is_silent();
        // A host that falls silent makes nothing better, but the reasons that were given are no longer true.
        better |= heard != self.columns.heard.has(slot);
        self.columns.heard.set(slot, heard);
        let (mut free, mut ports) = (host.free(), host.used_ports().clone());
        let mut room = crate::limits::TASKS_PER_HOST_MAX.saturating_sub(host.tasks().len());
        for task in self.in_flight_on.get(&id).into_iter().flatten() {
            let flight = &self.in_flight[task];
            free = free.minus_or_zero(flight.config.demand);
            ports.extend(&flight.ports);
            room = room.saturating_sub(1);
        }
        better |= !free.fits_in(&self.columns.free[slot]) || room > self.columns.room[slot];
        better |= ports.len() < self.columns.ports[slot].len();
        self.columns.free[slot] = free;
        self.columns.capacity[slot] = spec.capacity;
        self.columns.room[slot] = room;
        if ports != *self.columns.ports[slot] {
            self.columns.ports[slot] = Arc::new(ports);
        }
        self.version += u64::from(better);
    }

    fn new_slot(&mut self, id: HostId) -> usize {
        let columns = &mut self.columns;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            columns.ids.push(None);
            columns.free.push(Resources::default());
            columns.capacity.push(Resources::default());
            columns.room.push(0);
            columns.specs.push(Arc::default());
            columns.ports.push(Arc::default());
            columns.heard.grow(columns.ids.len());
            columns.ids.len() - 1
        });
        columns.ids[slot] = Some(id);
        columns.free[slot] = Resources::default();
        columns.room[slot] = 0;
        columns.specs[slot] = Arc::default();
        columns.ports[slot] = Arc::default();
        columns.heard.set(slot, false);
        self.slots.insert(id, slot);
        slot
    }

    /// Where the tasks of a job with limits are. The walk over the job's tasks is paid by such jobs only.
    fn look_at_spread(&mut self, state: &State, id: JobId) {
        let job = state.job_by_id(id).filter(|job| job.config().limits().next().is_some());
        let waiting = job.is_some_and(|job| job.counts().of(Status::Pending) > 0);
        let (Some(job), true) = (job, waiting) else {
            self.spread.remove(&id);
            return;
        };
        let mut spread: BTreeMap<HostId, u32> = BTreeMap::new();
        for task in state.tasks_of(job) {
            let host = task.host.or_else(|| self.in_flight.get(&task.id).map(|flight| flight.host));
            if let Some(host) = host {
                *spread.entry(host).or_default() += 1;
            }
        }
        self.spread.insert(id, spread);
    }
}
