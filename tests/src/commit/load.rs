//! The one loop that loads both stores, the loop of our stream, and the book of what was answered.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::store::{Ours, Store};
use crate::registers::wire::{Command, Numbered, ProposeRequest, PutRequest, answered, command};

/// Connections of the client.
pub const CONNECTIONS: usize = 4;
/// Keys that are written, each by one writer only.
const KEYS: usize = 10_240;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 256;
/// Not measured, at the beginning.
const WARM_UP: Duration = Duration::from_millis(500);
/// Commands of one message of the stream at most.
const COMMANDS_MAX: usize = 256;
/// Reads in flight when all is read back.
const READS: usize = 64;

/// What one writer has written: for each of its keys the number of the newest write that was answered, 0 = none.
#[derive(Debug)]
struct Pen {
    writer: usize,
    newest: Vec<u64>,
    number: u64,
}

impl Pen {
    fn new(writer: usize, writers: usize) -> Pen {
        Pen { writer, newest: vec![0; (KEYS / writers).max(1)], number: 0 }
    }

    /// The next write.
    fn next(&mut self) -> (u64, Bytes, Bytes) {
        self.number += 1;
        (self.number, key(self.writer, self.slot(self.number)), value(self.writer, self.number))
    }

    fn slot(&self, number: u64) -> usize {
        number as usize % self.newest.len()
    }

    fn answered(&mut self, number: u64) {
        let slot = self.slot(number);
        self.newest[slot] = self.newest[slot].max(number);
    }
}

fn key(writer: usize, slot: usize) -> Bytes {
    format!("key-{writer:04}-{slot:05}").into()
}

fn value(writer: usize, number: u64) -> Bytes {
    let mut value = format!("{writer:04} {number:012} ").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value.into()
}

/// What a load has done.
#[derive(Debug, Default)]
pub struct Load {
    /// How long each write took that was answered while it was measured.
    pub times: Vec<Duration>,
    /// All that were answered, also before.
    pub answered: u64,
    pens: Vec<Pen>,
}

impl Load {
    fn sum(loads: impl IntoIterator<Item = Load>) -> Load {
        let mut sum = Load::default();
        for load in loads {
            sum.times.extend(load.times);
            sum.answered += load.answered;
            sum.pens.extend(load.pens);
        }
        sum
    }
}

/// When the load begins to be measured and when it ends.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    until: Instant,
}

impl Window {
    fn of(time: Duration) -> Window {
        let from = Instant::now() + WARM_UP;
        Window { from, until: from + time }
    }
}

async fn channels(address: &str, count: usize) -> Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    let mut channels = Vec::new();
    for _ in 0..count.min(CONNECTIONS) {
        channels.push(endpoint.connect().await.with_context(|| format!("connecting to {address}"))?);
    }
    Ok(channels)
}

/// `clients` writers, each with one unary call at a time. `begun` is called when the measuring begins.
pub async fn unary<S: Store>(
    address: &str,
    clients: usize,
    time: Duration,
    begun: impl AsyncFnOnce() -> Result<()>,
) -> Result<Load> {
    let channels = channels(address, clients).await?;
    let window = Window::of(time);
    let writers: Vec<_> = (0..clients)
        .map(|writer| {
            let store = S::on(channels[writer % channels.len()].clone());
            tokio::spawn(one_at_a_time(store, Pen::new(writer, clients), window))
        })
        .collect();
    tokio::time::sleep_until(window.from.into()).await;
    begun().await?;
    let mut loads = Vec::new();
    for writer in writers {
        loads.push(writer.await??);
    }
    Ok(Load::sum(loads))
}

async fn one_at_a_time<S: Store>(mut store: S, mut pen: Pen, window: Window) -> Result<Load> {
    let mut load = Load::default();
    loop {
        let (number, key, value) = pen.next();
        let began = Instant::now();
        store.put(key, value).await.context("a put")?;
        let now = Instant::now();
        pen.answered(number);
        load.answered += 1;
        if now >= window.until {
            break;
        }
        if now >= window.from {
            load.times.push(now - began);
        }
    }
    load.pens.push(pen);
    Ok(load)
}

/// `clients` commands in flight in sum, over a stream on each connection: as many follow as were answered together.
pub async fn stream(
    address: &str,
    clients: usize,
    time: Duration,
    begun: impl AsyncFnOnce() -> Result<()>,
) -> Result<Load> {
    let channels = channels(address, clients).await?;
    let streams = channels.len();
    let window = Window::of(time);
    let writers: Vec<_> = channels
        .into_iter()
        .enumerate()
        .map(|(n, channel)| {
            let share = clients / streams + usize::from(n < clients % streams);
            tokio::spawn(many_in_flight(Ours::on(channel), Pen::new(n, streams), share, window))
        })
        .collect();
    tokio::time::sleep_until(window.from.into()).await;
    begun().await?;
    let mut loads = Vec::new();
    for writer in writers {
        loads.push(writer.await??);
    }
    Ok(Load::sum(loads))
}

async fn many_in_flight(mut store: Ours, mut pen: Pen, share: usize, window: Window) -> Result<Load> {
    let mut load = Load::default();
    // Room for every message that can be on its way, so that sending never waits for the reading of answers.
    let (messages, outgoing) = mpsc::channel(share);
    let mut sent: std::collections::VecDeque<(u64, Instant)> = Default::default();
    let send = |pen: &mut Pen, sent: &mut std::collections::VecDeque<_>, mut count: usize| -> Result<()> {
        while count > 0 {
            let part = count.min(COMMANDS_MAX);
            let now = Instant::now();
            let commands = (0..part).map(|_| {
                let (number, key, value) = pen.next();
                sent.push_back((number, now));
                let put = PutRequest { key, value, request: 0, previous: false };
                Numbered { number, command: Some(Command { kind: Some(command::Kind::Put(put)) }) }
            });
            messages.try_send(ProposeRequest { commands: commands.collect() }).context("a stream is full")?;
            count -= part;
        }
        Ok(())
    };
    send(&mut pen, &mut sent, share)?;
    let mut answers = store.propose(ReceiverStream::new(outgoing)).await?.into_inner();
    while !sent.is_empty() {
        let reply = answers.message().await?.context("a stream ended with commands unanswered")?;
        let now = Instant::now();
        let count = reply.answers.len();
        for answer in reply.answers {
            let Some(answered::Kind::Put(_)) = answer.kind else { bail!("a put got {:?}", answer.kind) };
            // Answers come nearly in order.
            let at = sent.iter().position(|(number, _)| *number == answer.number);
            let (number, began) = at.and_then(|at| sent.remove(at)).context("an answer to nothing")?;
            pen.answered(number);
            load.answered += 1;
            if now >= window.from && now < window.until {
                load.times.push(now - began);
            }
        }
        if now < window.until {
            send(&mut pen, &mut sent, count)?;
        }
    }
    load.pens.push(pen);
    Ok(load)
}

/// Reads every key that was written; the answer is how many, and how many did not hold what was answered last.
pub async fn read_back<S: Store>(address: &str, load: &Load) -> Result<(u64, u64)> {
    let channels = channels(address, CONNECTIONS).await?;
    let stores: Vec<S> = channels.into_iter().map(S::on).collect();
    let keys = load.pens.iter().flat_map(|pen| {
        let newest = pen.newest.iter().enumerate().filter(|(_, newest)| **newest > 0);
        newest.map(|(slot, newest)| (key(pen.writer, slot), value(pen.writer, *newest)))
    });
    let reads = keys.enumerate().map(|(n, (key, wanted))| {
        let mut store = stores[n % stores.len()].clone();
        async move { anyhow::Ok(store.get(key).await? == Some(wanted)) }
    });
    let mut found = stream::iter(reads).buffer_unordered(READS);
    let (mut read, mut wrong) = (0, 0);
    while let Some(right) = found.next().await {
        read += 1;
        wrong += u64::from(!right?);
    }
    Ok((read, wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pen_knows_what_each_key_must_hold() {
        let mut pen = Pen::new(3, KEYS / 2);
        let writes: Vec<_> = (0..3).map(|_| pen.next()).collect();
        assert_eq!(writes[0].1, writes[2].1, "it has two keys");
        assert_ne!(writes[0].1, writes[1].1);
        assert!(writes.iter().all(|(_, _, value)| value.len() == VALUE_BYTES));
        pen.answered(3);
        pen.answered(1);
        assert_eq!(pen.newest, [0, 3]);
    }
}
