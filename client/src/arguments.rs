//! What can be typed: commands, arguments, flags, and the words of `--help`. Not here: what they mean.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cluster::clock::read_seconds;
use crate::cluster::member::read_node;
use crate::duration;
use crate::error::{Error, Kind};

/// Runs jobs on a Borealis cluster, and looks after the cluster.
#[derive(Parser, Clone, Debug)]
#[command(name = "borealis", version, max_term_width = 110, infer_subcommands = false, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Flags that every command takes.
    #[command(flatten)]
    pub(crate) common: Common,
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 ok, 3 invalid config, 4 failed, 5 invalid command, 6 invalid parameter, \
7 no leader or no network, 9 time is over (fate unknown), 10 refused by the cluster, 20 unknown, 30 authentication, \
130 interrupted.";

/// Flags that every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Replicas to ask, as HOST:PORT,HOST:PORT; default: the cluster's in ~/.config/borealis/clusters.json, else 127.0.0.1:8081-8083
    #[arg(
        long,
        global = true,
        env = "BOREALIS_ADDR",
        value_name = "A,B,C",
        value_delimiter = ',',
        help_heading = "Common"
    )]
    pub(crate) addr: Vec<String>,
    /// Which cluster, where no job key says so
    #[arg(long, global = true, value_name = "NAME", help_heading = "Common")]
    pub(crate) cluster: Option<String>,
    /// How long to try, as 30s or 2m; default 30s, with --wait and for `dev` 60s. A request under way gets up to 4s more to learn its fate
    #[arg(long, global = true, value_name = "TIME", value_parser = duration::parse, help_heading = "Common")]
    pub(crate) timeout: Option<Duration>,
    /// Answer as JSON
    #[arg(long, global = true, help_heading = "Common")]
    pub(crate) json: bool,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Jobs: create, look, kill
    #[command(subcommand)]
    Job(Job),
    /// What roles' production tasks may take
    #[command(subcommand)]
    Quota(Quota),
    /// Tasks: what they print
    #[command(subcommand)]
    Task(Task),
    /// The machines that run tasks
    #[command(subcommand)]
    Host(Host),
    /// The scheduler replicas
    #[command(subcommand)]
    Cluster(Cluster),
    /// Start a local cluster of real processes and keep it running until Ctrl-C
    Dev(Dev),
    /// Print the completion script of a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// `borealis job`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Job {
    /// Create a job that a file describes
    Create(JobCreate),
    /// Show a job's instances, and why they wait
    Status {
        /// CLUSTER/ROLE/ENV/NAME
        key: String,
        /// Take any replica's word, which may be a moment old
        #[arg(long)]
        stale: bool,
    },
    /// List jobs
    List {
        /// ROLE, ROLE/ENV, CLUSTER, CLUSTER/ROLE or CLUSTER/ROLE/ENV; default: all
        which: Option<String>,
        /// Take any replica's word, which may be a moment old
        #[arg(long)]
        stale: bool,
    },
    /// Kill some instances of a job, for good; `job restart` with their numbers starts them again
    Kill {
        /// CLUSTER/ROLE/ENV/NAME/INSTANCES, with instances like 0,2-4
        key: String,
        #[command(flatten)]
        kill: KillFlags,
    },
    /// Kill all instances of a job, which ends it
    Killall {
        /// CLUSTER/ROLE/ENV/NAME
        key: String,
        #[command(flatten)]
        kill: KillFlags,
    },
    /// Stop instances of a job and start them anew, all at once; those named that have ended are started
    Restart {
        /// CLUSTER/ROLE/ENV/NAME or CLUSTER/ROLE/ENV/NAME/INSTANCES, with instances like 0,2-4
        key: String,
        #[command(flatten)]
        restart: RestartFlags,
    },
    /// Add instances to a job
    Add {
        /// CLUSTER/ROLE/ENV/NAME/INSTANCE, of which the new ones are copies
        key: String,
        /// How many
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        #[command(flatten)]
        again: Again,
    },
    /// Say why instances of a job wait, and until when
    Why {
        /// CLUSTER/ROLE/ENV/NAME or CLUSTER/ROLE/ENV/NAME/INSTANCES
        key: String,
    },
    /// Say what creating a job would do; exits with 0: nothing, 1: a change, 2: it cannot be done now
    Plan(JobPlan),
    /// Print a job's config as JSON: a running job's by its key, or what a file describes
    Inspect {
        /// CLUSTER/ROLE/ENV/NAME, or a file
        target: String,
        /// The file, where the first argument chooses one of its jobs
        file: Option<PathBuf>,
        #[command(flatten)]
        bind: Bind,
    },
}

/// `borealis job create`.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobCreate {
    /// CLUSTER/ROLE/ENV/NAME
    pub(crate) key: String,
    /// The .aurora or .json file that describes it; `-` is standard input (as .aurora)
    pub(crate) file: PathBuf,
    /// Wait until every instance is RUNNING, or has ended
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub(crate) bind: Bind,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub(crate) again: Again,
}

/// `borealis job plan`.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobPlan {
    /// The .aurora or .json file that describes it; `-` is standard input (as .aurora)
    pub(crate) file: PathBuf,
    /// CLUSTER/ROLE/ENV/NAME, where the file describes several jobs
    pub(crate) key: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub(crate) bind: Bind,
}

/// Values for a file's open templates.
#[derive(Args, Clone, Debug)]
pub(crate) struct Bind {
    /// Value of a template that the file leaves open, as profile.port=8080; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) bind: Vec<String>,
}

/// For requests that change something.
#[derive(Args, Clone, Debug)]
pub(crate) struct Again {
    /// Repeat the request of this id: it is done at most once
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
}

/// Flags of `restart`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RestartFlags {
    /// Why, for the tasks' history
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(crate) message: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub(crate) again: Again,
}

/// `borealis quota`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Quota {
    /// Show a role's quota and what it takes, or those of all roles
    Get {
        /// The role; default: all
        role: Option<String>,
    },
    /// Set a role's quota: cores, memory and disk, all three
    Set {
        /// The role
        role: String,
        #[command(flatten)]
        amounts: Amounts,
    },
    /// Add to a role's quota; what is not named stays
    Increment {
        /// The role
        role: String,
        #[command(flatten)]
        amounts: Amounts,
    },
}

/// Amounts of everything.
#[derive(Args, Clone, Debug)]
pub(crate) struct Amounts {
    /// Cores, such as 12.5
    #[arg(long, value_name = "N", value_parser = cpu_milli)]
    pub(crate) cpus: Option<u64>,
    /// Memory, in MiB
    #[arg(long, value_name = "N")]
    pub(crate) ram_mib: Option<u64>,
    /// Disk, in MiB
    #[arg(long, value_name = "N")]
    pub(crate) disk_mib: Option<u64>,
    /// GPUs; default: none
    #[arg(long, value_name = "N")]
    pub(crate) gpus: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub(crate) again: Again,
}

fn cpu_milli(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(cores) if (0.0..=1e9).contains(&cores) => Ok((cores * 1000.0).ceil() as u64),
        _ => Err("cores are a number, such as 12 or 0.5".into()),
    }
}

/// Flags of `drain`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DrainFlags {
    /// Wait until nothing is left on them
    #[arg(long)]
    pub(crate) wait: bool,
    /// Why, for the tasks' history
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(crate) message: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub(crate) again: Again,
}

/// Flags of `kill` and `killall`.
#[derive(Args, Clone, Debug)]
pub(crate) struct KillFlags {
    /// Wait until they have ended
    #[arg(long)]
    pub(crate) wait: bool,
    /// Why, for the tasks' history
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(crate) message: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub(crate) again: Again,
}

/// `borealis task`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Task {
    /// Print what a task's process has printed
    Logs(TaskLogs),
}

/// `borealis task logs`.
#[derive(Args, Clone, Debug)]
pub(crate) struct TaskLogs {
    /// CLUSTER/ROLE/ENV/NAME/INSTANCE, or a task id like task-17-42
    pub(crate) task: String,
    /// Which process; default: the first of the task
    #[arg(long, short)]
    pub(crate) process: Option<String>,
    /// What it printed to stderr
    #[arg(long)]
    pub(crate) stderr: bool,
    /// Go on as it prints more, until the task has ended
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// `borealis host`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Host {
    /// List the hosts by name: what they have, what is free, and what they lend to revocable tasks
    List,
    /// Move all tasks of hosts away, and give them none
    Drain {
        /// Their names
        #[arg(required = true)]
        hosts: Vec<String>,
        #[command(flatten)]
        drain: DrainFlags,
    },
    /// Let hosts get tasks again
    Activate {
        /// Their names
        #[arg(required = true)]
        hosts: Vec<String>,
        #[command(flatten)]
        again: Again,
    },
    /// Show whether hosts are drained, and what is left on them
    Status {
        /// Their names
        #[arg(required = true)]
        hosts: Vec<String>,
    },
}

/// `borealis cluster`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Cluster {
    /// Show every replica as it sees itself
    Status,
    /// Make a new cluster of the one replica at --addr
    Init,
    /// Let the replica at --addr join the cluster that has a member at --via
    Join {
        /// API address of a member
        #[arg(long, value_name = "HOST:PORT")]
        via: String,
        /// It shall get everything and decide nothing, until it is promoted
        #[arg(long)]
        learner: bool,
    },
    /// Make a learner a voter, once it has caught up
    Promote {
        /// Such as node-3
        #[arg(value_parser = read_node)]
        node: u64,
    },
    /// Make a voter a learner
    Demote {
        /// Such as node-3
        #[arg(value_parser = read_node)]
        node: u64,
    },
    /// Remove a replica from the cluster for good; its node id and its directory are never used again
    Remove {
        /// Such as node-3
        #[arg(value_parser = read_node)]
        node: u64,
    },
    /// Hand leadership over
    Transfer {
        /// Who shall lead, such as node-3; default: whoever is closest behind
        #[arg(value_parser = read_node)]
        node: Option<u64>,
    },
    /// Let each replica at --addr store all it has and take a snapshot
    Snapshot,
    /// Write a backup of the first replica at --addr that can send one
    Backup {
        /// Directory to make, here
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Make a new cluster of a backup, on a machine on which no replica runs yet
    Restore {
        /// Directory of the backup
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        #[command(flatten)]
        place: Offline,
    },
    /// When a majority is lost for good: make a new cluster of what one replica has; without --yes only say what that is
    Recover {
        #[command(flatten)]
        place: Offline,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Let a cluster go on that is held after a restore, once its hosts have come back
    Resume {
        /// Do it though hosts are missing: their tasks are started elsewhere
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        again: Again,
    },
    /// Show what a data directory holds, on which no replica runs; nothing in it changes
    Inspect {
        /// The data directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Leave out an entry that no replica can apply; without --checksum only show what it says
    SkipEntry {
        /// Data directory of the replica, which does not run
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Which entry: the last number that the replica gave when it ended, 30 of T1-N1.30
        #[arg(long)]
        index: u64,
        /// The entry's checksum, as it was shown: it says that a person has looked, and at which entry
        #[arg(long)]
        checksum: Option<String>,
    },
    /// Stop all decisions: nothing is placed, replaced or expired; what runs goes on
    Freeze {
        #[command(flatten)]
        again: Again,
    },
    /// Let decisions go on; it also releases the brake that stops replacement when many hosts fall silent
    Thaw {
        #[command(flatten)]
        again: Again,
    },
    /// Compare the replicas' states at one point of the log
    Fingerprint,
    /// Set the cluster's own clock forward, when it is far behind; without --yes only say what that would be
    SetClock {
        /// Seconds since 1970; default: what the clock of this machine shows
        #[arg(value_name = "SECONDS", value_parser = read_seconds)]
        to: Option<u64>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// A data directory, and where its replica will be reached.
#[derive(Args, Clone, Debug)]
pub(crate) struct Offline {
    /// Data directory of the replica
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// HOST:PORT under which others will reach the replica's --api
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) api: String,
    /// HOST:PORT under which other replicas will reach its --raft
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) raft: String,
}

impl Offline {
    /// For the program that does it.
    pub(crate) fn words(&self) -> Vec<std::ffi::OsString> {
        let words: [&std::ffi::OsStr; 6] = [
            "--dir".as_ref(),
            self.dir.as_os_str(),
            "--api".as_ref(),
            self.api.as_ref(),
            "--raft".as_ref(),
            self.raft.as_ref(),
        ];
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

/// `borealis dev`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Dev {
    /// Directory of the local cluster; made if missing, taken up again if it is one
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Scheduler replicas; default 3, or as in the directory
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) replicas: Option<u16>,
    /// Agents, at most 64 or 5000 simulated ones; default 2, or as in the directory
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=5000))]
    pub(crate) agents: Option<u16>,
    /// One process speaks for all agents, and tasks only pretend to run: a large cluster to play with on a small machine
    #[arg(long)]
    pub(crate) simulated: bool,
    /// Timers of the replicas: fast, lan, wan or custom:HEARTBEAT,SHORTEST,LONGEST in milliseconds
    #[arg(long, default_value = "lan")]
    pub(crate) profile: String,
    /// API port of the first replica; the next ones follow, raft ports lie 10 higher; default 8081, or as in the directory
    #[arg(long, value_parser = clap::value_parser!(u16).range(1024..=65_500))]
    pub(crate) base_port: Option<u16>,
    /// Ports that tasks may get, FIRST-LAST, shared out among the agents
    #[arg(long, default_value = "31000-31999", value_name = "FIRST-LAST")]
    pub(crate) task_ports: String,
    /// How long a dead process stays dead
    #[arg(long, default_value = "3s", value_parser = duration::parse)]
    pub(crate) restart_after: Duration,
    /// Leave the tasks running when the cluster stops
    #[arg(long)]
    pub(crate) keep_tasks: bool,
}

/// Reads the command line. `Ok(Err(text))` is help or a version that was asked for.
pub(crate) fn parse(
    words: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<Result<Arguments, String>, Error> {
    use clap::error::ErrorKind;
    let why = match Arguments::try_parse_from(words) {
        Ok(arguments) => return Ok(Ok(arguments)),
        Err(why) => why,
    };
    let kind = match why.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return Ok(Err(why.to_string())),
        ErrorKind::InvalidSubcommand
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Kind::InvalidCommand,
        _ => Kind::InvalidParameter,
    };
    Err(Error::new(kind, why.to_string()).rendered())
}

/// The command's shape, for completion.
pub(crate) fn shape() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(line: &str) -> u8 {
        match parse(line.split_whitespace().map(Into::into)) {
            Ok(_) => 0,
            Err(error) => error.exit_code(),
        }
    }

    #[test]
    fn the_shape_is_sound() {
        shape().debug_assert();
    }

    #[test]
    fn command_lines_have_exit_codes() {
        for (line, want) in [
            ("borealis job create a/b/c/d x.aurora --wait --timeout 60s --request-id x", 0),
            ("borealis job kill a/b/c/d/0,2-4 --addr a:1,b:2 --json", 0),
            ("borealis --json cluster join --addr a:1 --via b:2", 0),
            ("borealis task logs task-1-2 --process p --stderr --follow", 0),
            ("borealis dev --dir d --replicas 3 --agents 2 --profile lan --cluster west", 0),
            ("borealis cluster set-clock 1800000000 --yes --json", 0),
            ("borealis cluster set-clock tomorrow", 6),
            ("borealis dev --dir d --agents 20 --simulated", 0),
            ("borealis --help", 0),
            ("borealis --version", 0),
            ("borealis", 5),
            ("borealis job", 5),
            ("borealis jbo list", 5),
            ("borealis job creat", 5),
            ("borealis job create", 6),
            ("borealis job list --nope", 6),
            ("borealis job list --timeout soon", 6),
            ("borealis dev --dir d --replicas 0", 6),
            ("borealis dev", 6),
            ("borealis completion tcsh", 6),
        ] {
            assert_eq!(exit(line), want, "{line}");
        }
    }
}
