//! What was written by the programs of an earlier level, and whether today's still read it, do the same and speak alike.
//!
//! `tests/levels/N` is the golden directory of level N, and its README says how one is made. `golden` reads it and
//! measures what today's programs make of it; `messages` compares its .proto files with today's; `freeze` makes a new
//! one; `mixed` runs the programs of a level's commit and today's in one cluster.

pub mod freeze;
pub mod golden;
pub mod messages;
pub mod mixed;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::programs::source_dir;

/// A golden directory.
#[derive(Clone, Debug)]
pub struct Level {
    /// Which level.
    pub number: u32,
    /// `tests/levels/NUMBER`.
    pub dir: PathBuf,
}

/// Where the golden directories lie.
pub fn home() -> PathBuf {
    source_dir().join("tests/levels")
}

/// All levels that were frozen, the oldest first.
pub fn frozen() -> Result<Vec<Level>> {
    let home = home();
    let mut levels = Vec::new();
    for entry in fs::read_dir(&home).with_context(|| format!("listing {}", home.display()))? {
        let dir = entry?.path();
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        if let Ok(number) = name.parse() {
            levels.push(Level { number, dir });
        }
    }
    levels.sort_by_key(|level| level.number);
    Ok(levels)
}
