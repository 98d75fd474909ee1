//! Clients that write, swap and read at the same time, and remember exactly what they asked and what they were told.
//!
//! Moments are numbers from one counter: taken before anything is sent and after the answer is there, so that one
//! operation comes before another in the history only if it did. What the server certainly did not do is left out;
//! whatever else has no answer is of unknown fate. Not here: faults, and what the history means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::cluster::Registers;
use super::wire::registers_client::RegistersClient;
use super::wire::{CasRequest, GetRequest, PutRequest, Register};
use crate::cluster::PATIENCE;
use crate::linearizable::{Action, Answer, Operation, Value};
use crate::wait;

/// An answer that takes longer is not waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A client that was refused asks again after this.
const REFUSED_WAIT: Duration = Duration::from_millis(5);
/// Keys that many clients want at the same time.
const HOT_KEYS: u64 = 4;
/// They are others after so many moments.
const HOT_MOMENTS: u64 = 4096;

/// What all clients of a run share.
#[derive(Debug)]
pub struct Shared {
    addresses: Vec<String>,
    keys: u32,
    clock: AtomicU64,
    /// The newest value that anybody was told of, by key; 0 = none.
    newest: Vec<AtomicU64>,
    /// Operations that were answered.
    pub answered: AtomicU64,
    /// Changes of unknown fate.
    pub unknown: AtomicU64,
    /// Requests that were certainly not done.
    pub refused: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn new(addresses: Vec<String>, keys: u32) -> Arc<Shared> {
        let count = AtomicU64::default;
        let newest = (0..keys).map(|_| count()).collect();
        let (answered, unknown, refused) = (count(), count(), count());
        let (clock, stop) = (AtomicU64::new(1), AtomicBool::default());
        Arc::new(Shared { addresses, keys, clock, newest, answered, unknown, refused, stop })
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

/// Clients at work.
pub struct Load {
    /// What they share.
    pub shared: Arc<Shared>,
    seed: u64,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

impl Load {
    /// Starts so many.
    pub fn start(cluster: &Registers, keys: u32, clients: u64, seed: u64) -> Load {
        let addresses = cluster.replicas.iter().map(|replica| replica.api.clone()).collect();
        let shared = Shared::new(addresses, keys);
        let run = |n| tokio::spawn(Client::new(&shared, seed, n).run());
        let clients = (0..clients).map(run).collect();
        Load { shared, seed, clients }
    }

    /// How many the history has so far.
    pub fn operations(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed) + self.shared.unknown.load(Ordering::Relaxed)
    }

    /// Waits until each client could have been answered twice more.
    pub async fn goes_on(&self) -> Result<()> {
        let goal = self.shared.answered.load(Ordering::Relaxed) + 2 * self.clients.len() as u64;
        wait::until("operations to be answered", PATIENCE, async || {
            let answered = self.shared.answered.load(Ordering::Relaxed);
            ensure!(answered >= goal, "{answered} of {goal} are");
            Ok(())
        })
        .await
    }

    /// Ends the clients, reads every key once more, and gives the whole history.
    pub async fn finish(self) -> Result<Vec<Operation>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        let number = self.clients.len() as u64;
        for client in self.clients {
            history.extend(client.await.context("a client ended badly")?);
        }
        history.extend(Client::new(&self.shared, self.seed, number).read_all(PATIENCE).await?);
        Ok(history)
    }
}

/// What became of one request.
enum Outcome {
    Answered(Answer),
    /// Nothing was done; whom to ask, if that was said.
    Refused(Option<String>),
    Unknown,
}

/// One client. It has one operation open at a time, and one connection to each replica.
struct Client {
    shared: Arc<Shared>,
    random: StdRng,
    connections: Vec<Option<RegistersClient<Channel>>>,
    /// Which replica it believes to lead.
    at: usize,
    /// Its values are this and more: never the same as another's.
    next_value: u64,
    history: Vec<Operation>,
}

impl Client {
    /// The `number`-th client of a run.
    fn new(shared: &Arc<Shared>, seed: u64, number: u64) -> Client {
        Client {
            shared: Arc::clone(shared),
            random: StdRng::seed_from_u64(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            connections: vec![None; shared.addresses.len()],
            at: 0,
            next_value: (number + 1) << 40,
            history: Vec::new(),
        }
    }

    /// Asks until it is told to stop; gives what it asked and was told.
    async fn run(mut self) -> Vec<Operation> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let (key, action) = self.choose();
            // Every other read goes to whomever: it must be as new as anybody's.
            let anybody = action == Action::Get && self.random.random_bool(0.5);
            let replica = if anybody { self.somebody() } else { self.at };
            self.ask(replica, key, action).await;
        }
        self.history
    }

    /// Reads every key once, for the end of a history.
    async fn read_all(mut self, within: Duration) -> Result<Vec<Operation>> {
        let deadline = tokio::time::Instant::now() + within;
        for key in 0..self.shared.keys {
            let before = self.history.len();
            while self.history.len() == before {
                let late = tokio::time::Instant::now() > deadline;
                ensure!(!late, "key {key} could not be read within {within:?} after all was healed");
                self.ask(self.at, key, Action::Get).await;
            }
        }
        Ok(self.history)
    }

    fn somebody(&mut self) -> usize {
        self.random.random_range(0..self.connections.len())
    }

    fn choose(&mut self) -> (u32, Action) {
        let shared = Arc::clone(&self.shared);
        let keys = u64::from(shared.keys);
        let key = if self.random.random_bool(0.5) {
            let group = shared.clock.load(Ordering::Relaxed) / HOT_MOMENTS;
            (group * HOT_KEYS + self.random.random_range(0..HOT_KEYS)) % keys
        } else {
            self.random.random_range(0..keys)
        };
        self.next_value += 1;
        let new = self.next_value;
        let newest = shared.newest[key as usize].load(Ordering::Relaxed);
        let action = match self.random.random_range(0..100) {
            0..40 => Action::Get,
            40..70 => Action::Put(new),
            _ => Action::Cas { expected: Some(newest).filter(|newest| *newest > 0), new },
        };
        (key as u32, action)
    }

    async fn ask(&mut self, replica: usize, key: u32, action: Action) {
        let Some(mut connection) = self.connection(replica).await else {
            self.at = self.somebody();
            tokio::time::sleep(REFUSED_WAIT).await;
            return;
        };
        let called = self.shared.now();
        let sent = tokio::time::timeout(ANSWER_WITHIN, send(&mut connection, key, action)).await;
        let answered = self.shared.now();
        let outcome = match sent {
            Ok(Ok(answer)) => Outcome::Answered(answer),
            Ok(Err(status)) => judge(&status),
            Err(_) => Outcome::Unknown,
        };
        let mut operation = Operation { key, action, called, answered: None };
        match outcome {
            Outcome::Answered(answer) => {
                operation.answered = Some((answered, answer));
                if let Answer::Got(Some(value)) | Answer::Found(Some(value)) = answer {
                    self.shared.newest[key as usize].store(value, Ordering::Relaxed);
                }
                if let (Answer::Stored, Action::Put(new)) | (Answer::Swapped, Action::Cas { new, .. }) =
                    (answer, action)
                {
                    self.shared.newest[key as usize].store(new, Ordering::Relaxed);
                }
                self.history.push(operation);
                self.shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Refused(leader) => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                let known = leader.and_then(|api| self.shared.addresses.iter().position(|a| *a == api));
                self.at = known.unwrap_or_else(|| self.somebody());
                tokio::time::sleep(REFUSED_WAIT).await;
            }
            Outcome::Unknown => {
                // A read that nobody heard of changed nothing and told nothing.
                if action != Action::Get {
                    self.history.push(operation);
                    self.shared.unknown.fetch_add(1, Ordering::Relaxed);
                }
                self.connections[replica] = None;
                self.at = self.somebody();
            }
        }
    }

    /// A connection that exists: a request on one that does not would be of unknown fate for nothing.
    async fn connection(&mut self, replica: usize) -> Option<RegistersClient<Channel>> {
        if let Some(open) = &self.connections[replica] {
            return Some(open.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", self.shared.addresses[replica])).ok()?;
        let endpoint = endpoint.connect_timeout(ANSWER_WITHIN / 4).tcp_nodelay(true);
        let opened = RegistersClient::new(endpoint.connect().await.ok()?);
        self.connections[replica] = Some(opened.clone());
        Some(opened)
    }
}

async fn send(connection: &mut RegistersClient<Channel>, key: u32, action: Action) -> Result<Answer, Status> {
    let name = || format!("key-{key}").into_bytes().into();
    let bytes = |value: u64| value.to_le_bytes().to_vec().into();
    match action {
        Action::Get => {
            let reply = connection.get(GetRequest { key: name() }).await?.into_inner();
            Ok(Answer::Got(value(reply.register)?))
        }
        Action::Put(new) => {
            let put = PutRequest { key: name(), value: bytes(new), request: new, previous: false };
            connection.put(put).await.map(|_| Answer::Stored)
        }
        Action::Cas { expected, new } => {
            let expected = expected.map(bytes);
            let cas = CasRequest { key: name(), expected, new: bytes(new), request: new };
            let reply = connection.cas(cas).await?.into_inner();
            if reply.swapped { Ok(Answer::Swapped) } else { Ok(Answer::Found(value(reply.previous)?)) }
        }
    }
}

fn value(register: Option<Register>) -> Result<Value, Status> {
    let register = register.ok_or_else(|| Status::data_loss("an answer without a register"))?;
    if register.revision == 0 {
        return Ok(None);
    }
    let bytes: Result<[u8; 8], _> = register.value[..].try_into();
    bytes
        .map(|bytes| Some(u64::from_le_bytes(bytes)))
        .map_err(|_| Status::data_loss(format!("a value that nobody wrote: {:?}", register.value)))
}

/// Only what the server itself refused is certain. Its refusals say so in words, since a broken connection has the
/// same code.
fn judge(status: &Status) -> Outcome {
    let leader = status.metadata().get("leader").and_then(|leader| leader.to_str().ok()).map(str::to_owned);
    let not_leader = status.code() == Code::Unavailable
        && (leader.is_some() || status.message().starts_with("this replica does not lead"));
    match status.code() {
        Code::ResourceExhausted => Outcome::Refused(None),
        _ if not_leader => Outcome::Refused(leader),
        Code::DataLoss => panic!("{status}"),
        _ => Outcome::Unknown,
    }
}
