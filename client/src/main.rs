//! `borealis`: the command line for people and scripts.

fn main() -> std::process::ExitCode {
    client::main(std::env::args_os())
}
