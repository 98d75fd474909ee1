//! `cluster/role/environment/name`, Aurora's job key.

use std::fmt;
use std::str::FromStr;

use crate::{BadField, wire};

/// Longest part of a key, in bytes (Aurora's limit).
pub const PART_BYTES_MAX: usize = 255;

/// A well-formed job key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobKey {
    /// Name of the cluster that runs the job.
    pub cluster: String,
    /// Tenant, and the unix user its tasks run as.
    pub role: String,
    /// `prod`, `devel`, `test`, `staging1` ...
    pub environment: String,
    /// The job's own name.
    pub name: String,
}

/// Whether `part` may stand in a key: letters, digits, `_`, `-`, `.`; not empty, not `.` or `..`.
pub fn check_part(field: &str, part: &str) -> Result<(), BadField> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if part.is_empty() {
        return Err(BadField::new(field, "is missing"));
    }
    if part.len() > PART_BYTES_MAX {
        return Err(BadField::new(field, format!("is longer than {PART_BYTES_MAX} bytes")));
    }
    if !part.chars().all(ok) || part == "." || part == ".." {
        return Err(BadField::new(field, format!("is {part:?}; use letters, digits, `_`, `-` and `.`")));
    }
    Ok(())
}

impl JobKey {
    /// Checks all four parts.
    pub fn new(cluster: &str, role: &str, environment: &str, name: &str) -> Result<Self, BadField> {
        for (field, part) in
            [("cluster", cluster), ("role", role), ("environment", environment), ("name", name)]
        {
            check_part(field, part)?;
        }
        Ok(JobKey {
            cluster: cluster.into(),
            role: role.into(),
            environment: environment.into(),
            name: name.into(),
        })
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.cluster, self.role, self.environment, self.name)
    }
}

impl FromStr for JobKey {
    type Err = BadField;
    fn from_str(text: &str) -> Result<Self, BadField> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [cluster, role, environment, name] => JobKey::new(cluster, role, environment, name),
            _ => {
                Err(BadField::new("job key", format!("is {text:?}; it reads CLUSTER/ROLE/ENVIRONMENT/NAME")))
            }
        }
    }
}

impl TryFrom<&wire::JobKey> for JobKey {
    type Error = BadField;
    fn try_from(key: &wire::JobKey) -> Result<Self, BadField> {
        JobKey::new(&key.cluster, &key.role, &key.environment, &key.name)
    }
}

impl From<&JobKey> for wire::JobKey {
    fn from(key: &JobKey) -> Self {
        wire::JobKey {
            cluster: key.cluster.clone(),
            role: key.role.clone(),
            environment: key.environment.clone(),
            name: key.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_what_they_write() {
        let key: JobKey = "west/www-data/prod/hello.world_1".parse().unwrap();
        assert_eq!(key.to_string(), "west/www-data/prod/hello.world_1");
        assert_eq!(JobKey::try_from(&wire::JobKey::from(&key)), Ok(key));
        for bad in ["", "a/b/c", "a/b/c/d/e", "a//c/d", "a/../c/d", "a/b c/d/e", "a/b/c/é"] {
            assert!(bad.parse::<JobKey>().is_err(), "{bad}");
        }
    }
}
