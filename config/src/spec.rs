//! From typed data to the job that is sent: what is impossible is refused, units are rounded up, sets are sorted.

use std::collections::{BTreeMap, BTreeSet};

use proto::{JobKey, job_key, resources, wire};

use crate::Job;
use crate::ports::Ports;
use crate::problem::{Fault, Issue, did_you_mean, quoted};
use crate::resolve::{Data, Object, Typed};
use crate::source::Span;

/// Longest name of a process, in bytes: it names directories and files.
const PROCESS_NAME_BYTES_MAX: usize = 200;
/// Most processes of a task.
const PROCESSES_MAX: usize = 1_000;
/// Most instances of a job; the scheduler takes no more.
const INSTANCES_MAX: i64 = 100_000;
/// Most instances of a job that get places together or not at all.
const TOGETHER_MAX: i64 = 1_000;
/// Most cpu, in thousandths: a million cores. Below it, a thousandth survives its way through a float.
const CPU_MILLI_MAX: f64 = 1e9;
const MIB: i64 = 1 << 20;

/// Makes the job; problems go to `issues`, and then there is none.
pub(crate) fn job(object: &Object, issues: &mut Vec<Fault>) -> Option<Job> {
    let before = errors(issues);
    let mut checks = Checks { issues };
    let key = checks.key(object);
    let task = object.object("task").map(|task| checks.task(task, object));
    let spec = wire::JobSpec {
        config: Some(wire::TaskConfig {
            job: key.as_ref().map(Into::into),
            task,
            service: object.bool("service"),
            tier: checks.tier(object),
            priority: checks.within(object, "priority", i64::from(i32::MIN), i64::from(i32::MAX)),
            max_task_failures: checks.within(object, "max_task_failures", -1, i64::from(i32::MAX)),
            constraints: checks.constraints(object),
            contact: object.text("contact").to_owned(),
            metadata: metadata(object),
            preferences: checks.preferences(object),
            spreads: checks.spreads(object),
            all_or_nothing: object.bool("all_or_nothing"),
            partition_policy: checks.partition_policy(object),
            at_most_one: object.bool("at_most_one"),
        }),
        instances: checks.instances(object),
    };
    let key = key?;
    (errors(issues) == before).then_some(Job { key, spec })
}

/// What a constraint says of an attribute: `limit:2`, `a,b`, `!a,b`, `>=16`, `*` (has it), `!*` (has it not). Or what
/// is wrong, and what to do.
fn read_rule(text: &str) -> Result<wire::constraint::Rule, (String, &'static str)> {
    use wire::Comparison::{AtLeast, AtMost, Less, More};
    use wire::constraint::Rule;
    if let Some(count) = text.strip_prefix("limit:") {
        return match count.trim().parse().ok().filter(|&count| count > 0) {
            Some(count) => Ok(Rule::Limit(wire::LimitRule { count })),
            None => Err((
                format!("{} is no limit", quoted(text)),
                "`limit:2` means at most 2 tasks of the job on hosts that share the attribute's value",
            )),
        };
    }
    for (sign, comparison) in [("<=", AtMost), (">=", AtLeast), ("<", Less), (">", More)] {
        let Some(number) = text.strip_prefix(sign) else { continue };
        return match number.trim().parse() {
            Ok(number) => Ok(Rule::Compare(wire::CompareRule { comparison: comparison.into(), number })),
            Err(_) => Err((
                format!("{} compares with no whole number", quoted(text)),
                "`>=16` means: the attribute is a whole number, and at least 16",
            )),
        };
    }
    let (negated, list) = match text.strip_prefix('!') {
        Some(list) => (true, list),
        None => (false, text),
    };
    if list.trim() == "*" {
        return Ok(Rule::Exists(wire::ExistsRule { negated }));
    }
    let values: BTreeSet<&str> = list.split(',').map(str::trim).collect();
    if values.iter().any(|value| value.starts_with(['!', '<', '>', '*']) || value.starts_with("limit:")) {
        return Err((
            format!("the constraint {} mixes two kinds", quoted(text)),
            "a `!` in front is for all values; a limit stands alone",
        ));
    }
    if values.contains("") {
        return Err((
            format!("the constraint {} has an empty value", quoted(text)),
            "values stand between commas: `a,b`; a leading `!` means none of them",
        ));
    }
    Ok(Rule::Value(wire::ValueRule { negated, values: values.into_iter().map(str::to_owned).collect() }))
}

fn errors(issues: &[Fault]) -> usize {
    issues.iter().filter(|issue| issue.severity == crate::Severity::Error).count()
}

fn metadata(object: &Object) -> Vec<wire::Metadata> {
    let pairs: BTreeSet<(&str, &str)> = object
        .list("metadata")
        .iter()
        .filter_map(|item| match &item.data {
            Data::Object(pair) => Some((pair.text("key"), pair.text("value"))),
            _ => None,
        })
        .collect();
    pairs.into_iter().map(|(key, value)| wire::Metadata { key: key.into(), value: value.into() }).collect()
}

struct Checks<'i> {
    issues: &'i mut Vec<Fault>,
}

impl Checks<'_> {
    fn error(&mut self, span: Span, reason: impl Into<String>) {
        self.issues.push(Issue::error(span, reason));
    }

    fn key(&mut self, object: &Object) -> Option<JobKey> {
        let mut good = true;
        for field in ["cluster", "role", "environment", "name"] {
            if let Err(bad) = job_key::check_part(field, object.text(field)) {
                let problem = if object.text(field).is_empty() {
                    "is empty".to_owned()
                } else {
                    shortened(&bad.problem)
                };
                self.error(object.span_of(field), format!("`{field}` {problem}"));
                good = false;
            }
        }
        let part = |field| object.text(field);
        good.then(|| JobKey::new(part("cluster"), part("role"), part("environment"), part("name")).ok())
            .flatten()
    }

    /// A whole number between two bounds.
    fn within<N: TryFrom<i64> + Default>(
        &mut self,
        object: &Object,
        field: &str,
        least: i64,
        most: i64,
    ) -> N {
        let value = object.int(field);
        if value < least || value > most {
            let bound = if value < least { format!("at least {least}") } else { format!("at most {most}") };
            self.error(object.span_of(field), format!("`{field}` is {value}; it must be {bound}"));
        }
        N::try_from(value).unwrap_or_default()
    }

    fn instances(&mut self, object: &Object) -> u32 {
        let value = object.int("instances");
        if object.bool("all_or_nothing") && (TOGETHER_MAX + 1..=INSTANCES_MAX).contains(&value) {
            self.error(
                object.span_of("instances"),
                format!("`instances` is {value}; with `all_or_nothing` it must be at most {TOGETHER_MAX}"),
            );
        }
        self.within(object, "instances", 1, INSTANCES_MAX)
    }

    fn count(&mut self, object: &Object, field: &str) -> u32 {
        self.within(object, field, 0, i64::from(u32::MAX))
    }

    fn tier(&mut self, object: &Object) -> String {
        const TIERS: [&str; 3] = ["preferred", "preemptible", "revocable"];
        let from_production = if object.bool("production") { "preferred" } else { "preemptible" };
        let tier = object.text("tier");
        if object.get("tier").is_none() {
            return from_production.to_owned();
        }
        if !TIERS.contains(&tier) {
            let all = || format!("it is one of {}", TIERS.join(", "));
            let hint = did_you_mean(tier, TIERS).unwrap_or_else(all);
            let reason = format!("there is no tier {}", quoted(tier));
            self.issues.push(Issue::error(object.span_of("tier"), reason).hint(hint));
        } else if object.get("production").is_some()
            && from_production != tier
            && (object.bool("production") || tier == "preferred")
        {
            let reason =
                format!("`tier` is {} and `production` says {from_production}; `tier` is used", quoted(tier));
            let fault = Issue::warning(object.span_of("tier"), reason);
            self.issues.push(fault.also(object.span_of("production"), "says otherwise"));
        }
        tier.to_owned()
    }

    fn constraints(&mut self, object: &Object) -> Vec<wire::Constraint> {
        let mut sorted = BTreeMap::new();
        for (attribute, rule) in object.map("constraints") {
            let (Data::Text(name), Data::Text(text)) = (&attribute.data, &rule.data) else { continue };
            if name.trim().is_empty() {
                self.error(attribute.span, "this constraint names no attribute");
            }
            match read_rule(text) {
                Ok(rule) => drop(sorted.insert(name.clone(), rule)),
                Err((reason, hint)) => self.issues.push(Issue::error(rule.span, reason).hint(hint)),
            }
        }
        let constraint = |(attribute, rule)| wire::Constraint { attribute, rule: Some(rule) };
        sorted.into_iter().map(constraint).collect()
    }

    fn preferences(&mut self, object: &Object) -> Vec<wire::Preference> {
        let mut preferences = Vec::new();
        for preference in objects(object.list("preferences")) {
            let weight: i32 = self.within(preference, "weight", -100, 100);
            if weight == 0 {
                self.error(preference.span_of("weight"), "a preference of weight 0 prefers nothing");
            }
            match read_rule(preference.text("value")) {
                Ok(wire::constraint::Rule::Limit(_)) => {
                    let reason = "a limit cannot be a preference";
                    self.issues.push(
                        Issue::error(preference.span_of("value"), reason)
                            .hint("`Spread` puts tasks apart as far as there is room"),
                    );
                }
                Ok(rule) => {
                    let attribute = preference.text("attribute").to_owned();
                    let constraint = Some(wire::Constraint { attribute, rule: Some(rule) });
                    preferences.push(wire::Preference { constraint, weight });
                }
                Err((reason, hint)) => {
                    self.issues.push(Issue::error(preference.span_of("value"), reason).hint(hint));
                }
            }
        }
        preferences
    }

    fn spreads(&mut self, object: &Object) -> Vec<wire::Spread> {
        let mut spreads = Vec::new();
        for spread in objects(object.list("spreads")) {
            let mut targets = BTreeMap::new();
            for (value, percent) in spread.map("targets") {
                let Data::Text(name) = &value.data else { continue };
                let number = match &percent.data {
                    Data::Int(number) => u32::try_from(*number).ok(),
                    Data::Text(text) => text.trim().parse().ok(),
                    _ => None,
                };
                match number.filter(|percent| *percent <= 100) {
                    Some(percent) => drop(targets.insert(name.clone(), percent)),
                    None => self.error(percent.span, "a target is a whole number of percent, from 0 to 100"),
                }
            }
            if targets.values().sum::<u32>() > 100 {
                self.error(spread.span_of("targets"), "the targets are more than 100 percent in sum");
            }
            let target = |(value, percent)| wire::SpreadTarget { value, percent };
            spreads.push(wire::Spread {
                attribute: spread.text("attribute").to_owned(),
                targets: targets.into_iter().map(target).collect(),
            });
        }
        spreads
    }

    fn partition_policy(&mut self, object: &Object) -> Option<wire::PartitionPolicy> {
        let policy = object.object("partition_policy")?;
        Some(wire::PartitionPolicy {
            reschedule: policy.bool("reschedule"),
            delay_seconds: self.within(policy, "delay_secs", 0, i64::from(u32::MAX)),
        })
    }

    fn task(&mut self, task: &Object, job: &Object) -> wire::TaskSpec {
        let role = job.text("role");
        if task.get("user").is_some() && task.text("user") != role {
            let reason = format!("`user` is not supported yet: processes run as the role, {}", quoted(role));
            self.error(task.span_of("user"), reason);
        }
        let processes: Vec<&Object> = objects(task.list("processes"));
        if processes.len() > PROCESSES_MAX {
            let reason = format!("the task has {} processes, more than {PROCESSES_MAX}", processes.len());
            self.error(task.span_of("processes"), reason);
        }
        let mut by_name: BTreeMap<&str, (usize, Span)> = BTreeMap::new();
        for ((at, process), item) in processes.iter().enumerate().zip(task.list("processes")) {
            let (name, named) = (process.text("name"), process.span_of("name"));
            let span = if item.span.holds(named) { named } else { item.span };
            if let Some((_, first)) = by_name.insert(name, (at, span)) {
                let fault =
                    Issue::error(span, format!("two processes of the task are named {}", quoted(name)));
                self.issues.push(fault.also(first, "the other one"));
            }
        }
        let orderings = self.orderings(task, &processes, &by_name);
        let ports = Ports::read(task, job.object("announce"), self.issues);
        let processes: Vec<wire::Process> =
            processes.iter().map(|process| self.process(process, &ports)).collect();
        wire::TaskSpec {
            name: task.text("name").to_owned(),
            resources: task.object("resources").map(|resources| self.resources(resources)),
            orderings,
            max_failures: self.count(task, "max_failures"),
            max_concurrency: self.count(task, "max_concurrency"),
            finalization_wait_seconds: self.count(task, "finalization_wait"),
            ports: ports.any(&processes),
            static_ports: ports.fixed(),
            processes,
        }
    }

    fn process(&mut self, process: &Object, ports: &Ports) -> wire::Process {
        let name = process.text("name");
        let good = !name.is_empty()
            && !name.starts_with('.')
            && !name.contains('/')
            && !name.contains(char::is_control);
        if !good {
            let reason = format!("a process cannot be named {}", quoted(name));
            let hint = "the name becomes a file's: no `/`, no leading `.`, not empty";
            self.issues.push(Issue::error(process.span_of("name"), reason).hint(hint));
        } else if name.len() > PROCESS_NAME_BYTES_MAX {
            let reason = format!("this name is longer than {PROCESS_NAME_BYTES_MAX} bytes");
            self.error(process.span_of("name"), reason);
        }
        if process.text("cmdline").trim().is_empty() {
            self.error(process.span_of("cmdline"), "`cmdline` is empty: there is nothing to run");
        }
        let (log_rotate_bytes, log_backups) = self.rotation(process);
        wire::Process {
            name: name.to_owned(),
            cmdline: ports.rename(process.text("cmdline")),
            max_failures: self.count(process, "max_failures"),
            daemon: process.bool("daemon"),
            ephemeral: process.bool("ephemeral"),
            r#final: process.bool("final"),
            min_duration_seconds: self.count(process, "min_duration"),
            log_rotate_bytes,
            log_backups,
        }
    }

    fn rotation(&mut self, process: &Object) -> (u64, u32) {
        const LOG_BYTES: u64 = 100 << 20;
        const LOG_BACKUPS: u32 = 5;
        let Some(logger) = process.object("logger") else { return (0, 0) };
        if logger.text("destination") != "file" {
            let reason = "`destination` is not supported yet: output goes to files";
            self.issues.push(Issue::warning(logger.span_of("destination"), reason));
        }
        match (logger.text("mode"), logger.object("rotate")) {
            ("rotate", Some(policy)) => {
                (self.within(policy, "log_size", 1, i64::MAX), self.count(policy, "backups"))
            }
            ("rotate", None) => (LOG_BYTES, LOG_BACKUPS),
            (_, Some(_)) => {
                let reason = "`rotate` has no effect without `mode='rotate'`";
                self.issues.push(Issue::warning(logger.span_of("rotate"), reason));
                (0, 0)
            }
            _ => (0, 0),
        }
    }

    fn resources(&mut self, resources: &Object) -> wire::Resources {
        wire::Resources {
            cpu_milli: self.cpu(resources),
            ram_mib: self.mib(resources, "ram"),
            disk_mib: self.mib(resources, "disk"),
            gpus: self.count(resources, "gpu"),
        }
    }

    fn cpu(&mut self, resources: &Object) -> u64 {
        let cores = resources.float("cpu");
        // A hair less, so that 0.07 * 1000 = 70.00000000000001 is not 71.
        let milli = (cores * 1000.0 - 1e-6).ceil();
        if cores.is_nan() || cores <= 0.0 {
            self.error(resources.span_of("cpu"), "`cpu` must be more than 0");
        } else if milli > CPU_MILLI_MAX {
            self.error(resources.span_of("cpu"), "`cpu` is more than any machine has");
        } else {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
            return (milli as u64).max(1);
        }
        0
    }

    fn mib(&mut self, resources: &Object, field: &str) -> u64 {
        let (bytes, span) = (resources.int(field), resources.span_of(field));
        let mib = u64::try_from(bytes / MIB + i64::from(bytes % MIB > 0)).unwrap_or(0);
        if bytes <= 0 {
            self.error(span, format!("`{field}` must be more than 0"));
        } else if bytes < MIB {
            let reason = format!("`{field}` is {bytes} bytes, less than 1 MB");
            self.issues.push(Issue::error(span, reason).hint(format!("perhaps `{bytes}*MB` is meant")));
        } else if mib > resources::AMOUNT_MAX {
            self.error(span, format!("`{field}` is more than any machine has"));
        }
        mib
    }

    fn orderings(
        &mut self,
        task: &Object,
        processes: &[&Object],
        by_name: &BTreeMap<&str, (usize, Span)>,
    ) -> Vec<wire::Ordering> {
        let mut orderings = Vec::new();
        // For each process those that wait for it, and where that is said.
        let mut after: Vec<Vec<(usize, Span)>> = vec![Vec::new(); processes.len()];
        for constraint in objects(task.list("constraints")) {
            let mut names = Vec::new();
            let mut earlier: Option<(usize, &str)> = None;
            for item in constraint.list("order") {
                let Data::Text(name) = &item.data else { continue };
                names.push(name.clone());
                let Some(&(at, _)) = by_name.get(&**name) else {
                    let reason = format!("the order names {}, which is no process of the task", quoted(name));
                    let hint = did_you_mean(name, by_name.keys().copied()).unwrap_or_else(|| {
                        let shown: Vec<String> = by_name.keys().take(10).map(|name| quoted(name)).collect();
                        format!("its processes are {}", shown.join(", "))
                    });
                    self.issues.push(Issue::error(item.span, reason).hint(hint));
                    earlier = None;
                    continue;
                };
                if let Some((before, before_name)) = earlier {
                    self.pair(processes[before], processes[at], before_name, name, item.span);
                    after[before].push((at, item.span));
                }
                earlier = Some((at, name));
            }
            if names.len() > 1 {
                orderings.push(wire::Ordering { processes: names });
            }
        }
        if let Some((span, cycle)) = cycle(&after) {
            let names: Vec<String> = cycle.iter().map(|&at| quoted(processes[at].text("name"))).collect();
            self.error(span, format!("the order goes in a circle: {}", names.join(" -> ")));
        }
        orderings
    }

    /// Whether one process may wait for another at all.
    fn pair(&mut self, before: &Object, then: &Object, before_name: &str, then_name: &str, span: Span) {
        let (before_name, then_name) = (quoted(before_name), quoted(then_name));
        if before.bool("final") != then.bool("final") {
            let reason = format!("{before_name} and {then_name} cannot be ordered: one of them is `final`");
            let hint = "final processes run after all others anyway";
            self.issues.push(Issue::error(span, reason).hint(hint));
        } else if before.bool("daemon") {
            let reason = format!("{then_name} cannot wait for {before_name}: a daemon never ends");
            self.issues.push(Issue::error(span, reason).also(before.span_of("daemon"), "daemon here"));
        } else if before.bool("ephemeral") && !then.bool("ephemeral") {
            let reason = format!("{then_name} cannot wait for {before_name}, which is ephemeral");
            self.issues.push(Issue::error(span, reason).also(before.span_of("ephemeral"), "ephemeral here"));
        }
    }
}

fn objects(items: &[Typed]) -> Vec<&Object> {
    let object = |item| match item {
        &Typed { data: Data::Object(ref object), .. } => Some(object),
        _ => None,
    };
    items.iter().filter_map(object).collect()
}

/// A circle in the order, from one process back to itself, and where its last step is said.
fn cycle(after: &[Vec<(usize, Span)>]) -> Option<(Span, Vec<usize>)> {
    // What has no predecessor left is taken away until nothing is left, or only circles and what waits for them.
    let mut waiting = vec![0_usize; after.len()];
    for &(then, _) in after.iter().flatten() {
        waiting[then] += 1;
    }
    let mut free: Vec<usize> = (0..after.len()).filter(|&at| waiting[at] == 0).collect();
    while let Some(at) = free.pop() {
        for &(then, _) in &after[at] {
            waiting[then] -= 1;
            if waiting[then] == 0 {
                free.push(then);
            }
        }
    }
    // Backwards every one that is left has a predecessor that is left, so the walk ends in a circle.
    let mut before: Vec<Option<(usize, Span)>> = vec![None; after.len()];
    for (at, next) in after.iter().enumerate().filter(|(at, _)| waiting[*at] > 0) {
        for &(then, span) in next {
            before[then] = Some((at, span));
        }
    }
    let start = (0..after.len()).find(|&at| waiting[at] > 0)?;
    let mut path = vec![start];
    loop {
        let (previous, span) = before[*path.last()?]?;
        if let Some(seen) = path.iter().position(|&at| at == previous) {
            let mut circle = path.split_off(seen);
            circle.push(previous);
            circle.reverse();
            return Some((span, circle));
        }
        path.push(previous);
    }
}

/// A complaint from the parsed values, with a long word shortened.
fn shortened(problem: &str) -> String {
    const CHARS_MAX: usize = 160;
    if problem.chars().nth(CHARS_MAX).is_none() {
        return problem.to_owned();
    }
    problem.chars().take(CHARS_MAX).chain("...".chars()).collect()
}
