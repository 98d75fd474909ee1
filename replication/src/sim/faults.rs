//! What is done to replicas, and how often it was.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// A step of a replica's work on its disk, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Records are written to the log.
    Append,
    /// The log is synced.
    Sync,
    /// A segment is made ready.
    Segment,
    /// The vote is saved.
    Vote,
    /// A cut goes to the rows' memory.
    Cut,
    /// Rows are flushed.
    Flush,
    /// A snapshot is copied and sealed.
    Checkpoint,
    /// A segment is freed.
    Purge,
    /// A snapshot arrives.
    Receive,
    /// Its rows are put beside the old ones.
    Install,
    /// The pointer is moved to them.
    Swap,
    /// Identity, lock, store: at the start of a life only.
    Other,
}

impl Step {
    /// Those at which replicas are made to crash: they come all the time,
    pub(crate) const OFTEN: [Step; 5] = [Step::Append, Step::Sync, Step::Segment, Step::Vote, Step::Cut];
    /// or now and then.
    pub(crate) const SELDOM: [Step; 6] =
        [Step::Flush, Step::Checkpoint, Step::Purge, Step::Receive, Step::Install, Step::Swap];
}

/// What can be done to a replica or between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The replica ends before this step.
    CrashAt(Step),
    /// It ends at any time.
    Crash,
    /// The power goes with it: what was not synced is lost in part. Otherwise only the process is killed.
    PowerCut,
    /// All replicas lose their power at once.
    Blackout,
    /// A sync says that it failed.
    FailedSync,
    /// Syncs take long for a while.
    SlowSync,
    /// A bit of what was synced is another when the replica comes back.
    BitFlip,
    /// Two groups cannot reach each other.
    Partition,
    /// One replica does not reach another, which does reach it.
    OneWay,
    /// A connection breaks.
    Loss,
    /// A message is overtaken by later ones of other connections.
    Reordered,
    /// A replica joins, and is made a voter when it has caught up.
    Join,
    /// A replica was removed for good.
    Remove,
    /// Leadership was asked to move.
    Transfer,
    /// A replica was stopped as planned.
    Stop,
    /// A snapshot was taken.
    Snapshot,
    /// A snapshot was installed.
    Installed,
    /// A file of a snapshot was damaged, and then read to be sent.
    SnapshotFlip,
    /// One replica wrote a row that the others did not.
    RowsDiffer,
    /// A replica stopped because its rows are not the majority's, or are damaged.
    Quarantined,
    /// It runs again with a peer's.
    Refetched,
    /// The free space of a disk fell below the reserve.
    DiskFull,
    /// A command was refused for want of room.
    NoRoom,
    /// A leader without room leads no more.
    FullGivesUp,
    /// A replica without room takes entries again.
    RoomAgain,
    /// The clock of a machine jumped, by a minute to a month, and not its monotonic one.
    ClockJump,
    /// A backup was taken of a running replica, and a new cluster made of it.
    Restored,
    /// A new cluster was made of one replica's directory.
    Recovered,
    /// Two replicas led in one term.
    TwoLeaders,
}

impl Fault {
    /// All of them, for the report: each must fire in a batch.
    pub(crate) fn all() -> Vec<Fault> {
        let others = [
            Fault::Crash,
            Fault::PowerCut,
            Fault::Blackout,
            Fault::FailedSync,
            Fault::SlowSync,
            Fault::BitFlip,
            Fault::Partition,
            Fault::OneWay,
            Fault::Loss,
            Fault::Reordered,
            Fault::Join,
            Fault::Remove,
            Fault::Transfer,
            Fault::Stop,
            Fault::Snapshot,
            Fault::Installed,
            Fault::SnapshotFlip,
            Fault::RowsDiffer,
            Fault::Quarantined,
            Fault::Refetched,
            Fault::DiskFull,
            Fault::NoRoom,
            Fault::FullGivesUp,
            Fault::RoomAgain,
            Fault::ClockJump,
            Fault::Restored,
            Fault::Recovered,
            Fault::TwoLeaders,
        ];
        Step::OFTEN.into_iter().chain(Step::SELDOM).map(Fault::CrashAt).chain(others).collect()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::CrashAt(step) => write!(f, "crash at {}", format!("{step:?}").to_lowercase()),
            other => write!(f, "{}", format!("{other:?}").to_lowercase()),
        }
    }
}

thread_local! {
    static FIRED: RefCell<BTreeMap<Fault, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts one.
pub(crate) fn fired(fault: Fault) {
    crate::sim::trace(|| format!("fault: {fault}"));
    FIRED.with_borrow_mut(|fired| *fired.entry(fault).or_insert(0) += 1);
}

/// How often each fired on this thread.
pub(crate) fn counts() -> BTreeMap<Fault, u64> {
    FIRED.with_borrow(Clone::clone)
}
