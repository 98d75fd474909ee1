//! `borealis job create`.

use proto::JobKey;
use proto::wire::CreateJobRequest;
use serde_json::json;

use super::{progress, source};
use crate::arguments::JobCreate;
use crate::connection::{Ask, Effect};
use crate::error::Error;
use crate::table::count;
use crate::{Context, TIMEOUT, WAIT_TIMEOUT, request};

/// Creates the job, and waits for it if asked to.
pub(crate) async fn run(context: &Context<'_>, create: &JobCreate) -> Result<(), Error> {
    let key: JobKey = create.key.parse()?;
    let job = source::load_job(context, &create.file, &create.bind, &key)?;
    let request = request::request(create.again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(Some(&key.cluster), if create.wait { WAIT_TIMEOUT } else { TIMEOUT })?;

    let message = CreateJobRequest { request: Some(request), spec: Some(job.spec.clone()) };
    let doing = format!("creating {key}");
    let ask = Ask { doing: &doing, effect: Effect::Once(&id) };
    let reply = connection.ask(ask, async |mut api| api.create_job(message.clone()).await).await?;

    let tasks = count(reply.tasks as usize, "instance");
    let mut answer = json!({
        "job": key.to_string(),
        "tasks": reply.tasks,
        "unchanged": reply.unchanged,
        "request_id": id,
    });
    let lives = if reply.tasks == 1 { "lives" } else { "live" };
    let mut text = match reply.unchanged {
        false => format!("created {key} with {tasks}"),
        true => format!("{key} exists just so, with {tasks} that {lives}: nothing was made"),
    };
    if create.wait {
        let progress = progress::watch(&connection, context.output, &key, job.spec.instances).await?;
        answer["progress"] = progress.to_json();
        text = format!("{text}: {}", progress.words());
    } else {
        text = format!("{text}; see `borealis job status {key}`");
    }
    context.output.answer(&text, &answer)
}
