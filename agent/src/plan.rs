//! Decides what a host must do: the wanted set and what the host has, in; actions, out. Pure: no clock, no file.
//!
//! The rules, which hold whatever was sent, lost, repeated or reordered before:
//! 1. A task that the journal knows, live, ended or forgotten, is never started.
//! 2. A start counts only while the order is fresh; who calls this says whether it is.
//! 3. A *keep* that the host does not have is reported LOST. It is never started.
//! 4. A task that is not named is killed, harder and harder, until it is gone.
//! 5. An ended task is forgotten when its report is applied and a wanted set later than the last one that named it
//!    does not name it. A start encoded before the report was applied is of an older generation and finds it.

use std::collections::BTreeMap;

use proto::TaskId;

/// For a task to end by itself, beyond its finalization wait, before it is killed at once.
pub const KILL_GRACE_MS: u64 = 5_000;
/// Between the kill at once, by the executor, and the kill by force, by the agent.
pub const FORCE_AFTER_MS: u64 = 5_000;
/// An order to kill that had no effect is given again after this.
pub const KILL_AGAIN_MS: u64 = 2_000;
/// One that the executor has not heard, such as because it has only just begun, is given again after this.
pub const ASK_AGAIN_MS: u64 = 200;

/// What the leader wants of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Start it, unless the journal knows it.
    Start,
    /// Let it run.
    Keep,
    /// End it.
    Kill,
    /// A word of a later version: leave the task as it is.
    Unknown,
}

/// All that the host shall run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Per host, rising.
    pub generation: u64,
    /// By task.
    pub tasks: BTreeMap<TaskId, Want>,
}

/// What the host has of one task in its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Have {
    /// Whether a terminal report was made.
    pub ended: bool,
    /// Whether the newest report is applied in State.
    pub acknowledged: bool,
    /// Generation of the newest wanted set that named it; 0 = none known.
    pub named: u64,
    /// Whether its executor may still run; once it has ended, whether anything of it may.
    pub alive: bool,
    /// Why it must end whatever is wanted, such as for want of memory.
    pub doomed: bool,
    /// The kill under way.
    pub killing: Option<Killing>,
    /// Finalization wait, in milliseconds.
    pub wait_ms: u64,
}

/// A kill under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Killing {
    /// When the first order was given.
    pub since_ms: u64,
    /// The hardest order so far.
    pub force: Force,
    /// When the newest order was given.
    pub last_ms: u64,
    /// Whether the executor has heard it.
    pub heard: bool,
}

/// How hard to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Force {
    /// The executor ends the task with its finalization wait.
    Ask,
    /// The executor sends SIGKILL.
    AtOnce,
    /// The agent sends SIGKILL to the executor and to all of the task.
    Force,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Journal the intent, then spawn.
    Start(TaskId),
    /// Give this order.
    Kill(TaskId, Force),
    /// Report LOST: it is wanted and not here.
    ReportLost(TaskId, &'static str),
    /// Report KILLED: it shall end and is not here.
    ReportKilled(TaskId, &'static str),
    /// Drop it from the journal.
    Forget(TaskId),
}

/// What to do, and whether that is all that was wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order of task ids.
    pub actions: Vec<Action>,
    /// Whether the wanted set is wholly obeyed once the actions are done.
    pub whole: bool,
}

/// A keep without a task.
pub const NOT_HERE: &str = "The host was to keep the task and does not have it.";
/// A start for a task that was forgotten.
pub const WAS_HERE: &str = "The task ran on this host before; a task is never started twice.";
/// A kill without a task.
pub const NOTHING_TO_KILL: &str = "The task does not run on this host, and will not be started.";

/// The next order of a kill, if one is due.
pub fn escalate(killing: Option<Killing>, wait_ms: u64, now_ms: u64) -> Option<Force> {
    let Some(killing) = killing else { return Some(Force::Ask) };
    let elapsed_ms = now_ms.saturating_sub(killing.since_ms);
    let at_once_ms = wait_ms.saturating_add(KILL_GRACE_MS);
    let due = if elapsed_ms >= at_once_ms.saturating_add(FORCE_AFTER_MS) {
        Force::Force
    } else if elapsed_ms >= at_once_ms {
        Force::AtOnce
    } else {
        Force::Ask
    };
    let since_last_ms = now_ms.saturating_sub(killing.last_ms);
    let again = match due {
        Force::Ask => !killing.heard && since_last_ms >= ASK_AGAIN_MS,
        Force::AtOnce | Force::Force => since_last_ms >= KILL_AGAIN_MS,
    };
    (due > killing.force || again).then_some(due)
}

/// What is known of an order beside the tasks that it names.
#[derive(Clone, Copy)]
pub struct Order<'o> {
    /// Of the wanted set.
    pub generation: u64,
    /// Whether a start may be obeyed now.
    pub fresh: bool,
    /// Whether a task was forgotten.
    pub burned: &'o dyn Fn(TaskId) -> bool,
    /// Whether all that a start needs (its config) is here.
    pub startable: &'o dyn Fn(TaskId) -> bool,
    /// CLOCK_BOOTTIME.
    pub now_ms: u64,
}

/// What one task needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it shall be, or on the way.
    Nothing,
    /// This.
    Do(Action),
    /// What is wanted cannot be done now.
    Unmet,
}

impl Order<'_> {
    /// What to do about one task. `want`: `None` = it is not named. `have`: `None` = the journal does not have it.
    pub fn verdict(&self, task: TaskId, want: Option<Want>, have: Option<&Have>) -> Verdict {
        match (want, have) {
            (Some(Want::Kill), Some(have)) => kill(task, have, self.now_ms),
            (Some(Want::Start | Want::Keep | Want::Unknown), Some(have)) if have.doomed => {
                kill(task, have, self.now_ms)
            }
            (Some(Want::Start | Want::Keep | Want::Unknown), Some(_)) => Verdict::Nothing,
            (Some(Want::Start), None) if (self.burned)(task) => {
                Verdict::Do(Action::ReportLost(task, WAS_HERE))
            }
            (Some(Want::Start), None) if self.fresh && (self.startable)(task) => {
                Verdict::Do(Action::Start(task))
            }
            (Some(Want::Start | Want::Unknown), None) => Verdict::Unmet,
            (Some(Want::Keep), None) => Verdict::Do(Action::ReportLost(task, NOT_HERE)),
            (Some(Want::Kill), None) => Verdict::Do(Action::ReportKilled(task, NOTHING_TO_KILL)),
            (None, Some(have)) if !have.ended || have.alive => kill(task, have, self.now_ms),
            (None, Some(have)) if have.acknowledged && self.generation > have.named => {
                Verdict::Do(Action::Forget(task))
            }
            (None, _) => Verdict::Nothing,
        }
    }
}

/// What to do about `wanted`. `fresh`: whether a start may be obeyed now. `burned`: whether a task was forgotten.
/// `startable`: whether all that a start needs (its config) is here.
pub fn plan(
    wanted: &Wanted,
    have: &BTreeMap<TaskId, Have>,
    burned: impl Fn(TaskId) -> bool,
    startable: impl Fn(TaskId) -> bool,
    fresh: bool,
    now_ms: u64,
) -> Plan {
    let generation = wanted.generation;
    let order = Order { generation, fresh, burned: &burned, startable: &startable, now_ms };
    let named = wanted.tasks.iter().map(|(&task, &want)| order.verdict(task, Some(want), have.get(&task)));
    let unnamed = have.iter().filter(|(task, _)| !wanted.tasks.contains_key(task));
    let unnamed = unnamed.map(|(&task, have)| order.verdict(task, None, Some(have)));
    let mut plan = Plan { actions: Vec::new(), whole: true };
    for verdict in named.chain(unnamed) {
        match verdict {
            Verdict::Nothing => {}
            Verdict::Do(action) => plan.actions.push(action),
            Verdict::Unmet => plan.whole = false,
        }
    }
    plan
}

/// What to do about the doomed and the half-killed when no wanted set has come yet.
pub fn plan_without_orders(have: &BTreeMap<TaskId, Have>, now_ms: u64) -> Plan {
    let due = have.iter().filter(|(_, have)| have.doomed || have.killing.is_some());
    let actions = due.filter_map(|(&task, have)| match kill(task, have, now_ms) {
        Verdict::Do(action) => Some(action),
        Verdict::Nothing | Verdict::Unmet => None,
    });
    Plan { actions: actions.collect(), whole: false }
}

/// A task that has ended is left to end by itself what its executor still does: its leftovers are cleaned anyway.
fn kill(task: TaskId, have: &Have, now_ms: u64) -> Verdict {
    match escalate(have.killing, have.wait_ms, now_ms) {
        Some(force) if have.alive && !have.ended => Verdict::Do(Action::Kill(task, force)),
        _ => Verdict::Nothing,
    }
}

#[cfg(test)]
mod tests;
