//! Every maximum of the replica process, and how they relate. Full means "no, retry later", at once.

use std::time::Duration;

/// Events waiting for the leader's loop: agents' frames, opened and closed links.
pub const LEADER_INBOX_MAX: usize = 16_384;
/// Frames waiting for one agent; an agent that is slower than this is cut off and comes again.
pub const AGENT_OUTBOX_MAX: usize = 64;
/// Frames waiting on the stream between two replicas, either way.
pub const RELAY_QUEUE_MAX: usize = 8_192;
/// Agent streams one replica holds.
pub const AGENT_STREAMS_MAX: usize = 60_000;
/// Hints kept for the leader; more, and it reads the whole State anew.
pub const HINTS_MAX: usize = 200_000;
/// Commands the leader's loop has in the log at once. Requests of users are beside this.
pub const PROPOSALS_MAX: usize = 512;
/// Placements of one round.
pub const PLACEMENTS_PER_ROUND_MAX: usize = 10_000;
/// Bytes of the reports in one command; more go into the next. Well below what an entry of the log may have.
pub const REPORTS_BYTES_MAX: usize = 128 << 10;
/// Counted for a report beside its message, at least what its numbers take.
pub const REPORT_FIXED_BYTES: usize = 40;
/// Bytes of one message from a user or an agent.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes of one answer to a user; what clients take, too.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes of task configs in one frame to an agent, but for one config; the rest goes with the next frame.
pub const CONFIGS_BYTES_MAX: usize = 1 << 20;
/// Plans in the making at one time.
pub const PLANS_MAX: usize = 2;
/// Answers about waiting tasks that are counted at one time; others wait for their turn.
pub const COUNTING_MAX: usize = 2;
/// Tasks in one answer about a job.
pub const TASKS_PER_ANSWER_MAX: usize = 10_000;
/// Roles in one answer.
pub const ROLES_PER_ANSWER_MAX: usize = 10_000;
/// Jobs in one answer.
pub const JOBS_PER_ANSWER_MAX: usize = 100_000;

/// The newest level of an agent's hello that this program understands.
pub const AGENT_LEVEL_MAX: u32 = 2;

/// How long a leader may trust its last acknowledgement by a quorum before it stops sending starts and kills.
pub const LEADER_LEASE: Duration = Duration::from_secs(1);
/// A host not heard for this long is PARTITIONED, whatever the fleet's size.
pub const SILENCE: Duration = Duration::from_secs(15);
/// A host whose newest wanted set is not obeyed after this long is sent it again.
pub const RESEND: Duration = Duration::from_secs(1);
/// A host's tasks are compared with State's this often, in one number.
pub const COMPARE: Duration = Duration::from_secs(60);
/// A host that has more to lend is believed this often; one that needs something back at once.
pub const UNUSED_EVERY: Duration = Duration::from_secs(10);
/// How far ahead of the leader's machine a person may set the cluster's clock.
pub const CLOCK_SET_AHEAD_MAX: Duration = Duration::from_secs(60);
/// How often the leader looks at deadlines and silent hosts.
pub const SWEEP: Duration = Duration::from_millis(100);
/// Between two rounds under load.
pub const ROUND_PACE: Duration = Duration::from_millis(50);
/// How long a request waits for a leader to appear before it is told that there is none.
pub const LEADER_WAIT: Duration = Duration::from_secs(3);
/// How long a request waits for the log before its fate is unknown.
pub const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// How long a replica that does not lead tries to answer a read itself before it asks the leader to.
pub const FOLLOWER_READ_WAIT: Duration = Duration::from_millis(300);
/// How often replicas read each other's clocks.
pub const CLOCK_READ: Duration = Duration::from_secs(5);

const _: () = assert!(
    LEADER_LEASE.as_millis() * 5 < SILENCE.as_millis(),
    "starts must stop long before a host counts as lost"
);
const _: () =
    assert!(PLACEMENTS_PER_ROUND_MAX <= HINTS_MAX, "one round's effects must not overflow the hints");
