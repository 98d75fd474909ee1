//! Every maximum of the agent in one place.

use std::time::Duration;

/// How old the heartbeat that a start echoes may be.
pub const START_AGE_MAX: Duration = Duration::from_secs(5);
/// A task of which at most one copy may live ends when the newest heartbeat that a leader acknowledged was sent so long
/// ago: its executor holds this lease, see [`executor::run`].
pub const AGENT_LEASE: Duration = Duration::from_secs(8);
/// A leader goes on acknowledging this long after a quorum has last acknowledged it.
const LEADER_LEASE_MS: u128 = 1_000;
/// From the end of a lease until nothing of the task is left.
const KILL_MS: u128 = 4_000;
/// The scheduler gives a task of a silent host to another host no sooner.
const REPLACE_AFTER_MS: u128 = 15_000;
/// Between two heartbeats.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Heartbeats that a session remembers; older ones are stale for sure.
pub const HEARTBEATS_REMEMBERED: usize = 256;
/// Frames that wait to be sent on a stream.
pub const FRAMES_OUT_MAX: usize = 256;
/// Events that wait for the host's thread.
pub const EVENTS_MAX: usize = 1024;
/// Events that the host's thread takes at once, before one sync.
pub const EVENTS_PER_TURN_MAX: usize = 256;
/// Reports in one frame.
pub const REPORTS_PER_FRAME_MAX: usize = 1000;
/// Bytes of a report's message.
pub const REPORT_MESSAGE_BYTES_MAX: usize = 1024;
/// Tasks in one wanted set that are believed.
pub const WANTED_TASKS_MAX: usize = 20_000;
/// Task configs kept by hash.
pub const CONFIGS_MAX: usize = 4096;
/// Largest message taken from a scheduler, in bytes.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Ids of forgotten tasks that are remembered, so that none of them starts again.
pub const BURNED_MAX: usize = 65_536;
/// The journal is written anew when it is larger than this and has doubled, in bytes.
pub const JOURNAL_BYTES_MAX: u64 = 16 << 20;
/// Unacknowledged reports are sent again after this.
pub const RESEND_AFTER: Duration = Duration::from_secs(2);
/// A stream without a valid frame for this long is given up for another replica.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// For a connection to a replica.
pub const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Longest pause between two attempts to connect.
pub const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// After a scheduler refused the host.
pub const REFUSED_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause after refusals.
pub const REFUSED_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Jobs (kills, cleaning, removals) that wait for a worker.
pub const JOBS_MAX: usize = 4096;
/// Threads that do what may block.
pub const WORKERS: usize = 4;
/// For an answer of an executor.
pub const CONTROL_MAX: Duration = Duration::from_secs(2);
/// For what a dead executor left behind to end.
pub const CLEAN_PATIENCE: Duration = Duration::from_secs(3);
/// For a spawned executor to say its first word.
pub const FIRST_WORD_MAX: Duration = Duration::from_secs(60);
/// Between two looks at sandboxes that may be removed.
pub const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Bytes of a log in one answer.
pub const LOG_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a log in one answer when the question does not say.
pub const LOG_BYTES_DEFAULT: u64 = 64 << 10;
/// Entries of a directory in one answer.
pub const LISTING_MAX: usize = 1000;

// What one clock calls the end of a lease is not past what another calls the time to replace the task: clocks differ
// by 1% at most, and a second is left over. A link may fail right after a lease was renewed, or break three times.
const _: () = {
    let leases_ms = LEADER_LEASE_MS + AGENT_LEASE.as_millis() + KILL_MS;
    assert!(leases_ms + leases_ms / 100 + 1_000 <= REPLACE_AFTER_MS, "two copies may live");
    assert!(START_AGE_MAX.as_millis() < AGENT_LEASE.as_millis(), "a fresh start would find its lease over");
};
const _: () = assert!(EVENTS_PER_TURN_MAX <= EVENTS_MAX, "a turn must fit the queue");
