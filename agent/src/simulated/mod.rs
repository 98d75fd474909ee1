//! Many hosts in one process whose tasks only pretend to run: for demonstrations and measurements.
//!
//! Everything but the tasks is real. Each host has its own stream (many share a connection), its own identity, fence,
//! generations and reports, by the same rules and the same pieces as a real agent: [`crate::link`], [`crate::plan`],
//! [`crate::standing`]. All share one journal and its syncs. A task goes from ASSIGNED to STARTING to RUNNING, and to
//! KILLED when it is told to end. Its first process says what else it pretends: `true`, `false`, `exit N` and
//! `sleep SECONDS` end by themselves; any other command line runs until it is killed.
//!
//! What is where: `pretence` reads that from configs, `host` is one host and pure, `voice` speaks for it, `journal`
//! writes for all. There are no threads per host and nothing is allocated per task but its place in a list.

pub mod host;
pub mod journal;
pub mod options;
pub mod pages;
pub mod pretence;
mod voice;
pub mod word;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use proto::wire;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::link::{self, Lines};
use crate::options::Options;
use crate::telemetry;
use host::{Host, Met};
use journal::{Journal, Keeper};
use pretence::Configs;
use voice::Voice;

/// Hosts that share a connection. A scheduler lets a connection have 200 streams at once.
const HOSTS_PER_LINE: u32 = 125;

/// Why the agent cannot begin, or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing can be remembered any more, so nothing may be started.
    #[error(transparent)]
    Journal(#[from] crate::journal::Error),
    /// The journal speaks of a host beyond the last.
    #[error(
        "the journal in {dir} speaks of host number {named}, and --simulated asks for {hosts} hosts, which would leave it without a voice; ask for as many as before or more, or choose another --dir"
    )]
    Fewer {
        /// Of the journal.
        dir: String,
        /// Counted from 0.
        named: u32,
        /// Asked for.
        hosts: u32,
    },
    /// No thread for the journal.
    #[error("cannot start the journal's thread: {0}")]
    Thread(std::io::Error),
}

/// Metrics, looked up once.
struct Tally {
    live: metrics::Gauge,
    ended: metrics::Gauge,
    waiting: metrics::Gauge,
    connected: metrics::Gauge,
    launches: metrics::Counter,
    stale: metrics::Counter,
}

impl Tally {
    fn new() -> Self {
        Tally {
            live: metrics::gauge!(telemetry::TASKS, "state" => "live"),
            ended: metrics::gauge!(telemetry::TASKS, "state" => "ended"),
            waiting: metrics::gauge!(telemetry::REPORTS_WAITING),
            connected: metrics::gauge!(telemetry::CONNECTED),
            launches: metrics::counter!(telemetry::LAUNCHES),
            stale: metrics::counter!(telemetry::STARTS_STALE),
        }
    }
}

/// What people see of one host.
#[derive(Debug, Default)]
pub struct HostView {
    host_id: AtomicU64,
    live: AtomicUsize,
    ended: AtomicUsize,
    registered: AtomicBool,
}

/// What all hosts of the process have in common.
pub struct Fleet {
    name: String,
    address: String,
    capacity: wire::Resources,
    ports: Vec<wire::PortRange>,
    attributes: Vec<(String, String)>,
    start_ms: u64,
    use_percent: u64,
    journal: Arc<Journal>,
    configs: Configs,
    tally: Tally,
    views: Vec<HostView>,
    begun: Instant,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("name", &self.name).field("hosts", &self.views.len()).finish()
    }
}

impl Fleet {
    /// What the host with this index is and offers.
    fn spec(&self, index: u32) -> wire::HostSpec {
        let name = self.name_of(index);
        let made_up = [
            ("host", name.clone()),
            ("rack", format!("r{:04}", index / 2)),
            ("zone", format!("z{}", index / 2 % 3)),
            ("kind", if index.is_multiple_of(2) { "compute" } else { "storage" }.to_owned()),
            ("year", (2021 + index % 4).to_string()),
            ("simulated", "true".to_owned()),
        ];
        let given = self.attributes.iter().filter(|(name, _)| name != "host");
        let given: Vec<_> = given.map(|(name, value)| (name.as_str(), value.clone())).collect();
        let made_up = made_up.into_iter().filter(|(name, _)| given.iter().all(|(other, _)| other != name));
        let attribute = |(name, value): (&str, String)| wire::Attribute { name: name.to_owned(), value };
        wire::HostSpec {
            name,
            address: self.address.clone(),
            capacity: Some(self.capacity),
            ports: self.ports.clone(),
            attributes: made_up.map(attribute).chain(given.iter().cloned().map(attribute)).collect(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    fn name_of(&self, index: u32) -> String {
        format!("{}-{index}", self.name)
    }
}

/// An agent of simulated hosts that has read its journal.
pub struct Agent {
    fleet: Arc<Fleet>,
    hosts: Vec<Host>,
    schedulers: Vec<String>,
    /// Answers why the journal's thread ended.
    ended: oneshot::Receiver<Result<(), crate::journal::Error>>,
}

impl Agent {
    /// Takes in what the journal says. `machine`: as it is now. `address`: of the agent's pages.
    pub fn open(
        options: &Options,
        hosts: u32,
        machine: &wire::HostIdentity,
        address: &str,
    ) -> Result<Self, Error> {
        let mut all: Vec<Host> = (0..hosts).map(Host::new).collect();
        let mut beyond = None;
        let mut met = Met::new();
        journal::replay(&options.dir, &mut |index, record| match all.get_mut(index as usize) {
            Some(host) => host.restore(record, &mut met),
            None => beyond = beyond.max(Some(index)),
        })?;
        if let Some(named) = beyond {
            return Err(Error::Fewer { dir: options.dir.display().to_string(), named, hosts });
        }
        for host in &mut all {
            let journal_id = uuid::Uuid::new_v4().to_string();
            host.recover(&wire::HostIdentity { journal_id, ..machine.clone() }, options.simulated.start_ms);
        }
        let (journal, keeper) = Keeper::open(&options.dir, hosts)?;
        let (ending, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("journal".into());
        thread
            .spawn(move || {
                let _nobody_waits = ending.send(keeper.run());
            })
            .map_err(Error::Thread)?;
        let fleet = Fleet {
            name: options.name.clone(),
            address: address.to_owned(),
            capacity: wire::Resources {
                cpu_milli: options.cpus.unwrap_or(16_000),
                ram_mib: options.ram_mib.unwrap_or(64 << 10),
                disk_mib: options.disk_mib.unwrap_or(500 << 10),
                gpus: options.gpus,
            },
            ports: options.ports.clone(),
            attributes: options.attributes.clone(),
            start_ms: options.simulated.start_ms,
            use_percent: options.simulated.use_percent,
            journal,
            configs: Configs::default(),
            tally: Tally::new(),
            views: (0..hosts).map(|_| HostView::default()).collect(),
            begun: Instant::now(),
        };
        let schedulers = options.schedulers.clone();
        Ok(Agent { fleet: Arc::new(fleet), hosts: all, schedulers, ended })
    }

    /// What the pages show.
    pub fn fleet(&self) -> Arc<Fleet> {
        self.fleet.clone()
    }

    /// Speaks for all hosts until `stop`, or until the journal cannot be written. Call it within a runtime.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let mut lines = Lines::shared();
        let mut links = tokio::task::JoinSet::new();
        for host in self.hosts {
            if host.index.is_multiple_of(HOSTS_PER_LINE) {
                lines = Lines::shared();
            }
            // Those who share a connection begin at the same scheduler.
            let first = (host.index / HOSTS_PER_LINE) as usize;
            let voice = Voice::new(self.fleet.clone(), host);
            links.spawn(link::run(self.schedulers.clone(), first, lines.clone(), voice));
        }
        let mut ended = self.ended;
        let done = tokio::select! {
            () = stop => {
                links.abort_all();
                self.fleet.journal.close();
                ended.await
            }
            done = &mut ended => done,
        };
        Ok(done.unwrap_or(Ok(()))?)
    }
}
