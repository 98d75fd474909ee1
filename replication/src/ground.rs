//! What this room stands on: files, the room on the disk, the database of rows, threads, tasks, the way to another
//! replica, wall time, chance.
//!
//! In the product these are the system's own. This crate's own tests are built on those of `sim`, which are the
//! same outside of a simulation; within one they are a disk that loses what was not synced, a network that delays
//! and drops, and tasks that die with their replica. All else of this crate is the same in both, so nothing else
//! here may use `std::fs`, ask for wall time, start a thread or a task, or draw by chance.

#[cfg(test)]
pub(crate) use crate::sim::ground::*;
#[cfg(not(test))]
pub(crate) use system::*;

#[cfg(not(test))]
mod system {
    use std::future::Future;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use tokio::task::{JoinError, JoinHandle};
    use tonic::transport::Endpoint;

    pub(crate) use openraft::impls::TokioRuntime as Runtime;
    pub(crate) use tonic::transport::Channel;
    pub(crate) use transfer::System as Files;

    pub(crate) use crate::state::rocks::{Batch, Database};

    /// Files and directories.
    pub(crate) mod fs {
        pub(crate) use transfer::create_private_dir;

        pub(crate) use std::fs::{
            File, OpenOptions, copy, create_dir_all, hard_link, metadata, read, read_dir, remove_dir_all,
            remove_file, rename, write,
        };
        pub(crate) use std::os::unix::fs::FileExt;
    }

    /// What an ordinary user may still take of the disk where `dir` lies, and all of it, in bytes; `None` if the system
    /// does not say.
    pub(crate) fn room(dir: &Path) -> Option<(u64, u64)> {
        let found = rustix::fs::statvfs(dir).ok()?;
        Some((found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize))
    }

    /// Wall time, which may jump: for what people read, never for a decision.
    pub(crate) fn wall_time() -> SystemTime {
        SystemTime::now()
    }

    /// By wall time, how long ago a file was changed last.
    pub(crate) fn file_age(path: &Path) -> Option<Duration> {
        path.metadata().ok()?.modified().ok()?.elapsed().ok()
    }

    /// A connection that is made at the first call, and anew at the next call after it broke.
    pub(crate) fn connect(endpoint: &Endpoint) -> Channel {
        endpoint.connect_lazy()
    }

    /// Starts a task.
    pub(crate) fn spawn<F>(work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(work)
    }

    /// Runs `work` on a thread of its own; it must not need the runtime's clock or sockets.
    pub(crate) fn thread(name: &str, work: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || futures::executor::block_on(work)).map(drop)
    }

    /// Runs work that waits for the disk where it holds up nobody.
    pub(crate) async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        tokio::task::spawn_blocking(work).await
    }

    /// Before a sync, which here takes its time by itself.
    pub(crate) async fn before_sync() {}

    /// Takes room on the disk for a file, without writing it.
    pub(crate) fn reserve(file: &fs::File, bytes: u64) -> std::io::Result<()> {
        Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)?)
    }

    /// A number by chance.
    pub(crate) fn random() -> u64 {
        rand::random()
    }
}
