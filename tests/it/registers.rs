//! The register map as real processes: what is written is read, in order, also through a stream and a dead leader.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use tests::cluster::{self, PATIENCE};
use tests::registers::cluster::{Registers, Setup};
use tests::registers::wire::{
    CasRequest, Command, GetRequest, Numbered, ProposeRequest, PutRequest, answered, command,
};
use tests::wait;
use tonic::Code;

fn put(key: &str, value: &str, request: u64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), request, previous: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn registers_keep_their_words_through_a_dead_leader() -> Result<()> {
    let _turn = cluster::turn().await;
    let mut cluster = Registers::start(&Setup { profile: "lan", ..Setup::default() }, None).await?;
    let leader = cluster.leader().await?;
    let mut client = cluster.client(leader)?;
    let first = client.put(put("a", "1", 10)).await?.into_inner();
    ensure!(first.previous.as_ref().is_some_and(|previous| previous.revision == 0), "{first:?}");
    let cas = |expected: &str, new: &str| CasRequest {
        key: "a".into(),
        expected: Some(expected.to_owned().into()),
        new: new.to_owned().into(),
        request: 11,
    };
    ensure!(!client.cas(cas("0", "2")).await?.into_inner().swapped);
    ensure!(client.cas(cas("1", "2")).await?.into_inner().swapped);

    // One key, so that the order in which the stream's commands were applied can be read from the revisions.
    let numbered = |number: u64| Numbered {
        number,
        command: Some(Command { kind: Some(command::Kind::Put(put("b", &number.to_string(), number))) }),
    };
    let messages: Vec<_> =
        (0..20).map(|m| ProposeRequest { commands: (m * 50..m * 50 + 50).map(numbered).collect() }).collect();
    let mut answers = client.propose(tokio_stream::iter(messages)).await?.into_inner();
    let mut revisions = BTreeSet::new();
    while let Some(reply) = answers.message().await? {
        for answer in reply.answers {
            let Some(answered::Kind::Put(put)) = answer.kind else { anyhow::bail!("{answer:?}") };
            revisions.insert((answer.number, put.revision));
        }
    }
    ensure!(revisions.len() == 1000, "{} of 1000 commands were answered", revisions.len());
    let mut in_order = revisions.iter().map(|(_, revision)| *revision);
    let mut last = in_order.next().context("there are 1000")?;
    for revision in in_order {
        ensure!(revision > last, "a later command of the stream was applied before an earlier one");
        last = revision;
    }

    let follower = (leader + 1) % 3;
    let refused = cluster.client(follower)?.put(put("a", "3", 12)).await.unwrap_err();
    ensure!(refused.code() == Code::Unavailable, "{refused:?}");
    let named = refused.metadata().get("leader").context("it names the leader")?.to_str()?;
    ensure!(named == cluster.replicas[leader].api, "{named}");

    cluster.replicas[leader].kill()?;
    let register = wait::until("a new leader to answer", PATIENCE, async || {
        let leader = cluster.leader().await?;
        let get = |key: &'static str| GetRequest { key: key.into() };
        let mut client = cluster.client(leader)?;
        let a = client.get(get("a")).await?.into_inner().register.unwrap_or_default();
        let b = client.get(get("b")).await?.into_inner().register.unwrap_or_default();
        Ok((a, b))
    })
    .await?;
    ensure!((&register.0.value[..], register.0.request) == (&b"2"[..], 11), "{register:?}");
    ensure!((&register.1.value[..], register.1.revision) == (&b"999"[..], last), "{register:?}");
    cluster.replicas[leader].start()?;
    cluster.level().await?;
    cluster.stop()
}
