//! Whether a history of operations on registers is linearizable: whether each answered operation can be given one
//! moment between its call and its answer, so that all answers are those of one register that does one thing at a time.
//!
//! Here are the history, the split by key (registers do not touch each other, so a history is linearizable when each
//! key's part is) and the verdict; `search` judges one key. Pure: nothing is sent, measured or read here.
//!
//! An operation without an answer has an unknown fate: it takes effect at one moment after its call, or never.
//! A search that grew too long is a verdict of its own, [`Verdict::GaveUp`], and never a pass.

mod search;

#[cfg(test)]
mod compared;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

/// What a register holds; `None`: nothing was ever put.
pub type Value = Option<u64>;

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read it.
    Get,
    /// Write it.
    Put(u64),
    /// Write it if it holds what is expected.
    Cas {
        /// What it should hold.
        expected: Value,
        /// What it shall hold.
        new: u64,
    },
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Of a get.
    Got(Value),
    /// Of a put.
    Stored,
    /// Of a cas that found what it expected.
    Swapped,
    /// Of a cas that found this instead, and changed nothing.
    Found(Value),
}

/// One call of one client. Moments are numbers from one clock that never gives the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which register.
    pub key: u32,
    /// What was asked.
    pub action: Action,
    /// Before anything was sent.
    pub called: u64,
    /// The answer, and a moment after it was received.
    pub answered: Option<(u64, Answer)>,
}

/// Of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none; in words, how far one comes.
    Broken(String),
    /// The search took more steps than it was allowed.
    GaveUp,
}

/// Of a whole history.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Operations judged, those of unknown fate too.
    pub operations: usize,
    /// Those without an answer.
    pub unknown: usize,
    /// Keys judged.
    pub keys: usize,
    /// Steps that all searches took.
    pub steps: u64,
    /// Each key that is not linearizable, or whose search gave up.
    pub failures: BTreeMap<u32, Verdict>,
}

impl Report {
    /// Every key is linearizable, and there was one.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.keys > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { operations, unknown, keys, steps, failures } = self;
        write!(f, "{operations} operations ({unknown} of unknown fate) on {keys} keys, {steps} steps: ")?;
        if self.passed() {
            return f.write_str("linearizable");
        }
        write!(f, "NOT shown to be linearizable")?;
        for (key, verdict) in failures.iter().take(5) {
            match verdict {
                Verdict::Broken(why) => write!(f, "\nkey {key}: {why}")?,
                other => write!(f, "\nkey {key}: {other:?}")?,
            }
        }
        let more = failures.len().saturating_sub(5);
        if more > 0 { write!(f, "\nand {more} keys more") } else { Ok(()) }
    }
}

/// Judges a history; `steps_max` for each key.
pub fn judge(history: &[Operation], steps_max: u64) -> Report {
    let mut by_key: BTreeMap<u32, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        by_key.entry(operation.key).or_default().push(*operation);
    }
    let mut report = Report {
        operations: history.len(),
        unknown: history.iter().filter(|operation| operation.answered.is_none()).count(),
        keys: by_key.len(),
        ..Report::default()
    };
    for (key, operations) in by_key {
        let (verdict, steps) = search::search(&operations, steps_max);
        report.steps += steps;
        if verdict != Verdict::Linearizable {
            report.failures.insert(key, verdict);
        }
    }
    report
}

/// What one register does: its next value and its answer.
pub fn step(value: Value, action: Action) -> (Value, Answer) {
    match action {
        Action::Get => (value, Answer::Got(value)),
        Action::Put(new) => (Some(new), Answer::Stored),
        Action::Cas { expected, new } if expected == value => (Some(new), Answer::Swapped),
        Action::Cas { .. } => (value, Answer::Found(value)),
    }
}
