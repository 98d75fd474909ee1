//! The control socket, seen from the agent: one request and one answer per connection, framed as in [`records`].
//!
//! A [`wire::Ping`] with `seen` and `wait_ms` is answered when the status is another than `seen`, or after `wait_ms`;
//! so an agent can hear of a change at once without asking often. The connection of a waiting request that closes
//! without an answer means that the executor has ended: read the checkpoint.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use proto::wire::{self, ControlReply, ControlRequest};
use rustix::net;

use crate::records;

/// Largest request or answer, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Asks the executor that listens at `path` and waits for its answer; each read and write at most `timeout`.
/// `NotFound` and `ConnectionRefused` mean that no executor listens (any more, or yet).
pub fn request(path: &Path, request: &ControlRequest, timeout: Duration) -> io::Result<ControlReply> {
    let timeout = timeout.max(Duration::from_millis(1));
    let (_directory, short) = short_path(path)?;
    let mut stream = UnixStream::connect(short)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(&records::frame(&request.encode_to_vec()))?;
    let reply = records::read_frame(&mut stream, MESSAGE_BYTES_MAX)?;
    ControlReply::decode(&reply[..]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Tells the executor that listens at `path` something and awaits no answer. Never blocks: an executor that is stopped,
/// or has no room for one more connection, is not told.
pub fn tell(path: &Path, request: &ControlRequest) -> io::Result<()> {
    let (_directory, short) = short_path(path)?;
    let flags = net::SocketFlags::NONBLOCK | net::SocketFlags::CLOEXEC;
    let socket = net::socket_with(net::AddressFamily::UNIX, net::SocketType::STREAM, flags, None)?;
    net::connect(&socket, &net::SocketAddrUnix::new(&short)?)?;
    UnixStream::from(socket).write_all(&records::frame(&request.encode_to_vec()))
}

/// A lease that ends then.
pub fn lease(until_boottime_ns: u64) -> ControlRequest {
    ControlRequest { body: Some(wire::control_request::Body::Lease(wire::Lease { until_boottime_ns })) }
}

/// A request to end the task: SIGTERM, the finalization wait, SIGKILL; or SIGKILL `at_once`.
pub fn kill(reason: impl Into<String>, at_once: bool) -> ControlRequest {
    let kill = wire::KillTask { at_once, reason: reason.into() };
    ControlRequest { body: Some(wire::control_request::Body::Kill(kill)) }
}

/// A question for the status, answered when it is another than `seen`, or after `wait`. Zero = answered at once.
pub fn ping(seen: wire::Status, wait: Duration) -> ControlRequest {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let ping = wire::Ping { seen: seen.into(), wait_ms };
    ControlRequest { body: Some(wire::control_request::Body::Ping(ping)) }
}

/// Listens at `path`, for this user alone; replaces a socket that is there.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let (_directory, short) = short_path(path)?;
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The same socket by a path of few bytes, as a socket's path may have only 107: through the open directory, which
/// must stay open meanwhile.
pub fn short_path(path: &Path) -> io::Result<(File, PathBuf)> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = File::open(parent)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok((directory, short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telling_never_waits_for_one_that_does_not_listen() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("control.sock");
        assert_eq!(tell(&path, &lease(1)).unwrap_err().kind(), io::ErrorKind::NotFound);
        // Open, and nobody accepts: a stopped executor.
        let listener = listen(&path).unwrap();
        let refused = (0..100_000).find_map(|_| tell(&path, &lease(1)).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        assert_eq!(tell(&path, &lease(1)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
