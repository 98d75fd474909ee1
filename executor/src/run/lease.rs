//! The lease of a task of which at most one copy may live, held by the init of the task's pid namespace.
//!
//! The init is a fork of the executor that does nothing but wait for the end of the lease, by CLOCK_BOOTTIME, so that
//! a machine that slept has not gained time. Then it exits, and the kernel kills all that is in the namespace at once:
//! nothing can have left it, and nothing can be started in it any more. It needs neither the agent nor the executor
//! for that, and it dies with the executor. Both share one word of memory, the end of the lease; once that is [`OVER`]
//! it stays so, whoever of the two was first to see it.

use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// In the word: the lease is over for good.
const OVER: u64 = 0;
/// The lease of [`probe`].
const PROBE_LEASE_NS: u64 = 10_000_000_000;

/// A lease and its init.
pub(super) struct Lease {
    until_ns: &'static AtomicU64,
    /// Not collected yet.
    init: Option<i32>,
}

impl Lease {
    /// Makes the pid namespace of everything that this process starts from here on, with a lease until then.
    /// Only for a process of one thread.
    pub(super) fn hold(until_ns: u64) -> io::Result<Lease> {
        let until_ns = shared(until_ns)?;
        isolation::namespace::unshare_pids()?;
        // SAFETY: this process has one thread, so its copy may go on as it is.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => wait_as_init(until_ns),
            init => Ok(Lease { until_ns, init: Some(init) }),
        }
    }

    /// The init's pid, until it is collected. It is no process of the task.
    pub(super) fn init(&self) -> Option<i32> {
        self.init
    }

    /// The init has ended and is collected.
    pub(super) fn init_has_ended(&mut self) {
        self.init = None;
    }

    /// A later end. One that is earlier, or that comes when all is over, changes nothing.
    pub(super) fn renew(&self, until_ns: u64) {
        let later = |had| (had != OVER && had < until_ns).then_some(until_ns);
        let _or_as_it_was = self.until_ns.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
    }

    /// Whether it is over; it stays so.
    pub(super) fn is_over(&self) -> bool {
        is_over(self.until_ns)
    }

    /// How long it still runs.
    pub(super) fn left(&self) -> Duration {
        Duration::from_nanos(self.until_ns.load(Ordering::SeqCst).saturating_sub(boottime_ns()))
    }

    /// Kills all that is in the namespace, without waiting for it.
    pub(super) fn kill(&self) {
        if let Some(init) = self.init {
            // SAFETY: takes numbers only. The init is our child and not collected yet, so the number is its own.
            unsafe { libc::kill(init, libc::SIGKILL) };
        }
    }

    /// Kills all that is in the namespace and returns when it is empty. What this process itself started there must
    /// have been collected before.
    pub(super) fn end(&mut self) {
        self.kill();
        if let Some(init) = self.init.take() {
            let mut status = 0;
            // SAFETY: `status` is there to be written.
            while unsafe { libc::waitpid(init, &mut status, 0) } < 0
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
        }
    }
}

/// The whole life of the init. What is orphaned in the namespace becomes its child, and is nobody's to collect.
fn wait_as_init(until_ns: &AtomicU64) -> ! {
    // SAFETY: system calls on numbers, and on a time that is there. This process uses no descriptor.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::prctl(libc::PR_SET_NAME, c"borealis-init".as_ptr(), 0, 0, 0);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        while !is_over(until_ns) {
            let until_ns = until_ns.load(Ordering::SeqCst);
            let time = libc::timespec {
                tv_sec: (until_ns / 1_000_000_000) as libc::time_t,
                tv_nsec: (until_ns % 1_000_000_000) as libc::c_long,
            };
            libc::clock_nanosleep(libc::CLOCK_BOOTTIME, libc::TIMER_ABSTIME, &time, std::ptr::null_mut());
        }
        libc::_exit(0)
    }
}

fn is_over(until_ns: &AtomicU64) -> bool {
    let over = |until_ns| (until_ns <= boottime_ns()).then_some(OVER);
    until_ns.fetch_update(Ordering::SeqCst, Ordering::SeqCst, over).is_ok()
}

/// A word that this process shares with those it forks, for as long as it lives.
fn shared(value: u64) -> io::Result<&'static AtomicU64> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at a place of the kernel's choice.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<AtomicU64>(), access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the page is ours, zeroed, aligned, and never unmapped.
    let word = unsafe { &*page.cast::<AtomicU64>() };
    word.store(value, Ordering::SeqCst);
    Ok(word)
}

fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.max(0) as u64 * 1_000_000_000 + now.tv_nsec.max(0) as u64
}

/// Whether this program can hold a lease here, tried out: `borealis-executor --probe`.
pub fn probe() -> io::Result<()> {
    let mut lease = Lease::hold(boottime_ns() + PROBE_LEASE_NS)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: it makes system calls only.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, isolation::namespace::mount_own_proc)
    };
    let ended = command.status();
    lease.end();
    match ended? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("a process in a pid namespace ended with {status}"))),
    }
}
