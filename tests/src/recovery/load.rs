//! The rows, and writers that overwrite them by chance while something else is measured.
//!
//! A row is about 300 bytes that no compression makes smaller. A writer has one write open at a time and goes to
//! whoever leads; it keeps a book of what was answered, so that it can be read back in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::cluster::PATIENCE;
use crate::registers::cluster::Registers;
use crate::registers::program;
use crate::registers::wire::registers_client::RegistersClient;
use crate::registers::wire::{Command, GetRequest, Numbered, ProposeRequest, PutRequest, answered, command};

/// Bytes of a value; with its key and its numbers a row is about 300.
pub const VALUE_BYTES: usize = 280;
/// Streams that fill.
const STREAMS: u64 = 4;
/// Commands of one message of a stream.
const COMMANDS: u64 = 250;
/// Messages of one stream that are not answered yet.
const MESSAGES_AHEAD: u64 = 4;
/// Rows that are written anew if a leader died in the middle.
const PART: u64 = 100_000;
/// An answer that takes longer is not waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A writer that was refused asks again after this.
const REFUSED_WAIT: Duration = Duration::from_millis(5);
/// Rows that are read back at most.
const READ_BACK_MAX: usize = 50_000;
/// Reads in flight when rows are read back.
const READS: usize = 64;

fn key(row: u64) -> Bytes {
    format!("row-{row:08}").into()
}

fn value(random: &mut StdRng) -> Bytes {
    let mut value = vec![0; VALUE_BYTES];
    random.fill_bytes(&mut value);
    value.into()
}

/// Writes every row once.
pub async fn fill(cluster: &Registers, rows: u64) -> Result<()> {
    for first in (0..rows).step_by(PART as usize) {
        let part = first..rows.min(first + PART);
        let begun = Instant::now();
        while let Err(why) = fill_part(cluster, part.clone()).await {
            ensure!(begun.elapsed() < PATIENCE, "rows {part:?} could not be written: {why:#}");
            eprintln!("rows {part:?} are written again: {why:#}");
        }
    }
    Ok(())
}

async fn fill_part(cluster: &Registers, rows: Range<u64>) -> Result<()> {
    let leader = cluster.leader().await?;
    let share = (rows.end - rows.start).div_ceil(STREAMS);
    let mut streams = Vec::new();
    for first in rows.clone().step_by(share.max(1) as usize) {
        let share = first..rows.end.min(first + share);
        streams.push(tokio::spawn(fill_stream(cluster.client(leader)?, share)));
    }
    for stream in streams {
        stream.await??;
    }
    Ok(())
}

async fn fill_stream(mut client: RegistersClient<Channel>, rows: Range<u64>) -> Result<()> {
    let mut random = StdRng::seed_from_u64(rows.start);
    let mut message = move |first: u64| {
        let commands = (first..rows.end.min(first + COMMANDS)).map(|row| {
            let put = PutRequest { key: key(row), value: value(&mut random), request: 0, previous: false };
            Numbered { number: row, command: Some(Command { kind: Some(command::Kind::Put(put)) }) }
        });
        ProposeRequest { commands: commands.collect() }
    };
    let mut firsts = rows.clone().step_by(COMMANDS as usize);
    let (messages, outgoing) = mpsc::channel(MESSAGES_AHEAD as usize);
    for first in firsts.by_ref().take(MESSAGES_AHEAD as usize) {
        messages.try_send(message(first))?;
    }
    let mut answers = client.propose(ReceiverStream::new(outgoing)).await?.into_inner();
    let (mut answered, mut due) = (0, COMMANDS);
    while answered < rows.end - rows.start {
        let reply = answers.message().await?.context("the stream ended with commands unanswered")?;
        for answer in reply.answers {
            let Some(answered::Kind::Put(_)) = answer.kind else { bail!("a put got {:?}", answer.kind) };
            answered += 1;
        }
        while answered >= due {
            due += COMMANDS;
            if let Some(first) = firsts.next() {
                messages.try_send(message(first)).context("a stream is full")?;
            }
        }
    }
    Ok(())
}

/// One write that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was sent.
    pub at: Instant,
    /// How long the answer took.
    pub took: Duration,
}

/// What writers were answered: by row the newest write, where nothing is in doubt.
#[derive(Debug, Default)]
pub struct Book {
    newest: BTreeMap<u64, u64>,
    /// Rows that had a write of unknown fate; it may be done at any later time.
    doubtful: BTreeSet<u64>,
}

impl Book {
    fn add(&mut self, other: Book) {
        for (row, number) in other.newest {
            let newest = self.newest.entry(row).or_default();
            *newest = number.max(*newest);
        }
        self.doubtful.extend(other.doubtful);
    }

    /// Reads rows back; how many, and how many did not hold what was answered last.
    pub async fn read_back(&self, cluster: &Registers) -> Result<(usize, usize)> {
        let client = cluster.client(cluster.leader().await?)?;
        let sure = self.newest.iter().filter(|(row, _)| !self.doubtful.contains(row));
        let step = (self.newest.len() / READ_BACK_MAX).max(1);
        let reads = sure.step_by(step).map(|(row, number)| {
            let (mut client, row, number) = (client.clone(), *row, *number);
            async move {
                let reply = client.get(GetRequest { key: key(row) }).await?.into_inner();
                anyhow::Ok(reply.register.unwrap_or_default().request == number)
            }
        });
        let mut found = futures::stream::iter(reads).buffer_unordered(READS);
        let (mut read, mut wrong) = (0, 0);
        while let Some(right) = found.next().await {
            read += 1;
            wrong += usize::from(!right?);
        }
        Ok((read, wrong))
    }
}

/// What the writers share.
#[derive(Debug)]
struct Shared {
    addresses: Vec<String>,
    rows: u64,
    stop: AtomicBool,
    leader: AtomicUsize,
    /// Of all writes that were ever sent.
    number: Arc<AtomicU64>,
    samples: Mutex<Vec<Sample>>,
}

impl Shared {
    fn samples(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Writers at work.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<Book>>>,
}

impl Writers {
    /// Starts so many. `number` counts the writes of a whole run.
    pub fn start(cluster: &Registers, rows: u64, writers: u64, number: &Arc<AtomicU64>) -> Writers {
        let shared = Arc::new(Shared {
            addresses: cluster.replicas.iter().map(|replica| replica.api.clone()).collect(),
            rows,
            stop: AtomicBool::default(),
            leader: AtomicUsize::default(),
            number: Arc::clone(number),
            samples: Mutex::default(),
        });
        let run = |n| tokio::spawn(write(Arc::clone(&shared), n, writers));
        Writers { tasks: (0..writers).map(run).collect(), shared }
    }

    /// The writes that were answered so far.
    pub fn samples(&self) -> Vec<Sample> {
        self.shared.samples().clone()
    }

    /// How many were.
    pub fn answered(&self) -> usize {
        self.shared.samples().len()
    }

    /// Ends them; what they were answered is added to `book`.
    pub async fn finish(self, book: &mut Book) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            book.add(task.await??);
        }
        Ok(())
    }
}

/// The `n`-th of `writers`; every row has one writer only.
async fn write(shared: Arc<Shared>, n: u64, writers: u64) -> Result<Book> {
    let (mut random, mut book) = (StdRng::seed_from_u64(n), Book::default());
    let clients = shared.addresses.iter().map(|address| program::client(address));
    let mut clients = clients.collect::<Result<Vec<_>>>()?;
    while !shared.stop.load(Ordering::Relaxed) {
        let row = random.random_range(0..shared.rows / writers) * writers + n;
        let number = shared.number.fetch_add(1, Ordering::Relaxed) + 1;
        let put = PutRequest { key: key(row), value: value(&mut random), request: number, previous: false };
        let at = Instant::now();
        let leader = shared.leader.load(Ordering::Relaxed);
        match tokio::time::timeout(ANSWER_WITHIN, clients[leader].put(put)).await {
            Ok(Ok(_)) => {
                book.newest.insert(row, number);
                shared.samples().push(Sample { at, took: at.elapsed() });
                continue;
            }
            // It says who leads; so it was not done.
            Ok(Err(refused)) if refused.metadata().contains_key("leader") => {
                let named = refused.metadata().get("leader").and_then(|leader| leader.to_str().ok());
                let known = shared.addresses.iter().position(|address| Some(address.as_str()) == named);
                shared.leader.store(known.unwrap_or(leader), Ordering::Relaxed);
            }
            _ => {
                book.doubtful.insert(row);
                let next = (leader + 1) % clients.len();
                let _ = shared.leader.compare_exchange(leader, next, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(REFUSED_WAIT).await;
    }
    Ok(book)
}
