//! Fills in what only the launch knows: `{{thermos.ports[NAME]}}`, `{{thermos.task_id}}`, `{{thermos.user}}`,
//! `{{mesos.instance}}` and `{{mesos.hostname}}`. Other braces are the command's own and stay.

use std::collections::BTreeMap;

use proto::BadField;

/// What the names stand for.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// By name.
    pub ports: BTreeMap<String, u32>,
    /// As people read it.
    pub task_id: String,
    /// Whom the process runs as.
    pub user: String,
    /// Of the job.
    pub instance: u32,
    /// The host's name in the cluster.
    pub hostname: String,
}

impl Values {
    /// `cmdline` with the values in it; `thermos.` and `mesos.` names that mean nothing are refused.
    pub fn fill(&self, cmdline: &str) -> Result<String, BadField> {
        let mut filled = String::with_capacity(cmdline.len());
        let mut rest = cmdline;
        while let Some(open) = rest.find("{{") {
            filled.push_str(&rest[..open]);
            rest = &rest[open..];
            let value = match rest[2..].find("}}") {
                Some(length) => self.value(rest[2..2 + length].trim())?.map(|value| (value, length + 4)),
                None => None,
            };
            match value {
                Some((value, length)) => {
                    filled.push_str(&value);
                    rest = &rest[length..];
                }
                None => {
                    filled.push('{');
                    rest = &rest[1..];
                }
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// `Ok(None)`: not one of ours.
    fn value(&self, name: &str) -> Result<Option<String>, BadField> {
        Ok(Some(match name {
            "thermos.task_id" => self.task_id.clone(),
            "thermos.user" => self.user.clone(),
            "mesos.instance" => self.instance.to_string(),
            "mesos.hostname" => self.hostname.clone(),
            _ => {
                if let Some(port) =
                    name.strip_prefix("thermos.ports[").and_then(|rest| rest.strip_suffix(']'))
                {
                    let port = self.ports.get(port).ok_or_else(|| {
                        let have: Vec<&str> = self.ports.keys().map(String::as_str).collect();
                        let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
                        BadField::new(
                            format!("{{{{{name}}}}}"),
                            format!("is no port of this task; it has {have}"),
                        )
                    })?;
                    return Ok(Some(port.to_string()));
                }
                if name.starts_with("thermos.") || name.starts_with("mesos.") {
                    return Err(BadField::new(
                        format!("{{{{{name}}}}}"),
                        "is not known when a task is launched",
                    ));
                }
                return Ok(None);
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_filled_in() {
        let values = Values {
            ports: BTreeMap::from([("http".to_owned(), 31_000)]),
            task_id: "task-1-2".into(),
            user: "www".into(),
            instance: 3,
            hostname: "h1".into(),
        };
        for (cmdline, want) in [
            ("serve {{thermos.ports[http]}} {{ mesos.instance }}", "serve 31000 3"),
            ("{{thermos.task_id}}@{{mesos.hostname}}:{{thermos.user}}", "task-1-2@h1:www"),
            (
                "docker ps --format '{{.Names}} {{x}}' {{{mesos.instance}}}",
                "docker ps --format '{{.Names}} {{x}}' {3}",
            ),
            ("awk '{{print}' {{mesos.instance}}", "awk '{{print}' 3"),
            ("é{{", "é{{"),
            ("", ""),
        ] {
            match values.fill(cmdline) {
                Ok(got) => assert_eq!(got, want),
                Err(why) => panic!("{cmdline}: {why}"),
            }
        }
        for (cmdline, want) in [
            ("{{thermos.ports[web]}}", "`{{thermos.ports[web]}}` is no port of this task; it has http"),
            ("{{mesos.agent}}", "`{{mesos.agent}}` is not known when a task is launched"),
        ] {
            assert_eq!(values.fill(cmdline).unwrap_err().to_string(), want);
        }
    }
}
