//! State and commands to and from versioned records: the only file that names the wire.
//!
//! A row's key is a table byte and the table's own key, numbers big-endian, so that rows lie in id order.
//! Tables up to `LIVE_TABLE_LAST` are State and are read by `load`; those above are history and are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use prost::bytes::Bytes;
use proto::resources::EXECUTOR_RAM_MIB;
use proto::{BadField, HostId, JobId, JobKey, Resources, TaskId, WorkId, wire};

use super::command::{
    Assign, Change, Command, Done, Op, Placement, Preempt, Refusal, RefusalKind, Reply, Report, Request,
    StartSession,
};
use super::config::{
    Comparison, ConfigHash, Constraint, JobSpec, PartitionPolicy, Preference, Rule, Spread, TaskConfig, Tier,
};
use super::cron::Cron;
use super::host::{Host, HostIdentity, HostRecord, HostSpec};
use super::job::{EndedTask, Job, JobRecord};
use super::request::{Remembered, RequestKey};
use super::reservation::Reservation;
use super::status::Status;
use super::task::Task;
use super::touch::{EventRecord, Key, Touch};
use super::update::Update;
use super::work::{Rest, Work};
use super::{Cluster, State};
use crate::limits::{LEVEL, LEVEL_FIRST};
use crate::time::Timestamp;

const CLUSTER: u8 = 1;
const CONFIG: u8 = 2;
const JOB: u8 = 3;
const TASK: u8 = 4;
const HOST: u8 = 5;
const REQUEST: u8 = 6;
const WORK: u8 = 7;
const RECENT: u8 = 8;
const ROLE: u8 = 9;
const RESERVATION: u8 = 10;
const UPDATE: u8 = 11;
const CRON: u8 = 12;
/// The last table that is State; `load` needs no row above it.
pub const LIVE_TABLE_LAST: u8 = 0x1f;
const HISTORY: u8 = 0x20;
const EVENT: u8 = 0x21;

/// Bytes that do not mean what they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {why}")]
pub struct Corrupt {
    /// Row or command.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

impl Corrupt {
    fn new(what: impl Into<String>, why: impl Into<String>) -> Corrupt {
        Corrupt { what: what.into(), why: why.into() }
    }
}

fn bad(what: &str) -> impl Fn(BadField) -> Corrupt {
    move |field| Corrupt::new(what, field.to_string())
}

/// A row's value as State had it: cheap to clone, encoded later and elsewhere.
#[derive(Clone, Debug)]
pub enum RowValue {
    /// Facts about the cluster.
    Cluster(Cluster),
    /// A task config.
    Config(Arc<TaskConfig>),
    /// A job.
    Job(JobRecord),
    /// A live task.
    Task(Arc<Task>),
    /// A host.
    Host(HostRecord),
    /// A remembered request.
    Request(Arc<Remembered>),
    /// A work item.
    Work(Work),
    /// One of a job's newest ended tasks.
    Recent(Arc<EndedTask>),
    /// A role's quota.
    Role(Arc<str>, Resources),
    /// Room that is kept for a task.
    Reservation(Reservation),
    /// An update in flight.
    Update(Update),
    /// A template.
    Cron(Cron),
    /// An ended task; history.
    History(Task),
    /// An event; history.
    Event(EventRecord),
}

impl RowValue {
    /// Appends the row's bytes.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        // Writing to a Vec cannot run out of room.
        let written = match self {
            RowValue::Cluster(row) => cluster_row(row).encode(buffer),
            RowValue::Config(row) => row.wire.encode(buffer),
            RowValue::Job(row) => job_row(row).encode(buffer),
            RowValue::Task(row) => task_row(row).encode(buffer),
            RowValue::History(row) => task_row(row).encode(buffer),
            RowValue::Host(row) => host_row(row).encode(buffer),
            RowValue::Request(row) => request_row(row).encode(buffer),
            RowValue::Work(row) => work_row(row).encode(buffer),
            RowValue::Recent(row) => recent_row(row).encode(buffer),
            RowValue::Role(name, quota) => {
                wire::RoleRow { role: name.to_string(), quota: Some((*quota).into()) }.encode(buffer)
            }
            RowValue::Reservation(row) => {
                wire::ReservationRow { task_id: row.task.0, host_id: row.host.0, until_ms: row.until.0 }
                    .encode(buffer)
            }
            RowValue::Update(row) => update_row(row).encode(buffer),
            RowValue::Cron(row) => cron_row(row).encode(buffer),
            RowValue::Event(row) => event_row(row).encode(buffer),
        };
        debug_assert!(written.is_ok(), "a Vec grows");
    }
}

// ---- keys ----

fn id_key(table: u8, id: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(table);
    key.extend(id.to_be_bytes());
    key
}

fn request_key(request: &RequestKey) -> Vec<u8> {
    let mut key = vec![REQUEST];
    key.extend((request.identity.len() as u16).to_be_bytes());
    key.extend(request.identity.as_bytes());
    key.extend(request.id.as_bytes());
    key
}

pub(super) fn recent_key(ended: &EndedTask) -> Vec<u8> {
    let mut key = id_key(RECENT, ended.job.0);
    key.extend(ended.at.0.to_be_bytes());
    key.extend(ended.id.0.to_be_bytes());
    key
}

/// Under what an ended task's row of history lies.
pub fn history_key(task: TaskId) -> Vec<u8> {
    id_key(HISTORY, task.0)
}

/// Under what one event of a task lies; all of a task's events lie together, in order.
pub fn event_key(task: TaskId, number: u32) -> Vec<u8> {
    let mut key = id_key(EVENT, task.0);
    key.extend(number.to_be_bytes());
    key
}

/// What the keys of all events of a task begin with.
pub fn event_prefix(task: TaskId) -> Vec<u8> {
    id_key(EVENT, task.0)
}

/// The table byte that all rows of ended tasks begin with.
pub fn history_prefix() -> Vec<u8> {
    vec![HISTORY]
}

/// Reads a row of history as its message.
pub fn read_history(row: &[u8]) -> Result<wire::TaskRow, Corrupt> {
    wire::TaskRow::decode(row).map_err(|error| Corrupt::new("a row of history", error.to_string()))
}

/// Reads an event's row as its message.
pub fn read_event(row: &[u8]) -> Result<wire::EventRow, Corrupt> {
    wire::EventRow::decode(row).map_err(|error| Corrupt::new("an event's row", error.to_string()))
}

/// The row that State has under a key now.
pub(super) fn change(state: &State, key: &Key) -> Change {
    let (key, row) = match key {
        Key::Cluster => (vec![CLUSTER], Some(RowValue::Cluster(state.cluster.clone()))),
        Key::Config(hash) => {
            let mut bytes = vec![CONFIG];
            bytes.extend(hash.0);
            (bytes, state.configs.get(hash).map(|stored| RowValue::Config(stored.config.clone())))
        }
        Key::Job(id) => (id_key(JOB, id.0), state.jobs.get(id).map(|job| RowValue::Job(job.record.clone()))),
        Key::Task(id) => (id_key(TASK, id.0), state.tasks.get(id).map(|task| RowValue::Task(task.clone()))),
        Key::Host(id) => {
            (id_key(HOST, id.0), state.hosts.get(id).map(|host| RowValue::Host(host.record.clone())))
        }
        Key::Request(key) => (request_key(key), state.requests.get(key).cloned().map(RowValue::Request)),
        Key::Work(id) => (id_key(WORK, id.0), state.work.get(id).cloned().map(RowValue::Work)),
        Key::Role(name) => {
            let quota = state.roles.get(name).and_then(|role| role.quota);
            let bytes = [ROLE].into_iter().chain(name.bytes()).collect();
            (bytes, quota.map(|quota| RowValue::Role(name.clone(), quota)))
        }
        Key::Reservation(task) => {
            let kept = state.reservations.get(task).copied();
            (id_key(RESERVATION, task.0), kept.map(RowValue::Reservation))
        }
        Key::Update(job) => (id_key(UPDATE, job.0), state.updates.get(job).cloned().map(RowValue::Update)),
        Key::Cron(key) => {
            let bytes = [CRON].into_iter().chain(key.to_string().into_bytes()).collect();
            (bytes, state.crons.get(key).cloned().map(RowValue::Cron))
        }
    };
    Change { key, row }
}

impl State {
    /// All rows of State in key order, for tests and offline tools; `load` reads them back.
    pub fn save(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let keys = [Key::Cluster]
            .into_iter()
            .chain(self.configs.keys().map(|&hash| Key::Config(hash)))
            .chain(self.jobs.keys().map(|&id| Key::Job(id)))
            .chain(self.tasks.keys().map(|&id| Key::Task(id)))
            .chain(self.hosts.keys().map(|&id| Key::Host(id)))
            .chain(self.requests.keys().cloned().map(Key::Request))
            .chain(self.work.keys().map(|&id| Key::Work(id)))
            .chain(self.roles.keys().cloned().map(Key::Role))
            .chain(self.reservations.keys().map(|&task| Key::Reservation(task)))
            .chain(self.updates.keys().map(|&job| Key::Update(job)))
            .chain(self.crons.keys().cloned().map(Key::Cron));
        let changes = keys.map(|key| change(self, &key));
        let recent = self.jobs.values().flat_map(|job| job.ended.values());
        let recent =
            recent.map(|ended| Change { key: recent_key(ended), row: Some(RowValue::Recent(ended.clone())) });
        changes
            .chain(recent)
            .filter_map(|Change { key, row }| {
                let mut bytes = Vec::new();
                row?.encode(&mut bytes);
                Some((key, bytes))
            })
            .collect()
    }

    /// Rebuilds State from its rows, in any order; rows of history are passed over.
    pub fn load(rows: impl Iterator<Item = (Box<[u8]>, Box<[u8]>)>) -> Result<State, Corrupt> {
        let mut tables: BTreeMap<u8, Vec<Box<[u8]>>> = BTreeMap::new();
        for (key, row) in rows {
            match key.first() {
                Some(&table) if table <= LIVE_TABLE_LAST => tables.entry(table).or_default().push(row),
                Some(_) => {}
                None => return Err(Corrupt::new("a row", "its key is empty")),
            }
        }
        if let Some(table) = tables.keys().find(|table| !(CLUSTER..=CRON).contains(table)) {
            return Err(Corrupt::new(format!("table {table}"), "this build does not know it"));
        }
        let mut state = State::default();
        // What is referred to comes before what refers to it.
        for (table, load) in [
            (CLUSTER, State::load_cluster as fn(&mut State, &[u8]) -> Result<(), Corrupt>),
            (CONFIG, State::load_config),
            (JOB, State::load_job),
            (HOST, State::load_host),
            (TASK, State::load_task),
            (REQUEST, State::load_request),
            (WORK, State::load_work),
            (RECENT, State::load_recent),
            (ROLE, State::load_role),
            (RESERVATION, State::load_reservation),
            (UPDATE, State::load_update),
            (CRON, State::load_cron),
        ] {
            for row in tables.remove(&table).unwrap_or_default() {
                load(&mut state, &row)?;
            }
        }
        Ok(state)
    }

    fn load_cluster(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::ClusterRow = decode(row, "the cluster's row")?;
        if !(LEVEL_FIRST..=LEVEL).contains(&row.apply_level) {
            return Err(Corrupt::new(
                "the cluster's row",
                format!(
                    "the cluster acts at level {}; this program can act at levels {LEVEL_FIRST} to {LEVEL}",
                    row.apply_level
                ),
            ));
        }
        self.cluster = Cluster {
            level: row.apply_level,
            epoch: row.epoch,
            clock: Timestamp(row.clock_ms),
            next_id: row.next_id,
            term: row.term,
            leader: row.leader,
            grace_until: Timestamp(row.grace_until_ms),
            braked: (row.braked_ms > 0).then_some(Timestamp(row.braked_ms)),
            thawed: Timestamp(row.thawed_ms),
            replaced_since: Timestamp(row.replaced_since_ms),
            replaced_hosts: row.replaced_hosts,
            frozen: row.frozen,
            held: (row.held_since_ms > 0).then_some(Timestamp(row.held_since_ms)),
            name: row.cluster.into(),
            lineage: row.lineage_id.into(),
        };
        Ok(())
    }

    fn load_config(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let config = Arc::new(read_config(decode(row, "a config's row")?).map_err(bad("a config's row"))?);
        // References are counted as jobs and tasks come.
        self.configs.insert(config.hash, super::StoredConfig { config, references: 0 });
        Ok(())
    }

    fn loaded_config(&mut self, hash: &[u8], who: &str) -> Result<Arc<TaskConfig>, Corrupt> {
        let missing = || Corrupt::new(who, "its config is not stored");
        let hash = ConfigHash(hash.try_into().map_err(|_| missing())?);
        let config = self.configs.get(&hash).ok_or_else(missing)?.config.clone();
        Ok(self.refer(&config, &mut Touch::default()))
    }

    fn load_job(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::JobRow = decode(row, "a job's row")?;
        let key = JobKey::try_from(row.key.as_ref().unwrap_or(&wire::JobKey::default()))
            .map_err(bad("a job's row"))?;
        let config = self.loaded_config(&row.config_hash, "a job's row")?;
        self.link_job(Job::new(JobRecord {
            id: JobId(row.job_id),
            key: Arc::new(key),
            config,
            instances: row.instances,
            created: Timestamp(row.created_ms),
            ended: (row.ended_ms > 0).then_some(Timestamp(row.ended_ms)),
        }));
        Ok(())
    }

    fn load_host(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::HostRow = decode(row, "a host's row")?;
        let identity = read_identity(row.identity.unwrap_or_default());
        let id = identity.host.ok_or_else(|| Corrupt::new("a host's row", "it has no id"))?;
        let spec = read_host_spec(row.spec.unwrap_or_default()).map_err(bad("a host's row"))?;
        let unused = Resources::try_from(&row.unused.unwrap_or_default()).map_err(bad("a host's row"))?;
        self.link_host(Host::new(HostRecord {
            id,
            identity: Arc::new(identity),
            spec: Arc::new(spec),
            generation: row.generation,
            acknowledged: row.acknowledged,
            since: Timestamp(row.since_ms),
            silent_since: (row.silent_since_ms > 0).then_some(Timestamp(row.silent_since_ms)),
            overcommitted: row.overcommitted,
            draining: row.draining,
            unused,
            replaced: row.replaced,
        }));
        Ok(())
    }

    fn load_task(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::TaskRow = decode(row, "a task's row")?;
        let what = || format!("the row of {}", TaskId(row.task_id));
        let status = read_status(row.status).ok_or_else(|| Corrupt::new(what(), "it has no status"))?;
        let host = (row.host_id != 0).then_some(HostId(row.host_id));
        if !self.jobs.contains_key(&JobId(row.job_id)) {
            return Err(Corrupt::new(what(), "its job is not stored"));
        }
        if self.jobs[&JobId(row.job_id)].live.contains_key(&row.instance) {
            return Err(Corrupt::new(what(), "its instance has another live task"));
        }
        if host.is_some_and(|host| !self.hosts.contains_key(&host)) || host.is_some() != status.is_on_host() {
            return Err(Corrupt::new(what(), "its host is not stored, or does not go with its status"));
        }
        let config = self.loaded_config(&row.config_hash, "a task's row")?;
        let ports: Result<Vec<u16>, _> = row.ports.iter().map(|&port| u16::try_from(port)).collect();
        self.link_task(Task {
            id: TaskId(row.task_id),
            job: JobId(row.job_id),
            instance: row.instance,
            status,
            before: read_status(row.before),
            config,
            created: Timestamp(row.created_ms),
            since: Timestamp(row.since_ms),
            until: Timestamp(row.until_ms),
            host,
            ports: ports.map_err(|_| Corrupt::new(what(), "a port is above 65535"))?.into(),
            failures: row.failures,
            flaps: row.flaps,
            partitions: row.partitions,
            ancestor: (row.ancestor != 0).then_some(TaskId(row.ancestor)),
            displaced: row.displaced,
            message: text(&row.message),
            events: row.events,
        });
        Ok(())
    }

    fn load_request(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::RequestRow = decode(row, "a request's row")?;
        let reply: wire::ApplyReply = decode(&row.reply, "a request's reply")?;
        let key = Arc::new(RequestKey { identity: row.identity, id: row.id });
        let until = Timestamp(row.until_ms);
        let remembered = Remembered {
            key: key.clone(),
            body_hash: row.body_hash[..].into(),
            until,
            reply: read_reply(reply)?,
        };
        self.requests.insert(key.clone(), Arc::new(remembered));
        self.forgettable.insert((until, key));
        Ok(())
    }

    fn load_work(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::WorkRow = decode(row, "a work item's row")?;
        let rest = match row.work {
            Some(wire::work_row::Work::Create(create)) => {
                Rest::Create { job: JobId(create.job_id), next: create.next, end: create.end }
            }
            Some(wire::work_row::Work::Stop(stop)) => Rest::Stop {
                job: JobId(stop.job_id),
                next: stop.next,
                message: stop.message.into(),
                restart: stop.restart,
            },
            Some(wire::work_row::Work::Drain(drain)) => {
                Rest::Drain { host: HostId(drain.host_id), message: drain.message.into() }
            }
            Some(wire::work_row::Work::Renew(renew)) => Rest::Renew { next: TaskId(renew.next_task_id) },
            None => return Err(Corrupt::new("a work item's row", "it says nothing to do")),
        };
        let id = WorkId(row.work_id);
        self.work.insert(id, Work { id, rest });
        Ok(())
    }

    fn load_recent(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::RecentRow = decode(row, "the row of an ended task")?;
        let status = read_status(row.status).filter(|status| status.is_terminal());
        let status =
            status.ok_or_else(|| Corrupt::new("the row of an ended task", "its status is not an end"))?;
        if !self.jobs.contains_key(&JobId(row.job_id)) {
            return Err(Corrupt::new("the row of an ended task", "its job is not stored"));
        }
        let ended = EndedTask {
            job: JobId(row.job_id),
            id: TaskId(row.task_id),
            instance: row.instance,
            status,
            at: Timestamp(row.at_ms),
            message: text(&row.message),
            host: text(&row.host),
            ancestor: (row.ancestor != 0).then_some(TaskId(row.ancestor)),
            events: row.events,
        };
        let id = ended.job;
        self.alter_job(id, |job| drop(job.ended.insert((ended.at, ended.id), Arc::new(ended))));
        Ok(())
    }

    fn load_role(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::RoleRow = decode(row, "a role's row")?;
        let quota = Resources::try_from(&row.quota.unwrap_or_default()).map_err(bad("a role's row"))?;
        self.roles.entry(row.role.into()).or_default().quota = Some(quota);
        Ok(())
    }

    fn load_reservation(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::ReservationRow = decode(row, "a reservation's row")?;
        let (task, host) = (TaskId(row.task_id), HostId(row.host_id));
        if !self.tasks.contains_key(&task) || !self.hosts.contains_key(&host) {
            return Err(Corrupt::new("a reservation's row", "its task or its host is not stored"));
        }
        self.link_reservation(Reservation { task, host, until: Timestamp(row.until_ms) });
        Ok(())
    }

    fn load_update(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let row: wire::UpdateRow = decode(row, "an update's row")?;
        let job = JobId(row.job_id);
        if !self.jobs.contains_key(&job) {
            return Err(Corrupt::new("an update's row", "its job is not stored"));
        }
        let config = self.loaded_config(&row.config_hash, "an update's row")?;
        let most = crate::limits::INSTANCES_PER_JOB_MAX;
        if row.moved.iter().any(|range| range.last >= most) {
            return Err(Corrupt::new("an update's row", "it has moved more instances than a job may have"));
        }
        let moved = row.moved.iter().flat_map(|range| range.first..=range.last).collect();
        let created = Timestamp(row.created_ms);
        self.updates.insert(job, Update { job, config, instances: row.instances, created, moved });
        Ok(())
    }

    fn load_cron(&mut self, row: &[u8]) -> Result<(), Corrupt> {
        let what = "a cron job's row";
        let row: wire::CronRow = decode(row, what)?;
        let spec = row.spec.unwrap_or_default();
        let config = read_config(spec.config.unwrap_or_default()).map_err(bad(what))?;
        let key = Arc::new(config.job.clone());
        let config = self.refer(&Arc::new(config), &mut Touch::default());
        let spec = JobSpec { config, instances: spec.instances };
        let cron = Cron { spec, schedule: row.schedule.into(), created: Timestamp(row.created_ms) };
        self.crons.insert(key, cron);
        Ok(())
    }
}

fn decode<M: prost::Message + Default>(bytes: &[u8], what: &str) -> Result<M, Corrupt> {
    M::decode(bytes).map_err(|error| Corrupt::new(what, error.to_string()))
}

fn text(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

fn said(text: &Option<Arc<str>>) -> String {
    text.as_deref().unwrap_or_default().to_owned()
}

// ---- rows ----

fn cluster_row(row: &Cluster) -> wire::ClusterRow {
    wire::ClusterRow {
        apply_level: row.level,
        epoch: row.epoch,
        clock_ms: row.clock.0,
        next_id: row.next_id,
        term: row.term,
        leader: row.leader,
        frozen: row.frozen,
        held_since_ms: row.held.map_or(0, |at| at.0.max(1)),
        lineage_id: row.lineage.to_string(),
        cluster: row.name.to_string(),
        grace_until_ms: row.grace_until.0,
        braked_ms: row.braked.map_or(0, |at| at.0),
        thawed_ms: row.thawed.0,
        replaced_since_ms: row.replaced_since.0,
        replaced_hosts: row.replaced_hosts,
    }
}

fn job_row(row: &JobRecord) -> wire::JobRow {
    wire::JobRow {
        key: Some((&*row.key).into()),
        job_id: row.id.0,
        config_hash: Bytes::copy_from_slice(&row.config.hash.0),
        instances: row.instances,
        created_ms: row.created.0,
        ended_ms: row.ended.map_or(0, |at| at.0),
    }
}

fn task_row(row: &Task) -> wire::TaskRow {
    wire::TaskRow {
        task_id: row.id.0,
        job_id: row.job.0,
        instance: row.instance,
        config_hash: Bytes::copy_from_slice(&row.config.hash.0),
        status: status_wire(row.status) as i32,
        since_ms: row.since.0,
        host_id: row.host.map_or(0, |host| host.0),
        ports: row.ports.iter().map(|&port| port.into()).collect(),
        failures: row.failures,
        ancestor: row.ancestor.map_or(0, |task| task.0),
        message: said(&row.message),
        until_ms: row.until.0,
        partitions: row.partitions,
        before: row.before.map_or(0, |status| status_wire(status) as i32),
        created_ms: row.created.0,
        flaps: row.flaps,
        events: row.events,
        displaced: row.displaced,
    }
}

fn host_row(row: &HostRecord) -> wire::HostRow {
    wire::HostRow {
        identity: Some(identity_wire(&row.identity)),
        spec: Some(host_spec_wire(&row.spec)),
        generation: row.generation,
        acknowledged: row.acknowledged,
        since_ms: row.since.0,
        silent_since_ms: row.silent_since.map_or(0, |at| at.0),
        overcommitted: row.overcommitted,
        draining: row.draining,
        unused: (row.unused != Resources::default()).then(|| row.unused.into()),
        replaced: row.replaced,
    }
}

fn request_row(row: &Remembered) -> wire::RequestRow {
    wire::RequestRow {
        identity: row.key.identity.clone(),
        id: row.key.id.clone(),
        body_hash: Bytes::copy_from_slice(&row.body_hash),
        until_ms: row.until.0,
        reply: reply_wire(&row.reply).encode_to_vec().into(),
    }
}

fn work_row(row: &Work) -> wire::WorkRow {
    let work = match &row.rest {
        Rest::Create { job, next, end } => {
            wire::work_row::Work::Create(wire::CreateInstances { job_id: job.0, next: *next, end: *end })
        }
        Rest::Stop { job, next, message, restart } => wire::work_row::Work::Stop(wire::StopInstances {
            job_id: job.0,
            next: *next,
            message: message.to_string(),
            restart: *restart,
        }),
        Rest::Drain { host, message } => {
            wire::work_row::Work::Drain(wire::DrainHost { host_id: host.0, message: message.to_string() })
        }
        Rest::Renew { next } => wire::work_row::Work::Renew(wire::RenewTasks { next_task_id: next.0 }),
    };
    wire::WorkRow { work_id: row.id.0, work: Some(work) }
}

fn update_row(row: &Update) -> wire::UpdateRow {
    let mut moved: Vec<wire::InstanceRange> = Vec::new();
    for &instance in &row.moved {
        match moved.last_mut().filter(|range| range.last + 1 == instance) {
            Some(range) => range.last = instance,
            None => moved.push(wire::InstanceRange { first: instance, last: instance }),
        }
    }
    wire::UpdateRow {
        job_id: row.job.0,
        config_hash: Bytes::copy_from_slice(&row.config.hash.0),
        instances: row.instances,
        created_ms: row.created.0,
        moved,
    }
}

fn cron_row(row: &Cron) -> wire::CronRow {
    wire::CronRow {
        spec: Some(job_spec_wire(&row.spec)),
        schedule: row.schedule.to_string(),
        created_ms: row.created.0,
    }
}

fn job_spec_wire(spec: &JobSpec) -> wire::JobSpec {
    wire::JobSpec { config: Some(spec.config.wire.clone()), instances: spec.instances }
}

fn read_job_spec(spec: Option<wire::JobSpec>) -> Result<JobSpec, Corrupt> {
    let spec = spec.unwrap_or_default();
    let config = read_config(spec.config.unwrap_or_default()).map_err(bad("a command"))?;
    Ok(JobSpec { config: Arc::new(config), instances: spec.instances })
}

fn read_job_key(key: Option<wire::JobKey>) -> Result<JobKey, Corrupt> {
    JobKey::try_from(&key.unwrap_or_default()).map_err(bad("a command"))
}

fn recent_row(row: &EndedTask) -> wire::RecentRow {
    wire::RecentRow {
        job_id: row.job.0,
        task_id: row.id.0,
        instance: row.instance,
        status: status_wire(row.status) as i32,
        at_ms: row.at.0,
        message: said(&row.message),
        host: said(&row.host),
        ancestor: row.ancestor.map_or(0, |task| task.0),
        events: row.events,
    }
}

fn event_row(row: &EventRecord) -> wire::EventRow {
    wire::EventRow {
        task_id: row.task.0,
        status: status_wire(row.status) as i32,
        at_ms: row.at.0,
        message: said(&row.message),
    }
}

// ---- values ----

/// A status as the wire has it.
pub fn status_wire(status: Status) -> wire::Status {
    match status {
        Status::Init => wire::Status::Init,
        Status::Throttled => wire::Status::Throttled,
        Status::Pending => wire::Status::Pending,
        Status::Assigned => wire::Status::Assigned,
        Status::Starting => wire::Status::Starting,
        Status::Running => wire::Status::Running,
        Status::Draining => wire::Status::Draining,
        Status::Killing => wire::Status::Killing,
        Status::Preempting => wire::Status::Preempting,
        Status::Restarting => wire::Status::Restarting,
        Status::Partitioned => wire::Status::Partitioned,
        Status::Finished => wire::Status::Finished,
        Status::Failed => wire::Status::Failed,
        Status::Killed => wire::Status::Killed,
        Status::Lost => wire::Status::Lost,
    }
}

/// A status from the wire; `None` for the unspecified and the unknown.
pub fn read_status(status: i32) -> Option<Status> {
    let status = wire::Status::try_from(status).ok()?;
    Status::ALL.into_iter().find(|known| status_wire(*known) == status)
}

/// A config from its message. Lenient: what a door checks is in `validate`; this fails only on nonsense, since
/// what was once committed must stay readable.
pub fn read_config(config: wire::TaskConfig) -> Result<TaskConfig, BadField> {
    let job = JobKey::try_from(config.job.as_ref().unwrap_or(&wire::JobKey::default()))?;
    let task = config.task.as_ref().ok_or_else(|| BadField::new("task", "is missing"))?;
    let resources = task.resources.as_ref().ok_or_else(|| BadField::new("resources", "are missing"))?;
    let asked = Resources::try_from(resources)?;
    let preferences = config.preferences.iter().map(|preference| {
        let constraint = preference.constraint.as_ref().map(read_constraint);
        let constraint = constraint.ok_or_else(|| BadField::new("preference", "has no constraint"))??;
        Ok(Preference { constraint, weight: preference.weight })
    });
    let spreads = config.spreads.iter().map(|spread| Spread {
        attribute: spread.attribute.clone(),
        targets: spread.targets.iter().map(|target| (target.value.clone(), target.percent)).collect(),
    });
    let partition = config.partition_policy.as_ref().map_or(
        PartitionPolicy { reschedule: true, delay_ms: crate::limits::PARTITION_DELAY_MS },
        |policy| PartitionPolicy {
            reschedule: policy.reschedule,
            delay_ms: u64::from(policy.delay_seconds) * 1000,
        },
    );
    let static_ports = task.static_ports.iter().map(|port| match u16::try_from(port.port) {
        Ok(number) if number > 0 => Ok((port.name.as_str().into(), number)),
        _ => Err(BadField::new(format!("port {}", port.name), format!("is {}, not 1 to 65535", port.port))),
    });
    let mut constraints: Vec<Constraint> =
        config.constraints.iter().map(read_constraint).collect::<Result<_, _>>()?;
    if config.at_most_one {
        // Elsewhere nobody could end the task while its agent is gone.
        let rule = Rule::Value { negated: false, values: vec!["pid_namespace".to_owned()] };
        constraints.push(Constraint { attribute: "isolation".to_owned(), rule });
    }
    Ok(TaskConfig {
        hash: ConfigHash(proto::config_hash(&config)),
        job,
        demand: Resources { ram_mib: asked.ram_mib + EXECUTOR_RAM_MIB, ..asked },
        asked,
        ports: task.ports.iter().map(|name| name.as_str().into()).collect(),
        static_ports: static_ports.collect::<Result<_, _>>()?,
        constraints,
        preferences: preferences.collect::<Result<_, BadField>>()?,
        spreads: spreads.collect(),
        all_or_nothing: config.all_or_nothing,
        at_most_one: config.at_most_one,
        partition,
        service: config.service,
        tier: Tier::named(&config.tier)
            .ok_or_else(|| BadField::new("tier", format!("is {:?}, not a tier", config.tier)))?,
        priority: config.priority,
        max_task_failures: config.max_task_failures,
        wire: config,
    })
}

fn read_constraint(constraint: &wire::Constraint) -> Result<Constraint, BadField> {
    use wire::constraint::Rule as W;
    let bad = |why| Err(BadField::new(format!("constraint {}", constraint.attribute), why));
    let rule = match constraint.rule.as_ref() {
        Some(W::Value(rule)) => Rule::Value { negated: rule.negated, values: rule.values.clone() },
        Some(W::Limit(rule)) => Rule::Limit { count: rule.count },
        Some(W::Exists(rule)) => Rule::Exists { negated: rule.negated },
        Some(W::Compare(rule)) => {
            let comparison = match rule.comparison() {
                wire::Comparison::Less => Comparison::Less,
                wire::Comparison::AtMost => Comparison::AtMost,
                wire::Comparison::AtLeast => Comparison::AtLeast,
                wire::Comparison::More => Comparison::More,
                wire::Comparison::Unspecified => return bad("compares in no known way"),
            };
            Rule::Compare { comparison, number: rule.number }
        }
        None => return bad("has no rule"),
    };
    Ok(Constraint { attribute: constraint.attribute.clone(), rule })
}

/// A host's spec from its message. Lenient as `read_config` is; sorts what has an order.
pub fn read_host_spec(spec: wire::HostSpec) -> Result<HostSpec, BadField> {
    let capacity = Resources::try_from(&spec.capacity.unwrap_or_default())?;
    let bad_port = |_| BadField::new("ports", "are above 65535");
    let mut ports = Vec::new();
    for range in &spec.ports {
        let (first, last) =
            (u16::try_from(range.first).map_err(bad_port)?, u16::try_from(range.last).map_err(bad_port)?);
        if first == 0 || first > last {
            return Err(BadField::new("ports", format!("have the range {first}-{last}, which is none")));
        }
        ports.push((first, last));
    }
    ports.sort_unstable();
    if let Some(pair) = ports.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
        return Err(BadField::new("ports", format!("have ranges that overlap at {}", pair[1].0)));
    }
    let mut attributes: Vec<_> = spec.attributes.into_iter().map(|a| (a.name, a.value)).collect();
    attributes.sort_unstable();
    attributes.dedup();
    Ok(HostSpec {
        name: spec.name.into(),
        address: spec.address,
        capacity,
        ports,
        attributes,
        version: spec.version,
    })
}

/// A host's spec as the wire has it.
pub fn host_spec_wire(spec: &HostSpec) -> wire::HostSpec {
    wire::HostSpec {
        name: spec.name.to_string(),
        address: spec.address.clone(),
        capacity: Some(spec.capacity.into()),
        ports: spec.ports.iter().map(|&(a, b)| wire::PortRange { first: a.into(), last: b.into() }).collect(),
        attributes: spec
            .attributes
            .iter()
            .map(|(name, value)| wire::Attribute { name: name.clone(), value: value.clone() })
            .collect(),
        version: spec.version.clone(),
    }
}

/// A host's identity from its message.
pub fn read_identity(identity: wire::HostIdentity) -> HostIdentity {
    HostIdentity {
        host: (identity.host_id != 0).then_some(HostId(identity.host_id)),
        journal: identity.journal_id,
        machine: identity.machine_id,
        boot: identity.boot_id,
    }
}

/// A host's identity as the wire has it.
pub fn identity_wire(identity: &HostIdentity) -> wire::HostIdentity {
    wire::HostIdentity {
        host_id: identity.host.map_or(0, |host| host.0),
        journal_id: identity.journal.clone(),
        machine_id: identity.machine.clone(),
        boot_id: identity.boot.clone(),
    }
}

/// A request from its message.
pub fn read_request(request: wire::Request) -> Request {
    Request {
        identity: request.identity,
        id: request.id,
        created: Timestamp(request.created_ms),
        body_hash: request.body_hash.to_vec(),
    }
}

/// A report from its message; `None` when it has no status.
pub fn read_report(report: wire::TaskReport) -> Option<Report> {
    Some(Report {
        task: TaskId(report.task_id),
        status: read_status(report.status)?,
        message: report.message,
        sequence: report.sequence,
    })
}

/// A reply as the wire has it.
pub fn reply_wire(reply: &Reply) -> wire::ApplyReply {
    let outcome = match reply {
        Ok(done) => wire::apply_reply::Outcome::Done(wire::Done {
            id: done.id,
            tasks: done.tasks,
            unchanged: done.unchanged,
        }),
        Err(refusal) => wire::apply_reply::Outcome::Refusal(wire::Refusal {
            kind: refusal_wire(refusal.kind) as i32,
            message: refusal.message.clone(),
        }),
    };
    wire::ApplyReply { outcome: Some(outcome) }
}

/// A reply from its message.
pub fn read_reply(reply: wire::ApplyReply) -> Result<Reply, Corrupt> {
    match reply.outcome {
        Some(wire::apply_reply::Outcome::Done(done)) => {
            Ok(Ok(Done { id: done.id, tasks: done.tasks, unchanged: done.unchanged }))
        }
        Some(wire::apply_reply::Outcome::Refusal(refusal)) => {
            let kind = wire::RefusalKind::try_from(refusal.kind).ok();
            let kind = REFUSALS.into_iter().find(|known| Some(refusal_wire(*known)) == kind);
            let kind = kind.ok_or_else(|| Corrupt::new("a reply", "its refusal has no kind"))?;
            Ok(Err(Refusal { kind, message: refusal.message }))
        }
        None => Err(Corrupt::new("a reply", "it says neither done nor refused")),
    }
}

const REFUSALS: [RefusalKind; 9] = [
    RefusalKind::NotFound,
    RefusalKind::AlreadyExists,
    RefusalKind::Invalid,
    RefusalKind::Stale,
    RefusalKind::RequestReused,
    RefusalKind::RequestExpired,
    RefusalKind::Limit,
    RefusalKind::HostRefused,
    RefusalKind::Quota,
];

fn refusal_wire(kind: RefusalKind) -> wire::RefusalKind {
    match kind {
        RefusalKind::NotFound => wire::RefusalKind::NotFound,
        RefusalKind::AlreadyExists => wire::RefusalKind::AlreadyExists,
        RefusalKind::Invalid => wire::RefusalKind::Invalid,
        RefusalKind::Stale => wire::RefusalKind::Stale,
        RefusalKind::RequestReused => wire::RefusalKind::RequestReused,
        RefusalKind::RequestExpired => wire::RefusalKind::RequestExpired,
        RefusalKind::Limit => wire::RefusalKind::Limit,
        RefusalKind::HostRefused => wire::RefusalKind::HostRefused,
        RefusalKind::Quota => wire::RefusalKind::Quota,
    }
}

// ---- commands ----

impl Command {
    /// The bytes that stand in the log.
    pub fn encode(&self) -> Vec<u8> {
        command_wire(self).encode_to_vec()
    }

    /// Reads what `encode` wrote.
    pub fn decode(bytes: &[u8]) -> Result<Command, Corrupt> {
        let what = "a command";
        let command: wire::Command = decode(bytes, what)?;
        if !(LEVEL_FIRST..=LEVEL).contains(&command.level) {
            return Err(Corrupt::new(
                what,
                format!(
                    "it is of level {}; this program can act at levels {LEVEL_FIRST} to {LEVEL}",
                    command.level
                ),
            ));
        }
        let op = command.op.ok_or_else(|| Corrupt::new(what, "this build does not know its op"))?;
        Ok(Command {
            level: command.level,
            at: Timestamp(command.at_ms),
            request: command.request.map(read_request),
            op: read_op(op)?,
        })
    }
}

fn command_wire(command: &Command) -> wire::Command {
    use wire::command::Op as W;
    let op = match &command.op {
        Op::StartSession(session) => W::StartSession(wire::StartSession {
            term: session.term,
            leader: session.leader,
            wall_clocks_ms: session.wall_clocks.iter().map(|at| at.0).collect(),
            cluster: session.cluster.clone(),
            lineage_id: session.lineage.clone(),
            epoch: session.epoch,
        }),
        Op::CreateJob(spec) => W::CreateJob(wire::CreateJob { spec: Some(job_spec_wire(spec)) }),
        Op::KillTasks { job, instances, message } => W::KillTasks(wire::KillTasks {
            job: Some(job.into()),
            instances: instances.clone(),
            message: message.clone(),
        }),
        Op::RegisterHost { identity, spec, held } => W::RegisterHost(wire::RegisterHost {
            identity: Some(identity_wire(identity)),
            spec: Some(host_spec_wire(spec)),
            held: held.iter().map(|task| task.0).collect(),
        }),
        Op::Assign(assign) => W::Assign(assign_wire(assign)),
        Op::ApplyReports { host, journal, reports } => W::Reports(wire::ApplyReports {
            host_id: host.0,
            journal_id: journal.clone(),
            reports: reports
                .iter()
                .map(|report| wire::TaskReport {
                    task_id: report.task.0,
                    status: status_wire(report.status) as i32,
                    message: report.message.clone(),
                    sequence: report.sequence,
                })
                .collect(),
        }),
        Op::Silence { host, since } => W::Silence(wire::Silence { host_id: host.0, since_ms: since.0 }),
        Op::Tick => W::Tick(wire::Tick {}),
        Op::AdvanceWork(work) => W::AdvanceWork(wire::AdvanceWork { work_id: work.0 }),
        Op::Freeze { frozen } => W::Freeze(wire::Freeze { frozen: *frozen }),
        Op::Resume => W::Resume(wire::Resume {}),
        Op::RestartTasks { job, instances, message } => W::RestartTasks(wire::RestartTasks {
            job: Some(job.into()),
            instances: instances.clone(),
            message: message.clone(),
        }),
        Op::AddInstances { job, like, count } => {
            W::AddInstances(wire::AddInstances { job: Some(job.into()), like: *like, count: *count })
        }
        Op::SetQuota { role, quota, increment } => W::SetQuota(wire::SetQuota {
            role: role.clone(),
            quota: Some((*quota).into()),
            increment: *increment,
        }),
        Op::DrainHosts { hosts, message } => {
            W::DrainHosts(wire::DrainHosts { hosts: hosts.clone(), message: message.clone() })
        }
        Op::ActivateHosts { hosts } => W::ActivateHosts(wire::ActivateHosts { hosts: hosts.clone() }),
        Op::Preempt(Preempt { host, task, victims }) => W::Preempt(wire::Preempt {
            host_id: host.0,
            for_task: task.0,
            victims: victims.iter().map(|task| task.0).collect(),
        }),
        Op::AssignTogether(assigns) => {
            W::AssignTogether(wire::AssignTogether { assigns: assigns.iter().map(assign_wire).collect() })
        }
        Op::ReportUnused { host, unused } => {
            W::ReportUnused(wire::ReportUnused { host_id: host.0, unused: Some((*unused).into()) })
        }
        Op::StartUpdate(spec) => W::StartUpdate(wire::StartUpdate { spec: Some(job_spec_wire(spec)) }),
        Op::UpdateInstances { job, instances } => {
            W::UpdateInstances(wire::UpdateInstances { job: Some(job.into()), instances: instances.clone() })
        }
        Op::EndUpdate { job } => W::EndUpdate(wire::EndUpdate { job: Some(job.into()) }),
        Op::PutCron { spec, schedule } => {
            W::PutCron(wire::PutCron { spec: Some(job_spec_wire(spec)), schedule: schedule.clone() })
        }
        Op::DropCron { job } => W::DropCron(wire::DropCron { job: Some(job.into()) }),
        Op::RunCron { job } => W::RunCron(wire::RunCron { job: Some(job.into()) }),
        Op::RaiseLevel { to } => W::RaiseLevel(wire::RaiseLevel { to: *to }),
        Op::SetClock { to } => W::SetClock(wire::SetClock { to_ms: to.0 }),
    };
    wire::Command {
        level: command.level,
        at_ms: command.at.0,
        request: command.request.as_ref().map(|request| wire::Request {
            identity: request.identity.clone(),
            id: request.id.clone(),
            created_ms: request.created.0,
            body_hash: Bytes::copy_from_slice(&request.body_hash),
        }),
        op: Some(op),
    }
}

fn read_op(op: wire::command::Op) -> Result<Op, Corrupt> {
    use wire::command::Op as W;
    let what = "a command";
    Ok(match op {
        W::StartSession(session) => Op::StartSession(StartSession {
            term: session.term,
            leader: session.leader,
            wall_clocks: session.wall_clocks_ms.into_iter().map(Timestamp).collect(),
            cluster: session.cluster,
            lineage: session.lineage_id,
            epoch: session.epoch,
        }),
        W::CreateJob(create) => Op::CreateJob(read_job_spec(create.spec)?),
        W::KillTasks(kill) => {
            Op::KillTasks { job: read_job_key(kill.job)?, instances: kill.instances, message: kill.message }
        }
        W::RegisterHost(register) => Op::RegisterHost {
            identity: read_identity(register.identity.unwrap_or_default()),
            spec: read_host_spec(register.spec.unwrap_or_default()).map_err(bad(what))?,
            held: register.held.into_iter().map(TaskId).collect(),
        },
        W::Assign(assign) => Op::Assign(read_assign(assign)?),
        W::Reports(reports) => Op::ApplyReports {
            host: HostId(reports.host_id),
            journal: reports.journal_id,
            reports: reports
                .reports
                .into_iter()
                .map(|report| read_report(report).ok_or_else(|| Corrupt::new(what, "a report has no status")))
                .collect::<Result<_, _>>()?,
        },
        W::Silence(silence) => {
            Op::Silence { host: HostId(silence.host_id), since: Timestamp(silence.since_ms) }
        }
        W::Tick(wire::Tick {}) => Op::Tick,
        W::AdvanceWork(work) => Op::AdvanceWork(WorkId(work.work_id)),
        W::Freeze(freeze) => Op::Freeze { frozen: freeze.frozen },
        W::Resume(wire::Resume {}) => Op::Resume,
        W::RestartTasks(restart) => Op::RestartTasks {
            job: read_job_key(restart.job)?,
            instances: restart.instances,
            message: restart.message,
        },
        W::AddInstances(add) => {
            Op::AddInstances { job: read_job_key(add.job)?, like: add.like, count: add.count }
        }
        W::SetQuota(set) => Op::SetQuota {
            role: set.role,
            quota: Resources::try_from(&set.quota.unwrap_or_default()).map_err(bad(what))?,
            increment: set.increment,
        },
        W::DrainHosts(drain) => Op::DrainHosts { hosts: drain.hosts, message: drain.message },
        W::ActivateHosts(activate) => Op::ActivateHosts { hosts: activate.hosts },
        W::Preempt(preempt) => Op::Preempt(Preempt {
            host: HostId(preempt.host_id),
            task: TaskId(preempt.for_task),
            victims: preempt.victims.into_iter().map(TaskId).collect(),
        }),
        W::AssignTogether(together) => {
            Op::AssignTogether(together.assigns.into_iter().map(read_assign).collect::<Result<_, _>>()?)
        }
        W::ReportUnused(report) => Op::ReportUnused {
            host: HostId(report.host_id),
            unused: Resources::try_from(&report.unused.unwrap_or_default()).map_err(bad(what))?,
        },
        W::StartUpdate(start) => Op::StartUpdate(read_job_spec(start.spec)?),
        W::UpdateInstances(update) => {
            Op::UpdateInstances { job: read_job_key(update.job)?, instances: update.instances }
        }
        W::EndUpdate(end) => Op::EndUpdate { job: read_job_key(end.job)? },
        W::PutCron(put) => Op::PutCron { spec: read_job_spec(put.spec)?, schedule: put.schedule },
        W::DropCron(cron) => Op::DropCron { job: read_job_key(cron.job)? },
        W::RunCron(cron) => Op::RunCron { job: read_job_key(cron.job)? },
        W::RaiseLevel(raise) => Op::RaiseLevel { to: raise.to },
        W::SetClock(set) => Op::SetClock { to: Timestamp(set.to_ms) },
    })
}

fn assign_wire(assign: &Assign) -> wire::Assign {
    let placements = assign.placements.iter().map(|placement| wire::Placement {
        task_id: placement.task.0,
        ports: placement.ports.iter().map(|&port| port.into()).collect(),
    });
    wire::Assign { host_id: assign.host.0, placements: placements.collect() }
}

fn read_assign(assign: wire::Assign) -> Result<Assign, Corrupt> {
    let what = "a command";
    let placements = assign.placements.into_iter().map(|placement| {
        let ports: Result<Vec<u16>, _> = placement.ports.iter().map(|&port| u16::try_from(port)).collect();
        let ports = ports.map_err(|_| Corrupt::new(what, "a port is above 65535"))?;
        Ok(Placement { task: TaskId(placement.task_id), ports })
    });
    Ok(Assign { host: HostId(assign.host_id), placements: placements.collect::<Result<_, _>>()? })
}
