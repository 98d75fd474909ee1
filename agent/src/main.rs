//! The program: reads the command line, takes the directory's lock, recovers, then serves until it is told to stop.
//!
//! Stopping, crashing and being replaced never touch a running task.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent::host::{Event, Host, Setup, Views};
use agent::http::{self, Pages};
use agent::journal::Journal;
use agent::limits::EVENTS_MAX;
use agent::options::{Isolation, Options};
use agent::sandbox::Sandboxes;
use agent::watch::Watcher;
use agent::work::Workers;
use agent::{link, machine, simulated, telemetry};
use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, FromArgMatches as _};
use proto::wire;
use tokio::signal::unix::{SignalKind, signal};

/// Versions of the executor whose files are kept.
const EXECUTORS_KEPT: usize = 5;

fn main() -> ExitCode {
    let commit = option_env!("BOREALIS_COMMIT").unwrap_or("unknown");
    let version: &'static str = format!("{} ({commit})", env!("CARGO_PKG_VERSION")).leak();
    let matches = Options::command().version(version).get_matches();
    let options = Options::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BOREALIS_LOG").unwrap_or_else(|_| "info".into()),
        )
        .init();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("the agent stops: {e:#}; running tasks go on without it");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: Options) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.dir)
        .with_context(|| format!("cannot make {}", options.dir.display()))?;
    options.dir =
        options.dir.canonicalize().with_context(|| format!("cannot find {}", options.dir.display()))?;
    let _lock = lock(&options.dir)?;
    let metrics = telemetry::install().context("cannot install the metrics' recorder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let handle = runtime.handle().clone();
    let inside = handle.enter();

    let listener = handle
        .block_on(tokio::net::TcpListener::bind(options.http))
        .with_context(|| format!("cannot listen at {} (--http)", options.http))?;
    let address = listener.local_addr()?;
    if let Some(hosts) = options.simulated.hosts {
        let stopped = handle.block_on(simulate(&options, hosts, listener, &address, metrics));
        drop(inside);
        runtime.shutdown_timeout(Duration::from_millis(200));
        return stopped;
    }
    if simulated::journal::exists(&options.dir) {
        bail!(
            "{} is of an agent whose hosts are simulated; say --simulated N, or give this one a --dir of its own",
            options.dir.display()
        )
    }
    let journal = open_journal(&options.dir)?;
    let setup = setup(&options, &address)?;
    let cgroups = setup.cgroups.clone();
    let sandboxes = Sandboxes::open(&options.dir).context("cannot make the directory of tasks")?;
    let views = Views::default();
    let (events, queue) = tokio::sync::mpsc::channel(EVENTS_MAX);
    let watcher = Watcher::new(handle.clone(), events.clone());
    let workers = Workers::start(events.clone()).context("cannot start threads")?;
    let host = Host::recover(setup, journal, sandboxes.clone(), watcher, workers, views.clone())?;

    write_address(&options.dir, &address.to_string())?;
    tracing::info!(%address, name = options.name, dir = %options.dir.display(), "the agent runs");
    let pages = http::router(Pages { views, sandboxes, metrics: metrics.clone() });
    handle.spawn(async move { axum::serve(listener, pages).await });
    handle.spawn(http::upkeep(metrics));
    let first = crc32c::crc32c(options.name.as_bytes()) as usize % options.schedulers.len().max(1);
    handle.spawn(link::run(options.schedulers.clone(), first, link::Lines::own(), events.clone()));
    let mut signals = Signals::catch()?;
    handle.spawn(async move {
        signals.wait().await;
        let _ = events.send(Event::Stop).await;
    });

    let stopped = host.run(queue, &handle);
    drop(inside);
    runtime.shutdown_timeout(Duration::from_millis(200));
    if stopped.is_ok() {
        // An agent without tasks leaves nothing behind. The cgroup of a task may be empty for the moment before its
        // executor joins it, so one task is reason enough to leave all as it is.
        if let Some(cgroups) = cgroups.filter(|cgroups| cgroups.list().is_ok_and(|tasks| tasks.is_empty())) {
            let _or_at_the_next_stop = cgroups.remove();
        }
        tracing::info!("the agent stops as it was told to; its tasks go on");
    }
    Ok(stopped?)
}

/// Speaks for hosts that only pretend, until told to stop.
async fn simulate(
    options: &Options,
    hosts: u32,
    listener: tokio::net::TcpListener,
    address: &std::net::SocketAddr,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
) -> anyhow::Result<()> {
    if Journal::path(&options.dir).exists() {
        bail!(
            "{} is of a host that is not simulated; give this agent a --dir of its own",
            options.dir.display()
        )
    }
    let now = wire::HostIdentity {
        machine_id: machine::machine_id(&options.dir).context("cannot find the machine's id")?,
        boot_id: executor::identity::boot_id().context("cannot read the machine's boot id")?,
        ..Default::default()
    };
    let agent = simulated::Agent::open(options, hosts, &now, &reachable(&options.name, address))?;
    let pages = simulated::pages::router(agent.fleet(), metrics.clone());
    tokio::spawn(async move { axum::serve(listener, pages).await });
    tokio::spawn(http::upkeep(metrics));
    let mut signals = Signals::catch()?;
    write_address(&options.dir, &address.to_string())?;
    tracing::info!(%address, hosts, dir = %options.dir.display(), "the agent runs; its hosts are simulated and their tasks only pretend");
    agent.run(async move { signals.wait().await }).await?;
    tracing::info!("the agent stops as it was told to; its tasks pretend to go on");
    Ok(())
}

/// Where others find the pages.
fn reachable(name: &str, address: &std::net::SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("{name}:{}", address.port()),
        false => address.to_string(),
    }
}

/// Signals, caught from here on.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Signals { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    async fn wait(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another agent runs in {}; give this one a --dir of its own", dir.display())
        }
        Err(e) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The journal, with the machine as it is now written down. A machine with another id is a copy of the one that the
/// journal tells of: its journal is set aside, and it begins its own.
fn open_journal(dir: &Path) -> anyhow::Result<Journal> {
    let new_id = || uuid::Uuid::new_v4().to_string();
    let machine_id = machine::machine_id(dir).context("cannot find the machine's id")?;
    let boot_id = executor::identity::boot_id().context("cannot read the machine's boot id")?;
    let (mut journal, _) = Journal::open(dir, new_id)?;
    let had = &journal.book().identity;
    if !had.machine_id.is_empty() && had.machine_id != machine_id {
        let aside = dir.join(format!("journal.of-{}", had.journal_id));
        tracing::warn!(aside = %aside.display(), "this is another machine than the journal's; beginning a new one");
        drop(journal);
        std::fs::rename(Journal::path(dir), &aside).context("cannot set the old journal aside")?;
        journal = Journal::open(dir, new_id)?.0;
    }
    let now = wire::HostIdentity { machine_id, boot_id, ..journal.book().identity.clone() };
    if now != journal.book().identity {
        journal.opened(now)?;
    }
    Ok(journal)
}

fn setup(options: &Options, address: &std::net::SocketAddr) -> anyhow::Result<Setup> {
    let mut host = isolation::Host::detect();
    let executor = keep_executor(options)?;
    let (cgroups, users, words) = match options.isolation {
        Isolation::None => (None, false, vec!["none".to_owned()]),
        Isolation::Auto => {
            if host.pid_namespaces
                && let Err(why) = probe(&executor)
            {
                host.no_pid_namespaces(&why);
            }
            for missing in &host.missing {
                tracing::warn!("isolation: {missing}");
            }
            // The same whatever the version: a newer agent must find the cgroups of an older one.
            let dir = crc32c::crc32c(options.dir.as_os_str().as_encoded_bytes());
            let name = format!("borealis/{}-{dir:08x}", cgroup_name(&options.name));
            let cgroups = isolation::Cgroups::new(&host, &name).unwrap_or_else(|e| {
                tracing::warn!("isolation: no cgroups: {e}");
                None
            });
            (cgroups, host.root, host.words())
        }
    };
    let mut attributes: Vec<wire::Attribute> = options
        .attributes
        .iter()
        .map(|(name, value)| wire::Attribute { name: name.clone(), value: value.clone() })
        .collect();
    attributes.retain(|attribute| attribute.name != "host");
    attributes.push(wire::Attribute { name: "host".into(), value: options.name.clone() });
    attributes.extend(words.into_iter().map(|value| wire::Attribute { name: "isolation".into(), value }));
    let address = reachable(&options.name, address);
    let spec = wire::HostSpec {
        name: options.name.clone(),
        address,
        capacity: Some(machine::capacity(options).context("cannot see what this machine has")?),
        ports: options.ports.clone(),
        attributes,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    Ok(Setup {
        spec,
        executor,
        cgroups,
        users,
        keep_sandboxes: options.keep_sandboxes,
        keep_sandbox_age: Duration::from_secs(options.keep_sandbox_hours.saturating_mul(3600)),
    })
}

/// Whether the executor can shut a task in a pid namespace, tried out; else why not.
fn probe(executor: &Path) -> Result<(), String> {
    match std::process::Command::new(executor).arg("--probe").stdin(std::process::Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(e) => Err(format!("cannot run {}: {e}", executor.display())),
    }
}

/// A directory's name for a host's name.
fn cgroup_name(host: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    host.chars().map(plain).take(64).collect()
}

/// A copy of the executor under a path by version, so that an upgrade does not pull it from under running tasks.
fn keep_executor(options: &Options) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().map(|own| own.with_file_name("borealis-executor"));
    let source = match &options.executor {
        Some(path) => path.clone(),
        None => beside.context("cannot tell where this program lies; name the executor with --executor")?,
    };
    let bytes = std::fs::read(&source).with_context(|| {
        format!("cannot read the executor {}; install it there or name it with --executor", source.display())
    })?;
    let name = format!("{}-{}-{:08x}", env!("CARGO_PKG_VERSION"), bytes.len(), crc32c::crc32c(&bytes));
    let dir = options.dir.join("executors").join(name);
    let path = dir.join("borealis-executor");
    if std::fs::metadata(&path).is_ok_and(|data| data.len() == bytes.len() as u64) {
        return Ok(path);
    }
    let context = || format!("cannot keep a copy of the executor in {}", dir.display());
    std::fs::create_dir_all(&dir).with_context(context)?;
    let new = dir.join("new");
    std::fs::write(&new, &bytes).with_context(context)?;
    std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .with_context(context)?;
    File::open(&new).and_then(|file| file.sync_all()).with_context(context)?;
    std::fs::rename(&new, &path).with_context(context)?;
    drop_old_executors(&options.dir.join("executors"));
    Ok(path)
}

/// A running program goes on when its file is removed; a few old ones are kept for people who look into one.
fn drop_old_executors(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let age = |entry: &std::fs::DirEntry| entry.metadata().and_then(|data| data.modified()).ok();
    let mut versions: Vec<_> = entries.flatten().map(|entry| (age(&entry), entry.path())).collect();
    versions.sort();
    let old = versions.len().saturating_sub(EXECUTORS_KEPT);
    for (_, path) in versions.into_iter().take(old) {
        if let Err(e) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), error = %e, "cannot remove an old executor");
        }
    }
}

fn write_address(dir: &Path, address: &str) -> anyhow::Result<()> {
    let (path, new) = (dir.join("address"), dir.join("address.new"));
    std::fs::write(&new, format!("{address}\n"))
        .and_then(|()| std::fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}
