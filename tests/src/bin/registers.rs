//! `registers`: one replica of a map of registers, which the tests kill and the benchmarks load. Not shipped.

use clap::{CommandFactory as _, FromArgMatches as _};
use tests::registers::program::{self, Arguments};
use tracing_subscriber::EnvFilter;

/// As the product has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<()> {
    let commit = option_env!("BOREALIS_COMMIT").unwrap_or("unknown");
    let version: &'static str = format!("{} ({commit})", env!("CARGO_PKG_VERSION")).leak();
    let matches = Arguments::command().version(version).get_matches();
    let arguments = Arguments::from_arg_matches(&matches)?;
    let filter =
        EnvFilter::try_from_env("BOREALIS_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(program::run(arguments))
}
