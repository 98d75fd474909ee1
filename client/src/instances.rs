//! Which instances of a job: `KEY/0,2-4`. Pure.

use proto::JobKey;

use crate::error::{Error, Kind};

/// Instances one command may name.
pub(crate) const INSTANCES_MAX: usize = 10_000;

/// A job, and the instances of it that are meant; none named means none given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Selection {
    /// The job.
    pub(crate) job: JobKey,
    /// Sorted, each once.
    pub(crate) instances: Vec<u32>,
}

impl Selection {
    /// Reads `CLUSTER/ROLE/ENV/NAME` or `CLUSTER/ROLE/ENV/NAME/INSTANCES`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        match text.match_indices('/').nth(3) {
            None => Ok(Selection { job: text.parse()?, instances: Vec::new() }),
            Some((at, _)) => {
                Ok(Selection { job: text[..at].parse()?, instances: instances(&text[at + 1..])? })
            }
        }
    }
}

/// Reads `0,2-4`.
pub(crate) fn instances(text: &str) -> Result<Vec<u32>, Error> {
    let bad = |why: String| {
        Error::new(Kind::InvalidParameter, format!("the instances {text:?} {why}"))
            .hint("write them like 0,2-4: numbers from 0, and ranges with both ends")
    };
    let number =
        |text: &str| text.parse::<u32>().map_err(|_| bad(format!("have {text:?} where a number belongs")));
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(bad(format!("have the range {part:?}, which ends before it begins")));
        }
        if (last - first) as usize >= INSTANCES_MAX - all.len() {
            return Err(bad(format!("are more than {INSTANCES_MAX}; use several commands")));
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Writes sorted instances as they are read: `0,2-4`.
pub(crate) fn ranges(instances: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &instance in instances {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(instance) => *last = instance,
            _ => parts.push((instance, instance)),
        }
    }
    let part =
        |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.into_iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_read_what_they_write() {
        for (text, want) in [
            ("0", "0"),
            ("3,1,2", "1-3"),
            ("0,2-4", "0,2-4"),
            ("1-3,2-5", "1-5"),
            ("4294967295", "4294967295"),
        ] {
            assert_eq!(ranges(&instances(text).unwrap()), want, "{text}");
        }
        for bad in ["", "a", "1-", "-1", "3-1", "1,,2", "0-4294967295", "0-9999,10000", "1.5"] {
            assert_eq!(instances(bad).unwrap_err().exit_code(), 6, "{bad}");
        }
    }

    #[test]
    fn a_selection_is_a_key_and_maybe_instances() {
        let parsed = Selection::parse("west/www-data/prod/web/1-2").unwrap();
        assert_eq!(
            (parsed.job.to_string().as_str(), &parsed.instances[..]),
            ("west/www-data/prod/web", &[1, 2][..])
        );
        assert_eq!(Selection::parse("west/www-data/prod/web").unwrap().instances, [0u32; 0]);
        for bad in ["west/www-data/prod", "west/www-data/prod/web/", "west//prod/web/1", "a/b/c/d/1/2"] {
            assert_eq!(Selection::parse(bad).unwrap_err().exit_code(), 6, "{bad}");
        }
    }
}
