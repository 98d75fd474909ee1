//! The command line: words in, answers and an exit code out. It knows the API and the job language, nothing else.
//!
//! The way of a command: `arguments` (what was typed) -> one file per verb (what to ask, what the answer means)
//! -> `connection` (which replica, how often, until when) -> `output` (the only one that prints). Errors are
//! values with an exit code (`error`). `dev` runs a local cluster; it uses the same verbs as everybody.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod addresses;
mod arguments;
mod cluster;
mod completion;
mod connection;
mod dev;
mod duration;
mod error;
mod host;
mod http;
mod instances;
mod job;
mod output;
mod quota;
mod request;
mod table;
mod task;

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use arguments::{Command, Common};
use connection::Connection;
use error::{Error, Kind};
use output::Output;
use proto::wire::change_member_request::Change;

/// Time a command has if it does not say otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time a command has that waits for tasks or for a cluster, if it does not say otherwise.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the command line `words`, the first of which is the program's name.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    // A command line that cannot be read may still have asked for JSON.
    let json = words.iter().any(|word| word == "--json");
    let output = Output::new(json);
    let done = match arguments::parse(words) {
        Ok(Ok(arguments)) => run(arguments, &output),
        Ok(Err(help)) => output.text(&help).map(|()| 0),
        Err(error) => Err(error),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// The exit code of a command that did what was asked: 0, but for those whose answer is a code.
fn run(arguments: arguments::Arguments, output: &Output) -> Result<u8, Error> {
    // One thread: `dev` starts its processes from it, and they die with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|why| Error::new(Kind::Unknown, format!("the program cannot start: {why}")))?;
    let (in_flight, exit) = (RefCell::new(None), Cell::new(0));
    let context = Context { common: &arguments.common, output, in_flight: &in_flight, exit: &exit };
    let done = runtime.block_on(async {
        // `dev` has its own way to end.
        if let Command::Dev(dev) = &arguments.command {
            return dev::run(&context, dev).await;
        }
        tokio::select! {
            done = dispatch(&context, &arguments.command) => done,
            _ = tokio::signal::ctrl_c() => Err(interrupted(in_flight.take())),
        }
    });
    // Nothing that still runs in the background is worth waiting for.
    runtime.shutdown_background();
    done.map(|()| exit.get())
}

fn interrupted(in_flight: Option<String>) -> Error {
    match in_flight {
        None => Error::new(Kind::Interrupted, "interrupted"),
        Some(id) => {
            Error::new(Kind::Interrupted, "interrupted before the cluster answered; it may have been done")
                .hint(format!("look what is there, or run the same command again with --request-id {id}"))
                .request(id)
        }
    }
}

async fn dispatch(context: &Context<'_>, command: &Command) -> Result<(), Error> {
    use arguments::{Cluster, Host, Job, Task};
    match command {
        Command::Job(Job::Create(create)) => job::create::run(context, create).await,
        Command::Job(Job::Status { key, stale }) => job::status::run(context, key, *stale).await,
        Command::Job(Job::List { which, stale }) => job::list::run(context, which.as_deref(), *stale).await,
        Command::Job(Job::Kill { key, kill }) => job::kill::run(context, key, kill).await,
        Command::Job(Job::Killall { key, kill }) => job::kill::run_all(context, key, kill).await,
        Command::Job(Job::Inspect { target, file, bind }) => {
            job::inspect::run(context, target, file.as_deref(), bind).await
        }
        Command::Job(Job::Restart { key, restart }) => job::restart::run(context, key, restart).await,
        Command::Job(Job::Add { key, count, again }) => {
            job::restart::run_add(context, key, *count, again).await
        }
        Command::Job(Job::Why { key }) => job::why::run(context, key).await,
        Command::Job(Job::Plan(plan)) => job::plan::run(context, plan).await,
        Command::Quota(quota) => quota::run(context, quota).await,
        Command::Task(Task::Logs(logs)) => task::logs::run(context, logs).await,
        Command::Host(Host::List) => host::list::run(context).await,
        Command::Host(Host::Drain { hosts, drain }) => {
            host::maintenance::run_drain(context, hosts, drain).await
        }
        Command::Host(Host::Activate { hosts, again }) => {
            host::maintenance::run_activate(context, hosts, again).await
        }
        Command::Host(Host::Status { hosts }) => host::maintenance::run_status(context, hosts).await,
        Command::Cluster(Cluster::Freeze { again }) => cluster::freeze::run(context, true, again).await,
        Command::Cluster(Cluster::Thaw { again }) => cluster::freeze::run(context, false, again).await,
        Command::Cluster(Cluster::Status) => cluster::status::run(context).await,
        Command::Cluster(Cluster::Init) => cluster::birth::run_init(context).await,
        Command::Cluster(Cluster::Join { via, learner }) => {
            cluster::birth::run_join(context, via, *learner).await
        }
        Command::Cluster(Cluster::Promote { node }) => {
            cluster::member::run_change(context, *node, Change::Promote).await
        }
        Command::Cluster(Cluster::Demote { node }) => {
            cluster::member::run_change(context, *node, Change::Demote).await
        }
        Command::Cluster(Cluster::Remove { node }) => {
            cluster::member::run_change(context, *node, Change::Remove).await
        }
        Command::Cluster(Cluster::Transfer { node }) => cluster::member::run_transfer(context, *node).await,
        Command::Cluster(Cluster::Snapshot) => cluster::backup::run_snapshot(context).await,
        Command::Cluster(Cluster::Backup { to }) => cluster::backup::run_backup(context, to).await,
        Command::Cluster(Cluster::SetClock { to, yes }) => cluster::clock::run(context, *to, *yes).await,
        Command::Cluster(Cluster::Resume { yes, again }) => {
            cluster::freeze::run_resume(context, *yes, again).await
        }
        Command::Cluster(Cluster::Inspect { dir }) => {
            let mut words = vec!["--dir".into(), dir.into()];
            words.extend(context.common.json.then(|| "--json".into()));
            cluster::offline::run(context, "inspect", words)
        }
        Command::Cluster(Cluster::Restore { from, place }) => {
            let words = [vec!["--from".into(), from.into()], place.words()].concat();
            cluster::offline::run(context, "restore", words)
        }
        Command::Cluster(Cluster::Recover { place, yes }) => {
            let words = [place.words(), yes.then(|| "--yes".into()).into_iter().collect()].concat();
            cluster::offline::run(context, "recover", words)
        }
        Command::Cluster(Cluster::SkipEntry { dir, index, checksum }) => {
            let mut words = vec!["--dir".into(), dir.into(), "--index".into(), index.to_string().into()];
            words.extend(checksum.iter().flat_map(|sum| ["--checksum".into(), sum.into()]));
            cluster::offline::run(context, "skip-entry", words)
        }
        Command::Cluster(Cluster::Fingerprint) => cluster::fingerprint::run(context).await,
        Command::Completion { shell } => completion::run(context, *shell),
        Command::Dev(dev) => dev::run(context, dev).await,
    }
}

/// What every command has at hand.
#[derive(Clone, Copy, Debug)]
struct Context<'a> {
    common: &'a Common,
    output: &'a Output,
    in_flight: &'a RefCell<Option<String>>,
    /// What a good end exits with.
    exit: &'a Cell<u8>,
}

impl<'a> Context<'a> {
    /// A connection to the cluster that `key_cluster`, `--cluster` or `--addr` names.
    fn connect(&self, key_cluster: Option<&str>, default: Duration) -> Result<Connection<'a>, Error> {
        let cluster = self.common.cluster.as_deref().or(key_cluster);
        let addresses = addresses::choose(&self.common.addr, cluster, addresses::clusters_file().as_deref())?;
        let connection = self.connect_to(addresses, self.common.timeout.unwrap_or(default));
        Ok(connection.of_cluster(self.common.cluster.as_deref()))
    }

    /// A connection to these replicas.
    fn connect_to(&self, addresses: Vec<String>, timeout: Duration) -> Connection<'a> {
        Connection::new(addresses, timeout, self.output, self.in_flight)
    }
}
