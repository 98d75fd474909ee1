//! `borealis cluster init` and `borealis cluster join`: a directory becomes part of a cluster, once and for ever.

use proto::NodeId;
use proto::wire::{InitReply, InitRequest, JoinReply, JoinRequest};
use serde_json::json;

use crate::addresses;
use crate::connection::{Ask, Connection};
use crate::error::{Error, Kind};
use crate::{Context, TIMEOUT};

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
    let reply = join(&connection, &address, &via, learner).await?;
    let text = format!("{address} is {} of the cluster {}", NodeId(reply.node_id), reply.cluster_id);
    context.output.answer(
        &text,
        &json!({ "cluster_id": reply.cluster_id, "node_id": reply.node_id, "address": address }),
    )
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
    let ask = Ask { doing: &doing, request_id: None };
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
    let ask = Ask { doing: &doing, request_id: None };
    connection.operate(ask, async |mut api| api.join(request.clone()).await).await
}
