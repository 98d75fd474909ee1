//! `borealis host drain`, `activate` and `status`.

use std::time::Duration;

use proto::wire::{ActivateHostsRequest, DrainHostsRequest, HostMode, HostView};
use serde_json::json;

use super::list::{amounts, amounts_json, hosts, mode};
use crate::arguments::{Again, DrainFlags};
use crate::connection::{Ask, Connection, Effect};
use crate::error::{Error, Kind};
use crate::table::{clean, count, table};
use crate::{Context, TIMEOUT, WAIT_TIMEOUT, duration, request};

/// Between two looks at what is left on the hosts.
const PAUSE: Duration = Duration::from_millis(200);

/// Drains the hosts, and waits until nothing is left on them if asked to.
pub(crate) async fn run_drain(
    context: &Context<'_>,
    names: &[String],
    drain: &DrainFlags,
) -> Result<(), Error> {
    let request = request::request(drain.again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(None, if drain.wait { WAIT_TIMEOUT } else { TIMEOUT })?;
    let message =
        DrainHostsRequest { request: Some(request), hosts: names.to_vec(), message: drain.message.clone() };
    let which = words(names);
    let doing = format!("draining {which}");
    let ask = Ask { doing: &doing, effect: Effect::Once(&id) };
    let reply = connection.ask(ask, async |mut api| api.drain_hosts(message.clone()).await).await?;
    if drain.wait {
        drained(context, &connection, names).await?;
    }
    let silent: Vec<String> = match drain.wait {
        true => {
            named(&connection, names).await?.iter().filter(|h| h.silent).map(|h| name(h).to_owned()).collect()
        }
        false => Vec::new(),
    };
    let answer = json!({
        "hosts": names, "tasks": reply.tasks, "drained": drain.wait, "silent": silent, "request_id": id
    });
    let tasks = count(reply.tasks as usize, "task");
    let text = if drain.wait {
        let unheard = match &silent[..] {
            [] => String::new(),
            silent => format!(
                "; {} not heard: what still runs there could not be told, and ends when it is heard again",
                silent.join(" and ") + if silent.len() == 1 { " is" } else { " are" }
            ),
        };
        format!("drained {which} of {tasks}{unheard}")
    } else {
        format!("draining {which}: {tasks} move away; see `borealis host status {}`", names.join(" "))
    };
    context.output.answer(&text, &answer)
}

/// Lets the hosts get tasks again.
pub(crate) async fn run_activate(
    context: &Context<'_>,
    names: &[String],
    again: &Again,
) -> Result<(), Error> {
    let request = request::request(again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(None, TIMEOUT)?;
    let message = ActivateHostsRequest { request: Some(request), hosts: names.to_vec() };
    let which = words(names);
    let doing = format!("activating {which}");
    let ask = Ask { doing: &doing, effect: Effect::Once(&id) };
    connection.ask(ask, async |mut api| api.activate_hosts(message.clone()).await).await?;
    context
        .output
        .answer(&format!("{which} may get tasks again"), &json!({ "hosts": names, "request_id": id }))
}

/// Shows the mode of the hosts, and what is left on them.
pub(crate) async fn run_status(context: &Context<'_>, names: &[String]) -> Result<(), Error> {
    let connection = context.connect(None, TIMEOUT)?;
    let named = named(&connection, names).await?;
    let rows: Vec<Vec<String>> = named
        .iter()
        .map(|host| {
            let lent = amounts(host.unused.as_ref()).to_string();
            vec![clean(name(host)), mode(host).to_owned(), host.tasks.to_string(), lent]
        })
        .collect();
    let value: Vec<_> = named
        .iter()
        .map(|host| json!({ "name": name(host), "mode": mode(host), "tasks": host.tasks, "unused": amounts_json(amounts(host.unused.as_ref())) }))
        .collect();
    context.output.answer(&table(&["HOST", "MODE", "TASKS", "LENT"], &rows), &json!({ "hosts": value }))
}

fn name(host: &HostView) -> &str {
    host.spec.as_ref().map_or("", |spec| &spec.name)
}

fn words(names: &[String]) -> String {
    match names {
        [one] => format!("host {one}"),
        many => count(many.len(), "host"),
    }
}

/// The hosts of these names; all must be there.
async fn named(connection: &Connection<'_>, names: &[String]) -> Result<Vec<HostView>, Error> {
    let all = hosts(connection).await?.hosts;
    if let Some(missing) = names.iter().find(|asked| !all.iter().any(|host| name(host) == **asked)) {
        return Err(Error::new(Kind::Refused, format!("no host is called {missing}"))
            .hint("`borealis host list` shows them"));
    }
    Ok(all.into_iter().filter(|host| names.iter().any(|asked| asked == name(host))).collect())
}

async fn drained(context: &Context<'_>, connection: &Connection<'_>, names: &[String]) -> Result<(), Error> {
    loop {
        let hosts = named(connection, names).await?;
        let active = hosts.iter().find(|host| host.mode() == HostMode::HostActive);
        if let Some(host) = active {
            let what = format!("host {} was activated while it was drained", name(host));
            return Err(Error::new(Kind::Failed, what).hint("drain it again, if that was not meant"));
        }
        let left: u32 = hosts.iter().map(|host| host.tasks).sum();
        if left == 0 {
            return Ok(());
        }
        context.output.progress(&format!("{} still on {}", count(left as usize, "task"), words(names)));
        if tokio::time::Instant::now() + PAUSE >= connection.deadline() {
            let within = duration::words(connection.timeout());
            let what = format!("{} not yet drained after {within}: {left} tasks are left", words(names));
            return Err(Error::new(Kind::TimedOut, what)
                .hint(format!("it goes on; see `borealis host status {}`", names.join(" "))));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
