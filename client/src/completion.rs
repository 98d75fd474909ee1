//! `borealis completion`: the script that teaches a shell our commands.

use crate::Context;
use crate::arguments;
use crate::error::Error;

/// Prints the script for `shell`.
pub(crate) fn run(context: &Context<'_>, shell: clap_complete::Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut arguments::shape(), "borealis", &mut script);
    context.output.bytes(&script)
}
