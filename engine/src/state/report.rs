//! What hosts say of their tasks. Late, repeated and unknown reports are normal: the status table decides.
//!
//! Sequences only tell the host what it may forget; they filter nothing. A host that says hello again repeats
//! old sequences, and what they say of PARTITIONED tasks is news.

use proto::{HostId, TaskId};

use super::State;
use super::command::{Done, Refusal, RefusalKind, Reply, Report};
use super::status::{Event, Verdict, step};
use super::touch::{Key, Touch};
use super::transition::Stepped;
use crate::limits::REPORTS_PER_COMMAND_MAX;

impl State {
    pub(super) fn apply_reports(
        &mut self,
        id: HostId,
        journal: &str,
        reports: Vec<Report>,
        touch: &mut Touch,
    ) -> Reply {
        if reports.len() > REPORTS_PER_COMMAND_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!(
                    "one command carries at most {REPORTS_PER_COMMAND_MAX} reports, not {}",
                    reports.len()
                ),
            ));
        }
        let Some(host) = self.hosts.get(&id) else {
            return Err(Refusal::new(
                RefusalKind::HostRefused,
                format!("{id} is not known; it must register"),
            ));
        };
        if host.record.identity.journal != journal {
            return Err(Refusal::new(
                RefusalKind::HostRefused,
                format!(
                    "host {} has registered with another journal; these reports are of an older one",
                    host.name()
                ),
            ));
        }
        if host.is_silent() {
            return Err(Refusal::new(
                RefusalKind::Stale,
                format!("host {} counts as silent; it must register before it reports", host.name()),
            ));
        }
        let acknowledged = host.record.acknowledged;
        let newest = reports.iter().map(|report| report.sequence).fold(acknowledged, u64::max);
        let (mut changed, mut again) = (0, false);
        for report in reports {
            let Some(event) = Event::of_report(report.status) else { continue };
            match self.step_report(id, report.task, event, &report.message, touch) {
                Stepped::Changed => changed += 1,
                Stepped::KillAgain => again = true,
                Stepped::Ignored | Stepped::Illegal => {}
            }
        }
        if self.hosts[&id].record.draining && changed > 0 {
            // What came back from a partition moves away, too.
            self.drain_tasks(id, "Drained", touch);
        }
        if newest > acknowledged {
            self.alter_host(id, |record| record.acknowledged = newest);
            touch.row(Key::Host(id));
        }
        if again {
            self.owe(id, touch);
        }
        Ok(Done { id: id.0, tasks: changed, ..Done::default() })
    }

    fn step_report(
        &mut self,
        host: HostId,
        id: TaskId,
        event: Event,
        message: &str,
        touch: &mut Touch,
    ) -> Stepped {
        if self.tasks.get(&id).is_some_and(|task| task.host == Some(host)) {
            return self.step_task(id, event, Some(message), touch);
        }
        // State does not have it on this host: an ended task, another host's, or one never heard of.
        match step(None, event) {
            Verdict::KillAgain => Stepped::KillAgain,
            Verdict::Illegal => Stepped::Illegal,
            Verdict::Move(_) | Verdict::End { .. } | Verdict::Delete | Verdict::Ignore => Stepped::Ignored,
        }
    }
}
