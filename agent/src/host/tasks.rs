//! What executors do: their checkpoints become reports, their deaths are cleaned up after, their tasks are killed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::Child;

use executor::checkpoint::is_terminal;
use executor::identity::{self, ProcessIdentity};
use executor::layout::TaskDir;
use executor::records;
use isolation::Cgroup;
use prost::Message as _;
use proto::TaskId;
use proto::wire::{self, CheckpointRecord, Status, TaskRecord, checkpoint_record, journal_record};

use super::{Fatal, Host};
use crate::clock;
use crate::limits::{FIRST_WORD_MAX, REPORT_MESSAGE_BYTES_MAX};
use crate::plan::{Force, Killing};
use crate::telemetry;
use crate::work::{Done, Job};

/// Bytes of a checkpoint that are read at once.
const READ_BYTES: usize = 64 << 10;
/// Between two attempts to clean up after a task.
const CLEAN_AGAIN_MS: u64 = 5_000;
/// Between two looks for processes that were killed for want of memory.
const MEMORY_LOOK_MS: u64 = 1_000;

/// What a task that the kernel killed for want of memory is told by.
pub fn message_of_oom() -> &'static str {
    "Task used more memory than requested."
}

/// A task that has, or had, an executor here.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) dir: TaskDir,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) executor: Option<ProcessIdentity>,
    /// When this very agent spawned it: must be waited for.
    pub(super) child: Option<Child>,
    pub(super) watch: Option<i32>,
    pub(super) wait_ms: u64,
    /// Whether at most one copy of it may live, so that its executor holds a lease.
    pub(super) leased: bool,
    /// Unless it is revocable, and so lends nothing.
    pub(super) reserved: Option<wire::Resources>,
    pub(super) killing: Option<Killing>,
    /// Why it must end, whatever is wanted.
    pub(super) doomed: Option<&'static str>,
    phase: Phase,
    since_ms: u64,
    memory_looked_ms: u64,
    /// Of the checkpoint, that were read.
    read_bytes: u64,
    spoke: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The executor runs, as far as is known.
    Running,
    /// The executor is gone; what it left is being ended.
    Cleaning {
        /// When a worker was asked; `None` = none had room yet.
        asked_ms: Option<u64>,
    },
    /// Nothing of it is left but its directory.
    Gone,
}

impl Task {
    pub(super) fn new(dir: TaskDir, cgroup: Option<Cgroup>) -> Self {
        Task {
            dir,
            cgroup,
            executor: None,
            child: None,
            watch: None,
            wait_ms: 0,
            leased: false,
            reserved: None,
            killing: None,
            doomed: None,
            phase: Phase::Running,
            since_ms: clock::boottime_ms(),
            memory_looked_ms: 0,
            read_bytes: 0,
            spoke: false,
        }
    }

    /// What is to be known of it all the time, from what its executor was told.
    pub(super) fn take(&mut self, launch: &wire::Launch) {
        let Some(config) = &launch.config else { return };
        let Some(spec) = &config.task else { return };
        self.wait_ms = u64::from(spec.finalization_wait_seconds) * 1000;
        self.leased = config.at_most_one;
        self.reserved = spec.resources.filter(|_| config.tier != "revocable");
    }

    /// A task whose executor is known to be gone.
    pub(super) fn gone_executor(mut self) -> Self {
        self.phase = Phase::Cleaning { asked_ms: None };
        self
    }

    /// Whether its executor may still run.
    pub(super) fn is_alive(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether nothing is left but its directory.
    pub(super) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Whether nothing tells when it changes.
    pub(super) fn must_be_looked_at(&self) -> bool {
        self.phase == Phase::Running && self.watch.is_none()
    }

    /// Waits for the child if it has ended; says whether the executor runs.
    fn executor_is_alive(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && let Ok(Some(_)) = child.try_wait()
        {
            self.child = None;
        }
        self.executor.as_ref().is_some_and(identity::is_alive)
    }

    /// Records that were written since the last look. A record that is not whole yet is left for the next.
    fn read_more(&mut self) -> Result<Vec<CheckpointRecord>, String> {
        let path = self.dir.checkpoint();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(format!("{}: {e}", path.display())),
        };
        let mut records = Vec::new();
        let mut bytes = Vec::new();
        loop {
            let had = bytes.len();
            bytes.resize(had + READ_BYTES, 0);
            let at = self.read_bytes + had as u64;
            let got = file.read_at(&mut bytes[had..], at).map_err(|e| format!("{}: {e}", path.display()))?;
            bytes.truncate(had + got);
            let mut used = 0;
            while let Some(payload) = records::take_frame(&bytes[used..], records::PAYLOAD_BYTES_MAX)
                .map_err(|e| format!("{} at byte {}: {e}", path.display(), self.read_bytes + used as u64))?
            {
                used += records::HEADER_BYTES + payload.len();
                let record =
                    CheckpointRecord::decode(payload).map_err(|e| format!("{}: {e}", path.display()))?;
                records.push(record);
            }
            self.read_bytes += used as u64;
            bytes.drain(..used);
            if got == 0 {
                return Ok(records);
            }
        }
    }
}

impl Host {
    /// Reads on in a task's checkpoint, reports what is new, and sees to an executor that has ended.
    pub(super) fn look_at(&mut self, id: TaskId) -> Result<(), Fatal> {
        let now_ms = clock::boottime_ms();
        let Some(task) = self.tasks.get_mut(&id) else { return Ok(()) };
        match task.phase {
            Phase::Gone => return Ok(()),
            Phase::Cleaning { asked_ms } => {
                if asked_ms.is_none_or(|asked_ms| now_ms.saturating_sub(asked_ms) >= CLEAN_AGAIN_MS) {
                    self.ask_to_clean(id, now_ms);
                }
                return Ok(());
            }
            Phase::Running => {}
        }
        // First whether it runs, then what it wrote: so the last words of a dead executor are read.
        let alive = task.executor_is_alive();
        let records = match task.read_more() {
            Ok(records) => records,
            Err(problem) => {
                tracing::warn!(task = %id, problem, "the checkpoint cannot be read");
                Vec::new()
            }
        };
        task.spoke |= !records.is_empty();
        if task.doomed.is_none() {
            if alive
                && let Some(cgroup) = &task.cgroup
                && now_ms.saturating_sub(task.memory_looked_ms) >= MEMORY_LOOK_MS
            {
                task.memory_looked_ms = now_ms;
                task.doomed = (cgroup.oom_kills() > 0).then(message_of_oom);
            }
            let silent_ms = u128::from(now_ms.saturating_sub(task.since_ms));
            if alive && !task.spoke && silent_ms > FIRST_WORD_MAX.as_millis() {
                task.doomed = Some("The executor did not say a word after it was started.");
            }
        }
        for record in records {
            if let Some(checkpoint_record::Body::Task(record)) = record.body {
                self.take_record(id, &record)?;
            }
        }
        if !alive && let Some(task) = self.tasks.get_mut(&id) {
            tracing::debug!(task = %id, "the executor has ended");
            task.phase = Phase::Cleaning { asked_ms: None };
            if let Some(watch) = task.watch.take() {
                self.watcher.forget(watch);
            }
            self.ask_to_clean(id, now_ms);
        }
        Ok(())
    }

    /// The task's own word becomes a report, once.
    fn take_record(&mut self, id: TaskId, record: &TaskRecord) -> Result<(), Fatal> {
        let status = record.status();
        let Some(entry) = self.journal.book().tasks.get(&id) else { return Ok(()) };
        // After a restart the checkpoint is read from its beginning: what was reported is not reported again.
        let known = entry.status().is_some_and(|had| rank(had) >= rank(status));
        if entry.ended() || known || status == Status::Unspecified {
            return Ok(());
        }
        if is_terminal(status) && status != Status::Finished && self.ran_out_of_memory(id) {
            return self.report(id, Status::Failed, message_of_oom());
        }
        self.report(id, status, &record.message)
    }

    fn ran_out_of_memory(&self, id: TaskId) -> bool {
        self.tasks.get(&id).is_some_and(|task| {
            task.doomed == Some(message_of_oom())
                || task.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0)
        })
    }

    fn ask_to_clean(&mut self, id: TaskId, now_ms: u64) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let job = Job::Clean { task: id, dir: task.dir.clone(), cgroup: task.cgroup.clone() };
        let asked_ms = self.workers.queue(job).then_some(now_ms);
        task.phase = Phase::Cleaning { asked_ms };
    }

    pub(super) fn done(&mut self, done: Done) -> Result<(), Fatal> {
        match done {
            Done::Killed { task: id, heard } => {
                if let Some(killing) = self.tasks.get_mut(&id).and_then(|task| task.killing.as_mut()) {
                    killing.heard |= heard;
                }
                self.look_at(id)
            }
            Done::Cleaned { task: id, gone, oom_kills } => self.cleaned(id, gone, oom_kills),
        }
    }

    /// Nothing of the task runs any more: only now is a death without a word reported.
    fn cleaned(&mut self, id: TaskId, gone: bool, oom_kills: u64) -> Result<(), Fatal> {
        let Some(task) = self.tasks.get_mut(&id).filter(|_| gone) else { return Ok(()) };
        if task.phase == Phase::Gone {
            return Ok(());
        }
        task.phase = Phase::Gone;
        self.changed = true;
        if self.journal.book().tasks.get(&id).is_none_or(|entry| entry.ended()) {
            return Ok(());
        }
        let (doomed, killed) = (task.doomed, task.killing.is_some());
        if oom_kills > 0 || doomed == Some(message_of_oom()) {
            self.report(id, Status::Failed, message_of_oom())
        } else if let Some(why) = doomed {
            self.report(id, Status::Lost, why)
        } else if killed {
            self.report(id, Status::Killed, "The task did not end when told to, and was killed by force.")
        } else {
            self.report(
                id,
                Status::Lost,
                "The task's executor died without a last word (it crashed, or somebody killed it); what it left behind was killed.",
            )
        }
    }

    /// Writes a report down; it is sent after the sync at the end of the turn.
    pub(super) fn report(&mut self, id: TaskId, status: Status, message: &str) -> Result<(), Fatal> {
        let mut message = message.to_owned();
        if message.len() > REPORT_MESSAGE_BYTES_MAX {
            let cut =
                (0..=REPORT_MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(cut);
        }
        let sequence = self.journal.book().sequence + 1;
        let report = wire::TaskReport { task_id: id.0, status: status.into(), message, sequence };
        tracing::info!(task = %id, ?status, message = report.message, "reports");
        self.journal
            .append(journal_record::Body::Report(wire::ReportMade { report: Some(report.clone()) }))?;
        if is_terminal(status) {
            let status = format!("{status:?}").to_lowercase();
            metrics::counter!(telemetry::TASKS_ENDED, "status" => status).increment(1);
        }
        if let Some(wanted) = self.wanted.as_ref().filter(|wanted| wanted.tasks.contains_key(&id)) {
            self.named.insert(id, wanted.generation);
        }
        self.outbox.insert(sequence, report);
        self.changed = true;
        Ok(())
    }

    /// Gives an order to end a task, through a worker.
    pub(super) fn order_kill(&mut self, id: TaskId, force: Force, now_ms: u64) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let reason = task.doomed.unwrap_or("Killed by the scheduler.").to_owned();
        let job = Job::Kill {
            task: id,
            dir: task.dir.clone(),
            executor: task.executor.clone(),
            cgroup: task.cgroup.clone(),
            force,
            reason,
        };
        if !self.workers.queue(job) {
            return;
        }
        let killing =
            task.killing.get_or_insert(Killing { since_ms: now_ms, force, last_ms: now_ms, heard: false });
        if force > killing.force {
            tracing::warn!(task = %id, ?force, "a task does not end; killing harder");
        }
        (killing.force, killing.last_ms) = (force, now_ms);
    }
}

/// A task's statuses in the order in which they come; all terminal ones alike.
fn rank(status: Status) -> u8 {
    match status {
        Status::Starting => 1,
        Status::Running => 2,
        Status::Killing => 3,
        Status::Finished | Status::Failed | Status::Killed | Status::Lost => 4,
        _ => 0,
    }
}
