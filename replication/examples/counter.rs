//! A replicated set of counters as one process: the smallest machine, and the one that the tests kill.
//!
//! `counter --dir DIR --raft ADDRESS:PORT --api ADDRESS:PORT (--init | --join ADDRESS:PORT) [--profile fast]
//! [--listen-raft ADDRESS:PORT]`: where it listens, if others reach it elsewhere.
//!
//! It speaks lines over TCP at the api address: `add KEY N`, `get KEY`, `status`, `sum`, `sum-at INDEX`, `snapshot`,
//! `join UUID RAFT API`, `transfer [NODE]`, `promote|demote|remove NODE`. Answers are one line each. Not shipped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use replication::{
    Changes, Corrupt, Identity, Machine, MembershipError, Options, Profile, ProposeError, Replica, Rows,
    Voting,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Counters by name; a row each.
#[derive(Default)]
struct Counters(BTreeMap<String, u64>);

impl Machine for Counters {
    type Command = (String, u64);
    type Reply = u64;

    fn decode(bytes: &[u8]) -> Result<Self::Command, Corrupt> {
        let text = std::str::from_utf8(bytes).map_err(|e| Corrupt::new("command", e.to_string()))?;
        let bad = || Corrupt::new("command", format!("is {text:?}, not KEY N"));
        let (key, by) = text.split_once(' ').ok_or_else(bad)?;
        Ok((key.to_owned(), by.parse().map_err(|_| bad())?))
    }

    fn apply(&mut self, (key, by): Self::Command, changed: &mut Changes) -> u64 {
        // Nor this: a command that every replica takes and none can apply.
        assert!(key != "impossible" || by != 13, "this cannot be applied");
        // What no machine may do: its answer depends on which process it is in.
        let by = if key == "skewed" && std::env::var_os("COUNTER_SKEW").is_some() { by + 1 } else { by };
        let value = self.0.entry(key.clone()).or_insert(0);
        *value = value.wrapping_add(by);
        changed.put(key.into_bytes(), Arc::new(value.to_le_bytes().to_vec()));
        *value
    }

    fn load(rows: &mut Rows<'_>) -> Result<Self, Corrupt> {
        let mut counters = Counters::default();
        for row in rows {
            let (key, value) = row?;
            let name = String::from_utf8(key.into_vec()).map_err(|e| Corrupt::new("key", e.to_string()))?;
            let value: [u8; 8] = (*value).try_into().map_err(|_| Corrupt::new(&name, "is not 8 bytes"))?;
            counters.0.insert(name, u64::from_le_bytes(value));
        }
        Ok(counters)
    }
}

struct Arguments {
    options: Options,
    init: bool,
    join: Option<String>,
    listen_raft: Option<String>,
}

fn arguments() -> Result<Arguments, Problem> {
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").ok_or_else(|| format!("{word:?} is not an option"))?;
        let value = if name == "init" { String::new() } else { words.next().ok_or("a value is missing")? };
        given.insert(name.to_owned(), value);
    }
    let need = |name: &str| given.get(name).cloned().ok_or_else(|| format!("--{name} is missing"));
    let profile: Profile = given.get("profile").map_or("fast", String::as_str).parse()?;
    let dir: PathBuf = need("dir")?.into();
    let mut options = Options::new(dir, "test", &need("raft")?, &need("api")?, profile);
    options.segment_bytes = 1 << 20;
    options.check_every = Duration::from_secs(1);
    // The tests' disk is what it is.
    options.accept_slow_disk = true;
    if let Some(ms) = given.get("dead-after-ms") {
        options.dead_after = Some(Duration::from_millis(ms.parse()?));
    }
    if let Some(entries) = given.get("snapshot-entries") {
        options.snapshot_entries = entries.parse()?;
        options.keep_entries = options.snapshot_entries / 10;
    }
    Ok(Arguments {
        options,
        init: given.contains_key("init"),
        join: given.get("join").cloned(),
        listen_raft: given.get("listen-raft").cloned(),
    })
}

#[tokio::main]
async fn main() -> Result<(), Problem> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        if !replication::applies() {
            std::process::abort();
        }
    }));
    let Arguments { options, init, join, listen_raft } = arguments()?;
    if replication::identity(&options.dir)?.is_none() {
        match join {
            Some(seed) => enter(&options, &seed).await?,
            None if init => drop(replication::init(&options).await?),
            None => return Err("the directory belongs to no cluster; say --init or --join".into()),
        }
    }
    let replica = Replica::<Counters>::start(options.clone()).await?;
    let raft_address: std::net::SocketAddr = listen_raft.as_ref().unwrap_or(&options.raft_address).parse()?;
    let serving = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(replica.raft_service())
        .serve(raft_address);
    let mut serving = tokio::spawn(serving);
    let listener = TcpListener::bind(&options.api_address).await?;
    loop {
        tokio::select! {
            why = replica.stopped() => return Err(why.into()),
            served = &mut serving => return Ok(served??),
            accepted = listener.accept() => {
                let replica = replica.clone();
                tokio::spawn(async move { serve(replica, accepted?.0).await });
            }
        }
    }
}

/// Joins through any replica that answers at `seed`, then at the leader it names.
async fn enter(options: &Options, seed: &str) -> Result<(), Problem> {
    if options.dir.exists() {
        replication::refuse_used(&options.dir)?;
    }
    let uuid = replication::store_uuid(&options.dir)?;
    let mut at = seed.to_owned();
    for _ in 0..200 {
        let line = format!("join {uuid} {} {}", options.raft_address, options.api_address);
        let answer = ask(&at, &line).await.unwrap_or_else(|error| format!("error {error}"));
        let words: Vec<&str> = answer.split_whitespace().collect();
        match words[..] {
            ["admitted", cluster_id, node_id, lineage_id, epoch] => {
                let identity = Identity {
                    cluster_id: cluster_id.into(),
                    node_id: node_id.parse()?,
                    store_uuid: uuid,
                    cluster: options.cluster.clone(),
                    lineage_id: lineage_id.into(),
                    epoch: epoch.parse()?,
                };
                replication::adopt(options, &identity).await?;
                return Ok(());
            }
            ["not-leader", leader] => at = leader.to_owned(),
            _ => at = seed.to_owned(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("nobody admitted this replica".into())
}

async fn ask(address: &str, line: &str) -> Result<String, Problem> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    Ok(answer)
}

async fn serve(replica: Replica<Counters>, stream: TcpStream) -> Result<(), Problem> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = answer(&replica, &line).await;
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

fn done(result: Result<(), MembershipError>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(MembershipError::Propose(error)) => refused(&error),
        Err(MembershipError::Refused(why)) => format!("refused {why}"),
    }
}

fn refused(error: &ProposeError) -> String {
    match error {
        ProposeError::NotLeader { leader: Some(leader) } => format!("not-leader {}", leader.api_address),
        ProposeError::NotLeader { leader: None } => "no-leader".into(),
        ProposeError::Busy { .. } | ProposeError::NoRoom => "busy".into(),
        ProposeError::Unknown { why } => format!("unknown {why}"),
        other => format!("error {other}"),
    }
}

async fn answer(replica: &Replica<Counters>, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["add", key, by] => match replica.propose(format!("{key} {by}").into_bytes().into()).await {
            Ok(done) => format!("ok {} {}", done.index, done.reply),
            Err(error) => refused(&error),
        },
        ["get", key] => match replica.barrier().await {
            Ok(()) => format!("ok {}", replica.read(|counters| counters.0.get(key).copied().unwrap_or(0))),
            Err(error) => format!("error {error}"),
        },
        ["status"] => {
            let status = replica.status();
            let voters = status.members.iter().filter(|member| member.voter).count();
            format!(
                "{} {} {} {} {} {} {} {} {voters}",
                status.node_id,
                status.state.replace(' ', "_"),
                status.term,
                status.leader.unwrap_or(0),
                status.applied,
                status.stored,
                status.snapshot,
                status.purged,
            )
        }
        ["sum"] => match replica.fingerprint().await {
            Ok(found) => format!("ok {} {:016x}", found.index, u64::from_be_bytes(found.sum)),
            Err(error) => refused(&error),
        },
        ["sum-at", index] => match replica.fingerprint_of(index.parse().unwrap_or(0)).await {
            Some(found) => format!("ok {} {:016x}", found.index, u64::from_be_bytes(found.sum)),
            None => "error no sum".into(),
        },
        ["acknowledged"] => match replica.quorum_acknowledged() {
            Some(at) => format!("ok {}", at.elapsed().as_millis()),
            None => "none".into(),
        },
        ["snapshot"] => {
            replica.snapshot().await;
            "ok".into()
        }
        ["transfer"] => done(replica.transfer(None).await.map(|_| ())),
        ["transfer", to] => done(replica.transfer(to.parse().ok()).await.map(|_| ())),
        ["promote", node] => done(replica.set_voting(node.parse().unwrap_or(0), Voting::Voter).await),
        ["demote", node] => done(replica.set_voting(node.parse().unwrap_or(0), Voting::Learner).await),
        ["remove", node] => done(replica.remove(node.parse().unwrap_or(0)).await),
        ["join", uuid, raft, api] => match replica.admit(uuid, raft, api, Voting::Voter, 1).await {
            Ok(done) => {
                let identity = done.identity;
                format!(
                    "admitted {} {} {} {}",
                    identity.cluster_id, identity.node_id, identity.lineage_id, identity.epoch
                )
            }
            Err(error) => done(Err(error)),
        },
        _ => "error unknown line".into(),
    }
}
