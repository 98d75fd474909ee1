//! `borealis cluster freeze`, `thaw` and `resume`: nothing is placed, replaced or expired until it goes on.

use proto::wire::{FreezeRequest, Held, ResumeRequest};
use serde_json::json;

use super::status;
use crate::arguments::Again;
use crate::connection::{Ask, Effect};
use crate::error::{Error, Kind};
use crate::{Context, TIMEOUT, request};

/// Stops all decisions, or lets them go on.
pub(crate) async fn run(context: &Context<'_>, frozen: bool, again: &Again) -> Result<(), Error> {
    let request = request::request(again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(None, TIMEOUT)?;
    let message = FreezeRequest { request: Some(request), frozen };
    let doing = if frozen { "freezing the cluster" } else { "thawing the cluster" };
    let ask = Ask { doing, effect: Effect::Once(&id) };
    let held = connection.ask(ask, async |mut api| api.freeze(message.clone()).await).await?.held;
    let text = match (frozen, held) {
        (true, _) => {
            "frozen: nothing is placed, replaced or expired until `borealis cluster thaw`; what runs goes on"
        }
        (false, false) => "thawed: decisions are made again",
        (false, true) => {
            "thawed, but still held after a restore: no decisions are made until `borealis cluster resume`"
        }
    };
    context.output.answer(text, &json!({ "frozen": frozen, "held": held, "request_id": id }))
}

/// Why a cluster had better be held for some time yet.
fn missing(held: &Held) -> Option<String> {
    let away = held.hosts.checked_sub(held.hosts_back).filter(|away| *away > 0)?;
    Some(format!(
        "{} of {} hosts have come back. The tasks of the other {away} would be taken for lost and started elsewhere, \
         though such a host may still run them until it comes back; nothing was done",
        held.hosts_back, held.hosts
    ))
}

/// Lets a cluster go on that is held after a restore; without `yes` only if all its hosts have come back.
pub(crate) async fn run_resume(context: &Context<'_>, yes: bool, again: &Again) -> Result<(), Error> {
    let request = request::request(again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(None, TIMEOUT)?;
    if !yes {
        connection.check_cluster().await?;
        let answers = status::ask_all(connection.addresses(), connection.timeout()).await;
        status::one_cluster(connection.addresses(), &answers)?;
        let held = status::newest(&answers).and_then(|reply| reply.held.as_ref());
        if let Some(why) = held.and_then(missing) {
            return Err(Error::new(Kind::Refused, why).hint(
                "wait until they are back, which `borealis cluster status` shows, or repeat with --yes if they never will be",
            ));
        }
    }
    let message = ResumeRequest { request: Some(request) };
    let ask = Ask { doing: "letting the cluster go on", effect: Effect::Once(&id) };
    connection.ask(ask, async |mut api| api.resume(message.clone()).await).await?;
    context.output.answer(
        "the cluster goes on: hosts are told what to run, and what they run that is not known is ended",
        &json!({ "resumed": true, "request_id": id }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_hosts_are_counted() {
        assert_eq!(missing(&Held { hosts_back: 5, hosts: 5 }), None);
        assert_eq!(missing(&Held { hosts_back: 0, hosts: 0 }), None);
        let why = missing(&Held { hosts_back: 2, hosts: 5 }).unwrap();
        assert!(why.starts_with("2 of 5 hosts have come back. The tasks of the other 3"), "{why}");
    }
}
