//! Where the cluster is: `--addr` or `BOREALIS_ADDR`, else the user's `clusters.json`, else the local `dev` cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind};

/// Name of the cluster that `borealis dev` starts.
pub(crate) const DEV_CLUSTER: &str = "devcluster";
/// First API port of the cluster that `borealis dev` starts.
pub(crate) const DEV_PORT: u16 = 8081;
/// Addresses tried for one cluster.
const ADDRESSES_MAX: usize = 64;

/// `~/.config/borealis/clusters.json`, if there is a home.
pub(crate) fn clusters_file() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = std::env::var_os("HOME").filter(|dir| !dir.is_empty());
    Some(config.or_else(|| home.map(|home| Path::new(&home).join(".config")))?.join("borealis/clusters.json"))
}

/// Reads the user's clusters; a missing file is an empty one.
pub(crate) fn read_clusters(file: &Path) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(why) => {
            return Err(Error::new(
                Kind::InvalidParameter,
                format!("{} cannot be read: {why}", file.display()),
            ));
        }
    };
    serde_json::from_str(&text).map_err(|why| {
        Error::new(Kind::InvalidParameter, format!("{} is not valid: {why}", file.display()))
            .hint(r#"it reads like {"west": ["10.0.0.1:8081", "10.0.0.2:8081", "10.0.0.3:8081"]}"#)
    })
}

/// The addresses to try, in order. `cluster` is the one meant, where the command says so.
pub(crate) fn choose(
    given: &[String],
    cluster: Option<&str>,
    file: Option<&Path>,
) -> Result<Vec<String>, Error> {
    let mut addresses = given.to_vec();
    if addresses.is_empty()
        && let Some(file) = file
    {
        let clusters = read_clusters(file)?;
        addresses = match cluster {
            None if clusters.len() == 1 => clusters.into_values().next().unwrap_or_default(),
            None => Vec::new(),
            Some(name) => match clusters.get(name) {
                Some(addresses) => addresses.clone(),
                None if clusters.is_empty() || name == DEV_CLUSTER => Vec::new(),
                None => {
                    let known = clusters.into_keys().collect::<Vec<_>>().join(", ");
                    return Err(Error::new(
                        Kind::InvalidParameter,
                        format!("the cluster `{name}` is not in {}, which has {known}", file.display()),
                    )
                    .hint("check the name, add the cluster there, or name its replicas with --addr"));
                }
            },
        };
    }
    if addresses.is_empty() {
        addresses = (DEV_PORT..DEV_PORT + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    }
    addresses.truncate(ADDRESSES_MAX);
    addresses.iter().map(|address| check(address)).collect()
}

/// An address without a scheme: `HOST:PORT`.
pub(crate) fn check(address: &str) -> Result<String, Error> {
    let bare = address.trim().trim_start_matches("http://").trim_end_matches('/');
    let ok = bare.rsplit_once(':').is_some_and(|(host, port)| {
        let host_ok =
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._[]:".contains(c));
        host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if ok {
        Ok(bare.to_owned())
    } else {
        Err(Error::new(Kind::InvalidParameter, format!("the address {address:?} is not one"))
            .hint("it reads HOST:PORT, as in 127.0.0.1:8081; several are separated by commas"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose_in(text: &str, given: &[&str], cluster: Option<&str>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clusters.json");
        std::fs::write(&file, text).unwrap();
        let given: Vec<String> = given.iter().map(|&a| a.to_owned()).collect();
        match choose(&given, cluster, Some(&file)) {
            Ok(addresses) => addresses.join(" "),
            Err(error) => format!("exit {}", error.exit_code()),
        }
    }

    #[test]
    fn the_nearest_word_wins() {
        let (two, local) =
            (r#"{"west": ["w:1", "w:2"], "east": ["e:1"]}"#, "127.0.0.1:8081 127.0.0.1:8082 127.0.0.1:8083");
        for (text, given, cluster, want) in [
            (two, &["a:1"][..], Some("west"), "a:1"),
            (two, &[], Some("west"), "w:1 w:2"),
            (two, &[], Some("north"), "exit 6"),
            (two, &[], Some("devcluster"), local),
            (two, &[], None, local),
            (r#"{"west": ["w:1"]}"#, &[], None, "w:1"),
            ("{}", &[], Some("west"), local),
            ("[]", &[], Some("west"), "exit 6"),
            ("{}", &["http://a:80/", "[::1]:8081"], None, "a:80 [::1]:8081"),
            ("{}", &["a"], None, "exit 6"),
            ("{}", &["a:99999"], None, "exit 6"),
            ("{}", &["a b:1"], None, "exit 6"),
        ] {
            assert_eq!(choose_in(text, given, cluster), want, "{text} {given:?} {cluster:?}");
        }
        assert_eq!(choose(&[], Some("x"), Some(Path::new("/nonexistent/clusters.json"))).unwrap().len(), 3);
    }
}
