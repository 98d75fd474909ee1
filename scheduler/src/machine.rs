//! The engine's State as the machine that replication drives, and the hints it leaves for the leader.
//!
//! Hints say where to look, never what to do. They exist on the leader only; losing all of them costs a look at
//! the whole State.

use std::sync::{Arc, Mutex};

use engine::{Command, Corrupt, Hint, Reply, RowValue, State};
use tokio::sync::Notify;

use crate::limits::HINTS_MAX;

/// State, and where its hints go.
#[derive(Debug)]
pub struct Machine {
    /// The replicated State.
    pub state: State,
    /// Drained by the leader's loop.
    pub hints: Arc<Hints>,
}

/// What apply left for the leader to look at.
#[derive(Debug, Default)]
pub struct Hints {
    waiting: Mutex<Waiting>,
    /// Rung when there is something to drain.
    pub bell: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    wanted: bool,
    overflowed: bool,
    hints: Vec<Hint>,
}

/// What a drain found.
#[derive(Debug)]
pub enum Drained {
    /// All hints since the last drain.
    Hints(Vec<Hint>),
    /// There were too many to keep: read the whole State.
    Everything,
}

impl Hints {
    /// Begins (a session starts) or ends the collection of hints.
    pub fn collect(&self, wanted: bool) {
        *self.lock() = Waiting { wanted, ..Waiting::default() };
    }

    /// Takes what has gathered.
    pub fn drain(&self) -> Drained {
        let mut waiting = self.lock();
        if std::mem::take(&mut waiting.overflowed) {
            waiting.hints.clear();
            return Drained::Everything;
        }
        Drained::Hints(std::mem::take(&mut waiting.hints))
    }

    fn add(&self, hints: Vec<Hint>) {
        if hints.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        if !waiting.wanted {
            return;
        }
        if waiting.hints.len() + hints.len() > HINTS_MAX {
            waiting.overflowed = true;
            waiting.hints.clear();
        } else if !waiting.overflowed {
            waiting.hints.extend(hints);
        }
        drop(waiting);
        self.bell.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

/// A changed row on its way to disk.
struct EngineRow(RowValue);

impl replication::Row for EngineRow {
    fn encode(&self, into: &mut Vec<u8>) {
        self.0.encode(into);
    }
}

fn corrupt(why: Corrupt) -> replication::Corrupt {
    replication::Corrupt::new(why.what, why.why)
}

impl replication::Machine for Machine {
    type Command = Command;
    type Reply = Reply;
    const LEVEL: u32 = engine::limits::LEVEL;

    fn level(&self) -> u32 {
        self.state.cluster().level
    }

    fn decode(bytes: &[u8]) -> Result<Command, replication::Corrupt> {
        Command::decode(bytes).map_err(corrupt)
    }

    fn apply(&mut self, command: Command, changed: &mut replication::Changes) -> Reply {
        let applied = self.state.apply(command);
        for change in applied.changed {
            match change.row {
                Some(row) => changed.put(change.key, Arc::new(EngineRow(row))),
                None => changed.delete(change.key),
            }
        }
        self.hints.add(applied.hints);
        applied.reply
    }

    fn load(rows: &mut replication::Rows<'_>) -> Result<Self, replication::Corrupt> {
        let mut broken = None;
        let readable = rows.map_while(|row| row.map_err(|why| broken = Some(why)).ok());
        let state = State::load(readable);
        match broken {
            Some(why) => Err(why),
            None => Ok(Machine { state: state.map_err(corrupt)?, hints: Arc::default() }),
        }
    }
}
