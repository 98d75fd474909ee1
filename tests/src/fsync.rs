//! How fast a disk syncs: 4 KiB written and fdatasync'ed, to a growing file and to one written before.
//!
//! No figure of a replicated log means anything without this one beside it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Bytes per write.
const BLOCK_BYTES: usize = 4096;
/// Bytes of the file that was written before.
const FILE_BYTES: usize = 16 << 20;

/// Syncs per second.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Rates {
    /// Each write makes the file longer.
    pub growing_per_s: u64,
    /// Each write overwrites.
    pub prewritten_per_s: u64,
}

/// Measures in `dir` for about twice `time`.
pub fn measure(dir: &Path, time: Duration) -> Result<Rates> {
    let path = dir.join("fsync-rate");
    let result =
        measure_file(&path, time).with_context(|| format!("cannot measure syncs on {}", path.display()));
    let _ = std::fs::remove_file(&path);
    result
}

fn measure_file(path: &Path, time: Duration) -> Result<Rates> {
    let growing_per_s = rate(&File::create(path)?, time, |write| write * BLOCK_BYTES as u64)?;
    let file = File::create(path)?;
    for at in (0..FILE_BYTES).step_by(1 << 20) {
        file.write_all_at(&vec![1; 1 << 20], at as u64)?;
    }
    file.sync_all()?;
    let blocks = (FILE_BYTES / BLOCK_BYTES) as u64;
    let prewritten_per_s = rate(&file, time, |write| write % blocks * BLOCK_BYTES as u64)?;
    Ok(Rates { growing_per_s, prewritten_per_s })
}

fn rate(file: &File, time: Duration, offset: impl Fn(u64) -> u64) -> Result<u64> {
    let block = [7; BLOCK_BYTES];
    let begun = Instant::now();
    let mut writes = 0;
    while begun.elapsed() < time {
        file.write_all_at(&block, offset(writes))?;
        file.sync_data()?;
        writes += 1;
    }
    Ok((writes as f64 / begun.elapsed().as_secs_f64()) as u64)
}
