//! Pid namespaces: all that is in one ends at once with its first process, whatever it forked and however it hid.

use std::io;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Every process that the caller starts from here on is in a new pid namespace. The first one is its init: when that
/// ends, the kernel kills all the others, and nothing can be started in it any more. The caller itself stays where it
/// is and sees them under its own numbers. Only for a process of one thread.
pub fn unshare_pids() -> io::Result<()> {
    // SAFETY: changes nothing but what later forks are part of.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID) })
}

/// Shows the calling process its own pid namespace as `/proc`, and nobody else: the numbers that it reads are those
/// that it may signal. For the moment between fork and exec: it allocates nothing and takes no lock.
pub fn mount_own_proc() -> io::Result<()> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let nothing = std::ptr::null();
    // SAFETY: every pointer is null or a string that lives for ever.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        // What the host mounts and unmounts is seen here; what is mounted here is not seen there.
        check(libc::mount(nothing, c"/".as_ptr(), nothing, libc::MS_REC | libc::MS_SLAVE, nothing.cast()))?;
        check(libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), flags, nothing.cast()))
    }
}
