//! What must be true of all replicas at every moment, one law a file.

mod age;
mod applied;
mod commit;
mod completeness;
mod election;
mod matching;
pub(crate) mod obeyed;
mod room;
mod stored;
mod vote;

use std::time::Duration;

use crate::raft::{LogId, Vote};

/// A replica as it is at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Which of its lives; no two have the same.
    pub(crate) life: u64,
    pub(crate) node_id: u64,
    /// In which term it leads, if it does.
    pub(crate) leads: Option<u64>,
    /// Its log: ids and what each entry says, hashed.
    pub(crate) log: Vec<(LogId, u64)>,
    pub(crate) purged: Option<LogId>,
    pub(crate) applied: Option<LogId>,
    pub(crate) stored: Option<LogId>,
    pub(crate) snapshot: Option<LogId>,
    pub(crate) committed: u64,
    /// The vote that is on its disk.
    pub(crate) vote: Option<Vote>,
    /// Whether it found its disk full.
    pub(crate) full: bool,
    /// How old its newest snapshot, and what it shows, are said to be.
    pub(crate) ages: [Option<Duration>; 2],
    /// How long the run lasts.
    pub(crate) now: Duration,
}

impl Seen {
    /// The id of the entry at `index`, if its log has it.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        let first = self.log.first()?.0.index;
        self.log.get(usize::try_from(index.checked_sub(first)?).ok()?).map(|(id, _)| *id)
    }
}

/// A law. It may remember what it saw.
pub(crate) trait Law {
    /// Looks at all replicas that run.
    fn look(&mut self, all: &[Seen]) -> Result<(), String>;
}

/// All of them.
pub(crate) fn all() -> Vec<Box<dyn Law + Send>> {
    vec![
        Box::<election::Election>::default(),
        Box::<matching::Matching>::default(),
        Box::<applied::Applied>::default(),
        Box::<completeness::Completeness>::default(),
        Box::<stored::Stored>::default(),
        Box::<commit::Commit>::default(),
        Box::<vote::Votes>::default(),
        Box::<room::Room>::default(),
        Box::<age::Age>::default(),
    ]
}

#[cfg(test)]
mod tests;
