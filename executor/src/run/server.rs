//! The control socket, seen from the executor: a bounded number of connections, one request and one answer each.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::wire::control_request::Body;
use proto::wire::{ControlReply, ControlRequest};

use crate::control::MESSAGE_BYTES_MAX;
use crate::records;

/// Most connections at once; more wait in the kernel's queue, which is bounded too.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may take to say what it wants.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Server {
    listener: UnixListener,
    connections: Vec<Connection>,
}

struct Connection {
    stream: UnixStream,
    phase: Phase,
}

enum Phase {
    /// So much of the request is there.
    Asking {
        bytes: Vec<u8>,
        until: Instant,
    },
    /// The request has been handed out; answer when the status is another than `seen`, or then.
    Waiting {
        seen: i32,
        until: Instant,
    },
    Over,
}

impl Server {
    pub(super) fn new(listener: UnixListener) -> Server {
        Server { listener, connections: Vec::new() }
    }

    /// What to wait for.
    pub(super) fn descriptors(&self) -> Vec<(RawFd, i16)> {
        let mut descriptors: Vec<_> =
            self.connections.iter().map(|c| (c.stream.as_raw_fd(), libc::POLLIN)).collect();
        if self.connections.len() < CONNECTIONS_MAX {
            descriptors.push((self.listener.as_raw_fd(), libc::POLLIN));
        }
        descriptors
    }

    /// Time until a connection has waited enough.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let untils = self.connections.iter().filter_map(|c| match c.phase {
            Phase::Asking { until, .. } | Phase::Waiting { until, .. } => Some(until),
            Phase::Over => None,
        });
        untils.min().map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Accepts, reads, and hands out what is complete.
    pub(super) fn requests(&mut self) -> Vec<ControlRequest> {
        let now = Instant::now();
        while self.connections.len() < CONNECTIONS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_ok() {
                let phase = Phase::Asking { bytes: Vec::new(), until: now + REQUEST_PATIENCE };
                self.connections.push(Connection { stream, phase });
            }
        }
        let requests = self.connections.iter_mut().filter_map(|c| c.read(now)).collect();
        self.connections.retain(|c| !matches!(c.phase, Phase::Over));
        requests
    }

    /// Answers those whose time has come.
    pub(super) fn answer(&mut self, reply: &ControlReply) {
        let now = Instant::now();
        self.answer_where(reply, |seen, until| seen != reply.status || until <= now);
    }

    /// Answers all that wait.
    pub(super) fn answer_all(&mut self, reply: &ControlReply) {
        self.answer_where(reply, |_, _| true);
    }

    fn answer_where(&mut self, reply: &ControlReply, now: impl Fn(i32, Instant) -> bool) {
        for connection in &mut self.connections {
            if matches!(connection.phase, Phase::Waiting { seen, until } if now(seen, until)) {
                // Smaller than a socket's buffer, so it goes at once or never.
                let _ = connection.stream.write_all(&records::frame(&reply.encode_to_vec()));
                connection.phase = Phase::Over;
            }
        }
        self.connections.retain(|c| !matches!(c.phase, Phase::Over));
    }
}

impl Connection {
    fn read(&mut self, now: Instant) -> Option<ControlRequest> {
        let mut chunk = [0; 1024];
        let mut closed = false;
        loop {
            match (self.stream.read(&mut chunk), &mut self.phase) {
                (Ok(count), Phase::Asking { bytes, .. }) if count > 0 => {
                    bytes.extend_from_slice(&chunk[..count])
                }
                (Err(e), _) if e.kind() == io::ErrorKind::Interrupted => {}
                (Err(e), _) if e.kind() == io::ErrorKind::WouldBlock => break,
                // Whoever awaits no answer closes at once.
                (Ok(0), Phase::Asking { .. }) => {
                    closed = true;
                    break;
                }
                // Closed, broken, or talking out of turn.
                _ => {
                    self.phase = Phase::Over;
                    return None;
                }
            }
            if let Phase::Asking { bytes, .. } = &self.phase
                && bytes.len() >= records::HEADER_BYTES + MESSAGE_BYTES_MAX
            {
                break;
            }
        }
        let Phase::Asking { bytes, until } = &self.phase else { return None };
        let request = match records::take_frame(bytes, MESSAGE_BYTES_MAX) {
            Ok(Some(payload)) => ControlRequest::decode(payload),
            Ok(None) if *until > now && !closed => return None,
            Ok(None) | Err(_) => {
                self.phase = Phase::Over;
                return None;
            }
        };
        let Ok(request) = request else {
            self.phase = Phase::Over;
            return None;
        };
        self.phase = match &request.body {
            Some(Body::Ping(ping)) if ping.wait_ms > 0 => {
                Phase::Waiting { seen: ping.seen, until: now + Duration::from_millis(ping.wait_ms.into()) }
            }
            _ => Phase::Waiting { seen: -1, until: now },
        };
        Some(request)
    }
}
