//! Each law is shown a history that breaks it, beside one that does not.

use super::*;
use crate::raft::LeaderId;

fn id(term: u64, node_id: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id }, index }
}

/// A replica in its first life: entries 1 and 2 of leader (1, 1), of which the first is applied.
fn replica(node_id: u64) -> Seen {
    Seen {
        life: node_id,
        node_id,
        leads: None,
        log: vec![(id(1, 1, 1), 11), (id(1, 1, 2), 12)],
        purged: None,
        applied: Some(id(1, 1, 1)),
        stored: Some(id(1, 1, 1)),
        snapshot: None,
        committed: 1,
        vote: Some(Vote { leader_id: LeaderId { term: 1, node_id: 1 }, committed: true }),
        full: false,
        ages: [None; 2],
        now: Duration::from_secs(10),
    }
}

/// The replica, changed.
fn but(node_id: u64, change: impl FnOnce(&mut Seen)) -> Seen {
    let mut seen = replica(node_id);
    change(&mut seen);
    seen
}

/// What the laws say of a history, one look after the other.
fn judge(history: &[Vec<Seen>]) -> Result<(), String> {
    let mut laws = all();
    history.iter().try_for_each(|seen| laws.iter_mut().try_for_each(|law| law.look(seen)))
}

#[track_caller]
fn broken(complaint: &str, history: &[Vec<Seen>]) {
    let why = judge(history).expect_err(complaint);
    assert!(why.contains(complaint), "{complaint}: {why}");
}

#[test]
fn a_sound_history_breaks_no_law() {
    let later = but(2, |seen| {
        (seen.leads, seen.life) = (Some(2), 7);
        seen.log.push((id(2, 2, 3), 13));
        seen.vote = Some(Vote { leader_id: LeaderId { term: 2, node_id: 2 }, committed: true });
        (seen.applied, seen.committed) = (Some(id(2, 2, 3)), 3);
    });
    let leader = but(1, |seen| seen.leads = Some(1));
    judge(&[vec![leader.clone(), replica(2)], vec![leader, later]]).unwrap();
}

#[test]
fn election_nobody_leads_twice_in_one_term() {
    let leads = |life| but(1, |seen| (seen.leads, seen.life) = (Some(1), life));
    broken("in two of its lives", &[vec![leads(1)], vec![leads(2)]]);
}

#[test]
fn matching_an_id_says_what_it_is_and_what_stands_before_it() {
    broken("says something else", &[vec![replica(1), but(2, |seen| seen.log[1].1 = 99)]]);
    let fork = but(2, |seen| {
        (seen.applied, seen.stored) = (None, None);
        seen.log[0].0 = id(0, 9, 1);
    });
    broken("before entry", &[vec![replica(1), fork]]);
}

#[test]
fn applied_all_apply_the_same_at_an_index() {
    let other = but(2, |seen| {
        seen.log = vec![(id(2, 2, 1), 21)];
        (seen.applied, seen.stored) = (Some(id(2, 2, 1)), None);
    });
    broken("was applied before", &[vec![replica(1), other]]);
}

#[test]
fn completeness_whoever_leads_has_all_that_was_applied() {
    let leader = but(2, |seen| {
        seen.leads = Some(2);
        seen.log = vec![(id(2, 2, 1), 21)];
        (seen.applied, seen.stored) = (None, None);
    });
    broken("leads in term 2, and has", &[vec![replica(1)], vec![leader]]);
}

#[test]
fn stored_nothing_is_dropped_before_it_is_safe() {
    broken("and applied", &[vec![but(1, |seen| seen.stored = Some(id(1, 1, 2)))]]);
    broken("and its snapshot is", &[vec![but(1, |seen| seen.purged = Some(id(1, 1, 1)))]]);
    let purged = but(1, |seen| (seen.purged, seen.snapshot) = (Some(id(1, 1, 2)), Some(id(1, 1, 2))));
    broken("and stored", &[vec![purged]]);
}

#[test]
fn commit_never_goes_back() {
    broken("back to", &[vec![replica(1)], vec![but(1, |seen| seen.committed = 0)]]);
    let forgets = but(1, |seen| (seen.applied, seen.stored) = (None, None));
    broken("back to", &[vec![replica(1)], vec![forgets]]);
}

#[test]
fn vote_is_never_taken_back() {
    let vote = |term, node_id, life| {
        but(1, |seen| {
            seen.life = life;
            seen.vote = Some(Vote { leader_id: LeaderId { term, node_id }, committed: false });
        })
    };
    judge(&[vec![vote(2, 1, 1)], vec![vote(2, 3, 1)]]).unwrap();
    broken("had voted", &[vec![vote(2, 3, 1)], vec![vote(2, 1, 1)]]);
    broken("had voted", &[vec![vote(2, 3, 1)], vec![vote(1, 3, 2)]]);
}

#[test]
fn room_a_full_replica_takes_no_entries() {
    let at = |seconds, last: Option<LogId>| {
        but(1, |seen| {
            (seen.full, seen.now) = (true, Duration::from_secs(seconds));
            seen.log.extend(last.map(|last| (last, 13)));
        })
    };
    let (other, own) = (Some(id(2, 2, 3)), Some(id(2, 1, 3)));
    judge(&[vec![at(10, None)], vec![at(11, other)], vec![at(13, other)]]).unwrap();
    judge(&[vec![at(10, None)], vec![at(13, own)]]).unwrap();
    broken("has no room", &[vec![at(10, None)], vec![at(13, other)]]);
    let more = |index| vec![at(14, Some(id(2, 1, index)))];
    judge(&[vec![at(10, None)], vec![at(13, own)], more(5)]).unwrap();
    broken("has no room", &[vec![at(10, None)], vec![at(13, own)], more(6)]);
}

#[test]
fn age_does_not_follow_a_clock() {
    judge(&[vec![but(1, |seen| seen.ages = [Some(Duration::from_secs(10)), None])]]).unwrap();
    for place in 0..2 {
        broken("says", &[vec![but(1, |seen| seen.ages[place] = Some(Duration::from_secs(11)))]]);
    }
}

#[test]
fn obeyed_one_leader_follows_the_other() {
    let judge = |leaders: &[obeyed::Leader]| {
        let mut law = obeyed::Obeyed::default();
        leaders.iter().try_for_each(|leader| law.look(*leader))
    };
    judge(&[(1, 1), (1, 1), (1, 2), (3, 1), (3, 1)]).unwrap();
    assert!(judge(&[(1, 1), (1, 2), (1, 1)]).is_err());
    assert!(judge(&[(1, 1), (2, 1), (1, 1)]).is_err());
}
