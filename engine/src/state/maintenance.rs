//! Maintenance: hosts get no tasks, and theirs move away; later they get tasks again. Without regard to a job's SLA.

use proto::{HostId, TaskId};

use super::State;
use super::command::{Done, Hint, Refusal, RefusalKind, Reply};
use super::status::{Event, Status};
use super::submit::words;
use super::touch::{Key, Touch};
use super::transition::kept_message;
use super::work::{Rest, tasks_per_command};
use crate::limits::{HOSTS_NAMED_MAX, WORK_MAX};

impl State {
    /// All named hosts or none.
    fn named_hosts(&self, names: &[String]) -> Result<Vec<HostId>, Refusal> {
        if names.is_empty() || names.len() > HOSTS_NAMED_MAX {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("a request names 1 to {HOSTS_NAMED_MAX} hosts, not {}", names.len()),
            ));
        }
        let unknown: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !self.names.contains_key(*name)).take(5).collect();
        if !unknown.is_empty() {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("no host is called {}; `borealis host list` shows them", unknown.join(" or ")),
            ));
        }
        let mut hosts: Vec<HostId> =
            names.iter().filter_map(|name| self.names.get(&**name)).copied().collect();
        hosts.sort_unstable();
        hosts.dedup();
        Ok(hosts)
    }

    pub(super) fn drain_hosts(
        &mut self,
        names: Vec<String>,
        message: &str,
        identity: &str,
        touch: &mut Touch,
    ) -> Reply {
        let hosts = self.named_hosts(&names)?;
        let tasks: usize = hosts.iter().map(|host| self.hosts[host].tasks.len()).sum();
        let large = tasks > tasks_per_command();
        if large && self.work.len() + hosts.len() > WORK_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                "too many large changes are in progress; drain fewer hosts at once, or retry later",
            ));
        }
        let why = words("Drained", identity, message);
        let why = kept_message(&why).unwrap_or_default();
        for &host in &hosts {
            self.alter_host(host, |record| record.draining = true);
            self.unreserve_host(host, touch);
            touch.row(Key::Host(host));
            touch.hint(Hint::HostDirty(host));
            if large {
                self.add_work(Rest::Drain { host, message: why.clone() }, touch);
            } else {
                self.drain_tasks(host, &why, touch);
            }
        }
        Ok(Done { id: 0, tasks: tasks as u32, ..Done::default() })
    }

    /// Moves the tasks of a drained host away, those that are not on their way already.
    pub(super) fn drain_tasks(&mut self, host: HostId, why: &str, touch: &mut Touch) -> u32 {
        let Some(host) = self.hosts.get(&host).filter(|host| host.record.draining) else { return 0 };
        let tasks = host.tasks.iter().filter_map(|task| self.tasks.get(task));
        let moving = |status| {
            matches!(status, Status::Assigned | Status::Starting | Status::Running | Status::Partitioned)
        };
        let tasks: Vec<TaskId> = tasks.filter(|task| moving(task.status)).map(|task| task.id).collect();
        self.step_each(&tasks, Event::Drain, why, touch)
    }

    pub(super) fn activate_hosts(&mut self, names: Vec<String>, touch: &mut Touch) -> Reply {
        let hosts = self.named_hosts(&names)?;
        for &host in &hosts {
            self.alter_host(host, |record| record.draining = false);
            touch.row(Key::Host(host));
            touch.hint(Hint::HostDirty(host));
        }
        Ok(Done { id: 0, tasks: hosts.len() as u32, ..Done::default() })
    }
}
