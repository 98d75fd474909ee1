//! A running replica: propose, read, who leads, how it is. Who belongs is changed in `shape` and `tend`.

mod shape;
mod sums;
mod tend;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::storage::RaftLogStorage as _;
use openraft::{Config, RaftMetrics, SnapshotPolicy};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Identity;
use crate::adapter::{Adapter, AnyMachine, Held, check_reach, open_rows};
use crate::batch::{self, Batcher, PendingAnswer};
use crate::disk;
use crate::error::{ProposeError, ReadError, StartError, StoreError};
use crate::freshness::Freshness;
use crate::ground::{self, fs::File};
use crate::identity::{identity, log_dir, off_thread};
use crate::log::{Log, OnFailure, lock};
use crate::machine::Machine;
use crate::membership::{Fingerprint, Leadership, Member, Status};
use crate::options::{Options, Profile};
use crate::quarantine;
use crate::raft::{Answer, Data, LogId, Types, Vote};
use crate::reads::{Asker, Reads};
use crate::service::{self, Raft, RaftService};
use crate::snapshot;
use crate::state::cut::Pending;
use crate::state::writer::RowWriter;
use crate::telemetry;
use crate::transport::{MESSAGE_BYTES_MAX, Transport};

/// How often the gauges are set and the need of a snapshot is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// While a snapshot is sent, the log may grow to this many times the bytes after which one is taken.
const SENDING_LOG_FACTOR: u64 = 8;
/// How long a snapshot that is waited for may take ...
const SNAPSHOT_MAX: Duration = Duration::from_secs(600);
/// ... and how often it is asked for meanwhile.
const SNAPSHOT_LOOK: Duration = Duration::from_secs(5);
/// Between two hand-overs because of a slow disk.
const HAND_OVER_EVERY: Duration = Duration::from_secs(60);
/// A learner that heard nobody for so many of the longest election timeouts asks whether it belongs here.
const FORGOTTEN_AFTER: u32 = 3;
/// For the answer.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Before a hand-over because of a full one.
const HAND_OVER_FULL_EVERY: Duration = Duration::from_secs(2);
/// Entries of one append message at most; bytes bound it too.
const MESSAGE_ENTRIES_MAX: u64 = 4096;

/// A command was committed and applied.
#[derive(Debug)]
pub struct Proposed<R> {
    /// Of the entry that carried the command.
    pub index: u64,
    /// What the machine answered.
    pub reply: R,
}

/// A running replica. Clones are handles of the same one.
pub struct Replica<M: Machine> {
    inner: Arc<Inner<M>>,
}

struct Inner<M: Machine> {
    options: Options,
    identity: Arc<Identity>,
    raft: Raft,
    log: Log,
    machine: Arc<Held<M>>,
    pending: Arc<Pending>,
    adapter: Adapter,
    /// Snapshots that are being sent.
    sending: Arc<AtomicUsize>,
    /// Bytes of the log's files, as last looked at.
    log_bytes: AtomicU64,
    /// Whether the disk is nearly full.
    full: Arc<AtomicBool>,
    transport: Transport,
    /// Whether the replicas' rows differ and no majority has the same, as this leader last found.
    split: watch::Sender<bool>,
    writer: RowWriter,
    batcher: Batcher<M>,
    reads: Reads,
    freshness: Arc<Freshness>,
    leadership: watch::Receiver<Leadership>,
    stopped: watch::Sender<Option<String>>,
    /// Held by who looks at the members and then changes them, so that two changes, each of which the cluster bears,
    /// are not made together.
    shaping: tokio::sync::Mutex<()>,
    running: Mutex<Vec<JoinHandle<()>>>,
    /// Held while this replica runs: nobody else may use the directory.
    lock: Mutex<Option<File>>,
}

impl<M: Machine> Clone for Replica<M> {
    fn clone(&self) -> Self {
        Replica { inner: Arc::clone(&self.inner) }
    }
}

impl<M: Machine> Replica<M> {
    /// Opens the directory, checks it, loads the machine from its rows and takes part in the cluster.
    ///
    /// Serves nothing: the caller serves [`Replica::raft_service`] at the raft address.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let stopped = watch::Sender::new(None);
        leave_quarantine(&options, &stopped).await?;
        let opened = {
            let (options, stopped) = (options.clone(), stopped.clone());
            off_thread(move || {
                open::<M>(&options, &stopped).inspect_err(|error| {
                    if let StoreError::Corrupt(corrupt) = error
                        && matches!(disk::condemned(&options.dir), Ok(None))
                    {
                        disk::condemn(&options.dir, corrupt);
                    }
                })
            })
            .await?
        };
        let Opened { identity, machine, pending, writer, mut log, newest, holds, sync, lock } = opened;
        check_sync(&options, sync)?;
        follow_the_rows(&mut log, holds)
            .await
            .map_err(StoreError::io("writing the vote", log_dir(&options.dir)))?;
        drop_dead_tail(&mut log, holds).await.map_err(StoreError::io("cutting", log_dir(&options.dir)))?;
        let identity = Arc::new(identity);
        let erased: Arc<dyn AnyMachine> = Arc::clone(&machine) as _;
        let adapter = Adapter::new(options.dir.clone(), erased, Arc::clone(&pending), writer.clone(), newest);
        let transport = Transport::new(Arc::clone(&identity), options.profile, stopped.clone());
        let transport = transport.sending_of(&adapter, &log);
        let sending = transport.sending();
        let config = config(&options).map_err(StartError::Raft)?;
        #[cfg(test)]
        let config = crate::sim::breaks::config(config);
        let state = adapter.clone();
        let network = transport.clone();
        let raft = openraft::Raft::new(identity.node_id, Arc::new(config), network, log.clone(), state)
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
        let (told, leadership) = watch::channel(leadership_of(&raft.metrics().borrow_watched()));
        let watcher = ground::spawn(watch_raft(raft.clone(), told, stopped.clone()));
        let (batcher, batching) = Batcher::start(raft.clone(), identity.node_id, leadership.clone());
        let (reads, asking) = Reads::start(Asker {
            raft: raft.clone(),
            transport: transport.clone(),
            leadership: leadership.clone(),
            limit: read_max(&options),
        });
        let inner = Arc::new(Inner {
            options,
            identity,
            raft,
            log,
            machine,
            pending,
            adapter,
            sending,
            log_bytes: AtomicU64::new(0),
            full: Arc::default(),
            transport,
            split: watch::Sender::new(false),
            writer,
            batcher,
            reads,
            freshness: Arc::default(),
            leadership,
            stopped,
            shaping: tokio::sync::Mutex::new(()),
            running: Mutex::new(vec![watcher, batching, asking]),
            lock: Mutex::new(Some(lock)),
        });
        let replica = Replica { inner };
        let tending = ground::spawn(replica.clone().tend());
        let looking = ground::spawn(replica.clone().look());
        let comparing = ground::spawn(replica.clone().compare_sums());
        crate::log::lock(&replica.inner.running).extend([tending, looking, comparing]);
        Ok(replica)
    }

    /// The service that other replicas call. Message limits are set.
    pub fn raft_service(&self) -> rpc::raft::raft_server::RaftServer<RaftService> {
        let service = RaftService {
            raft: self.inner.raft.clone(),
            identity: Arc::clone(&self.inner.identity),
            dir: self.inner.options.dir.clone(),
            read_max: read_max(&self.inner.options),
            freshness: Arc::clone(&self.inner.freshness),
            pending: Arc::clone(&self.inner.pending),
            adapter: self.inner.adapter.clone(),
            sums: Arc::new(self.clone()),
            acts_at: M::LEVEL,
            full: Arc::clone(&self.inner.full),
            receiving: Arc::default(),
            warned: Arc::default(),
        };
        rpc::raft::raft_server::RaftServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Proposes one command and waits until it was applied. Only the leader can.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed<M::Reply>, ProposeError> {
        let term = self.inner.leadership.borrow().term;
        self.propose_in(term, command).await
    }

    /// The same, if this replica leads in `term`: a decision of an earlier leadership never gets into the log of a
    /// later one.
    pub async fn propose_in(&self, term: u64, command: Bytes) -> Result<Proposed<M::Reply>, ProposeError> {
        self.submit_in(term, command)?.await
    }

    /// Queues one command and returns at once: what it gives is awaited for the answer. Commands get into the log in
    /// the order of these calls, so a stream of them needs no task for each; a full queue says `Busy` here.
    pub fn submit(&self, command: Bytes) -> Result<PendingAnswer<M>, ProposeError> {
        let term = self.inner.leadership.borrow().term;
        self.submit_in(term, command)
    }

    fn submit_in(&self, term: u64, command: Bytes) -> Result<PendingAnswer<M>, ProposeError> {
        if let Some(why) = self.inner.stopped.borrow().clone() {
            return Err(ProposeError::Stopped { why });
        }
        if !batch::leads_in(&self.inner.leadership, term) {
            return Err(batch::not_leader(&self.inner.leadership));
        }
        self.check_room()?;
        // What cannot be read must not get into the log, where it would stop every replica.
        M::decode(&command)?;
        self.inner.batcher.push(term, command)
    }

    /// Looks at the machine as it is here and now, maybe behind the leader. Keep it short: apply waits.
    pub fn read<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        self.inner.machine.read(look)
    }

    /// Returns when this machine shows everything that was answered before the call, on any replica: a follower asks
    /// the leader how far that reaches, and waits for its own machine.
    pub async fn barrier(&self) -> Result<(), ReadError> {
        if let Some(why) = self.inner.stopped.borrow().clone() {
            return Err(ReadError::Stopped { why });
        }
        self.inner.reads.barrier().await
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// On the leader: the newest instant of which a quorum has confirmed that it followed this leader then.
    pub fn quorum_acknowledged(&self) -> Option<std::time::Instant> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        if !metrics.state.is_leader() {
            return None;
        }
        // Taken before the age is, so that the answer is rather too old than too new.
        let now = std::time::Instant::now();
        let age = openraft::Instant::elapsed(&**metrics.last_quorum_acked.as_ref()?);
        now.checked_sub(age)
    }

    /// How old this machine is at most: everything committed so long ago is applied. `None` while no leader was
    /// heard since the start.
    pub fn age(&self) -> Option<Duration> {
        match self.quorum_acknowledged() {
            Some(at) => Some(at.elapsed()),
            None => self.inner.freshness.age(service::applied(&self.inner.raft)),
        }
    }

    /// Which cluster, which node, which directory.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The options it was started with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// How it is. Never waits.
    pub fn status(&self) -> Status {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<LogId>| id.map_or(0, |id| id.index);
        let stopped = self.inner.stopped.borrow().clone();
        Status {
            node_id: self.inner.identity.node_id,
            term: metrics.current_term,
            state: stopped.map_or_else(|| role(metrics.state).to_owned(), |why| format!("stopped: {why}")),
            leader: metrics.current_leader,
            members: self.members(&metrics),
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: index(&metrics.local_committed).max(index(&metrics.cluster_committed)),
            applied: index(&metrics.last_applied),
            stored: index(&self.inner.writer.stored()),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            sync_p99: telemetry::sync_p99(),
            log_bytes: self.inner.log_bytes.load(Ordering::Relaxed),
            snapshot_age: self.inner.adapter.snapshot_age(),
            full: self.inner.full.load(Ordering::Relaxed),
        }
    }

    /// On the leader: makes all replicas sum their rows at one index, and waits for the own sum.
    pub async fn fingerprint(&self) -> Result<Fingerprint, ProposeError> {
        let (index, _) = self.write(Data::Check(ground::random())).await?;
        self.fingerprint_of(index)
            .await
            .ok_or_else(|| ProposeError::Unknown { why: "the sum did not come in time".into() })
    }

    /// On any replica: waits until the sum that the leader asked for at `index` is known here; `None` when it does
    /// not come within 10 s or is forgotten.
    pub async fn fingerprint_of(&self, index: u64) -> Option<Fingerprint> {
        let mut newest = self.inner.writer.newest_sum();
        let reached = newest.wait_for(|newest| newest.is_some_and(|newest| newest >= index));
        tokio::time::timeout(Duration::from_secs(10), reached).await.ok()?.ok()?;
        self.inner.writer.sums().into_iter().find(|sum| sum.index == index)
    }

    /// Whether the replicas' rows differ and nobody knows who is right, as this leader last found: decisions must stop.
    pub fn split(&self) -> watch::Receiver<bool> {
        self.inner.split.subscribe()
    }

    /// The newest sum that this replica computed because the leader asked all.
    pub fn fingerprint_at(&self) -> Option<Fingerprint> {
        self.inner.writer.sums().last().copied()
    }

    /// Takes a snapshot now, in the background.
    pub async fn snapshot(&self) {
        let _ = self.inner.raft.trigger().snapshot().await;
    }

    /// Takes a snapshot of all that is applied by now, lets go of the log before it, and says what the snapshot is.
    pub async fn snapshot_now(&self) -> Result<proto::wire::raft::SnapshotMeta, StoreError> {
        let raft = &self.inner.raft;
        let refused =
            |why: &dyn std::fmt::Display| StoreError::Refused(format!("no snapshot was taken: {why}"));
        let applied = service::applied(raft);
        let deadline = Instant::now() + SNAPSHOT_MAX;
        let has_all = |metrics: &RaftMetrics<Types>| metrics.snapshot.map_or(0, |last| last.index) >= applied;
        while !has_all(&raft.metrics().borrow_watched()) {
            // One that was begun before this call may not have all of it; then there is a second one.
            raft.trigger().snapshot().await.map_err(|why| refused(&why))?;
            let wait = raft.wait(Some(SNAPSHOT_LOOK));
            let Err(why) = wait.metrics(has_all, "a snapshot of all that is applied").await else { break };
            if let Some(why) = self.inner.stopped.borrow().clone() {
                return Err(refused(&why));
            }
            if Instant::now() > deadline {
                return Err(refused(&why));
            }
        }
        let newest = raft.get_snapshot().await.map_err(|why| refused(&why))?;
        let newest = newest.ok_or_else(|| refused(&"nothing is applied yet"))?;
        Ok(newest.snapshot.meta.clone())
    }

    pub(crate) async fn take_snapshot(&self) -> Result<Arc<snapshot::Snapshot>, StoreError> {
        self.inner.adapter.take_snapshot().await
    }

    /// Resolves when the replica cannot go on (its disk failed, its bytes are corrupt), with the reason. The
    /// process should then end with that message.
    pub async fn stopped(&self) -> String {
        let mut stopped = self.inner.stopped.subscribe();
        match stopped.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "it was shut down".into(),
        }
    }

    /// Hands leadership over if it leads and another can, stops taking part, writes what is worth writing, and frees
    /// the directory.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        if inner.leadership.borrow().is_me && inner.stopped.borrow().is_none() {
            match self.transfer(None).await {
                Ok(heir) => tracing::info!(heir = heir.node_id, "leadership was handed over"),
                Err(why) => tracing::info!("leadership is not handed over: {why}"),
            }
        }
        stop(&inner.stopped, "it was shut down");
        if let Err(error) = inner.raft.shutdown().await {
            tracing::warn!("raft did not end well: {error}");
        }
        inner.writer.stop(inner.options.dir.clone()).await;
        inner.log.stop().await;
        for running in lock(&inner.running).drain(..) {
            running.abort();
        }
        // Closing is not enough: a child that was forked and has not yet begun its program holds the file too.
        if let Some(file) = lock(&inner.lock).take() {
            let _ = file.unlock();
        }
    }

    /// Without room nothing is proposed.
    fn check_room(&self) -> Result<(), ProposeError> {
        if self.inner.full.load(Ordering::Relaxed) { Err(ProposeError::NoRoom) } else { Ok(()) }
    }

    /// Proposes an entry of our own.
    async fn write(&self, data: Data) -> Result<(u64, Answer), ProposeError> {
        let mut leadership = self.inner.leadership.clone();
        let (term, leads) = {
            let now = leadership.borrow();
            (now.term, now.is_me)
        };
        if !leads {
            return Err(batch::not_leader(&leadership));
        }
        self.check_room()?;
        let written = tokio::select! {
            biased;
            written = self.inner.raft.client_write(data) => written,
            () = batch::lost(&mut leadership, term) => {
                return Err(ProposeError::Unknown { why: "leadership was lost before the answer".into() });
            }
        };
        match written {
            Ok(written) => Ok((written.log_id.index, written.data)),
            Err(error) => Err(batch::explain(error, &self.inner.leadership)),
        }
    }

    /// Whether there is room, and how much the log takes.
    fn look_at_disk(&self) {
        let (inner, dir) = (&self.inner, &self.inner.options.dir);
        inner.log_bytes.store(disk::bytes_in(&log_dir(dir)), Ordering::Relaxed);
        let Some(space) = disk::space(dir) else { return };
        let (was, reserve) = (inner.full.load(Ordering::Relaxed), space.reserve(inner.options.disk_reserve));
        let is = disk::is_full(was, space.free, reserve);
        if !is {
            disk::keep_ballast(dir, &space, reserve);
        }
        telemetry::space(space.free, is);
        if was == is {
            return;
        }
        let (free_mib, reserve_mib) = (space.free >> 20, reserve >> 20);
        if is {
            tracing::error!(free_mib, reserve_mib, dir = %dir.display(), "the disk is nearly full: this replica takes no entries until twice the reserve is free");
        } else {
            tracing::info!(free_mib, "there is room on the disk again: this replica takes entries");
        }
        inner.full.store(is, Ordering::Relaxed);
    }

    /// A leader whose disk is full or syncs too slowly for the profile hands over, if another can lead. For a slow disk
    /// not again soon, since the others' may be no better; with a full one it is of no use as a leader.
    async fn leave_if_disk_fails(&self, handed_over: &mut Option<Instant>) {
        let inner = &self.inner;
        // By the measure of the start-up check.
        let bears = inner.options.profile.fsync_max();
        let slow =
            !inner.options.accept_slow_disk && telemetry::sync_median().is_some_and(|median| median > bears);
        let full = inner.full.load(Ordering::Relaxed);
        let pause = if full { HAND_OVER_FULL_EVERY } else { HAND_OVER_EVERY };
        let lately = handed_over.is_some_and(|at: Instant| at.elapsed() < pause);
        if !(full || slow) || lately || !inner.leadership.borrow().is_me {
            return;
        }
        *handed_over = Some(Instant::now());
        match self.transfer(None).await {
            Ok(heir) => tracing::warn!(
                heir = heir.node_id,
                slow,
                "leadership was handed over for want of a good disk"
            ),
            Err(why) => tracing::warn!(slow, "this replica's disk is bad, and no other leads: {why}"),
        }
    }

    /// A learner that no leader speaks to may have been removed, and only half heard of it: whoever is a member tells it.
    async fn ask_if_forgotten(&self, status: &Status) {
        let patience = self.inner.options.profile.election().1 * FORGOTTEN_AFTER;
        if status.state != "learner" || self.age().is_some_and(|age| age < patience) {
            return;
        }
        for member in status.members.iter().filter(|member| member.node_id != status.node_id) {
            let asked = self.inner.transport.sum(member, Default::default());
            let _told_by_the_transport = tokio::time::timeout(ANSWER_MAX, asked).await;
        }
    }

    /// Sets gauges; takes a snapshot when one is due.
    async fn look(self) {
        let options = &self.inner.options;
        let began = self.inner.log.appended_bytes();
        let mut handed_over = None;
        let (mut at_bytes, mut at_index, mut at_time) = (began, self.status().snapshot, Instant::now());
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look_at_disk();
            self.leave_if_disk_fails(&mut handed_over).await;
            let status = self.status();
            self.ask_if_forgotten(&status).await;
            telemetry::status(&status, self.quorum_acknowledged().map(|at| at.elapsed()));
            let entries = status.applied.saturating_sub(status.snapshot.max(at_index));
            let bytes = self.inner.log.appended_bytes() - at_bytes;
            let due = entries >= options.snapshot_entries
                || (entries > 0 && bytes >= options.snapshot_log_bytes)
                || (entries > 0 && at_time.elapsed() >= options.snapshot_every);
            // Whoever gets a snapshot needs the log behind it: a newer one would let go of that, and again and again.
            let sending = self.inner.sending.load(Ordering::Relaxed) > 0;
            if sending && bytes < options.snapshot_log_bytes * SENDING_LOG_FACTOR {
                continue;
            }
            if due {
                (at_bytes, at_index, at_time) =
                    (self.inner.log.appended_bytes(), status.applied, Instant::now());
                self.snapshot().await;
            }
        }
    }
}

#[tonic::async_trait]
impl<M: Machine> service::Sums for Replica<M> {
    async fn sum_at(&self, index: u64) -> Option<Fingerprint> {
        self.fingerprint_of(index).await
    }

    fn quarantine(&self, index: u64, majority: [u8; 8]) {
        Replica::quarantine(self, index, majority);
    }
}

/// Says why a replica cannot go on; what was said first stays.
pub(crate) fn stop(stopped: &watch::Sender<Option<String>>, why: impl Into<String>) {
    stopped.send_if_modified(|told| {
        let first = told.is_none();
        told.get_or_insert_with(|| why.into());
        first
    });
}

/// A quarantined replica takes a peer's rows before anything else.
async fn leave_quarantine(
    options: &Options,
    stopped: &watch::Sender<Option<String>>,
) -> Result<(), StoreError> {
    let dir = options.dir.clone();
    if !disk::exists(&dir)? {
        return Ok(());
    }
    let locked = off_thread(move || {
        let lock = disk::lock_dir(&dir)?;
        disk::refuse_condemned(&dir)?;
        Ok((lock, identity(&dir)?))
    });
    let (lock, Some(identity)) = locked.await? else { return Ok(()) };
    let transport = Transport::new(Arc::new(identity.clone()), options.profile, stopped.clone());
    let left = quarantine::leave(&options.dir, &identity, &transport).await;
    // Closing is not enough: a child that was forked and has not yet begun its program holds the file too.
    let _ = lock.unlock();
    left
}

/// Rows that came from a peer, installed or not yet, may be of a later leader than any that this replica voted for. Before
/// its log says so too, its vote must.
async fn follow_the_rows(log: &mut Log, holds: Option<LogId>) -> std::io::Result<()> {
    let Some(applied) = holds else { return Ok(()) };
    if log.vote().is_none_or(|vote| vote.leader_id < applied.leader_id) {
        log.save_vote(&Vote { leader_id: applied.leader_id, committed: true }).await?;
    }
    Ok(())
}

/// Rows may come from a peer, by a snapshot or after a quarantine, and be of a later leader than the own log, which
/// reaches further: all of its tail was overwritten elsewhere, and what is committed of it is in the rows. A crash can
/// keep the rows and lose the log's own cut.
async fn drop_dead_tail(log: &mut Log, applied: Option<LogId>) -> std::io::Result<()> {
    let (last, purged) = log.ends();
    if last < applied && last.map(|id| id.index) >= applied.map(|id| id.index) {
        tracing::warn!(?last, ?applied, "the rows are of a later leader than the log; the log is dropped");
        log.truncate_after(purged).await?;
    }
    Ok(())
}

struct Opened<M> {
    identity: Identity,
    machine: Arc<Held<M>>,
    pending: Arc<Pending>,
    writer: RowWriter,
    log: Log,
    newest: Option<Arc<snapshot::Snapshot>>,
    /// How far the rows reach once `newest` is installed, which openraft does before anything else.
    holds: Option<LogId>,
    sync: Duration,
    lock: File,
}

/// Everything that reads the disk before Raft starts.
fn open<M: Machine>(
    options: &Options,
    stopped: &watch::Sender<Option<String>>,
) -> Result<Opened<M>, StoreError> {
    let dir: &Path = &options.dir;
    let no_identity = || StoreError::NoIdentity { path: dir.to_owned() };
    if !disk::exists(dir)? {
        return Err(no_identity());
    }
    let began = Instant::now();
    let lock = disk::lock_dir(dir)?;
    disk::refuse_condemned(dir)?;
    let identity = identity(dir)?.ok_or_else(no_identity)?;
    if identity.cluster != options.cluster {
        return Err(StoreError::OtherCluster {
            path: dir.to_owned(),
            found: identity.cluster,
            wanted: options.cluster.clone(),
        });
    }
    let sync = disk::measure_sync(dir)?;
    let measured = Instant::now();
    let failed = |what: &'static str| -> OnFailure {
        let stopped = stopped.clone();
        Box::new(move |why| {
            stop(&stopped, format!("{what}: {why}"));
        })
    };
    let log = Log::open(&log_dir(dir), options.segment_bytes, failed("the log cannot be written"))?;
    log.check_vote()?;
    let logged = Instant::now();
    let newest = snapshot::newest(&snapshot::home(dir))?;
    let mut rows = open_rows(dir)?;
    let opened = Instant::now();
    let (machine, at) = rows.load(M::load)?;
    tracing::info!(
        node = identity.node_id,
        stored = at.index(),
        rows = rows.summed().0,
        disk_ms = (measured - began).as_millis(),
        log_ms = (logged - measured).as_millis(),
        open_ms = (opened - logged).as_millis(),
        load_ms = opened.elapsed().as_millis(),
        "the machine was loaded from its rows"
    );
    let newest = snapshot::useful(newest, at.applied, log.ends().0);
    let newest = snapshot::sound(newest, at.applied)?;
    let holds = at.applied.max(newest.as_ref().and_then(|newest| newest.last()));
    check_reach(dir, holds, log.ends().1)?;
    let pending = Arc::new(Pending::new(at.clone()));
    let writer = RowWriter::start(rows, at, Arc::clone(&pending), failed("rows cannot be written"))?;
    Ok(Opened {
        identity,
        machine: Arc::new(Held::new(machine)),
        pending,
        writer,
        log,
        newest,
        holds,
        sync,
        lock,
    })
}

/// How long a read waits for a quorum, and for the machine.
fn read_max(options: &Options) -> Duration {
    options.profile.election().1 * 4
}

fn check_sync(options: &Options, sync: Duration) -> Result<(), StartError> {
    let limit = options.profile.fsync_max();
    let (measured_ms, limit_ms) = (sync.as_secs_f64() * 1e3, limit.as_secs_f64() * 1e3);
    if sync > limit && !options.accept_slow_disk {
        return Err(StartError::SlowDisk {
            dir: options.dir.clone(),
            measured_ms,
            limit_ms,
            profile: options.profile,
        });
    }
    if sync * 4 > limit {
        tracing::warn!(measured_ms, limit_ms, profile = %options.profile, "syncing is slow for this profile");
    } else {
        tracing::info!(measured_ms, profile = %options.profile, "the disk is fast enough");
    }
    Ok(())
}

fn config(options: &Options) -> Result<Config, String> {
    let profile: Profile = options.profile;
    let (min, max) = profile.election();
    let ms = |time: Duration| time.as_millis() as u64;
    let config = Config {
        cluster_name: options.cluster.clone(),
        heartbeat_interval: ms(profile.heartbeat()),
        election_timeout_min: ms(min),
        election_timeout_max: ms(max),
        // A question before each campaign, so that a replica that was away does not depose a good leader.
        enable_pre_vote: Some(true),
        // A restarted leader may lack entries that it had not synced; leading on, it would reuse their ids.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        // A leader without a quorum falls silent in phases, so that the others can elect.
        quorum_loss_probe_interval: Some(ms(max) * 2),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.keep_entries,
        purge_batch_size: 1,
        max_payload_entries: MESSAGE_ENTRIES_MAX,
        // As long as the log reaches back far enough it is used; a snapshot is for those it does not reach.
        replication_lag_threshold: u64::MAX / 2,
        install_snapshot_timeout: 1_800_000,
        backoff: "20ms 40ms 80ms ...100ms".into(),
        ..Config::default()
    };
    config.validate().map_err(|e| e.to_string())
}

fn role(state: openraft::ServerState) -> &'static str {
    match state {
        openraft::ServerState::Learner => "learner",
        openraft::ServerState::Follower => "follower",
        openraft::ServerState::Candidate => "candidate",
        openraft::ServerState::Leader => "leader",
        openraft::ServerState::Shutdown => "stopped",
    }
}

fn leadership_of(metrics: &RaftMetrics<Types>) -> Leadership {
    let is_me =
        metrics.state.is_leader() && metrics.vote.committed && metrics.vote.leader_id.node_id == metrics.id;
    let leader =
        metrics.current_leader.and_then(|id| shape::members(metrics).into_iter().find(|m| m.node_id == id));
    // Lag and age change all the time; they are the status's.
    let leader = leader.map(|member| Member { lag: None, heard: None, ..member });
    Leadership { term: metrics.current_term, leader, is_me: is_me && metrics.running_state.is_ok() }
}

/// Tells who leads as it changes, and that Raft has stopped.
async fn watch_raft(raft: Raft, told: watch::Sender<Leadership>, stopped: watch::Sender<Option<String>>) {
    let mut metrics = raft.metrics();
    let mut ended = stopped.subscribe();
    loop {
        let (mut now, failure) = {
            let seen = metrics.borrow_and_update();
            (leadership_of(&seen), seen.running_state.as_ref().err().map(ToString::to_string))
        };
        if let Some(why) = failure {
            stop(&stopped, why);
        }
        now.is_me &= stopped.borrow().is_none();
        told.send_if_modified(|before| {
            if *before == now {
                return false;
            }
            if before.leader.as_ref().map(|m| m.node_id) != now.leader.as_ref().map(|m| m.node_id) {
                telemetry::leader_changed();
                let leader = now.leader.as_ref().map(|m| m.node_id);
                tracing::info!(term = now.term, ?leader, is_me = now.is_me, "the leader changed");
            }
            *before = now.clone();
            true
        });
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            changed = ended.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod seen;
#[cfg(test)]
mod tests;
