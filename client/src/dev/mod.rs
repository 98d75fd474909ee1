//! `borealis dev`: not here yet.

use crate::Context;
use crate::arguments::Dev;
use crate::error::{Error, Kind};

pub(crate) async fn run(_: &Context<'_>, _: &Dev) -> Result<(), Error> {
    Err(Error::new(Kind::InvalidCommand, "`dev` is not built yet"))
}
