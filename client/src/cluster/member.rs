//! `borealis cluster promote|demote|remove|transfer`: who votes, who belongs, who leads.

use proto::NodeId;
use proto::wire::change_member_request::Change;
use proto::wire::{ChangeMemberRequest, MemberView, TransferLeadershipRequest};
use serde_json::json;

use crate::connection::{Ask, Effect};
use crate::error::{Error, Kind};
use crate::{Context, TIMEOUT};

/// Reads `node-3` or `3`.
pub(crate) fn read_node(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("node-").unwrap_or(text).parse().ok().filter(|id| *id > 0);
    number.ok_or_else(|| format!("{text:?} is no replica like node-3; `borealis cluster status` shows them"))
}

/// Changes what a member is.
pub(crate) async fn run_change(context: &Context<'_>, node: u64, change: Change) -> Result<(), Error> {
    let (verb, text) = match change {
        Change::Promote => ("making a voter of", "shall vote: it does once it has caught up"),
        Change::Demote => {
            ("making a learner of", "learns from now on: it gets everything and decides nothing")
        }
        Change::Remove => {
            ("removing", "is no member any more; stop it, and never start it again with its old directory")
        }
        Change::Unspecified => return Err(Error::new(Kind::Unknown, "nothing to change")),
    };
    let node_id = NodeId(node);
    let doing = format!("{verb} {node_id}");
    let request = ChangeMemberRequest { node_id: node, change: change.into() };
    let connection = context.connect(None, TIMEOUT)?;
    let ask = Ask { doing: &doing, effect: Effect::Bare };
    let reply = connection.operate(ask, async |mut api| api.change_member(request).await).await?;
    let members: Vec<_> = reply.members.iter().map(member).collect();
    context.output.answer(
        &format!("{node_id} {text}\n{}", words(&reply.members)),
        &json!({ "node_id": node, "change": change.as_str_name().to_lowercase(), "members": members }),
    )
}

/// Hands leadership over.
pub(crate) async fn run_transfer(context: &Context<'_>, to: Option<u64>) -> Result<(), Error> {
    let request = TransferLeadershipRequest { to: to.unwrap_or(0) };
    let connection = context.connect(None, TIMEOUT)?;
    let ask = Ask { doing: "handing leadership over", effect: Effect::Bare };
    let reply = connection.operate(ask, async |mut api| api.transfer_leadership(request).await).await?;
    let leader = reply.leader.unwrap_or_default();
    let took_ms = reply.took_us as f64 / 1e3;
    context.output.answer(
        &format!("{} leads now, after {took_ms:.1} ms", NodeId(leader.node_id)),
        &json!({ "leader": leader.node_id, "took_ms": took_ms }),
    )
}

fn words(members: &[MemberView]) -> String {
    let voters = members.iter().filter(|m| m.voter).count();
    let learners = members.len() - voters;
    match learners {
        0 => format!("now {voters} vote"),
        _ => format!("now {voters} vote, {learners} learn"),
    }
}

fn member(view: &MemberView) -> serde_json::Value {
    json!({ "node_id": view.node_id, "api_address": view.api_address, "voter": view.voter, "learner": view.learner })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_named_by_number_or_in_full() {
        assert_eq!(read_node("node-3"), Ok(3));
        assert_eq!(read_node("3"), Ok(3));
        for bad in ["", "0", "node-0", "node-", "node-x", "-1", "127.0.0.1:8081"] {
            assert!(read_node(bad).is_err(), "{bad}");
        }
    }
}
