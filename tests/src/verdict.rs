//! Judgements over what a cluster left behind: launches, living tasks, sums of State. Pure; breaches in words out.

use std::collections::{BTreeMap, BTreeSet};

use proto::wire;

use crate::journal::Journal;

/// No task id is launched twice, on one agent or on two.
pub fn launched_once(journals: &[Journal]) -> Vec<String> {
    let mut launches: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for launch in journals.iter().flat_map(|journal| &journal.launches) {
        let place = format!("on {} under {} at {} ns", launch.agent, launch.fence, launch.at_ns);
        launches.entry(launch.task_id).or_default().push(place);
    }
    let twice = launches.iter().filter(|(_, places)| places.len() > 1);
    twice
        .map(|(id, places)| format!("{} was launched {} times: {places:?}", proto::TaskId(*id), places.len()))
        .collect()
}

/// No instance is launched under a second task id: where no task and no host failed, that would be a task lost or
/// restarted for nothing. Only for loads that never give one job key to two jobs.
pub fn never_replaced(journals: &[Journal]) -> Vec<String> {
    let mut tasks: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for launch in journals.iter().flat_map(|journal| &journal.launches) {
        tasks.entry(&launch.job).or_default().insert(launch.task_id);
    }
    let replaced = tasks.iter().filter(|(_, ids)| ids.len() > 1);
    replaced.map(|(job, ids)| format!("{job} was launched as {} tasks: {ids:?}", ids.len())).collect()
}

/// At most one live task per instance, by the API's word.
pub fn one_per_instance(job: &str, tasks: &[wire::TaskView]) -> Vec<String> {
    let mut by_instance: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for task in tasks {
        by_instance.entry(task.instance).or_default().push(task.task_id);
    }
    let many = by_instance.iter().filter(|(_, ids)| ids.len() > 1);
    many.map(|(instance, ids)| format!("{job}/{instance} has {} live tasks: {ids:?}", ids.len())).collect()
}

/// A task that is alive on an agent: its id, and job/instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Living {
    /// Its id.
    pub task_id: u64,
    /// Job key and instance.
    pub job: String,
}

/// What lives on the agents is what the API calls RUNNING, no more, no less, and once per instance.
pub fn agents_agree(running: &BTreeSet<u64>, living: &[Living]) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut instances: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for task in living {
        instances.entry(&task.job).or_default().insert(task.task_id);
        if !running.contains(&task.task_id) {
            breaches.push(format!(
                "{} of {} lives and is not RUNNING",
                proto::TaskId(task.task_id),
                task.job
            ));
        }
    }
    let found: BTreeSet<u64> = living.iter().map(|task| task.task_id).collect();
    breaches
        .extend(running.difference(&found).map(|id| format!("{} is RUNNING nowhere", proto::TaskId(*id))));
    let doubled = instances.iter().filter(|(_, ids)| ids.len() > 1);
    breaches.extend(doubled.map(|(job, ids)| format!("{job} lives {} times: {ids:?}", ids.len())));
    breaches
}

/// Replicas whose State was another than the leader's at the point of the log that the reply names.
pub fn sums_differ(reply: &wire::FingerprintReply) -> Vec<String> {
    let differ = reply.replicas.iter().filter(|sum| !sum.sum.is_empty() && sum.sum != reply.sum);
    let told = differ.map(|sum| {
        format!(
            "node {} has the sum {} at log index {}, the leader {}",
            sum.node_id, sum.sum, reply.log_index, reply.sum
        )
    });
    told.collect()
}

/// Replicas that have no sum there (yet). `replicas` = how many there are.
pub fn sums_missing(reply: &wire::FingerprintReply, replicas: usize) -> Vec<String> {
    let mut missing: Vec<String> = Vec::new();
    if reply.replicas.len() != replicas {
        missing.push(format!("{} sums for {replicas} replicas", reply.replicas.len()));
    }
    let without = reply.replicas.iter().filter(|sum| !sum.problem.is_empty() || sum.sum.is_empty());
    missing.extend(without.map(|sum| format!("node {} has no sum: {}", sum.node_id, sum.problem)));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Launch;
    use proto::Fence;

    fn journal(agent: &str, launches: &[(u64, u64)]) -> Journal {
        let launch = |(task_id, at_ns): &(u64, u64)| Launch {
            at_ns: *at_ns,
            task_id: *task_id,
            fence: Fence::default(),
            job: format!("c/r/e/j/{}", task_id % 10),
            agent: agent.into(),
        };
        Journal { launches: launches.iter().map(launch).collect(), ..Journal::default() }
    }

    #[test]
    fn a_second_launch_is_found_on_one_agent_and_across_two() {
        assert_eq!(launched_once(&[journal("a", &[(1, 10), (2, 20)]), journal("b", &[(3, 10)])]), [""; 0]);
        assert_eq!(launched_once(&[journal("a", &[(1, 10), (1, 20)])]).len(), 1);
        assert_eq!(launched_once(&[journal("a", &[(1, 10)]), journal("b", &[(1, 10)])]).len(), 1);
        assert_eq!(never_replaced(&[journal("a", &[(1, 10), (2, 20)]), journal("b", &[(3, 10)])]), [""; 0]);
        assert_eq!(never_replaced(&[journal("a", &[(1, 10)]), journal("b", &[(11, 20)])]).len(), 1);
    }

    #[test]
    fn doubles_strays_and_ghosts_are_found() {
        let view = |task_id, instance| wire::TaskView { task_id, instance, ..wire::TaskView::default() };
        assert_eq!(one_per_instance("j", &[view(1, 0), view(2, 1)]), [""; 0]);
        assert_eq!(one_per_instance("j", &[view(1, 0), view(2, 0)]).len(), 1);
        let live = |task_id, job: &str| Living { task_id, job: job.into() };
        let running = BTreeSet::from([1, 2]);
        assert_eq!(agents_agree(&running, &[live(1, "j/0"), live(2, "j/1")]), [""; 0]);
        assert_eq!(agents_agree(&running, &[live(1, "j/0"), live(2, "j/0")]).len(), 1, "two of one instance");
        assert_eq!(agents_agree(&running, &[live(1, "j/0")]).len(), 1, "one is nowhere");
        assert_eq!(
            agents_agree(&running, &[live(1, "j/0"), live(2, "j/1"), live(3, "j/2")]).len(),
            1,
            "a stray"
        );
    }

    #[test]
    fn a_replica_that_differs_or_is_silent_is_found() {
        let sum = |node_id, sum: &str, problem: &str| wire::ReplicaSum {
            node_id,
            sum: sum.into(),
            problem: problem.into(),
        };
        let reply = |replicas| wire::FingerprintReply {
            log_index: 9,
            sum: "aa".into(),
            replicas,
            ..Default::default()
        };
        let (one, two) = (sum(1, "aa", ""), sum(2, "aa", ""));
        for (sums, differ, missing) in [
            (vec![one.clone(), two.clone()], 0, 0),
            (vec![one.clone()], 0, 1),
            (vec![one.clone(), sum(2, "ab", "")], 1, 0),
            (vec![one.clone(), sum(2, "", "no answer")], 0, 1),
            (vec![one, sum(2, "ab", ""), sum(3, "", "no answer")], 1, 1),
        ] {
            let (replicas, reply) = (sums.len().max(2), reply(sums));
            assert_eq!(sums_differ(&reply).len(), differ, "{reply:?}");
            assert_eq!(sums_missing(&reply, replicas).len(), missing, "{reply:?}");
        }
    }
}
