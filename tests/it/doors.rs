//! What comes in from people and networks: repeated requests, wrong ones, noise, wrong directories, wrong files.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use proto::wire;
use rand::Rng as _;
use tests::api::{Answer, request};
use tests::client::{self, Ended};
use tests::cluster::{Cluster, PATIENCE, Setup, free_ports};
use tests::programs::{AGENT, SCHEDULER};
use tests::{jobs, wait};
use tonic::Code;

/// Longest that a command of a person may take to say no.
const ANSWER: Duration = Duration::from_secs(60);

/// Asks until the answer is not merely that there is no leader at the moment; it must be a refusal.
async fn refusal<T>(mut ask: impl AsyncFnMut() -> Answer<T>) -> Result<(Code, String)> {
    wait::until("a refusal", PATIENCE, async || match ask().await {
        Answer::Done(_) => Ok(Err(anyhow::anyhow!("done, where a refusal was expected"))),
        Answer::Refused(Code::Unavailable, why) | Answer::Unknown(why) => bail!("{why}"),
        Answer::Refused(code, why) => Ok(Ok((code, why))),
    })
    .await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_id_is_one_job_however_often_it_arrives() -> Result<()> {
    let mut cluster = Cluster::start(Setup { agents: 1, ..Setup::default() }).await?;
    let key = cluster.key("once");
    let (ask, spec) = (request("test"), jobs::sleeper(&key, 2));
    let mut calls = Vec::new();
    for n in 0..12 {
        let (api, ask, spec) = (cluster.api(n % 3).clone(), ask.clone(), spec.clone());
        calls.push(tokio::spawn(async move { api.create_job(&ask, &spec).await }));
    }
    for call in calls {
        match call.await? {
            // An election: nothing was done, or nobody knows.
            Answer::Refused(Code::Unavailable, _) | Answer::Unknown(_) => {}
            answer => drop(answer.done().context("a repeated request gets the first one's answer")?),
        }
    }
    let again = wait::until("the answer once more", PATIENCE, async || {
        cluster.api(0).create_job(&ask, &spec).await.done()
    })
    .await?;
    ensure!(again.tasks == 2, "a later repetition says {} tasks", again.tasks);
    let job = cluster.all_running(&key, 2).await?;
    ensure!(job.ended.is_empty(), "more than two tasks came of it: {:?}", job.ended);

    let (code, why) =
        refusal(async || cluster.api(1).create_job(&ask, &jobs::sleeper(&key, 3)).await).await?;
    ensure!(why.contains("request"), "the id came with another body: {code:?} {why}");
    let (code, why) =
        refusal(async || cluster.api(1).create_job(&request("test"), &jobs::job(&key, 2, "true")).await)
            .await?;
    ensure!(code == Code::AlreadyExists && why.contains(&key.name), "{code:?} {why}");
    let unknown = cluster.key("unknown");
    for (code, why) in [
        refusal(async || cluster.api(2).get_job(&unknown).await).await?,
        refusal(async || cluster.api(2).kill_tasks(&request("test"), &unknown, &[]).await).await?,
    ] {
        ensure!(code == Code::NotFound && why.contains(&unknown.name), "{code:?} {why}");
    }
    let mut nothing = jobs::sleeper(&cluster.key("nothing"), 1);
    nothing.config = None;
    let (code, why) = refusal(async || cluster.api(0).create_job(&request("test"), &nothing).await).await?;
    ensure!(code == Code::InvalidArgument, "{code:?} {why}");

    let left = wait::until("the list of jobs", PATIENCE, async || cluster.api(0).list_jobs().await.done())
        .await?
        .jobs;
    ensure!(left.len() == 1, "refused requests left something behind: {left:?}");
    ensure!(cluster.all_running(&key, 2).await?.tasks.len() == 2);
    cluster.must_live()?;
    cluster.stop()
}

/// Makes a good job absurd.
type Spoil = fn(&mut wire::JobSpec);

fn config(spec: &mut wire::JobSpec) -> &mut wire::TaskConfig {
    spec.config.as_mut().expect("a config")
}

fn task(spec: &mut wire::JobSpec) -> &mut wire::TaskSpec {
    config(spec).task.as_mut().expect("a task")
}

fn resources(spec: &mut wire::JobSpec) -> &mut wire::Resources {
    task(spec).resources.as_mut().expect("resources")
}

/// What is absurd, and a word that the refusal must have.
const ABSURD: &[(&str, Spoil, &str)] = &[
    ("no instances", |spec| spec.instances = 0, "instances"),
    ("a thousand million instances", |spec| spec.instances = 1_000_000_000, "instances"),
    ("all instances that a number can name", |spec| spec.instances = u32::MAX, "instances"),
    ("no cpu", |spec| resources(spec).cpu_milli = 0, "cpu"),
    ("all cpu that a number can name", |spec| resources(spec).cpu_milli = u64::MAX, "cpu"),
    ("all ram that a number can name", |spec| resources(spec).ram_mib = u64::MAX, "ram"),
    ("all disk that a number can name", |spec| resources(spec).disk_mib = u64::MAX, "disk"),
    ("all gpus that a number can name", |spec| resources(spec).gpus = u32::MAX, "gpu"),
    ("a million ports", |spec| task(spec).ports = (0..1_000_000).map(|n| format!("p{n}")).collect(), ""),
    ("a thousand ports", |spec| task(spec).ports = (0..1_000).map(|n| format!("p{n}")).collect(), "ports"),
    ("an empty role", |spec| config(spec).job.as_mut().expect("a key").role.clear(), "role"),
    ("an empty name", |spec| config(spec).job.as_mut().expect("a key").name.clear(), "name"),
    ("no key", |spec| config(spec).job = None, "job"),
    ("another cluster", |spec| config(spec).job.as_mut().expect("a key").cluster = "east".into(), "east"),
    ("no processes", |spec| task(spec).processes.clear(), "process"),
    ("a tier that is none", |spec| config(spec).tier = "golden".into(), "tier"),
    ("no tries", |spec| config(spec).max_task_failures = i32::MIN, "max_task_failures"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_requests_are_refused_with_a_reason() -> Result<()> {
    let mut cluster = Cluster::start(Setup { agents: 1, ..Setup::default() }).await?;
    let key = cluster.key("absurd");
    for (what, spoil, word) in ABSURD {
        let mut spec = jobs::sleeper(&key, 1);
        spoil(&mut spec);
        let create = refusal(async || cluster.api(0).create_job(&request("test"), &spec).await).await;
        let plan = refusal(async || cluster.api(1).plan_job(&spec).await).await;
        for (code, why) in [create.context(*what)?, plan.context(*what)?] {
            ensure!(
                matches!(code, Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted),
                "{what}: {code:?} {why}"
            );
            ensure!(!why.is_empty() && why.contains(word), "{what}: not a word of {word:?}: {why}");
        }
    }
    // What is absurd only in what is asked of a job that lives.
    cluster.create(&jobs::sleeper(&key, 1)).await?;
    let million: Vec<u32> = (0..900_000).collect();
    let most = |cpu_milli| wire::Resources { cpu_milli, ..wire::Resources::default() };
    let all = wire::Resources { cpu_milli: u64::MAX, ram_mib: u64::MAX, disk_mib: u64::MAX, gpus: u32::MAX };
    let (api, test) = (cluster.api(2), || request("test"));
    for (what, (code, why), word) in [
        (
            "a kill of a million",
            refusal(async || api.kill_tasks(&test(), &key, &million).await).await?,
            "10000",
        ),
        ("a million questions", refusal(async || api.why_pending(&key, &million).await).await?, "10000"),
        ("none more", refusal(async || api.add_instances(&test(), &key, 0).await).await?, "1 to"),
        ("all more", refusal(async || api.add_instances(&test(), &key, u32::MAX).await).await?, "1 to"),
        ("a quota of all", refusal(async || api.set_quota(&test(), "www", all).await).await?, "quota"),
        ("quota of nobody", refusal(async || api.set_quota(&test(), "", most(1)).await).await?, "role"),
    ] {
        ensure!(matches!(code, Code::InvalidArgument | Code::ResourceExhausted), "{what}: {code:?} {why}");
        ensure!(why.contains(word), "{what}: not a word of {word:?}: {why}");
    }
    let job = cluster.all_running(&key, 1).await?;
    ensure!(job.counts.len() == 1 && job.over == 0, "{:?}, {} over", job.counts, job.over);
    let left = wait::until("the list of jobs", PATIENCE, async || cluster.api(0).list_jobs().await.done());
    ensure!(left.await?.jobs.len() == 1, "something absurd was created");
    cluster.must_live()?;
    cluster.stop()
}

/// Sends bytes that are no request, from polite to rude, and does not wait for an answer.
fn noise(address: &str) -> Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut rng = rand::rng();
    for n in 0..60 {
        let mut bytes = Vec::new();
        match n % 4 {
            0 => bytes.extend_from_slice(PREFACE),
            // A frame that claims to be large.
            1 => bytes.extend_from_slice(&[PREFACE, b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"].concat()),
            2 => bytes.extend_from_slice(
                b"POST /borealis.rpc.Borealis/CreateJob HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
            ),
            _ => {}
        }
        let length = rng.random_range(0..20_000);
        bytes.extend((0..length).map(|_| rng.random::<u8>()));
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        // The other end may hang up in the midst of it, as it should.
        let _ = stream.write_all(&bytes);
        let _ = stream.read(&mut [0; 512]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_any_port_kills_nobody() -> Result<()> {
    let mut cluster = Cluster::start(Setup { agents: 1, ..Setup::default() }).await?;
    let key = cluster.key("before");
    cluster.create(&jobs::sleeper(&key, 1)).await?;
    cluster.all_running(&key, 1).await?;
    let living = cluster.living()?;
    let mut addresses = vec![agent_address(&cluster)?];
    addresses.extend(cluster.replicas.iter().flat_map(|replica| [replica.api.clone(), replica.raft.clone()]));
    for address in addresses {
        tokio::task::spawn_blocking(move || noise(&address)).await??;
        cluster.must_live()?;
    }
    cluster.leader().await?;
    let after = cluster.key("after");
    cluster.create(&jobs::sleeper(&after, 1)).await?;
    cluster.all_running(&after, 1).await?;
    ensure!(living.values().all(|identity| identity.alive()), "a task died of noise");
    cluster.must_live()?;
    cluster.stop()
}

fn agent_address(cluster: &Cluster) -> Result<String> {
    wait::until_blocking("the agent's address", PATIENCE, || {
        let text = std::fs::read_to_string(cluster.agents[0].dir.join("address"))?;
        ensure!(!text.trim().is_empty(), "the file is empty");
        Ok(text.trim().to_owned())
    })
}

fn complains(what: &str, ended: Ended, word: &str) -> Result<()> {
    let said = format!("{}{}", ended.stdout, ended.stderr);
    ensure!(matches!(ended.code, Some(code) if code != 0), "{what}: exit code {:?}: {said}", ended.code);
    ensure!(!said.contains("panicked at"), "{what}: a panic: {said}");
    ensure!(said.contains(word), "{what}: not a word of {word:?}: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_or_agent_that_cannot_start_says_why() -> Result<()> {
    let mut cluster = Cluster::start(Setup { agents: 1, ..Setup::default() }).await?;
    let leader = cluster.leader().await?;
    let follower = (leader + 1) % 3;
    let scheduler = |dir: &std::path::Path, name: &str, api: &str, raft: &str| {
        let mut command = Command::new(cluster.programs.path(SCHEDULER));
        command.arg("--dir").arg(dir).args([
            "--cluster",
            name,
            "--api",
            api,
            "--raft",
            raft,
            "--profile",
            "fast",
            "--accept-slow-disk",
        ]);
        command
    };
    let ports = free_ports(2)?;
    let (api, raft) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
    let fresh = cluster.dir().join("fresh");
    let held = &cluster.replicas[leader];
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();

    let ended = client::run(&mut scheduler(&fresh, "test", &held.api, &raft), ANSWER)?;
    complains("the API port is taken", ended, &port(&held.api))?;
    let ended = client::run(&mut scheduler(&held.dir, "test", &api, &raft), ANSWER)?;
    complains("the directory is in use", ended, &held.dir.display().to_string())?;
    let ended = client::run(&mut scheduler(&fresh, "test", "nonsense", &raft), ANSWER)?;
    complains("an address that is none", ended, "nonsense")?;
    let mut agent = Command::new(cluster.programs.path(AGENT));
    agent.arg("--dir").arg(&cluster.agents[0].dir).args(["--name", "host-9", "--schedulers", &held.api]);
    agent.args(["--http", "127.0.0.1:0", "--ports", "19500-19510"]);
    let ended = client::run(&mut agent, ANSWER)?;
    complains("the agent's directory is in use", ended, &cluster.agents[0].dir.display().to_string())?;

    let (dir, api, raft) = {
        let replica = &mut cluster.replicas[follower];
        replica.kill()?;
        (replica.dir.clone(), replica.api.clone(), replica.raft.clone())
    };
    let mut other = Command::new(cluster.programs.path(SCHEDULER));
    other.arg("--dir").arg(&dir).args([
        "--cluster",
        "other",
        "--api",
        &api,
        "--raft",
        &raft,
        "--profile",
        "fast",
        "--accept-slow-disk",
    ]);
    complains("the directory of another cluster", client::run(&mut other, ANSWER)?, "other")?;

    // It was not harmed by that, and serves its own cluster again.
    cluster.replicas[follower].start()?;
    cluster.serves(follower).await?;
    let key = cluster.key("after");
    cluster.create(&jobs::sleeper(&key, 1)).await?;
    cluster.all_running(&key, 1).await?;
    let (code, why) = refusal(async || cluster.api(follower).init().await).await?;
    ensure!(code == Code::AlreadyExists, "a member let itself be made a new cluster: {code:?} {why}");
    let (code, why) =
        refusal(async || cluster.api(follower).join(&cluster.replicas[leader].api).await).await?;
    ensure!(code == Code::AlreadyExists, "a member joined again: {code:?} {why}");
    cluster.must_live()?;
    cluster.stop()
}

/// Each file is wrong in one way: what is in it, what must be said, and the line that must be named.
const WRONG_FILES: &[(&str, &str, &str, usize)] = &[
    ("syntax.aurora", "x = 1\njobs = [Service(\n", "syntax.aurora", 3),
    ("name.aurora", "p = Process(name = 'p', cmdline = 'true')\njobs = [Nothing(task = p)]\n", "Nothing", 2),
    (
        "field.aurora",
        "p = Process(name = 'p', cmdline = 'true', colour = 'red')\n\
         t = SequentialTask(processes = [p], resources = Resources(cpu = 1, ram = 1*MB, disk = 1*MB))\n\
         jobs = [Service(cluster = 'test', role = 'www-data', environment = 'test', name = 'wrong', task = t)]\n",
        "colour",
        1,
    ),
    (
        "resource.aurora",
        "p = Process(name = 'p', cmdline = 'true')\n\
         t = SequentialTask(processes = [p], resources = Resources(cpu = 1, ram = 1*MB))\n\
         jobs = [Service(cluster = 'test', role = 'www-data', environment = 'test', name = 'wrong', task = t)]\n",
        "disk",
        2,
    ),
    (
        "template.aurora",
        "p = Process(name = 'p', cmdline = 'echo {{nobody.knows}}')\n\
         t = SequentialTask(processes = [p], resources = Resources(cpu = 1, ram = 1*MB, disk = 1*MB))\n\
         jobs = [Service(cluster = 'test', role = 'www-data', environment = 'test', name = 'wrong', task = t)]\n",
        "nobody.knows",
        1,
    ),
    ("broken.json", "{\n  \"jobs\": [\n", "broken.json", 0),
    ("other.json", "{\"colour\": \"red\"}\n", "colour", 0),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_commands_and_files_have_their_exit_codes_and_create_nothing() -> Result<()> {
    let mut cluster = Cluster::start(Setup { agents: 1, ..Setup::default() }).await?;
    let client = cluster.client();
    let wrong = "test/www-data/test/wrong";
    for (name, text, word, line) in WRONG_FILES {
        let path = cluster.dir().join(name);
        std::fs::write(&path, text)?;
        let ended = client.run(&["job", "create", wrong, &path.display().to_string()], ANSWER)?;
        ensure!(ended.code == Some(3), "{name}: {ended:?}");
        ensure!(ended.stderr.contains(word) && ended.stderr.contains(name), "{name}: {}", ended.stderr);
        let place = format!("{name}:{line}");
        ensure!(
            *line == 0 || ended.stderr.contains(&place),
            "{name}: {place} is not named: {}",
            ended.stderr
        );
        ensure!(*line == 0 || ended.stderr.contains('^'), "{name}: no caret: {}", ended.stderr);
        ensure!(!ended.stderr.contains("panicked at"), "{name}: {}", ended.stderr);
    }
    let nothing = format!("{}", cluster.dir().join("nothing.aurora").display());
    for (arguments, codes, word) in [
        (&["job", "dance"][..], &[5][..], "dance"),
        (&["job", "status", "a/b"], &[6], "a/b"),
        (&["job", "status", wrong], &[10], "wrong"),
        (&["job", "killall", wrong], &[10], "wrong"),
        (&["job", "create", wrong, &nothing], &[3], "nothing.aurora"),
        (&["--nonsense"], &[5, 6], "nonsense"),
    ] {
        let ended = client.run(arguments, ANSWER)?;
        ensure!(
            ended.code.is_some_and(|code| codes.contains(&code)),
            "{arguments:?} wants {codes:?}: {ended:?}"
        );
        ensure!(ended.stderr.contains(word), "{arguments:?}: not a word of {word:?}: {}", ended.stderr);
    }
    let ports = free_ports(1)?;
    let nobody = tests::client::Client::new(&cluster.programs, &[format!("127.0.0.1:{}", ports[0])]);
    let ended = nobody.run(&["job", "status", wrong], ANSWER)?;
    ensure!(ended.code == Some(7) && ended.stderr.contains(&ports[0].to_string()), "{ended:?}");
    let left = wait::until("the list of jobs", PATIENCE, async || cluster.api(0).list_jobs().await.done())
        .await?
        .jobs;
    ensure!(left.is_empty(), "something was created: {left:?}");
    cluster.must_live()?;
    cluster.stop()
}

/// `GET path`, the body of a 200.
fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path} on {address}: {head}");
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return unchunked(body);
    }
    Ok(body.to_owned())
}

fn unchunked(mut body: &str) -> Result<String> {
    let mut text = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").context("no chunk")?;
        let length =
            usize::from_str_radix(length.trim(), 16).with_context(|| format!("chunk of {length:?}"))?;
        if length == 0 {
            return Ok(text);
        }
        text.push_str(rest.get(..length).context("a chunk is cut off")?);
        body = rest.get(length + 2..).context("a chunk without an end")?;
    }
}

fn promtool(metrics: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run promtool; it is in Debian's package `prometheus` (deploy/setup/debian.sh)")?;
    child.stdin.take().context("no stdin")?.write_all(metrics.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && said.trim().is_empty(), "promtool: {}: {said}", output.status);
    Ok(())
}

/// The names of our metrics in a text.
fn metric_names(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("borealis_")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_please_promtool_and_health_is_told() -> Result<()> {
    ensure!(promtool("no_help_here 1\n").is_err(), "promtool lets everything pass, so it shows nothing");
    let mut cluster = Cluster::start(Setup { agents: 1, ..Setup::default() }).await?;
    let key = cluster.key("measured");
    cluster.create(&jobs::sleeper(&key, 2)).await?;
    cluster.all_running(&key, 2).await?;
    let leader = cluster.leader().await?;
    for n in 0..3 {
        let address = &cluster.replicas[n].api;
        let metrics = get(address, "/metrics")?;
        ensure!(metrics.contains("borealis_scheduler_"), "{address}: {metrics}");
        promtool(&metrics).with_context(|| format!("{address} (leader: {})", n == leader))?;
        ensure!(get(address, "/health").is_ok(), "{address} is not healthy");
    }
    wait::until("each to say whether it leads, and the leader to export all", PATIENCE, async || {
        let leader = cluster.leader().await?;
        for (n, replica) in cluster.replicas.iter().enumerate() {
            let leads = get(&replica.api, "/leaderhealth").is_ok();
            ensure!(leads == (n == leader), "{} errs on who leads", replica.api);
        }
        let metrics = get(&cluster.replicas[leader].api, "/metrics")?;
        for name in metric_names(include_str!("../../deploy/prometheus/borealis.rules.yml")) {
            let exported = metrics
                .lines()
                .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
            ensure!(
                exported,
                "the alerts in deploy/prometheus ask for {name}, which the leader does not export"
            );
        }
        Ok(())
    })
    .await?;
    let address = agent_address(&cluster)?;
    let metrics = get(&address, "/metrics")?;
    ensure!(metrics.contains("borealis_agent_"), "{address}: {metrics}");
    promtool(&metrics).with_context(|| format!("the agent at {address}"))?;
    let Err(_) = get(&address, "/../../etc/passwd") else { bail!("the agent hands out any file") };
    cluster.must_live()?;
    cluster.stop()
}
