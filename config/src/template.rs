//! The form of templates, `{{name}}` and its kin. Not here: what they stand for (`resolve`).

use std::collections::BTreeSet;

/// Stand for the braces of what stays in a text, while other templates are filled. Both are noncharacters.
pub(crate) const KEPT_OPEN: char = '\u{fdd0}';
pub(crate) const KEPT_CLOSE: char = '\u{fdd1}';

/// A reference in a text: `{{address}}`, or `{{&address}}`, which means a literal `{{address}}`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference<'t> {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) literal: bool,
    pub(crate) address: &'t str,
}

/// The references that hold no other ones, from left to right.
pub(crate) fn references(text: &str) -> Vec<Reference<'_>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find("{{")) {
        let start = from + at;
        from = start + 1;
        let inside = text.get(start + 2..).unwrap_or("");
        let Some(len) = inside.find(['{', '}', KEPT_OPEN, KEPT_CLOSE]) else { break };
        let after = inside.get(len..).unwrap_or("");
        if len == 0 || !after.starts_with("}}") {
            continue;
        }
        let inside = inside.get(..len).unwrap_or("");
        let (literal, address) = match inside.strip_prefix('&') {
            Some(address) if !address.is_empty() => (true, address),
            _ => (false, inside),
        };
        from = start + 2 + len + 2;
        found.push(Reference { start, end: from, literal, address });
    }
    found
}

/// `root.name[index]`, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address<'t> {
    pub(crate) root: &'t str,
    pub(crate) steps: Vec<Step<'t>>,
}

/// One step into a value.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Step<'t> {
    Name(&'t str),
    Index(&'t str),
}

impl<'t> Address<'t> {
    pub(crate) fn parse(text: &'t str) -> Option<Self> {
        let (root, mut rest) = word(text)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let (name, after) = word(after)?;
                steps.push(Step::Name(name));
                rest = after;
            } else {
                let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
                if index.is_empty() || index.contains('[') {
                    return None;
                }
                steps.push(Step::Index(index));
                rest = after;
            }
        }
        Some(Address { root, steps })
    }

    /// Whether the executor fills it in, on the machine.
    pub(crate) fn is_filled_later(&self) -> bool {
        match (self.root, &self.steps[..]) {
            ("mesos", [Step::Name("instance" | "hostname")]) | ("thermos", [Step::Name("task_id")]) => true,
            _ => self.port().is_some(),
        }
    }

    /// NAME of `thermos.ports[NAME]`.
    pub(crate) fn port(&self) -> Option<&'t str> {
        match (self.root, &self.steps[..]) {
            ("thermos", [Step::Name("ports"), Step::Index(name)]) if is_port_name(name) => Some(name),
            _ => None,
        }
    }
}

/// Whether this may be the name of a port.
pub(crate) fn is_port_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn word(text: &str) -> Option<(&str, &str)> {
    let first = text.chars().next()?;
    if !(first.is_ascii_alphabetic() || first == '_') {
        return None;
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    text.split_at_checked(end)
}

/// The port names that a text refers to.
pub(crate) fn ports(text: &str) -> BTreeSet<&str> {
    references(text).into_iter().filter_map(|found| Address::parse(found.address)?.port()).collect()
}

/// The text with other names for some of the ports that it refers to.
pub(crate) fn rename_ports<'n>(text: &str, new: impl Fn(&str) -> Option<&'n str>) -> String {
    let mut out = String::new();
    let mut from = 0;
    for found in references(text) {
        let named = Address::parse(found.address).and_then(|address| new(address.port()?));
        if let Some(name) = named {
            out.push_str(text.get(from..found.start).unwrap_or(""));
            out.push_str(&format!("{{{{thermos.ports[{name}]}}}}"));
            from = found.end;
        }
    }
    out.push_str(text.get(from..).unwrap_or(""));
    out
}

/// The text that means `text`: what would be taken for a template gets its `&`. Where `late`, what the executor
/// fills stays as it is.
pub(crate) fn escaped(text: &str, late: bool) -> String {
    let mut out = String::new();
    let mut from = 0;
    for found in references(text) {
        let filled_later = || Address::parse(found.address).is_some_and(|address| address.is_filled_later());
        if late && !found.literal && filled_later() {
            continue;
        }
        out.push_str(text.get(from..found.start + 2).unwrap_or(""));
        out.push('&');
        from = found.start + 2;
    }
    out.push_str(text.get(from..).unwrap_or(""));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_from_the_inside() {
        let addresses =
            |text| references(text).into_iter().map(|found| found.address.to_owned()).collect::<Vec<_>>();
        assert_eq!(addresses("a {{b}} {{c.d[0]}}"), ["b", "c.d[0]"]);
        assert_eq!(addresses("{{a{{b}}}} {{{c}}}"), ["b", "c"]);
        assert!(addresses("{{}} {{ {{ { }} {x} ${{").is_empty());
        assert_eq!(references("{{&x}}").first().map(|found| found.literal), Some(true));
    }

    #[test]
    fn addresses_have_roots_names_and_indexes() {
        let address = Address::parse("processes[0].name").unwrap();
        assert_eq!(
            (address.root, &address.steps[..]),
            ("processes", &[Step::Index("0"), Step::Name("name")][..])
        );
        for bad in ["", ".a", "a.", "a[", "a[]", "a b", "1a", "a[[b]]", "print $1"] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
        assert_eq!(
            ports("{{thermos.ports[b]}} {{thermos.ports[a]}} {{x}}").into_iter().collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn escaping_touches_only_what_would_be_filled() {
        let text = "{{x}} {{mesos.instance}} {y} {{&z}}";
        assert_eq!(escaped(text, true), "{{&x}} {{mesos.instance}} {y} {{&&z}}");
        assert_eq!(escaped(text, false), "{{&x}} {{&mesos.instance}} {y} {{&&z}}");
    }
}
