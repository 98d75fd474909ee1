//! `borealis cluster inspect|restore|recover|skip-entry`: done by the scheduler's program, which knows its directories.

use std::ffi::OsString;
use std::process::Command;

use crate::Context;
use crate::error::{Error, Kind};

/// The program that does it.
const PROGRAM: &str = "borealis-scheduler";

/// Runs it with these words; it speaks for itself.
pub(crate) fn run(context: &Context<'_>, verb: &str, words: Vec<OsString>) -> Result<(), Error> {
    let program = crate::dev::programs()?.join(PROGRAM);
    let ended = Command::new(&program).arg(verb).args(words).status().map_err(|why| {
        Error::new(Kind::Failed, format!("{} cannot be run: {why}", program.display()))
            .hint("run this on a machine that has the scheduler, or say in BOREALIS_BIN where it lies")
    })?;
    if !ended.success() {
        context.exit.set(Kind::Failed as u8);
    }
    Ok(())
}
