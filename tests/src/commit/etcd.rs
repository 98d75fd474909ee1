//! etcd's members as processes, as its release makes them, with its usual settings.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::{Member, PATIENCE, free_ports, tail};
use crate::programs::source_dir;
use crate::scrape::{self, Scrape};
use crate::wait;

/// The part of its messages that is used here.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod wire {
    tonic::include_proto!("etcdserverpb");
}

/// etcd's program, fetched if it is not there yet.
pub fn fetch() -> Result<PathBuf> {
    let script = source_dir().join("deploy/setup/etcd.sh");
    let output =
        Command::new(&script).output().with_context(|| format!("cannot run {}", script.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", script.display(), said.trim());
    Ok(Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("etcd"))
}

/// Three members that run. Dropped, they are killed.
#[derive(Debug)]
pub struct Etcd {
    /// The members.
    pub members: Vec<Member>,
}

impl Etcd {
    /// Starts a cluster in `dir` and returns when it has a leader.
    pub async fn start(program: &Path, dir: &Path) -> Result<Etcd> {
        let ports = free_ports(6)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<String> =
            (0..3).map(|n| format!("member-{}={}", n + 1, url(ports[2 * n + 1]))).collect();
        let members = ports.chunks(2).enumerate().map(|(n, ports)| {
            let (client, peer) = (url(ports[0]), url(ports[1]));
            let data = dir.join(format!("member-{}", n + 1));
            let arguments = [
                ("--name", format!("member-{}", n + 1)),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", peers.join(",")),
                ("--log-level", "error".into()),
            ];
            let arguments =
                arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
            let address = |port: u16| format!("127.0.0.1:{port}");
            Member::new(program, &data, arguments, (&address(ports[0]), &address(ports[1])))
        });
        let mut etcd = Etcd { members: members.collect() };
        for member in &mut etcd.members {
            member.start()?;
        }
        etcd.leader().await.inspect_err(|_| {
            etcd.members.iter().for_each(|m| eprintln!("--- {} ends:\n{}", m.name, tail(&m.log)))
        })?;
        Ok(etcd)
    }

    /// The member that leads by its own word.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("a leader of etcd", PATIENCE, async || {
            for (n, member) in self.members.iter().enumerate() {
                let address = format!("http://{}", member.api);
                let mut client = wire::maintenance_client::MaintenanceClient::connect(address).await?;
                let status = client.status(wire::StatusRequest {}).await?.into_inner();
                if status.header.is_some_and(|header| header.member_id == status.leader) {
                    return Ok(n);
                }
            }
            anyhow::bail!("none says so")
        })
        .await
    }

    /// What a member counts.
    pub async fn scrape(&self, n: usize) -> Result<Scrape> {
        scrape::of(&self.members[n].api).await
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.runs()) {
            if let Err(why) = member.kill() {
                eprintln!("{} is left: {why:#}", member.name);
            }
        }
    }
}
