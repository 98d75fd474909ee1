//! `borealis task logs`: the scheduler says where the task is, its agent has the bytes.

use std::time::Duration;

use futures::StreamExt as _;
use proto::wire::{GetJobReply, TaskView};
use proto::{JobKey, TaskId};
use tokio::time::Instant;

use crate::arguments::TaskLogs;
use crate::connection::Connection;
use crate::error::{Error, Kind};
use crate::instances::Selection;
use crate::job::progress::{get_one, is_terminal};
use crate::{Context, TIMEOUT, host, http};

/// Bytes asked for at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Between two looks for more.
const PAUSE: Duration = Duration::from_millis(300);
/// Between two questions whether the task has ended.
const STATUS_PAUSE: Duration = Duration::from_secs(2);
/// Agents asked at the same time for a task of which only the id is known.
const AGENTS_AT_ONCE: usize = 32;

/// Where a task's output is.
#[derive(Clone, Debug)]
struct Place {
    task: TaskId,
    agent: String,
    process: String,
    /// The job and the instance, where the task was named by them.
    job: Option<(JobKey, u32)>,
}

/// Prints what the task's process has printed.
pub(crate) async fn run(context: &Context<'_>, logs: &TaskLogs) -> Result<(), Error> {
    let stream = if logs.stderr { "stderr" } else { "stdout" };
    let (connection, mut place) = find(context, logs).await?;
    let path = format!("/tasks/{}/logs/{}/{stream}", place.task, http::segment(&place.process));
    let addresses = connection.addresses().to_vec();
    // Of each answer: what there is to print may take any time, and is followed without end.
    let within = http::ANSWER_MAX.min(connection.timeout());
    // A process that is started again writes into files of its own: one run is read to its end, then the next.
    let (mut run, mut offset) = (None, 0u64);
    let mut asked = Instant::now();
    let mut ended = !logs.follow;
    loop {
        let of_run = run.map(|run: u32| format!("&run={run}")).unwrap_or_default();
        let answer =
            http::get(&place.agent, &format!("{path}?offset={offset}&limit={CHUNK_BYTES}{of_run}"), within)
                .await;
        let answer = match answer {
            Ok(answer) => answer,
            // An agent that is being restarted comes back; its tasks run on meanwhile.
            Err(why) if logs.follow && !ended && run.is_some() => {
                context
                    .output
                    .note(&format!("the agent at {} does not answer ({why}); trying again", place.agent));
                tokio::time::sleep(STATUS_PAUSE).await;
                (place.agent, ended) = look(context, &addresses, &place).await;
                continue;
            }
            Err(why) => return Err(unreachable(&place, &why)),
        };
        match answer.status {
            200 | 206 if !answer.body.is_empty() => {
                run = run.or(answer.run);
                offset += answer.body.len() as u64;
                context.output.bytes(&answer.body)?;
                continue;
            }
            200 | 206 | 416 => run = run.or(answer.run),
            // The process may not have started yet.
            404 if logs.follow && !ended => {}
            _ => return Err(missing(&place, stream, &answer.words())),
        }
        // Nothing more for now.
        if !logs.follow {
            return Ok(());
        }
        if run.is_some()
            && let Ok(newest) = http::get(&place.agent, &format!("{path}?offset=0&limit=0"), within).await
            && newest.run > run
        {
            (run, offset) = (run.map(|run| run + 1), 0);
            continue;
        }
        // And nothing more at all if the task had ended before this look.
        if ended {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        if asked.elapsed() >= STATUS_PAUSE {
            (place.agent, ended) = look(context, &addresses, &place).await;
            asked = Instant::now();
        }
    }
}

fn unreachable(place: &Place, why: &str) -> Error {
    Error::new(
        Kind::Network,
        format!("the agent at {} that has {} does not answer: {why}", place.agent, place.task),
    )
    .hint("its host may be down or restarting: see `borealis host list`")
}

fn missing(place: &Place, stream: &str, why: &str) -> Error {
    let what = format!("there is no {stream} of process `{}` of {}: {why}", place.process, place.task);
    Error::new(Kind::Failed, what)
        .hint("name another with --process; the agent removes the files of old tasks")
}

async fn find<'c>(context: &Context<'c>, logs: &TaskLogs) -> Result<(Connection<'c>, Place), Error> {
    if let Ok(task) = logs.task.parse::<TaskId>() {
        let connection = context.connect(None, TIMEOUT)?;
        let place = find_by_id(&connection, task, logs.process.as_deref()).await?;
        return Ok((connection, place));
    }
    let Selection { job, instances } = Selection::parse(&logs.task)?;
    let [instance] = instances[..] else {
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("`{}` does not name exactly one instance", logs.task),
        )
        .hint(format!("write {job}/0, or a task id like task-17-42")));
    };
    let connection = context.connect(Some(&job.cluster), TIMEOUT)?;
    let reply = get_one(&connection, &job, instance, false, true).await?;
    let task = newest(&reply, instance).ok_or_else(|| {
        Error::new(
            Kind::Failed,
            format!("{job}/{instance} has run nowhere yet: {}", why_not(&reply, instance)),
        )
        .hint(format!("see `borealis job status {job}`"))
    })?;
    let process = logs.process.clone().or_else(|| first_process(&reply)).ok_or_else(|| {
        Error::new(Kind::Unknown, format!("the answer about {job} names no process"))
            .hint("name one with --process")
    })?;
    let (task, agent) = (TaskId(task.task_id), task.agent_address.clone());
    Ok((connection, Place { task, agent, process, job: Some((job, instance)) }))
}

/// The newest attempt of the instance that has been on a host.
fn newest(reply: &GetJobReply, instance: u32) -> Option<&TaskView> {
    let of_instance = |task: &&TaskView| task.instance == instance && !task.agent_address.is_empty();
    reply.tasks.iter().chain(&reply.ended).find(of_instance)
}

fn why_not(reply: &GetJobReply, instance: u32) -> String {
    match reply.tasks.iter().find(|task| task.instance == instance) {
        None => "there is no such instance".to_owned(),
        Some(task) if task.message.is_empty() => format!("it is {}", task.status().as_str_name()),
        Some(task) => {
            format!("it is {} ({})", task.status().as_str_name(), crate::table::clean(&task.message))
        }
    }
}

fn first_process(reply: &GetJobReply) -> Option<String> {
    Some(reply.spec.as_ref()?.config.as_ref()?.task.as_ref()?.processes.first()?.name.clone())
}

/// Only the id is known: asks the agents which of them has the task.
async fn find_by_id(
    connection: &Connection<'_>,
    task: TaskId,
    process: Option<&str>,
) -> Result<Place, Error> {
    let hosts = host::list::hosts(connection).await?.hosts;
    let total = hosts.len();
    let agents: Vec<String> = hosts
        .into_iter()
        .filter_map(|host| host.spec)
        .map(|spec| spec.address)
        .filter(|a| !a.is_empty())
        .collect();
    let path = format!("/tasks/{task}/logs");
    let mut asked = futures::stream::iter(agents)
        .map(|agent| async {
            let left = connection.deadline().saturating_duration_since(Instant::now());
            (http::get(&agent, &path, http::ANSWER_MAX.min(left)).await, agent)
        })
        .buffer_unordered(AGENTS_AT_ONCE);
    let mut silent = 0;
    while let Some((answer, agent)) = asked.next().await {
        let answer = match answer {
            Ok(answer) if answer.status == 200 => answer,
            Ok(_) => continue,
            Err(_) => {
                silent += 1;
                continue;
            }
        };
        let process =
            process.map(str::to_owned).or_else(|| listed_process(&answer.body)).ok_or_else(|| {
                Error::new(
                    Kind::Failed,
                    format!("{task} is on {agent}, but none of its processes has printed anything yet"),
                )
            })?;
        return Ok(Place { task, agent, process, job: None });
    }
    Err(Error::new(Kind::Failed, format!("none of the {total} hosts has {task} ({silent} did not answer)"))
        .hint("agents remove old tasks after a while; `borealis job status KEY` names a job's tasks"))
}

/// The first process that an agent lists: `{"processes": [{"name": ...}]}`, or an array of names or of such values.
fn listed_process(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let list = value.as_array().or_else(|| value.get("processes")?.as_array())?;
    let first = list.first()?;
    let name =
        first.as_str().or_else(|| first.get("name")?.as_str()).or_else(|| first.get("process")?.as_str())?;
    Some(name.to_owned())
}

/// Where the task's agent is now, and whether the task has ended for sure. What cannot be known now is asked later.
async fn look(context: &Context<'_>, addresses: &[String], place: &Place) -> (String, bool) {
    let same = |ended| (place.agent.clone(), ended);
    let Some((job, instance)) = &place.job else { return same(false) };
    // Following has no deadline, so each question has its own.
    let connection = context.connect_to(addresses.to_vec(), STATUS_PAUSE);
    match get_one(&connection, job, *instance, true, false).await {
        Ok(reply) => match reply.tasks.iter().find(|task| task.task_id == place.task.0) {
            Some(task) if !task.agent_address.is_empty() => {
                (task.agent_address.clone(), is_terminal(task.status()))
            }
            Some(task) => same(is_terminal(task.status())),
            None => same(true),
        },
        Err(error) => same(error.kind == Kind::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_of_a_listing_is_found() {
        for (body, want) in [
            (r#"{"processes": [{"name": "web", "runs": []}]}"#, Some("web")),
            (r#"["a", "b"]"#, Some("a")),
            (r#"[{"process": "a"}]"#, Some("a")),
            ("[]", None),
            ("{}", None),
            ("nonsense", None),
        ] {
            assert_eq!(listed_process(body.as_bytes()).as_deref(), want, "{body}");
        }
    }
}
