//! The program `borealis-executor TASK_DIR`: runs the task that `TASK_DIR/launch` describes. See `run`.
//! `borealis-executor --probe` says by its exit code whether a task can be shut in a pid namespace here.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(word), None) if word == "--version" => {
            let commit = option_env!("BOREALIS_COMMIT").unwrap_or("unknown");
            println!("borealis-executor {} ({commit})", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        (Some(word), None) if word == "--probe" => match executor::run::probe() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("cannot shut a task in a pid namespace: {why}");
                ExitCode::FAILURE
            }
        },
        (Some(dir), None) => ExitCode::from(executor::run::run(dir.as_ref())),
        _ => {
            eprintln!("usage: borealis-executor TASK_DIR");
            ExitCode::from(executor::run::EXIT_UNPREPARED)
        }
    }
}
