//! What would become of a job if nothing else were pending: rounds and displacements on a copy of what the leader
//! reads. Pure; nothing changes.
//!
//! Rounds are made until none places anything, then others are displaced, and so on until nothing changes or whoever
//! asks has waited long enough. State is looked at in short steps: it goes on meanwhile, so a plan is a forecast. Of a
//! job that lives, the room of its tasks is given back first.

use std::collections::{BTreeMap, BTreeSet};

use proto::{HostId, JobId, JobKey, TaskId};

use super::preempt::Search;
use super::view::{Group, View};
use super::{GroupReport, round};
use crate::limits::PLACEMENTS_PER_ROUND_MAX;
use crate::state::State;
use crate::state::command::Preempt;
use crate::state::config::{ConfigHash, JobSpec};
use crate::state::host::Host;
use crate::state::task::Task;

/// Tasks of a job that lives whose room is given back in one step.
const GIVEN_BACK_PER_STEP: usize = 1_000;

/// A plan in the making, and what came of it.
#[derive(Debug)]
pub struct Plan {
    view: View,
    job: JobKey,
    config: ConfigHash,
    together: bool,
    /// Hosts that have lost tasks in the plan.
    hosts: BTreeMap<HostId, Host>,
    /// Hosts on which nothing more can be displaced.
    fruitless: BTreeSet<HostId>,
    /// Instances that would get a place at once.
    pub now: usize,
    /// Instances that would get one after others were displaced.
    pub displacing: usize,
    /// Whom they would displace.
    pub displaced: Vec<Preempt>,
    /// Why some get no place at once.
    pub why: Option<GroupReport>,
    /// Not everything was tried: more might get a place.
    pub cut: bool,
}

impl Plan {
    /// Of a job, on what the view has. Copies the view's hosts, and looks at nothing else.
    pub fn new(view: &View, spec: &JobSpec) -> Plan {
        // Ids that no task will ever have.
        let pending: BTreeSet<TaskId> =
            (0..u64::from(spec.instances)).map(|n| TaskId(u64::MAX - n)).collect();
        Plan {
            view: view.alone(Group::of(JobId(0), spec.config.clone(), pending)),
            job: spec.config.job.clone(),
            config: spec.config.hash,
            together: spec.config.all_or_nothing,
            hosts: BTreeMap::new(),
            fruitless: BTreeSet::new(),
            now: 0,
            displacing: 0,
            displaced: Vec::new(),
            why: None,
            cut: false,
        }
    }

    /// Instances that would get no place.
    pub fn waiting(&self) -> usize {
        self.view.pending()
    }

    /// Finishes the plan, or gives up when `more` says that it has taken long enough. `look` shows State for a moment.
    pub fn make(&mut self, mut look: impl FnMut(&mut dyn FnMut(&State)), mut more: impl FnMut() -> bool) {
        let mut next = Some(0);
        while let Some(from) = next {
            look(&mut |state| next = self.give_back(state, from));
        }
        self.now = self.place(&mut more);
        while self.waiting() > 0 && !self.together {
            if !more() {
                self.cut = true;
                return;
            }
            let mut changed = false;
            look(&mut |state| changed = self.displace(state));
            if !changed {
                return;
            }
            self.displacing += self.place(&mut more);
        }
    }

    /// Gives back the room of some tasks of the job as it lives, from an instance on; gives the next one.
    fn give_back(&mut self, state: &State, from: u32) -> Option<u32> {
        let job = state.job(&self.job)?;
        let mut live = job.live.range(from..);
        let mut hosts = BTreeSet::new();
        for (_, task) in live.by_ref().take(GIVEN_BACK_PER_STEP) {
            let Some(task) = state.task(*task) else { continue };
            hosts.extend(self.let_go(state, task));
        }
        self.look_at(&hosts);
        live.next().map(|(&instance, _)| instance)
    }

    /// A task is gone in the plan; gives its host.
    fn let_go(&mut self, state: &State, task: &Task) -> Option<HostId> {
        let host = state.host(task.host?)?;
        let planned = self.hosts.entry(host.id()).or_insert_with(|| host.clone());
        if !planned.tasks.contains(&task.id) {
            return None;
        }
        planned.let_go(task);
        Some(host.id())
    }

    fn look_at(&mut self, hosts: &BTreeSet<HostId>) {
        for host in hosts {
            self.view.take_in(*host, self.hosts.get(host));
        }
    }

    /// Rounds, until none places anything. Gives back how many found a place.
    fn place(&mut self, more: &mut impl FnMut() -> bool) -> usize {
        let mut placed = 0;
        loop {
            let round = round(&self.view, PLACEMENTS_PER_ROUND_MAX);
            self.view.launch(&round);
            placed += round.report.placed;
            let report = round.report.groups.iter().find(|group| group.config == self.config);
            let Some(report) = report.filter(|report| report.waiting > 0) else { return placed };
            if report.placed > 0 && report.cut_short && more() {
                continue;
            }
            self.cut |= report.cut_short;
            if self.why.is_none() && !report.cut_short {
                self.why = Some(GroupReport::clone(report));
            }
            return placed;
        }
    }

    /// Displaces on each host what makes room for one more. Gives back whether looking again may find more.
    fn displace(&mut self, state: &State) -> bool {
        let Some(group) = self.view.groups.get(&self.config).filter(|_| self.view.stopped.is_none()) else {
            return false;
        };
        let mut search = Search::planned(state, &self.hosts, &self.fruitless);
        let found = search.sets(&self.view, group, group.pending.len());
        let (fruitless, cut) = (std::mem::take(&mut search.fruitless), search.cut);
        let changed = !found.is_empty() || !fruitless.is_empty();
        self.cut |= cut && !changed;
        self.fruitless.extend(fruitless);
        let mut hosts = BTreeSet::new();
        for (host, victims) in found {
            for victim in victims.iter().filter_map(|victim| state.task(*victim)) {
                hosts.extend(self.let_go(state, victim));
            }
            self.displaced.push(Preempt { host, task: TaskId(0), victims });
        }
        self.look_at(&hosts);
        changed
    }
}
