//! `borealis`: the command line for people and scripts.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if arguments.len() == 2 && (arguments[1] == "--version" || arguments[1] == "-V") {
        let commit = option_env!("BOREALIS_COMMIT").unwrap_or("unknown");
        println!("borealis {} ({commit})", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    client::main(arguments)
}
