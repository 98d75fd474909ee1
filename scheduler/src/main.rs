//! `borealis-scheduler`: one replica of the scheduler.

use clap::Parser as _;
use scheduler::options::Options;
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let filter = EnvFilter::try_from_env("BOREALIS_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if options.log_format == "json" { log.json().init() } else { log.with_ansi(false).init() }
    // A broken invariant must stop the replica, whichever thread finds it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(scheduler::server::run(options))
}
