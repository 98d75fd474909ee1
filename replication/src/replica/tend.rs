//! What the leader does to the shape of the cluster by itself: learners that have caught up become voters, and members
//! that have long been silent go once others have taken their place.
//!
//! Not here: what a person asks for, see `shape`. The decisions are pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::Instant;

use super::Replica;
use super::shape::{HEARD_LATELY, is_close, may_lose};
use crate::machine::Machine;
use crate::membership::Member;

/// How often the leader looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A look that is so late says that this replica was stopped.
const STOPPED_FROM: Duration = Duration::from_secs(1);
/// Fewer voters are never left.
const VOTERS_MIN: usize = 3;

impl<M: Machine> Replica<M> {
    /// Looks after the members while this replica leads.
    pub(super) async fn tend(self) {
        let me = self.inner.identity.node_id;
        // In which term this replica leads, and since when it knows each member in that.
        let mut led = None;
        let mut known: BTreeMap<u64, Instant> = BTreeMap::new();
        let mut looked = Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Whoever was stopped itself heard nobody, and knows nothing of their silence.
            let late = looked.elapsed() > STOPPED_FROM;
            looked = Instant::now();
            let Ok(_alone) = self.inner.shaping.try_lock() else { continue };
            let (term, members, changing) = {
                let metrics = self.inner.raft.metrics();
                let metrics = metrics.borrow_watched();
                let term = metrics.state.is_leader().then_some(metrics.current_term);
                // Of two configurations at once, a former leader's change is ended first.
                let changing = metrics.membership_config.membership().get_joint_config().len() > 1;
                (term, term.map_or_else(Vec::new, |_| self.members(&metrics)), changing)
            };
            if led != term || late {
                led = term;
                known.clear();
            }
            known.retain(|id, _| members.iter().any(|m| m.node_id == *id));
            for member in &members {
                known.entry(member.node_id).or_insert_with(Instant::now);
            }
            let ready = ready_learners(&members);
            if !ready.is_empty() {
                tracing::info!(?ready, "learners have caught up and become voters");
                if let Err(error) = self.change(ChangeMembers::AddVoterIds(ready), true).await {
                    tracing::warn!("learners were not made voters: {error}");
                }
                continue;
            }
            let Some(after) = self.inner.options.dead_after else { continue };
            if changing {
                continue;
            }
            // Whoever never answered has been silent since this leader knows of it.
            let since = |m: &Member| {
                let known = known.get(&m.node_id)?.elapsed();
                Some(m.heard.map_or(known, |heard| heard.min(known)))
            };
            let silent = |m: &Member| since(m).is_some_and(|silent| silent >= after);
            let Some(dead) = dead(&members, me, silent) else { continue };
            tracing::warn!(
                node = dead,
                silent_s = after.as_secs(),
                "a member that is silent for so long is removed: others have taken its place"
            );
            if let Err(error) = self.remove_alone(dead).await {
                tracing::warn!(node = dead, "the silent member was not removed: {error}");
            }
        }
    }
}

/// Learners that are close behind and answered a moment ago: a dead voter would only cost quorum. A change that
/// a former leader left half done is finished by this too, since its new voters count as learners.
fn ready_learners(members: &[Member]) -> BTreeSet<u64> {
    let ready = |m: &&Member| !m.voter && !m.learner && is_close(m, HEARD_LATELY);
    members.iter().filter(ready).map(|m| m.node_id).collect()
}

/// A member that has been silent for long, and is not needed: a learner, or a voter without which those that are left bear
/// as many failures as before and are three at least. Most voters must answer.
fn dead(members: &[Member], me: u64, silent: impl Fn(&Member) -> bool) -> Option<u64> {
    let voters = members.iter().filter(|m| m.voter).count();
    // Of an even number the last one adds nothing: so a replacement has come.
    let replaced = voters.is_multiple_of(2) && voters > VOTERS_MIN;
    let answer = members.iter().filter(|m| m.voter && (m.node_id == me || is_close(m, HEARD_LATELY))).count();
    let quorum = answer * 2 > voters;
    let may_go = |m: &&Member| {
        quorum && (!m.voter || replaced && may_lose(members, me, m.node_id, "removed", HEARD_LATELY).is_ok())
    };
    members.iter().filter(|m| m.node_id != me && silent(m)).find(may_go).map(|m| m.node_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::shape::tests::cluster;

    #[test]
    fn learners_become_voters_unless_they_shall_not() {
        assert_eq!(ready_learners(&cluster("1v 2l 3l- 4w 5l+")), BTreeSet::from([2]));
    }

    #[test]
    fn the_dead_go_when_others_have_come_and_the_quorum_is_safe() {
        for (members, gone) in [
            ("1v 2v 3v", None),
            ("1v 2v 3v-", None),        // nobody has come for it
            ("1v 2v 3v- 4v", Some(3)),  // 4 has
            ("1v 2v 3v- 4l", None),     // not yet
            ("1v 2v- 3v- 4v", None),    // two of three must answer then, and one would
            ("1v 2v- 3v- 4v 5v", None), // five bear two failures, four would bear one
            ("1v 2v- 3v- 4v 5v 6v", Some(2)),
            ("1v 2v- 3v 4v 5v", None),
            ("1v- 2v 3v 4v", None),    // the leader itself
            ("1v 2v 3v 4l-", Some(4)), // learners are not needed
            ("1v 2v- 3v- 4l-", None),
            ("1v 2v-", None),
            ("1v 2v- 3v+ 4v+", None), // those that answer are behind
        ] {
            assert_eq!(dead(&cluster(members), 1, |m| m.heard.is_none()), gone, "{members}");
        }
    }
}
