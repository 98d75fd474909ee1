//! One simulated host: what its journal says, and what follows from a frame or from time that passed. Pure, but for
//! the clock that a [`Batch`] was stamped by: it writes into batches and leaves it to its voice to wait and to speak.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use executor::checkpoint::is_terminal;
use prost::Message as _;
use proto::wire::{self, JournalRecord, Status, journal_record::Body};
use proto::{Fence, TaskId, digest};

use super::journal::Batch;
use super::pretence::{Configs, Pretence};
use super::word::Word;
use crate::limits::REPORTS_PER_FRAME_MAX;
use crate::link::Session;
use crate::plan::{Action, Have, Order, Verdict, Want};
use crate::standing::Standing;

/// Ids of forgotten tasks that a host remembers.
const BURNED_MAX: usize = 4096;

/// A task in the host's journal. There may be a million of these in one process.
#[derive(Debug)]
struct Task {
    id: TaskId,
    /// Generation of the newest wanted set that named it.
    named: u64,
    /// Of the newest report; 0 = none yet.
    sequence: u64,
    /// CLOCK_BOOTTIME of the launch intent.
    since_ns: u64,
    /// Under which it was launched.
    fence: Fence,
    /// `None`: it was never here.
    pretence: Option<Arc<Pretence>>,
    instance: u32,
    /// The newest reported; ASSIGNED before that.
    status: Status,
    word: Word,
}

impl Task {
    fn new(id: TaskId, named: u64, since_ns: u64) -> Self {
        Task {
            id,
            named,
            sequence: 0,
            since_ns,
            fence: Fence::default(),
            pretence: None,
            instance: 0,
            status: Status::Assigned,
            word: Word::Nothing,
        }
    }

    fn ended(&self) -> bool {
        is_terminal(self.status)
    }

    fn report(&self) -> wire::TaskReport {
        wire::TaskReport {
            task_id: self.id.0,
            status: self.status.into(),
            message: self.word.text().into_owned(),
            sequence: self.sequence,
        }
    }

    fn have(&self, acknowledged: u64) -> Have {
        Have {
            ended: self.ended(),
            acknowledged: self.sequence != 0 && self.sequence <= acknowledged,
            named: self.named,
            alive: !self.ended(),
            doomed: false,
            killing: None,
            wait_ms: 0,
        }
    }
}

/// What became of a wanted set.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Tasks whose intents are in the batch: they begin once it is on the disk.
    pub starts: Vec<TaskId>,
    /// Whether the wanted set is wholly obeyed once they have begun.
    pub whole: bool,
    /// Whether a config of a task to start has not come.
    pub missing: bool,
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live tasks.
    pub live: usize,
    /// Ended and not forgotten.
    pub ended: usize,
    /// Reports that wait to be acknowledged.
    pub waiting: usize,
}

/// The host.
#[derive(Debug, Default)]
pub struct Host {
    /// Counted from 0.
    pub index: u32,
    /// Number of the journal's file that has the host's book; 0 = none yet.
    pub written: u32,
    /// Who it is.
    pub standing: Standing,
    /// Whether the leader has registered it on this stream.
    pub registered: bool,
    /// By id.
    tasks: Vec<Task>,
    ended: usize,
    burned: BTreeSet<TaskId>,
    /// Generation of the newest wanted set taken.
    wanted: Option<u64>,
    /// Whether that is wholly obeyed.
    whole: bool,
    /// Reports that are not acknowledged, by sequence.
    outbox: VecDeque<wire::TaskReport>,
    sent: u64,
    acknowledged: u64,
    moved_ms: u64,
    /// When tasks change by themselves, by CLOCK_BOOTTIME.
    due: BinaryHeap<Reverse<(u64, TaskId)>>,
}

/// Pretences met in a journal, each once.
pub type Met = HashMap<(String, Vec<u8>), Arc<Pretence>>;

impl Host {
    /// One without a journal.
    pub fn new(index: u32) -> Self {
        Host { index, ..Host::default() }
    }

    fn find(&self, task: TaskId) -> Result<usize, usize> {
        self.tasks.binary_search_by_key(&task, |task| task.id)
    }

    /// Takes in a record of its journal.
    pub fn restore(&mut self, record: JournalRecord, met: &mut Met) {
        let Some(body) = record.body else { return };
        if matches!(body, Body::Opened(_)) {
            *self = Host::new(self.index);
        }
        self.standing.add(&body);
        match body {
            Body::Intent(intent) => {
                let (job, instance) = intent.job.rsplit_once('/').unwrap_or((&intent.job, "0"));
                let wire = intent.pretence.unwrap_or_default();
                let pretence = met
                    .entry((job.to_owned(), wire.encode_to_vec()))
                    .or_insert_with(|| Arc::new(Pretence { job: job.to_owned(), wire }));
                let mut task = Task::new(TaskId(intent.task_id), intent.generation, record.boottime_ns);
                task.fence = intent.fence.as_ref().map(Fence::from).unwrap_or_default();
                task.instance = instance.parse().unwrap_or_default();
                task.pretence = Some(pretence.clone());
                self.insert(task);
            }
            Body::Report(made) => {
                let Some(report) = made.report else { return };
                let id = TaskId(report.task_id);
                if self.find(id).is_err() {
                    self.insert(Task::new(id, 0, record.boottime_ns));
                }
                if let Ok(at) = self.find(id) {
                    let task = &mut self.tasks[at];
                    let ended = task.ended();
                    task.status = report.status();
                    task.word = Word::of(&report.message);
                    task.sequence = report.sequence;
                    self.ended += usize::from(!ended && task.ended());
                }
            }
            Body::Forgotten(forgotten) => {
                let id = TaskId(forgotten.task_id);
                if let Ok(at) = self.find(id) {
                    let gone = self.tasks.remove(at);
                    self.ended -= usize::from(gone.ended());
                }
                self.burn(id);
            }
            // Generations are counted per host id and epoch.
            Body::Obeyed(_) if self.standing.generation == 0 => {
                self.tasks.iter_mut().for_each(|task| task.named = 0);
            }
            Body::Opened(_) | Body::Obeyed(_) | Body::Launched(_) => {}
        }
    }

    fn insert(&mut self, task: Task) {
        match self.find(task.id) {
            Ok(at) => self.tasks[at] = task,
            Err(at) => self.tasks.insert(at, task),
        }
    }

    fn burn(&mut self, id: TaskId) {
        self.burned.insert(id);
        if self.burned.len() > BURNED_MAX {
            self.burned.pop_first();
        }
    }

    /// Begins, on the machine as it is now, with what the journal has said. Reports made here are in no batch: the book
    /// that is written next has them.
    pub fn recover(&mut self, machine: &wire::HostIdentity, start_ms: u64) {
        let known = &self.standing.identity;
        let rebooted = known.boot_id != machine.boot_id && !known.journal_id.is_empty();
        let journal_id = match known.journal_id.is_empty() {
            true => machine.journal_id.clone(),
            false => known.journal_id.clone(),
        };
        let host_id = self.standing.host_id;
        self.standing.identity = wire::HostIdentity { journal_id, host_id, ..machine.clone() };
        let mut unwritten = Batch::new(self.index);
        for at in 0..self.tasks.len() {
            let task = &self.tasks[at];
            match task.status {
                _ if task.ended() => {}
                _ if rebooted => self.report(at, Status::Lost, Word::Rebooted, &mut unwritten),
                // Whether the order was still fresh when the intent was on the disk is not known any more.
                Status::Assigned => self.report(at, Status::Lost, Word::Restarted, &mut unwritten),
                _ => self.expect(at, start_ms),
            }
        }
        let mut reports: Vec<_> = self.tasks.iter().map(Task::report).collect();
        reports.retain(|report| report.sequence > 0);
        reports.sort_by_key(|report| report.sequence);
        self.outbox = reports.into();
    }

    /// The fewest records that say all of it. Forgotten tasks are remembered by their ids alone.
    pub fn write_book(&self, batch: &mut Batch) {
        let standing = &self.standing;
        let identity = Some(standing.identity.clone());
        batch.push(Body::Opened(wire::JournalOpened { identity, sequence: standing.sequence }));
        if !standing.cluster_id.is_empty() {
            batch.push(Body::Obeyed(standing.obeyed()));
        }
        for task in &self.burned {
            batch.push(Body::Forgotten(wire::TaskForgotten { task_id: task.0 }));
        }
        for task in &self.tasks {
            if task.pretence.is_some() {
                batch.push_of(intent(task), task.since_ns);
            }
            if task.sequence > 0 {
                let report = Some(task.report());
                batch.push(Body::Report(wire::ReportMade { report }));
            }
        }
        batch.whole = true;
    }

    /// Where nothing has changed that the scheduler does not know, it may be said briefly. Else the newest report of
    /// every task travels with the greeting, so none older has to follow it.
    pub fn hello(&mut self, spec: wire::HostSpec, may_be_brief: bool, now_ms: u64) -> wire::Hello {
        self.sent = self.standing.sequence;
        self.moved_ms = now_ms;
        self.registered = false;
        let spec = Some(spec);
        if may_be_brief && self.is_settled() {
            return wire::Hello { spec, ..self.standing.hello(self.digest()) };
        }
        self.whole = false;
        let tasks = self.tasks.iter().map(Task::report).collect();
        wire::Hello { spec, tasks, ..self.standing.hello(0) }
    }

    /// The newest wanted set that is wholly obeyed; 0 = none.
    pub fn obeys(&self) -> u64 {
        self.wanted.filter(|_| self.whole).unwrap_or(0)
    }

    /// Whether the leader can know the same of all tasks: every report is acknowledged, and what it wants is obeyed.
    fn is_settled(&self) -> bool {
        self.wanted.is_some() && self.whole && self.outbox.is_empty()
    }

    fn digest(&self) -> u64 {
        let live = self.tasks.iter().filter(|task| !task.ended());
        digest::of_host(live.map(|task| (task.id, task.status)))
    }

    /// Obeys this leader, under this host id, from here on: the batch must be on the disk before anything else is done.
    pub fn obey(&mut self, obeyed: wire::Obeyed, batch: &mut Batch) {
        if obeyed.cluster_id != self.standing.cluster_id || obeyed.host_id != self.standing.host_id {
            self.wanted = None;
            self.whole = false;
        }
        if let Some(body) = batch.push(Body::Obeyed(obeyed)) {
            self.standing.add(&body);
        }
        if self.standing.generation == 0 {
            self.tasks.iter_mut().for_each(|task| task.named = 0);
        }
    }

    /// Takes a wanted set: kills at once, writes down what shall start. `None`: it came late.
    pub fn take(
        &mut self,
        mut set: wire::WantedSet,
        fresh: bool,
        configs: &Configs,
        batch: &mut Batch,
    ) -> Option<Taken> {
        let generation = set.generation;
        if generation < self.wanted.unwrap_or(0).max(self.standing.generation) {
            return None;
        }
        self.wanted = Some(generation);
        if !set.tasks.is_sorted_by(|a, b| a.task_id < b.task_id) {
            set.tasks.sort_by_key(|task| task.task_id);
            set.tasks.dedup_by_key(|task| task.task_id);
        }
        let burned = |task| self.burned.contains(&task);
        let now_ms = batch.now_ms();
        let order = Order { generation, fresh, burned: &burned, startable: &|_| true, now_ms };
        let mut taken = Taken { whole: true, ..Taken::default() };
        let (mut kills, mut absent, mut added) = (Vec::new(), Vec::new(), Vec::new());
        let must_end = |task: &Task, want| {
            let verdict = order.verdict(task.id, want, Some(&task.have(self.acknowledged)));
            matches!(verdict, Verdict::Do(Action::Kill(..)))
        };
        // Both are in the order of ids.
        let mut at = 0;
        for wanted in &set.tasks {
            let id = TaskId(wanted.task_id);
            while let Some(task) = self.tasks.get(at).filter(|task| task.id < id) {
                kills.extend(must_end(task, None).then_some(at));
                at += 1;
            }
            let want = match wanted.want() {
                wire::Want::Start => Want::Start,
                wire::Want::Keep => Want::Keep,
                wire::Want::Kill => Want::Kill,
                wire::Want::Unspecified => Want::Unknown,
            };
            if let Some(task) = self.tasks.get_mut(at).filter(|task| task.id == id) {
                task.named = generation;
                kills.extend(must_end(task, Some(want)).then_some(at));
                at += 1;
                continue;
            }
            let pretence = (want == Want::Start).then(|| configs.get(&wanted.config_hash)).flatten();
            match (Order { startable: &|_| pretence.is_some(), ..order }).verdict(id, Some(want), None) {
                Verdict::Do(Action::Start(_)) => {
                    let mut task = Task::new(id, generation, batch.boottime_ns);
                    task.fence = self.standing.fence;
                    task.instance = wanted.instance;
                    task.pretence = pretence;
                    if let Some(body) = batch.push(intent(&task)) {
                        self.standing.add(&body);
                    }
                    taken.starts.push(id);
                    added.push(task);
                }
                Verdict::Do(Action::ReportLost(_, why)) => absent.push((id, Status::Lost, Word::of(why))),
                Verdict::Do(Action::ReportKilled(_, why)) => absent.push((id, Status::Killed, Word::of(why))),
                Verdict::Unmet => {
                    taken.whole = false;
                    taken.missing |= want == Want::Start && pretence.is_none();
                }
                Verdict::Nothing | Verdict::Do(Action::Kill(..) | Action::Forget(_)) => {}
            }
        }
        for (at, task) in self.tasks.iter().enumerate().skip(at) {
            kills.extend(must_end(task, None).then_some(at));
        }
        for at in kills {
            self.report(at, Status::Killed, Word::Killed, batch);
        }
        added.extend(absent.iter().map(|(id, ..)| Task::new(*id, generation, batch.boottime_ns)));
        if !added.is_empty() {
            // By a quarter, not by doubling: most of the process's memory is here.
            self.tasks.reserve_exact(added.len().max(self.tasks.len() / 4));
            self.tasks.extend(added);
            if !self.tasks.is_sorted_by_key(|task| task.id) {
                self.tasks.sort_by_key(|task| task.id);
            }
        }
        for (id, status, word) in absent {
            if let Ok(at) = self.find(id) {
                self.report(at, status, word, batch);
            }
        }
        self.whole = taken.whole;
        self.forget(batch);
        Some(taken)
    }

    /// Their intents are on the disk: they begin, unless the order has grown old meanwhile.
    pub fn begin(&mut self, starts: &[TaskId], fresh: bool, start_ms: u64, batch: &mut Batch) {
        for id in starts {
            let Ok(at) = self.find(*id) else { continue };
            if !fresh {
                // The id is used up: another leader may have given the instance away meanwhile.
                self.report(at, Status::Lost, Word::TooOld, batch);
                continue;
            }
            self.report(at, Status::Starting, Word::Nothing, batch);
            match start_ms {
                0 => self.go_on(at, start_ms, batch),
                _ => self.expect(at, start_ms),
            }
        }
    }

    /// What a live task does next by itself: it runs, or it ends.
    fn go_on(&mut self, at: usize, start_ms: u64, batch: &mut Batch) {
        let ending = self.tasks[at].pretence.as_ref().map(|pretence| pretence.wire).unwrap_or_default();
        if self.tasks[at].status == Status::Starting {
            self.report(at, Status::Running, Word::Nothing, batch);
            if !ending.ends || ending.after_ms > 0 {
                self.expect(at, start_ms);
                return;
            }
        }
        match ending.exit_code {
            0 => self.report(at, Status::Finished, Word::Nothing, batch),
            code => self.report(at, Status::Failed, Word::Exited(code), batch),
        }
    }

    /// Notes when a live task will do something by itself.
    fn expect(&mut self, at: usize, start_ms: u64) {
        let task = &self.tasks[at];
        let ending = task.pretence.as_ref().map(|pretence| pretence.wire).unwrap_or_default();
        let begun_ms = (task.since_ns / 1_000_000).saturating_add(start_ms);
        let due_ms = match task.status {
            Status::Starting => begun_ms,
            Status::Running if ending.ends => begun_ms.saturating_add(ending.after_ms),
            _ => return,
        };
        self.due.push(Reverse((due_ms, task.id)));
    }

    /// When a task changes by itself next, by CLOCK_BOOTTIME.
    pub fn due_ms(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    /// Lets tasks go on whose time has come.
    pub fn look(&mut self, start_ms: u64, batch: &mut Batch) {
        let now_ms = batch.now_ms();
        while let Some(Reverse((_, id))) = self.due.peek().copied().filter(|Reverse((at, _))| *at <= now_ms) {
            self.due.pop();
            if let Ok(at) = self.find(id)
                && !self.tasks[at].ended()
            {
                self.go_on(at, start_ms, batch);
            }
        }
    }

    /// Writes a report down; it is sent once it is on the disk.
    fn report(&mut self, at: usize, status: Status, word: Word, batch: &mut Batch) {
        self.standing.sequence += 1;
        let task = &mut self.tasks[at];
        (task.status, task.word, task.sequence) = (status, word, self.standing.sequence);
        self.ended += usize::from(is_terminal(status));
        let report = Some(task.report());
        if let Some(Body::Report(made)) = batch.push(Body::Report(wire::ReportMade { report })) {
            self.outbox.extend(made.report);
        }
    }

    /// Reports up to this sequence are applied. `false`: the last of them was never made.
    pub fn acknowledge(&mut self, sequence: u64, batch: &mut Batch) -> bool {
        if sequence > self.standing.sequence {
            return false;
        }
        if sequence > self.acknowledged {
            self.acknowledged = sequence;
            self.moved_ms = batch.now_ms();
            while self.outbox.front().is_some_and(|report| report.sequence <= sequence) {
                self.outbox.pop_front();
            }
            if self.outbox.is_empty() {
                self.outbox = VecDeque::new();
            }
            self.forget(batch);
        }
        true
    }

    /// Forgets ended tasks that nobody will ask for again.
    fn forget(&mut self, batch: &mut Batch) {
        let Some(generation) = self.wanted.filter(|_| self.ended > 0) else { return };
        let order = Order {
            generation,
            fresh: false,
            burned: &|_| false,
            startable: &|_| false,
            now_ms: batch.now_ms(),
        };
        let mut gone = Vec::new();
        self.tasks.retain(|task| {
            let forget = task.ended()
                && order.verdict(task.id, None, Some(&task.have(self.acknowledged)))
                    == Verdict::Do(Action::Forget(task.id));
            gone.extend(forget.then_some(task.id));
            !forget
        });
        self.ended -= gone.len();
        for id in gone {
            batch.push(Body::Forgotten(wire::TaskForgotten { task_id: id.0 }));
            self.burn(id);
        }
    }

    /// Sends what this stream has not carried yet, in the order of sequences.
    pub fn send(&mut self, session: &Session, now_ms: u64) {
        while self.registered && self.outbox.back().is_some_and(|last| last.sequence > self.sent) {
            let from = self.outbox.partition_point(|report| report.sequence <= self.sent);
            let batch: Vec<_> = self.outbox.range(from..).take(REPORTS_PER_FRAME_MAX).cloned().collect();
            let up_to = batch.last().map_or(self.sent, |report| report.sequence);
            if !session.report(batch) {
                return;
            }
            (self.sent, self.moved_ms) = (up_to, now_ms);
        }
    }

    /// Sends reports again that have had no answer for `patience_ms`.
    pub fn send_again(&mut self, session: &Session, now_ms: u64, patience_ms: u64) {
        if !self.outbox.is_empty() && now_ms.saturating_sub(self.moved_ms) >= patience_ms {
            (self.sent, self.moved_ms) = (self.acknowledged, now_ms);
        }
        self.send(session, now_ms);
    }

    /// What heartbeats say: what live tasks that are not revocable reserve and do not use, and the digest of all live
    /// tasks, or 0 while the scheduler may rightly think otherwise.
    pub fn claims(&self, use_percent: u64) -> (wire::Resources, u64) {
        let (mut cpu_milli, mut ram_mib) = (0_u64, 0_u64);
        let live = self.tasks.iter().filter(|task| !task.ended());
        for pretence in live.filter_map(|task| task.pretence.as_ref()).filter(|p| !p.wire.revocable) {
            cpu_milli = cpu_milli.saturating_add(pretence.wire.cpu_milli);
            ram_mib = ram_mib.saturating_add(pretence.wire.ram_mib);
        }
        let part = |amount: u64| (u128::from(amount) * u128::from(100 - use_percent.min(100)) / 100) as u64;
        let unused =
            wire::Resources { cpu_milli: part(cpu_milli), ram_mib: part(ram_mib), ..Default::default() };
        let digest = if self.registered && self.is_settled() { self.digest() } else { 0 };
        (unused, digest)
    }

    /// Numbers for people.
    pub fn counts(&self) -> Counts {
        Counts { live: self.tasks.len() - self.ended, ended: self.ended, waiting: self.outbox.len() }
    }
}

fn intent(task: &Task) -> Body {
    let job = task.pretence.as_ref().map_or("", |pretence| &pretence.job);
    Body::Intent(wire::LaunchIntent {
        task_id: task.id.0,
        generation: task.named,
        fence: Some(task.fence.into()),
        job: format!("{job}/{}", task.instance),
        pretence: task.pretence.as_ref().map(|pretence| pretence.wire),
    })
}

#[cfg(test)]
mod tests;
