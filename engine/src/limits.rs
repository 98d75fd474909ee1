//! Every maximum and every interval of the engine, and how they relate. Full means "no", at once.

/// The newest level that this build can act at. State says at which it acts.
pub const LEVEL: u32 = 2;
/// The level at which a new State begins.
pub const LEVEL_FIRST: u32 = 1;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Tasks that one command may create, kill or move; more becomes a work item.
pub const TASKS_PER_COMMAND_MAX: usize = 10_000;
/// Instances of one job.
pub const INSTANCES_PER_JOB_MAX: u32 = 100_000;
/// Instances that a kill may name; without names it means all.
pub const INSTANCES_NAMED_MAX: usize = TASKS_PER_COMMAND_MAX;
/// Jobs in State, those that ended and are still shown included.
pub const JOBS_MAX: usize = 200_000;
/// Live tasks in State.
pub const TASKS_MAX: usize = 4_000_000;
/// Hosts in State, silent ones included.
pub const HOSTS_MAX: usize = 250_000;
/// Live tasks on one host.
pub const TASKS_PER_HOST_MAX: usize = 10_000;
/// Work items at one time.
pub const WORK_MAX: usize = 1_000;
/// Reports in one command.
pub const REPORTS_PER_COMMAND_MAX: usize = 20_000;
/// Deadlines that one tick expires.
pub const DEADLINES_PER_COMMAND_MAX: usize = 2_000;
/// Events of one task that get a row.
pub const EVENTS_PER_TASK_MAX: u32 = 1_000;
/// Ended tasks of a job that State remembers.
pub const ENDED_PER_JOB_MAX: usize = 100;
/// Roles that have a quota.
pub const ROLES_WITH_QUOTA_MAX: usize = 10_000;
/// Updates in flight.
pub const UPDATES_MAX: usize = 10_000;
/// Cron jobs.
pub const CRONS_MAX: usize = 10_000;
/// Hosts that one command drains or activates.
pub const HOSTS_NAMED_MAX: usize = 1_000;
/// Tasks that make room for one.
pub const VICTIMS_MAX: usize = 100;
/// Tasks that are placed together or not at all.
pub const TOGETHER_MAX: u32 = 1_000;
/// Requests remembered at one time; never evicted early.
pub const REQUESTS_MAX: usize = 1_000_000;

/// Bytes of a message that stays in State or history; longer ones are cut.
pub const MESSAGE_BYTES_MAX: usize = 1_024;
/// Bytes of an identity or a request id.
pub const REQUEST_ID_BYTES_MAX: usize = 255;
/// Bytes of one task config as stored.
pub const CONFIG_BYTES_MAX: usize = 128 * 1_024;
/// Bytes of one command line.
pub const CMDLINE_BYTES_MAX: usize = 64 * 1_024;
/// Processes of one task.
pub const PROCESSES_MAX: usize = 200;
/// Orderings of one task, and names in all of them.
pub const ORDERING_NAMES_MAX: usize = 2_000;
/// Named ports of one task.
pub const PORTS_PER_TASK_MAX: usize = 100;
/// GPUs of one task.
pub const GPUS_PER_TASK_MAX: u32 = 1_000;
/// Constraints of one task.
pub const CONSTRAINTS_MAX: usize = 50;
/// Values of one constraint.
pub const CONSTRAINT_VALUES_MAX: usize = 100;
/// Spreads of one job.
pub const SPREADS_MAX: usize = 4;
/// Metadata entries of one job.
pub const METADATA_MAX: usize = 100;
/// Attributes of one host.
pub const ATTRIBUTES_MAX: usize = 200;
/// Port ranges of one host.
pub const PORT_RANGES_MAX: usize = 100;
/// Bytes of a name or value that people give (attributes, metadata, contact).
pub const TEXT_BYTES_MAX: usize = 1_024;

/// A task that stays this long in a state that should pass is LOST.
pub const TRANSIENT_TIMEOUT_MS: u64 = 5 * MINUTE_MS;
/// A PARTITIONED task is replaced after this, by the default partition policy.
pub const PARTITION_DELAY_MS: u64 = 0;
/// The longest delay that a job may ask for instead: after it a silent host is forgotten anyway.
pub const PARTITION_DELAY_MAX_MS: u64 = SILENT_HOST_MS;
/// A task that dies sooner than this after its last change has flapped.
pub const FLAP_THRESHOLD_MS: u64 = 5 * MINUTE_MS;
/// The first flapping penalty; it doubles.
pub const FLAP_PENALTY_MIN_MS: u64 = 30_000;
/// The largest flapping penalty.
pub const FLAP_PENALTY_MAX_MS: u64 = 5 * MINUTE_MS;
/// How long a request is remembered, and how old one may arrive.
pub const REQUEST_WINDOW_MS: u64 = HOUR_MS;
/// How far ahead of State's clock a request may claim to be.
pub const REQUEST_AHEAD_MS: u64 = 5 * MINUTE_MS;
/// The farthest one command may move the clock, but for the first of a session.
pub const CLOCK_JUMP_MAX_MS: u64 = HOUR_MS;
/// The clock is there already, where it shows this much more than a person wants: the command was under way.
pub const CLOCK_SET_LATE_MS: u64 = MINUTE_MS;
/// The farthest that a person may set the clock forward: more is a slip of the pen.
pub const CLOCK_SET_MAX_MS: u64 = 3_660 * DAY_MS;
/// How far a session's first command may be from the median of the quorum's clocks.
pub const CLOCK_MEDIAN_DISTANCE_MAX_MS: u64 = MINUTE_MS;
/// A session that begins this much later than State's time follows a gap: hosts could not report meanwhile.
pub const SESSION_GAP_MS: u64 = 10_000;
/// After a gap hosts have this long to report before transient statuses expire.
pub const SESSION_GRACE_MS: u64 = 30_000;
/// How long room is kept for a task for which others were displaced.
pub const PREEMPTION_ROOM_MS: u64 = TRANSIENT_TIMEOUT_MS + MINUTE_MS;
/// How long a restarted task's room is kept for its successor.
pub const RESTART_ROOM_MS: u64 = 30_000;
/// How far back hosts that fell silent count for the brake on replacement.
pub const BRAKE_WINDOW_MS: u64 = MINUTE_MS;
/// Of all hosts, the share that may fall silent in that time.
pub const BRAKE_SHARE_PERCENT: usize = 20;
/// So many may in any case.
pub const BRAKE_HOSTS_MIN: usize = 3;
/// How long hosts are counted whose tasks are replaced.
pub const REPLACED_WINDOW_MS: u64 = MINUTE_MS;
/// Of all hosts, the share whose tasks may be replaced in that time.
pub const REPLACED_SHARE_PERCENT: usize = 10;
/// So many may in any case.
pub const REPLACED_HOSTS_MIN: usize = 50;
/// How long an ended job stays visible.
pub const JOB_HISTORY_MS: u64 = 2 * DAY_MS;
/// How long a silent host stays known.
pub const SILENT_HOST_MS: u64 = DAY_MS;

/// Placements of one round.
pub const PLACEMENTS_PER_ROUND_MAX: usize = 10_000;
/// Placements proposed and not yet settled.
pub const IN_FLIGHT_MAX: usize = 100_000;

const _: () =
    assert!(TASKS_PER_HOST_MAX <= TASKS_PER_COMMAND_MAX, "silence moves all tasks of a host at once");
const _: () = assert!(TASKS_PER_HOST_MAX <= REPORTS_PER_COMMAND_MAX, "a host says hello with all its tasks");
const _: () = assert!(INSTANCES_NAMED_MAX <= TASKS_PER_COMMAND_MAX, "a kill by name is one command");
const _: () =
    assert!(DEADLINES_PER_COMMAND_MAX <= TASKS_PER_COMMAND_MAX, "a tick moves a bounded number of tasks");
const _: () = assert!(INSTANCES_PER_JOB_MAX as usize <= TASKS_MAX, "the largest job fits");
const _: () = assert!(PLACEMENTS_PER_ROUND_MAX <= IN_FLIGHT_MAX, "a round fits in flight");
const _: () = assert!(REQUEST_AHEAD_MS < REQUEST_WINDOW_MS && REQUEST_WINDOW_MS <= CLOCK_JUMP_MAX_MS);
const _: () =
    assert!(PREEMPTION_ROOM_MS > TRANSIENT_TIMEOUT_MS, "room is kept until those displaced are gone");
const _: () = assert!(FLAP_PENALTY_MIN_MS <= FLAP_PENALTY_MAX_MS);
const _: () = assert!(CMDLINE_BYTES_MAX <= CONFIG_BYTES_MAX);
