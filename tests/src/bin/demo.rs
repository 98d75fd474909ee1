//! The story of the product, told by its own programs: `make demo`.
//!
//! `borealis dev` runs three replicas and two agents; two real jobs run; the leader, an agent and then all replicas
//! are killed with SIGKILL; and every process of every task is the same one afterwards, by pid, start time and boot
//! id. One line per step, with the seconds since the start. The exit code is 0 only if every step held.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use tests::client::{self, Client};
use tests::cluster::{free_range, tail};
use tests::processes::{self, Identity};
use tests::programs::{CLIENT, Programs, source_dir};
use tests::{journal, wait};

const CLUSTER: &str = "devcluster";
/// Longest that any step may take; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(90);

/// `cluster.json`, as `borealis dev` keeps it.
#[derive(Deserialize)]
struct Running {
    replicas: Vec<Replica>,
    agents: Vec<Agent>,
}

#[derive(Deserialize)]
struct Replica {
    name: String,
    pid: i32,
    api: String,
}

#[derive(Deserialize)]
struct Agent {
    name: String,
    pid: i32,
    dir: PathBuf,
}

type Living = BTreeMap<(u64, String), Identity>;

struct Demo {
    begun: Instant,
    programs: Programs,
    temp: tempfile::TempDir,
    dev: Option<Child>,
}

fn main() -> ExitCode {
    let mut demo = match Demo::start() {
        Ok(demo) => demo,
        Err(why) => {
            eprintln!("demo: {why:#}");
            return ExitCode::FAILURE;
        }
    };
    let told = demo.tell();
    if let Err(why) = &told {
        demo.say("FAILED", &format!("{why:#}"));
        eprintln!("--- the end of what `borealis dev` said:\n{}", tail(&demo.log()));
    }
    let ended = demo.end();
    if let Err(why) = &ended {
        demo.say("FAILED", &format!("{why:#}"));
    }
    if told.is_ok() && ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Demo {
    fn start() -> Result<Demo> {
        let programs = Programs::find()?;
        let temp = tempfile::Builder::new().prefix("borealis-demo-").tempdir()?;
        // Tasks run as their role's user, who must be able to reach the sandbox.
        fs::set_permissions(temp.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Demo { begun: Instant::now(), programs, temp, dev: None })
    }

    fn say(&self, word: &str, what: &str) {
        println!("[{:6.1} s] {word:<6} {what}", self.begun.elapsed().as_secs_f64());
    }

    fn ok(&self, what: &str) {
        self.say("ok", what);
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("cluster")
    }

    fn log(&self) -> PathBuf {
        self.temp.path().join("dev.log")
    }

    fn running(&self) -> Result<Running> {
        let path = self.dir().join("cluster.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} reads {text}", path.display()))
    }

    fn client(&self) -> Result<Client> {
        let addresses: Vec<String> =
            self.running()?.replicas.into_iter().map(|replica| replica.api).collect();
        Ok(Client::new(&self.programs, &addresses))
    }

    fn borealis(&self, arguments: &[&str]) -> Result<String> {
        let ended = self.client()?.run(arguments, PATIENCE)?;
        ended.ok().with_context(|| format!("borealis {}", arguments.join(" ")))
    }

    fn borealis_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.borealis(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("borealis {} --json said {text:?}", arguments.join(" ")))
    }

    fn wait<T>(&self, what: &str, condition: impl FnMut() -> Result<T>) -> Result<T> {
        wait::until_blocking(what, PATIENCE, condition)
    }

    fn tell(&mut self) -> Result<()> {
        self.start_cluster()?;
        let (hello, steps) = (key("hello_world"), key("two_steps"));
        self.create(&hello, &example("hello_world.aurora"))?;
        let tasks = self.wait("four RUNNING tasks", || self.running_tasks(&hello, 4))?;
        self.ok(&format!("hello_world: 4 instances RUNNING, {}", words(&tasks)));
        self.create(&steps, &example("two_steps.aurora"))?;
        self.two_steps(&steps)?;
        let logs = self.wait("hello_world to print", || {
            let said = self.borealis(&["task", "logs", &format!("{hello}/0")])?;
            ensure!(!said.trim().is_empty(), "nothing yet");
            Ok(said)
        })?;
        self.ok(&format!("task logs of hello_world/0: {:?}", logs.lines().next().unwrap_or_default()));

        let before = self.living()?;
        let jobs = [(hello.as_str(), 4), (steps.as_str(), 1)];
        let known = self.task_ids(&jobs)?;
        ensure!(before.len() >= 10, "five tasks with an executor and a process each, not {before:?}");
        self.kill_the_leader(&before)?;
        self.same_tasks(&jobs, &known, &before)?;
        self.kill_an_agent(&before)?;
        self.same_tasks(&jobs, &known, &before)?;
        self.kill_all_replicas(&before)?;
        self.same_tasks(&jobs, &known, &before)?;
        self.two_steps(&steps)?;

        self.borealis(&["job", "killall", &hello])?;
        self.wait("hello_world to end", || {
            let hello = self.task_ids_of(&hello)?;
            let left = self.living()?.keys().filter(|(id, _)| hello.contains(&id.to_string())).count();
            ensure!(hello.is_empty() && left == 0, "{} tasks", hello.len());
            Ok(())
        })?;
        self.ok("hello_world killed by its owner");
        Ok(())
    }

    fn start_cluster(&mut self) -> Result<()> {
        let log = File::create(self.log())?;
        let port = free_range(100)?;
        let task_ports = format!("{}-{}", port + 40, port + 99);
        let child = Command::new(self.programs.path(CLIENT))
            .args([
                "dev",
                "--json",
                "--replicas",
                "3",
                "--agents",
                "2",
                "--profile",
                "fast",
                "--restart-after",
                "3s",
            ])
            .args(["--base-port", &port.to_string(), "--task-ports", &task_ports, "--dir"])
            .arg(self.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start `borealis dev`")?;
        self.dev = Some(child);
        let leader = self.wait("a cluster with a leader", || {
            self.dev_lives()?;
            ensure!(self.said("ready"), "`borealis dev` is still at work");
            let leader = self.leader()?;
            let heard = self.hosts()?;
            ensure!(heard == 2, "{heard} of 2 agents are heard");
            Ok(leader)
        });
        let leader = leader?;
        self.ok(&format!("borealis dev: 3 replicas, 2 agents; {} (pid {}) leads", leader.name, leader.pid));
        Ok(())
    }

    /// Whether `borealis dev` has told of such an event.
    fn said(&self, event: &str) -> bool {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let mut told = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        told.any(|line| line["event"] == event)
    }

    fn dev_lives(&self) -> Result<()> {
        let pid = self.dev.as_ref().map_or(0, |child| child.id() as i32);
        ensure!(Identity::of(pid).is_ok_and(|dev| dev.alive()), "`borealis dev` has ended");
        Ok(())
    }

    fn leader(&self) -> Result<Replica> {
        let status = self.borealis_json(&["cluster", "status"])?;
        let id = status["leader"].as_u64().with_context(|| format!("no leader in {status}"))?;
        let own =
            status["replicas"].as_array().into_iter().flatten().find(|replica| replica["node_id"] == id);
        let own = own.with_context(|| format!("the leader, node {id}, does not answer"))?;
        ensure!(own["leader"] == id, "node {id} does not call itself the leader");
        let api = own["address"].as_str().unwrap_or_default().to_owned();
        let replica = self.running()?.replicas.into_iter().find(|replica| replica.api == api);
        replica.with_context(|| format!("cluster.json has no replica at {api}"))
    }

    fn answering(&self) -> Result<usize> {
        let status = self.borealis_json(&["cluster", "status"])?;
        Ok(status["replicas"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|replica| replica["problem"].is_null())
            .count())
    }

    fn hosts(&self) -> Result<usize> {
        let hosts = self.borealis_json(&["host", "list"])?;
        let hosts = hosts["hosts"].as_array().or(hosts.as_array()).cloned().unwrap_or_default();
        Ok(hosts.iter().filter(|host| host["silent"] == false).count())
    }

    fn create(&self, key: &str, file: &Path) -> Result<()> {
        self.borealis(&["job", "create", key, &file.display().to_string(), "--wait"]).map(|_| ())
    }

    /// The tasks of a job, all of which must run.
    fn running_tasks(&self, key: &str, instances: usize) -> Result<Vec<Value>> {
        let status = self.borealis_json(&["job", "status", key])?;
        let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
        let running = tasks.iter().filter(|task| task["status"] == "RUNNING").count();
        ensure!(tasks.len() == instances && running == instances, "{key}: {tasks:?}");
        Ok(tasks)
    }

    fn task_ids_of(&self, key: &str) -> Result<BTreeSet<String>> {
        let ended = self.client()?.run(&["job", "status", key, "--json"], PATIENCE)?;
        if matches!(ended.code, Some(4 | 10)) {
            return Ok(BTreeSet::new()); // the job is gone
        }
        let status: Value = serde_json::from_str(&ended.ok()?)?;
        let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
        Ok(tasks.iter().map(|task| task["task_id"].as_str().unwrap_or_default().to_owned()).collect())
    }

    fn task_ids(&self, jobs: &[(&str, usize)]) -> Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        for (key, instances) in jobs {
            let tasks = self.running_tasks(key, *instances)?;
            ids.extend(tasks.iter().map(|task| task["task_id"].as_str().unwrap_or_default().to_owned()));
        }
        Ok(ids)
    }

    /// The second process serves what the first one wrote.
    fn two_steps(&self, key: &str) -> Result<()> {
        let (port, said) = self.wait("two_steps to serve its file", || {
            let tasks = self.running_tasks(key, 1)?;
            let port =
                tasks[0]["ports"]["http"].as_u64().with_context(|| format!("no port `http`: {tasks:?}"))?;
            let said = get(&format!("127.0.0.1:{port}"), "/")?;
            ensure!(said.contains("Hello from www-data"), "it serves {said:?}");
            Ok((port, said))
        })?;
        let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        self.ok(&format!("two_steps: GET 127.0.0.1:{port}/ answers {first:?}"));
        Ok(())
    }

    /// Every living process of every task on every agent.
    fn living(&self) -> Result<Living> {
        let mut living = BTreeMap::new();
        for agent in self.running()?.agents {
            for task in journal::tasks(&agent.dir)? {
                let id = task.task_id;
                living.extend(task.living().into_iter().map(|(name, identity)| ((id, name), identity)));
            }
        }
        Ok(living)
    }

    fn untouched(&self, before: &Living, when: &str) -> Result<()> {
        let now = self.living()?;
        for (name, identity) in before {
            ensure!(
                now.get(name) == Some(identity),
                "{when}: {name:?} was {identity:?} and is {:?}",
                now.get(name)
            );
        }
        self.ok(&format!("{when}: all {} processes have the same pid, start time and boot id", before.len()));
        Ok(())
    }

    fn same_tasks(&self, jobs: &[(&str, usize)], known: &BTreeSet<String>, before: &Living) -> Result<()> {
        let now = self.wait("the same tasks to be RUNNING", || {
            let now = self.task_ids(jobs)?;
            ensure!(now == *known, "the tasks are {now:?}, and were {known:?}");
            Ok(now)
        })?;
        self.untouched(before, &format!("the same {} tasks are RUNNING", now.len()))
    }

    /// Runs a new job to RUNNING, on one host if one is named.
    fn new_work(&self, name: &str, host: Option<&str>) -> Result<()> {
        let file = self.temp.path().join(format!("{name}.aurora"));
        let constraint = host.map(|host| format!(", constraints = {{'host': '{host}'}}")).unwrap_or_default();
        let text = format!(
            "sleep = Process(name = 'sleep', cmdline = 'exec sleep 100000')\n\
             task = SequentialTask(processes = [sleep], resources = Resources(cpu = 0.01, ram = 8*MB, disk = 8*MB))\n\
             jobs = [Service(cluster = '{CLUSTER}', role = 'www-data', environment = 'prod', name = '{name}', \
             instances = 1, task = task{constraint})]\n"
        );
        fs::write(&file, text)?;
        self.create(&key(name), &file)
    }

    fn kill_the_leader(&self, before: &Living) -> Result<()> {
        let old = self.wait("a leader to kill", || self.leader())?;
        processes::signal(old.pid, libc::SIGKILL)?;
        let killed = Instant::now();
        self.say("kill", &format!("kill -9 of the leader, {} (pid {})", old.name, old.pid));
        self.new_work("at_the_kill", None)?;
        let took = killed.elapsed();
        self.ok(&format!("a job submitted at that moment was RUNNING {:.1} s later", took.as_secs_f64()));
        let new = self.wait("a new leader", || {
            let new = self.leader()?;
            ensure!(new.pid != old.pid, "{} leads still", new.name);
            Ok(new)
        })?;
        self.ok(&format!("{} (pid {}) leads now", new.name, new.pid));
        self.untouched(before, "without the old leader")?;
        self.wait("the killed replica to be back", || {
            let replicas = self.running()?.replicas;
            let back = replicas.iter().any(|replica| replica.name == old.name && replica.pid != old.pid);
            ensure!(back, "`borealis dev` has not restarted it");
            let answering = self.answering()?;
            ensure!(answering == 3, "{answering} of 3 replicas answer");
            Ok(())
        })?;
        self.ok(&format!("{} is back and follows", old.name));
        Ok(())
    }

    fn kill_an_agent(&self, before: &Living) -> Result<()> {
        let agents = self.running()?.agents;
        let busy = |agent: &Agent| {
            journal::tasks(&agent.dir)
                .map(|tasks| tasks.iter().filter(|task| !task.living().is_empty()).count())
        };
        let mut counts = Vec::new();
        for agent in &agents {
            counts.push((busy(agent)?, agent));
        }
        let (tasks, agent) = counts.into_iter().max_by_key(|(tasks, _)| *tasks).context("no agents")?;
        ensure!(tasks > 0, "no agent runs anything");
        processes::signal(agent.pid, libc::SIGKILL)?;
        self.say("kill", &format!("kill -9 of {} (pid {}), which runs {tasks} tasks", agent.name, agent.pid));
        self.untouched(before, "without their agent")?;
        self.wait("the agent to be restarted", || {
            let back =
                self.running()?.agents.iter().any(|now| now.name == agent.name && now.pid != agent.pid);
            ensure!(back, "`borealis dev` has not restarted it");
            Ok(())
        })?;
        self.new_work("after_the_agent", Some(&agent.name))?;
        self.ok(&format!("{} is back, and starts a new job", agent.name));
        Ok(())
    }

    fn kill_all_replicas(&self, before: &Living) -> Result<()> {
        let old = self.running()?.replicas;
        for replica in &old {
            processes::signal(replica.pid, libc::SIGKILL)?;
        }
        self.say("kill", &format!("kill -9 of all {} replicas at once", old.len()));
        self.untouched(before, "without any replica")?;
        let leader = self.wait("the replicas to be back", || {
            let leader = self.leader()?;
            let answering = self.answering()?;
            ensure!(answering == 3, "{answering} of 3 replicas answer");
            ensure!(!old.iter().any(|replica| replica.pid == leader.pid), "a dead one leads");
            Ok(leader)
        })?;
        self.ok(&format!("they restarted from their disks; {} (pid {}) leads", leader.name, leader.pid));
        self.new_work("after_all", None)?;
        self.ok("a new job is RUNNING");
        Ok(())
    }

    /// Stops the cluster as Ctrl-C would, and looks for what it left behind.
    fn end(&mut self) -> Result<()> {
        let mut clean = Ok(());
        if let Some(mut dev) = self.dev.take() {
            let _ = processes::signal(dev.id() as i32, libc::SIGINT);
            clean = wait::until_blocking("`borealis dev` to stop", PATIENCE, || {
                ensure!(dev.try_wait()?.is_some(), "it runs still");
                Ok(())
            });
            if clean.is_err() {
                dev.kill()?;
                dev.wait()?;
            }
        }
        let left = processes::of_directory(self.temp.path());
        let names: Vec<_> =
            left.iter().map(|found| format!("{} {}", found.identity.pid, found.command)).collect();
        processes::sweep(self.temp.path(), PATIENCE)?;
        clean?;
        if !names.is_empty() {
            bail!("`borealis dev` left {} processes behind (now killed): {names:?}", names.len());
        }
        self.ok("everything is stopped; no process is left");
        Ok(())
    }
}

fn key(name: &str) -> String {
    format!("{CLUSTER}/www-data/prod/{name}")
}

fn example(name: &str) -> PathBuf {
    source_dir().join("examples").join(name)
}

fn words(tasks: &[Value]) -> String {
    let hosts: BTreeSet<&str> = tasks.iter().filter_map(|task| task["host"].as_str()).collect();
    format!("on {}", hosts.into_iter().collect::<Vec<_>>().join(" and "))
}

/// `GET path` with curl, as a person would; the body of a 200.
fn get(address: &str, path: &str) -> Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "5", &format!("http://{address}{path}")]);
    client::run(&mut curl, Duration::from_secs(10))?.ok()
}
