//! What a machine must be so that it can be replicated: deterministic, in memory, and a set of rows on disk.
//!
//! Not here: any machine. Replication knows the bytes of commands and rows and nothing of their meaning.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A row as it will be written: a cheap shared value that is encoded later, on another thread.
pub trait Row: Send + Sync {
    /// Appends the row's bytes.
    fn encode(&self, into: &mut Vec<u8>);
}

impl Row for Vec<u8> {
    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(self);
    }
}

/// The rows that changed since the last cut; a later change of a row replaces an earlier one.
#[derive(Default)]
pub struct Changes {
    rows: BTreeMap<Vec<u8>, Option<Arc<dyn Row>>>,
}

impl Changes {
    /// The row under `key` is now `row`.
    pub fn put(&mut self, key: Vec<u8>, row: Arc<dyn Row>) {
        self.rows.insert(key, Some(row));
    }

    /// There is no row under `key` any more.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.rows.insert(key, None);
    }

    /// Changed rows in key order; `None` is a deleted one. For tests of machines.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&Arc<dyn Row>>)> {
        self.rows.iter().map(|(key, row)| (&key[..], row.as_ref()))
    }

    /// How many rows changed.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn into_rows(self) -> BTreeMap<Vec<u8>, Option<Arc<dyn Row>>> {
        self.rows
    }
}

/// Bytes that cannot be what was written: a command or a row that nobody can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {why}")]
pub struct Corrupt {
    /// The thing: a file and offset, a row's key, a command.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

impl Corrupt {
    /// Says what cannot be read and why.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Corrupt { what: what.into(), why: why.into() }
    }
}

/// All rows in key order, each as (key, bytes).
pub type Rows<'a> = dyn Iterator<Item = Result<(Box<[u8]>, Box<[u8]>), Corrupt>> + 'a;

/// A deterministic machine whose state is a set of rows.
///
/// Two replicas that applied the same commands must be equal, bit for bit: no clock, no chance, no
/// unordered iteration. A panic in `apply` would happen on every replica, so it stops the process with a message.
pub trait Machine: Send + Sync + Sized + 'static {
    /// One change.
    type Command: Send + 'static;
    /// What the proposer is told once the command was applied.
    type Reply: Send + 'static;
    /// The highest level that this program's machine can act at. Members tell it each other; a machine whose behaviour
    /// never changes has one.
    const LEVEL: u32 = 1;
    /// The level that this machine acts at now. It never falls, and only a command raises it.
    fn level(&self) -> u32 {
        1
    }
    /// Reads a command. Called before it is proposed, and again when it is applied.
    fn decode(bytes: &[u8]) -> Result<Self::Command, Corrupt>;
    /// Changes memory and hands out the rows that changed.
    fn apply(&mut self, command: Self::Command, changed: &mut Changes) -> Self::Reply;
    /// Rebuilds memory from rows, at start and after a snapshot arrived; there is none in a new cluster.
    fn load(rows: &mut Rows<'_>) -> Result<Self, Corrupt>;
}
