//! How old a follower's machine is at most: what it has applied, beside what its leader said was committed.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::log::lock;

/// Remembers when the leader last said of an index that it was committed, and this replica had applied it.
#[derive(Default)]
pub(crate) struct Freshness(Mutex<Said>);

#[derive(Default)]
struct Said {
    /// Committed at that instant, and maybe not applied here yet.
    next: Option<(u64, Instant)>,
    /// Everything committed at that instant is applied.
    reached: Option<Instant>,
}

impl Said {
    fn settle(&mut self, applied: u64) {
        if let Some((_, at)) = self.next.take_if(|(committed, _)| *committed <= applied) {
            self.reached = Some(at);
        }
    }
}

impl Freshness {
    /// A leader that this replica follows said at `at` that `committed` is committed; `applied` is applied here.
    pub(crate) fn heard(&self, committed: u64, at: Instant, applied: u64) {
        let mut said = lock(&self.0);
        said.settle(applied);
        // An older claim that is not reached yet stays, or a busy replica would never reach one.
        said.next.get_or_insert((committed, at));
        said.settle(applied);
    }

    /// Everything committed so long ago is applied here; `None` while no leader was heard.
    pub(crate) fn age(&self, applied: u64) -> Option<Duration> {
        let mut said = lock(&self.0);
        said.settle(applied);
        said.reached.map(|at| at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_applied_makes_it_younger() {
        let freshness = Freshness::default();
        assert_eq!(freshness.age(9), None);
        let (early, late) = (Instant::now() - Duration::from_secs(60), Instant::now());
        freshness.heard(5, early, 4);
        assert_eq!(freshness.age(4), None, "nothing is known of the time before");
        freshness.heard(6, late, 4);
        assert!(freshness.age(5).unwrap() >= Duration::from_secs(60), "6 is not applied");
        freshness.heard(6, late, 6);
        assert!(freshness.age(6).unwrap() < Duration::from_secs(50));
    }
}
