//! `borealis cluster freeze`, `thaw` and `resume`: nothing is placed, replaced or expired until it goes on.

use proto::wire::{FreezeRequest, ResumeRequest};
use serde_json::json;

use crate::arguments::Again;
use crate::connection::Ask;
use crate::error::Error;
use crate::{Context, TIMEOUT, request};

/// Stops all decisions, or lets them go on.
pub(crate) async fn run(context: &Context<'_>, frozen: bool, again: &Again) -> Result<(), Error> {
    let request = request::request(again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(None, TIMEOUT)?;
    let message = FreezeRequest { request: Some(request), frozen };
    let doing = if frozen { "freezing the cluster" } else { "thawing the cluster" };
    let ask = Ask { doing, request_id: Some(&id) };
    connection.ask(ask, async |mut api| api.freeze(message.clone()).await).await?;
    let text = if frozen {
        "frozen: nothing is placed, replaced or expired until `borealis cluster thaw`; what runs goes on"
    } else {
        "thawed: decisions are made again"
    };
    context.output.answer(text, &json!({ "frozen": frozen, "request_id": id }))
}

/// Lets a cluster go on that is held after a restore.
pub(crate) async fn run_resume(context: &Context<'_>, again: &Again) -> Result<(), Error> {
    let request = request::request(again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(None, TIMEOUT)?;
    let message = ResumeRequest { request: Some(request) };
    let ask = Ask { doing: "letting the cluster go on", request_id: Some(&id) };
    connection.ask(ask, async |mut api| api.resume(message.clone()).await).await?;
    context.output.answer(
        "the cluster goes on: hosts are told what to run, and what they run that is not known is ended",
        &json!({ "resumed": true, "request_id": id }),
    )
}
