//! `borealis job kill` and `borealis job killall`.

use std::time::Duration;

use proto::JobKey;
use proto::wire::KillTasksRequest;
use serde_json::json;

use super::progress::get_some;
use crate::arguments::KillFlags;
use crate::connection::{Ask, Connection, Effect};
use crate::error::{Error, Kind};
use crate::instances::{Selection, ranges};
use crate::table::count;
use crate::{Context, TIMEOUT, WAIT_TIMEOUT, duration, request};

/// Between two looks at what still lives.
const PAUSE: Duration = Duration::from_millis(200);

/// Kills the instances that `key` names.
pub(crate) async fn run(context: &Context<'_>, key: &str, kill: &KillFlags) -> Result<(), Error> {
    let selection = Selection::parse(key)?;
    if selection.instances.is_empty() {
        return Err(Error::new(Kind::InvalidParameter, format!("`{key}` names no instances")).hint(format!(
            "name them, as in {key}/0,2-4, or end the whole job: `borealis job killall {key}`"
        )));
    }
    kill_tasks(context, &selection, kill).await
}

/// Kills all instances.
pub(crate) async fn run_all(context: &Context<'_>, key: &str, kill: &KillFlags) -> Result<(), Error> {
    let selection = Selection { job: key.parse()?, instances: Vec::new() };
    kill_tasks(context, &selection, kill).await
}

async fn kill_tasks(context: &Context<'_>, selection: &Selection, kill: &KillFlags) -> Result<(), Error> {
    let Selection { job, instances } = selection;
    let request = request::request(kill.again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(Some(&job.cluster), if kill.wait { WAIT_TIMEOUT } else { TIMEOUT })?;
    // Known before the kill, so that their successors are not waited for.
    let doomed = if kill.wait { live(&connection, job, instances).await? } else { Vec::new() };

    let message = KillTasksRequest {
        request: Some(request),
        job: Some(job.into()),
        instances: instances.clone(),
        message: kill.message.clone(),
    };
    let which = if instances.is_empty() {
        "all instances".to_owned()
    } else {
        format!("instances {}", ranges(instances))
    };
    let doing = format!("killing {which} of {job}");
    let ask = Ask { doing: &doing, effect: Effect::Once(&id) };
    let reply = connection.ask(ask, async |mut api| api.kill_tasks(message.clone()).await).await?;

    let tasks = count(reply.tasks as usize, "task");
    let answer =
        json!({ "job": job.to_string(), "tasks": reply.tasks, "request_id": id, "ended": kill.wait });
    let again = match (&instances[..], reply.tasks) {
        ([], _) | (_, 0) => String::new(),
        (some, _) => format!("; `borealis job restart {job}/{}` would start them again", ranges(some)),
    };
    let without = match instances.len().saturating_sub(reply.tasks as usize) {
        n if n > 0 && !instances.is_empty() => {
            let were = if n == 1 { "was" } else { "were" };
            format!(" ({} had ended, or {were} being killed, already)", count(n, "instance"))
        }
        _ => String::new(),
    };
    if kill.wait {
        ended(context, &connection, selection, &doomed).await?;
        return context.output.answer(&format!("killed {tasks} of {job}{without}{again}"), &answer);
    }
    context.output.answer(&format!("killing {tasks} of {job}{without}{again}"), &answer)
}

/// Ids of the live tasks that are meant. A job that is not there has none.
async fn live(connection: &Connection<'_>, job: &JobKey, instances: &[u32]) -> Result<Vec<u64>, Error> {
    let reply = match get_some(connection, job, instances).await {
        Ok(reply) => reply,
        Err(error) if error.kind == Kind::Refused => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let meant = |instance| instances.is_empty() || instances.binary_search(&instance).is_ok();
    Ok(reply.tasks.iter().filter(|task| meant(task.instance)).map(|task| task.task_id).collect())
}

async fn ended(
    context: &Context<'_>,
    connection: &Connection<'_>,
    selection: &Selection,
    doomed: &[u64],
) -> Result<(), Error> {
    let job = &selection.job;
    loop {
        let mut left = live(connection, job, &selection.instances).await?;
        // Of a whole job nothing may be left, not even what was made meanwhile.
        if !selection.instances.is_empty() {
            left.retain(|task| doomed.contains(task));
        }
        if left.is_empty() {
            return Ok(());
        }
        context.output.progress(&format!("{job}: {} still ending", count(left.len(), "task")));
        if tokio::time::Instant::now() + PAUSE >= connection.deadline() {
            let within = duration::words(connection.timeout());
            let what = format!(
                "the kill of {job} was accepted, but {} had not ended after {within}",
                count(left.len(), "task")
            );
            return Err(Error::new(Kind::TimedOut, what)
                .hint(format!("a task may take its time to shut down, and one on a lost host ends when that is judged lost: see `borealis job status {job}`")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
