//! One life of one replica, from its start to its crash: what it may touch, and the tasks that die with it.
//!
//! All replicas share a thread, so a task must know whose it is: while it is polled, its life is the current one,
//! and what it starts belongs to the same life. In a dead life nothing runs, is written or is sent.

use std::cell::RefCell;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};

use crate::log::lock;
use crate::sim::disk::Disk;
use crate::sim::net::Net;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Life>>> = const { RefCell::new(None) };
}

/// From a start to a crash.
pub(crate) struct Life {
    /// Which place of the cluster: each has its own disk and address.
    pub(crate) place: usize,
    /// Which cluster: 0, or one that was made of a backup or of what was left.
    pub(crate) cluster: u64,
    /// Its data directory.
    pub(crate) dir: PathBuf,
    pub(crate) disk: Arc<Disk>,
    pub(crate) net: Arc<Net>,
    /// Whether those who talk to it are told when it dies, or hear nothing any more.
    pub(crate) silent: AtomicBool,
    /// Whether it has started: what is loaded from now on came with a snapshot.
    pub(crate) started: AtomicBool,
    /// Whether the machine writes a row next that it should not.
    pub(crate) differs: AtomicBool,
    /// Whether a sync of it failed: then it may stop.
    pub(crate) sync_failed: AtomicBool,
    dead: AtomicBool,
    died: Notify,
    tasks: Mutex<Vec<AbortHandle>>,
    draws: AtomicU64,
    seed: u64,
}

impl Life {
    pub(crate) fn new(
        (cluster, place): (u64, usize),
        dir: PathBuf,
        disk: Arc<Disk>,
        net: Arc<Net>,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Life {
            place,
            cluster,
            dir,
            disk,
            net,
            silent: AtomicBool::new(false),
            started: AtomicBool::new(false),
            differs: AtomicBool::new(false),
            sync_failed: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            tasks: Mutex::default(),
            draws: AtomicU64::new(0),
            seed,
        })
    }

    /// Ends it at once. What the disk then holds is `Disk::power_cut`'s to say.
    pub(crate) fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.died.notify_one();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Resolves when it has ended. For one waiter.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            self.died.notified().await;
        }
    }

    /// Drops the tasks of a life that has ended.
    pub(crate) fn bury(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }

    /// Chance for this life only, so that it does not depend on what others draw meanwhile.
    pub(crate) fn chance(&self) -> StdRng {
        let n = self.draws.fetch_add(1, Ordering::Relaxed);
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(n))
    }

    /// Work that belongs to it.
    pub(crate) fn run<F: Future + Send + 'static>(self: &Arc<Self>, work: F) -> JoinHandle<F::Output>
    where
        F::Output: Send + 'static,
    {
        let task = tokio::spawn(Belongs { life: Arc::clone(self), work: Some(Box::pin(work)) });
        let mut tasks = lock(&self.tasks);
        if tasks.len().is_power_of_two() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(task.abort_handle());
        task
    }
}

impl Life {
    /// Does something as it would.
    pub(crate) fn within<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        within(self, work)
    }
}

/// The life of the task that runs now, if it is a replica's.
pub(crate) fn current() -> Option<Arc<Life>> {
    CURRENT.with_borrow(Clone::clone)
}

fn within<R>(life: &Arc<Life>, work: impl FnOnce() -> R) -> R {
    let before = CURRENT.replace(Some(Arc::clone(life)));
    let result = work();
    CURRENT.set(before);
    result
}

/// A future that is polled and dropped within its life, and not polled behind its end.
struct Belongs<F> {
    life: Arc<Life>,
    work: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Belongs<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let life = Arc::clone(&self.life);
        match &mut self.work {
            Some(work) if !life.is_over() => within(&life, || work.as_mut().poll(context)),
            _ => Poll::Pending,
        }
    }
}

impl<F> Drop for Belongs<F> {
    fn drop(&mut self) {
        let work = self.work.take();
        within(&self.life, || drop(work));
    }
}
