//! A replica of the register map as a process: its command line, how it enters a cluster, what it serves.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use replication::{Identity, Options, Profile, Replica};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use super::machine::Registers;
use super::service::Service;
use super::wire::AdmitRequest;
use super::wire::registers_client::RegistersClient;
use super::wire::registers_server::RegistersServer;

/// How often the metrics' samples are folded together, which bounds their memory.
const FOLD_EVERY: Duration = Duration::from_secs(5);
/// How often a joining replica asks.
const JOIN_EVERY: Duration = Duration::from_millis(100);

/// One replica of a map of registers. For tests; not shipped.
#[derive(Parser, Debug)]
#[command(name = "registers")]
pub struct Arguments {
    /// Data directory.
    #[arg(long)]
    pub dir: PathBuf,
    /// HOST:PORT where clients reach it.
    #[arg(long)]
    pub api: String,
    /// HOST:PORT where other replicas reach it.
    #[arg(long)]
    pub raft: String,
    /// HOST:PORT where it listens for other replicas, if they reach it elsewhere.
    #[arg(long)]
    pub listen_raft: Option<String>,
    /// Begin a cluster, if the directory belongs to none.
    #[arg(long)]
    pub init: bool,
    /// Join the cluster that HOST:PORT (an --api) belongs to, if the directory belongs to none.
    #[arg(long)]
    pub join: Option<String>,
    /// Raft timers: `fast`, `lan` or `wan`.
    #[arg(long, default_value = "fast")]
    pub profile: Profile,
    /// Entries between two snapshots.
    #[arg(long)]
    pub snapshot_entries: Option<u64>,
    /// Reads are not linearizable, so that a test can prove that this is noticed.
    #[arg(long)]
    pub stale_reads: bool,
    /// Free bytes of the disk below which it takes no entries.
    #[arg(long)]
    pub disk_reserve: Option<u64>,
    /// Bytes of a segment of the log.
    #[arg(long)]
    pub segment_bytes: Option<u64>,
}

impl Arguments {
    fn options(&self) -> Options {
        let mut options = Options::new(&self.dir, "registers", &self.raft, &self.api, self.profile);
        options.accept_slow_disk = true;
        options.disk_reserve = self.disk_reserve;
        options.segment_bytes = self.segment_bytes.unwrap_or(options.segment_bytes);
        if let Some(entries) = self.snapshot_entries {
            options.snapshot_entries = entries;
            options.keep_entries = entries / 10;
        }
        options
    }
}

/// Runs until it cannot go on.
pub async fn run(arguments: Arguments) -> Result<()> {
    let metrics = recorder()?;
    let options = arguments.options();
    if replication::identity(&options.dir)?.is_none() {
        match &arguments.join {
            Some(seed) => enter(&options, seed).await?,
            None if arguments.init => drop(replication::init(&options).await?),
            None => bail!("{} belongs to no cluster; say --init or --join", options.dir.display()),
        }
    }
    let replica = Replica::<Registers>::start(options.clone()).await?;
    let raft = listen(arguments.listen_raft.as_ref().unwrap_or(&options.raft_address)).await?;
    let api = listen(&options.api_address).await?;
    let service = RegistersServer::new(Service {
        replica: replica.clone(),
        stale_reads: arguments.stale_reads,
        metrics: metrics.clone(),
    });
    let raft = tokio::spawn(Server::builder().add_service(replica.raft_service()).serve_with_incoming(raft));
    let api = tokio::spawn(Server::builder().add_service(service).serve_with_incoming(api));
    let fold = async {
        loop {
            tokio::time::sleep(FOLD_EVERY).await;
            metrics.run_upkeep();
        }
    };
    tokio::select! {
        why = replica.stopped() => bail!("the replica stopped: {why}"),
        ended = raft => bail!("nobody serves other replicas any more: {ended:?}"),
        ended = api => bail!("nobody serves clients any more: {ended:?}"),
        () = fold => unreachable!("it loops"),
    }
}

fn recorder() -> Result<PrometheusHandle> {
    let buckets = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &buckets)?
        .install_recorder()?;
    replication::telemetry::describe();
    Ok(recorder)
}

async fn listen(address: &str) -> Result<TcpIncoming> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    Ok(TcpIncoming::from(listener).with_nodelay(Some(true)))
}

/// Joins through any replica that answers at `seed`, then at the leader it names.
async fn enter(options: &Options, seed: &str) -> Result<()> {
    let asked = AdmitRequest {
        store_uuid: replication::store_uuid(&options.dir)?,
        raft_address: options.raft_address.clone(),
        api_address: options.api_address.clone(),
    };
    let mut at = seed.to_owned();
    let mut why = String::new();
    for _ in 0..300 {
        match client(&at)?.admit(asked.clone()).await {
            Ok(admitted) => {
                let admitted = admitted.into_inner();
                let identity = Identity {
                    cluster_id: admitted.cluster_id,
                    node_id: admitted.node_id,
                    store_uuid: asked.store_uuid,
                    cluster: options.cluster.clone(),
                    lineage_id: admitted.lineage_id,
                    epoch: admitted.epoch,
                };
                replication::adopt(options, &identity).await?;
                return Ok(());
            }
            Err(refused) => {
                let leader = refused.metadata().get("leader").and_then(|leader| leader.to_str().ok());
                at = leader.unwrap_or(seed).to_owned();
                why = refused.to_string();
            }
        }
        tokio::time::sleep(JOIN_EVERY).await;
    }
    bail!("nobody admitted this replica: {why}")
}

/// A client of one replica, which connects when it is used.
pub fn client(address: &str) -> Result<RegistersClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is not HOST:PORT"))?
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true);
    Ok(RegistersClient::new(endpoint.connect_lazy()))
}
