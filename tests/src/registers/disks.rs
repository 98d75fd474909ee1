//! Faults of one replica's disk and clock, one after another, while clients write and read: damaged files, a disk
//! that is full, slow or failing, a write that is torn, a wall clock that jumps.
//!
//! The others go on; the replica refuses clearly or recovers, as `damage` says; nothing acknowledged is lost, which the
//! history tells. A refused replica gets back the files that it had before the damage: it has not run since. The slow,
//! failing and torn disk and the clock are `fault.c`'s, which is compiled here and stands between program and system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::clients::Load;
use super::cluster::{Registers, Setup};
use super::damage::{DAMAGES, Damage, Expected};
use super::storm::{conclude, declare_conclusion};
use crate::cluster::{Member, PATIENCE};
use crate::faults::Table;
use crate::wait;

const SOURCE: &str = include_str!("fault.c");
/// Of the file system that gets full, in MiB.
const SMALL_DISK_MIB: u64 = 200;
/// Free bytes below which a replica takes no entries.
const RESERVE_BYTES: u64 = 32 << 20;
/// Whose data lie there.
const ON_SMALL_DISK: usize = 2;
/// How long a slow disk or a wrong clock is borne.
const LASTS: Duration = Duration::from_secs(2);

/// What `fault.c` does when it is told so, and what the replica must do.
struct Told {
    name: &'static str,
    words: &'static str,
    /// It happens to the leader; else to a follower.
    leader: bool,
    /// What its log must say before it ends; `None`: it must not end.
    ends_with: Option<&'static str>,
}

const TOLD: &[Told] = &[
    Told { name: "a follower's sync fails", words: "fail", leader: false, ends_with: Some("os error 5") },
    Told { name: "a write torn, then SIGKILL", words: "tear", leader: false, ends_with: Some("") },
    Told { name: "the leader's sync fails", words: "fail", leader: true, ends_with: Some("os error 5") },
    Told {
        name: "the leader's write finds no space",
        words: "full",
        leader: true,
        ends_with: Some("os error 28"),
    },
    Told { name: "a follower's syncs take 80 ms more", words: "delay 80", leader: false, ends_with: None },
    Told { name: "the leader's syncs take 80 ms more", words: "delay 80", leader: true, ends_with: None },
    Told {
        name: "the leader's clock jumps a day ahead",
        words: "clock 86400",
        leader: true,
        ends_with: None,
    },
    Told {
        name: "the leader's clock jumps a day back",
        words: "clock -86400",
        leader: true,
        ends_with: None,
    },
];

const FULL: &str = "a follower's disk gets full";
const NEARLY_FULL: &str = "the leader's disk gets nearly full";

/// A file system in a file, which is gone when this is dropped.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount(dir: &Path) -> Result<SmallDisk> {
        let (image, at) = (dir.join("small.ext4"), dir.join("small"));
        fs::create_dir(&at)?;
        fs::File::create(&image)?.set_len(SMALL_DISK_MIB << 20)?;
        let shown = |path: &Path| path.display().to_string();
        run("mkfs.ext4", &["-q", "-F", &shown(&image)])?;
        run("mount", &["-o", "loop", &shown(&image), &shown(&at)])?;
        Ok(SmallDisk { at })
    }

    /// Takes all space that is left, but for so many bytes.
    fn fill(&self, left: u64) -> Result<PathBuf> {
        let output = Command::new("df").args(["--output=avail", "-B1"]).arg(&self.at).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let free = text.lines().last().and_then(|line| line.trim().parse::<u64>().ok());
        let mut goal = free.with_context(|| format!("df says {text:?}"))?.saturating_sub(left);
        if left == 0 {
            goal = u64::MAX;
        }
        let ballast = self.at.join("ballast");
        let mut file = fs::File::create(&ballast)?;
        let mut written = 0;
        for bytes in [1 << 20, 4096] {
            let block = vec![1; bytes as usize];
            while written + bytes <= goal && std::io::Write::write_all(&mut file, &block).is_ok() {
                written += bytes;
            }
        }
        // What the file system delayed must have its space too; where there is none, that is what is wanted.
        let _ = file.sync_all();
        Ok(ballast)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(why) = run("umount", &["-l", &self.at.display().to_string()]) {
            eprintln!("{} stays mounted: {why:#}", self.at.display());
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), why.trim());
    Ok(())
}

/// Runs every fault, which needs root; or only a few that take little time.
pub async fn run_all(seed: u64, every: bool) -> Result<Table> {
    let home = tempfile::Builder::new().prefix("borealis-disks-").tempdir()?;
    let (source, library) = (home.path().join("fault.c"), home.path().join("fault.so"));
    fs::write(&source, SOURCE)?;
    let words = ["-O1", "-Wall", "-shared", "-fPIC", "-o"].map(str::to_owned);
    let words: Vec<String> =
        words.into_iter().chain([&library, &source].map(|path| path.display().to_string())).collect();
    run("cc", &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    let small = if every { Some(SmallDisk::mount(home.path())?) } else { None };
    let order = |n: usize| home.path().join(format!("order-{n}"));
    let before = |n: usize| {
        let told = format!("BOREALIS_FAULT={}", order(n).display());
        vec!["env".to_owned(), format!("LD_PRELOAD={}", library.display()), told]
    };
    let reserve = RESERVE_BYTES.to_string();
    let arguments = ["--segment-bytes", "262144", "--snapshot-entries", "400", "--disk-reserve", &reserve];
    let setup = Setup {
        arguments: arguments.map(str::to_owned).into(),
        before: (0..3).map(before).collect(),
        homes: vec![None, None, small.as_ref().map(|small| small.at.clone())],
        ..Setup::default()
    };
    let mut cluster = Registers::start(&setup, None).await?;

    let damages = if every { DAMAGES } else { &DAMAGES[..1] };
    let told = if every { TOLD } else { &TOLD[..2] };
    let mut table = Table::default();
    for damage in damages {
        table.declare(damage.name, "refused or recovered, the others go on");
    }
    for told in told {
        let invariant = if told.ends_with.is_some() { "it ends, the others go on" } else { "all go on" };
        table.declare(told.name, invariant);
    }
    if every {
        table.declare(NEARLY_FULL, "another leads, it waits for space");
        table.declare(FULL, "it ends or waits, the others go on");
    }
    declare_conclusion(&mut table);

    let load = Load::start(&cluster, 50, 6, seed);
    let mut disks = Disks { cluster: &mut cluster, load, random: StdRng::seed_from_u64(seed) };
    let context = |name: &'static str| move || format!("seed {seed}, {name}");
    for damage in damages {
        let (took, remark) = disks.damage(damage).await.with_context(context(damage.name))?;
        table.held(damage.name, took);
        table.remark(damage.name, remark);
    }
    for told in told {
        let (took, remark) = disks.tell(told, order).await.with_context(context(told.name))?;
        table.held(told.name, took);
        table.remark(told.name, remark);
    }
    if let Some(small) = &small {
        let took = disks.fill_nearly(small).await.with_context(context(NEARLY_FULL))?;
        table.held(NEARLY_FULL, took);
        let (took, remark) = disks.fill(small).await.with_context(context(FULL))?;
        table.held(FULL, took);
        table.remark(FULL, remark);
    }
    let Disks { load, mut random, .. } = disks;
    let fired = (damages.len() + told.len()) as u64 + 2 * u64::from(every);
    conclude(&mut cluster, load, &mut table, fired, &mut random).await?;
    cluster.stop()?;
    Ok(table)
}

struct Disks<'a> {
    cluster: &'a mut Registers,
    load: Load,
    random: StdRng,
}

/// How a replica's start ended.
enum Outcome {
    Level,
    /// With what it said.
    Ended(String),
}

impl Disks<'_> {
    fn replica(&mut self, n: usize) -> &mut Member {
        &mut self.cluster.replicas[n]
    }

    async fn somebody(&mut self, leader: bool) -> Result<usize> {
        let leads = self.cluster.leader().await?;
        let follower =
            (leads + self.random.random_range(1..self.cluster.replicas.len())) % self.cluster.replicas.len();
        Ok(if leader { leads } else { follower })
    }

    /// Starts a replica and waits until it is level with what was committed then, or has ended.
    async fn start(&mut self, n: usize) -> Result<Outcome> {
        let goal = wait::until("the leader to say how far it is", PATIENCE, async || {
            Ok(self.cluster.status(self.cluster.leader().await?).await?.committed)
        })
        .await?;
        let said = fs::metadata(&self.replica(n).log)?.len() as usize;
        self.replica(n).start()?;
        wait::until("a started replica to be level, or to end", PATIENCE, async || {
            if self.replica(n).must_live().is_err() {
                self.replica(n).reap()?;
                let log = fs::read(&self.replica(n).log)?;
                return Ok(Outcome::Ended(String::from_utf8_lossy(&log[said..]).into_owned()));
            }
            let applied = self.cluster.status(n).await?.applied;
            ensure!(applied >= goal, "it has applied {applied} of {goal}");
            Ok(Outcome::Level)
        })
        .await
    }

    async fn must_be_level(&mut self, n: usize) -> Result<()> {
        match self.start(n).await? {
            Outcome::Level => Ok(()),
            Outcome::Ended(said) => bail!("it ended though nothing was wrong any more: {said}"),
        }
    }

    async fn damage(&mut self, damage: &Damage) -> Result<(Duration, String)> {
        let victim = self.somebody(false).await?;
        // Each finds a snapshot, and a log of some length.
        wait::until("a snapshot", PATIENCE, async || {
            let status = self.cluster.status(victim).await?;
            ensure!(status.snapshot > 0, "{status:?}");
            Ok(())
        })
        .await?;
        let dir = self.cluster.data(victim);
        let kept = dir.with_extension("kept");
        let mut tries = 0;
        loop {
            self.replica(victim).kill()?;
            run("cp", &["-a", &dir.display().to_string(), &kept.display().to_string()])?;
            let Err(why) = (damage.harm)(&dir, &mut self.random) else { break };
            // Perhaps the log has just begun a new file.
            tries += 1;
            ensure!(tries < 5, "the damage could not be done: {why:#}");
            self.put_back(victim, &kept).await?;
            self.load.goes_on().await?;
        }
        let began = Instant::now();
        self.load.goes_on().await.context("without it")?;
        let took = began.elapsed();
        let outcome = self.start(victim).await?;
        let remark = match (outcome, damage.expected) {
            (Outcome::Level, Expected::Refused) => bail!("it runs as if nothing had happened"),
            (Outcome::Level, _) => {
                fs::remove_dir_all(&kept)?;
                return Ok((took, "recovered".into()));
            }
            (Outcome::Ended(said), Expected::Recovered) => bail!("it ended: {said}"),
            (Outcome::Ended(said), _) => {
                let why = said.lines().find(|line| line.starts_with("Error: "));
                why.with_context(|| format!("it ended without clear words: {said}"))?.to_owned()
            }
        };
        if remark.contains("must not vote again") {
            let Outcome::Ended(again) = self.start(victim).await? else {
                bail!("it ran when started once more")
            };
            ensure!(again.contains("was condemned"), "started once more it says: {again}");
        }
        self.put_back(victim, &kept).await?;
        Ok((took, "refused".into()))
    }

    /// Gives a stopped replica the files that it had, and starts it.
    async fn put_back(&mut self, n: usize, kept: &Path) -> Result<()> {
        let dir = self.cluster.data(n);
        fs::remove_dir_all(&dir)?;
        fs::rename(kept, &dir)?;
        self.must_be_level(n).await
    }

    async fn tell(&mut self, told: &Told, order: impl Fn(usize) -> PathBuf) -> Result<(Duration, String)> {
        self.load.goes_on().await.context("before")?;
        let victim = self.somebody(told.leader).await?;
        let order = order(victim);
        let fired = order.with_extension("fired");
        let _ = fs::remove_file(&fired);
        let said = fs::metadata(&self.replica(victim).log)?.len() as usize;
        let next = order.with_extension("next");
        fs::write(&next, told.words)?;
        fs::rename(&next, &order)?;
        let began = Instant::now();
        if told.ends_with.is_some() {
            wait::until("it to end", PATIENCE, async || {
                ensure!(self.replica(victim).must_live().is_err(), "it runs still");
                Ok(())
            })
            .await?;
        }
        self.load.goes_on().await.context("while it lasted")?;
        let took = began.elapsed();
        if told.ends_with.is_none() {
            tokio::time::sleep(LASTS.saturating_sub(took)).await;
            self.load.goes_on().await.context("while it lasted")?;
        }
        fs::remove_file(&order)?;
        let count = fs::metadata(&fired).map_or(0, |file| file.len());
        ensure!(count > 0, "the fault was never met, so nothing is known");
        let Some(words) = told.ends_with else {
            self.cluster.must_live()?;
            self.cluster.level().await.context("after it")?;
            return Ok((took, format!("met {count} times")));
        };
        self.replica(victim).reap()?;
        let log = fs::read(&self.replica(victim).log)?;
        let log = String::from_utf8_lossy(&log[said..]).into_owned();
        ensure!(log.contains(words), "it ended without saying {words:?}: {log}");
        self.must_be_level(victim).await?;
        Ok((took, String::new()))
    }

    /// The replica on the small disk leads, and its disk gets nearly full.
    async fn fill_nearly(&mut self, small: &SmallDisk) -> Result<Duration> {
        let victim = ON_SMALL_DISK;
        let mut tries = 0;
        loop {
            let leader = self.cluster.leader().await?;
            if leader == victim {
                break;
            }
            tries += 1;
            ensure!(tries <= 30, "30 leaders were killed, and none of the elections made it the leader");
            self.replica(leader).kill()?;
            self.load.goes_on().await.context("until it leads")?;
            self.must_be_level(leader).await?;
        }
        let said = fs::metadata(&self.replica(victim).log)?.len() as usize;
        let began = Instant::now();
        let ballast = small.fill(RESERVE_BYTES / 2)?;
        wait::until("it to say so", PATIENCE, async || {
            let log = fs::read(&self.replica(victim).log)?;
            ensure!(String::from_utf8_lossy(&log[said..]).contains("nearly full"), "its log does not");
            Ok(())
        })
        .await?;
        wait::until("another to lead", PATIENCE, async || {
            let leader = self.cluster.leader().await?;
            ensure!(leader != victim, "it leads still");
            Ok(())
        })
        .await?;
        self.load.goes_on().await.context("with another leader")?;
        let took = began.elapsed();
        self.cluster.must_live()?;
        fs::remove_file(&ballast)?;
        self.cluster.level().await.context("with space again")?;
        Ok(took)
    }

    async fn fill(&mut self, small: &SmallDisk) -> Result<(Duration, String)> {
        let victim = ON_SMALL_DISK;
        self.load.goes_on().await.context("before")?;
        let said = fs::metadata(&self.replica(victim).log)?.len() as usize;
        let ballast = small.fill(0)?;
        let began = Instant::now();
        self.load.goes_on().await.context("while it lasted")?;
        let took = began.elapsed();
        // It writes until it needs a new file.
        let ended = wait::until("it to end", PATIENCE / 3, async || {
            ensure!(self.replica(victim).must_live().is_err(), "it runs still");
            Ok(())
        })
        .await;
        self.load.goes_on().await.context("while it lasted")?;
        fs::remove_file(&ballast)?;
        if ended.is_err() {
            self.cluster.level().await.context("with space again")?;
            return Ok((took, "it waited for space".into()));
        }
        self.replica(victim).reap()?;
        let log = fs::read(&self.replica(victim).log)?;
        let log = String::from_utf8_lossy(&log[said..]).into_owned();
        ensure!(log.contains("No space left"), "it ended without clear words: {log}");
        self.must_be_level(victim).await?;
        Ok((took, "it ended".into()))
    }
}
