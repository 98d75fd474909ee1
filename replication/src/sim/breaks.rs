//! Named breaks: mistakes that are made on purpose, to see that the simulation would find them.

use std::cell::Cell;
use std::sync::OnceLock;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// The log says that it is synced, and is not.
    SkipLogSync,
    /// The vote says that it is synced, and is not.
    SkipVoteSync,
    /// The leader takes a message that is sent for one that is acknowledged.
    AcknowledgeBeforeQuorum,
    /// A restarted leader goes on leading in its term.
    LeaderRestore,
    /// Rows count as stored once they are written: snapshots are taken, and the log is purged, ahead of the flush.
    PurgeWritten,
    /// The rows of a snapshot are not synced before the pointer moves to them.
    SkipInstallSync,
    /// Reads do not wait for a barrier.
    ReadWithoutBarrier,
    /// What is read back after a kill is taken for synced.
    TrustWhatIsRead,
    /// Orders are obeyed by the term of who gives them, not by term and node.
    FenceByTerm,
}

impl Break {
    pub(crate) const ALL: [Break; 9] = [
        Break::SkipLogSync,
        Break::SkipVoteSync,
        Break::AcknowledgeBeforeQuorum,
        Break::LeaderRestore,
        Break::PurgeWritten,
        Break::SkipInstallSync,
        Break::ReadWithoutBarrier,
        Break::TrustWhatIsRead,
        Break::FenceByTerm,
    ];

    /// Its name in the environment.
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }
}

/// The variable that names the break of this process.
pub(crate) const VARIABLE: &str = "SIM_BREAK";

thread_local! {
    static BEGUN: Cell<bool> = const { Cell::new(false) };
}

/// From now on it is made: before, the cluster comes to be.
pub(crate) fn begin() {
    BEGUN.set(true);
}

/// Whether this mistake is made.
pub(crate) fn is(what: Break) -> bool {
    BEGUN.get() && this_process_makes(what)
}

fn this_process_makes(what: Break) -> bool {
    static MADE: OnceLock<Option<Break>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let name = std::env::var(VARIABLE).ok()?;
        let known = Break::ALL.into_iter().find(|known| known.name() == name);
        Some(known.unwrap_or_else(|| panic!("{VARIABLE}={name}: there is no such break")))
    });
    *made == Some(what)
}

/// openraft's, with the mistakes that are made there.
pub(crate) fn config(config: openraft::Config) -> openraft::Config {
    if is(Break::LeaderRestore) {
        return openraft::Config { enable_leader_restore: Some(true), ..config };
    }
    config
}
