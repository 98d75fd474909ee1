//! The command line of `borealis-scheduler`.

use std::path::PathBuf;

/// A scheduler replica of Borealis.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "borealis-scheduler")]
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
    /// Timers: `fast` (NVMe, one datacentre), `lan`, `wan`.
    #[arg(long, default_value = "lan")]
    pub profile: String,
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
}
