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
/// A replica that heard its leader within this time follows it.
const LATELY_MS: u64 = 5_000;
/// How the words begin that stand for what a replica of another cluster said.
const STRANGER: &str = "a replica of another cluster answers here";

/// By address: what the replica said, or why it did not.
pub(crate) type Answers = BTreeMap<String, Result<ClusterStatusReply, String>>;

/// Asks each replica once. That nothing can be changed, for want of a leader or of a majority, is a failure.
pub(crate) async fn run(context: &Context<'_>) -> Result<(), Error> {
    let connection = context.connect(None, TIMEOUT)?;
    connection.check_cluster().await?;
    let answers = ask_all(connection.addresses(), connection.timeout().min(ANSWER_MAX)).await;
    context.output.answer(&text(&answers), &value(&answers))?;
    one_cluster(connection.addresses(), &answers)?;
    match blocked(&answers) {
        None => Ok(()),
        Some(_) if answers.values().all(Result::is_err) => {
            Err(Error::new(Kind::Network, "no replica answered")
                .hint("start a cluster with `borealis dev`, or name yours with --addr or BOREALIS_ADDR"))
        }
        Some(why) => Err(Error::new(Kind::Network, format!("nothing can be changed: {why}"))
            .hint("a majority of the voters must run, reach each other and have room on their disks")),
    }
}

/// Refuses addresses of more than one cluster: what was said of the others is not among the answers.
pub(crate) fn one_cluster(given: &[String], answers: &Answers) -> Result<(), Error> {
    let is_stranger =
        |answer: &Result<_, String>| answer.as_ref().is_err_and(|why| why.starts_with(STRANGER));
    let strangers = answers.iter().filter(|(address, answer)| given.contains(address) && is_stranger(answer));
    let words: Vec<String> = strangers
        .filter_map(|(address, answer)| Some(format!("{address}: {}", answer.as_ref().err()?)))
        .collect();
    if words.is_empty() {
        return Ok(());
    }
    let what = format!("the addresses are of more than one cluster:\n  {}", words.join("\n  "));
    Err(Error::new(Kind::InvalidParameter, what).hint("name replicas of one cluster with --addr"))
}

/// Which cluster is meant: of those that answer the one of the highest epoch, and of these the first.
fn meant(replies: &[(String, Result<ClusterStatusReply, String>)]) -> Option<String> {
    let mut meant: Option<&ClusterStatusReply> = None;
    for (_, reply) in replies {
        if let Ok(reply) = reply
            && !reply.cluster_id.is_empty()
            && meant.is_none_or(|meant| reply.epoch > meant.epoch)
        {
            meant = Some(reply);
        }
    }
    meant.map(|reply| reply.cluster_id.clone())
}

/// A reply of that cluster, or of a replica that belongs to none yet; of another, only who it is of.
fn if_meant(meant: Option<&str>, reply: ClusterStatusReply) -> Result<ClusterStatusReply, String> {
    if reply.cluster_id.is_empty() || meant.is_none_or(|meant| meant == reply.cluster_id) {
        return Ok(reply);
    }
    Err(format!(
        "{STRANGER}: {} of `{}`, epoch {}, id {}",
        NodeId(reply.node_id),
        clean(&reply.cluster),
        reply.epoch,
        clean(&reply.cluster_id)
    ))
}

/// Asks the replicas at these addresses, and the members that they name, at the same time.
pub(crate) async fn ask_all(addresses: &[String], timeout: Duration) -> Answers {
    let mut answers = Answers::new();
    let (mut asked, mut cluster) = (addresses.to_vec(), None);
    while !asked.is_empty() {
        let replies = futures::future::join_all(asked.iter().map(|address| ask(address, timeout))).await;
        let replies: Vec<_> = asked.drain(..).zip(replies).collect();
        cluster = cluster.or_else(|| meant(&replies));
        let replies = replies.into_iter();
        answers.extend(
            replies.map(|(address, reply)| {
                (address, reply.and_then(|reply| if_meant(cluster.as_deref(), reply)))
            }),
        );
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

/// The reply that knows most: the leader's if it answered, else the newest.
pub(crate) fn newest(answers: &Answers) -> Option<&ClusterStatusReply> {
    let members = answers.values().flatten().filter(|reply| reply.node_id > 0);
    leader_says(answers)
        .or_else(|| members.max_by_key(|reply| (reply.epoch, reply.term, reply.applied_index)))
}

/// Who belongs to the cluster.
fn members(answers: &Answers) -> &[MemberView] {
    newest(answers).map_or(&[], |reply| &reply.members)
}

fn reply_of(answers: &Answers, node_id: u64) -> Option<&ClusterStatusReply> {
    answers.values().flatten().find(|reply| reply.node_id == node_id)
}

/// Why this voter does not help to commit a change, as far as is seen from here. A leader that was just elected may not
/// have heard yet of one that follows it.
fn hindrance(answers: &Answers, voter: &MemberView) -> Option<&'static str> {
    let own = reply_of(answers, voter.node_id);
    let Some(says) = leader_says(answers) else {
        // A replica goes on believing in its leader for a while.
        return own.is_none().then_some("does not answer");
    };
    let follows = |own: &ClusterStatusReply| {
        own.leader == says.node_id && own.term == says.term && own.age_ms < LATELY_MS
    };
    if voter.full {
        Some("has a disk that is nearly full")
    } else if voter.node_id == says.node_id || voter.heard && voter.lag.is_some() || own.is_some_and(follows)
    {
        None
    } else if voter.heard {
        Some("has nothing of the log yet")
    } else {
        Some("is not heard by the leader")
    }
}

/// Why nothing can be changed, as far as is seen from here.
fn blocked(answers: &Answers) -> Option<String> {
    if leader(answers).is_none() {
        return Some("no replica knows of a leader".to_owned());
    }
    let voters: Vec<&MemberView> = members(answers).iter().filter(|member| member.voter).collect();
    let hindered: Vec<String> = voters
        .iter()
        .filter_map(|voter| Some(format!("{} {}", NodeId(voter.node_id), hindrance(answers, voter)?)))
        .collect();
    let there = voters.len() - hindered.len();
    if there * 2 > voters.len() || voters.is_empty() {
        return None;
    }
    Some(format!("only {there} of {} voters can take part: {}", voters.len(), hindered.join(", ")))
}

/// Members that did not answer, and why not.
fn silent(answers: &Answers) -> Vec<(&MemberView, String)> {
    let silent = members(answers).iter().filter(|member| reply_of(answers, member.node_id).is_none());
    let why = |member: &MemberView| match answers.get(&member.api_address) {
        Some(Err(why)) => clean(why),
        Some(Ok(reply)) if reply.node_id == 0 => {
            "a replica that belongs to no cluster answers at its address".to_owned()
        }
        Some(Ok(reply)) => format!("another replica answers at its address: {}", NodeId(reply.node_id)),
        None => "not asked".to_owned(),
    };
    silent.map(|member| (member, why(member))).collect()
}

fn value(answers: &Answers) -> Value {
    let silent = silent(answers);
    let said = answers.iter().filter(|(address, answer)| answer.is_ok() || !is_member(&silent, address));
    let said = said.map(|(address, answer)| match answer {
        Err(problem) => json!({ "address": address, "problem": problem }),
        Ok(reply) => replica_json(address, reply),
    });
    let unsaid = silent.iter().map(|(member, problem)| {
        json!({
            "address": member.api_address,
            "node_id": member.node_id,
            "voter": member.voter,
            "heard_ms": heard_ms(member),
            "problem": problem,
        })
    });
    let replicas: Vec<Value> = said.chain(unsaid).collect();
    let cluster = answers.values().flatten().next().map(|reply| reply.cluster.clone());
    let newest = answers.values().flatten().max_by_key(|reply| reply.applied_index);
    let stopped = newest.map(|reply| reply.stopped.clone()).filter(|why| !why.is_empty());
    json!({
        "cluster": cluster,
        "leader": leader(answers),
        "tolerates": tolerance(answers),
        "blocked": blocked(answers),
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
                // What the leader says of itself is nothing that it has heard.
                "heard_ms": heard_ms(m).filter(|_| m.node_id != reply.node_id),
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
const HEAD: [&str; 12] = [
    "ADDRESS", "REPLICA", "ROLE", "TERM", "APPLIED", "STORED", "LAG", "HEARD", "SYNC P99", "LOG", "SNAPSHOT",
    "STATE",
];

/// What the leader said of the members, if it answered.
fn leader_says(answers: &Answers) -> Option<&ClusterStatusReply> {
    let leader = leader(answers)?;
    answers.values().flatten().find(|reply| reply.node_id == leader)
}

/// How many more voters may fail so that a majority is left: of those that the leader hears, and itself.
fn tolerance(answers: &Answers) -> Option<usize> {
    let says = leader_says(answers)?;
    let voters = says.members.iter().filter(|m| m.voter);
    let (all, there) = voters
        .fold((0, 0), |(all, there), m| (all + 1, there + usize::from(hindrance(answers, m).is_none())));
    there.checked_sub(all / 2 + 1)
}

/// How long ago the leader heard it, where the leader says so.
fn heard_ms(member: &MemberView) -> Option<u64> {
    (member.heard || member.heard_ms > 0).then_some(member.heard_ms)
}

/// The same in words.
fn heard(answers: &Answers, node_id: u64) -> String {
    let says = leader_says(answers).filter(|says| says.node_id != node_id);
    let member = says.and_then(|says| says.members.iter().find(|m| m.node_id == node_id));
    match member.map(heard_ms) {
        None => "-".to_owned(),
        Some(None) => "not yet".to_owned(),
        Some(Some(ms)) if ms < 1_000 => format!("{ms}ms ago"),
        Some(Some(ms)) => format!("{} ago", duration::age(0, ms)),
    }
}

/// Whether it is one of their addresses.
fn is_member(silent: &[(&MemberView, String)], address: &str) -> bool {
    silent.iter().any(|(member, _)| member.api_address == address)
}

/// How far behind the leader's log a replica is.
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
        "cluster {}, epoch {epoch}, {led}; {}{}{stopped}\n\n{}",
        clean(cluster),
        match (blocked(answers), tolerance(answers)) {
            (Some(why), _) => format!("NOTHING can be changed: {why}"),
            (None, None) => "how many may fail is not known".to_owned(),
            (None, Some(0)) => "NO replica may fail now".to_owned(),
            (None, Some(n)) => format!("{n} may fail"),
        },
        level(answers),
        table(&HEAD, &rows(answers))
    )
}

/// Who answered, and the members that did not, by address.
fn rows(answers: &Answers) -> Vec<Vec<String>> {
    let silent = silent(answers);
    let said = answers.iter().filter(|(address, answer)| answer.is_ok() || !is_member(&silent, address));
    let said = said.map(|(address, answer)| match answer {
        Err(problem) => row_without_answer([address, "-", "-", "-", problem]),
        Ok(reply) => row(answers, address, reply),
    });
    let unsaid = silent.iter().map(|(member, problem)| {
        let role = if member.voter { "voter" } else { "learner" };
        let (node, heard) = (NodeId(member.node_id).to_string(), heard(answers, member.node_id));
        row_without_answer([&member.api_address, &node, role, &heard, problem])
    });
    let mut rows: Vec<Vec<String>> = said.chain(unsaid).collect();
    rows.sort_by(|one, other| one[0].cmp(&other[0]));
    rows
}

fn row_without_answer([address, node, role, heard, problem]: [&str; 5]) -> Vec<String> {
    let (none, problem) = ("-", clean(problem));
    [address, node, role, none, none, none, none, heard, none, none, none, &problem].map(str::to_owned).into()
}

fn row(answers: &Answers, address: &str, reply: &ClusterStatusReply) -> Vec<String> {
    let role = match reply.node_id {
        0 => "-",
        id if Some(id) == leader(answers) => "leader",
        id if reply.members.iter().any(|m| m.node_id == id && !m.voter) => "learner",
        _ => "follower",
    };
    let node = if reply.node_id == 0 { "-".to_owned() } else { NodeId(reply.node_id).to_string() };
    vec![
        address.to_owned(),
        node,
        role.to_owned(),
        reply.term.to_string(),
        reply.applied_index.to_string(),
        reply.stored_index.to_string(),
        lag(answers, reply.node_id),
        heard(answers, reply.node_id),
        millis(reply.sync_p99_us as f64 / 1e3, reply.sync_p99_us > 0),
        format!("{} MiB", reply.log_bytes >> 20),
        match reply.snapshot_age_ms {
            0 => "-".to_owned(),
            ms => duration::words(Duration::from_secs(ms / 1000)),
        },
        clean(&reply.state),
    ]
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

            ADDRESS  REPLICA  ROLE      TERM  APPLIED  STORED  LAG  HEARD  SYNC P99  LOG    SNAPSHOT  STATE
            a:1      node-1   follower  2     41       30      -    -      -         0 MiB  -         stopped hearing the others
            a:2      node-2   leader    3     42       30      -    -      -         0 MiB  -         leads
            a:3      -        -         -     -        -       -    -      -         -      -         connection refused
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

    fn member(node_id: u64, heard_ms: u64) -> MemberView {
        MemberView {
            node_id,
            api_address: format!("a:{node_id}"),
            voter: true,
            heard: (1..LATELY_MS).contains(&heard_ms),
            heard_ms,
            lag: Some(0),
            ..MemberView::default()
        }
    }

    fn reply(node_id: u64, leader: u64, members: &[MemberView]) -> Result<ClusterStatusReply, String> {
        Ok(ClusterStatusReply {
            cluster: "west".into(),
            cluster_id: "c".into(),
            node_id,
            epoch: 1,
            term: 2,
            leader,
            age_ms: u64::MAX,
            state: "of its own".into(),
            members: members.to_vec(),
            ..ClusterStatusReply::default()
        })
    }

    fn answers<const N: usize>(all: [(&str, Result<ClusterStatusReply, String>); N]) -> Answers {
        all.into_iter().map(|(address, answer)| (address.to_owned(), answer)).collect()
    }

    #[test]
    fn members_that_do_not_answer_are_shown_with_what_the_leader_knows_of_them() {
        let mut members = [member(1, 7), member(2, 40), member(3, 300_000), member(4, 0), member(5, 20)];
        members[3].voter = false;
        members[4].api_address = "a:2".into(); // as somebody has configured it
        let refused = || Err("Connection refused".to_owned());
        let all = answers([
            ("a:1", reply(1, 1, &members)),
            ("a:2", reply(2, 1, &members)),
            (
                "a:3",
                Ok(ClusterStatusReply { state: "belongs to no cluster yet".into(), ..Default::default() }),
            ),
            ("a:4", refused()),
            ("b:1", refused()),
        ]);
        expect_test::expect![[r#"
            cluster west, epoch 1, led by node-1; NO replica may fail now

            ADDRESS  REPLICA  ROLE      TERM  APPLIED  STORED  LAG  HEARD     SYNC P99  LOG    SNAPSHOT  STATE
            a:1      node-1   leader    2     0        0       -    -         -         0 MiB  -         of its own
            a:2      node-2   follower  2     0        0       0    40ms ago  -         0 MiB  -         of its own
            a:2      node-5   voter     -     -        -       -    20ms ago  -         -      -         another replica answers at its address: node-2
            a:3      -        -         0     0        0       -    -         -         0 MiB  -         belongs to no cluster yet
            a:3      node-3   voter     -     -        -       -    5m ago    -         -      -         a replica that belongs to no cluster answers at its address
            a:4      node-4   learner   -     -        -       -    not yet   -         -      -         Connection refused
            b:1      -        -         -     -        -       -    -         -         -      -         Connection refused
        "#]]
        .assert_eq(&text(&all));
        let value = value(&all);
        assert_eq!(value["replicas"][0]["members"][0]["heard_ms"], Value::Null);
        assert_eq!(value["replicas"][0]["members"][1]["heard_ms"], 40);
        let lost =
            value["replicas"].as_array().unwrap().iter().find(|replica| replica["node_id"] == 3).unwrap();
        assert_eq!((&lost["voter"], &lost["heard_ms"]), (&json!(true), &json!(300_000)));
    }

    #[test]
    fn that_nothing_can_be_changed_is_said_with_the_reason() {
        let silent = || Err("Connection refused".to_owned());
        let alone = [member(1, 0), member(2, 9_000), member(3, 9_000)];
        let two = [member(1, 0), member(2, 50), member(3, 9_000)];
        let full = [MemberView { full: true, ..member(1, 0) }, member(2, 50), member(3, 9_000)];
        let new = [member(1, 0), member(2, 0), member(3, 0)];
        let follows =
            |node_id| reply(node_id, 1, &new).map(|reply| ClusterStatusReply { age_ms: 3, ..reply });
        for (all, words) in [
            (answers([("a:1", reply(1, 1, &two)), ("a:2", reply(2, 1, &two)), ("a:3", silent())]), None),
            // From here only the leader is seen, and it hears another.
            (answers([("a:1", reply(1, 1, &two)), ("a:2", silent()), ("a:3", silent())]), None),
            (
                answers([("a:1", reply(1, 1, &alone)), ("a:2", silent()), ("a:3", silent())]),
                Some(
                    "only 1 of 3 voters can take part: node-2 is not heard by the leader, node-3 is not heard",
                ),
            ),
            (
                answers([("a:1", reply(1, 1, &full)), ("a:2", reply(2, 1, &two)), ("a:3", silent())]),
                Some(
                    "only 1 of 3 voters can take part: node-1 has a disk that is nearly full, node-3 is not heard",
                ),
            ),
            (
                answers([("a:1", silent()), ("a:2", reply(2, 1, &new)), ("a:3", silent())]),
                Some("only 1 of 3 voters can take part: node-1 does not answer, node-3 does not answer"),
            ),
            (
                answers([("a:2", reply(2, 0, &new)), ("a:3", reply(3, 0, &new))]),
                Some("no replica knows of a leader"),
            ),
            // Just elected: those who follow it say so.
            (answers([("a:1", reply(1, 1, &new)), ("a:2", follows(2)), ("a:3", silent())]), None),
        ] {
            let why = blocked(&all);
            assert_eq!(why.is_some(), words.is_some(), "{why:?} for {words:?}");
            if let (Some(why), Some(words)) = (why, words) {
                assert!(why.starts_with(words), "{why}");
                assert!(text(&all).contains(&format!("NOTHING can be changed: {why}")));
            }
        }
    }

    #[test]
    fn replicas_of_another_cluster_are_kept_apart() {
        let of = |cluster_id: &str, epoch| {
            reply(1, 1, &[]).map(|reply| ClusterStatusReply { cluster_id: cluster_id.into(), epoch, ..reply })
        };
        let named = |address: &str, reply| (address.to_owned(), reply);
        let replies = [named("b", Err(String::new())), named("a", of("c", 1)), named("c", of("d", 1))];
        assert_eq!(meant(&replies).as_deref(), Some("c"));
        assert_eq!(meant(&[named("a", of("c", 1)), named("b", of("d", 2))]).as_deref(), Some("d"));
        let given = ["a:1".to_owned(), "a:2".to_owned()];
        let only = |cluster: &str, epoch| of(cluster, epoch).and_then(|reply| if_meant(Some("c"), reply));
        assert!(one_cluster(&given, &answers([("a:1", only("c", 1)), ("a:2", only("c", 1))])).is_ok());
        let mixed = answers([("a:1", only("c", 1)), ("a:2", only("d", 9))]);
        let why = one_cluster(&given, &mixed).unwrap_err();
        assert_eq!(why.exit_code(), 6);
        assert!(
            why.what.contains("a:2: a replica of another cluster answers here: node-1 of `west`, epoch 9"),
            "{why}"
        );
        // At the address of a member that is gone: nobody named it.
        assert!(one_cluster(&given[..1], &mixed).is_ok());
    }
}
