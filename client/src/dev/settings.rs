//! What the local cluster consists of: settings kept in its directory, and from them every member with its
//! directory, addresses and command line. Pure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::addresses::{DEV_CLUSTER, DEV_PORT};
use crate::arguments::Dev;
use crate::error::{Error, Kind};

/// Agents that are processes of their own.
const AGENTS_MAX: u16 = 64;
/// Simulated hosts are called so, with a number from 0.
const SIMULATED: &str = "agent";
/// Raft ports lie this much above API ports.
const RAFT_PORT_OFFSET: u16 = 10;

/// Chosen at the first start and kept, since the replicas' addresses are part of the cluster's membership.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Name of the cluster.
    pub(crate) cluster: String,
    /// Scheduler replicas.
    pub(crate) replicas: u16,
    /// Agents.
    pub(crate) agents: u16,
    /// Whether one process speaks for all agents, whose tasks only pretend to run.
    #[serde(default)]
    pub(crate) simulated: bool,
    /// API port of the first replica.
    pub(crate) base_port: u16,
    /// Every replica has joined: the cluster is never initialised again.
    pub(crate) formed: bool,
}

impl Settings {
    /// Those of the directory, or of the command line where there are none yet. What was said must not contradict.
    pub(crate) fn choose(kept: Option<Settings>, dev: &Dev, cluster: Option<&str>) -> Result<Self, Error> {
        let chosen = Self::choose_any(kept, dev, cluster)?;
        if !chosen.simulated && chosen.agents > AGENTS_MAX {
            let what = format!("--agents {} is more than {AGENTS_MAX} processes", chosen.agents);
            return Err(Error::new(Kind::InvalidParameter, what)
                .hint("with --simulated, in a new --dir, one process speaks for all of them"));
        }
        Ok(chosen)
    }

    fn choose_any(kept: Option<Settings>, dev: &Dev, cluster: Option<&str>) -> Result<Self, Error> {
        let Some(kept) = kept else {
            let cluster = cluster.unwrap_or(DEV_CLUSTER);
            proto::job_key::check_part("--cluster", cluster)?;
            return Ok(Settings {
                cluster: cluster.to_owned(),
                replicas: dev.replicas.unwrap_or(3),
                agents: dev.agents.unwrap_or(2),
                simulated: dev.simulated,
                base_port: dev.base_port.unwrap_or(DEV_PORT),
                formed: false,
            });
        };
        let contradicts = |flag: &str, said: &dyn std::fmt::Display, has: &dyn std::fmt::Display| {
            let what = format!("--{flag} {said}, but the cluster in {} has {has}", dev.dir.display());
            Err(Error::new(Kind::InvalidParameter, what)
                .hint(format!("leave --{flag} out to take that cluster up again, or choose another --dir")))
        };
        if let Some(said) = cluster.filter(|said| *said != kept.cluster) {
            return contradicts("cluster", &said, &kept.cluster);
        }
        if let Some(said) = dev.replicas.filter(|said| *said != kept.replicas) {
            return contradicts("replicas", &said, &kept.replicas);
        }
        if let Some(said) = dev.base_port.filter(|said| *said != kept.base_port) {
            return contradicts("base-port", &said, &kept.base_port);
        }
        if dev.simulated && !kept.simulated {
            return contradicts("simulated", &"asks for hosts that pretend", &"real ones");
        }
        if let Some(said) = dev.agents.filter(|said| kept.simulated && *said < kept.agents) {
            return contradicts(
                "agents",
                &said,
                &format!("{} simulated ones, of which none can go", kept.agents),
            );
        }
        Ok(Settings { agents: dev.agents.unwrap_or(kept.agents), ..kept })
    }

    /// Names of the hosts that the agent called `member` speaks for.
    pub(crate) fn hosts_of(&self, member: &str) -> Vec<String> {
        match self.simulated {
            true => (0..self.agents).map(|index| format!("{SIMULATED}-{index}")).collect(),
            false => vec![member.to_owned()],
        }
    }

    /// API addresses of all replicas.
    pub(crate) fn api_addresses(&self) -> Vec<String> {
        (0..self.replicas).map(|index| local(self.base_port + index)).collect()
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// What a member is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// A scheduler replica and its addresses.
    Replica {
        /// For users and agents.
        api: String,
        /// For the other replicas.
        raft: String,
    },
    /// An agent; it says itself where it listens.
    Agent,
}

/// One process of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    /// `scheduler-1`, `agent-2`.
    pub(crate) name: String,
    /// What it is.
    pub(crate) role: Role,
    /// Its data.
    pub(crate) dir: PathBuf,
    /// Its words.
    pub(crate) log: PathBuf,
    /// Name of its program.
    pub(crate) program: &'static str,
    /// Its command line, without the program.
    pub(crate) arguments: Vec<OsString>,
}

/// What the machine has, to be shared out among the agents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Machine {
    /// Thousandths of a core.
    pub(crate) cpu_milli: u64,
    /// MiB of memory that tasks may have.
    pub(crate) ram_mib: u64,
    /// MiB of disk that tasks may have.
    pub(crate) disk_mib: u64,
}

/// All processes of the cluster, replicas first.
pub(crate) fn members(
    settings: &Settings,
    dir: &Path,
    profile: &str,
    (first_port, last_port): (u16, u16),
    machine: Machine,
) -> Result<Vec<Member>, Error> {
    let top = u32::from(settings.base_port) + u32::from(settings.replicas) + u32::from(RAFT_PORT_OFFSET);
    if top > u32::from(u16::MAX) {
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("--base-port {} leaves no room for all ports", settings.base_port),
        ));
    }
    let member = |name: String, role, program, arguments: Vec<OsString>| {
        let (dir, log) = (dir.join(&name), dir.join(format!("{name}.log")));
        Member { name, role, dir, log, program, arguments }
    };
    let mut members = Vec::new();
    for index in 0..settings.replicas {
        let name = format!("scheduler-{}", index + 1);
        let (api, raft) = (settings.base_port + index, settings.base_port + index + RAFT_PORT_OFFSET);
        let (api, raft) = (local(api), local(raft));
        let mut arguments = words(&[
            ("--dir", dir.join(&name).into()),
            ("--cluster", (&settings.cluster).into()),
            ("--api", (&api).into()),
            ("--raft", (&raft).into()),
            ("--profile", profile.into()),
        ]);
        // It is a trial on one machine, which all parts share.
        arguments.push("--accept-slow-disk".into());
        members.push(member(name, Role::Replica { api, raft }, "borealis-scheduler", arguments));
    }
    let agents = u64::from(settings.agents);
    if settings.simulated && agents > 0 {
        let name = "agents".to_owned();
        let arguments = words(&[
            ("--dir", dir.join(&name).into()),
            ("--name", SIMULATED.into()),
            ("--simulated", agents.to_string().into()),
            ("--schedulers", settings.api_addresses().join(",").into()),
            ("--http", local(0).into()),
            ("--ports", format!("{first_port}-{last_port}").into()),
        ]);
        members.push(member(name, Role::Agent, "borealis-agent", arguments));
        return Ok(members);
    }
    let ports = u64::from(last_port - first_port) + 1;
    if ports < agents {
        return Err(Error::new(
            Kind::InvalidParameter,
            format!("--task-ports has {ports} ports for {agents} agents"),
        )
        .hint("give each agent at least one"));
    }
    for index in 0..agents {
        let name = format!("agent-{}", index + 1);
        let from = u64::from(first_port) + ports * index / agents;
        let to = u64::from(first_port) + ports * (index + 1) / agents - 1;
        let cpu_milli = (machine.cpu_milli / agents).max(100);
        let arguments = words(&[
            ("--dir", dir.join(&name).into()),
            ("--name", (&name).into()),
            ("--schedulers", settings.api_addresses().join(",").into()),
            ("--http", local(0).into()),
            ("--attribute", format!("rack=r{}", index + 1).into()),
            ("--cpus", format!("{}.{:03}", cpu_milli / 1000, cpu_milli % 1000).into()),
            ("--ram-mib", (machine.ram_mib / agents).max(64).to_string().into()),
            ("--disk-mib", (machine.disk_mib / agents).max(64).to_string().into()),
            ("--ports", format!("{from}-{to}").into()),
        ]);
        members.push(member(name, Role::Agent, "borealis-agent", arguments));
    }
    Ok(members)
}

fn words(flags: &[(&str, OsString)]) -> Vec<OsString> {
    flags.iter().flat_map(|(flag, value)| [OsString::from(flag), value.clone()]).collect()
}

/// Reads `FIRST-LAST`.
pub(crate) fn port_range(text: &str) -> Result<(u16, u16), Error> {
    let range =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match range {
        Some((first, last)) if 0 < first && first <= last => Ok((first, last)),
        _ => Err(Error::new(Kind::InvalidParameter, format!("--task-ports {text:?} is no range of ports"))
            .hint("write FIRST-LAST, as in 31000-31999")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev(replicas: Option<u16>, agents: Option<u16>, base_port: Option<u16>) -> Dev {
        Dev {
            dir: "/d".into(),
            replicas,
            agents,
            simulated: false,
            profile: "lan".into(),
            base_port,
            task_ports: "31000-31999".into(),
            restart_after: std::time::Duration::from_secs(3),
            keep_tasks: false,
        }
    }

    #[test]
    fn a_used_directory_keeps_its_settings() {
        let new = Settings::choose(None, &dev(None, None, None), None).unwrap();
        assert_eq!(
            (new.cluster.as_str(), new.replicas, new.agents, new.base_port),
            ("devcluster", 3, 2, 8081)
        );
        let kept = Settings { replicas: 1, base_port: 9000, formed: true, ..new };
        let again = |dev: Dev, cluster| {
            Settings::choose(Some(kept.clone()), &dev, cluster).map_err(|e| e.exit_code())
        };
        assert_eq!(again(dev(None, None, None), None), Ok(kept.clone()));
        assert_eq!(again(dev(Some(1), Some(5), Some(9000)), Some("devcluster")).map(|s| s.agents), Ok(5));
        assert_eq!(again(dev(Some(3), None, None), None), Err(6));
        assert_eq!(again(dev(None, None, Some(8081)), None), Err(6));
        assert_eq!(again(dev(None, None, None), Some("west")), Err(6));
        assert_eq!(Settings::choose(None, &dev(None, None, None), Some("a/b")).unwrap_err().exit_code(), 6);
        assert_eq!(again(dev(None, Some(65), None), None), Err(6));
    }

    #[test]
    fn one_process_speaks_for_simulated_agents() {
        let simulated = |agents| Dev { simulated: true, ..dev(Some(1), agents, None) };
        let settings = Settings::choose(None, &simulated(Some(200)), None).unwrap();
        let machine = Machine { cpu_milli: 2_000, ram_mib: 3_000, disk_mib: 30_000 };
        let members = members(&settings, Path::new("/d"), "fast", (31_000, 31_009), machine).unwrap();
        let said: Vec<_> = members[1].arguments.iter().map(|word| word.to_string_lossy()).collect();
        expect_test::expect![[
            r#"--dir /d/agents --name agent --simulated 200 --schedulers 127.0.0.1:8081 --http 127.0.0.1:0 --ports 31000-31009"#
        ]]
        .assert_eq(&said.join(" "));
        assert_eq!((members.len(), settings.hosts_of("agents")[199].as_str()), (2, "agent-199"));
        // Taken up again: they stay simulated, and none of them can go.
        let again =
            |dev: &Dev| Settings::choose(Some(settings.clone()), dev, None).map_err(|e| e.exit_code());
        assert_eq!(again(&dev(None, None, None)), Ok(settings.clone()));
        assert_eq!(again(&simulated(Some(300))).map(|s| s.agents), Ok(300));
        assert_eq!(again(&simulated(Some(100))), Err(6));
        let real = Settings { simulated: false, agents: 2, ..settings.clone() };
        assert!(Settings::choose(Some(real), &simulated(None), None).is_err());
    }

    #[test]
    fn members_share_ports_and_machine() {
        let settings = Settings::choose(None, &dev(Some(2), Some(3), None), None).unwrap();
        let machine = Machine { cpu_milli: 2_000, ram_mib: 3_000, disk_mib: 30_000 };
        let members = members(&settings, Path::new("/d"), "fast", (31_000, 31_009), machine).unwrap();
        let lines: Vec<String> = members
            .iter()
            .map(|member| {
                let words: Vec<_> =
                    member.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
                format!("{} {}\n", member.program, words.join(" "))
            })
            .collect();
        expect_test::expect![[r#"
            borealis-scheduler --dir /d/scheduler-1 --cluster devcluster --api 127.0.0.1:8081 --raft 127.0.0.1:8091 --profile fast --accept-slow-disk
            borealis-scheduler --dir /d/scheduler-2 --cluster devcluster --api 127.0.0.1:8082 --raft 127.0.0.1:8092 --profile fast --accept-slow-disk
            borealis-agent --dir /d/agent-1 --name agent-1 --schedulers 127.0.0.1:8081,127.0.0.1:8082 --http 127.0.0.1:0 --attribute rack=r1 --cpus 0.666 --ram-mib 1000 --disk-mib 10000 --ports 31000-31002
            borealis-agent --dir /d/agent-2 --name agent-2 --schedulers 127.0.0.1:8081,127.0.0.1:8082 --http 127.0.0.1:0 --attribute rack=r2 --cpus 0.666 --ram-mib 1000 --disk-mib 10000 --ports 31003-31005
            borealis-agent --dir /d/agent-3 --name agent-3 --schedulers 127.0.0.1:8081,127.0.0.1:8082 --http 127.0.0.1:0 --attribute rack=r3 --cpus 0.666 --ram-mib 1000 --disk-mib 10000 --ports 31006-31009
        "#]]
        .assert_eq(&lines.concat());
        assert_eq!(members[0].log, Path::new("/d/scheduler-1.log"));
        for bad in ["", "1", "2-1", "0-5", "1-70000"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }
}
