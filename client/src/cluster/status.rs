//! `borealis cluster status`: what each replica says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::NodeId;
use proto::wire::{ClusterStatusReply, ClusterStatusRequest, MemberView};
use rpc::cluster_client::ClusterClient;
use serde_json::{Value, json};

use crate::connection::{connect, words};
use crate::error::{Error, Kind};
use crate::table::{clean, table};
use crate::{Context, TIMEOUT, duration};

/// How long one replica may take to speak of itself.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Replicas that are asked.
const REPLICAS_MAX: usize = 64;

/// By address: what the replica said, or why it did not.
pub(crate) type Answers = BTreeMap<String, Result<ClusterStatusReply, String>>;

/// Asks each replica once. No leader is a failure.
pub(crate) async fn run(context: &Context<'_>) -> Result<(), Error> {
    let connection = context.connect(None, TIMEOUT)?;
    let answers = ask_all(connection.addresses(), connection.timeout().min(ANSWER_MAX)).await;
    context.output.answer(&text(&answers), &value(&answers))?;
    match leader(&answers) {
        Some(_) => Ok(()),
        None if answers.values().all(Result::is_err) => Err(Error::new(Kind::Network, "no replica answered")
            .hint("start a cluster with `borealis dev`, or name yours with --addr or BOREALIS_ADDR")),
        None => Err(Error::new(Kind::Network, "no replica knows of a leader")
            .hint("a majority of the replicas must run and reach each other")),
    }
}

/// Asks the replicas at these addresses, and the members that they name, at the same time.
pub(crate) async fn ask_all(addresses: &[String], timeout: Duration) -> Answers {
    let mut answers = Answers::new();
    let mut asked: Vec<String> = addresses.to_vec();
    while !asked.is_empty() {
        let replies = futures::future::join_all(asked.iter().map(|address| ask(address, timeout))).await;
        answers.extend(asked.drain(..).zip(replies));
        // A member is known by its node id: it may be reached under another name than the one we were given.
        let seen: Vec<u64> = answers.values().flatten().map(|reply| reply.node_id).collect();
        let members = answers.values().flatten().flat_map(|reply| &reply.members);
        let mut more: Vec<String> = members
            .filter(|member| !seen.contains(&member.node_id) && !answers.contains_key(&member.api_address))
            .map(|member| member.api_address.clone())
            .collect();
        more.sort();
        more.dedup();
        more.truncate(REPLICAS_MAX.saturating_sub(answers.len()));
        asked = more;
    }
    answers
}

/// Asks one replica about itself.
pub(crate) async fn ask(address: &str, timeout: Duration) -> Result<ClusterStatusReply, String> {
    let channel = connect(address, timeout).await?;
    match tokio::time::timeout(timeout, ClusterClient::new(channel).status(ClusterStatusRequest {})).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(words(&status)),
        Err(_) => Err(format!("no answer within {}", duration::words(timeout))),
    }
}

/// The leader of the highest term that any replica knows of.
pub(crate) fn leader(answers: &Answers) -> Option<u64> {
    let known = answers.values().flatten().filter(|reply| reply.leader != 0);
    known.max_by_key(|reply| (reply.epoch, reply.term)).map(|reply| reply.leader)
}

/// A warning, if fewer than a majority of the voters answered: a replica goes on believing in its leader for a while.
fn without_quorum(answers: &Answers) -> String {
    let members = answers.values().flatten().map(|reply| &reply.members).max_by_key(|members| members.len());
    let Some(members) = members else { return String::new() };
    let voters: Vec<u64> =
        members.iter().filter(|member| member.voter).map(|member| member.node_id).collect();
    let there = answers.values().flatten().filter(|reply| voters.contains(&reply.node_id)).count();
    if there * 2 > voters.len() || voters.is_empty() {
        return String::new();
    }
    format!("\nonly {there} of {} voters answer: without a majority of them nothing changes", voters.len())
}

fn value(answers: &Answers) -> Value {
    let replicas: Vec<Value> = answers
        .iter()
        .map(|(address, answer)| match answer {
            Err(problem) => json!({ "address": address, "problem": problem }),
            Ok(reply) => replica_json(address, reply),
        })
        .collect();
    let cluster = answers.values().flatten().next().map(|reply| reply.cluster.clone());
    let newest = answers.values().flatten().max_by_key(|reply| reply.applied_index);
    let stopped = newest.map(|reply| reply.stopped.clone()).filter(|why| !why.is_empty());
    json!({
        "cluster": cluster,
        "leader": leader(answers),
        "tolerates": tolerance(answers),
        "stopped": stopped,
        "replicas": replicas,
    })
}

fn replica_json(address: &str, reply: &ClusterStatusReply) -> Value {
    let members: Vec<Value> = reply
        .members
        .iter()
        .map(|m| {
            json!({
                "node_id": m.node_id,
                "raft_address": m.raft_address,
                "api_address": m.api_address,
                "voter": m.voter,
                "learner": m.learner,
                "lag": m.lag,
                "heard": m.heard,
                "disk_full": m.full,
                "heard_ms": m.heard_ms,
                "acts_at": (m.acts_at > 0).then_some(m.acts_at),
            })
        })
        .collect();
    json!({
        "address": address,
        "cluster": reply.cluster,
        "cluster_id": reply.cluster_id,
        "node_id": reply.node_id,
        "epoch": reply.epoch,
        "term": reply.term,
        "leader": (reply.leader != 0).then_some(reply.leader),
        "last_log_index": reply.last_log_index,
        "applied_index": reply.applied_index,
        "stored_index": reply.stored_index,
        "snapshot_index": reply.snapshot_index,
        "snapshot_age_ms": (reply.snapshot_age_ms > 0).then_some(reply.snapshot_age_ms),
        "committed_index": reply.committed_index,
        "purged_index": reply.purged_index,
        "sync_p99_us": (reply.sync_p99_us > 0).then_some(reply.sync_p99_us),
        "log_bytes": reply.log_bytes,
        "apply_level": reply.apply_level,
        "acts_at": reply.acts_at.max(1),
        "clock_ms": (reply.clock_ms > 0).then_some(reply.clock_ms),
        "age_ms": (reply.age_ms < u64::MAX).then_some(reply.age_ms),
        "dir": reply.dir,
        "state": reply.state,
        "members": members,
    })
}

/// Headings of the table; the last column is in words.
const HEAD: [&str; 11] = [
    "ADDRESS", "REPLICA", "ROLE", "TERM", "APPLIED", "STORED", "LAG", "SYNC P99", "LOG", "SNAPSHOT", "STATE",
];

/// What the leader said of the members, if it answered.
fn leader_says(answers: &Answers) -> Option<&ClusterStatusReply> {
    let leader = leader(answers)?;
    answers.values().flatten().find(|reply| reply.node_id == leader)
}

/// Whether a change can be committed by its help.
fn counts(member: &MemberView) -> bool {
    member.heard && !member.full && member.lag.is_some()
}

/// How many more voters may fail so that a majority is left: of those that the leader hears, and itself.
fn tolerance(answers: &Answers) -> Option<usize> {
    let says = leader_says(answers)?;
    let voters = says.members.iter().filter(|m| m.voter);
    let (all, there) = voters.fold((0, 0), |(all, there), m| {
        (all + 1, there + usize::from(counts(m) || m.node_id == says.node_id))
    });
    there.checked_sub(all / 2 + 1)
}

/// How far behind the leader's log a replica is, and how long ago the leader heard it.
fn lag(answers: &Answers, node_id: u64) -> String {
    let Some(says) = leader_says(answers).filter(|says| says.node_id != node_id) else {
        return "-".to_owned();
    };
    match says.members.iter().find(|m| m.node_id == node_id) {
        None => "-".to_owned(),
        Some(m) if m.full => "disk nearly full".to_owned(),
        Some(m) if m.heard => m.lag.map_or_else(|| "not known".to_owned(), |lag| lag.to_string()),
        Some(_) => "not heard".to_owned(),
    }
}

/// At which level the cluster acts; and if a replica can act at a higher one, who cannot yet.
fn level(answers: &Answers) -> String {
    let replies = || answers.values().flatten().filter(|reply| reply.node_id > 0);
    let (acts_at, highest) =
        replies().fold((0, 0), |(at, can), reply| (at.max(reply.apply_level), can.max(reply.acts_at.max(1))));
    if acts_at == 0 {
        return String::new();
    }
    let behind = replies().filter(|reply| reply.acts_at.max(1) < highest);
    let behind: Vec<String> = behind
        .map(|reply| format!("{} can act at level {} only", NodeId(reply.node_id), reply.acts_at.max(1)))
        .collect();
    match behind.is_empty() {
        true if acts_at >= highest => format!("\nacts at level {acts_at}"),
        true => {
            format!("\nacts at level {acts_at}; it rises to {highest} once all members answer the leader")
        }
        false => format!(
            "\nacts at level {acts_at}; it rises once newer programs run everywhere: {}",
            behind.join(", ")
        ),
    }
}

fn millis(ms: f64, known: bool) -> String {
    if known { format!("{ms:.1} ms") } else { "-".to_owned() }
}

fn text(answers: &Answers) -> String {
    let epoch = answers.values().flatten().map(|reply| reply.epoch).max().unwrap_or(0);
    let cluster = answers.values().flatten().next().map_or("?", |reply| reply.cluster.as_str());
    let leader = leader(answers);
    let rows: Vec<Vec<String>> = answers
        .iter()
        .map(|(address, answer)| match answer {
            Err(problem) => {
                let mut row = vec![address.clone()];
                row.resize(HEAD.len() - 1, "-".to_owned());
                row.push(clean(problem));
                row
            }
            Ok(reply) => {
                let role = match reply.node_id {
                    0 => "-",
                    id if Some(id) == leader => "leader",
                    id if reply.members.iter().any(|m| m.node_id == id && !m.voter) => "learner",
                    _ => "follower",
                };
                let node =
                    if reply.node_id == 0 { "-".to_owned() } else { NodeId(reply.node_id).to_string() };
                vec![
                    address.clone(),
                    node,
                    role.to_owned(),
                    reply.term.to_string(),
                    reply.applied_index.to_string(),
                    reply.stored_index.to_string(),
                    lag(answers, reply.node_id),
                    millis(reply.sync_p99_us as f64 / 1e3, reply.sync_p99_us > 0),
                    format!("{} MiB", reply.log_bytes >> 20),
                    match reply.snapshot_age_ms {
                        0 => "-".to_owned(),
                        ms => duration::words(Duration::from_secs(ms / 1000)),
                    },
                    clean(&reply.state),
                ]
            }
        })
        .collect();
    let led = match leader {
        None => "no leader".to_owned(),
        // Only hearsay: it may be dead, and the others not know it yet.
        Some(leader)
            if answers.values().any(Result::is_err)
                && !answers.values().flatten().any(|reply| reply.node_id == leader) =>
        {
            format!("last led by {}, which does not answer", NodeId(leader))
        }
        Some(leader) => format!("led by {}", NodeId(leader)),
    };
    let newest = answers.values().flatten().max_by_key(|reply| reply.applied_index);
    let stopped = newest.map(|reply| reply.stopped.as_str()).filter(|why| !why.is_empty());
    let stopped = stopped.map(|why| format!("\n{}", clean(why))).unwrap_or_default();
    format!(
        "cluster {}, epoch {epoch}, {led}; {}{}{}{stopped}\n\n{}",
        clean(cluster),
        match tolerance(answers) {
            None => "how many may fail is not known".to_owned(),
            Some(0) => "NO replica may fail now".to_owned(),
            Some(n) => format!("{n} may fail"),
        },
        without_quorum(answers),
        level(answers),
        table(&HEAD, &rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_lines_even_silent_ones() {
        let reply = |node_id, term, leader, state: &str| ClusterStatusReply {
            cluster: "west".into(),
            cluster_id: "c".into(),
            node_id,
            epoch: 1,
            term,
            leader,
            applied_index: 40 + node_id,
            stored_index: 30,
            state: state.into(),
            ..ClusterStatusReply::default()
        };
        let answers: Answers = [
            ("a:1".to_owned(), Ok(reply(1, 2, 1, "stopped hearing the others"))),
            ("a:2".to_owned(), Ok(reply(2, 3, 2, "leads"))),
            ("a:3".to_owned(), Err("connection refused".to_owned())),
        ]
        .into();
        expect_test::expect![[r#"
            cluster west, epoch 1, led by node-2; how many may fail is not known

            ADDRESS  REPLICA  ROLE      TERM  APPLIED  STORED  LAG  SYNC P99  LOG    SNAPSHOT  STATE
            a:1      node-1   follower  2     41       30      -    -         0 MiB  -         stopped hearing the others
            a:2      node-2   leader    3     42       30      -    -         0 MiB  -         leads
            a:3      -        -         -     -        -       -    -         -      -         connection refused
        "#]]
        .assert_eq(&text(&answers));
        assert_eq!(value(&answers)["leader"], 2);
        assert_eq!(value(&answers)["replicas"][2]["problem"], "connection refused");
        let orphan: Answers = [
            ("a:1".to_owned(), Ok(reply(1, 2, 3, "follower"))),
            ("a:3".to_owned(), Err("connection refused".to_owned())),
        ]
        .into();
        // What old programs do not say is level 1.
        let of = |node_id, apply_level, acts_at| {
            Ok(ClusterStatusReply { apply_level, acts_at, ..reply(node_id, 2, 1, "follower") })
        };
        for (replies, words) in [
            ([of(1, 1, 0), of(2, 1, 0)], "\nacts at level 1"),
            ([of(1, 2, 2), of(2, 2, 2)], "\nacts at level 2"),
            (
                [of(1, 1, 2), of(2, 1, 2)],
                "\nacts at level 1; it rises to 2 once all members answer the leader",
            ),
            (
                [of(1, 1, 2), of(2, 1, 0)],
                "\nacts at level 1; it rises once newer programs run everywhere: node-2 can act at level 1 only",
            ),
        ] {
            let named = ["a:1".to_owned(), "a:2".to_owned()].into_iter().zip(replies);
            assert_eq!(level(&named.collect()), words);
        }
        assert!(
            text(&orphan).starts_with("cluster west, epoch 1, last led by node-3, which does not answer")
        );
    }
}
