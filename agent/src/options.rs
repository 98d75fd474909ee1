//! The command line, and what it means.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use proto::wire;

use crate::simulated::options::Simulated;

/// What was typed.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "borealis-agent",
    version,
    about = "Runs the tasks of one host and reports what became of them"
)]
pub struct Options {
    /// Directory of the agent's journal and its tasks' sandboxes; one agent per directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The host's name, unique in the cluster; also its attribute `host`
    #[arg(long, value_name = "HOST", value_parser = host_name)]
    pub name: String,
    /// Addresses of scheduler replicas, in any order
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', required = true, value_parser = address)]
    pub schedulers: Vec<String>,
    /// Where the agent's own pages are served; port 0 picks one. The real address is written to DIR/address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub http: SocketAddr,
    /// Something that constraints of jobs can ask for; may be given often, also with one name and several values
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, String)>,
    /// Cores to offer, such as 3.5 [default: all]
    #[arg(long, value_name = "N", value_parser = cpu_milli)]
    pub cpus: Option<u64>,
    /// Memory to offer, in MiB [default: all but 1 GiB, or half of a small machine]
    #[arg(long, value_name = "N")]
    pub ram_mib: Option<u64>,
    /// Disk to offer, in MiB [default: all of DIR's file system but 5 GiB, or half of a small one]
    #[arg(long, value_name = "N")]
    pub disk_mib: Option<u64>,
    /// GPUs to offer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpus: u32,
    /// Ports to offer, both ends included; may be given often
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports, default_value = "31000-32000")]
    pub ports: Vec<wire::PortRange>,
    /// The program that runs one task [default: borealis-executor beside this program]
    #[arg(long, value_name = "PATH")]
    pub executor: Option<PathBuf>,
    /// Whether tasks are held by cgroups and run as the unix user of their role, where the host can do that
    #[arg(long, value_enum, default_value = "auto")]
    pub isolation: Isolation,
    /// Sandboxes of ended tasks that are kept, at most
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub keep_sandboxes: usize,
    /// How long the sandbox of an ended task is kept, at most
    #[arg(long, value_name = "HOURS", default_value_t = 168)]
    pub keep_sandbox_hours: u64,
    /// For hosts that only pretend.
    #[command(flatten)]
    pub simulated: Simulated,
}

/// Whether to isolate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Isolation {
    /// As far as the host can.
    Auto,
    /// Tasks run as the user of the agent, without limits.
    None,
}

fn host_name(text: &str) -> Result<String, String> {
    proto::job_key::check_part("the name", text).map(|()| text.to_owned()).map_err(|bad| bad.to_string())
}

fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(port))) if !host.is_empty() && port > 0 => Ok(text.to_owned()),
        _ => Err("an address reads HOST:PORT, such as scheduler-1:8081".into()),
    }
}

fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.into(), value.into())),
        _ => Err("an attribute reads NAME=VALUE, such as rack=r7".into()),
    }
}

fn cpu_milli(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(cores) if (0.001..=1e6).contains(&cores) => Ok((cores * 1000.0).floor() as u64),
        _ => Err("cores are a number above zero, such as 4 or 0.5".into()),
    }
}

fn ports(text: &str) -> Result<wire::PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if 0 < first && first <= last => {
            Ok(wire::PortRange { first: first.into(), last: last.into() })
        }
        _ => Err("ports read FIRST-LAST, such as 31000-32000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_they_say() {
        assert_eq!(cpu_milli("0.5"), Ok(500));
        assert_eq!(cpu_milli("4"), Ok(4000));
        assert_eq!(ports("31000-32000"), Ok(wire::PortRange { first: 31000, last: 32000 }));
        assert_eq!(ports("80"), Ok(wire::PortRange { first: 80, last: 80 }));
        assert_eq!(attribute("a=b=c"), Ok(("a".into(), "b=c".into())));
        for bad in ["", "0", "-1", "x", "inf", "nan", "1e9"] {
            assert!(cpu_milli(bad).is_err(), "{bad}");
        }
        for bad in ["", "0-1", "9-8", "1-70000", "a-b"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
        for bad in ["", "=", "a=", "=b", "a"] {
            assert!(attribute(bad).is_err(), "{bad}");
        }
    }
}
