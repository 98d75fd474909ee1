//! Who belongs to the cluster and who leads it: admit, promote, demote, remove, hand over.
//!
//! A step that would cost the quorum is refused before anything is proposed; the guards are pure. Node ids and
//! directories are never used again.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics};
use tokio::time::Instant;

use super::Replica;
use crate::Identity;
use crate::batch;
use crate::error::{MembershipError, ProposeError};
use crate::machine::Machine;
use crate::membership::{Admitted, Member, Voting, all_act_at};
use crate::raft::{Answer, Data, Node, Types};

/// A learner within so many entries of the leader's log has caught up, and leadership may be handed to a voter.
const CAUGHT_UP_ENTRIES: u64 = 100;
/// Longest wait for a change of membership.
const CHANGE_MAX: Duration = Duration::from_secs(10);
/// Who is counted on has answered within this time.
pub(super) const HEARD_LATELY: Duration = Duration::from_secs(1);
/// What a member can act at counts if it answered within this time.
const LEVEL_HEARD_LATELY: Duration = Duration::from_secs(2);
/// Between two looks for answers.
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(super) type Change = ChangeMembers<u64, Node>;

impl<M: Machine> Replica<M> {
    /// On the leader: gives a joining replica its node id, adds it as a learner, and makes it a voter in the
    /// background once it has caught up, if it shall be one. The same store uuid gets the same answer. One that cannot
    /// act at the machine's level is refused.
    pub async fn admit(
        &self,
        store_uuid: &str,
        raft_address: &str,
        api_address: &str,
        as_what: Voting,
        acts_at: u32,
    ) -> Result<Admitted, MembershipError> {
        self.must_act(acts_at)?;
        for (name, value) in
            [("store uuid", store_uuid), ("raft address", raft_address), ("api address", api_address)]
        {
            if value.is_empty() || value.len() > 255 {
                return Err(MembershipError::Refused(format!("the {name} is missing or too long")));
            }
        }
        let _alone = self.inner.shaping.lock().await;
        for member in self.status().members.iter().filter(|member| member.store_uuid != store_uuid) {
            let id = member.node_id;
            let taken =
                [("raft", &member.raft_address, raft_address), ("api", &member.api_address, api_address)];
            if let Some((what, address, _)) = taken.into_iter().find(|(_, has, wants)| has == wants) {
                return Err(MembershipError::Refused(format!(
                    "{address} is the {what} address of node {id}, which has another data directory; if that one is lost, remove node {id} first, then join again"
                )));
            }
        }
        let reserved = self.write(Data::Reserve(store_uuid.to_owned())).await?;
        let Answer::Reserved(given) = reserved.1 else {
            return Err(ProposeError::Unknown { why: "the answer was lost".into() }.into());
        };
        let node_id = given.map_err(MembershipError::Refused)?;
        // It may have risen meanwhile.
        self.must_act(acts_at)?;
        if self.was_removed(node_id) {
            return Err(MembershipError::Refused(format!(
                "this data directory was node {node_id}, which was removed from the cluster; join with an empty directory"
            )));
        }
        let node = Node {
            raft_address: raft_address.into(),
            api_address: api_address.into(),
            store_uuid: store_uuid.into(),
            learner: as_what == Voting::Learner,
        };
        match self.node(node_id) {
            Some(known) if known == node => {}
            Some(_) => self.change(ChangeMembers::SetNodes(BTreeMap::from([(node_id, node)])), true).await?,
            None => self.change(ChangeMembers::AddNodes(BTreeMap::from([(node_id, node)])), true).await?,
        }
        let identity =
            Identity { node_id, store_uuid: store_uuid.into(), ..Identity::clone(&self.inner.identity) };
        Ok(Admitted { identity, members: self.status().members })
    }

    /// On the leader: the highest level that all members can act at, learners too; `Err` names those that have not said
    /// so lately.
    pub fn all_act_at(&self) -> Result<u32, Vec<u64>> {
        let me = (self.inner.identity.node_id, M::LEVEL);
        all_act_at(&self.status().members, me, LEVEL_HEARD_LATELY)
    }

    fn must_act(&self, acts_at: u32) -> Result<(), MembershipError> {
        let level = self.read(M::level);
        if acts_at >= level {
            return Ok(());
        }
        Err(MembershipError::Refused(format!(
            "the cluster acts at level {level}, and the program of the joining replica can act at levels up to {acts_at}: start a newer one there, and repeat the command"
        )))
    }

    /// All members and what is known of each.
    pub(super) fn members(&self, metrics: &RaftMetrics<Types>) -> Vec<Member> {
        let leads = metrics.state.is_leader();
        let mut members = members(metrics);
        for member in members.iter_mut().filter(|_| leads) {
            let told = match member.node_id == metrics.id {
                true => {
                    NonZeroU32::new(M::LEVEL).map(|level| (level, self.inner.full.load(Ordering::Relaxed)))
                }
                false => self.inner.transport.told(member.node_id),
            };
            (member.acts_at, member.full) =
                (told.map(|(level, _)| level), told.is_some_and(|(_, full)| full));
        }
        members
    }

    /// On the leader: makes a learner a voter, in the background if it has to catch up first; or a voter a learner.
    pub async fn set_voting(&self, node_id: u64, voting: Voting) -> Result<(), MembershipError> {
        let learner = voting == Voting::Learner;
        let _alone = self.inner.shaping.lock().await;
        let (members, lately) = self.newest_members(node_id).await?;
        if learner {
            may_lose(&members, self.inner.identity.node_id, node_id, "demoted", lately)
                .map_err(MembershipError::Refused)?;
        }
        let Some(known) = self.node(node_id) else { return Err(nobody(&members, node_id)) };
        if known.learner != learner {
            let node = Node { learner, ..known };
            self.change(ChangeMembers::SetNodes(BTreeMap::from([(node_id, node)])), true).await?;
        }
        if learner && self.votes(node_id) {
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node_id])), true).await?;
        }
        Ok(())
    }

    /// On the leader: removes a member for good. Removed once more, it stays removed.
    pub async fn remove(&self, node_id: u64) -> Result<(), MembershipError> {
        let _alone = self.inner.shaping.lock().await;
        self.remove_alone(node_id).await
    }

    /// The same, for who holds `shaping`.
    pub(super) async fn remove_alone(&self, node_id: u64) -> Result<(), MembershipError> {
        if self.node(node_id).is_none() && self.was_removed(node_id) {
            return Ok(());
        }
        let (members, lately) = self.newest_members(node_id).await?;
        may_lose(&members, self.inner.identity.node_id, node_id, "removed", lately)
            .map_err(MembershipError::Refused)?;
        let gone = BTreeSet::from([node_id]);
        if self.votes(node_id) {
            self.change(ChangeMembers::RemoveVoters(gone.clone()), false).await?;
        }
        if self.node(node_id).is_some() {
            self.change(ChangeMembers::RemoveNodes(gone), false).await?;
        }
        Ok(())
    }

    /// On the leader: hands leadership to that voter, or to the one that is closest behind; returns the new leader.
    /// Meanwhile proposals are answered `NotLeader`. If it does not take over in time, whoever wins an election leads.
    pub async fn transfer(&self, to: Option<u64>) -> Result<Member, MembershipError> {
        let fatal = |fatal: openraft::errors::Fatal<Types>| ProposeError::Stopped { why: fatal.to_string() };
        // Whoever answered a moment ago may have died since, and a new leader has heard nobody yet.
        let (began, patience) = (Instant::now(), self.inner.options.profile.heartbeat() * 3);
        self.members_on_leader()?;
        self.inner.raft.trigger().heartbeat().await.map_err(fatal)?;
        let heir = loop {
            let (members, lately) = (self.members_on_leader()?, began.elapsed());
            match heir(&members, self.inner.identity.node_id, to, lately) {
                Ok(heir) => break heir.clone(),
                Err(why) if lately > patience => return Err(MembershipError::Refused(why)),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        };
        let mut leadership = self.inner.leadership.clone();
        self.inner.raft.trigger().transfer_leader(heir.node_id).await.map_err(fatal)?;
        let limit = self.inner.options.profile.election().1 * 2;
        let moved = leadership.wait_for(|now| !now.is_me && now.leader.is_some());
        match tokio::time::timeout(limit, moved).await {
            Ok(Ok(now)) => match &now.leader {
                Some(leader) if leader.node_id == heir.node_id => Ok(leader.clone()),
                _ => {
                    Err(ProposeError::Unknown { why: "another replica was elected meanwhile".into() }.into())
                }
            },
            _ => {
                let why = format!("node {} did not take over in time", heir.node_id);
                Err(ProposeError::Unknown { why }.into())
            }
        }
    }

    /// Only asks that node to lead, whether it can or not.
    #[cfg(test)]
    pub(crate) async fn send_transfer(&self, to: u64) {
        let _stopped = self.inner.raft.trigger().transfer_leader(to).await;
    }

    /// The members once the last change of them is done, and every voter but `but` has answered since then or has
    /// had the time for it; and how long ago that was. Whoever died a moment ago must not be counted on.
    async fn newest_members(&self, but: u64) -> Result<(Vec<Member>, Duration), MembershipError> {
        self.members_on_leader()?;
        self.once(is_settled, CHANGE_MAX).await?;
        let began = Instant::now();
        let patience = self.inner.options.profile.election().1;
        loop {
            let members = self.members_on_leader()?;
            let lately = began.elapsed();
            let answered = |m: &Member| m.heard.is_some_and(|heard| heard < lately);
            let me = self.inner.identity.node_id;
            let waits =
                members.iter().any(|m| m.voter && m.node_id != me && m.node_id != but && !answered(m));
            if !waits || lately > patience {
                return Ok((members, lately));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn members_on_leader(&self) -> Result<Vec<Member>, MembershipError> {
        if self.inner.leadership.borrow().is_me {
            return Ok(self.status().members);
        }
        Err(batch::not_leader(&self.inner.leadership).into())
    }

    fn node(&self, node_id: u64) -> Option<Node> {
        self.inner.raft.metrics().borrow_watched().membership_config.get_node(&node_id).cloned()
    }

    /// Whether it votes in the newest membership, be it committed or not.
    fn votes(&self, node_id: u64) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().any(|id| id == node_id)
    }

    fn was_removed(&self, node_id: u64) -> bool {
        self.inner.pending.with(|present| present.at.removed.contains(&node_id))
    }

    /// Changes the membership; waits while a former leader's change is under way, and until this replica's own view of
    /// the members shows the change. With `retain`, voters that are removed stay as learners. Whoever decides on a
    /// change by that view holds `shaping` from the look to the end.
    pub(super) async fn change(&self, change: Change, retain: bool) -> Result<(), ProposeError> {
        let deadline = Instant::now() + CHANGE_MAX;
        loop {
            if !self.inner.leadership.borrow().is_me {
                return Err(batch::not_leader(&self.inner.leadership));
            }
            self.check_room()?;
            let changing = self.inner.raft.change_membership(change.clone(), retain);
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, changing).await {
                Ok(Ok(changed)) => {
                    // It is answered a moment before the metrics tell of it.
                    let shown = |metrics: &RaftMetrics<Types>| {
                        metrics.committed_membership_config.log_id().as_ref() >= Some(&changed.log_id)
                    };
                    return self.once(shown, deadline.saturating_duration_since(Instant::now())).await;
                }
                Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                )))) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
                // Even if it is a refusal: the change may be half done, and another leader ends it.
                Ok(Err(error)) => return Err(ProposeError::Unknown { why: error.to_string() }),
                Err(_) => {
                    return Err(ProposeError::Unknown {
                        why: "a change of the membership was not done in time".into(),
                    });
                }
            }
        }
    }

    /// Waits until the metrics say so.
    async fn once(
        &self,
        so: impl Fn(&RaftMetrics<Types>) -> bool + Send,
        limit: Duration,
    ) -> Result<(), ProposeError> {
        let waits = self.inner.raft.wait(Some(limit));
        let late =
            |_| ProposeError::Unknown { why: "a change of the membership was not done in time".into() };
        waits.metrics(so, "").await.map(drop).map_err(late)
    }
}

/// Whether the newest membership is a committed one; it may be the half of a change that a former leader began.
fn is_settled(metrics: &RaftMetrics<Types>) -> bool {
    metrics.membership_config.log_id() == metrics.committed_membership_config.log_id()
}

/// All members and what the metrics know of each.
pub(super) fn members(metrics: &RaftMetrics<Types>) -> Vec<Member> {
    // Whoever votes in all configurations that are committed. During a change there are two, and until it is
    // done, a majority of the old one is needed too.
    let configs = metrics.committed_membership_config.get_joint_config();
    let votes = |id: &u64| !configs.is_empty() && configs.iter().all(|voters| voters.contains(id));
    let last = metrics.last_log_index.map_or(0, |last| last + 1);
    let mut members: Vec<Member> = metrics
        .membership_config
        .nodes()
        .map(|(id, node)| {
            let matching = metrics.replication.as_ref().and_then(|all| all.get(id));
            let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(id)).and_then(|at| at.as_ref());
            Member {
                lag: matching.and_then(|at| at.as_ref()).map(|at| last.saturating_sub(at.index + 1)),
                heard: heard.map(|at| openraft::Instant::elapsed(&**at)),
                ..node.member(*id, votes(id))
            }
        })
        .collect();
    members.sort_by_key(|member| member.node_id);
    members
}

/// Whether it is close behind and has answered within that time.
pub(super) fn is_close(member: &Member, lately: Duration) -> bool {
    let close = member.lag.is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES);
    close && member.heard.is_some_and(|heard| heard < lately)
}

fn nobody(members: &[Member], node_id: u64) -> MembershipError {
    let there: Vec<String> = members.iter().map(|m| format!("node {}", m.node_id)).collect();
    MembershipError::Refused(format!("node {node_id} is no member; there are {}", there.join(", ")))
}

/// Whether the cluster bears that a member votes no more.
pub(super) fn may_lose(
    members: &[Member],
    me: u64,
    node_id: u64,
    how: &str,
    lately: Duration,
) -> Result<(), String> {
    let Some(lost) = members.iter().find(|m| m.node_id == node_id) else {
        return Err(match nobody(members, node_id) {
            MembershipError::Refused(why) => why,
            MembershipError::Propose(error) => error.to_string(),
        });
    };
    if node_id == me {
        return Err(format!("node {node_id} leads; hand leadership over first, then it can be {how}"));
    }
    if !lost.voter {
        return Ok(());
    }
    let left: Vec<&Member> = members.iter().filter(|m| m.voter && m.node_id != node_id).collect();
    let there = left.iter().filter(|m| m.node_id == me || is_close(m, lately)).count();
    if there * 2 > left.len() {
        return Ok(());
    }
    let silent: Vec<String> = left
        .iter()
        .filter(|m| m.node_id != me && !is_close(m, lately))
        .map(|m| format!("node {}", m.node_id))
        .collect();
    Err(format!(
        "if node {node_id} were {how}, only {there} of the {} voters left would answer and be up to date, and nothing could change any more: bring back {} first, or remove that one instead",
        left.len(),
        silent.join(", ")
    ))
}

/// Who gets the leadership.
fn heir(members: &[Member], me: u64, to: Option<u64>, lately: Duration) -> Result<&Member, String> {
    let Some(to) = to else {
        let able = members.iter().filter(|m| m.node_id != me && m.voter && !m.full && is_close(m, lately));
        return able.min_by_key(|m| m.lag).ok_or_else(|| {
            "no other voter answers, is up to date and has room on its disk, so none could lead".to_owned()
        });
    };
    match members.iter().find(|m| m.node_id == to) {
        None => Err(format!("node {to} is no member")),
        Some(member) if to == me => Err(format!("node {} leads already", member.node_id)),
        Some(member) if !member.voter => {
            Err(format!("node {to} is a learner, which cannot lead; promote it first"))
        }
        Some(member) if member.full => {
            Err(format!("the disk of node {to} is nearly full; choose another, or make room there"))
        }
        Some(member) if !is_close(member, lately) => Err(format!(
            "node {to} does not answer or is too far behind ({} entries); choose another",
            member.lag.map_or("an unknown number of".to_owned(), |lag| lag.to_string())
        )),
        Some(member) => Ok(member),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `1v` votes and is close, `2v-` votes and is silent since ever, `3l` learns, `4w` learns by wish, `5v+` votes and is far behind,
    /// `6v!` votes and has no room.
    pub(in crate::replica) fn cluster(words: &str) -> Vec<Member> {
        let member = |word: &str| Member {
            node_id: word[..1].parse().unwrap(),
            raft_address: String::new(),
            api_address: String::new(),
            store_uuid: String::new(),
            voter: &word[1..2] == "v",
            learner: &word[1..2] == "w",
            lag: Some(if word.ends_with('+') { CAUGHT_UP_ENTRIES + 1 } else { word[..1].parse().unwrap() }),
            heard: (!word.ends_with('-')).then_some(Duration::ZERO),
            acts_at: None,
            full: word.ends_with('!'),
        };
        words.split_whitespace().map(member).collect()
    }

    #[test]
    fn whoever_is_needed_for_a_quorum_stays() {
        for (members, node, allowed) in [
            ("1v 2v 3v", 2, true),
            ("1v 2v 3v", 1, false),  // the leader
            ("1v 2v 3v", 4, false),  // nobody
            ("1v 2v 3v-", 3, true),  // the dead one
            ("1v 2v 3v-", 2, false), // the living one
            ("1v 2v 3v+", 2, false), // the one that is up to date
            ("1v 2v", 2, true),      // one is left
            ("1v 2v-", 2, true),     // though no change can commit: it will say so
            ("1v 2v 3v 4v- 5v-", 4, true),
            ("1v 2v 3v 4v- 5v-", 2, false),
            ("1v 2v 3v- 4v", 2, true),
            ("1v 2v 3l-", 3, true),
            ("1v 2w 3v-", 2, true),
        ] {
            assert_eq!(
                may_lose(&cluster(members), 1, node, "removed", HEARD_LATELY).is_ok(),
                allowed,
                "{members}: {node}"
            );
        }
    }

    #[test]
    fn the_heir_is_a_voter_that_is_close() {
        for (members, to, heir_is) in [
            ("1v 2v 3v", None, Some(2)),
            ("1v 2v- 3v", None, Some(3)),
            ("1v 2v+ 3v", None, Some(3)),
            ("1v 2v! 3v", None, Some(3)),
            ("1v 2v! 3v!", None, None),
            ("1v 2v! 3v", Some(2), None),
            ("1v 2l 3w", None, None),
            ("1v", None, None),
            ("1v 2v 3v", Some(3), Some(3)),
            ("1v 2v 3v", Some(1), None),
            ("1v 2v 3v", Some(9), None),
            ("1v 2l 3v", Some(2), None),
            ("1v 2v- 3v", Some(2), None),
        ] {
            let members = cluster(members);
            let found = heir(&members, 1, to, HEARD_LATELY).map(|m| m.node_id).ok();
            assert_eq!(found, heir_is, "{members:?} to {to:?}");
        }
    }
}
