//! A disk that keeps two truths: what programs see, and what would be left if the power went now.
//!
//! A write is seen at once and kept once its file is synced; a name is seen at once and kept once its directory is
//! synced. When the power goes, of what was not synced a part survives: of each directory's changes a front part, of
//! each file's writes any, torn at any byte. A process that is killed loses nothing of what is seen.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::log::lock;
use crate::sim::breaks::{self, Break};
use crate::sim::faults::{self, Fault, Step};
use crate::sim::life::Life;
use crate::sim::now_ms;

/// Writes of one file that wait at most; older ones are written back, as a kernel does.
const WAITING_MAX: usize = 64;
const ROOT: u64 = 0;
/// Bytes of a disk.
const ALL: u64 = 1 << 30;
/// What clocks show when a run begins: some day of 2026, in seconds.
const BEGINS: u64 = 1_780_000_000;

/// One replica's disk. It outlives the replica's lives.
pub(crate) struct Disk(Mutex<State>);

struct State {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    chance: StdRng,
    armed: BTreeMap<Step, Armed>,
    sync_ms: (u64, u64),
    /// Free bytes, of `ALL`.
    free: u64,
    /// How far its machine's clock is ahead of the run's, in milliseconds.
    ahead_ms: i64,
    /// Whether the next file of a snapshot that is read was damaged before.
    flips: bool,
}

/// What happens when a step comes for the `left`-th time from now.
struct Armed {
    left: u32,
    then: Then,
}

/// How a step is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The replica's life ends before the step.
    Die,
    /// The step fails, if it is a sync.
    Fail,
}

#[derive(Clone)]
enum Node {
    File(File),
    Dir(Dir),
}

#[derive(Clone, Default)]
struct File {
    seen: Vec<u8>,
    kept: Vec<u8>,
    waiting: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    Bytes(u64, Vec<u8>),
    Cut(u64),
}

#[derive(Clone, Default)]
struct Dir {
    seen: BTreeMap<String, u64>,
    kept: BTreeMap<String, u64>,
    waiting: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Set(String, u64),
    Remove(String),
    Rename(String, String),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Change::Set(name, node) => drop(names.insert(name.clone(), *node)),
            Change::Remove(name) => drop(names.remove(name)),
            Change::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), 0);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Write::Bytes(at, new) => put(bytes, *at as usize, new),
            Write::Cut(length) => bytes.resize(*length as usize, 0),
        }
    }
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", path.display()))
}

/// What happens to a dead replica's call.
fn gone() -> io::Error {
    io::Error::other("the replica is gone")
}

fn name_of(path: &Path) -> io::Result<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).ok_or_else(|| missing(path))
}

impl State {
    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for part in path.components().filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.to_string_lossy()),
            _ => None,
        }) {
            let Node::Dir(dir) = &self.nodes[&at] else { return Err(missing(path)) };
            at = *dir.seen.get(&*part).ok_or_else(|| missing(path))?;
        }
        Ok(at)
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        let at = self.find(path)?;
        match self.nodes.get_mut(&at) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{}", path.display()))),
        }
    }

    fn file(&mut self, node: u64) -> io::Result<&mut File> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")),
        }
    }

    fn change(&mut self, parent: &Path, change: Change) -> io::Result<()> {
        let dir = self.dir(parent)?;
        change.apply(&mut dir.seen);
        dir.waiting.push(change);
        Ok(())
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<u64> {
        let (parent, name) = (path.parent().ok_or_else(|| missing(path))?, name_of(path)?);
        self.dir(parent)?;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.change(parent, Change::Set(name, id))?;
        Ok(id)
    }

    fn paths(&self, at: u64, path: &Path, found: &mut Vec<(std::path::PathBuf, u64)>) {
        if let Some(Node::Dir(dir)) = self.nodes.get(&at) {
            for (name, node) in &dir.seen {
                let path = path.join(name);
                match self.nodes.get(node) {
                    Some(Node::File(_)) => found.push((path, *node)),
                    _ => self.paths(*node, &path, found),
                }
            }
        }
    }
}

impl Disk {
    /// An empty one.
    pub(crate) fn new(seed: u64) -> Self {
        Disk(Mutex::new(State {
            nodes: BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]),
            next: ROOT + 1,
            chance: StdRng::seed_from_u64(seed),
            armed: BTreeMap::new(),
            sync_ms: (0, 2),
            free: ALL,
            ahead_ms: 0,
            flips: false,
        }))
    }

    /// Has the `nth` coming `step` disturbed.
    pub(crate) fn arm(&self, step: Step, nth: u32, then: Then) {
        lock(&self.0).armed.insert(step, Armed { left: nth, then });
    }

    /// What did not happen yet does not happen any more.
    pub(crate) fn disarm(&self) {
        lock(&self.0).armed.clear();
    }

    /// How long a sync takes from now on, in milliseconds, between.
    pub(crate) fn set_sync_ms(&self, between: (u64, u64)) {
        lock(&self.0).sync_ms = between;
    }

    /// From now on so much is free; `None` = all of it.
    pub(crate) fn set_free(&self, free: Option<u64>) {
        lock(&self.0).free = free.unwrap_or(ALL);
    }

    /// Free bytes, and all.
    pub(crate) fn room(&self) -> (u64, u64) {
        (lock(&self.0).free, ALL)
    }

    /// The machine's clock jumps.
    pub(crate) fn jump_ms(&self, by: i64) {
        lock(&self.0).ahead_ms += by;
    }

    /// What the machine's clock shows.
    pub(crate) fn wall_time(&self) -> SystemTime {
        let ms = (BEGINS * 1_000 + now_ms() as u64).saturating_add_signed(lock(&self.0).ahead_ms);
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    /// The next file of a snapshot that is read has another bit.
    pub(crate) fn flip_snapshot(&self) {
        lock(&self.0).flips = true;
    }

    /// A file of a snapshot is read.
    pub(crate) fn damage_snapshot(&self, node: u64) {
        let mut state = lock(&self.0);
        if state.flips && flip_bit(&mut state, node) {
            state.flips = false;
            drop(state);
            faults::fired(Fault::SnapshotFlip);
        }
    }

    /// The disk as it is now, as if it were carried to another machine.
    pub(crate) fn image(&self) -> Disk {
        let state = lock(&self.0);
        let nodes = state.nodes.iter().map(|(id, node)| (*id, node.clone())).collect();
        let copy = Disk::new(state.next);
        {
            let mut copied = lock(&copy.0);
            (copied.nodes, copied.next) = (nodes, state.next);
        }
        copy
    }

    /// How long the next sync takes.
    pub(crate) fn sync_takes(&self) -> Duration {
        let mut state = lock(&self.0);
        let (min, max) = state.sync_ms;
        Duration::from_millis(state.chance.random_range(min..=max))
    }

    /// Called before each step that changes something.
    pub(crate) fn step(&self, life: &Life, step: Step) -> io::Result<()> {
        if life.is_over() {
            return Err(gone());
        }
        let mut state = lock(&self.0);
        let Some(armed) = state.armed.get_mut(&step) else { return Ok(()) };
        armed.left = armed.left.saturating_sub(1);
        if armed.left > 0 {
            return Ok(());
        }
        let then = armed.then;
        if then == Then::Die {
            state.armed.clear();
            faults::fired(Fault::CrashAt(step));
            life.end();
            return Err(gone());
        }
        Ok(())
    }

    /// Whether this sync is the one to fail.
    fn fails(&self, step: Step) -> bool {
        let mut state = lock(&self.0);
        let fails = state.armed.get(&step).is_some_and(|armed| armed.then == Then::Fail && armed.left == 0);
        if fails {
            state.armed.remove(&step);
            faults::fired(Fault::FailedSync);
        }
        fails
    }

    pub(crate) fn look(&self, path: &Path) -> io::Result<u64> {
        lock(&self.0).find(path)
    }

    pub(crate) fn length(&self, path: &Path) -> io::Result<u64> {
        let mut state = lock(&self.0);
        let node = state.find(path)?;
        Ok(state.file(node).map_or(0, |file| file.seen.len() as u64))
    }

    /// An empty file; one that is there is emptied.
    pub(crate) fn create(&self, path: &Path, truncate: bool) -> io::Result<u64> {
        let mut state = lock(&self.0);
        let Ok(node) = state.find(path) else { return state.add(path, Node::File(File::default())) };
        let file = state.file(node)?;
        if truncate {
            file.seen.clear();
            file.waiting.push(Write::Cut(0));
        }
        Ok(node)
    }

    pub(crate) fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        let mut at = std::path::PathBuf::from("/");
        for part in path.components().skip(1) {
            at.push(part);
            if state.find(&at).is_err() {
                state.add(&at, Node::Dir(Dir::default()))?;
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, node: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.0);
        let file = state.file(node)?;
        let there = file.seen.get(at as usize..at as usize + bytes.len());
        if there == Some(bytes) && breaks::is(Break::TrustWhatIsRead) {
            return Ok(());
        }
        put(&mut file.seen, at as usize, bytes);
        file.waiting.push(Write::Bytes(at, bytes.to_vec()));
        if file.waiting.len() > WAITING_MAX {
            file.waiting.remove(0).apply(&mut file.kept);
        }
        Ok(())
    }

    /// Makes a file so long.
    pub(crate) fn cut(&self, node: u64, length: u64) -> io::Result<()> {
        let mut state = lock(&self.0);
        let file = state.file(node)?;
        file.seen.resize(length as usize, 0);
        file.waiting.push(Write::Cut(length));
        Ok(())
    }

    pub(crate) fn read(&self, node: u64, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut state = lock(&self.0);
        let seen = &state.file(node)?.seen;
        let at = (at as usize).min(seen.len());
        let n = bytes.len().min(seen.len() - at);
        bytes[..n].copy_from_slice(&seen[at..at + n]);
        Ok(n)
    }

    pub(crate) fn read_all(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = lock(&self.0);
        let node = state.find(path)?;
        Ok(state.file(node)?.seen.clone())
    }

    /// Syncs a file or a directory. One that fails may have dropped what it should have kept.
    pub(crate) fn sync(&self, node: u64, step: Step) -> io::Result<()> {
        let fails = self.fails(step);
        let skipped = match step {
            Step::Sync => breaks::is(Break::SkipLogSync),
            Step::Vote => breaks::is(Break::SkipVoteSync),
            Step::Install => breaks::is(Break::SkipInstallSync),
            _ => false,
        };
        if skipped {
            return Ok(());
        }
        let mut state = lock(&self.0);
        match state.nodes.get_mut(&node) {
            Some(Node::File(file)) if fails => file.waiting.clear(),
            Some(Node::File(file)) => {
                let kept = &mut file.kept;
                file.waiting.drain(..).for_each(|write| write.apply(kept));
            }
            Some(Node::Dir(dir)) if !fails => {
                let kept = &mut dir.kept;
                dir.waiting.drain(..).for_each(|change| change.apply(kept));
            }
            _ => {}
        }
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.find(from)?;
        let parent = from.parent().ok_or_else(|| missing(from))?;
        if Some(parent) != to.parent() {
            // Two directories change; when the power goes, either change may survive alone.
            let node = state.find(from)?;
            state.change(to.parent().ok_or_else(|| missing(to))?, Change::Set(name_of(to)?, node))?;
            return state.change(parent, Change::Remove(name_of(from)?));
        }
        let change = Change::Rename(name_of(from)?, name_of(to)?);
        state.change(parent, change)
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.find(path)?;
        let parent = path.parent().ok_or_else(|| missing(path))?;
        let name = name_of(path)?;
        state.change(parent, Change::Remove(name))
    }

    pub(crate) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        let node = state.find(from)?;
        let parent = to.parent().ok_or_else(|| missing(to))?;
        let name = name_of(to)?;
        state.change(parent, Change::Set(name, node))
    }

    /// Names in a directory, and whether each is a directory.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let mut state = lock(&self.0);
        let names: Vec<(String, u64)> = state.dir(path)?.seen.clone().into_iter().collect();
        Ok(names
            .into_iter()
            .map(|(name, node)| (name, matches!(state.nodes.get(&node), Some(Node::Dir(_)))))
            .collect())
    }

    /// The power went: what was not synced survives in part.
    pub(crate) fn power_cut(&self) {
        let mut state = lock(&self.0);
        let State { nodes, chance, .. } = &mut *state;
        for node in nodes.values_mut() {
            match node {
                Node::Dir(dir) => {
                    let survive = chance.random_range(0..=dir.waiting.len());
                    dir.waiting.drain(..).take(survive).for_each(|change| change.apply(&mut dir.kept));
                    dir.seen = dir.kept.clone();
                }
                Node::File(file) => {
                    // None, a front part of all, or any of them.
                    let (style, whole) = (chance.random_range(0..3), file.waiting.len());
                    let front = chance.random_range(0..=whole);
                    for (n, write) in file.waiting.drain(..).enumerate() {
                        let survives = match style {
                            0 => false,
                            1 => n < front,
                            _ => chance.random(),
                        };
                        if survives {
                            torn(write, chance).apply(&mut file.kept);
                        }
                    }
                    file.seen = file.kept.clone();
                }
            }
        }
        let mut reached = vec![ROOT];
        let mut at = 0;
        while at < reached.len() {
            if let Some(Node::Dir(dir)) = nodes.get(&reached[at]) {
                reached.extend(dir.seen.values());
            }
            at += 1;
        }
        nodes.retain(|node, _| reached.contains(node));
    }

    /// Flips a bit of what was synced, in a file that `chosen` accepts. Answers whether there was one.
    pub(crate) fn flip(&self, chosen: impl Fn(&str) -> bool) -> bool {
        let mut state = lock(&self.0);
        let mut paths = Vec::new();
        state.paths(ROOT, Path::new("/"), &mut paths);
        paths.retain(|(path, _)| chosen(&path.to_string_lossy()));
        if paths.is_empty() {
            return false;
        }
        let which = state.chance.random_range(0..paths.len());
        let node = paths[which].1;
        flip_bit(&mut state, node)
    }
}

/// Flips a bit of a file where something was written, so that it matters. Answers whether it could be done.
fn flip_bit(state: &mut State, node: u64) -> bool {
    let Ok(file) = state.file(node) else { return false };
    let written: Vec<usize> = (0..file.kept.len()).filter(|at| file.kept[*at] != 0).collect();
    if written.is_empty() || file.seen.len() != file.kept.len() {
        return false;
    }
    let at = written[state.chance.random_range(0..written.len())];
    let bit = 1 << state.chance.random_range(0..8);
    let Ok(file) = state.file(node) else { return false };
    file.kept[at] ^= bit;
    file.seen[at] ^= bit;
    true
}

/// A write as it may have reached the disk when the power went.
fn torn(write: Write, chance: &mut StdRng) -> Write {
    let Write::Bytes(at, bytes) = write else { return write };
    let cut = chance.random_range(0..=bytes.len());
    match chance.random_range(0..4) {
        0 => Write::Bytes(at, bytes[..cut].to_vec()),
        1 => Write::Bytes(at + cut as u64, bytes[cut..].to_vec()),
        _ => Write::Bytes(at, bytes),
    }
}

impl Disk {
    /// The data directory itself, made by the operator and kept.
    pub(crate) fn make_home(&self, path: &Path) {
        if self.look(path).is_ok() || self.make_dir(path).is_err() {
            return;
        }
        for node in lock(&self.0).nodes.values_mut() {
            if let Node::Dir(dir) = node {
                let kept = &mut dir.kept;
                dir.waiting.drain(..).for_each(|change| change.apply(kept));
            }
        }
    }
}
