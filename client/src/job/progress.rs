//! How far a job is: from its tasks, live and ended, what became of each instance. Pure, but for [`watch`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::wire::{GetJobReply, GetJobRequest, Status, TaskView};
use proto::{JobKey, TaskId};
use serde_json::json;

use crate::connection::{Ask, Connection, Effect};
use crate::error::{Error, Kind};
use crate::instances::ranges;
use crate::output::Output;
use crate::table::clean;

/// Pauses between two looks grow from this ...
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// ... to this.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Different reasons that one progress line names.
const REASONS_MAX: usize = 3;

/// Whether no task with this status will ever run again.
pub(crate) fn is_terminal(status: Status) -> bool {
    matches!(status, Status::Finished | Status::Failed | Status::Killed | Status::Lost)
}

/// How far a job is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// Instances that shall be.
    pub(crate) wanted: usize,
    /// Status words with their number of instances.
    pub(crate) counts: BTreeMap<&'static str, usize>,
    /// Instances that have ended in another way than FINISHED, for ever.
    pub(crate) failed: Vec<u32>,
    /// Instances that are RUNNING or have ended.
    pub(crate) settled: usize,
    /// Why instances wait or have failed: the reason, and which instances it holds for.
    pub(crate) reasons: BTreeMap<String, Vec<u32>>,
}

impl Progress {
    /// Reads it from an answer about `wanted` instances.
    pub(crate) fn of(reply: &GetJobReply, wanted: u32) -> Self {
        let instances = reply.spec.as_ref().map_or(0, |spec| spec.instances).max(wanted);
        let mut progress = Progress { wanted: instances as usize, ..Progress::default() };
        for count in &reply.counts {
            *progress.counts.entry(count.status().as_str_name()).or_default() += count.tasks as usize;
            if count.status() == Status::Running {
                progress.settled += count.tasks as usize;
            }
        }
        let live: usize = progress.counts.values().sum();
        // The answer lists so many tasks only, by instance: of an instance behind them it does not say whether it lives.
        let listed = match reply.tasks.last() {
            Some(last) if reply.tasks.len() < live => last.instance + 1,
            _ => instances,
        };
        let living: BTreeSet<u32> = reply.tasks.iter().map(|task| task.instance).collect();
        // The newest attempt of each instance that is over; they come newest first.
        let mut newest: BTreeMap<u32, &TaskView> = BTreeMap::new();
        for task in reply.ended.iter().filter(|task| !living.contains(&task.instance)) {
            newest.entry(task.instance).or_insert(task);
        }
        let mut known = 0;
        for (&instance, task) in newest.range(..listed) {
            *progress.counts.entry(task.status().as_str_name()).or_default() += 1;
            known += 1;
            if task.status() != Status::Finished {
                progress.failed.push(instance);
                if !task.message.is_empty() {
                    progress.reasons.entry(clean(&task.message)).or_default().push(instance);
                }
            }
        }
        // Only the newest of those that ended are remembered one by one.
        let forgotten = (reply.over as usize).saturating_sub(known);
        if forgotten > 0 {
            progress.counts.insert("ENDED", forgotten);
        }
        progress.settled += known.max(reply.over as usize);
        let waits = |task: &&TaskView| matches!(task.status(), Status::Pending | Status::Throttled);
        for task in reply.tasks.iter().filter(waits).filter(|task| !task.message.is_empty()) {
            progress.reasons.entry(clean(&task.message)).or_default().push(task.instance);
        }
        progress
    }

    /// Whether every instance is RUNNING or has ended.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled >= self.wanted
    }

    /// `3 RUNNING, 1 PENDING (1: no host has 64 cpu)`.
    pub(crate) fn words(&self) -> String {
        let mut parts: Vec<String> = self.counts.iter().map(|(status, n)| format!("{n} {status}")).collect();
        let known: usize = self.counts.values().sum();
        if known < self.wanted {
            parts.push(format!("{} not yet made", self.wanted - known));
        }
        let mut text = parts.join(", ");
        let mut reasons: Vec<String> = self
            .reasons
            .iter()
            .take(REASONS_MAX)
            .map(|(why, who)| format!("{}: {why}", ranges(who)))
            .collect();
        if self.reasons.len() > REASONS_MAX {
            reasons.push(format!("{} other reasons", self.reasons.len() - REASONS_MAX));
        }
        if !reasons.is_empty() {
            text.push_str(&format!(" ({})", reasons.join("; ")));
        }
        text
    }

    /// The same for machines.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let counts: BTreeMap<String, usize> =
            self.counts.iter().map(|(status, n)| (status.to_ascii_lowercase(), *n)).collect();
        json!({ "instances": self.wanted, "counts": counts, "failed": self.failed, "reasons": self.reasons })
    }
}

/// Asks for a job and its tasks.
pub(crate) async fn get(
    connection: &Connection<'_>,
    key: &JobKey,
    stale: bool,
    config: bool,
) -> Result<GetJobReply, Error> {
    let request = GetJobRequest { job: Some(key.into()), stale, config, instances: Vec::new() };
    ask(connection, key, request).await
}

/// The same, with the tasks of one instance only.
pub(crate) async fn get_one(
    connection: &Connection<'_>,
    key: &JobKey,
    instance: u32,
    stale: bool,
    config: bool,
) -> Result<GetJobReply, Error> {
    let request = GetJobRequest { job: Some(key.into()), stale, config, instances: vec![instance] };
    ask(connection, key, request).await
}

/// Asks for the tasks of some instances only; none named = all.
pub(crate) async fn get_some(
    connection: &Connection<'_>,
    key: &JobKey,
    instances: &[u32],
) -> Result<GetJobReply, Error> {
    let request =
        GetJobRequest { job: Some(key.into()), instances: instances.to_vec(), ..GetJobRequest::default() };
    ask(connection, key, request).await
}

async fn ask(
    connection: &Connection<'_>,
    key: &JobKey,
    request: GetJobRequest,
) -> Result<GetJobReply, Error> {
    let doing = format!("reading {key}");
    connection
        .ask(Ask { doing: &doing, effect: Effect::Reads }, async |mut api| api.get_job(request.clone()).await)
        .await
}

/// Waits until every instance of the job is RUNNING or has ended. The job exists whatever comes of the waiting.
pub(crate) async fn watch(
    connection: &Connection<'_>,
    output: &Output,
    key: &JobKey,
    wanted: u32,
) -> Result<Progress, Error> {
    let mut pause = PAUSE_MIN;
    loop {
        let reply = get(connection, key, false, false).await;
        let reply =
            reply.map_err(|error| error.hint(format!("the job exists; see `borealis job status {key}`")))?;
        let last = Progress::of(&reply, wanted);
        output.progress(&format!("{key}: {}", last.words()));
        if !last.failed.is_empty() {
            let what =
                format!("{key} exists, but instances {} have ended: {}", ranges(&last.failed), last.words());
            return Err(Error::new(Kind::Failed, what).hint(format!(
                "see `borealis job status {key}`, and what the task printed: `borealis task logs {key}/{}`",
                last.failed[0]
            )));
        }
        if last.is_settled() {
            return Ok(last);
        }
        if tokio::time::Instant::now() + pause >= connection.deadline() {
            let within = crate::duration::words(connection.timeout());
            let what = format!("{key} exists, but not all of it runs after {within}: {}", last.words());
            return Err(Error::new(Kind::TimedOut, what)
                .hint(format!("the job stays and goes on trying: see `borealis job status {key}`, or end it with `borealis job killall {key}`")));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A task for machines.
pub(crate) fn task_json(task: &TaskView) -> serde_json::Value {
    let ports: BTreeMap<&str, u32> = task.ports.iter().map(|port| (port.name.as_str(), port.port)).collect();
    json!({
        "task_id": TaskId(task.task_id).to_string(),
        "instance": task.instance,
        "status": task.status().as_str_name(),
        "since_ms": task.since_ms,
        "host": task.host,
        "agent_address": task.agent_address,
        "ports": ports,
        "message": task.message,
        "ancestor": (task.ancestor != 0).then(|| TaskId(task.ancestor).to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::StatusCount;

    fn task(instance: u32, status: Status, message: &str) -> TaskView {
        TaskView { instance, status: status.into(), message: message.into(), ..TaskView::default() }
    }

    #[test]
    fn the_newest_attempt_of_an_instance_counts() {
        use Status::{Failed, Finished, Lost, Pending, Running, Starting};
        type Tasks<'a> = &'a [(u32, Status, &'a str)];
        type Case<'a> = (u32, Tasks<'a>, Tasks<'a>, &'a str, bool, &'a [u32]);
        let cases: [Case<'_>; 6] = [
            (2, &[(0, Running, ""), (1, Running, "")], &[(0, Lost, "host gone")], "2 RUNNING", true, &[]),
            (
                2,
                &[(0, Running, ""), (1, Pending, "no host has 9 cpu")],
                &[],
                "1 PENDING, 1 RUNNING (1: no host has 9 cpu)",
                false,
                &[],
            ),
            (3, &[(0, Starting, "")], &[], "1 STARTING, 2 not yet made", false, &[]),
            (1, &[], &[(0, Failed, "exit 1"), (0, Finished, "")], "1 FAILED (0: exit 1)", true, &[0]),
            (2, &[(1, Running, "")], &[(0, Finished, "")], "1 FINISHED, 1 RUNNING", true, &[]),
            (1, &[(0, Running, ""), (7, Running, "")], &[], "2 RUNNING", true, &[]),
        ];
        for (wanted, live, ended, words, settled, failed) in cases {
            let views = |tasks: Tasks<'_>| tasks.iter().map(|&(i, s, m)| task(i, s, m)).collect();
            let counts = live.iter().map(|&(_, s, _)| StatusCount { status: s.into(), tasks: 1 }).collect();
            let (tasks, ended) = (views(live), views(ended));
            let reply = GetJobReply { tasks, ended, counts, ..GetJobReply::default() };
            let progress = Progress::of(&reply, wanted);
            assert_eq!(progress.words(), words);
            assert_eq!((progress.is_settled(), &progress.failed[..]), (settled, failed), "{words}");
        }
    }

    #[test]
    fn what_is_not_listed_is_counted() {
        let counts = |counts: &[(Status, u32)]| -> Vec<StatusCount> {
            counts.iter().map(|&(status, tasks)| StatusCount { status: status.into(), tasks }).collect()
        };
        // A batch job of 150, of whose ended tasks 100 are remembered.
        let ended: Vec<TaskView> = (50..150).rev().map(|n| task(n, Status::Finished, "")).collect();
        let reply = GetJobReply { ended: ended.clone(), over: 150, ..GetJobReply::default() };
        let progress = Progress::of(&reply, 150);
        assert_eq!((progress.words().as_str(), progress.is_settled()), ("50 ENDED, 100 FINISHED", true));
        let reply = GetJobReply { over: 149, counts: counts(&[(Status::Starting, 1)]), ..reply };
        assert!(!Progress::of(&reply, 150).is_settled(), "one still starts");

        // A service of 12,000, of which 10,000 are listed. Whether instance 11,000 lives is not known from the list.
        let tasks: Vec<TaskView> = (0..10_000).map(|n| task(n, Status::Running, "")).collect();
        let ended = vec![task(11_000, Status::Failed, "once")];
        let counts = counts(&[(Status::Running, 12_000)]);
        let reply = GetJobReply { tasks, ended, counts, ..GetJobReply::default() };
        let progress = Progress::of(&reply, 12_000);
        assert_eq!((progress.words().as_str(), progress.is_settled()), ("12000 RUNNING", true));
        assert!(progress.failed.is_empty());
    }
}
