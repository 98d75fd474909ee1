//! Do all replicas have the same rows? The leader asks at one point of the log, again and again. A replica that differs
//! from a majority is quarantined: it stops, and starts again from a peer's rows, with its own log and vote. Where there
//! is no majority nobody knows who is right, and that is said.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::wire::raft as wire;

use super::{Replica, stop};
use crate::machine::Machine;
use crate::membership::{Fingerprint, Member};
use crate::telemetry;

/// For the answers of all replicas.
const ANSWERS_MAX: Duration = Duration::from_secs(5);

/// What a comparison of sums says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// All that answered have the same, or too few answered to tell.
    Fine,
    /// These differ from a majority, which has this sum.
    Wrong(Vec<u64>, [u8; 8]),
    /// No majority has the same.
    Split,
}

/// Judges the sums of those that answered, of a cluster with so many voters. Learners are judged and judge not.
fn judge(sums: &[(Member, [u8; 8])], voters: usize) -> Verdict {
    let mut counts: BTreeMap<[u8; 8], usize> = BTreeMap::new();
    for (member, sum) in sums {
        *counts.entry(*sum).or_default() += usize::from(member.voter);
    }
    if counts.len() <= 1 {
        return Verdict::Fine;
    }
    match counts.iter().find(|(_, count)| **count * 2 > voters) {
        Some((right, _)) => {
            let differs = sums.iter().filter(|(_, sum)| sum != right);
            Verdict::Wrong(differs.map(|(member, _)| member.node_id).collect(), *right)
        }
        // With few answers the others may make a majority later.
        None if sums.iter().filter(|(member, _)| member.voter).count() < voters => Verdict::Fine,
        None => Verdict::Split,
    }
}

impl<M: Machine> Replica<M> {
    /// The leader compares all replicas' sums, for as long as this replica runs.
    pub(super) async fn compare_sums(self) {
        loop {
            tokio::time::sleep(self.inner.options.check_every).await;
            if !self.inner.leadership.borrow().is_me {
                telemetry::differ(false);
            } else if let Ok(own) = self.fingerprint().await {
                self.compare(own).await;
            }
        }
    }

    async fn compare(&self, own: Fingerprint) {
        let me = self.inner.identity.node_id;
        let members = self.status().members;
        let voters = members.iter().filter(|member| member.voter).count();
        let asked = members.into_iter().map(|member| async move {
            if member.node_id == me {
                return Some((member, own.sum));
            }
            let asks = wire::SumRequest { index: own.index, ..wire::SumRequest::default() };
            let answer = self.inner.transport.sum(&member, asks);
            let answer = tokio::time::timeout(ANSWERS_MAX, answer).await.ok()?.ok()?;
            Some((member, answer.sum.to_be_bytes()))
        });
        let sums: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        let verdict = judge(&sums, voters);
        telemetry::compared(verdict != Verdict::Fine);
        self.inner.split.send_replace(verdict == Verdict::Split);
        match verdict {
            Verdict::Fine => {}
            Verdict::Split => tracing::error!(
                index = own.index,
                "the replicas' rows differ and no majority has the same: decisions must stop until a person has looked"
            ),
            Verdict::Wrong(nodes, right) => {
                for (member, sum) in sums.iter().filter(|(member, _)| nodes.contains(&member.node_id)) {
                    tracing::error!(
                        node = member.node_id,
                        index = own.index,
                        sum = format!("{:016x}", u64::from_be_bytes(*sum)),
                        majority = format!("{:016x}", u64::from_be_bytes(right)),
                        "a replica's rows differ from those of the majority: it is quarantined"
                    );
                    if member.node_id == me {
                        self.quarantine(own.index, right);
                        continue;
                    }
                    let asks = wire::SumRequest {
                        index: own.index,
                        majority: Some(u64::from_be_bytes(right)),
                        ..wire::SumRequest::default()
                    };
                    let told =
                        tokio::time::timeout(ANSWERS_MAX, self.inner.transport.sum(member, asks)).await;
                    if !matches!(told, Ok(Ok(_))) {
                        tracing::warn!(node = member.node_id, "it did not hear; it is told again");
                    }
                }
            }
        }
    }

    /// Stops this replica if its sum at `index` is not that of the majority.
    pub(crate) fn quarantine(&self, index: u64, majority: [u8; 8]) {
        let own = self.inner.writer.sums().into_iter().find(|sum| sum.index == index);
        let Some(own) = own.filter(|own| own.sum != majority) else { return };
        let why = format!(
            "its rows at entry {index} have the sum {:016x}, those of the majority {:016x}; when it is started again it takes a peer's rows",
            u64::from_be_bytes(own.sum),
            u64::from_be_bytes(majority)
        );
        self.inner.adapter.quarantine(&why);
        stop(&self.inner.stopped, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_all_voters_is_right_and_nobody_else() {
        let member = |node_id, voter| Member {
            node_id,
            raft_address: String::new(),
            api_address: String::new(),
            store_uuid: String::new(),
            voter,
            learner: !voter,
            lag: None,
            heard: None,
            acts_at: None,
            full: false,
        };
        // Sums by node, `l` = a learner; how many vote; the verdict.
        let cases: [(&str, usize, Verdict); 9] = [
            ("1a 2a 3a", 3, Verdict::Fine),
            ("1a 2a 3b", 3, Verdict::Wrong(vec![3], [b'a'; 8])),
            ("1b 2a 3a", 3, Verdict::Wrong(vec![1], [b'a'; 8])),
            ("1a 2b 3c", 3, Verdict::Split),
            ("1a 2b", 3, Verdict::Fine),
            ("1a 2b", 2, Verdict::Split),
            ("1a 2a 3bl", 2, Verdict::Wrong(vec![3], [b'a'; 8])),
            ("1a 2bl", 3, Verdict::Fine),
            ("1a 2a 3a 4b 5c", 5, Verdict::Wrong(vec![4, 5], [b'a'; 8])),
        ];
        for (words, voters, verdict) in cases {
            let sums: Vec<_> = words
                .split(' ')
                .map(|word| {
                    let bytes = word.as_bytes();
                    (member(u64::from(bytes[0] - b'0'), !word.ends_with('l')), [bytes[1]; 8])
                })
                .collect();
            assert_eq!(judge(&sums, voters), verdict, "{words} of {voters}");
        }
    }
}
