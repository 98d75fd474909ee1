//! Named breaks: mistakes that are made on purpose, to see that the simulation would find them.

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
    /// Rows count as stored once they are written: snapshots and purges go ahead of the flush.
    PurgeWritten,
    /// Reads do not wait for a barrier.
    ReadWithoutBarrier,
    /// What is read back after a kill is taken for synced.
    TrustWhatIsRead,
}

impl Break {
    pub(crate) const ALL: [Break; 7] = [
        Break::SkipLogSync,
        Break::SkipVoteSync,
        Break::AcknowledgeBeforeQuorum,
        Break::LeaderRestore,
        Break::PurgeWritten,
        Break::ReadWithoutBarrier,
        Break::TrustWhatIsRead,
    ];

    /// Its name in the environment.
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }
}

/// The variable that names the break of this process.
pub(crate) const VARIABLE: &str = "SIM_BREAK";

/// Whether this process makes this mistake.
pub(crate) fn is(what: Break) -> bool {
    static MADE: OnceLock<Option<Break>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let name = std::env::var(VARIABLE).ok()?;
        let known = Break::ALL.into_iter().find(|known| known.name() == name);
        Some(known.unwrap_or_else(|| panic!("{VARIABLE}={name}: there is no such break")))
    });
    *made == Some(what)
}
