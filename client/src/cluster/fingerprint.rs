//! `borealis cluster fingerprint`: whether the replicas' states are equal at one point of the log.

use std::collections::BTreeSet;

use proto::NodeId;
use proto::wire::{FingerprintReply, FingerprintRequest};
use serde_json::{Value, json};

use crate::connection::{Ask, Effect};
use crate::error::{Error, Kind};
use crate::table::{clean, table};
use crate::{Context, TIMEOUT};

/// Compares, and fails if two replicas differ.
pub(crate) async fn run(context: &Context<'_>) -> Result<(), Error> {
    let connection = context.connect(None, TIMEOUT)?;
    let ask = Ask { doing: "comparing the replicas' states", effect: Effect::Reads };
    let request = FingerprintRequest { at: 0 };
    let reply = connection.operate(ask, async |mut api| api.fingerprint(request).await).await?;
    let verdict = Verdict::of(&reply);
    context.output.answer(&text(&reply, verdict), &value(&reply, verdict))?;
    match verdict {
        Verdict::Differ => Err(Error::new(
            Kind::Failed,
            format!("the replicas' states differ at log index {}", reply.log_index),
        )
        .hint("stop changing things and look at the replicas' logs: this is a fault of ours or of a disk")),
        Verdict::Equal | Verdict::Incomplete => Ok(()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Equal,
    /// Those that answered are equal; some did not.
    Incomplete,
    Differ,
}

impl Verdict {
    fn of(reply: &FingerprintReply) -> Self {
        let sums: BTreeSet<&str> =
            reply.replicas.iter().map(|r| r.sum.as_str()).filter(|sum| !sum.is_empty()).collect();
        if sums.len() > 1 {
            Verdict::Differ
        } else if reply.replicas.iter().any(|replica| replica.sum.is_empty()) {
            Verdict::Incomplete
        } else {
            Verdict::Equal
        }
    }
}

fn value(reply: &FingerprintReply, verdict: Verdict) -> Value {
    let replicas: Vec<Value> = reply
        .replicas
        .iter()
        .map(|r| json!({ "node_id": r.node_id, "sum": r.sum, "problem": r.problem }))
        .collect();
    json!({
        "log_index": reply.log_index,
        "sum": reply.sum,
        "equal": verdict != Verdict::Differ,
        "complete": verdict == Verdict::Equal,
        "replicas": replicas,
    })
}

fn text(reply: &FingerprintReply, verdict: Verdict) -> String {
    let rows: Vec<Vec<String>> = reply
        .replicas
        .iter()
        .map(|r| vec![NodeId(r.node_id).to_string(), r.sum.clone(), clean(&r.problem)])
        .collect();
    let words = match verdict {
        Verdict::Equal => "equal",
        Verdict::Incomplete => "equal, as far as they answered",
        Verdict::Differ => "DIFFERENT",
    };
    format!(
        "states at log index {}: {words}\n\n{}",
        reply.log_index,
        table(&["REPLICA", "SUM", "PROBLEM"], &rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::ReplicaSum;

    #[test]
    fn sums_are_compared() {
        for (sums, want) in [
            (&["a", "a", "a"][..], Verdict::Equal),
            (&["a", "", "a"], Verdict::Incomplete),
            (&["a", "b", ""], Verdict::Differ),
            (&[], Verdict::Equal),
        ] {
            let replica = |&sum: &&str| ReplicaSum { sum: sum.into(), ..ReplicaSum::default() };
            let reply = FingerprintReply {
                replicas: sums.iter().map(replica).collect(),
                ..FingerprintReply::default()
            };
            assert_eq!(Verdict::of(&reply), want, "{sums:?}");
        }
    }
}
