//! Wiring: opens the ports, starts the replica once it belongs to a cluster, and stops in the right order.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use axum::serve::{Listener, ListenerExt as _};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use rpc::agents_server::AgentsServer;
use rpc::borealis_server::BorealisServer;
use rpc::cluster_server::ClusterServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, watch};
use tonic::Status;

use crate::api::cluster::Operators;
use crate::api::jobs::Jobs;
use crate::clocks::Clocks;
use crate::gateway::Gateway;
use crate::limits::{ANSWER_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::options::Options;
use crate::peers::Peers;
use crate::route::Route;
use crate::running::{Replica, Running};
use crate::{backups, leader, pages, route, telemetry};

/// This process: what it was told, and what runs once it belongs to a cluster.
#[derive(Debug)]
pub struct Node {
    /// The command line.
    pub options: Options,
    /// Connections to other replicas.
    pub peers: Peers,
    /// Held while the process becomes a member, so that it happens once.
    pub birth: Mutex<()>,
    running: OnceLock<Running>,
    started: Notify,
    raft_listener: std::sync::Mutex<Option<TcpListener>>,
}

impl Node {
    /// The running parts, or a refusal that says how a replica becomes a member.
    #[allow(clippy::result_large_err, reason = "tonic's own error type, at the door")]
    pub fn running(&self) -> Result<Running, Status> {
        self.running.get().cloned().ok_or_else(|| {
            Status::unavailable(
                "this replica belongs to no cluster yet; run `borealis cluster init` (once, on one replica) or `borealis cluster join`",
            )
        })
    }

    /// What replication is started with.
    pub fn replication(&self) -> anyhow::Result<replication::Options> {
        let profile =
            self.options.profile.parse().map_err(|why: String| anyhow::anyhow!("--profile: {why}"))?;
        let mut options = replication::Options::new(
            self.options.dir.clone(),
            &self.options.cluster,
            self.options.raft_address(),
            self.options.api_address(),
            profile,
        );
        options.accept_slow_disk = self.options.accept_slow_disk;
        options.disk_reserve = self.options.disk_reserve_mib.map(|mib| mib << 20);
        options.dead_after = self.options.remove_dead_after_s.map(Duration::from_secs);
        Ok(options)
    }

    /// Starts the replica; its directory has an identity by now.
    pub async fn start(&self) -> anyhow::Result<Running> {
        if let Some(running) = self.running.get() {
            return Ok(running.clone());
        }
        let replica = Replica::start(self.replication()?).await?;
        let listener = self.raft_listener.lock().unwrap_or_else(|broken| broken.into_inner()).take();
        let listener = listener.context("the raft port was already taken over; restart this replica")?;
        let raft = tonic::service::Routes::new(replica.raft_service()).into_axum_router();
        tokio::spawn(async move {
            if let Err(why) = axum::serve(prompt(listener), raft).await {
                tracing::error!(%why, "the raft port stopped serving");
            }
        });
        let (session_writer, sessions) = watch::channel(None);
        let (route_writer, routes) = watch::channel(Route::Nowhere);
        let clocks = Clocks::default();
        let running = Running {
            replica: replica.clone(),
            peers: self.peers.clone(),
            sessions,
            routes,
            clocks: clocks.clone(),
        };
        tokio::spawn(leader::run(replica.clone(), clocks.clone(), self.peers.clone(), session_writer));
        tokio::spawn(route::keep(
            replica.clone(),
            self.peers.clone(),
            running.sessions.clone(),
            route_writer,
        ));
        tokio::spawn(backups::keep(replica.clone(), self.options.clone()));
        tokio::spawn(freeze_when_split(replica.split(), running.sessions.clone()));
        tokio::spawn(clocks.keep(replica, self.peers.clone()));
        let running = self.running.get_or_init(|| running).clone();
        self.started.notify_one();
        Ok(running)
    }
}

fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &telemetry::SECONDS_BUCKETS)?
        .install_recorder()
        .context("installing the metrics recorder")?;
    telemetry::describe();
    replication::telemetry::describe();
    Ok(recorder)
}

/// While the replicas' rows differ and nobody knows who is right, the leader decides nothing; a person thaws.
async fn freeze_when_split(
    mut split: watch::Receiver<bool>,
    sessions: watch::Receiver<Option<Arc<leader::Session>>>,
) {
    while split.wait_for(|is_split| *is_split).await.is_ok() {
        let session = sessions.borrow().clone();
        if let Some(session) = session {
            let frozen = session.propose(engine::Op::Freeze { frozen: true }, None).await;
            tracing::error!(?frozen, "the replicas' rows differ: all decisions are stopped");
        }
        if split.changed().await.is_err() {
            return;
        }
    }
}

async fn listen(flag: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} ({flag}): is another process using it? choose another address or stop that process")
    })
}

/// Small answers leave at once: with Nagle's delay, each would wait for the other end's late acknowledgement, up to
/// 40 ms, which is as long as a heartbeat of profile `fast`.
fn prompt(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = SocketAddr> {
    listener.tap_io(|stream| {
        if let Err(why) = stream.set_nodelay(true) {
            tracing::debug!(%why, "a connection stays slow");
        }
    })
}

/// How long stopping in order may take.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Runs the process until it is told to stop.
pub async fn run(options: Options) -> anyhow::Result<()> {
    options.check().map_err(anyhow::Error::msg)?;
    let metrics = install_metrics()?;
    let api = listen("--api", &options.api).await?;
    let raft = listen("--raft", &options.raft).await?;
    let node = Arc::new(Node {
        options,
        peers: Peers::default(),
        birth: Mutex::default(),
        running: OnceLock::new(),
        started: Notify::new(),
        raft_listener: std::sync::Mutex::new(Some(raft)),
    });
    if replication::identity(&node.options.dir)?.is_some() {
        node.start().await?;
    } else {
        tracing::info!(dir = %node.options.dir.display(), "empty directory: waiting for `borealis cluster init` or `join`");
    }
    let services = tonic::service::Routes::new(limited(BorealisServer::new(Jobs::new(node.clone()))))
        .add_service(limited(ClusterServer::new(Operators::new(node.clone()))))
        .add_service(limited(AgentsServer::new(Gateway::new(node.clone()))));
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    let router = pages::add(services.into_axum_router(), node.clone(), metrics);
    tracing::info!(api = node.options.api, raft = node.options.raft, "serving");
    tokio::select! {
        served = axum::serve(prompt(api), router) => served.context("serving the API port")?,
        () = told_to_stop() => tracing::info!("told to stop"),
        why = broken(&node) => anyhow::bail!("this replica cannot go on: {why}"),
    }
    if let Ok(running) = node.running() {
        tokio::select! {
            () = running.replica.shutdown() => {}
            () = tokio::time::sleep(STOP_MAX) => tracing::warn!("stopping took too long; the log recovers at the next start"),
            () = told_to_stop() => tracing::warn!("told to stop again; the log recovers at the next start"),
        }
    }
    Ok(())
}

/// The services share one limit; tonic gives each its own setter.
trait Limited {
    fn limit(self) -> Self;
}
macro_rules! limited {
    ($($server:ident<$inner:ty>),+) => {$(
        impl Limited for $server<$inner> {
            fn limit(self) -> Self {
                self.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(ANSWER_BYTES_MAX)
            }
        }
    )+};
}
limited!(BorealisServer<Jobs>, ClusterServer<Operators>, AgentsServer<Gateway>);

fn limited<S: Limited>(service: S) -> S {
    service.limit()
}

/// Resolves with the reason when the replica cannot go on.
async fn broken(node: &Node) -> String {
    loop {
        match node.running() {
            Ok(running) => return running.replica.stopped().await,
            Err(_) => node.started.notified().await,
        }
    }
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
