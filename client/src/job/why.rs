//! `borealis job why`: why instances wait, and until when.

use proto::wire::{Why, WhyPendingRequest};
use serde_json::{Value, json};

use crate::connection::{Ask, Effect};
use crate::error::Error;
use crate::instances::{Selection, ranges};
use crate::table::{clean, count};
use crate::{Context, TIMEOUT, duration};

/// Says why the instances that `key` names wait, or all that do.
pub(crate) async fn run(context: &Context<'_>, key: &str) -> Result<(), Error> {
    let Selection { job, instances } = Selection::parse(key)?;
    let connection = context.connect(Some(&job.cluster), TIMEOUT)?;
    let message = WhyPendingRequest { job: Some((&job).into()), instances };
    let doing = format!("asking why instances of {job} wait");
    let ask = Ask { doing: &doing, effect: Effect::Reads };
    let reply = connection.ask(ask, async |mut api| api.why_pending(message.clone()).await).await?;
    let answer = json!({ "job": job.to_string(), "why": reply.whys.iter().map(value).collect::<Vec<_>>() });
    let text = match reply.whys.as_slice() {
        [] => format!(
            "nothing of {key} waits for a place, a host or a next try; see `borealis job status {job}`"
        ),
        whys => whys.iter().map(|why| text(why, duration::now_ms())).collect::<Vec<_>>().join("\n"),
    };
    context.output.answer(&text, &answer)
}

/// For machines; also part of a plan.
pub(crate) fn value(why: &Why) -> Value {
    json!({
        "instances": why.instances,
        "waiting": why.waiting,
        "hosts": why.hosts,
        "vetoes": why.vetoes.iter().map(|veto| (veto.kind.clone(), veto.hosts.into())).collect::<serde_json::Map<_, _>>(),
        "nearest_miss": why.nearest_miss,
        "fit": why.fit,
        "retry_at_ms": why.retry_at_ms,
        "preemption": why.preemption,
        "quota": why.quota,
        "summary": why.summary,
    })
}

/// For people; also part of a plan.
pub(crate) fn text(why: &Why, now_ms: u64) -> String {
    let mut lines = Vec::new();
    let waiting = count(why.waiting as usize, "instance");
    let wait = if why.waiting == 1 { "waits" } else { "wait" };
    lines.push(match why.instances.as_slice() {
        [] => format!("{waiting} {wait}:"),
        some => format!("{waiting} {wait} ({}):", ranges(some)),
    });
    if why.nearest_miss.is_empty() {
        lines.push(format!("  {}", clean(&why.summary)));
    } else {
        lines.push(format!("  nearest miss  {}", clean(&why.nearest_miss)));
    }
    if why.hosts > 0 {
        let vetoes: Vec<String> =
            why.vetoes.iter().map(|veto| format!("{} on {}", clean(&veto.kind), veto.hosts)).collect();
        let vetoes = if vetoes.is_empty() { "none".to_owned() } else { vetoes.join(", ") };
        lines.push(format!("  vetoes        {vetoes}, of {}", count(why.hosts as usize, "host")));
    }
    if !why.preemption.is_empty() {
        lines.push(format!("  preemption    {}", clean(&why.preemption)));
    }
    if !why.quota.is_empty() {
        lines.push(format!("  quota         {}", clean(&why.quota)));
    }
    if why.retry_at_ms > now_ms {
        lines.push(format!("  goes on       in {}", duration::age(now_ms, why.retry_at_ms)));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::VetoCount;

    #[test]
    fn people_see_all_that_is_known() {
        let veto = |kind: &str, hosts| VetoCount { kind: kind.into(), hosts };
        let why = Why {
            instances: vec![0, 1, 2, 7],
            waiting: 4,
            hosts: 20,
            vetoes: vec![veto("ram", 18), veto("maintenance", 2)],
            nearest_miss: "needs 4.0 GiB ram; the best host has 3.2 GiB free".into(),
            preemption: "no task that it may displace is in the way".into(),
            quota: "role www takes 1.0 cpu of a quota of 8.0 cpu".into(),
            ..Why::default()
        };
        expect_test::expect![[r#"
            4 instances wait (0-2,7):
              nearest miss  needs 4.0 GiB ram; the best host has 3.2 GiB free
              vetoes        ram on 18, maintenance on 2, of 20 hosts
              preemption    no task that it may displace is in the way
              quota         role www takes 1.0 cpu of a quota of 8.0 cpu
        "#]]
        .assert_eq(&text(&why, 0));
        let throttled =
            Why { waiting: 1, retry_at_ms: 61_000, summary: "it ended too soon".into(), ..Why::default() };
        expect_test::expect![[r#"
            1 instance waits:
              it ended too soon
              goes on       in 1m
        "#]]
        .assert_eq(&text(&throttled, 1_000));
        assert_eq!(value(&why)["vetoes"]["ram"], 18);
    }
}
