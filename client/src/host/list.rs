//! `borealis host list`.

use proto::wire::{HostMode, HostView, ListHostsReply, ListHostsRequest};
use proto::{HostId, Resources, resources, wire};
use serde_json::{Value, json};

use crate::connection::{Ask, Connection, Effect};
use crate::error::Error;
use crate::table::{clean, table};
use crate::{Context, TIMEOUT};

/// Lists the hosts.
pub(crate) async fn run(context: &Context<'_>) -> Result<(), Error> {
    let connection = context.connect(None, TIMEOUT)?;
    let mut reply = hosts(&connection).await?;
    reply.hosts.sort_by(|one, other| name(one).cmp(name(other)));
    let value = json!({ "hosts": reply.hosts.iter().map(host_json).collect::<Vec<_>>() });
    context.output.answer(&text(&reply.hosts), &value)
}

/// Asks for the hosts.
pub(crate) async fn hosts(connection: &Connection<'_>) -> Result<ListHostsReply, Error> {
    let ask = Ask { doing: "listing hosts", effect: Effect::Reads };
    connection.ask(ask, async |mut api| api.list_hosts(ListHostsRequest {}).await).await
}

fn name(host: &HostView) -> &str {
    host.spec.as_ref().map_or("", |spec| &spec.name)
}

pub(super) fn amounts(amounts: Option<&wire::Resources>) -> Resources {
    amounts.and_then(|amounts| Resources::try_from(amounts).ok()).unwrap_or_default()
}

pub(super) fn amounts_json(amounts: Resources) -> Value {
    json!({
        "cpu_milli": amounts.cpu_milli,
        "ram_mib": amounts.ram_mib,
        "disk_mib": amounts.disk_mib,
        "gpus": amounts.gpus,
    })
}

fn host_json(host: &HostView) -> Value {
    let spec = host.spec.clone().unwrap_or_default();
    let attributes: Vec<Value> = spec
        .attributes
        .iter()
        .map(|attribute| json!({ "name": attribute.name, "value": attribute.value }))
        .collect();
    json!({
        "host_id": HostId(host.host_id).to_string(),
        "name": spec.name,
        "address": spec.address,
        "silent": host.silent,
        "mode": mode(host),
        "tasks": host.tasks,
        "free": amounts_json(amounts(host.free.as_ref())),
        "capacity": amounts_json(amounts(spec.capacity.as_ref())),
        "unused": amounts_json(amounts(host.unused.as_ref())),
        "attributes": attributes,
        "version": spec.version,
    })
}

/// In one word, whether the host may get tasks.
pub(crate) fn mode(host: &HostView) -> &'static str {
    match (host.silent, host.mode()) {
        (true, _) => "silent",
        (_, HostMode::HostActive) => "active",
        (_, HostMode::HostDraining) => "draining",
        (_, HostMode::HostDrained) => "drained",
    }
}

fn text(hosts: &[HostView]) -> String {
    if hosts.is_empty() {
        return "no hosts: start agents with `borealis-agent --schedulers HOST:PORT,...`".to_owned();
    }
    let share = |free: String, all: String| format!("{free} of {all}");
    let rows: Vec<Vec<String>> = hosts
        .iter()
        .map(|host| {
            let spec = host.spec.clone().unwrap_or_default();
            let (free, all) = (amounts(host.free.as_ref()), amounts(spec.capacity.as_ref()));
            let attributes: Vec<String> =
                spec.attributes.iter().map(|a| format!("{}={}", clean(&a.name), clean(&a.value))).collect();
            vec![
                clean(&spec.name),
                mode(host).to_owned(),
                host.tasks.to_string(),
                share(resources::cores(free.cpu_milli), resources::cores(all.cpu_milli)),
                share(resources::mib(free.ram_mib), resources::mib(all.ram_mib)),
                share(resources::mib(free.disk_mib), resources::mib(all.disk_mib)),
                lends(amounts(host.unused.as_ref())),
                clean(&spec.address),
                attributes.join(" "),
            ]
        })
        .collect();
    let heading =
        ["HOST", "MODE", "TASKS", "CPU FREE", "RAM FREE", "DISK FREE", "LENDS", "ADDRESS", "ATTRIBUTES"];
    table(&heading, &rows)
}

/// What revocable tasks may take beyond what is free.
fn lends(unused: Resources) -> String {
    let some = [
        (unused.cpu_milli, format!("{} cpu", resources::cores(unused.cpu_milli))),
        (unused.ram_mib, resources::mib(unused.ram_mib)),
    ];
    let some: Vec<String> =
        some.into_iter().filter(|(amount, _)| *amount > 0).map(|(_, text)| text).collect();
    if some.is_empty() { "-".to_owned() } else { some.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lines() {
        let capacity = Resources { cpu_milli: 2_000, ram_mib: 4_096, disk_mib: 10_240, gpus: 0 };
        let free = Resources { cpu_milli: 1_750, ram_mib: 640, disk_mib: 10_112, gpus: 0 };
        let spec = wire::HostSpec {
            name: "agent-1".into(),
            address: "127.0.0.1:40001".into(),
            capacity: Some(capacity.into()),
            attributes: vec![wire::Attribute { name: "rack".into(), value: "r1".into() }],
            ..wire::HostSpec::default()
        };
        let host = HostView {
            host_id: 1,
            spec: Some(spec),
            free: Some(free.into()),
            tasks: 2,
            unused: Some(Resources { cpu_milli: 500, ram_mib: 128, disk_mib: 0, gpus: 0 }.into()),
            ..HostView::default()
        };
        expect_test::expect![[r#"
            HOST     MODE    TASKS  CPU FREE     RAM FREE            DISK FREE            LENDS             ADDRESS          ATTRIBUTES
            agent-1  active  2      1.75 of 2.0  640 MiB of 4.0 GiB  9.9 GiB of 10.0 GiB  0.5 cpu, 128 MiB  127.0.0.1:40001  rack=r1
        "#]]
        .assert_eq(&text(&[host]));
    }
}
