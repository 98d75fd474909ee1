//! Every metric of the agent, with its help text. Nothing else names one.

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Hosts of this agent that a scheduler has registered on their current stream.
pub const CONNECTED: &str = "borealis_agent_connected";
/// Streams that ended, for whatever reason.
pub const STREAMS_ENDED: &str = "borealis_agent_streams_ended_total";
/// Tasks in the journal, by whether they have ended.
pub const TASKS: &str = "borealis_agent_tasks";
/// Executors spawned.
pub const LAUNCHES: &str = "borealis_agent_launches_total";
/// Starts that were not obeyed because the order was too old.
pub const STARTS_STALE: &str = "borealis_agent_starts_stale_total";
/// Terminal reports, by status.
pub const TASKS_ENDED: &str = "borealis_agent_tasks_ended_total";
/// Reports that wait for their acknowledgement.
pub const REPORTS_WAITING: &str = "borealis_agent_reports_waiting";
/// Frames that were refused, by reason.
pub const FRAMES_REFUSED: &str = "borealis_agent_frames_refused_total";
/// Bytes of the journal.
pub const JOURNAL_BYTES: &str = "borealis_agent_journal_bytes";
/// Seconds of a journal sync.
pub const JOURNAL_SYNC_SECONDS: &str = "borealis_agent_journal_sync_seconds";
/// Generation of the newest wanted set that is wholly obeyed.
pub const GENERATION: &str = "borealis_agent_generation_obeyed";

/// Installs the recorder of this process and describes every metric.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let buckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(JOURNAL_SYNC_SECONDS.into()), &buckets)?
        .install_recorder()?;
    describe_gauge!(
        CONNECTED,
        "Hosts of this agent that a scheduler has registered on their current stream: 0 or 1 unless they are simulated."
    );
    describe_counter!(STREAMS_ENDED, "Streams to schedulers that ended, for whatever reason.");
    describe_gauge!(TASKS, "Tasks in the journal, by whether they are live or ended and not yet forgotten.");
    describe_counter!(LAUNCHES, "Executors that were spawned.");
    describe_counter!(STARTS_STALE, "Starts that were not obeyed because the order was too old.");
    describe_counter!(TASKS_ENDED, "Terminal reports made, by status.");
    describe_gauge!(REPORTS_WAITING, "Reports that wait to be acknowledged as applied.");
    describe_counter!(FRAMES_REFUSED, "Frames of schedulers that were not obeyed, by reason.");
    describe_gauge!(JOURNAL_BYTES, "Size of the journal in bytes.");
    describe_histogram!(JOURNAL_SYNC_SECONDS, "Time that a sync of the journal took, in seconds.");
    describe_gauge!(GENERATION, "Generation of the newest wanted set that is wholly obeyed.");
    for name in [STREAMS_ENDED, LAUNCHES, STARTS_STALE] {
        metrics::counter!(name).absolute(0);
    }
    for name in [CONNECTED, REPORTS_WAITING, JOURNAL_BYTES, GENERATION] {
        metrics::gauge!(name).set(0.0);
    }
    Ok(handle)
}
