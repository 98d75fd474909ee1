//! All names of this process' metrics, and their help texts. Raft's are in `replication`'s file of the same name.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// 1 on the leader, else 0.
pub const LEADING: &str = "borealis_scheduler_leading";
/// Seconds spent deciding one round.
pub const ROUND_SECONDS: &str = "borealis_scheduler_round_seconds";
/// Placements that apply accepted.
pub const PLACEMENTS: &str = "borealis_scheduler_placements_total";
/// Placements that apply refused because State had moved on.
pub const PLACEMENTS_REFUSED: &str = "borealis_scheduler_placements_refused_total";
/// On how many hosts a veto stands now, by kind, summed over the groups that wait.
pub const VETOES: &str = "borealis_scheduler_vetoes";
/// Tasks that were to make room for others, by outcome.
pub const PREEMPTIONS: &str = "borealis_scheduler_preemptions_total";
/// Room that is kept on hosts for waiting tasks.
pub const RESERVATIONS: &str = "borealis_scheduler_reservations";
/// 1 while a person has stopped all decisions.
pub const FROZEN: &str = "borealis_scheduler_frozen";
/// 1 while nothing is replaced because too many hosts fell silent at once.
pub const BRAKED: &str = "borealis_scheduler_braked";
/// PARTITIONED tasks that will be replaced.
pub const REPLACEMENTS_WAITING: &str = "borealis_scheduler_replacements_waiting";
/// Hosts that had other tasks than State believed.
pub const RESYNCS: &str = "borealis_scheduler_resyncs_total";
/// Live tasks by status.
pub const TASKS: &str = "borealis_scheduler_tasks";
/// Jobs.
pub const JOBS: &str = "borealis_scheduler_jobs";
/// Hosts by whether they are heard.
pub const HOSTS: &str = "borealis_scheduler_hosts";
/// Agent streams held by this replica.
pub const AGENT_STREAMS: &str = "borealis_scheduler_agent_streams";
/// Commands proposed by the leader, by kind and outcome.
pub const PROPOSALS: &str = "borealis_scheduler_proposals_total";
/// Requests of users, by operation and outcome.
pub const REQUESTS: &str = "borealis_scheduler_requests_total";
/// Seconds from a request's arrival to its answer.
pub const REQUEST_SECONDS: &str = "borealis_scheduler_request_seconds";
/// Agents' hellos, by what they said.
pub const HELLOS: &str = "borealis_scheduler_hellos_total";
/// Wanted sets sent to hosts.
pub const WANTED_SETS: &str = "borealis_scheduler_wanted_sets_total";
/// Seconds from gaining leadership to the session's first round.
pub const SESSION_START_SECONDS: &str = "borealis_scheduler_session_start_seconds";
/// Backups by the clock, by how they ended.
pub const BACKUPS: &str = "borealis_scheduler_backups_total";
/// When the newest backup was taken and the command after it, if there is one, succeeded; in seconds of Unix time, 0
/// before the first.
pub const BACKUP_TAKEN: &str = "borealis_scheduler_backup_taken_timestamp_seconds";
/// 1; the label says which version runs.
pub const BUILD_INFO: &str = "borealis_scheduler_build_info";

/// Gives every metric its help text, and the gauges a first value.
pub fn describe() {
    describe_counter!(
        BACKUPS,
        "Backups by the clock: taken; failed; or taken, and the command after it failed."
    );
    describe_gauge!(
        BACKUP_TAKEN,
        Unit::Seconds,
        "When this replica took its newest backup by the clock, and the command after it succeeded, in Unix time."
    );
    describe_gauge!(LEADING, "1 on the replica that leads, else 0.");
    describe_histogram!(ROUND_SECONDS, Unit::Seconds, "Time to decide one scheduling round.");
    describe_counter!(PLACEMENTS, "Placements that were committed and accepted.");
    describe_counter!(PLACEMENTS_REFUSED, "Placements that apply refused because State had moved on.");
    describe_gauge!(VETOES, "Hosts that cannot take a waiting task now, by the kind of reason.");
    describe_counter!(PREEMPTIONS, "Tasks chosen to make room for others, by what became of it.");
    describe_gauge!(RESERVATIONS, "Waiting tasks for which room is kept on a host.");
    describe_gauge!(FROZEN, "1 while the cluster is frozen or held: nothing is placed, expired or replaced.");
    describe_gauge!(BRAKED, "1 while no task is replaced because too many hosts fell silent at once.");
    describe_gauge!(REPLACEMENTS_WAITING, "Tasks on silent hosts that wait to be replaced.");
    describe_counter!(RESYNCS, "Hosts that had other tasks than State believed, and said all anew.");
    describe_gauge!(TASKS, "Live tasks, by status.");
    describe_gauge!(JOBS, "Jobs with at least one live task.");
    describe_gauge!(HOSTS, "Registered hosts, by whether they are heard.");
    describe_gauge!(AGENT_STREAMS, "Streams of agents that this replica holds.");
    describe_counter!(PROPOSALS, "Commands the leader's loop proposed, by kind and outcome.");
    describe_counter!(REQUESTS, "Requests of users, by operation and outcome.");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "Time from a request's arrival to its answer.");
    describe_counter!(
        HELLOS,
        "Hellos of agents: whole; brief, for nothing had changed; or brief and doubted, so that a whole one follows."
    );
    describe_counter!(WANTED_SETS, "Wanted sets sent to hosts.");
    describe_histogram!(
        SESSION_START_SECONDS,
        Unit::Seconds,
        "Time from gaining leadership to the first round."
    );
    describe_gauge!(BUILD_INFO, "Always 1; the label says which version runs.");
    for outcome in ["taken", "failed", "command_failed"] {
        metrics::counter!(BACKUPS, "outcome" => outcome).absolute(0);
    }
    metrics::gauge!(BACKUP_TAKEN).set(0.0);
    metrics::gauge!(LEADING).set(0.0);
    metrics::gauge!(AGENT_STREAMS).set(0.0);
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Bounds of every histogram in seconds: 50 microseconds to 30 seconds.
pub const SECONDS_BUCKETS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
