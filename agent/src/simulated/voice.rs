//! Speaks for one simulated host on its stream: a frame comes, the host decides, what it wrote is waited for, then said.
//!
//! The rules are those of any agent: a fence is on the disk before it is obeyed, an intent before its task begins, a
//! report before it is sent. While the voice waits for the journal it takes no other frame, so a host has at most one
//! batch that it waits for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::HostId;
use proto::wire::{self, SchedulerFrame, scheduler_frame::Body};
use tokio::time::Instant;

use super::host::{Counts, Host};
use super::journal::Batch;
use super::{Fleet, HOSTS_PER_LINE};
use crate::clock;
use crate::limits::{HEARTBEAT_EVERY, RESEND_AFTER, WANTED_TASKS_MAX};
use crate::link::{Ear, Gone, Session};
use crate::telemetry;

/// Hosts that send their heartbeats at the same moment.
const BEATS_TOGETHER: u32 = 25;
const _: () = assert!(HOSTS_PER_LINE.is_multiple_of(BEATS_TOGETHER), "they share a connection");

/// The voice of one host.
#[derive(Debug)]
pub(super) struct Voice {
    fleet: Arc<Fleet>,
    host: Host,
    /// A scheduler refused the last hello: the next one is whole, which every version understands.
    explain: bool,
    told: Counts,
    told_registered: bool,
}

impl Voice {
    /// Of this host.
    pub(super) fn new(fleet: Arc<Fleet>, host: Host) -> Self {
        Voice { fleet, host, explain: false, told: Counts::default(), told_registered: false }
    }

    /// A batch, with the host's book at its head when the journal's file does not have that yet.
    fn batch(&self) -> Batch {
        let mut batch = Batch::new(self.host.index);
        if self.host.written < self.fleet.journal.file() {
            self.host.write_book(&mut batch);
        }
        batch
    }

    /// Queues what was written, which need not be waited for.
    fn note(&mut self, batch: &Batch) -> Option<tokio::sync::oneshot::Receiver<()>> {
        if batch.is_empty() {
            return None;
        }
        let (file, durable) = self.fleet.journal.append(batch, self.host.written);
        if batch.whole {
            self.host.written = file;
        }
        Some(durable)
    }

    /// Returns when what was written is on the disk.
    async fn commit(&mut self, batch: &Batch) -> Result<(), Gone> {
        match self.note(batch) {
            Some(durable) => durable.await.map_err(|_| Gone),
            None => Ok(()),
        }
    }

    async fn greet(&mut self, session: &Session, may_be_brief: bool) -> Result<(), Gone> {
        let batch = self.batch();
        self.commit(&batch).await?;
        let spec = self.fleet.spec(self.host.index);
        let hello = self.host.hello(spec, may_be_brief && !self.explain, clock::boottime_ms());
        session.greet(hello, self.host.obeys());
        self.tell();
        Ok(())
    }

    /// Obeys this leader, under this host id, once that is on the disk.
    async fn obey(&mut self, obeyed: wire::Obeyed) -> Result<(), Gone> {
        let mut batch = self.batch();
        self.host.obey(obeyed, &mut batch);
        self.commit(&batch).await
    }

    async fn wanted(
        &mut self,
        session: &Session,
        echo: Option<&wire::Echo>,
        set: wire::WantedSet,
    ) -> Result<(), Gone> {
        if set.tasks.len() > WANTED_TASKS_MAX {
            tracing::error!(
                tasks = set.tasks.len(),
                "a wanted set has more tasks than a host can have; ignored"
            );
            return Ok(());
        }
        self.fleet.configs.add(&set.configs);
        let generation = set.generation;
        let mut batch = self.batch();
        let fresh = session.is_fresh(echo, clock::boottime_ns());
        let Some(taken) = self.host.take(set, fresh, &self.fleet.configs, &mut batch) else {
            tracing::debug!(host = self.host.index, generation, "a wanted set came late; ignored");
            return Ok(());
        };
        self.commit(&batch).await?;
        if !taken.starts.is_empty() {
            let mut batch = self.batch();
            let fresh = session.is_fresh(echo, clock::boottime_ns());
            self.host.begin(&taken.starts, fresh, self.fleet.start_ms, &mut batch);
            let began = if fresh { &self.fleet.tally.launches } else { &self.fleet.tally.stale };
            began.increment(taken.starts.len() as u64);
            self.commit(&batch).await?;
        }
        self.host.send(session, clock::boottime_ms());
        if taken.whole {
            session.set_generation(generation);
        } else if taken.missing {
            tracing::warn!(
                host = self.host.index,
                "a task to start has a config that was never sent on this stream; beginning a new stream"
            );
            session.close();
        } else {
            self.fleet.tally.stale.increment(1);
            self.beat(session);
        }
        Ok(())
    }

    /// Keeps numbers for people up to date.
    fn tell(&mut self) {
        let (counts, registered) = (self.host.counts(), self.host.registered);
        let tally = &self.fleet.tally;
        let differ = |now: usize, before: usize| now as f64 - before as f64;
        if counts != self.told {
            tally.live.increment(differ(counts.live, self.told.live));
            tally.ended.increment(differ(counts.ended, self.told.ended));
            tally.waiting.increment(differ(counts.waiting, self.told.waiting));
            self.told = counts;
        }
        if registered != self.told_registered {
            tally.connected.increment(differ(registered.into(), self.told_registered.into()));
            self.told_registered = registered;
        }
        let Some(view) = self.fleet.views.get(self.host.index as usize) else { return };
        view.host_id.store(self.host.standing.host_id, Ordering::Relaxed);
        view.live.store(counts.live, Ordering::Relaxed);
        view.ended.store(counts.ended, Ordering::Relaxed);
        view.registered.store(registered, Ordering::Relaxed);
    }
}

impl Ear for Voice {
    async fn connected(&mut self, session: &Arc<Session>) -> Result<(), Gone> {
        self.greet(session, true).await
    }

    async fn frame(&mut self, session: &Arc<Session>, frame: SchedulerFrame) -> Result<(), Gone> {
        let refused = |label| metrics::counter!(telemetry::FRAMES_REFUSED, "reason" => label).increment(1);
        match &frame.body {
            Some(Body::Resync(resync)) => {
                session.mark_valid();
                return self.greet(session, resync.brief).await;
            }
            Some(Body::Refused(why)) => {
                tracing::warn!(host = self.host.index, reason = why.reason, "a scheduler refuses this host");
                refused("host_refused");
                self.explain = true;
                return Ok(());
            }
            _ => {}
        }
        match self.host.standing.admit(&frame) {
            Err(why) => {
                tracing::debug!(host = self.host.index, ?why, "a scheduler's frame is not obeyed");
                refused(why.label());
                return Ok(());
            }
            Ok(Some(obeyed)) => {
                self.obey(obeyed).await?;
                self.beat(session);
            }
            Ok(None) => {}
        }
        session.mark_valid();
        match frame.body {
            Some(Body::Welcome(welcome)) => {
                if welcome.host_id != 0 && welcome.host_id != self.host.standing.host_id {
                    let obeyed = self.host.standing.obeyed();
                    self.obey(wire::Obeyed { host_id: welcome.host_id, ..obeyed }).await?;
                    tracing::debug!(host = self.host.index, id = %HostId(welcome.host_id), "registered");
                }
                if !self.host.registered {
                    self.host.registered = true;
                    self.explain = false;
                    self.host.send(session, clock::boottime_ms());
                    self.tell();
                }
            }
            Some(Body::Acknowledged(acknowledged)) => {
                let mut batch = self.batch();
                if !self.host.acknowledge(acknowledged.sequence, &mut batch) {
                    tracing::warn!(
                        host = self.host.index,
                        "a report that was never made is acknowledged; ignored"
                    );
                }
                self.note(&batch);
                self.tell();
            }
            Some(Body::Wanted(wanted)) => {
                self.wanted(session, frame.echo.as_ref(), wanted).await?;
                self.tell();
            }
            Some(Body::Resync(_) | Body::Refused(_)) | None => {}
        }
        Ok(())
    }

    async fn disconnected(&mut self, _session: &Arc<Session>) -> Result<(), Gone> {
        self.host.registered = false;
        self.tell();
        Ok(())
    }

    /// Heartbeats are spread over the second. A few hosts that share a connection have the same moment, and so one
    /// write carries them all.
    fn first_beat(&self) -> Duration {
        let (every, hosts) = (HEARTBEAT_EVERY, self.fleet.views.len().max(1) as u32);
        let moment = every * (self.host.index / BEATS_TOGETHER * BEATS_TOGETHER) / hosts;
        let passed = self.fleet.begun.elapsed().as_nanos() % every.as_nanos();
        (every + moment - Duration::from_nanos(passed as u64)).min(every + moment)
    }

    fn beat(&mut self, session: &Session) {
        if self.host.written < self.fleet.journal.file() {
            let batch = self.batch();
            self.note(&batch);
        }
        self.host.send_again(session, clock::boottime_ms(), RESEND_AFTER.as_millis() as u64);
        let (unused, digest) = self.host.claims(self.fleet.use_percent);
        session.set_state(Some(unused), digest);
        session.beat();
    }

    fn look_at(&self) -> Option<Instant> {
        let due_ms = self.host.due_ms()?;
        Some(Instant::now() + Duration::from_millis(due_ms.saturating_sub(clock::boottime_ms())))
    }

    async fn look(&mut self, session: &Arc<Session>) -> Result<(), Gone> {
        let mut batch = self.batch();
        self.host.look(self.fleet.start_ms, &mut batch);
        self.commit(&batch).await?;
        self.host.send(session, clock::boottime_ms());
        self.tell();
        Ok(())
    }
}
