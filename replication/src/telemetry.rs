//! The metrics of this room, their names and their HELP. What they say is measured where it happens.

use std::sync::Mutex;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::log::lock;

/// Says what each metric means; call once, after the recorder is installed.
pub fn describe() {
    describe_histogram!(
        "borealis_raft_fsync_seconds",
        Unit::Seconds,
        "Time to sync one write of the replicated log to disk."
    );
    describe_counter!("borealis_raft_comparisons_total", "Times this leader compared all replicas' rows.");
    describe_gauge!(
        "borealis_raft_rows_differ",
        "1 if not all replicas had the same rows when this leader last compared them, else 0."
    );
    differ(false);
    describe_gauge!(
        "borealis_raft_disk_free_bytes",
        Unit::Bytes,
        "Free space where the data directory lies."
    );
    describe_gauge!(
        "borealis_raft_disk_full",
        "1 while the disk is nearly full and this replica takes no entries, else 0."
    );
    gauge!("borealis_raft_disk_full").set(0.0);
    describe_counter!("borealis_raft_appended_entries_total", "Entries written to the replicated log.");
    describe_counter!(
        "borealis_raft_appended_bytes_total",
        Unit::Bytes,
        "Bytes of entries written to the replicated log."
    );
    describe_histogram!(
        "borealis_raft_commit_seconds",
        Unit::Seconds,
        "Time from proposing one entry of commands to its answer."
    );
    describe_histogram!("borealis_raft_apply_seconds", Unit::Seconds, "Time to apply one entry to memory.");
    describe_histogram!("borealis_raft_cut_seconds", Unit::Seconds, "Time to write one cut of rows.");
    describe_histogram!("borealis_raft_flush_seconds", Unit::Seconds, "Time to flush and sync the rows.");
    describe_gauge!("borealis_raft_committed_index", "Index up to which entries are known to be committed.");
    describe_gauge!("borealis_raft_applied_index", "Index up to which entries are applied to memory.");
    describe_gauge!("borealis_raft_stored_index", "Index up to which rows are flushed and synced.");
    describe_gauge!("borealis_raft_snapshot_index", "Index of the newest snapshot.");
    describe_gauge!("borealis_raft_last_log_index", "Index of the last entry in the log.");
    describe_gauge!("borealis_raft_term", "Raft's term.");
    describe_gauge!("borealis_raft_is_leader", "1 on the replica that leads, else 0.");
    describe_gauge!(
        "borealis_raft_role",
        "1 for the role this replica has: leader, candidate, follower, learner."
    );
    describe_counter!("borealis_raft_leader_changes_total", "Times this replica saw another leader.");
    describe_counter!("borealis_raft_proposals_total", "Commands proposed here, by how they ended.");
    describe_gauge!(
        "borealis_raft_quorum_silence_seconds",
        "On the leader: time since a quorum last followed it."
    );
    describe_counter!(
        "borealis_raft_snapshots_total",
        "Snapshots by what was done with them: built, sent, installed."
    );
    describe_counter!(
        "borealis_raft_snapshot_bytes_total",
        Unit::Bytes,
        "Bytes of snapshots' files that were sent to another replica or received from one."
    );
    describe_histogram!(
        "borealis_raft_snapshot_seconds",
        Unit::Seconds,
        "Time to take a snapshot: rows stored, copied, summed, synced."
    );
    describe_counter!(
        "borealis_raft_refused_messages_total",
        "Messages of other replicas that were refused, by reason."
    );
}

pub(crate) fn appended(entries: u64, bytes: usize) {
    counter!("borealis_raft_appended_entries_total").increment(entries);
    counter!("borealis_raft_appended_bytes_total").increment(bytes as u64);
}

/// Of so many the median is taken.
const SYNCS_LATELY: usize = 64;
/// Syncs whose times are remembered.
const SYNCS_KEPT: usize = 1024;

/// The newest syncs of this process's log, in microseconds, and where the next one goes.
static SYNCS: Mutex<(Vec<u32>, usize)> = Mutex::new((Vec::new(), 0));

/// 99th percentile of the newest syncs.
pub(crate) fn sync_p99() -> Option<Duration> {
    quantile(lock(&SYNCS).0.clone(), 99)
}

/// Median of the last few syncs.
pub(crate) fn sync_median() -> Option<Duration> {
    let (kept, next) = &*lock(&SYNCS);
    if kept.len() < SYNCS_LATELY {
        return None;
    }
    let newest = (1..=SYNCS_LATELY).map(|ago| kept[(next + kept.len() - ago) % kept.len()]);
    quantile(newest.collect(), 50)
}

fn quantile(mut took: Vec<u32>, percent: usize) -> Option<Duration> {
    took.sort_unstable();
    let at = (took.len() * percent).div_ceil(100).checked_sub(1)?;
    took.get(at).map(|us| Duration::from_micros(u64::from(*us)))
}

/// The replicas' rows were compared.
pub(crate) fn compared(they_differ: bool) {
    counter!("borealis_raft_comparisons_total").increment(1);
    differ(they_differ);
}

/// Whether the replicas' rows differ; who does not lead does not say so.
pub(crate) fn differ(they_differ: bool) {
    gauge!("borealis_raft_rows_differ").set(if they_differ { 1.0 } else { 0.0 });
}

/// Free bytes where the data directory lies, and whether that is too little.
pub(crate) fn space(free: u64, is_full: bool) {
    gauge!("borealis_raft_disk_free_bytes").set(free as f64);
    gauge!("borealis_raft_disk_full").set(if is_full { 1.0 } else { 0.0 });
}

pub(crate) fn synced(took: Duration) {
    {
        let mut syncs = lock(&SYNCS);
        let (us, next) = (u32::try_from(took.as_micros()).unwrap_or(u32::MAX), syncs.1);
        match syncs.0.get_mut(next) {
            Some(oldest) => *oldest = us,
            None => syncs.0.push(us),
        }
        syncs.1 = (next + 1) % SYNCS_KEPT;
    }
    histogram!("borealis_raft_fsync_seconds").record(took.as_secs_f64());
}

pub(crate) fn committed(took: Duration) {
    histogram!("borealis_raft_commit_seconds").record(took.as_secs_f64());
}

pub(crate) fn applied(took: Duration) {
    histogram!("borealis_raft_apply_seconds").record(took.as_secs_f64());
}

pub(crate) fn cut(took: Duration) {
    histogram!("borealis_raft_cut_seconds").record(took.as_secs_f64());
}

pub(crate) fn flushed(took: Duration, stored: u64) {
    histogram!("borealis_raft_flush_seconds").record(took.as_secs_f64());
    gauge!("borealis_raft_stored_index").set(stored as f64);
}

pub(crate) fn proposals(outcome: &'static str, commands: usize) {
    counter!("borealis_raft_proposals_total", "outcome" => outcome).increment(commands as u64);
}

pub(crate) fn snapshot(what: &'static str) {
    counter!("borealis_raft_snapshots_total", "what" => what).increment(1);
}

/// Part of a snapshot's files went to another replica ("sent") or came from one ("received").
pub(crate) fn snapshot_bytes(what: &'static str, bytes: usize) {
    counter!("borealis_raft_snapshot_bytes_total", "what" => what).increment(bytes as u64);
}

pub(crate) fn snapshot_taken(took: Duration) {
    histogram!("borealis_raft_snapshot_seconds").record(took.as_secs_f64());
}

pub(crate) fn refused(reason: &'static str) {
    counter!("borealis_raft_refused_messages_total", "reason" => reason).increment(1);
}

pub(crate) fn leader_changed() {
    counter!("borealis_raft_leader_changes_total").increment(1);
}

/// The gauges that follow a replica's status.
pub(crate) fn status(status: &crate::Status, quorum_silence: Option<Duration>) {
    gauge!("borealis_raft_committed_index").set(status.committed as f64);
    gauge!("borealis_raft_applied_index").set(status.applied as f64);
    gauge!("borealis_raft_snapshot_index").set(status.snapshot as f64);
    gauge!("borealis_raft_last_log_index").set(status.last_log as f64);
    gauge!("borealis_raft_term").set(status.term as f64);
    let leads = status.leader == Some(status.node_id);
    gauge!("borealis_raft_is_leader").set(if leads { 1.0 } else { 0.0 });
    for role in ["leader", "candidate", "follower", "learner"] {
        gauge!("borealis_raft_role", "role" => role).set(if status.state == role { 1.0 } else { 0.0 });
    }
    gauge!("borealis_raft_quorum_silence_seconds")
        .set(quorum_silence.map_or(0.0, |silence| silence.as_secs_f64()));
}
