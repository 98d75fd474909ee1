//! The file `launch`: what the agent tells the executor.

use std::io;
use std::path::PathBuf;

use prost::Message as _;
use proto::wire::Launch;

use crate::layout::TaskDir;
use crate::records;

/// Writes it, synced, before the executor is spawned.
pub fn write(dir: &TaskDir, launch: &Launch) -> Result<(), records::Error> {
    records::write_one(&dir.launch(), &launch.encode_to_vec())
}

/// Reads it.
pub fn read(dir: &TaskDir) -> Result<Launch, records::Error> {
    let path = dir.launch();
    let bytes = records::read_one(&path)?;
    let bad = |problem: String| records::Error::Io {
        path: path.display().to_string(),
        source: io::Error::new(io::ErrorKind::InvalidData, problem),
    };
    let launch = Launch::decode(&bytes[..]).map_err(|e| bad(format!("is not a launch: {e}")))?;
    if launch.level > crate::LEVEL {
        let (have, level) = (crate::LEVEL, launch.level);
        return Err(bad(format!("has format level {level}, and this executor knows up to {have}")));
    }
    Ok(launch)
}

/// The task's sandbox: the one that the launch names, else the one in the task's directory.
pub fn sandbox(dir: &TaskDir, launch: &Launch) -> PathBuf {
    if launch.sandbox.is_empty() { dir.sandbox() } else { launch.sandbox.clone().into() }
}
