//! A job as JSON that reads back as the same job.

use std::collections::BTreeSet;

use proto::wire;
use serde_json::{Map, Value, json};

use crate::template;

/// The JSON form of a job: reading it gives the job again.
pub fn to_json(spec: &wire::JobSpec) -> Value {
    let config = spec.config.clone().unwrap_or_default();
    let key = config.job.unwrap_or_default();
    let mut job = Map::new();
    let mut put = |name: &str, value: Value| job.insert(name.to_owned(), value);
    put("cluster", escaped(&key.cluster).into());
    put("role", escaped(&key.role).into());
    put("environment", escaped(&key.environment).into());
    put("name", escaped(&key.name).into());
    put("instances", spec.instances.into());
    put("service", config.service.into());
    put("tier", escaped(&config.tier).into());
    put("priority", config.priority.into());
    put("max_task_failures", config.max_task_failures.into());
    if !config.contact.is_empty() {
        put("contact", escaped(&config.contact).into());
    }
    if !config.constraints.is_empty() {
        let rules = config.constraints.iter().map(|c| (escaped(&c.attribute), rule(c).into()));
        put("constraints", Value::Object(rules.collect()));
    }
    if !config.preferences.is_empty() {
        let preferences = config.preferences.iter().map(|preference| {
            let constraint = preference.constraint.clone().unwrap_or_default();
            json!({
                "attribute": escaped(&constraint.attribute),
                "value": rule(&constraint),
                "weight": preference.weight,
            })
        });
        put("preferences", preferences.collect());
    }
    if !config.spreads.is_empty() {
        let spreads = config.spreads.iter().map(|spread| {
            let targets = spread.targets.iter().map(|target| (escaped(&target.value), target.percent.into()));
            json!({ "attribute": escaped(&spread.attribute), "targets": targets.collect::<Map<_, _>>() })
        });
        put("spreads", spreads.collect());
    }
    if config.all_or_nothing {
        put("all_or_nothing", true.into());
    }
    if config.at_most_one {
        put("at_most_one", true.into());
    }
    if let Some(policy) = &config.partition_policy {
        put(
            "partition_policy",
            json!({ "reschedule": policy.reschedule, "delay_secs": policy.delay_seconds }),
        );
    }
    if !config.metadata.is_empty() {
        let pairs =
            config.metadata.iter().map(|m| json!({"key": escaped(&m.key), "value": escaped(&m.value)}));
        put("metadata", pairs.collect());
    }
    put("task", task(&config.task.unwrap_or_default()));
    Value::Object(job)
}

fn rule(constraint: &wire::Constraint) -> String {
    match &constraint.rule {
        Some(wire::constraint::Rule::Limit(limit)) => format!("limit:{}", limit.count),
        Some(wire::constraint::Rule::Value(value)) => {
            let not = if value.negated { "!" } else { "" };
            escaped(&format!("{not}{}", value.values.join(",")))
        }
        Some(wire::constraint::Rule::Compare(rule)) => {
            let sign = match rule.comparison() {
                wire::Comparison::Less => "<",
                wire::Comparison::AtMost => "<=",
                wire::Comparison::AtLeast => ">=",
                wire::Comparison::More => ">",
                wire::Comparison::Unspecified => "?",
            };
            format!("{sign}{}", rule.number)
        }
        Some(wire::constraint::Rule::Exists(rule)) => if rule.negated { "!*" } else { "*" }.to_owned(),
        None => String::new(),
    }
}

fn task(task: &wire::TaskSpec) -> Value {
    let resources = task.resources.unwrap_or_default();
    let mut out = json!({
        "name": escaped(&task.name),
        "resources": {
            "cpu": milli(resources.cpu_milli),
            "ram": bytes(resources.ram_mib),
            "disk": bytes(resources.disk_mib),
            "gpu": resources.gpus,
        },
        "processes": task.processes.iter().map(process).collect::<Vec<_>>(),
        "max_failures": task.max_failures,
        "max_concurrency": task.max_concurrency,
        "finalization_wait": task.finalization_wait_seconds,
    });
    if !task.orderings.is_empty() {
        let names =
            |order: &wire::Ordering| order.processes.iter().map(|name| escaped(name)).collect::<Vec<_>>();
        out["constraints"] = task.orderings.iter().map(|order| json!({"order": names(order)})).collect();
    }
    // Those that a command line refers to need no other word.
    let named: BTreeSet<&str> =
        task.processes.iter().flat_map(|process| template::ports(&process.cmdline)).collect();
    let any = task.ports.iter().filter(|name| !named.contains(name.as_str())).map(|name| (name.clone(), 0));
    let fixed = task.static_ports.iter().map(|port| (port.name.clone(), port.port));
    let ports: Map<String, Value> = any.chain(fixed).map(|(name, port)| (name, port.into())).collect();
    if !ports.is_empty() {
        out["ports"] = ports.into();
    }
    out
}

fn process(process: &wire::Process) -> Value {
    let mut out = json!({
        "name": escaped(&process.name),
        "cmdline": template::escaped(&process.cmdline, true),
        "max_failures": process.max_failures,
        "daemon": process.daemon,
        "ephemeral": process.ephemeral,
        "final": process.r#final,
        "min_duration": process.min_duration_seconds,
    });
    if process.log_rotate_bytes > 0 {
        out["logger"] = json!({
            "mode": "rotate",
            "rotate": {"log_size": process.log_rotate_bytes, "backups": process.log_backups},
        });
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "amounts are far below 2^53")]
fn milli(amount: u64) -> f64 {
    amount as f64 / 1000.0
}

fn bytes(mib: u64) -> u64 {
    mib.saturating_mul(1 << 20)
}

fn escaped(text: &str) -> String {
    template::escaped(text, false)
}
