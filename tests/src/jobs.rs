//! Jobs to submit: small ones with good defaults, as messages and as JSON files.

use proto::JobKey;
use proto::wire;

/// The role of all test jobs: a unix user that every Debian machine has.
pub const ROLE: &str = "www-data";

/// A key of the cluster's test environment.
pub fn key(cluster: &str, name: &str) -> JobKey {
    JobKey::new(cluster, ROLE, "test", name).expect("a test's job key is well formed")
}

/// A job of one process, tiny in its demand.
pub fn job(key: &JobKey, instances: u32, cmdline: &str) -> wire::JobSpec {
    let task = wire::TaskSpec {
        name: key.name.clone(),
        resources: Some(wire::Resources { cpu_milli: 10, ram_mib: 8, disk_mib: 8, gpus: 0 }),
        processes: vec![wire::Process {
            name: "main".into(),
            cmdline: cmdline.into(),
            max_failures: 1,
            min_duration_seconds: 1,
            ..wire::Process::default()
        }],
        max_failures: 1,
        finalization_wait_seconds: 2,
        ..wire::TaskSpec::default()
    };
    let config = wire::TaskConfig {
        job: Some(key.into()),
        task: Some(task),
        service: false,
        tier: "preemptible".into(),
        max_task_failures: 1,
        ..wire::TaskConfig::default()
    };
    wire::JobSpec { config: Some(config), instances }
}

/// A service that does nothing for a very long time.
pub fn sleeper(key: &JobKey, instances: u32) -> wire::JobSpec {
    let mut spec = job(key, instances, "exec sleep 1000000");
    if let Some(config) = &mut spec.config {
        config.service = true;
        config.max_task_failures = -1;
    }
    spec
}

/// A sleeper that may run on one host only.
pub fn sleeper_on(key: &JobKey, host: &str) -> wire::JobSpec {
    on_host(sleeper(key, 1), host)
}

/// The same job, which may run on one host only.
pub fn on_host(mut spec: wire::JobSpec, host: &str) -> wire::JobSpec {
    let rule = wire::constraint::Rule::Value(wire::ValueRule { negated: false, values: vec![host.into()] });
    if let Some(config) = &mut spec.config {
        config.constraints = vec![wire::Constraint { attribute: "host".into(), rule: Some(rule) }];
    }
    spec
}

/// The same job for simulated hosts only, or for real ones only.
pub fn simulated(mut spec: wire::JobSpec, simulated: bool) -> wire::JobSpec {
    let rule = wire::constraint::Rule::Exists(wire::ExistsRule { negated: !simulated });
    if let Some(config) = &mut spec.config {
        config.constraints.push(wire::Constraint { attribute: "simulated".into(), rule: Some(rule) });
    }
    spec
}
