//! A task's ports: `Task(ports=...)` and `Announcer(portmap=...)`, and what the command lines refer to.
//!
//! A name has a number, or stands for another name (an alias), or is given a number by the scheduler. An alias is one
//! more name of the same port, and so are two names with one number; in the job each port has one name, and command
//! lines refer to it by that.

use std::collections::{BTreeMap, BTreeSet};

use proto::wire;

use crate::problem::{Fault, Issue, quoted};
use crate::resolve::{Data, Object, Typed};
use crate::source::Span;
use crate::template;

/// What one name is said to be.
enum Port {
    Number(u32),
    /// Given by the scheduler.
    Any,
    Alias(String),
}

/// The ports of a task.
#[derive(Default)]
pub(crate) struct Ports {
    /// Names without a number.
    any: BTreeSet<String>,
    /// By number.
    fixed: BTreeMap<u32, String>,
    /// From each name to the one by which the job knows the port, where it is another.
    renamed: BTreeMap<String, String>,
}

impl Ports {
    /// Reads both maps; what is wrong with them goes to `issues`.
    pub(crate) fn read(task: &Object, announce: Option<&Object>, issues: &mut Vec<Fault>) -> Ports {
        let mut said = BTreeMap::new();
        for (name, value) in task.map("ports") {
            add(&mut said, name, value, true, issues);
        }
        if let Some(announce) = announce {
            if announce.get("portmap").is_some() {
                for (name, value) in announce.map("portmap") {
                    add(&mut said, name, value, false, issues);
                }
            } else {
                // Aurora's default: the name `aurora` stands for the primary port.
                let primary = announce.text("primary_port").to_owned();
                said.entry("aurora".to_owned())
                    .or_insert((Port::Alias(primary), announce.span_of("primary_port")));
            }
        }
        let mut ports = Ports::default();
        let mut names = BTreeMap::new();
        for (name, (_, span)) in &said {
            match target(&said, name) {
                Ok(target) => drop(names.insert(name.clone(), target)),
                Err(circle) => {
                    let names: Vec<String> = circle.iter().map(|name| quoted(name)).collect();
                    // Said once of each circle, and not of what leads into it.
                    if circle.first() == Some(name) && circle.iter().min() == Some(name) {
                        let reason = format!("these ports stand for each other: {}", names.join(" -> "));
                        let hint =
                            "give one of them a number, or leave it out: then the scheduler gives it one";
                        issues.push(Issue::error(*span, reason).hint(hint));
                    }
                }
            }
        }
        for target in names.values() {
            match said.get(target) {
                Some((Port::Number(number), _)) => {
                    let name = ports.fixed.entry(*number).or_insert_with(|| target.clone());
                    if target < name {
                        target.clone_into(name);
                    }
                }
                _ => drop(ports.any.insert(target.clone())),
            }
        }
        for (name, target) in names {
            let known_by = match said.get(&target) {
                Some((Port::Number(number), _)) => ports.fixed.get(number).cloned().unwrap_or(target),
                _ => target,
            };
            if name != known_by {
                ports.renamed.insert(name, known_by);
            }
        }
        ports
    }

    /// A command line with the names by which the job knows its ports.
    pub(crate) fn rename(&self, cmdline: &str) -> String {
        template::rename_ports(cmdline, |name| self.renamed.get(name).map(String::as_str))
    }

    /// Names of ports that the scheduler gives: those said, and those that command lines refer to.
    pub(crate) fn any(&self, cmdlines: &[wire::Process]) -> Vec<String> {
        let mut names: BTreeSet<&str> = self.any.iter().map(String::as_str).collect();
        let fixed: BTreeSet<&str> = self.fixed.values().map(String::as_str).collect();
        names.extend(cmdlines.iter().flat_map(|process| template::ports(&process.cmdline)));
        names.into_iter().filter(|name| !fixed.contains(name)).map(str::to_owned).collect()
    }

    /// Ports that have their numbers, by name.
    pub(crate) fn fixed(&self) -> Vec<wire::NamedPort> {
        let by_name: BTreeMap<&String, u32> = self.fixed.iter().map(|(port, name)| (name, *port)).collect();
        by_name.into_iter().map(|(name, port)| wire::NamedPort { name: name.clone(), port }).collect()
    }
}

fn add(
    said: &mut BTreeMap<String, (Port, Span)>,
    name: &Typed,
    value: &Typed,
    zero_is_any: bool,
    issues: &mut Vec<Fault>,
) {
    let (Data::Text(text), Data::Text(value_text)) = (&name.data, &value.data) else { return };
    let no_name = |span, text: &str| {
        Issue::error(span, format!("{} is no name of a port", quoted(text)))
            .hint("letters, digits, `_`, `-` and `.`, at most 63")
    };
    if !template::is_port_name(text) {
        issues.push(no_name(name.span, text));
    }
    let value_text = value_text.trim();
    let port = if value_text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+')) {
        match value_text.parse::<u16>() {
            Ok(0) if zero_is_any => Port::Any,
            Ok(number) if number > 0 && !value_text.starts_with('+') => Port::Number(number.into()),
            _ => {
                let reason = format!("{} is no number of a port", quoted(value_text));
                let hint = if zero_is_any {
                    "a whole number from 1 to 65535; 0 means that the scheduler gives one"
                } else {
                    "a whole number from 1 to 65535, or the name of another port"
                };
                issues.push(Issue::error(value.span, reason).hint(hint));
                return;
            }
        }
    } else if template::is_port_name(value_text) {
        Port::Alias(value_text.to_owned())
    } else {
        issues.push(no_name(value.span, value_text));
        return;
    };
    if let Some((_, first)) = said.insert(text.clone(), (port, value.span)) {
        let reason = format!("the port {} is given twice", quoted(text));
        issues.push(Issue::error(name.span, reason).also(first, "the other one"));
    }
}

/// Where the aliases lead from a name, or the circle that they lead into.
fn target(said: &BTreeMap<String, (Port, Span)>, name: &str) -> Result<String, Vec<String>> {
    let mut path = vec![name.to_owned()];
    let mut at = name;
    while let Some((Port::Alias(next), _)) = said.get(at) {
        if let Some(seen) = path.iter().position(|name| name == next) {
            let mut circle = path.split_off(seen);
            circle.push(next.clone());
            return Err(circle);
        }
        path.push(next.clone());
        at = next;
    }
    Ok(at.to_owned())
}
