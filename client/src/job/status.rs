//! `borealis job status`.

use proto::wire::{GetJobReply, TaskView};
use proto::{JobKey, TaskId};
use serde_json::{Value, json};

use super::progress::{Progress, get, task_json};
use crate::error::Error;
use crate::table::{clean, count, table};
use crate::{Context, TIMEOUT, duration};

/// Ended tasks that people are shown.
const ENDED_SHOWN_MAX: usize = 10;

/// Shows the job's tasks.
pub(crate) async fn run(context: &Context<'_>, key: &str, stale: bool) -> Result<(), Error> {
    let key: JobKey = key.parse()?;
    let connection = context.connect(Some(&key.cluster), TIMEOUT)?;
    let reply = get(&connection, &key, stale, true).await?;
    context.output.answer(&text(&key, &reply, stale, duration::now_ms()), &value(&key, &reply))
}

fn wanted(reply: &GetJobReply) -> u32 {
    reply.spec.as_ref().map_or(0, |spec| spec.instances)
}

fn is_service(reply: &GetJobReply) -> bool {
    reply.spec.as_ref().and_then(|spec| spec.config.as_ref()).is_some_and(|config| config.service)
}

fn value(key: &JobKey, reply: &GetJobReply) -> Value {
    json!({
        "job": key.to_string(),
        "instances": wanted(reply),
        "service": is_service(reply),
        "tasks": reply.tasks.iter().map(task_json).collect::<Vec<_>>(),
        "ended": reply.ended.iter().map(task_json).collect::<Vec<_>>(),
        "counts": progress_counts(reply),
        "over": reply.over,
        "age_ms": reply.age_ms,
    })
}

fn progress_counts(reply: &GetJobReply) -> Value {
    let counts = reply.counts.iter().map(|count| (count.status().as_str_name(), count.tasks));
    json!(counts.collect::<std::collections::BTreeMap<_, _>>())
}

fn text(key: &JobKey, reply: &GetJobReply, stale: bool, now_ms: u64) -> String {
    let kind = if is_service(reply) { "service" } else { "batch job" };
    let progress = Progress::of(reply, wanted(reply));
    let counts: Vec<String> = progress.counts.iter().map(|(status, n)| format!("{n} {status}")).collect();
    let counts = if counts.is_empty() { "nothing has run yet".to_owned() } else { counts.join(", ") };
    let mut text = format!("{key}: {kind}, {}: {counts}\n", count(wanted(reply) as usize, "instance"));
    if stale {
        text.push_str(&format!("one replica's word, at most {} old\n", duration::age(0, reply.age_ms + 999)));
    }
    let live: usize = reply.counts.iter().map(|count| count.tasks as usize).sum();
    if reply.tasks.len() < live {
        text.push_str(&format!("of {live} live tasks the first {} are shown\n", reply.tasks.len()));
    }
    if !reply.tasks.is_empty() {
        text.push('\n');
        text.push_str(&tasks(reply.tasks.iter(), now_ms));
    }
    if !reply.ended.is_empty() {
        let shown = reply.ended.len().min(ENDED_SHOWN_MAX);
        let of = if shown < reply.ended.len() {
            format!(" (newest {shown} of {})", reply.ended.len())
        } else {
            String::new()
        };
        text.push_str(&format!("\nended{of}:\n"));
        text.push_str(&tasks(reply.ended.iter().take(shown), now_ms));
    }
    text
}

fn tasks<'t>(tasks: impl Iterator<Item = &'t TaskView>, now_ms: u64) -> String {
    let rows: Vec<Vec<String>> = tasks
        .map(|task| {
            let ports: Vec<String> =
                task.ports.iter().map(|port| format!("{}={}", clean(&port.name), port.port)).collect();
            vec![
                task.instance.to_string(),
                task.status().as_str_name().to_owned(),
                duration::age(task.since_ms, now_ms),
                dash(&task.host),
                dash(&ports.join(" ")),
                TaskId(task.task_id).to_string(),
                clean(&task.message),
            ]
        })
        .collect();
    table(&["INSTANCE", "STATUS", "AGE", "HOST", "PORTS", "TASK", "MESSAGE"], &rows)
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { clean(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proto::wire::{JobSpec, NamedPort, Status, StatusCount, TaskConfig};

    fn sample() -> GetJobReply {
        let task = |counter: u64, instance, status: Status, since_ms, host: &str, message: &str| TaskView {
            task_id: (17 << 40) | counter,
            instance,
            status: status.into(),
            since_ms,
            host: host.into(),
            message: message.into(),
            ..TaskView::default()
        };
        let mut running = task(9, 0, Status::Running, 1_000, "agent-1", "");
        running.agent_address = "127.0.0.1:40001".into();
        running.ports = vec![NamedPort { name: "http".into(), port: 31_001 }];
        running.ancestor = (17 << 40) | 3;
        GetJobReply {
            spec: Some(JobSpec {
                config: Some(TaskConfig { service: true, ..TaskConfig::default() }),
                instances: 2,
            }),
            tasks: vec![
                running,
                task(10, 1, Status::Pending, 181_000, "", "no host has 64 cpu; the nearest has 2.0 free"),
            ],
            ended: vec![task(3, 0, Status::Failed, 500, "agent-2", "process `web` ended\nwith 1")],
            counts: [Status::Running, Status::Pending]
                .map(|status| StatusCount { status: status.into(), tasks: 1 })
                .into(),
            ..GetJobReply::default()
        }
    }

    #[test]
    fn people_see_instances_and_why_they_wait() {
        let key: JobKey = "west/www-data/prod/web".parse().unwrap();
        expect![[r#"
            west/www-data/prod/web: service, 2 instances: 1 PENDING, 1 RUNNING

            INSTANCE  STATUS   AGE  HOST     PORTS       TASK        MESSAGE
            0         RUNNING  4m   agent-1  http=31001  task-17-9
            1         PENDING  1m   -        -           task-17-10  no host has 64 cpu; the nearest has 2.0 free

            ended:
            INSTANCE  STATUS  AGE  HOST     PORTS  TASK       MESSAGE
            0         FAILED  4m   agent-2  -      task-17-3  process `web` ended with 1
        "#]]
        .assert_eq(&text(&key, &sample(), false, 241_500));
    }

    #[test]
    fn machines_see_the_same() {
        let key: JobKey = "west/www-data/prod/web".parse().unwrap();
        let value = value(&key, &sample());
        assert_eq!(value["instances"], 2);
        expect![[r#"{"agent_address":"127.0.0.1:40001","ancestor":"task-17-3","host":"agent-1","instance":0,"message":"","ports":{"http":31001},"since_ms":1000,"status":"RUNNING","task_id":"task-17-9"}"#]]
            .assert_eq(&value["tasks"][0].to_string());
    }
}
