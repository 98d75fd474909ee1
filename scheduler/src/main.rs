//! `borealis-scheduler`: one replica of the scheduler.

use clap::{CommandFactory as _, FromArgMatches as _};
use scheduler::offline::Offline;
use scheduler::options::Options;
use tracing_subscriber::EnvFilter;

/// Gives memory back: with the system's allocator a replica stays as large as it was at its busiest moment.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            // For people: what happened and why, without the backtrace of a report.
            eprintln!("error: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let commit = option_env!("BOREALIS_COMMIT").unwrap_or("unknown");
    let version: &'static str = format!("{} ({commit})", env!("CARGO_PKG_VERSION")).leak();
    if std::env::args().nth(1).is_some_and(|word| Offline::is_verb(&word)) {
        return Offline::from_arg_matches(&Offline::command().version(version).get_matches())?.run();
    }
    let options = Options::from_arg_matches(&Options::command().version(version).get_matches())?;
    let filter =
        EnvFilter::try_from_env("BOREALIS_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if options.log_format == "json" {
        log.json().init()
    } else {
        log.with_ansi(false).init()
    }
    // A broken invariant must stop the replica, whichever thread finds it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        if !replication::applies() {
            std::process::abort();
        }
    }));
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(scheduler::server::run(options))
}
