//! The command line of `borealis-scheduler`.

use std::net::IpAddr;
use std::path::PathBuf;

/// A scheduler replica of Borealis.
#[derive(clap::Parser, Clone, Debug)]
#[command(
    name = "borealis-scheduler",
    after_help = "Offline, on a data directory: borealis-scheduler inspect|restore|recover|skip-entry --help"
)]
pub struct Options {
    /// Directory of this replica's log, rows and identity.
    #[arg(long)]
    pub dir: PathBuf,
    /// Name of the cluster, the first part of its job keys.
    #[arg(long)]
    pub cluster: String,
    /// HOST:PORT for users, agents, web pages and metrics.
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub api: String,
    /// HOST:PORT for the other replicas' consensus traffic.
    #[arg(long, default_value = "127.0.0.1:8091")]
    pub raft: String,
    /// HOST:PORT under which others reach `--api`, where it differs.
    #[arg(long)]
    pub advertise_api: Option<String>,
    /// HOST:PORT under which other replicas reach `--raft`, where it differs.
    #[arg(long)]
    pub advertise_raft: Option<String>,
    /// Timers: `fast` (NVMe, one datacentre), `lan`, `wan`, or `custom:HEARTBEAT,SHORTEST,LONGEST` in milliseconds, the
    /// latter two of an election's timeout; the same on all replicas.
    #[arg(long, default_value = "lan")]
    pub profile: String,
    /// Start even if the disk syncs too slowly for the profile. For tests and trials: elections may follow.
    #[arg(long)]
    pub accept_slow_disk: bool,
    /// Where this replica writes backups by the clock; none are taken without it. Others may write there too: each removes
    /// only its own.
    #[arg(long)]
    pub backup_dir: Option<PathBuf>,
    /// Seconds between two backups; at the start one is taken if the newest is older.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub backup_every_s: u64,
    /// How many of its backups are kept.
    #[arg(long, default_value_t = 24)]
    pub backup_keep: usize,
    /// A shell command to run after each backup, whose directory is in BOREALIS_BACKUP.
    #[arg(long, value_name = "COMMAND", requires = "backup_dir")]
    pub backup_command: Option<String>,
    /// Free disk space, in MiB, below which this replica gives up leadership and takes no entries until twice as much
    /// is free; default: 5% of the disk, but at least 1 GiB and at most 10.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub disk_reserve_mib: Option<u64>,
    /// Seconds after which a replica that does not answer is removed: a voter once another has taken its place and the
    /// rest are an odd number, three at least; a learner always. Most voters must answer. Never without it.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(60..))]
    pub remove_dead_after_s: Option<u64>,
    /// `text` or `json`.
    #[arg(long, default_value = "text")]
    pub log_format: String,
}

impl Options {
    /// Where others reach the API.
    pub fn api_address(&self) -> &str {
        self.advertise_api.as_deref().unwrap_or(&self.api)
    }

    /// Where other replicas reach this one.
    pub fn raft_address(&self) -> &str {
        self.advertise_raft.as_deref().unwrap_or(&self.raft)
    }

    /// Refuses a profile that is none, and addresses that others cannot use: membership would record them for good.
    pub fn check(&self) -> Result<(), String> {
        self.profile.parse::<replication::Profile>().map_err(|why| format!("--profile: {why}"))?;
        for (flag, address) in [("api", self.api_address()), ("raft", self.raft_address())] {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            if host.is_empty()
                || ip.is_ok_and(|ip| ip.is_unspecified())
                || !port.parse::<u16>().is_ok_and(|p| p > 0)
            {
                return Err(format!(
                    "nobody can reach this replica at {address}: say under which address others do, as in --advertise-{flag} 10.0.0.1:{}",
                    if flag == "api" { 8081 } else { 8091 }
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_command_after_backups_needs_backups() {
        let parse = |words: &str| {
            let all = format!("borealis-scheduler --dir d --cluster c --backup-command true {words}");
            Options::try_parse_from(all.split_whitespace())
        };
        assert!(parse("--backup-dir b").is_ok());
        assert!(parse("").unwrap_err().to_string().contains("--backup-dir"));
    }

    #[test]
    fn an_address_that_nobody_can_reach_is_refused() {
        for (words, flag) in [
            ("", None),
            ("--api 0.0.0.0:8081", Some("--advertise-api")),
            ("--api [::]:8081", Some("--advertise-api")),
            ("--api :8081", Some("--advertise-api")),
            ("--api 127.0.0.1:0", Some("--advertise-api")),
            ("--api 127.0.0.1", Some("--advertise-api")),
            ("--raft 0.0.0.0:8091", Some("--advertise-raft")),
            ("--api 0.0.0.0:8081 --advertise-api 0.0.0.0:8081", Some("--advertise-api")),
            ("--api 0.0.0.0:8081 --advertise-api a.example:80", None),
            ("--raft [::]:8091 --advertise-raft [2001:db8::1]:8091", None),
        ] {
            let all = format!("borealis-scheduler --dir d --cluster c {words}");
            let checked = Options::parse_from(all.split_whitespace()).check();
            match flag {
                None => assert_eq!(checked, Ok(()), "{words}"),
                Some(flag) => assert!(checked.unwrap_err().contains(flag), "{words}"),
            }
        }
    }
}
