//! What a proposer is told, on a real replica that is alone in its cluster.

use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use openraft::raft::VoteRequest;

use super::*;
use crate::machine::{Changes, Corrupt, Rows};
use crate::raft::{LeaderId, LogId, Vote};

/// Remembers how many commands were applied.
#[derive(Default)]
struct Count(u64);

impl Machine for Count {
    type Command = ();
    type Reply = u64;

    fn decode(_: &[u8]) -> Result<(), Corrupt> {
        Ok(())
    }

    fn apply(&mut self, (): (), _: &mut Changes) -> u64 {
        self.0 += 1;
        self.0
    }

    fn load(_: &mut Rows<'_>) -> Result<Self, Corrupt> {
        Ok(Count::default())
    }
}

async fn leading(dir: &Path) -> Replica<Count> {
    let mut options = Options::new(dir, "west", "127.0.0.1:1", "127.0.0.1:2", Profile::Fast);
    options.accept_slow_disk = true;
    crate::identity::init(&options).await.unwrap();
    let replica = Replica::start(options).await.unwrap();
    leads_behind(&replica, 0).await;
    replica
}

/// Waits until the replica leads in a later term than `term`; returns that.
async fn leads_behind(replica: &Replica<Count>, term: u64) -> u64 {
    let mut leadership = replica.leadership();
    let led = leadership.wait_for(|now| now.is_me && now.term > term);
    tokio::time::timeout(Duration::from_secs(20), led).await.expect("an election").unwrap().term
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_an_earlier_term_stays_out_of_the_log_of_a_later_one() {
    let dir = tempfile::tempdir().unwrap();
    let replica = leading(dir.path()).await;
    let earlier = replica.leadership().borrow().term;
    assert_eq!(replica.propose_in(earlier, Bytes::new()).await.unwrap().reply, 1);
    // Another asks for votes in the next term and is never heard again; so the same replica leads again.
    let asks = LeaderId { term: earlier + 1, node_id: 2 };
    let mut vote = VoteRequest::new(
        Vote { leader_id: asks, committed: false },
        Some(LogId { leader_id: asks, index: 1_000 }),
    );
    vote.leadership_transfer = true;
    assert!(replica.inner.raft.vote(vote).await.unwrap().vote_granted);
    let term = leads_behind(&replica, earlier).await;
    let told = replica.propose_in(earlier, Bytes::new()).await;
    assert!(matches!(told, Err(ProposeError::NotLeader { .. })), "{told:?}");
    // Nor when it waited in the queue meanwhile; those of the present term beside it are not held up.
    let [late, present] = [earlier, term].map(|term| replica.inner.batcher.push(term, Bytes::new()).unwrap());
    assert!(matches!(late.await, Err(ProposeError::NotLeader { .. })));
    assert_eq!(present.await.unwrap().reply, 2);
    assert_eq!(replica.propose(Bytes::new()).await.unwrap().reply, 3);
    // Nor when leadership changed where only Raft sees it.
    let (responder, answer) = openraft::impls::ProgressResponder::complete_only();
    let payload = Data::Batch([Bytes::new()].into());
    let leader = LeaderId { term: earlier, node_id: 1 };
    replica.inner.raft.write(payload).with_leader(leader).responder(responder).await.unwrap();
    let answer: openraft::raft::ClientWriteResult<Types> = answer.await.unwrap();
    assert!(matches!(answer, Err(ClientWriteError::ForwardToLeader(_))));
    assert_eq!(replica.read(|count| count.0), 3);
    replica.shutdown().await;
}

#[test]
fn only_what_was_not_appended_is_said_to_be_undone() {
    let (_told, leadership) = watch::channel(Leadership::default());
    let explain = |error| batch::explain(RaftError::APIError(error), &leadership);
    let refused = ClientWriteError::ForwardToLeader(ForwardToLeader::empty());
    assert!(matches!(explain(refused), ProposeError::NotLeader { .. }));
    // Another leader's log has cut the entry off here; elsewhere it may stand.
    let cut_off = ClientWriteError::LogEntryDiscarded(ForwardToLeader::empty());
    assert!(matches!(explain(cut_off), ProposeError::Unknown { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_act_at_the_level_stays_out_and_whoever_is_silent_keeps_it_down() {
    let dir = tempfile::tempdir().unwrap();
    let replica = leading(dir.path()).await;
    assert_eq!(replica.all_act_at(), Ok(1), "it is alone");
    let admit =
        |acts_at| replica.admit("a store", "127.0.0.1:3", "127.0.0.1:4", crate::Voting::Learner, acts_at);
    let refused = admit(0).await.unwrap_err().to_string();
    assert!(refused.contains("acts at level 1") && refused.contains("start a newer one"), "{refused}");
    assert_eq!(replica.status().members.len(), 1);
    let admitted = admit(1).await.unwrap();
    assert_eq!(admitted.members.len(), 2, "it is told of itself too");
    assert_eq!(replica.all_act_at(), Err(vec![admitted.identity.node_id]), "it never answered");
    assert_eq!(replica.status().members[0].acts_at.map(|level| level.get()), Some(1));
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_one_members_even_if_two_ask_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let replica = leading(dir.path()).await;
    let admit = |store: &'static str, raft: &'static str, api: &'static str| {
        let replica = replica.clone();
        async move { replica.admit(store, raft, api, crate::Voting::Learner, 1).await.map_err(|e| e.to_string()) }
    };
    let (one, other) = tokio::join!(admit("a", "h:3", "h:4"), admit("b", "h:3", "h:5"));
    let (admitted, refused) = if one.is_ok() { (one, other) } else { (other, one) };
    let node_id = admitted.unwrap().identity.node_id;
    let refused = refused.unwrap_err();
    assert!(refused.contains(&format!("h:3 is the raft address of node {node_id}")), "{refused}");
    // The leader's own.
    let refused = admit("c", "h:6", "127.0.0.1:2").await.unwrap_err();
    assert!(refused.contains("127.0.0.1:2 is the api address of node 1"), "{refused}");
    assert_eq!(replica.status().members.len(), 2);
    replica.shutdown().await;
}
