//! The command line of an agent whose hosts are simulated.

use clap::Args;

/// Most hosts that one agent speaks for.
const HOSTS_MAX: i64 = 100_000;

/// What was typed.
#[derive(Args, Clone, Debug)]
pub struct Simulated {
    /// Speak for N hosts (NAME-0, NAME-1, ...) whose tasks only pretend to run; --cpus [default: 16], --ram-mib
    /// [default: 64 GiB] and --disk-mib [default: 500 GiB] are of each. Each also gets attributes to play with: `rack`
    /// (two hosts each), `zone`, `kind`, `year`. A task ends by itself if its first process is `true`, `false`,
    /// `exit N` or `sleep SECONDS`; any other runs until it is killed
    #[arg(long = "simulated", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=HOSTS_MAX))]
    pub hosts: Option<u32>,
    /// How long a simulated task is STARTING
    #[arg(long = "simulated-start-ms", value_name = "MS", default_value_t = 0, requires = "hosts")]
    pub start_ms: u64,
    /// How much of what they have reserved simulated tasks use, in cpu and memory
    #[arg(long = "simulated-use-percent", value_name = "P", default_value_t = 100, requires = "hosts",
        value_parser = clap::value_parser!(u64).range(0..=100))]
    pub use_percent: u64,
}
