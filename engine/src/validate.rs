//! What every door checks before a job or a host becomes a command. Inside, the types are believed.
//!
//! Canonical form is made here too: ports sorted, an empty tier and an unset `max_task_failures` filled in with
//! Aurora's defaults, so that equal jobs have equal hashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::job_key::check_part;
use proto::wire::constraint::Rule;
use proto::{BadField, wire};

use crate::limits::{
    ATTRIBUTES_MAX, CMDLINE_BYTES_MAX, CONFIG_BYTES_MAX, CONSTRAINT_VALUES_MAX, CONSTRAINTS_MAX,
    GPUS_PER_TASK_MAX, INSTANCES_PER_JOB_MAX, METADATA_MAX, ORDERING_NAMES_MAX, PARTITION_DELAY_MAX_MS,
    PORT_RANGES_MAX, PORTS_PER_TASK_MAX, PROCESSES_MAX, SPREADS_MAX, TEXT_BYTES_MAX, TOGETHER_MAX,
};
use crate::state::config::JobSpec;
use crate::state::host::HostSpec;
use crate::state::record::{read_config, read_host_spec};

/// Aurora's default tier.
const TIER_DEFAULT: &str = "preemptible";

type Checked = Result<(), BadField>;

fn ensure(holds: bool, field: impl Into<String>, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(BadField::new(field, problem())) }
}

fn check_text(field: &str, text: &str) -> Checked {
    ensure(text.len() <= TEXT_BYTES_MAX, field, || format!("is longer than {TEXT_BYTES_MAX} bytes"))
}

/// Checks a job as a person describes it, and parses it.
pub fn check_job_spec(spec: &wire::JobSpec) -> Result<JobSpec, BadField> {
    ensure((1..=INSTANCES_PER_JOB_MAX).contains(&spec.instances), "instances", || {
        format!("is {}; a job has 1 to {INSTANCES_PER_JOB_MAX}", spec.instances)
    })?;
    let mut config = spec.config.clone().ok_or_else(|| BadField::new("config", "is missing"))?;
    if config.tier.is_empty() {
        config.tier = TIER_DEFAULT.to_owned();
    }
    if config.max_task_failures == 0 {
        config.max_task_failures = 1;
    }
    let task = config.task.as_mut().ok_or_else(|| BadField::new("task", "is missing"))?;
    task.ports.sort_unstable();
    task.static_ports.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    check_environment(config.job.as_ref().map_or("", |job| &job.environment))?;
    ensure(config.max_task_failures >= -1, "max_task_failures", || {
        format!("is {}; it is at least 1, or -1 for ever", config.max_task_failures)
    })?;
    check_text("contact", &config.contact)?;
    ensure(config.metadata.len() <= METADATA_MAX, "metadata", || {
        format!("has more than {METADATA_MAX} entries")
    })?;
    for entry in &config.metadata {
        check_text("metadata", &entry.key)?;
        check_text("metadata", &entry.value)?;
    }
    check_task(config.task.as_ref().unwrap_or(&wire::TaskSpec::default()))?;
    check_constraints(&config)?;
    let delay = config.partition_policy.as_ref().map_or(0, |policy| policy.delay_seconds);
    ensure(u64::from(delay) * 1000 <= PARTITION_DELAY_MAX_MS, "partition_policy", || {
        format!("has a delay of {delay} s; at most {} s", PARTITION_DELAY_MAX_MS / 1000)
    })?;
    ensure(!config.all_or_nothing || spec.instances <= TOGETHER_MAX, "instances", || {
        format!("are {}; at most {TOGETHER_MAX} tasks get places all or none", spec.instances)
    })?;
    let bytes = prost::Message::encoded_len(&config);
    ensure(bytes <= CONFIG_BYTES_MAX, "config", || {
        format!("has {bytes} bytes; at most {CONFIG_BYTES_MAX} are stored")
    })?;
    Ok(JobSpec { config: Arc::new(read_config(config)?), instances: spec.instances })
}

fn check_environment(environment: &str) -> Checked {
    let staging = environment.strip_prefix("staging").is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()));
    ensure(staging || matches!(environment, "prod" | "devel" | "test"), "environment", || {
        format!("is {environment:?}; it is prod, devel, test, or staging and a number")
    })
}

fn check_task(task: &wire::TaskSpec) -> Checked {
    check_part("task name", if task.name.is_empty() { "task" } else { &task.name })?;
    let resources = task.resources.ok_or_else(|| BadField::new("resources", "are missing"))?;
    for (field, amount) in
        [("cpu", resources.cpu_milli), ("ram", resources.ram_mib), ("disk", resources.disk_mib)]
    {
        ensure(amount > 0, field, || "must be above zero".to_owned())?;
    }
    ensure(resources.gpus <= GPUS_PER_TASK_MAX, "gpu", || {
        format!("is {}; a task has at most {GPUS_PER_TASK_MAX}", resources.gpus)
    })?;
    ensure(task.ports.len() <= PORTS_PER_TASK_MAX, "ports", || {
        format!("are {}; a task has at most {PORTS_PER_TASK_MAX}", task.ports.len())
    })?;
    for name in &task.ports {
        check_part("port name", name)?;
    }
    let count = task.ports.len() + task.static_ports.len();
    ensure(count <= PORTS_PER_TASK_MAX, "ports", || {
        format!("are {count}; a task has at most {PORTS_PER_TASK_MAX}")
    })?;
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for port in &task.static_ports {
        check_part("port name", &port.name)?;
        let field = format!("port {}", port.name);
        ensure((1..=65_535).contains(&port.port), &field, || format!("is {}, not 1 to 65535", port.port))?;
        ensure(numbers.insert(port.port), &field, || {
            format!("is {}, and so is another port of the task", port.port)
        })?;
    }
    let named = task.ports.iter().chain(task.static_ports.iter().map(|port| &port.name));
    for name in named {
        ensure(names.insert(name), format!("port {name}"), || "is named twice".to_owned())?;
    }
    check_processes(&task.processes)?;
    check_orderings(task)
}

fn check_processes(processes: &[wire::Process]) -> Checked {
    ensure(!processes.is_empty(), "processes", || "are missing; a task has at least one".to_owned())?;
    ensure(processes.len() <= PROCESSES_MAX, "processes", || {
        format!("are {}; a task has at most {PROCESSES_MAX}", processes.len())
    })?;
    let mut names = BTreeSet::new();
    for process in processes {
        let name = &process.name;
        let field = format!("process {name:?}");
        let well_formed = !name.is_empty()
            && name.len() <= proto::job_key::PART_BYTES_MAX
            && !name.starts_with('.')
            && !name.contains(['/', '\0']);
        ensure(well_formed, &field, || {
            "needs a name that is not empty, does not begin with `.` and has no `/`".to_owned()
        })?;
        ensure(names.insert(name), &field, || "is there twice".to_owned())?;
        ensure(!process.cmdline.trim().is_empty(), &field, || "has no command line".to_owned())?;
        ensure(process.cmdline.len() <= CMDLINE_BYTES_MAX, &field, || {
            format!("has a command line of more than {CMDLINE_BYTES_MAX} bytes")
        })?;
        ensure(!process.cmdline.contains('\0'), &field, || "has a command line with a zero byte".to_owned())?;
    }
    ensure(processes.iter().any(|process| !process.r#final), "processes", || {
        "are all final; at least one must be an ordinary one".to_owned()
    })
}

fn check_orderings(task: &wire::TaskSpec) -> Checked {
    let named: usize = task.orderings.iter().map(|ordering| ordering.processes.len()).sum();
    ensure(named <= ORDERING_NAMES_MAX, "order", || {
        format!("names {named} processes; at most {ORDERING_NAMES_MAX}")
    })?;
    let processes: BTreeMap<&str, &wire::Process> =
        task.processes.iter().map(|p| (p.name.as_str(), p)).collect();
    let mut after: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for ordering in &task.orderings {
        for name in &ordering.processes {
            ensure(processes.contains_key(name.as_str()), "order", || {
                format!("names process {name:?}, which is not there")
            })?;
        }
        for pair in ordering.processes.windows(2) {
            let (first, second) = (processes[pair[0].as_str()], processes[pair[1].as_str()]);
            ensure(first.r#final == second.r#final, "order", || {
                format!(
                    "puts {:?} before {:?}, but one of them is final and the other is not",
                    first.name, second.name
                )
            })?;
            ensure(!first.daemon, "order", || {
                format!("puts {:?} after {:?}, a daemon, which never ends", second.name, first.name)
            })?;
            ensure(second.ephemeral || !first.ephemeral, "order", || {
                format!("puts {:?} after {:?}, which is ephemeral and may never end", second.name, first.name)
            })?;
            after.entry(&first.name).or_default().insert(&second.name);
        }
    }
    // Take away what nothing comes before, again and again; what stays is a cycle.
    let mut before: BTreeMap<&str, usize> = BTreeMap::new();
    for later in after.values().flatten() {
        *before.entry(later).or_default() += 1;
    }
    let mut ready: Vec<&str> = after.keys().filter(|name| !before.contains_key(*name)).copied().collect();
    while let Some(name) = ready.pop() {
        for later in after.remove(name).unwrap_or_default() {
            if let Some(count) = before.get_mut(later) {
                *count -= 1;
                if *count == 0 {
                    before.remove(later);
                    ready.push(later);
                }
            }
        }
    }
    ensure(before.is_empty(), "order", || {
        let names: Vec<&str> = before.keys().copied().collect();
        format!("goes round in a circle through {}", names.join(", "))
    })
}

fn check_constraints(config: &wire::TaskConfig) -> Checked {
    ensure(config.constraints.len() <= CONSTRAINTS_MAX, "constraints", || {
        format!("are {}; a job has at most {CONSTRAINTS_MAX}", config.constraints.len())
    })?;
    for constraint in &config.constraints {
        check_rule(constraint)?;
        if constraint.attribute == "dedicated" {
            match &constraint.rule {
                Some(Rule::Value(rule)) => check_dedicated(config, rule)?,
                _ => return Err(BadField::new("constraint dedicated", "must name exactly one value")),
            }
        }
    }
    ensure(config.preferences.len() <= CONSTRAINTS_MAX, "preferences", || {
        format!("are {}; a job has at most {CONSTRAINTS_MAX}", config.preferences.len())
    })?;
    for preference in &config.preferences {
        let constraint = preference.constraint.as_ref();
        let constraint = constraint.ok_or_else(|| BadField::new("preference", "has no constraint"))?;
        check_rule(constraint)?;
        let field = format!("preference {}", constraint.attribute);
        ensure(!matches!(constraint.rule, Some(Rule::Limit(_))), &field, || "cannot be a limit".to_owned())?;
        ensure(preference.weight != 0 && (-100..=100).contains(&preference.weight), &field, || {
            format!("has weight {}; it is -100 to 100, and not 0", preference.weight)
        })?;
    }
    ensure(config.spreads.len() <= SPREADS_MAX, "spreads", || {
        format!("are {}; a job has at most {SPREADS_MAX}", config.spreads.len())
    })?;
    config.spreads.iter().try_for_each(check_spread)
}

fn check_spread(spread: &wire::Spread) -> Checked {
    check_part("spread", &spread.attribute)?;
    let field = format!("spread {}", spread.attribute);
    ensure(spread.targets.len() <= CONSTRAINT_VALUES_MAX, &field, || {
        format!("has more than {CONSTRAINT_VALUES_MAX} targets")
    })?;
    spread.targets.iter().try_for_each(|target| check_text(&field, &target.value))?;
    let values: BTreeSet<&str> = spread.targets.iter().map(|target| target.value.as_str()).collect();
    ensure(values.len() == spread.targets.len(), &field, || "has a target twice".to_owned())?;
    let sum: u64 = spread.targets.iter().map(|target| u64::from(target.percent)).sum();
    ensure(sum <= 100, &field, || format!("has targets of {sum} percent in sum; 100 are all"))
}

fn check_rule(constraint: &wire::Constraint) -> Checked {
    check_part("constraint", &constraint.attribute)?;
    let field = format!("constraint {}", constraint.attribute);
    match constraint.rule.as_ref() {
        Some(Rule::Limit(rule)) => {
            ensure(rule.count > 0, &field, || "has limit 0; it is at least 1".to_owned())
        }
        Some(Rule::Compare(rule)) => {
            ensure(rule.comparison() != wire::Comparison::Unspecified, &field, || {
                "compares in a way that this build does not know".to_owned()
            })
        }
        Some(Rule::Exists(_)) => Ok(()),
        Some(Rule::Value(rule)) => {
            ensure(!rule.values.is_empty(), &field, || "names no value".to_owned())?;
            ensure(rule.values.len() <= CONSTRAINT_VALUES_MAX, &field, || {
                format!("names more than {CONSTRAINT_VALUES_MAX} values")
            })?;
            rule.values.iter().try_for_each(|value| check_text(&field, value))
        }
        None => Err(BadField::new(field, "has no rule")),
    }
}

fn check_dedicated(config: &wire::TaskConfig, rule: &wire::ValueRule) -> Checked {
    let [value] = &rule.values[..] else {
        return Err(BadField::new("constraint dedicated", "must name exactly one value"));
    };
    ensure(!rule.negated, "constraint dedicated", || "cannot be negated".to_owned())?;
    let owner = value.split('/').next().unwrap_or_default();
    let role = config.job.as_ref().map_or("", |job| &job.role);
    ensure(owner == "*" || owner == role, "constraint dedicated", || {
        format!("is {value:?}: only {owner} may use hosts dedicated for that role")
    })
}

/// Checks what a host says it is, and parses it.
pub fn check_host_spec(spec: &wire::HostSpec) -> Result<HostSpec, BadField> {
    check_part("host name", &spec.name)?;
    check_text("address", &spec.address)?;
    check_text("version", &spec.version)?;
    ensure(spec.capacity.is_some(), "capacity", || "is missing".to_owned())?;
    ensure(spec.ports.len() <= PORT_RANGES_MAX, "ports", || {
        format!("have more than {PORT_RANGES_MAX} ranges")
    })?;
    ensure(spec.attributes.len() <= ATTRIBUTES_MAX, "attributes", || {
        format!("are more than {ATTRIBUTES_MAX}")
    })?;
    for attribute in &spec.attributes {
        check_part("attribute", &attribute.name)?;
        check_text(&format!("attribute {}", attribute.name), &attribute.value)?;
    }
    read_host_spec(spec.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str) -> wire::Process {
        wire::Process { name: name.into(), cmdline: "true".into(), max_failures: 1, ..Default::default() }
    }

    fn order(names: &[&str]) -> wire::Ordering {
        wire::Ordering { processes: names.iter().map(|name| (*name).into()).collect() }
    }

    fn spec() -> wire::JobSpec {
        let job = wire::JobKey {
            cluster: "west".into(),
            role: "www".into(),
            environment: "prod".into(),
            name: "a".into(),
        };
        let resources = wire::Resources { cpu_milli: 1, ram_mib: 1, disk_mib: 1, gpus: 0 };
        let task = wire::TaskSpec {
            name: "a".into(),
            resources: Some(resources),
            processes: vec![process("one"), process("two")],
            orderings: vec![order(&["one", "two"])],
            ports: vec!["http".into(), "admin".into()],
            ..Default::default()
        };
        let config = wire::TaskConfig {
            job: Some(job),
            task: Some(task),
            tier: "preferred".into(),
            ..Default::default()
        };
        wire::JobSpec { config: Some(config), instances: 1 }
    }

    fn port(name: &str, port: u32) -> wire::NamedPort {
        wire::NamedPort { name: name.into(), port }
    }

    fn value(attribute: &str, values: &[&str]) -> wire::Constraint {
        let values = values.iter().map(|value| (*value).into()).collect();
        let rule = wire::constraint::Rule::Value(wire::ValueRule { negated: false, values });
        wire::Constraint { attribute: attribute.into(), rule: Some(rule) }
    }

    fn constraint(attribute: &str, rule: Rule) -> wire::Constraint {
        wire::Constraint { attribute: attribute.into(), rule: Some(rule) }
    }

    fn prefer(constraint: wire::Constraint, weight: i32) -> wire::Preference {
        wire::Preference { constraint: Some(constraint), weight }
    }

    fn spread(targets: &[(&str, u32)]) -> wire::Spread {
        let target =
            |(value, percent): &(&str, u32)| wire::SpreadTarget { value: (*value).into(), percent: *percent };
        wire::Spread { attribute: "zone".into(), targets: targets.iter().map(target).collect() }
    }

    #[test]
    fn a_good_job_passes_in_canonical_form() {
        let checked = check_job_spec(&spec()).unwrap();
        assert_eq!(checked.config.ports.iter().map(|p| &**p).collect::<Vec<_>>(), ["admin", "http"]);
        assert_eq!(checked.config.max_task_failures, 1);
        let mut other = spec();
        other.config.as_mut().unwrap().task.as_mut().unwrap().ports.reverse();
        assert_eq!(check_job_spec(&other).unwrap().config.hash, checked.config.hash);
    }

    #[test]
    fn each_bad_job_is_refused_with_its_reason() {
        type Change = fn(&mut wire::JobSpec, &mut wire::TaskConfig, &mut wire::TaskSpec);
        let cases: &[(&str, Change)] = &[
            ("`instances` is 0", |s, _, _| s.instances = 0),
            ("`instances` is 1000000000", |s, _, _| s.instances = 1_000_000_000),
            ("`role` is \"a b\"", |_, c, _| c.job.as_mut().unwrap().role = "a b".into()),
            ("`environment` is \"mars\"", |_, c, _| c.job.as_mut().unwrap().environment = "mars".into()),
            ("`tier` is \"gold\"", |_, c, _| c.tier = "gold".into()),
            ("`max_task_failures` is -2", |_, c, _| c.max_task_failures = -2),
            ("`resources` are missing", |_, _, t| t.resources = None),
            ("`gpu` is 1001; a task has at most 1000", |_, _, t| t.resources.as_mut().unwrap().gpus = 1_001),
            ("`cpu` must be above zero", |_, _, t| t.resources.as_mut().unwrap().cpu_milli = 0),
            ("`ram` is 18446744073709551615, more than", |_, _, t| {
                t.resources.as_mut().unwrap().ram_mib = u64::MAX
            }),
            ("`processes` are missing", |_, _, t| t.processes.clear()),
            ("is there twice", |_, _, t| t.processes[1].name = "one".into()),
            ("has no command line", |_, _, t| t.processes[0].cmdline = " ".into()),
            ("has no `/`", |_, _, t| t.processes[0].name = "a/b".into()),
            ("which is not there", |_, _, t| t.orderings.push(order(&["one", "three"]))),
            ("goes round in a circle through one, two", |_, _, t| t.orderings.push(order(&["two", "one"]))),
            ("goes round in a circle", |_, _, t| t.orderings.push(order(&["one", "one"]))),
            ("a daemon, which never ends", |_, _, t| t.processes[0].daemon = true),
            ("which is ephemeral", |_, _, t| t.processes[0].ephemeral = true),
            ("one of them is final", |_, _, t| t.processes[1].r#final = true),
            ("is named twice", |_, _, t| t.ports.push("http".into())),
            ("`port http` is named twice", |_, _, t| t.static_ports.push(port("http", 80))),
            ("`port a` is 70000, not 1 to 65535", |_, _, t| t.static_ports.push(port("a", 70_000))),
            ("`port a` is 0, not", |_, _, t| t.static_ports.push(port("a", 0))),
            ("`port b` is 80, and so is another", |_, _, t| {
                t.static_ports = vec![port("a", 80), port("b", 80)]
            }),
            ("a task has at most 100", |_, _, t| t.ports = (0..1_000_000).map(|n| n.to_string()).collect()),
            ("must name exactly one value", |_, c, _| {
                c.constraints = vec![value("dedicated", &["www/a", "www/b"])]
            }),
            ("only ops may use hosts", |_, c, _| c.constraints = vec![value("dedicated", &["ops/a"])]),
            ("names no value", |_, c, _| c.constraints = vec![value("rack", &[])]),
            ("has limit 0; it is at least 1", |_, c, _| {
                let rule = Rule::Limit(wire::LimitRule { count: 0 });
                c.constraints = vec![constraint("rack", rule)];
            }),
            ("compares in a way that this build does not know", |_, c, _| {
                let rule = Rule::Compare(wire::CompareRule { comparison: 0, number: i64::MIN });
                c.constraints = vec![constraint("cores", rule)];
            }),
            ("compares in a way", |_, c, _| {
                let rule = Rule::Compare(wire::CompareRule { comparison: i32::MAX, number: 1 });
                c.constraints = vec![constraint("cores", rule)];
            }),
            ("`constraints` are 51; a job has at most 50", |_, c, _| {
                c.constraints = vec![value("rack", &["a"]); 51]
            }),
            ("names more than 100 values", |_, c, _| c.constraints = vec![value("rack", &["a"; 101])]),
            ("is longer than 1024 bytes", |_, c, _| {
                c.constraints = vec![value("rack", &["a".repeat(1_025).as_str()])]
            }),
            ("`preference rack` has weight -2147483648; it is -100 to 100", |_, c, _| {
                c.preferences = vec![prefer(value("rack", &["a"]), i32::MIN)]
            }),
            ("has weight 2147483647", |_, c, _| {
                c.preferences = vec![prefer(value("rack", &["a"]), i32::MAX)]
            }),
            ("has weight 0", |_, c, _| c.preferences = vec![prefer(value("rack", &["a"]), 0)]),
            ("`preference` has no constraint", |_, c, _| {
                c.preferences = vec![wire::Preference { constraint: None, weight: 1 }]
            }),
            ("`preference host` cannot be a limit", |_, c, _| {
                let rule = Rule::Limit(wire::LimitRule { count: 1 });
                c.preferences = vec![prefer(constraint("host", rule), 1)];
            }),
            ("`preferences` are 51", |_, c, _| c.preferences = vec![prefer(value("rack", &["a"]), 1); 51]),
            ("`spreads` are 5; a job has at most 4", |_, c, _| c.spreads = vec![spread(&[]); 5]),
            ("`spread zone` has targets of 101 percent in sum", |_, c, _| {
                c.spreads = vec![spread(&[("a", 100), ("b", 1)])]
            }),
            ("has targets of 8589934590 percent", |_, c, _| {
                c.spreads = vec![spread(&[("a", u32::MAX), ("b", u32::MAX)])]
            }),
            ("`spread zone` has a target twice", |_, c, _| c.spreads = vec![spread(&[("a", 1), ("a", 1)])]),
            ("has more than 100 targets", |_, c, _| c.spreads = vec![spread(&[("a", 0); 101])]),
            ("`instances` are 1001; at most 1000 tasks get places all or none", |s, c, _| {
                (s.instances, c.all_or_nothing) = (1_001, true)
            }),
            ("`partition_policy` has a delay of 4294967295 s; at most 86400 s", |_, c, _| {
                c.partition_policy = Some(wire::PartitionPolicy { reschedule: true, delay_seconds: u32::MAX })
            }),
            ("`ports` are 101; a task has at most 100", |_, _, t| {
                t.static_ports = (1..100).map(|n| port(&format!("p{n}"), n)).collect()
            }),
            ("`cpu` is", |_, _, t| t.resources.as_mut().unwrap().cpu_milli = u64::MAX),
            ("`disk` is", |_, _, t| t.resources.as_mut().unwrap().disk_mib = u64::MAX),
            ("has no rule", |_, c, _| {
                c.constraints = vec![wire::Constraint { attribute: "rack".into(), rule: None }]
            }),
        ];
        for (want, change) in cases {
            let mut bad = spec();
            let mut config = bad.config.take().unwrap();
            let mut task = config.task.take().unwrap();
            change(&mut bad, &mut config, &mut task);
            config.task = Some(task);
            bad.config = Some(config);
            let refused = check_job_spec(&bad).expect_err(want).to_string();
            assert!(refused.contains(want), "wanted {want:?}, got {refused:?}");
        }
    }

    #[test]
    fn host_specs_are_checked_and_sorted() {
        let range = |first, last| wire::PortRange { first, last };
        let spec = |ports| wire::HostSpec {
            name: "h1".into(),
            capacity: Some(wire::Resources::default()),
            ports,
            ..Default::default()
        };
        let good = check_host_spec(&spec(vec![range(30, 40), range(10, 20)])).unwrap();
        assert_eq!(good.ports, [(10, 20), (30, 40)]);
        for (ports, want) in [
            (vec![range(1, 70_000)], "above 65535"),
            (vec![range(9, 8)], "which is none"),
            (vec![range(1, 10), range(10, 20)], "overlap at 10"),
        ] {
            let refused = check_host_spec(&spec(ports)).expect_err(want).to_string();
            assert!(refused.contains(want), "wanted {want:?}, got {refused:?}");
        }
    }
}
