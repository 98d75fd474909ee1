//! Replicas of the register map as real processes, in a directory of their own on 127.0.0.1.
//!
//! When it is dropped, whatever belongs to the directory is killed by its pid. After a failed test the directory
//! stays and the ends of the logs are printed.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tonic::transport::Channel;

use super::program;
use super::wire::registers_client::RegistersClient;
use super::wire::{MetricsRequest, StatusReply, StatusRequest, SumReply, SumRequest};
use crate::cluster::{Member, PATIENCE, free_ports, tail};
use crate::network::{Network, Place};
use crate::processes;
use crate::programs::{Programs, REGISTERS};
use crate::scrape::Scrape;
use crate::wait;

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Replicas.
    pub replicas: usize,
    /// Raft timers: `fast`, `lan` or `wan`.
    pub profile: &'static str,
    /// Further arguments for each.
    pub arguments: Vec<String>,
    /// They are its members; else they are on 127.0.0.1. Whoever speaks to them must then be in its hub.
    pub network: Option<Arc<Network>>,
    /// What stands before the program of each, from the first; nothing where it is too short.
    pub before: Vec<Vec<String>>,
    /// Where the data of each lies, from the first, if not in the common directory.
    pub homes: Vec<Option<PathBuf>>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            replicas: 3,
            profile: "fast",
            arguments: vec![],
            network: None,
            before: vec![],
            homes: vec![],
        }
    }
}

/// A running cluster of registers.
#[derive(Debug)]
pub struct Registers {
    /// In order of joining: node ids from 1.
    pub replicas: Vec<Member>,
    setup: Setup,
    program: PathBuf,
    dir: Option<tempfile::TempDir>,
    /// Whoever ends without having stopped it has failed.
    stopped: bool,
}

impl Registers {
    /// Starts the replicas in a new directory below `home` (else the usual one for temporary files) and returns when
    /// all of them vote.
    pub async fn start(setup: &Setup, home: Option<&Path>) -> Result<Registers> {
        let program = Programs::find_one(REGISTERS)?;
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("borealis-registers-");
        let dir = match home {
            Some(home) => builder.tempdir_in(home)?,
            None => builder.tempdir()?,
        };
        let setup = setup.clone();
        let mut cluster = Registers { replicas: Vec::new(), setup, program, dir: Some(dir), stopped: false };
        for (api, raft) in addresses(&cluster.setup, 0..cluster.setup.replicas)? {
            cluster.add(&api, &raft);
        }
        for replica in &mut cluster.replicas {
            replica.start()?;
        }
        let all = cluster.replicas.len();
        wait::until("all replicas to vote", PATIENCE, async || {
            cluster.must_live()?;
            for n in 0..all {
                let voters = cluster.status(n).await?.voters as usize;
                ensure!(voters == all, "{voters} of {all} vote");
            }
            Ok(())
        })
        .await?;
        Ok(cluster)
    }

    /// One more replica, which is not started yet.
    fn add(&mut self, api: &str, raft: &str) {
        let (setup, n) = (&self.setup, self.replicas.len());
        let home = setup.homes.get(n).cloned().flatten().unwrap_or_else(|| self.dir().to_owned());
        let member = home.join(format!("replica-{}", n + 1));
        let mut words = setup.network.as_ref().map_or_else(Vec::new, |network| network.before(n));
        words.extend(setup.before.get(n).cloned().unwrap_or_default());
        words.extend([self.program.display().to_string(), "--dir".to_owned(), member.display().to_string()]);
        words.extend(["--profile", setup.profile, "--api", api, "--raft", raft].map(str::to_owned));
        match self.replicas.first() {
            None => words.push("--init".into()),
            Some(first) => words.extend(["--join".into(), first.api.clone()]),
        }
        words.extend(setup.arguments.clone());
        let first = PathBuf::from(words.remove(0));
        let mut replica = Member::new(&first, &member, words, (api, raft));
        // Beside the others' logs, even if its data are on a small disk.
        replica.log = self.dir().join(format!("replica-{}.log", n + 1));
        self.replicas.push(replica);
    }

    /// Starts one more replica, which joins; its number.
    pub fn join(&mut self) -> Result<usize> {
        let n = self.replicas.len();
        let (api, raft) = addresses(&self.setup, n..n + 1)?.remove(0);
        self.add(&api, &raft);
        self.replicas[n].start()?;
        Ok(n)
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("the directory lives as long as the cluster").path()
    }

    /// One replica's data directory.
    pub fn data(&self, n: usize) -> PathBuf {
        self.replicas[n].dir.clone()
    }

    /// The network whose members the replicas are.
    pub fn network(&self) -> Result<&Network> {
        self.setup.network.as_deref().context("these replicas are on 127.0.0.1, which cannot be cut")
    }

    /// A client of one replica, on a connection of its own.
    pub fn client(&self, n: usize) -> Result<RegistersClient<Channel>> {
        program::client(&self.replicas[n].api)
    }

    /// How a replica says it is.
    pub async fn status(&self, n: usize) -> Result<StatusReply> {
        let mut request = tonic::Request::new(StatusRequest {});
        request.set_timeout(Duration::from_secs(2));
        Ok(self.client(n)?.status(request).await?.into_inner())
    }

    /// What a replica counts.
    pub async fn scrape(&self, n: usize) -> Result<Scrape> {
        let reply = self.client(n)?.metrics(MetricsRequest {}).await?.into_inner();
        Ok(Scrape::read(&reply.text))
    }

    /// The replica that leads by its own word in the highest term; waits for one.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("a leader", PATIENCE, async || {
            let mut said = Vec::new();
            for n in (0..self.replicas.len()).filter(|n| self.replicas[*n].runs()) {
                if let Ok(status) = self.status(n).await {
                    said.push((n, status));
                }
            }
            let term = said.iter().map(|(_, status)| status.term).max().unwrap_or(0);
            let own = said.iter().find(|(_, s)| s.term == term && s.leader != 0 && s.leader == s.node_id);
            let (n, _) = own.with_context(|| format!("of {} replicas that answer none leads", said.len()))?;
            Ok(*n)
        })
        .await
    }

    /// Waits until every running replica answers and has applied what the furthest of them had committed then.
    pub async fn level(&self) -> Result<()> {
        let running: Vec<usize> = (0..self.replicas.len()).filter(|n| self.replicas[*n].runs()).collect();
        let mut goal = None;
        wait::until("all replicas to be level", PATIENCE, async || {
            let mut seen = Vec::new();
            for n in &running {
                seen.push(self.status(*n).await?);
            }
            let goal = *goal.get_or_insert(seen.iter().map(|status| status.committed).max().unwrap_or(0));
            let behind = seen.iter().find(|status| status.applied < goal);
            ensure!(behind.is_none(), "{behind:?} has not applied {goal}");
            Ok(())
        })
        .await
    }

    /// Has all rows summed at one index and returns the sum, if every replica has the same.
    pub async fn equal_sums(&self) -> Result<SumReply> {
        let asked = |n: usize, index: u64| async move {
            let mut request = tonic::Request::new(SumRequest { index });
            request.set_timeout(Duration::from_secs(15));
            let reply = self.client(n)?.sum(request).await;
            reply
                .map(tonic::Response::into_inner)
                .with_context(|| format!("{} has no sum", self.replicas[n].name))
        };
        let wanted =
            wait::until("the leader's sum", PATIENCE, async || asked(self.leader().await?, 0).await).await?;
        for n in 0..self.replicas.len() {
            let sum = wait::until("a replica's sum", PATIENCE, async || asked(n, wanted.index).await).await?;
            ensure!(sum == wanted, "{} has {sum:?}, the leader {wanted:?}", self.replicas[n].name);
        }
        Ok(wanted)
    }

    /// An error when a replica that should run has ended.
    pub fn must_live(&mut self) -> Result<()> {
        self.replicas.iter_mut().filter(|replica| replica.runs()).try_for_each(Member::must_live)
    }

    /// Kills everything; the last step of a run that held. An error when a process is left.
    pub fn stop(&mut self) -> Result<()> {
        self.stopped = true;
        self.kill_all()
    }

    fn kill_all(&mut self) -> Result<()> {
        for replica in self.replicas.iter_mut().filter(|replica| replica.runs()) {
            let _ = replica.kill();
        }
        processes::sweep(self.dir(), Duration::from_secs(20))?;
        Ok(())
    }
}

/// Where each of these replicas serves clients, and where the others.
fn addresses(setup: &Setup, replicas: Range<usize>) -> Result<Vec<(String, String)>> {
    if setup.network.is_some() {
        let ip = |n: usize| Place::Member(n).ip();
        return Ok(replicas.map(|n| (format!("{}:7000", ip(n)), format!("{}:7001", ip(n)))).collect());
    }
    let ports = free_ports(replicas.len() * 2)?;
    let address = |port: u16| format!("127.0.0.1:{port}");
    Ok(ports.chunks(2).map(|ports| (address(ports[0]), address(ports[1]))).collect())
}

impl Drop for Registers {
    fn drop(&mut self) {
        if let Err(why) = self.kill_all() {
            eprintln!("processes of {} are left: {why:#}", self.dir().display());
        }
        if !self.stopped || std::thread::panicking() {
            for replica in &self.replicas {
                eprintln!("--- {} ends:\n{}", replica.name, tail(&replica.log));
            }
            if let Some(dir) = self.dir.take() {
                eprintln!("--- everything is kept in {}", dir.keep().display());
            }
        }
    }
}
