//! `borealis job restart` and `borealis job add`.

use proto::wire::{AddInstancesRequest, RestartTasksRequest};
use serde_json::json;

use crate::arguments::{Again, RestartFlags};
use crate::connection::{Ask, Effect};
use crate::error::{Error, Kind};
use crate::instances::{Selection, ranges};
use crate::table::count;
use crate::{Context, TIMEOUT, request};

/// Restarts the instances that `key` names, or all.
pub(crate) async fn run(context: &Context<'_>, key: &str, flags: &RestartFlags) -> Result<(), Error> {
    let Selection { job, instances } = Selection::parse(key)?;
    let request = request::request(flags.again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(Some(&job.cluster), TIMEOUT)?;
    let which = match instances.as_slice() {
        [] => "all instances".to_owned(),
        some => format!("instances {}", ranges(some)),
    };
    let message = RestartTasksRequest {
        request: Some(request),
        job: Some((&job).into()),
        instances,
        message: flags.message.clone(),
    };
    let doing = format!("restarting {which} of {job}");
    let ask = Ask { doing: &doing, effect: Effect::Once(&id) };
    let reply = connection.ask(ask, async |mut api| api.restart_tasks(message.clone()).await).await?;
    let tasks = count(reply.tasks as usize, "task");
    let answer = json!({ "job": job.to_string(), "tasks": reply.tasks, "request_id": id });
    context.output.answer(&format!("restarting {tasks} of {job}"), &answer)
}

/// Adds instances like the one that `key` names.
pub(crate) async fn run_add(
    context: &Context<'_>,
    key: &str,
    number: u32,
    again: &Again,
) -> Result<(), Error> {
    let Selection { job, instances } = Selection::parse(key)?;
    let [like] = instances[..] else {
        return Err(Error::new(Kind::InvalidParameter, format!("`{key}` does not name one instance"))
            .hint(format!("name the one that the new ones are copies of, as in {job}/0")));
    };
    let request = request::request(again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(Some(&job.cluster), TIMEOUT)?;
    let message =
        AddInstancesRequest { request: Some(request), job: Some((&job).into()), like, count: number };
    let doing = format!("adding {} to {job}", count(number as usize, "instance"));
    let ask = Ask { doing: &doing, effect: Effect::Once(&id) };
    let reply = connection.ask(ask, async |mut api| api.add_instances(message.clone()).await).await?;
    let answer = json!({ "job": job.to_string(), "tasks": reply.tasks, "request_id": id });
    let text = format!("added {} like {like} to {job}", count(reply.tasks as usize, "instance"));
    context.output.answer(&text, &answer)
}
