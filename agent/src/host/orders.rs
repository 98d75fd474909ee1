//! What the scheduler says, and who may say it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use proto::wire::{self, SchedulerFrame, journal_record, scheduler_frame::Body};
use proto::{Fence, HostId, TaskId};

use super::{Fatal, Host};
use crate::clock;
use crate::limits::{CONFIGS_MAX, WANTED_TASKS_MAX};
use crate::link::Session;
use crate::plan::{self, Action, Have, Want, Wanted};
use crate::telemetry;

impl Host {
    pub(super) fn connected(&mut self, session: Arc<Session>) -> Result<(), Fatal> {
        self.session = Some(session.clone());
        self.registered = false;
        self.greet(&session, true)
    }

    /// Where nothing has changed that the scheduler does not know, it may be said briefly. Else the newest report of
    /// every task travels with the greeting, so none older has to follow it.
    fn greet(&mut self, session: &Session, may_be_brief: bool) -> Result<(), Fatal> {
        self.sync()?; // what was reported in this very turn is not on the disk yet
        let spec = Some(self.setup.spec.clone());
        if may_be_brief && !self.explain && self.is_settled() {
            let hello = self.journal.book().hello(self.digest_of_tasks());
            session.greet(wire::Hello { spec, ..hello }, self.obeys);
            return Ok(());
        }
        let book = self.journal.book();
        // A task whose executor has not said a word yet is here all the same.
        let silent = |id: &TaskId| wire::TaskReport {
            task_id: id.0,
            status: wire::Status::Assigned.into(),
            ..Default::default()
        };
        let tasks = book.tasks.iter().map(|(id, e)| e.report.clone().unwrap_or_else(|| silent(id))).collect();
        session.greet(wire::Hello { spec, tasks, ..book.hello(0) }, 0);
        self.sent = book.sequence;
        self.moved_at = Instant::now();
        Ok(())
    }

    pub(super) fn frame(&mut self, session: &Arc<Session>, frame: SchedulerFrame) -> Result<(), Fatal> {
        let refused = |label| metrics::counter!(telemetry::FRAMES_REFUSED, "reason" => label).increment(1);
        match &frame.body {
            Some(Body::Resync(resync)) => {
                session.mark_valid();
                self.registered = false;
                return self.greet(session, resync.brief);
            }
            Some(Body::Refused(why)) => {
                tracing::warn!(
                    reason = why.reason,
                    "a scheduler refuses this host; its tasks go on, trying again"
                );
                refused("host_refused");
                self.explain = true;
                return Ok(());
            }
            _ => {}
        }
        match self.journal.book().admit(&frame) {
            Err(why) => {
                let fence = frame.fence.as_ref().map(Fence::from).unwrap_or_default();
                let book = self.journal.book();
                tracing::warn!(
                    ?why, %fence, cluster = frame.cluster_id, obeyed = %book.fence, obeyed_cluster = book.cluster_id,
                    "a scheduler's frame is not obeyed"
                );
                refused(why.label());
                return Ok(());
            }
            Ok(Some(obeyed)) => {
                let fence = obeyed.fence.as_ref().map(Fence::from).unwrap_or_default();
                if obeyed.cluster_id != self.journal.book().cluster_id {
                    self.wanted = None;
                    self.details.clear();
                }
                self.journal.append(journal_record::Body::Obeyed(obeyed))?;
                self.sync()?;
                tracing::info!(%fence, "obeys this leader from here on");
                session.beat();
            }
            Ok(None) => {}
        }
        session.mark_valid();
        if let Some(until_ns) = session.leased_until_ns(frame.echo.as_ref()) {
            self.leased_until_ns = self.leased_until_ns.max(until_ns);
        }
        match frame.body {
            Some(Body::Welcome(welcome)) => self.welcome(welcome.host_id),
            Some(Body::Acknowledged(acknowledged)) => {
                self.acknowledged(acknowledged.sequence);
                Ok(())
            }
            Some(Body::Wanted(wanted)) => self.wanted(session, frame.echo.as_ref(), wanted),
            Some(Body::Resync(_) | Body::Refused(_)) | None => Ok(()),
        }
    }

    fn welcome(&mut self, host_id: u64) -> Result<(), Fatal> {
        if host_id != 0 && host_id != self.journal.book().host_id {
            let obeyed = wire::Obeyed { host_id, ..self.journal.book().obeyed() };
            self.journal.append(journal_record::Body::Obeyed(obeyed))?;
            self.sync()?;
            // Generations are counted per host id.
            self.wanted = None;
            self.details.clear();
            tracing::info!(host = %HostId(host_id), "registered");
        }
        if !self.registered {
            self.registered = true;
            self.explain = false;
            metrics::gauge!(telemetry::CONNECTED).set(1.0);
        }
        Ok(())
    }

    fn acknowledged(&mut self, sequence: u64) {
        if sequence > self.journal.book().sequence {
            tracing::warn!(sequence, "a report that was never made is acknowledged; ignored");
            return;
        }
        if sequence > self.acknowledged {
            self.acknowledged = sequence;
            self.outbox = self.outbox.split_off(&(sequence + 1));
            self.moved_at = Instant::now();
        }
    }

    fn wanted(
        &mut self,
        session: &Arc<Session>,
        echo: Option<&wire::Echo>,
        set: wire::WantedSet,
    ) -> Result<(), Fatal> {
        if set.tasks.len() > WANTED_TASKS_MAX {
            tracing::error!(
                tasks = set.tasks.len(),
                "a wanted set has more tasks than a host can have; ignored"
            );
            return Ok(());
        }
        self.take_configs(set.configs);
        let newest =
            self.wanted.as_ref().map_or(0, |wanted| wanted.generation).max(self.journal.book().generation);
        if set.generation < newest {
            tracing::warn!(generation = set.generation, newest, "a wanted set came late; ignored");
            return Ok(());
        }
        let mut wanted = Wanted { generation: set.generation, tasks: BTreeMap::new() };
        self.details.clear();
        for task in set.tasks {
            let id = TaskId(task.task_id);
            let want = match task.want() {
                wire::Want::Start => Want::Start,
                wire::Want::Keep => Want::Keep,
                wire::Want::Kill => Want::Kill,
                wire::Want::Unspecified => Want::Unknown,
            };
            wanted.tasks.insert(id, want);
            if self.journal.book().tasks.contains_key(&id) {
                self.named.insert(id, set.generation);
            }
            self.details.insert(id, task);
        }
        self.wanted = Some(wanted);
        self.replan(Some((session, echo)))
    }

    fn take_configs(&mut self, configs: Vec<wire::StoredConfig>) {
        for stored in configs {
            let Some(config) = stored.config else { continue };
            if proto::config_hash(&config)[..] != stored.hash[..] {
                tracing::error!("a task config is not what its hash says; ignored");
                continue;
            }
            if self.configs.len() >= CONFIGS_MAX {
                let used: Vec<_> = self.details.values().map(|task| task.config_hash.to_vec()).collect();
                self.configs.retain(|hash, _| used.contains(hash));
            }
            self.configs.insert(stored.hash.to_vec(), config);
        }
    }

    /// Plans and acts. `order`: the stream and echo of a wanted set that has just come; without it nothing starts.
    pub(super) fn replan(
        &mut self,
        order: Option<(&Arc<Session>, Option<&wire::Echo>)>,
    ) -> Result<(), Fatal> {
        let now_ms = clock::boottime_ms();
        let have = self.have();
        let book = self.journal.book();
        let plan = match &self.wanted {
            None => plan::plan_without_orders(&have, now_ms),
            Some(wanted) => {
                let fresh = order.is_some_and(|(session, echo)| session.is_fresh(echo, clock::boottime_ns()));
                let startable = |task| {
                    self.details
                        .get(&task)
                        .is_some_and(|task| self.configs.contains_key(&task.config_hash[..]))
                };
                plan::plan(wanted, &have, |task| book.is_burned(task), startable, fresh, now_ms)
            }
        };
        let mut starts = Vec::new();
        for action in plan.actions {
            match action {
                Action::Start(task) => starts.push(task),
                Action::Kill(task, force) => self.order_kill(task, force, now_ms),
                Action::ReportLost(task, why) => self.report(task, wire::Status::Lost, why)?,
                Action::ReportKilled(task, why) => self.report(task, wire::Status::Killed, why)?,
                Action::Forget(task) => self.forget(task)?,
            }
        }
        if let Some((session, echo)) = order {
            self.launch(&starts, session, echo)?;
            self.settle(session, plan.whole);
        }
        Ok(())
    }

    fn settle(&mut self, session: &Arc<Session>, whole: bool) {
        let Some(wanted) = &self.wanted else { return };
        if whole {
            self.obeys = wanted.generation;
            session.set_generation(wanted.generation);
            metrics::gauge!(telemetry::GENERATION).set(wanted.generation as f64);
            return;
        }
        let missing = |(task, want): (&TaskId, &Want)| {
            *want == Want::Start
                && !self.journal.book().knows(*task)
                && self.details.get(task).is_none_or(|task| !self.configs.contains_key(&task.config_hash[..]))
        };
        if wanted.tasks.iter().any(missing) {
            tracing::warn!(
                "a task to start has a config that was never sent on this stream; beginning a new stream"
            );
            session.close();
        } else {
            metrics::counter!(telemetry::STARTS_STALE).increment(1);
            tracing::warn!(
                generation = wanted.generation,
                "starts are not obeyed: the order is too old; waiting for a new one"
            );
            session.beat();
        }
    }

    /// What the planner needs to know of every task in the journal.
    fn have(&self) -> BTreeMap<TaskId, Have> {
        let book = self.journal.book();
        let have = book.tasks.iter().map(|(&id, entry)| {
            let task = self.tasks.get(&id);
            let generation = entry.intent.as_ref().map_or(0, |intent| intent.generation);
            let have = Have {
                ended: entry.ended(),
                acknowledged: entry
                    .report
                    .as_ref()
                    .is_some_and(|report| report.sequence <= self.acknowledged),
                named: self.named.get(&id).copied().unwrap_or(generation),
                // Not forgotten before its leftovers are gone; not killed when only they are left.
                alive: task.is_some_and(|task| if entry.ended() { !task.is_gone() } else { task.is_alive() }),
                doomed: task.is_some_and(|task| task.doomed.is_some()),
                killing: task.and_then(|task| task.killing),
                wait_ms: task.map_or(0, |task| task.wait_ms),
            };
            (id, have)
        });
        have.collect()
    }

    fn forget(&mut self, task: TaskId) -> Result<(), Fatal> {
        self.journal.append(journal_record::Body::Forgotten(wire::TaskForgotten { task_id: task.0 }))?;
        self.named.remove(&task);
        if let Some(gone) = self.tasks.remove(&task)
            && let Some(watch) = gone.watch
        {
            self.watcher.forget(watch);
        }
        self.changed = true;
        Ok(())
    }
}
