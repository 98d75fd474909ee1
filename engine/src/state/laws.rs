//! Every law across tables, as code. Run after every command in tests, and on a sample in production.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Resources, TaskId};

use super::State;
use super::host::Host;
use super::job::{Job, Places};
use super::role::Role;
use super::status::Status;
use super::{Due, StoredConfig};
use crate::limits::{ENDED_PER_JOB_MAX, TASKS_PER_HOST_MAX};

/// A law that does not hold. State made this mistake, not a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a law of State is broken: {0}")]
pub struct Broken(pub String);

/// Checks all laws; costs a walk over all tables.
pub fn check(state: &State) -> Result<(), Broken> {
    for host in state.hosts.values() {
        check_host(state, host)?;
    }
    for job in state.jobs.values() {
        check_job(state, job)?;
    }
    check_tasks(state)?;
    check_configs(state)?;
    check_roles(state)?;
    check_places(state)?;
    check_reservations(state)?;
    check_look_ups(state)?;
    check_deadlines(state)
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(message())) }
}

fn check_host(state: &State, host: &Host) -> Result<(), Broken> {
    let name = host.name();
    let capacity = host.record.spec.capacity;
    let (mut used, mut displaceable, mut ports) = (Resources::default(), Resources::default(), Vec::new());
    let mut revocable = Resources::default();
    for id in host.tasks() {
        let task = state
            .tasks
            .get(&id)
            .ok_or_else(|| Broken(format!("{name} carries {id}, which does not live")))?;
        ensure(task.host == Some(host.id()), || format!("{name} carries {id}, which is on {:?}", task.host))?;
        ensure(!host.is_silent() || task.status == Status::Partitioned, || {
            format!("{name} is silent and {id} is {}", task.status)
        })?;
        used = used.plus(task.demand());
        if task.config.is_revocable() {
            revocable = revocable.plus(task.demand());
        }
        if !task.config.is_production() {
            displaceable = displaceable.plus(task.demand());
        }
        ports.extend(task.port_numbers());
    }
    ensure(used == host.used, || format!("{name} has {} in use, its tasks take {used}", host.used))?;
    ensure(displaceable == host.displaceable, || {
        format!("{name} could free {}, {displaceable} counted", host.displaceable)
    })?;
    ensure(revocable == host.revocable, || {
        format!("{name} has revocable {}, {revocable} counted", host.revocable)
    })?;
    // What tasks that are not revocable have reserved and do not use may be taken once more, by revocable ones only.
    let lent = host.record.unused.min(used.minus_or_zero(revocable)).min(revocable);
    ensure(used.fits_in(&capacity.plus(lent)) || host.record.overcommitted, || {
        format!("{name} has {capacity}, lends {lent} and carries {used}")
    })?;
    let count = ports.len();
    ports.sort_unstable();
    ports.dedup();
    ensure(ports.len() == count, || format!("{name} gave a port twice: {ports:?}"))?;
    ensure(ports.iter().eq(host.ports.iter()), || {
        format!("{name} has ports {:?}, its tasks {ports:?}", host.ports)
    })?;
    ensure(host.tasks.len() <= TASKS_PER_HOST_MAX, || format!("{name} carries {} tasks", host.tasks.len()))
}

fn check_job(state: &State, job: &Job) -> Result<(), Broken> {
    let key = job.key();
    let mut counts = super::job::Counts::default();
    let mut charged = Resources::default();
    for (instance, id) in job.live() {
        let task =
            state.tasks.get(&id).ok_or_else(|| Broken(format!("{key} has {id}, which does not live")))?;
        ensure((task.job, task.instance) == (job.id(), instance), || {
            format!("{key}/{instance} is not {id}'s")
        })?;
        ensure(instance < job.instances(), || format!("{key} has no instance {instance}"))?;
        counts.add(task.status);
        charged = charged.plus(task.config.charge());
    }
    ensure(charged == job.charged, || format!("{key} is charged {}, {charged} counted", job.charged))?;
    ensure(counts == job.counts, || format!("{key} counts {:?}, its tasks are {counts:?}", job.counts))?;
    let making = state
        .work
        .values()
        .any(|work| work.job() == Some(job.id()) && matches!(work.rest, super::work::Rest::Create { .. }));
    let updating = state.updates.contains_key(&job.id());
    ensure(job.is_active() != (job.live.is_empty() && !making && !updating), || {
        format!("{key} ended {:?} with {} live tasks", job.record.ended, job.live.len())
    })?;
    ensure(job.ended.len() <= ENDED_PER_JOB_MAX, || {
        format!("{key} remembers {} ended tasks", job.ended.len())
    })?;
    ensure(job.ended.values().all(|ended| ended.job == job.id() && ended.status.is_terminal()), || {
        format!("{key} remembers ended tasks that are not its own or not ended")
    })
}

fn check_tasks(state: &State) -> Result<(), Broken> {
    for task in state.tasks.values() {
        let id = task.id;
        let own = state.jobs.get(&task.job).and_then(|job| job.live.get(&task.instance));
        ensure(own == Some(&id), || format!("{id} lives, and its instance has {own:?}"))?;
        ensure(!task.status.is_terminal() && task.status != Status::Init, || {
            format!("{id} lives as {}", task.status)
        })?;
        ensure(task.status.is_on_host() == task.host.is_some(), || {
            format!("{id} is {} on {:?}", task.status, task.host)
        })?;
        if let Some(host) = task.host {
            let carried = state.hosts.get(&host).is_some_and(|host| host.tasks.contains(&id));
            ensure(carried, || format!("{id} is on {host}, which does not carry it"))?;
            ensure(task.ports.len() == task.config.ports.len(), || {
                format!("{id} has {} ports", task.ports.len())
            })?;
        }
    }
    Ok(())
}

fn check_configs(state: &State) -> Result<(), Broken> {
    let mut references: BTreeMap<_, u64> = BTreeMap::new();
    let of_jobs = state.jobs.values().map(|job| job.config().hash);
    let of_updates = state.updates.values().map(|update| update.config.hash);
    let of_crons = state.crons.values().map(|cron| cron.spec.config.hash);
    let of_tasks = state.tasks.values().map(|task| task.config.hash);
    for hash in of_jobs.chain(of_tasks).chain(of_updates).chain(of_crons) {
        *references.entry(hash).or_default() += 1;
    }
    for (hash, StoredConfig { references: stored, config }) in &state.configs {
        ensure(config.hash == *hash, || format!("{hash:?} is stored under another hash"))?;
        let counted = references.remove(hash).unwrap_or(0);
        ensure(*stored == counted && counted > 0, || {
            format!("{hash:?} has {stored} references, {counted} counted")
        })?;
    }
    ensure(references.is_empty(), || format!("configs are not stored: {references:?}"))
}

/// What roles are charged is the sum of their live tasks', and never more than their quota.
fn check_roles(state: &State) -> Result<(), Broken> {
    let mut counted: BTreeMap<&str, Role> = BTreeMap::new();
    for task in state.tasks.values() {
        let role = counted.entry(&task.config.job.role).or_default();
        let account = match (task.config.is_production(), task.config.dedicated()) {
            (true, None) => &mut role.charged,
            (true, Some(_)) => &mut role.dedicated,
            (false, _) => &mut role.other,
        };
        *account = account.plus(task.config.asked);
        role.tasks += 1;
        if task.host.is_some() {
            role.used = role.used.plus(task.demand());
        }
    }
    for (name, role) in &state.roles {
        let counted = counted.remove(&**name).unwrap_or_default();
        ensure(Role { quota: role.quota, ..counted } == *role, || {
            format!("role {name} is charged {role:?}, its tasks make {counted:?}")
        })?;
        ensure(role.quota.is_some() || role.tasks > 0, || format!("role {name} is known for nothing"))?;
        let promised = state.promised(name);
        ensure(role.charged.plus(promised).fits_in(&role.quota.unwrap_or_default()), || {
            format!(
                "role {name} takes {} of a quota of {:?}, and is promised {promised}",
                role.charged, role.quota
            )
        })?;
    }
    ensure(counted.is_empty(), || format!("roles are not known: {counted:?}"))
}

/// Where the tasks of jobs with limits are is counted right. A limit itself may be exceeded: hosts change attributes.
fn check_places(state: &State) -> Result<(), Broken> {
    for job in state.jobs.values() {
        let mut counting: BTreeMap<Box<str>, u32> = BTreeMap::new();
        for task in state.tasks_of(job) {
            for attribute in task.config.counted_attributes() {
                *counting.entry(attribute.into()).or_default() += 1;
            }
        }
        ensure(counting == job.counting, || {
            format!("{} counts by {:?}, its tasks ask for {counting:?}", job.key(), job.counting)
        })?;
        let mut counted = Places::default();
        for task in state.tasks_of(job) {
            let Some(host) = task.host.and_then(|host| state.hosts.get(&host)) else { continue };
            for attribute in counting.keys() {
                host.record.spec.values(attribute).for_each(|value| counted.add(attribute, value));
            }
        }
        ensure(counted == *job.places, || {
            format!("{} is at {:?}, its tasks are at {counted:?}", job.key(), job.places)
        })?;
    }
    Ok(())
}

fn check_reservations(state: &State) -> Result<(), Broken> {
    for (id, reservation) in &state.reservations {
        let waits = state.tasks.get(id).is_some_and(|task| task.host.is_none());
        ensure(waits, || format!("room is kept for {id}, which does not wait"))?;
        let host = state.hosts.get(&reservation.host);
        let knows = host.is_some_and(|host| host.is_open() && host.reserved_for.contains_key(id));
        ensure(knows, || format!("room is kept for {id} on {}, which does not know", reservation.host))?;
    }
    for host in state.hosts.values() {
        let sum = host.reserved_for.values().fold(Resources::default(), |sum, demand| sum.plus(*demand));
        ensure(sum == host.reserved, || format!("{} keeps {}, {sum} counted", host.name(), host.reserved))?;
        let stray = host.reserved_for.keys().find(|task| !state.reservations.contains_key(task));
        ensure(stray.is_none(), || format!("{} keeps room for {stray:?}", host.name()))?;
    }
    Ok(())
}

fn check_look_ups(state: &State) -> Result<(), Broken> {
    for (key, id) in &state.keys {
        ensure(state.jobs.get(id).is_some_and(|job| job.key() == &**key), || format!("{key} leads to {id}"))?;
    }
    ensure(state.keys.len() == state.jobs.len(), || "a job has no key, or two have one".to_owned())?;
    for (name, id) in &state.names {
        ensure(state.hosts.get(id).is_some_and(|host| host.name() == name), || {
            format!("{name} leads to {id}")
        })?;
    }
    ensure(state.names.len() == state.hosts.len(), || "a host has no name, or two have one".to_owned())?;
    let counter = (1 << proto::ids::COUNTER_BITS) - 1;
    let newest: Option<&TaskId> = state.tasks.keys().next_back();
    ensure(newest.is_none_or(|id| id.0 & counter < state.cluster.next_id), || {
        format!("{newest:?} is not older than the next id")
    })
}

fn check_deadlines(state: &State) -> Result<(), Broken> {
    let is_replacement = |due: &Due| matches!(due, Due::Replacement(..));
    let (replacements, tasks): (Vec<_>, Vec<_>) =
        state.tasks.values().filter_map(|task| task.due()).partition(|(_, due)| is_replacement(due));
    ensure(replacements.into_iter().collect::<BTreeSet<_>>() == state.replacements, || {
        "PARTITIONED tasks wait for another time than is written".to_owned()
    })?;
    let silent = state.hosts.values().filter_map(|host| Some((host.record.silent_since?, host.id())));
    ensure(silent.collect::<BTreeSet<_>>() == state.silences, || {
        "hosts are silent since another time than is written".to_owned()
    })?;
    let jobs = state.jobs.values().filter_map(|job| Some((job.deadline()?, Due::Job(job.id()))));
    let hosts = state.hosts.values().filter_map(|host| Some((host.deadline()?, Due::Host(host.id()))));
    let requests = state.requests.values().map(|known| (known.until, known.key.clone()));
    ensure(requests.collect::<BTreeSet<_>>() == state.forgettable, || {
        "requests are kept for another time than is written".to_owned()
    })?;
    let kept = state.reservations.values().map(|kept| (kept.until, Due::Reservation(kept.task)));
    let mut count = 0;
    for deadline in tasks.into_iter().chain(jobs).chain(hosts).chain(kept) {
        ensure(state.deadlines.contains(&deadline), || {
            format!("{deadline:?} is not in the order of deadlines")
        })?;
        count += 1;
    }
    ensure(count == state.deadlines.len(), || format!("{} deadlines, {count} are due", state.deadlines.len()))
}
