//! The engine behind the log: three replicas in this process, their data on disk, their messages over TCP; commands
//! without clients, as many in flight as the queue takes.
//!
//! A third of the commands assign a task to a host, two thirds report it: STARTING, then RUNNING. Measured twice: each
//! command about one task, and each about all that one host gets or says at a time, as the leader's loop makes them.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use engine::state::laws;
use engine::{Assign, Op, Placement, Report, Status};
use proto::{HostId, TaskId};
use replication::{Options, PendingAnswer, Profile, ProposeError, Replica, Voting};
use scheduler::machine::Machine;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::cluster::{PATIENCE, free_ports};
use crate::decisions::{Demand, Memory};
use crate::usage::{self, Usage};
use crate::wait;

/// Hosts of 64 cores; there is room for more than twice the tasks.
const HOSTS: usize = 2_000;
/// Jobs.
const JOBS: usize = 200;
/// Tasks of which each is assigned and then reported twice.
const TASKS: usize = 200_000;
/// Commands in flight.
const IN_FLIGHT: usize = 8_192;
/// Tasks that are assigned before the first of them is reported.
const AHEAD: usize = 2_000;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Batched {
    /// Commands.
    pub commands: usize,
    /// Assignments and reports in them.
    pub changes: usize,
    /// From the first proposal to the last answer.
    pub time: Duration,
    /// What this process used meanwhile: all three replicas.
    pub used: Usage,
}

impl Batched {
    /// Commands a second.
    pub fn per_s(&self) -> f64 {
        self.commands as f64 / self.time.as_secs_f64()
    }

    /// Processor time of one command, in microseconds, of all three replicas in sum.
    pub fn us_a_command(&self) -> f64 {
        self.used.cpu_us as f64 / self.commands as f64
    }

    /// Assignments and reports a second.
    pub fn changes_per_s(&self) -> f64 {
        self.changes as f64 / self.time.as_secs_f64()
    }
}

/// Puts commands through three replicas in `dir`; `together`: tasks of one host in a command.
pub async fn run(dir: &Path, together: usize) -> Result<Batched> {
    let script = Script::new(together)?;
    let trio = Trio::start(dir).await?;
    push(&trio.leader, script.before).await?;
    let commands = script.commands.len();
    let me = [std::process::id() as i32];
    let (begun, before) = (Instant::now(), usage::of(&me));
    push(&trio.leader, script.commands).await?;
    let (time, used) = (begun.elapsed(), usage::of(&me) - before);
    let index = trio.leader.fingerprint().await?;
    for follower in &trio.followers {
        let theirs = follower.fingerprint_of(index.index).await.context("a follower's sum did not come")?;
        ensure!(theirs.sum == index.sum, "the replicas' rows differ");
    }
    for replica in trio.followers.iter().chain([&trio.leader]) {
        replica.read(|machine| {
            let running = machine.state.tasks().filter(|task| task.status == Status::Running).count();
            ensure!(running == TASKS, "{running} of {TASKS} tasks run");
            anyhow::Ok(laws::check(&machine.state)?)
        })?;
    }
    trio.stop().await;
    Ok(Batched { commands, changes: 3 * TASKS, time, used })
}

/// Proposes all in order. An answer that is a refusal is an error, and so is one that does not come.
async fn push(replica: &Replica<Machine>, commands: Vec<Bytes>) -> Result<()> {
    let mut flying: VecDeque<PendingAnswer<Machine>> = VecDeque::new();
    let mut commands = commands.into_iter().peekable();
    while commands.peek().is_some() || !flying.is_empty() {
        while flying.len() < IN_FLIGHT
            && let Some(command) = commands.peek()
        {
            match replica.submit(command.clone()) {
                Ok(answer) => flying.push_back(answer),
                Err(ProposeError::Busy { .. }) if !flying.is_empty() => break,
                Err(error) => return Err(error.into()),
            }
            commands.next();
        }
        if let Some(first) = flying.pop_front() {
            first.await?.reply?;
        }
    }
    Ok(())
}

/// All commands, made beforehand.
struct Script {
    before: Vec<Bytes>,
    commands: Vec<Bytes>,
}

impl Script {
    fn new(together: usize) -> Result<Script> {
        let mut memory = Memory::recorded(HOSTS)?;
        memory.submit(Demand::Plain, JOBS, TASKS)?;
        let tasks: Vec<TaskId> = memory.state.tasks().map(|task| task.id).collect();
        let before = memory.take_record();
        let mut sequences = vec![0; HOSTS];
        let mut turn = 0;
        for ahead in tasks.chunks(AHEAD.next_multiple_of(together)) {
            let by_host: Vec<(usize, &[TaskId])> = ahead
                .chunks(together)
                .map(|tasks| {
                    turn += 1;
                    (turn % HOSTS, tasks)
                })
                .collect();
            for (host, tasks) in &by_host {
                let placements =
                    tasks.iter().map(|task| Placement { task: *task, ports: Vec::new() }).collect();
                memory.apply(Op::Assign(Assign { host: memory.hosts[*host], placements }))?;
            }
            for status in [Status::Starting, Status::Running] {
                for (host, tasks) in &by_host {
                    let reports = tasks.iter().map(|task| {
                        sequences[*host] += 1;
                        Report { task: *task, status, message: String::new(), sequence: sequences[*host] }
                    });
                    let (reports, journal) = (reports.collect(), format!("j{host}"));
                    let host: HostId = memory.hosts[*host];
                    memory.apply(Op::ApplyReports { host, journal, reports })?;
                }
            }
        }
        Ok(Script { before, commands: memory.take_record() })
    }
}

/// Three replicas that vote.
struct Trio {
    leader: Replica<Machine>,
    followers: Vec<Replica<Machine>>,
    serving: Vec<JoinHandle<Result<(), tonic::transport::Error>>>,
}

impl Trio {
    async fn start(dir: &Path) -> Result<Trio> {
        let ports = free_ports(3)?;
        let options: Vec<Options> = ports
            .iter()
            .map(|port| {
                let address = format!("127.0.0.1:{port}");
                let mut options =
                    Options::new(dir.join(port.to_string()), "bench", &address, &address, Profile::Lan);
                options.accept_slow_disk = true;
                options
            })
            .collect();
        replication::init(&options[0]).await?;
        let mut serving = Vec::new();
        let leader = start(&options[0], &mut serving).await?;
        let mut followers = Vec::new();
        wait::until("the first replica to lead", PATIENCE, async || {
            ensure!(leader.leadership().borrow().is_me);
            Ok(())
        })
        .await?;
        for options in &options[1..] {
            let uuid = replication::store_uuid(&options.dir)?;
            let admitted =
                leader.admit(&uuid, &options.raft_address, &options.api_address, Voting::Voter, 1).await?;
            replication::adopt(options, &admitted.identity).await?;
            followers.push(start(options, &mut serving).await?);
        }
        wait::until("all replicas to vote", PATIENCE, async || {
            let voters = leader.status().members.iter().filter(|member| member.voter).count();
            ensure!(voters == 3, "{voters} of 3 vote");
            Ok(())
        })
        .await?;
        Ok(Trio { leader, followers, serving })
    }

    async fn stop(self) {
        for replica in self.followers.iter().chain([&self.leader]) {
            replica.shutdown().await;
        }
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

async fn start(
    options: &Options,
    serving: &mut Vec<JoinHandle<Result<(), tonic::transport::Error>>>,
) -> Result<Replica<Machine>> {
    let replica = Replica::<Machine>::start(options.clone()).await?;
    let listener = TcpListener::bind(&options.raft_address).await?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder().add_service(replica.raft_service()).serve_with_incoming(incoming);
    serving.push(tokio::spawn(served));
    Ok(replica)
}
