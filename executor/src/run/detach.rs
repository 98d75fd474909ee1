//! Becoming a process of its own, and the signals it lives by.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use crate::graph::Exit;

/// SIGCHLD and SIGTERM, as something to wait for.
pub(super) struct Signals {
    descriptor: OwnedFd,
}

/// Why the wait is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// Something else: a child, the socket, time.
    Other,
    /// SIGTERM.
    Terminated,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Leaves the agent's session, files and terminal; takes over every orphan of the task; from here on, what this
/// process prints is in `log`.
pub(super) fn detach(log: &Path) -> io::Result<Signals> {
    // SAFETY: system calls on numbers. Nothing that is open beyond stdio is used by this process yet.
    unsafe {
        // Fails in a process that leads a group already, which is then apart from the agent as well.
        libc::setsid();
        check(libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) as libc::c_int)?;
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
    }
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    let log = OpenOptions::new().append(true).create(true).open(log)?;
    for (from, to) in [(null.as_raw_fd(), 0), (log.as_raw_fd(), 1), (log.as_raw_fd(), 2)] {
        // SAFETY: both are open files of this process, or a stdio number that is to be replaced.
        check(unsafe { libc::dup2(from, to) })?;
    }
    for signal in [libc::SIGHUP, libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2] {
        // SAFETY: ignoring runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let mask = mask(&[libc::SIGCHLD, libc::SIGTERM]);
    // SAFETY: `mask` is valid for both calls; the descriptor is new and owned by nobody else.
    let descriptor = unsafe {
        check(libc::sigprocmask(libc::SIG_BLOCK, &mask, std::ptr::null_mut()))?;
        OwnedFd::from_raw_fd(check(libc::signalfd(-1, &mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?)
    };
    Ok(Signals { descriptor })
}

fn mask(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: a set of zeros is a place to make one in.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut mask);
        for signal in signals {
            libc::sigaddset(&mut mask, *signal);
        }
        mask
    }
}

/// In the child, before exec: signals as a program expects them. Allocates nothing.
pub(super) fn usual_signals() {
    let mask = mask(&[]);
    // SAFETY: restores defaults and an empty mask.
    unsafe {
        for signal in [libc::SIGHUP, libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2]
        {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut());
    }
}

impl Signals {
    /// Waits for a signal, for one of `others` (descriptor, poll events), or for `timeout`; `None` = for ever.
    pub(super) fn wait(&self, others: Vec<(RawFd, i16)>, timeout: Option<Duration>) -> Woken {
        let mut polled: Vec<libc::pollfd> = std::iter::once((self.descriptor.as_raw_fd(), libc::POLLIN))
            .chain(others)
            .map(|(fd, events)| libc::pollfd { fd, events, revents: 0 })
            .collect();
        // Rounded up, or the last millisecond would be spent in a loop.
        let timeout_ms =
            timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        // SAFETY: the pointer and the length are those of one vector. An error is EINTR; the caller looks at
        // everything after each return in any case.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
        let mut woken = Woken::Other;
        loop {
            // SAFETY: plain data, of which zeros are a value.
            let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
            let size = size_of::<libc::signalfd_siginfo>();
            // SAFETY: `info` has `size` bytes, and any bytes are a value of it.
            let got = unsafe { libc::read(self.descriptor.as_raw_fd(), (&raw mut info).cast(), size) };
            if got != size as isize {
                return woken;
            }
            if info.ssi_signo == libc::SIGTERM as u32 {
                woken = Woken::Terminated;
            }
        }
    }
}

/// Collects one child that has ended, if any has.
pub(super) fn reap_one() -> Option<(i32, Exit)> {
    let mut status = 0;
    // SAFETY: `status` is there to be written. Who started a child through `Command` never waits for it.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let exit = if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    };
    Some((pid, exit))
}
