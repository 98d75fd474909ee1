//! How fast silent hosts' tasks are replaced. At most so many hosts a minute; and when many hosts fall silent at once,
//! it is rather the network or this cluster that is ill: then nothing is replaced until hosts return or a person says so.

use proto::HostId;

use super::State;
use super::deadline::Due;
use super::touch::{Key, Touch};
use crate::limits::{
    BRAKE_HOSTS_MIN, BRAKE_SHARE_PERCENT, BRAKE_WINDOW_MS, DEADLINES_PER_COMMAND_MAX, REPLACED_HOSTS_MIN,
    REPLACED_SHARE_PERCENT, REPLACED_WINDOW_MS,
};
use crate::time::Timestamp;

impl State {
    /// Since when no PARTITIONED task is replaced, because too many hosts fell silent at once.
    pub fn braked(&self) -> Option<Timestamp> {
        self.cluster.braked
    }

    /// Tasks that wait to be replaced because their hosts are silent.
    pub fn replacements_waiting(&self) -> usize {
        self.replacements.len()
    }

    /// Hosts that may fall silent within a minute before the brake is on.
    fn silences_borne(&self) -> usize {
        (self.hosts.len() * BRAKE_SHARE_PERCENT / 100).max(BRAKE_HOSTS_MIN)
    }

    /// Hosts whose tasks may be replaced within a minute.
    pub(super) fn replacements_borne(&self) -> usize {
        (self.hosts.len() * REPLACED_SHARE_PERCENT / 100).max(REPLACED_HOSTS_MIN)
    }

    /// A host fell silent, or one came back or is gone: the brake goes on or off.
    pub(super) fn look_at_brake(&mut self, touch: &mut Touch) {
        // While it is on, those count that put it on and those that came after.
        let until = self.cluster.braked.unwrap_or(self.cluster.clock);
        let window = Timestamp(until.0.saturating_sub(BRAKE_WINDOW_MS));
        let since = window.max(self.cluster.thawed);
        let after = (since, HostId(u64::MAX));
        let count =
            self.silences.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)).count();
        let over = count > self.silences_borne();
        if over != self.cluster.braked.is_some() {
            self.cluster.braked = over.then_some(self.cluster.clock);
            touch.row(Key::Cluster);
            touch.deadlines();
        }
    }

    /// A person knows better: what is silent now does not count any more.
    pub(super) fn release_brake(&mut self) {
        self.cluster.braked = None;
        self.cluster.thawed = self.cluster.clock;
    }

    /// When the next PARTITIONED task may be replaced.
    pub(super) fn next_replacement(&self) -> Option<Timestamp> {
        let (at, due) = self.replacements.first().filter(|_| self.cluster.braked.is_none())?;
        let Due::Replacement(host, _) = due else { return Some(*at) };
        Some(self.turn(*host).unwrap_or_default().max(*at))
    }

    /// When the tasks of a silent host may be replaced at the earliest; `None` unless as many hosts' tasks were
    /// replaced as may be within a minute, and its own were not.
    pub(super) fn turn(&self, host: HostId) -> Option<Timestamp> {
        let counted = self.hosts.get(&host).is_some_and(|host| host.record.replaced);
        let full = self.cluster.replaced_hosts as usize >= self.replacements_borne();
        (full && !counted).then(|| self.cluster.replaced_since.plus_ms(REPLACED_WINDOW_MS))
    }

    /// Replaces PARTITIONED tasks that are due; gives back how many.
    pub(super) fn replace_partitioned(&mut self, touch: &mut Touch) -> usize {
        let mut replaced = 0;
        while replaced < DEADLINES_PER_COMMAND_MAX
            && self.next_replacement().is_some_and(|at| at <= self.cluster.clock)
        {
            let Some((_, Due::Replacement(host, task))) = self.replacements.first().cloned() else { break };
            if !self.hosts[&host].record.replaced {
                if self.cluster.clock.since_ms(self.cluster.replaced_since) >= REPLACED_WINDOW_MS {
                    (self.cluster.replaced_since, self.cluster.replaced_hosts) = (self.cluster.clock, 0);
                }
                self.cluster.replaced_hosts += 1;
                self.alter_host(host, |record| record.replaced = true);
                touch.row(Key::Host(host));
            }
            self.expire_task(task, touch);
            replaced += 1;
        }
        replaced
    }
}
