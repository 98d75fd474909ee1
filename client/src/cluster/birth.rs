//! `borealis cluster init` and `borealis cluster join`: a directory becomes part of a cluster, once and for ever.

use std::time::Duration;

use proto::NodeId;
use proto::wire::{ClusterStatusReply, ClusterStatusRequest, InitReply, InitRequest, JoinReply, JoinRequest};
use rpc::cluster_client::ClusterClient;
use serde_json::json;
use tonic::{Code, Status};

use crate::connection::{Ask, Connection, Effect};
use crate::error::{Error, Kind};
use crate::{Context, TIMEOUT};
use crate::{addresses, connection};

/// How long the member that --via names may take to say what it is.
const VIA_MAX: Duration = Duration::from_secs(1);

/// Makes a new cluster of one replica.
pub(crate) async fn run_init(context: &Context<'_>) -> Result<(), Error> {
    let (connection, address) = connect(context)?;
    let reply = init(&connection, &address).await?;
    let text = format!(
        "{address} is {} of the new cluster {}\nnext: `borealis cluster join --addr OTHER --via {address}` for each other replica",
        NodeId(reply.node_id),
        reply.cluster_id
    );
    context.output.answer(
        &text,
        &json!({ "cluster_id": reply.cluster_id, "node_id": reply.node_id, "address": address }),
    )
}

/// Lets one replica join.
pub(crate) async fn run_join(context: &Context<'_>, via: &str, learner: bool) -> Result<(), Error> {
    let via = addresses::check(via)?;
    let (connection, address) = connect(context)?;
    check_via(&via).await?;
    let reply = join(&connection, &address, &via, learner).await?;
    let text = format!("{address} is {} of the cluster {}", NodeId(reply.node_id), reply.cluster_id);
    context.output.answer(
        &text,
        &json!({ "cluster_id": reply.cluster_id, "node_id": reply.node_id, "address": address }),
    )
}

/// Refuses what is plainly no member. Nobody may answer from here: only the joining replica must reach it.
async fn check_via(via: &str) -> Result<(), Error> {
    let Ok(channel) = connection::connect(via, VIA_MAX).await else { return Ok(()) };
    let mut client = ClusterClient::new(channel);
    let Ok(said) = tokio::time::timeout(VIA_MAX, client.status(ClusterStatusRequest {})).await else {
        return Ok(());
    };
    match unfit(via, said.map(tonic::Response::into_inner)) {
        Some(why) => {
            Err(Error::new(Kind::InvalidParameter, why).hint("name the API address of a member with --via"))
        }
        None => Ok(()),
    }
}

fn unfit(via: &str, said: Result<ClusterStatusReply, Status>) -> Option<String> {
    match said {
        Ok(reply) if reply.cluster_id.is_empty() => {
            Some(format!("the replica at {via}, which --via names, belongs to no cluster itself yet"))
        }
        Err(status) if status.code() == Code::Unimplemented => Some(format!(
            "{via}, which --via names, is no replica's API port; its port for replicas (--raft) is another"
        )),
        Ok(_) | Err(_) => None,
    }
}

/// These commands are about one replica, which must be named.
fn connect<'a>(context: &Context<'a>) -> Result<(Connection<'a>, String), Error> {
    let [address] = &context.common.addr[..] else {
        return Err(Error::new(
            Kind::InvalidParameter,
            "this command is about one replica, and --addr does not name exactly one",
        )
        .hint("name it, as in --addr 127.0.0.1:8081"));
    };
    let address = addresses::check(address)?;
    let timeout = context.common.timeout.unwrap_or(TIMEOUT);
    Ok((context.connect_to(vec![address.clone()], timeout), address))
}

/// Makes a new cluster of the replica behind `connection`.
pub(crate) async fn init(connection: &Connection<'_>, address: &str) -> Result<InitReply, Error> {
    let doing = format!("making a new cluster of {address}");
    let ask = Ask { doing: &doing, effect: Effect::Bare };
    connection.operate(ask, async |mut api| api.init(InitRequest {}).await).await
}

/// Lets the replica behind `connection` join the cluster of `via`.
pub(crate) async fn join(
    connection: &Connection<'_>,
    address: &str,
    via: &str,
    learner: bool,
) -> Result<JoinReply, Error> {
    let doing = format!("letting {address} join the cluster of {via}");
    let request = JoinRequest { via: via.to_owned(), learner };
    let ask = Ask { doing: &doing, effect: Effect::Bare };
    connection.operate(ask, async |mut api| api.join(request.clone()).await).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_member_is_named() {
        let member = ClusterStatusReply { cluster_id: "c".into(), ..ClusterStatusReply::default() };
        let unfit = |said| unfit("a:1", said);
        assert_eq!(unfit(Ok(member)), None);
        assert_eq!(unfit(Err(Status::unavailable("later"))), None);
        assert!(unfit(Ok(ClusterStatusReply::default())).is_some_and(|why| why.contains("a:1, which --via")));
        assert!(
            unfit(Err(Status::unimplemented("no"))).is_some_and(|why| why.contains("no replica's API port"))
        );
    }
}
