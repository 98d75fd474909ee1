//! What a task makes believe: read from its config, once per config.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::wire;

/// Configs that are kept, by hash. Those of no task make room for new ones.
const CONFIGS_MAX: usize = 65_536;

/// What the tasks of one config make believe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pretence {
    /// Job key.
    pub job: String,
    /// When it ends and what it has reserved.
    pub wire: wire::Pretence,
}

impl Pretence {
    fn of(config: &wire::TaskConfig) -> Self {
        let key = config.job.clone().unwrap_or_default();
        let job = format!("{}/{}/{}/{}", key.cluster, key.role, key.environment, key.name);
        let spec = config.task.as_ref();
        let need = spec.and_then(|spec| spec.resources).unwrap_or_default();
        let line = spec.and_then(|spec| spec.processes.first()).map_or("", |process| &process.cmdline);
        let ending = ending(line);
        let (after_ms, exit_code) = ending.unwrap_or_default();
        let wire = wire::Pretence {
            ends: ending.is_some(),
            after_ms,
            exit_code,
            cpu_milli: need.cpu_milli,
            ram_mib: need.ram_mib,
            revocable: config.tier == "revocable",
        };
        Pretence { job, wire }
    }
}

/// After how long a command line ends and with which exit code, if it is one that pretends to.
fn ending(line: &str) -> Option<(u64, u32)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["true"] => Some((0, 0)),
        ["false"] => Some((0, 1)),
        ["exit", code] => Some((0, u32::from(code.parse::<u8>().ok()?))),
        ["sleep", seconds] => {
            let seconds = seconds.parse::<f64>().ok().filter(|seconds| (0.0..1e9).contains(seconds))?;
            Some(((seconds * 1000.0) as u64, 0))
        }
        _ => None,
    }
}

/// The configs of all hosts, by hash.
#[derive(Debug, Default)]
pub struct Configs(Mutex<HashMap<[u8; 32], Arc<Pretence>>>);

impl Configs {
    fn all(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Pretence>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what is what its hash says.
    pub fn add(&self, configs: &[wire::StoredConfig]) {
        if configs.is_empty() {
            return;
        }
        let mut all = self.all();
        for stored in configs {
            let (Ok(hash), Some(config)) = (<[u8; 32]>::try_from(&stored.hash[..]), &stored.config) else {
                continue;
            };
            if all.contains_key(&hash) {
                continue;
            }
            if proto::config_hash(config) != hash {
                tracing::error!("a task config is not what its hash says; ignored");
                continue;
            }
            if all.len() >= CONFIGS_MAX {
                all.retain(|_, pretence| Arc::strong_count(pretence) > 1);
            }
            if all.len() < CONFIGS_MAX {
                all.insert(hash, Arc::new(Pretence::of(config)));
            }
        }
    }

    /// What the tasks of this config make believe, if it has come.
    pub fn get(&self, hash: &[u8]) -> Option<Arc<Pretence>> {
        let hash = <[u8; 32]>::try_from(hash).ok()?;
        self.all().get(&hash).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_command_lines_end() {
        for (line, want) in [
            ("true", Some((0, 0))),
            (" false ", Some((0, 1))),
            ("exit 3", Some((0, 3))),
            ("sleep 1.5", Some((1500, 0))),
            ("sleep 0", Some((0, 0))),
            ("exec sleep 1", None),
            ("sleep infinity", None),
            ("sleep -1", None),
            ("sleep nan", None),
            ("sleep 1; exit 3", None),
            ("exit 256", None),
            ("exit", None),
            ("", None),
        ] {
            assert_eq!(ending(line), want, "{line}");
        }
    }

    #[test]
    fn a_config_is_known_by_its_hash_and_only_by_that() {
        let config = wire::TaskConfig { tier: "revocable".into(), ..Default::default() };
        let hash = proto::config_hash(&config);
        let configs = Configs::default();
        let stored =
            |hash: &[u8]| wire::StoredConfig { hash: hash.to_vec().into(), config: Some(config.clone()) };
        configs.add(&[stored(&[7; 32]), stored(&[7; 3])]);
        assert_eq!(configs.get(&[7; 32]), None);
        configs.add(&[stored(&hash)]);
        assert!(configs.get(&hash).is_some_and(|pretence| pretence.wire.revocable));
        assert_eq!(configs.get(&hash[..31]), None);
    }
}
