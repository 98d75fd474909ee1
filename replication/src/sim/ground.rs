//! `ground` in the build of this crate's tests: the system's, or in a life the simulation's.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rand::Rng as _;
use tokio::task::{JoinError, JoinHandle};
use tonic::transport::Endpoint;

use crate::sim::life;
use crate::sim::net::Route;

pub(crate) use crate::sim::files as fs;
pub(crate) use crate::sim::files::Files;
pub(crate) use crate::sim::net::Channel;
pub(crate) use crate::sim::rows::{Batch, Database};
pub(crate) use crate::sim::runtime::Runtime;

/// In a life, of its disk.
pub(crate) fn room(dir: &Path) -> Option<(u64, u64)> {
    match life::current() {
        Some(life) => Some(life.disk.room()),
        None => {
            let found = rustix::fs::statvfs(dir).ok()?;
            Some((found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize))
        }
    }
}

/// In a life, what its machine's clock shows.
pub(crate) fn wall_time() -> SystemTime {
    life::current().map_or_else(SystemTime::now, |life| life.disk.wall_time())
}

/// In a life nobody knows.
pub(crate) fn file_age(path: &Path) -> Option<Duration> {
    match life::current() {
        Some(_) => None,
        None => path.metadata().ok()?.modified().ok()?.elapsed().ok(),
    }
}

pub(crate) fn connect(endpoint: &Endpoint) -> Channel {
    match life::current() {
        Some(life) => Channel::Simulated(Route::new(life, endpoint.uri())),
        None => Channel::System(endpoint.connect_lazy()),
    }
}

pub(crate) fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match life::current() {
        Some(life) => life.run(work),
        None => tokio::spawn(work),
    }
}

/// In a life a thread is one more task.
pub(crate) fn thread(name: &str, work: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    if let Some(life) = life::current() {
        drop(life.run(work));
        return Ok(());
    }
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(move || futures::executor::block_on(work)).map(drop)
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match life::current() {
        // Others get their turn before it, as they would on another thread.
        Some(_) => {
            tokio::task::yield_now().await;
            Ok(work())
        }
        None => tokio::task::spawn_blocking(work).await,
    }
}

/// In a life a sync takes the time that the disk says.
pub(crate) async fn before_sync() {
    if let Some(life) = life::current() {
        tokio::time::sleep(life.disk.sync_takes()).await;
    }
}

/// There is always room.
pub(crate) fn reserve(_: &fs::File, _: u64) -> std::io::Result<()> {
    Ok(())
}

pub(crate) fn random() -> u64 {
    life::current().map_or_else(rand::random, |life| life.chance().random())
}
