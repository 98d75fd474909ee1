//! Three replicas as processes of their own, real disks and sockets: they elect, replicate, and survive `kill -9`
//! of the leader again and again. Needs the example `counter`, which `cargo test` builds.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(90);
/// For replicas whose leader shall stay: a busy machine makes those of profile `fast` elect another at any moment.
const CALM: &[&str] = &["--profile", "lan"];
/// For those that elect all the time.
const FAST: &[&str] = &["--profile", "fast"];

struct Node {
    dir: PathBuf,
    raft: String,
    api: String,
    snapshot_entries: u64,
    /// Its machine counts wrong.
    skewed: bool,
    /// More words of its command line.
    more: &'static [&'static str],
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "the end of {}'s log:\n{}",
                self.api,
                lines[lines.len().saturating_sub(15)..].join("\n")
            );
        }
    }
}

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/counter");
    assert!(
        path.exists(),
        "{} is missing; build it with `cargo build -p replication --examples`",
        path.display()
    );
    path
}

fn free_address() -> String {
    // Below the ports that the kernel gives to outgoing connections, beside those of other crates' tests, and never
    // twice in one process.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() % 75) as u16 * 40 + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000;
        let address = format!("127.0.0.1:{}", 26_000 + offset % 3_000);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

impl Node {
    fn new(dir: &Path, name: &str, snapshot_entries: u64) -> Self {
        Node {
            dir: dir.join(name),
            raft: free_address(),
            api: free_address(),
            snapshot_entries,
            skewed: false,
            more: CALM,
            process: None,
        }
    }

    fn start(&mut self, entrance: &[&str]) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.with_extension("log")).unwrap();
        let mut command = Command::new(program());
        if self.skewed {
            command.env("COUNTER_SKEW", "1");
        }
        let child = command
            .args(["--dir", self.dir.to_str().unwrap(), "--raft", &self.raft, "--api", &self.api])
            .args(["--snapshot-entries", &self.snapshot_entries.to_string()])
            .args(self.more)
            .args(entrance)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// SIGKILL; returns when the process is gone.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn ask(address: &str, line: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(format!("{line}\n").as_bytes()).ok()?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok()?;
    (!answer.is_empty()).then(|| answer.trim().to_owned())
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The words of a node's status: id, state, term, leader, applied, stored, snapshot, purged, voters.
fn status(api: &str) -> Option<Vec<String>> {
    let words: Vec<String> = ask(api, "status")?.split(' ').map(str::to_owned).collect();
    if words.len() != 9 {
        return None;
    }
    // At every moment: what is not flushed and synced is not in a snapshot, and what is in none is not dropped.
    let [stored, snapshot, purged] = [5, 6, 7].map(|at| number(&words, at));
    assert!(purged <= snapshot && snapshot <= stored, "{api}: {words:?}");
    Some(words)
}

fn number(words: &[String], at: usize) -> u64 {
    words[at].parse().unwrap()
}

/// Position of the node that leads and answers as the leader.
fn leader(nodes: &[Node]) -> usize {
    wait("an election", || {
        nodes.iter().position(|node| {
            node.process.is_some()
                && status(&node.api).is_some_and(|words| words[1] == "leader")
                && ask(&node.api, "add probe 1").is_some_and(|answer| answer.starts_with("ok"))
        })
    })
}

fn cluster(dir: &Path, snapshot_entries: u64) -> Vec<Node> {
    cluster_with(dir, snapshot_entries, CALM)
}

fn cluster_with(dir: &Path, snapshot_entries: u64, more: &'static [&'static str]) -> Vec<Node> {
    let mut nodes: Vec<Node> = ["a", "b", "c"].map(|name| Node::new(dir, name, snapshot_entries)).into();
    nodes.iter_mut().for_each(|node| node.more = more);
    let seed = nodes[0].api.clone();
    nodes[0].start(&["--init"]);
    leader(&nodes[..1]);
    for node in &mut nodes[1..] {
        node.start(&["--join", &seed]);
    }
    wait("three voters", || (number(&status(&seed)?, 8) == 3).then_some(()));
    nodes
}

/// Asks whoever leads, again and again, until it is told what `take` takes; the leader may change meanwhile.
fn ask_leader<T>(nodes: &[Node], line: &str, take: impl Fn(&str) -> Option<T>) -> T {
    wait(line, || take(&ask(&nodes[leader(nodes)].api, line)?))
}

fn is_ok(answer: &str) -> Option<String> {
    answer.starts_with("ok").then(|| answer.to_owned())
}

/// A counter, as a quorum has it.
fn get(nodes: &[Node], key: &str) -> u64 {
    ask_leader(nodes, &format!("get {key}"), |answer| answer.strip_prefix("ok ")?.parse().ok())
}

/// All that was acknowledged until now is applied there.
fn catches_up(nodes: &[Node], at: usize) -> u64 {
    let added = ask_leader(nodes, "add probe 1", is_ok);
    let index = added.split(' ').nth(1).unwrap().parse().unwrap();
    wait("catching up", || (number(&status(&nodes[at].api)?, 4) >= index).then_some(()));
    index
}

/// All replicas' sums at one index are equal; returns the index.
fn compare(nodes: &[Node]) -> u64 {
    let answer = ask_leader(nodes, "sum", is_ok);
    let index = answer.split(' ').nth(1).unwrap().to_owned();
    for node in nodes {
        let other =
            wait("a sum", || ask(&node.api, &format!("sum-at {index}")).filter(|a| a.starts_with("ok")));
        assert_eq!(other, answer, "{}", node.dir.display());
    }
    index.parse().unwrap()
}

/// What a client was told: how often `ok`, and how often nobody knows.
#[derive(Default, Debug)]
struct Told {
    acknowledged: u64,
    unknown: u64,
}

fn client(name: String, addresses: Vec<String>, done: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    let mut at = 0;
    while !done.load(Ordering::Relaxed) {
        let line = format!("add {name} 1");
        match ask(&addresses[at], &line) {
            Some(answer) if answer.starts_with("ok") => {
                told.acknowledged += 1;
                continue;
            }
            // Refused before anything was proposed.
            Some(answer)
                if ["not-leader", "no-leader", "busy"].iter().any(|word| answer.starts_with(word)) => {}
            // Anything else, a broken connection too, leaves the fate open; a refused connection does as well here,
            // which only widens what is allowed.
            _ => told.unknown += 1,
        }
        at = (at + 1) % addresses.len();
        std::thread::sleep(Duration::from_millis(2));
    }
    told
}

fn check(nodes: &[Node], told: &[Told]) {
    for (n, told) in told.iter().enumerate() {
        let value = get(nodes, &format!("c{n}"));
        assert!(value >= told.acknowledged, "client {n}: {value} counted, but {told:?}");
        assert!(value <= told.acknowledged + told.unknown, "client {n}: {value} counted, but {told:?}");
    }
}

#[test]
fn acknowledged_increments_survive_kills_of_leaders() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster_with(dir.path(), 2_000, FAST);
    let done = Arc::new(AtomicBool::new(false));
    let addresses: Vec<String> = nodes.iter().map(|node| node.api.clone()).collect();
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (addresses, done) = (addresses.clone(), Arc::clone(&done));
            std::thread::spawn(move || client(format!("c{n}"), addresses, done))
        })
        .collect();
    let mut took_ms = Vec::new();
    for _ in 0..10 {
        let killed = leader(&nodes);
        nodes[killed].kill();
        let began = Instant::now();
        leader(&nodes);
        took_ms.push(began.elapsed().as_millis());
        nodes[killed].start(&[]);
        catches_up(&nodes, killed);
    }
    done.store(true, Ordering::Relaxed);
    let told: Vec<Told> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    took_ms.sort_unstable();
    println!("a new leader acknowledged after (ms): {took_ms:?}; clients were told {told:?}");
    assert!(told.iter().all(|told| told.acknowledged > 10));
    check(&nodes, &told);
    compare(&nodes);

    // All at once, and back from their disks.
    for node in &mut nodes {
        node.kill();
    }
    for node in &mut nodes {
        node.start(&[]);
    }
    check(&nodes, &told);
    compare(&nodes);
}

#[test]
fn a_replica_that_the_log_does_not_reach_gets_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 100);
    // A follower is away while the log it needs is dropped.
    let away = (leader(&nodes) + 1) % 3;
    nodes[away].kill();
    let mut told = Told::default();
    let mut add = |nodes: &[Node]| {
        let leads = leader(nodes);
        for _ in 0..20 {
            match ask(&nodes[leads].api, "add far 1") {
                Some(answer) if answer.starts_with("ok") => told.acknowledged += 1,
                _ => told.unknown += 1,
            }
        }
        leads
    };
    wait("the log being dropped", || {
        let leads = add(&nodes);
        (number(&status(&nodes[leads].api)?, 7) > 150).then_some(())
    });
    nodes[away].start(&[]);
    let applied = catches_up(&nodes, away);
    compare(&nodes);
    // A new one joins after the log was dropped, becomes a voter, and equals the others.
    let mut fourth = Node::new(dir.path(), "d", 100);
    fourth.start(&["--join", &nodes[leader(&nodes)].api]);
    nodes.push(fourth);
    wait("a fourth voter", || (number(&status(&nodes[3].api)?, 8) == 4).then_some(()));
    compare(&nodes);
    // And it restarts from what it installed.
    nodes[3].kill();
    nodes[3].start(&[]);
    wait("catching up", || (number(&status(&nodes[3].api)?, 4) >= applied).then_some(()));
    compare(&nodes);
    let value = get(&nodes, "far");
    assert!(value >= told.acknowledged, "{value} counted, but {told:?}");
    assert!(value <= told.acknowledged + told.unknown, "{value} counted, but {told:?}");
}

/// What others send to one node's raft address, passed on to where it listens, or not.
struct Ear {
    listens: String,
    deaf: Arc<AtomicBool>,
}

impl Ear {
    /// Takes the place of `address`; the node shall listen at `listens`.
    fn at(address: &str) -> Self {
        let (door, listens) = (TcpListener::bind(address).unwrap(), free_address());
        let (deaf, inner) = (Arc::new(AtomicBool::new(false)), listens.clone());
        let closed = Arc::clone(&deaf);
        std::thread::spawn(move || {
            for outer in door.incoming().map_while(Result::ok) {
                let Ok(inner) = TcpStream::connect(&inner) else { continue };
                for (from, to) in [(&outer, &inner), (&inner, &outer)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let closed = Arc::clone(&closed);
                    std::thread::spawn(move || pass_on(from, to, &closed));
                }
            }
        });
        Ear { listens, deaf }
    }
}

/// Copies until either end closes; while `closed`, nothing passes and connections break.
fn pass_on(mut from: TcpStream, mut to: TcpStream, closed: &AtomicBool) {
    let mut buffer = [0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if closed.load(Ordering::Relaxed) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(std::net::Shutdown::Both);
    }
}

/// A follower that hears nobody, and can speak to all, must ask before it campaigns, and is told that there is a
/// leader. Without that question its term would run ahead and depose the leader when it hears again.
#[test]
fn a_follower_that_was_deaf_deposes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Node> = ["a", "b", "c"].map(|name| Node::new(dir.path(), name, 2_000)).into();
    // Whoever is deaf asks all the time, and wins if the leader is silent for three seconds.
    let patient = &["--profile", "custom:100,1500,3000"];
    nodes.iter_mut().for_each(|node| node.more = patient);
    let ear = Ear::at(&nodes[2].raft);
    let seed = nodes[0].api.clone();
    nodes[0].start(&["--init"]);
    leader(&nodes[..1]);
    nodes[1].start(&["--join", &seed]);
    nodes[2].start(&["--join", &seed, "--listen-raft", &ear.listens]);
    wait("three voters", || (number(&status(&seed)?, 8) == 3).then_some(()));
    let (mut quiet, mut disturbed) = (0, vec![]);
    while quiet < 3 {
        wait("one of the others to lead", || {
            let leads = leader(&nodes);
            if leads == 2 {
                ask(&nodes[2].api, "transfer");
            }
            (leads != 2).then_some(())
        });
        let before =
            wait("all to know the leader", || terms_and_leaders(&nodes).filter(|all| all.len() == 1));
        ear.deaf.store(true, Ordering::Relaxed);
        // It asks for the first time after six seconds at most.
        std::thread::sleep(Duration::from_secs(8));
        let deaf = wait("a status", || status(&nodes[2].api));
        let added = ask_leader(&nodes, "add awake 1", is_ok);
        let index: u64 = added.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(number(&deaf, 4) < index, "it heard of entry {index} all the same");
        ear.deaf.store(false, Ordering::Relaxed);
        wait("catching up", || (number(&status(&nodes[2].api)?, 4) >= index).then_some(()));
        let after = wait("a status", || terms_and_leaders(&nodes));
        if after == before {
            quiet += 1;
        } else {
            // A machine that stood still for seconds is reason enough for an election, but not again and again.
            disturbed.push(format!("{before:?} became {after:?}"));
            assert!(disturbed.len() < 3, "the leader was deposed: {disturbed:?}");
        }
    }
}

/// The term and the leader that each knows, every pair once.
fn terms_and_leaders(nodes: &[Node]) -> Option<BTreeSet<(u64, u64)>> {
    nodes.iter().map(|node| status(&node.api).map(|words| (number(&words, 2), number(&words, 3)))).collect()
}

fn node_id(node: &Node) -> u64 {
    number(&wait("a status", || status(&node.api)), 0)
}

/// Asks the leader until it does it; a refusal ends it.
fn order(nodes: &[Node], line: &str) -> String {
    ask_leader(nodes, line, is_decided)
}

fn is_decided(answer: &str) -> Option<String> {
    (answer.starts_with("ok") || answer.starts_with("refused")).then(|| answer.to_owned())
}

/// The same until it is done: whoever has not answered for a moment counts as dead, and that is a refusal too.
fn done(nodes: &[Node], line: &str) {
    ask_leader(nodes, line, is_ok);
}

fn voters(nodes: &[Node], count: u64) {
    wait("the voters", || (number(&status(&nodes[leader(nodes)].api)?, 8) == count).then_some(()));
}

#[test]
fn members_are_promoted_demoted_removed_and_replaced_and_the_quorum_is_guarded() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 2_000);
    let leads = leader(&nodes);
    let (me, dead, other) = (node_id(&nodes[leads]), (leads + 1) % 3, (leads + 2) % 3);
    let (dead_id, other_id) = (node_id(&nodes[dead]), node_id(&nodes[other]));
    assert!(order(&nodes, &format!("remove {me}")).starts_with("refused"), "the leader");
    assert!(order(&nodes, "remove 77").starts_with("refused"), "nobody");
    // A voter that learns by wish stays a learner, and comes back.
    done(&nodes, &format!("demote {other_id}"));
    voters(&nodes, 2);
    assert!(order(&nodes, &format!("transfer {other_id}")).starts_with("refused"), "a learner cannot lead");
    done(&nodes, &format!("promote {other_id}"));
    voters(&nodes, 3);
    // With one dead, the living are needed; the dead one can go.
    nodes[dead].kill();
    assert!(order(&nodes, &format!("remove {other_id}")).starts_with("refused"), "it is needed");
    done(&nodes, &format!("remove {dead_id}"));
    done(&nodes, &format!("remove {dead_id}")); // it is removed still
    // It returns, is told so, ends, and disturbs nobody. (A machine that stood still for seconds may do that.)
    let term = |nodes: &[Node]| wait("a status", || status(&nodes[leader(nodes)].api))[2].clone();
    let mut disturbed = vec![];
    loop {
        let before = term(&nodes);
        nodes[dead].start(&[]);
        let mut process = nodes[dead].process.take().unwrap();
        wait("the removed one ends", || process.try_wait().unwrap());
        let log = std::fs::read_to_string(nodes[dead].dir.with_extension("log")).unwrap();
        assert!(log.contains(&format!("node {dead_id} was removed from the cluster")), "{log}");
        let after = term(&nodes);
        if after == before {
            break;
        }
        disturbed.push(format!("term {before} became {after}"));
        assert!(disturbed.len() < 3, "it disturbed the others: {disturbed:?}");
    }
    // An empty directory takes its place under its address, as a node of a new id.
    std::fs::rename(&nodes[dead].dir, dir.path().join("set-aside")).unwrap();
    let seed = nodes[leader(&nodes)].api.clone();
    nodes[dead].start(&["--join", &seed]);
    voters(&nodes, 3);
    assert!(node_id(&nodes[dead]) > 3);
    compare(&nodes);
}

#[test]
fn of_two_changes_at_once_that_only_together_cost_the_quorum_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 2_000);
    let mut dead = Node::new(dir.path(), "fourth", 2_000);
    dead.start(&["--join", &nodes[0].api]);
    voters(&nodes, 4);
    dead.kill();
    let answers = wait("one to be demoted", || {
        let leads = leader(&nodes);
        let others: Vec<u64> = (0..3).filter(|at| *at != leads).map(|at| node_id(&nodes[at])).collect();
        let answers: Vec<String> = std::thread::scope(|scope| {
            let (nodes, api) = (&nodes, &nodes[leads].api);
            let demote = |id| {
                scope.spawn(move || {
                    let line = format!("demote {id}");
                    let answer = ask(api, &line).unwrap_or_default();
                    // Whoever leads no more has decided nothing.
                    is_decided(&answer).unwrap_or_else(|| order(nodes, &line))
                })
            };
            let asked: Vec<_> = others.into_iter().map(demote).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        // Whoever has not answered for a moment counts as dead, and then both are needed.
        answers.iter().any(|answer| answer == "ok").then_some(answers)
    });
    let refused = answers.iter().filter(|answer| answer.starts_with("refused")).count();
    assert_eq!(refused, 1, "{answers:?}");
    leader(&nodes);
    compare(&nodes);
}

#[test]
fn leadership_is_not_handed_to_who_fell_silent_a_moment_ago() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 2_000);
    // On a loaded machine leadership may move by itself; not every time.
    let stays = (0..5).any(|_| {
        let leads = leader(&nodes);
        let silent = &nodes[(leads + 1) % 3];
        let (silent_id, before) = (node_id(silent), status(&nodes[leads].api));
        let pid = rustix::process::Pid::from_child(silent.process.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let answer = ask(&nodes[leads].api, &format!("transfer {silent_id}"));
        let after = status(&nodes[leads].api);
        // Whoever is close takes over, when nobody is named.
        let handed = ask(&nodes[leads].api, "transfer");
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        let same = before.zip(after).is_some_and(|(before, after)| before[1..4] == after[1..4]);
        same && answer.is_some_and(|answer| answer.starts_with("refused")) && handed.as_deref() == Some("ok")
    });
    assert!(stays, "leadership moved, or was not handed to the other, each time");
    leader(&nodes);
    compare(&nodes);
}

#[test]
fn a_member_that_is_silent_for_long_goes_once_another_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 2_000);
    for node in &mut nodes {
        node.kill();
        // Longer than the fourth takes to start on a slow disk.
        node.more = &["--profile", "lan", "--dead-after-ms", "8000"];
    }
    for node in &mut nodes {
        node.start(&[]);
    }
    let dead = (leader(&nodes) + 1) % 3;
    let dead_id = node_id(&nodes[dead]);
    nodes[dead].kill();
    let mut dead = nodes.remove(dead);
    // Nobody has taken its place, so it stays, however long.
    std::thread::sleep(Duration::from_secs(12));
    voters(&nodes, 3);
    let seed = nodes[leader(&nodes)].api.clone();
    let mut fourth = Node::new(dir.path(), "fourth", 2_000);
    fourth.more = nodes[0].more;
    fourth.start(&["--join", &seed]);
    nodes.push(fourth);
    // Four, and then three without the dead one.
    wait("the silent one to be removed", || {
        let removes = |node: &Node| {
            let log = std::fs::read_to_string(node.dir.with_extension("log")).unwrap_or_default();
            log.contains("a member that is silent for so long is removed")
        };
        nodes.iter().any(removes).then_some(())
    });
    voters(&nodes, 3);
    compare(&nodes);
    dead.start(&[]);
    let mut process = dead.process.take().unwrap();
    wait("the removed one ends", || process.try_wait().unwrap());
    let log = std::fs::read_to_string(dead.dir.with_extension("log")).unwrap();
    assert!(log.contains(&format!("node {dead_id} was removed from the cluster")), "{log}");
}

#[test]
fn leadership_is_handed_over_under_load_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 2_000);
    let done = Arc::new(AtomicBool::new(false));
    let addresses: Vec<String> = nodes.iter().map(|node| node.api.clone()).collect();
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (addresses, done) = (addresses.clone(), Arc::clone(&done));
            std::thread::spawn(move || client(format!("c{n}"), addresses, done))
        })
        .collect();
    let mut took_ms = Vec::new();
    for turn in 0..10 {
        wait("a hand-over", || {
            let before = leader(&nodes);
            for _ in 0..20 {
                ask(&nodes[before].api, "add busy 1");
            }
            // Whoever was elected a moment ago has heard nobody yet, and whoever leads no more hands nothing over.
            let term = number(&status(&nodes[before].api)?, 2);
            let began = Instant::now();
            if ask(&nodes[before].api, "transfer")? != "ok" {
                return None;
            }
            took_ms.push(began.elapsed().as_millis());
            // The heir has the next term; later ones are of elections, which anybody may win.
            let told = wait("a status", || status(&nodes[before].api));
            assert!(told[1] != "leader" || number(&told, 2) > term + 1, "turn {turn}: it leads still");
            leader(&nodes);
            Some(())
        });
    }
    done.store(true, Ordering::Relaxed);
    let told: Vec<Told> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    took_ms.sort_unstable();
    println!("handed over in (ms): {took_ms:?}; clients were told {told:?}");
    assert!(told.iter().all(|told| told.acknowledged > 10));
    check(&nodes, &told);
    compare(&nodes);
}

/// A machine that is not deterministic is found out, stopped, and taught by a peer.
#[test]
fn a_replica_with_other_rows_than_the_majority_stops_and_takes_a_peers() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 2_000);
    for turn in 0..2 {
        // A follower first, then the leader itself.
        let leads = leader(&nodes);
        let odd = (leads + 1 + turn * 2) % 3;
        nodes[odd].kill();
        nodes[odd].skewed = true;
        nodes[odd].start(&[]);
        if turn == 1 {
            let id = node_id(&nodes[odd]);
            wait("the odd one leads", || {
                ask(&nodes[leader(&nodes)].api, &format!("transfer {id}"))?;
                (leader(&nodes) == odd).then_some(())
            });
        }
        for _ in 0..10 {
            wait("a command", || {
                ask(&nodes[leader(&nodes)].api, "add skewed 1").filter(|a| a.starts_with("ok"))
            });
        }
        let mut process = nodes[odd].process.take().unwrap();
        wait("the odd one ends", || process.try_wait().unwrap());
        let log = std::fs::read_to_string(nodes[odd].dir.with_extension("log")).unwrap();
        assert!(log.contains("those of the majority"), "{log}");
        nodes[odd].skewed = false;
        nodes[odd].start(&[]);
        let applied = number(&wait("a status", || status(&nodes[leader(&nodes)].api)), 4);
        wait("catching up", || (number(&status(&nodes[odd].api)?, 4) >= applied).then_some(()));
        compare(&nodes);
    }
}

#[test]
fn a_replica_that_took_rows_of_a_later_leader_than_it_voted_for_may_die_at_any_moment() {
    use prost::Message as _;
    use proto::wire::raft as wire;
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 2_000);
    let leads = leader(&nodes);
    let (other, away) = ((leads + 1) % 3, (leads + 2) % 3);
    nodes[away].kill();
    // The others go on under another leader.
    let heir = node_id(&nodes[other]);
    wait("the hand-over", || {
        ask(&nodes[leader(&nodes)].api, &format!("transfer {heir}"))?;
        (leader(&nodes) == other).then_some(())
    });
    let added = ask_leader(&nodes, "add c 5", is_ok);
    let acknowledged = added.split(' ').nth(2).unwrap().to_owned();
    let note = |node: &Node| {
        let identity = replication::identity(&node.dir).unwrap().unwrap();
        wire::Node {
            id: identity.node_id,
            raft_address: node.raft.clone(),
            api_address: node.api.clone(),
            store_uuid: identity.store_uuid,
            learner: false,
        }
    };
    let mark = wire::Quarantine { why: "a test".into(), members: nodes.iter().map(note).collect() };
    std::fs::write(nodes[away].dir.join("quarantined"), mark.encode_to_vec()).unwrap();
    wait("somebody who can give rows", || status(&nodes[leads].api));
    // It dies before it hears of the leader whose rows it took, and comes back where nobody is.
    let log = nodes[away].dir.with_extension("log");
    nodes[away].start(&[]);
    wait("the rows to be taken", || {
        std::fs::read_to_string(&log).ok()?.contains("the rows of a peer were taken").then_some(())
    });
    for at in [leads, other] {
        nodes[at].kill();
    }
    // What follows needs nobody: when all is in its place, it starts.
    let mark = nodes[away].dir.join("quarantined");
    wait("the rows to be in their place", || (!mark.exists()).then_some(()));
    nodes[away].kill();
    for _ in 0..2 {
        nodes[away].start(&[]);
        wait("it runs", || status(&nodes[away].api));
        nodes[away].kill();
    }
    for node in &mut nodes {
        node.start(&[]);
    }
    wait("what was acknowledged", || {
        (ask(&nodes[away].api, "get c")? == format!("ok {acknowledged}")).then_some(())
    });
    compare(&nodes);
}

#[test]
fn purged_snapshot_and_stored_are_in_order_at_every_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 100);
    // All are asked all the time, while snapshots are taken, sent, and installed by one that was away.
    let done = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (api, done) = (node.api.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    looks += u64::from(status(&api).is_some());
                }
                looks
            })
        })
        .collect();
    let away = (leader(&nodes) + 1) % 3;
    for turn in 1..=3 {
        nodes[away].kill();
        let from = number(&wait("a status", || status(&nodes[leader(&nodes)].api)), 4);
        wait("the log being dropped", || {
            let leads = leader(&nodes);
            for _ in 0..20 {
                ask(&nodes[leads].api, "add far 1")?;
            }
            (number(&status(&nodes[leads].api)?, 7) > from + 50).then_some(())
        });
        nodes[away].start(&[]);
        let applied = catches_up(&nodes, away);
        println!("turn {turn}: caught up with entry {applied}");
    }
    done.store(true, Ordering::Relaxed);
    // A watcher that saw another order has panicked.
    let looks: Vec<u64> = watchers.into_iter().map(|watcher| watcher.join().unwrap()).collect();
    println!("status was read {looks:?} times");
    assert!(looks.iter().all(|looks| *looks > 100), "{looks:?}");
}

#[test]
fn a_follower_shows_what_was_acknowledged_a_moment_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 2_000);
    let told =
        |node: &Node| wait("a read", || ask(&node.api, "get c")?.strip_prefix("ok ")?.parse::<u64>().ok());
    let (mut rounds, mut tries, mut killed) = (0, 0, false);
    while rounds < 150 {
        if rounds == 75 && !killed {
            // Whoever follows asks the next leader.
            let leads = leader(&nodes);
            nodes[leads].kill();
            nodes[leads].start(&[]);
            killed = true;
        }
        tries += 1;
        assert!(tries < 1_000, "only {rounds} of {tries} were acknowledged");
        let answer = ask(&nodes[leader(&nodes)].api, "add c 1").unwrap_or_default();
        let Some(sum) = answer.strip_prefix("ok ").and_then(|told| told.split(' ').nth(1)) else { continue };
        let added: u64 = sum.parse().unwrap();
        rounds += 1;
        for node in &nodes {
            // A try without an answer may have come late.
            let shown = told(node);
            assert!((added..=tries).contains(&shown), "{} shows {shown}, after {added}", node.api);
        }
    }
    println!("{tries} tries for {rounds} rounds");
}

/// As the counters are, as far as it matters here.
struct Impossible;

impl replication::Machine for Impossible {
    type Command = Vec<u8>;
    type Reply = ();

    fn decode(bytes: &[u8]) -> Result<Vec<u8>, replication::Corrupt> {
        Ok(bytes.to_vec())
    }

    fn apply(&mut self, command: Vec<u8>, _: &mut replication::Changes) {
        assert_ne!(command, b"impossible 13", "this cannot be applied");
    }

    fn load(_: &mut replication::Rows<'_>) -> Result<Self, replication::Corrupt> {
        Ok(Impossible)
    }
}

#[test]
fn an_entry_that_no_replica_can_apply_is_skipped_by_a_persons_decision() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 2_000);
    for n in 1..=20 {
        ask_leader(&nodes, &format!("add c {n}"), is_ok);
    }
    let counted = get(&nodes, "c");
    let busy = replication::skippable::<Impossible>(&nodes[0].dir, 1).unwrap_err().to_string();
    assert!(busy.contains("another process"), "{busy}");
    let leads = wait("a leader to take what it cannot apply", || {
        let leads = leader(&nodes);
        match ask(&nodes[leads].api, "add impossible 13") {
            None => Some(leads),
            Some(answer) => {
                assert!(!answer.starts_with("ok"), "{answer}");
                None
            }
        }
    });
    // Each replica ends as soon as it learns that the entry is committed, now or at its next start.
    let ends = |node: &mut Node| {
        wait("the end", || node.process.as_mut()?.try_wait().unwrap());
        node.process = None;
    };
    ends(&mut nodes[leads]);
    let mut others = [(leads + 1) % 3, (leads + 2) % 3];
    wait("one of the others to end", || {
        others.sort_by_key(|at| nodes[*at].process.as_mut().unwrap().try_wait().unwrap().is_none());
        nodes[others[0]].process.as_mut().unwrap().try_wait().unwrap()
    });
    ends(&mut nodes[others[0]]);
    nodes[others[1]].kill();

    let last = replication::inspect(&nodes[leads].dir).unwrap().last.unwrap().1;
    let is_it = |at: &u64| {
        let entry = replication::skippable::<Impossible>(&nodes[leads].dir, *at);
        entry.is_ok_and(|entry| entry.commands.iter().any(|command| command == "impossible 13"))
    };
    let at = (1..=last).find(is_it).expect("the entry is in the log");
    let log = std::fs::read_to_string(nodes[leads].dir.with_extension("log")).unwrap();
    let said = log.lines().find(|line| line.starts_with("applying entry")).expect("which entry it was");
    assert!(said.contains(&format!(".{at} panicked")), "{said}");
    let refused = |index, crc32c| {
        replication::skip::<Impossible>(&nodes[leads].dir, index, crc32c).unwrap_err().to_string()
    };
    assert!(refused(at, 1).contains("another entry"));
    assert!(refused(last + 1, 1).contains("does not reach"));
    assert!(refused(0, 1).contains("cannot be skipped"));
    let before = (1..at).rev().find_map(|before| {
        let refused =
            replication::skippable::<Impossible>(&nodes[leads].dir, before).unwrap_err().to_string();
        (!refused.contains("no command")).then_some(refused)
    });
    assert!(before.expect("a command before it").contains("it can be applied"));
    for node in &nodes {
        // One that never got it gets it from the others, as a blank one.
        let Ok(entry) = replication::skippable::<Impossible>(&node.dir, at) else { continue };
        replication::skip::<Impossible>(&node.dir, at, entry.crc32c).unwrap();
        assert!(
            replication::skippable::<Impossible>(&node.dir, at).unwrap_err().to_string().contains("already")
        );
    }
    for node in &mut nodes {
        node.start(&[]);
    }
    assert!(counted >= 210 && get(&nodes, "c") == counted);
    ask_leader(&nodes, "add c 1", is_ok);
    let counted = get(&nodes, "c");
    for node in &nodes {
        let read = |key| wait("a read", || is_ok(&ask(&node.api, &format!("get {key}"))?));
        assert_eq!((read("c"), read("impossible")), (format!("ok {counted}"), "ok 0".to_owned()));
    }
    compare(&nodes);
}

#[test]
fn without_a_quorum_nothing_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster_with(dir.path(), 2_000, FAST);
    let leads = leader(&nodes);
    for other in [(leads + 1) % 3, (leads + 2) % 3] {
        nodes[other].kill();
    }
    let began = Instant::now();
    let answer = ask(&nodes[leads].api, "get probe");
    assert!(answer.as_deref().is_none_or(|answer| answer.starts_with("error")), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(9), "a read without a quorum hung");
    nodes[(leads + 1) % 3].start(&[]);
    leader(&nodes);
}
