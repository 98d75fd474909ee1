//! Hears at once when an executor writes its checkpoint or ends; the host's regular look is the safety net.
//!
//! Checkpoints by inotify on the task's directory, deaths by pidfd: no thread and no timer per task.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use executor::identity::{self, ProcessIdentity};
use proto::TaskId;
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::host::Event;

/// Which directory is whose.
type Watches = Arc<Mutex<BTreeMap<i32, TaskId>>>;

/// Tells the host which task to look at.
#[derive(Debug)]
pub struct Watcher {
    inotify: Option<Arc<OwnedFd>>,
    watches: Watches,
    events: mpsc::Sender<Event>,
    runtime: tokio::runtime::Handle,
}

impl Watcher {
    /// Begins to listen. Without inotify (too many users of it) the host's regular look must do.
    pub fn new(runtime: tokio::runtime::Handle, events: mpsc::Sender<Event>) -> Self {
        let watches = Watches::default();
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = match inotify::init(flags) {
            Ok(fd) => Some(Arc::new(fd)),
            Err(e) => {
                tracing::warn!(error = %e, "no inotify: checkpoints are looked at regularly instead");
                None
            }
        };
        if let Some(fd) = inotify.clone() {
            runtime.spawn(listen(fd, watches.clone(), events.clone()));
        }
        Watcher { inotify, watches, events, runtime }
    }

    /// Watches a task's directory; `None` = it cannot be watched.
    pub fn directory(&self, task: TaskId, dir: &Path) -> Option<i32> {
        let fd = self.inotify.as_ref()?;
        // Held while the watch is made, so that its first event finds the task.
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::ONLYDIR;
        match inotify::add_watch(fd, dir, flags) {
            Ok(watch) => {
                watches.insert(watch, task);
                Some(watch)
            }
            Err(e) => {
                tracing::debug!(%task, error = %e, "the task's directory cannot be watched");
                None
            }
        }
    }

    /// Ends a watch.
    pub fn forget(&self, watch: i32) {
        if let Some(fd) = &self.inotify {
            self.watches.lock().unwrap_or_else(PoisonError::into_inner).remove(&watch);
            let _ = inotify::remove_watch(fd, watch);
        }
    }

    /// Tells when this very process ends. One that has ended already is told of at once.
    pub fn process(&self, task: TaskId, identity: &ProcessIdentity) {
        let (events, identity) = (self.events.clone(), identity.clone());
        self.runtime.spawn(async move {
            if let Err(e) = ended(&identity).await {
                tracing::debug!(%task, pid = identity.pid, error = %e, "no pidfd: its end is seen by the regular look");
            }
            let _ = events.send(Event::Stirred(task)).await;
        });
    }
}

async fn ended(identity: &ProcessIdentity) -> io::Result<()> {
    let pid = Pid::from_raw(identity.pid).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // The pid may have become another's before it was opened, not after.
    if !identity::is_alive(identity) {
        return Ok(());
    }
    // SAFETY: the `AsyncFd` owns the descriptor, which stays open and the same until both are dropped.
    let fd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    let _ready = fd.readable().await?;
    Ok(())
}

async fn listen(fd: Arc<OwnedFd>, watches: Watches, events: mpsc::Sender<Event>) {
    // SAFETY: this task holds the `Arc` of the descriptor, so it stays open and the same.
    let Ok(fd) = (unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }) else { return };
    loop {
        let Ok(mut ready) = fd.readable().await else { return };
        let mut stirred = Vec::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        {
            let mut reader = inotify::Reader::new(fd.get_ref().as_fd(), &mut buffer);
            while let Ok(event) = reader.next() {
                if event.file_name().is_some_and(|name| name.to_bytes() == b"checkpoint") {
                    let watches = watches.lock().unwrap_or_else(PoisonError::into_inner);
                    stirred.extend(watches.get(&event.wd()).copied());
                }
                if stirred.len() >= 1024 {
                    break;
                }
            }
        }
        if stirred.len() < 1024 {
            ready.clear_ready();
        }
        stirred.dedup();
        for task in stirred {
            if events.send(Event::Stirred(task)).await.is_err() {
                return;
            }
        }
    }
}
