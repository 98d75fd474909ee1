//! From processes to a cluster: the first replica makes it, the others join, agents register. Looks again and again
//! at what is there and does what is missing, so it can be interrupted anywhere and begun anew.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::wire::ClusterStatusReply;
use tokio::time::Instant;

use super::settings::Settings;
use crate::Context;
use crate::cluster::{birth, status};
use crate::error::{Error, Kind};
use crate::host::list;

/// How long a replica may take to speak of itself.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How long one step of the formation may take before all is looked at anew.
const STEP_MAX: Duration = Duration::from_secs(8);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Nothing but look again; in words, what is missing.
    Wait(String),
    /// This replica makes the cluster.
    Init(usize),
    /// This replica joins through that one.
    Join(usize, usize),
    /// All replicas are members and there is a leader.
    Formed,
}

/// Decides from what each replica says of itself, in the order of the settings.
fn next(answers: &[Result<ClusterStatusReply, String>], formed: bool) -> Step {
    if let Some(index) = answers.iter().position(Result::is_err).filter(|_| !formed) {
        return Step::Wait(format!("scheduler-{} does not answer", index + 1));
    }
    let leads = |reply: &ClusterStatusReply| reply.leader != 0;
    let said = || answers.iter().filter_map(|answer| answer.as_ref().ok());
    if formed {
        let led = said().any(leads);
        return if led { Step::Formed } else { Step::Wait("there is no leader yet".to_owned()) };
    }
    let replies: Vec<&ClusterStatusReply> = said().collect();
    let Some(member) = replies.iter().position(|reply| !reply.cluster_id.is_empty()) else {
        return Step::Init(0);
    };
    if !replies.iter().any(|reply| leads(reply)) {
        return Step::Wait("there is no leader yet".to_owned());
    }
    if let Some(stranger) = replies.iter().position(|reply| reply.cluster_id.is_empty()) {
        return Step::Join(stranger, member);
    }
    // Fewer voters than replicas would not survive what the cluster is there to survive.
    let voters =
        |reply: &&&ClusterStatusReply| reply.members.iter().filter(|m| m.voter).count() >= replies.len();
    match replies.iter().filter(voters).count() {
        all if all == replies.len() => Step::Formed,
        some => Step::Wait(format!("{some} of {} replicas know all voters", replies.len())),
    }
}

/// Makes the replicas a cluster with a leader.
pub(crate) async fn form(context: &Context<'_>, settings: &Settings, deadline: Instant) -> Result<(), Error> {
    let addresses = settings.api_addresses();
    let mut problem = None;
    loop {
        let asked = addresses.iter().map(|address| status::ask(address, ANSWER_MAX));
        let answers = futures::future::join_all(asked).await;
        let step = next(&answers, settings.formed);
        let connection = |index: usize| {
            context.connect_to(vec![addresses[index].clone()], STEP_MAX.min(deadline - Instant::now()))
        };
        let done = match &step {
            Step::Formed => return Ok(()),
            Step::Wait(_) => Ok(()),
            Step::Init(first) => birth::init(&connection(*first), &addresses[*first]).await.map(drop),
            Step::Join(who, via) => {
                birth::join(&connection(*who), &addresses[*who], &addresses[*via], false).await.map(drop)
            }
        };
        if let Err(error) = done
            && problem.as_ref() != Some(&error.what)
        {
            context.output.note(&format!("not yet: {}", error.what));
            problem = Some(error.what);
        }
        if Instant::now() + PAUSE >= deadline {
            let missing = match step {
                Step::Wait(missing) => missing,
                _ => problem.unwrap_or_default(),
            };
            return Err(Error::new(Kind::TimedOut, format!("the replicas are no cluster yet: {missing}"))
                .hint("look at the logs in the cluster's directory, or give it more time with --timeout"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until every agent is registered under the address it has now.
pub(crate) async fn agents(
    context: &Context<'_>,
    settings: &Settings,
    agents: &[(String, std::path::PathBuf)],
    deadline: Instant,
) -> Result<(), Error> {
    loop {
        let listening: BTreeSet<(String, String)> = agents
            .iter()
            .map(|(name, dir)| {
                let address = std::fs::read_to_string(dir.join("address")).unwrap_or_default();
                (name.clone(), address.trim().to_owned())
            })
            .collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let connection = context.connect_to(settings.api_addresses(), left.min(STEP_MAX));
        let hosts = list::hosts(&connection).await.map(|reply| reply.hosts);
        let registered: BTreeSet<(String, String)> = hosts
            .iter()
            .flatten()
            .filter(|host| !host.silent)
            .filter_map(|host| host.spec.as_ref())
            .map(|spec| (spec.name.clone(), spec.address.clone()))
            .collect();
        let missing: Vec<&str> = listening.difference(&registered).map(|(name, _)| name.as_str()).collect();
        if missing.is_empty() && hosts.is_ok() {
            return Ok(());
        }
        if Instant::now() + PAUSE >= deadline {
            let why = match hosts {
                Ok(_) => format!("{} not registered", missing.join(", ")),
                Err(error) => error.what,
            };
            return Err(Error::new(Kind::TimedOut, format!("the agents are not there yet: {why}"))
                .hint("look at the logs in the cluster's directory, or give it more time with --timeout"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::MemberView;

    /// `-` does not answer, `.` belongs to no cluster, else NODE:LEADER:VOTERS.
    fn answers(words: &str) -> Vec<Result<ClusterStatusReply, String>> {
        let read = |word: &str| match word {
            "-" => Err("connection refused".to_owned()),
            "." => Ok(ClusterStatusReply::default()),
            word => {
                let n: Vec<u64> = word.split(':').map(|n| n.parse().unwrap()).collect();
                let members =
                    (0..n[2]).map(|_| MemberView { voter: true, ..MemberView::default() }).collect();
                let cluster_id = "c".to_owned();
                Ok(ClusterStatusReply {
                    cluster_id,
                    node_id: n[0],
                    leader: n[1],
                    members,
                    ..Default::default()
                })
            }
        };
        words.split(' ').map(read).collect()
    }

    #[test]
    fn each_step_follows_from_what_is_there() {
        let wait = |words: &str| Step::Wait(words.to_owned());
        for (words, formed, want) in [
            ("- . .", false, wait("scheduler-1 does not answer")),
            (". . .", false, Step::Init(0)),
            ("1:0:1 . .", false, wait("there is no leader yet")),
            ("1:1:1 . .", false, Step::Join(1, 0)),
            ("1:1:2 2:1:2 .", false, Step::Join(2, 0)),
            (". 2:2:1 .", false, Step::Join(0, 1)),
            ("1:1:3 2:1:3 3:1:2", false, wait("2 of 3 replicas know all voters")),
            ("1:1:3 2:1:3 3:1:3", false, Step::Formed),
            ("1:0:3 2:0:3 -", true, wait("there is no leader yet")),
            ("1:2:3 2:2:3 -", true, Step::Formed),
        ] {
            assert_eq!(next(&answers(words), formed), want, "{words}");
        }
    }
}
