//! Backups by the clock: every replica that is told to takes its own, keeps the newest ones, and runs a command after
//! each, such as one that copies it away.
//!
//! Several replicas, even of several clusters, may write into one directory. Each counts and removes only what it wrote
//! itself: a backup says in its manifest of which cluster and which replica it is. Those of the cluster that this one
//! was restored from are left to people.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::options::Options;
use crate::running::Replica;
use crate::telemetry;

/// How long the command after a backup may run.
const COMMAND_MAX: Duration = Duration::from_secs(3600);
/// Every backup's name begins so; then comes the time it was taken at, in milliseconds.
const PREFIX: &str = "borealis-";
/// Digits of that time, at least.
const DIGITS: usize = 13;
/// A replica that knows all that was committed so long ago has something to back up.
const FRESH: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Takes backups for as long as the replica runs, if the options say where.
pub async fn keep(replica: Replica, options: Options) {
    let Some(home) = options.backup_dir.clone() else { return };
    let every = Duration::from_secs(options.backup_every_s);
    // One that is started more often than that takes them all the same.
    let newest = own(&home, &replica).ok().and_then(|own| own.into_iter().next_back());
    if let Some(newest) = newest.as_ref().filter(|_| options.backup_command.is_none()) {
        metrics::gauge!(telemetry::BACKUP_TAKEN).set(newest.taken_ms as f64 / 1e3);
    }
    tokio::time::sleep(due_in(newest.map(|newest| newest.taken_ms), now_ms(), every)).await;
    // What it has before it has heard a leader may be nothing.
    let begun = Instant::now();
    while replica.age().is_none_or(|age| age > FRESH) && begun.elapsed() < every {
        tokio::time::sleep(LOOK).await;
    }
    loop {
        one(&replica, &home, &options).await;
        tokio::time::sleep(every).await;
    }
}

/// Takes one, runs the command, and removes what is too old.
async fn one(replica: &Replica, home: &Path, options: &Options) {
    let count = |outcome| metrics::counter!(telemetry::BACKUPS, "outcome" => outcome).increment(1);
    let name = match take(replica, home).await {
        Ok(name) => name,
        Err(why) => {
            count("failed");
            return tracing::error!("no backup was taken: {why:#}");
        }
    };
    if let Err(why) = run_command(options.backup_command.as_deref(), &name).await {
        count("command_failed");
        tracing::error!(name = %name.display(), "a backup was taken, but the command after it failed: {why:#}");
    } else {
        count("taken");
        metrics::gauge!(telemetry::BACKUP_TAKEN).set(now_ms() as f64 / 1e3);
        tracing::info!(name = %name.display(), "a backup was taken");
    }
    let removed = own(home, replica).and_then(|own| {
        surplus(own, options.backup_keep, &name).into_iter().try_for_each(|old| {
            std::fs::remove_dir_all(&old.path).with_context(|| format!("removing {}", old.path.display()))
        })
    });
    if let Err(why) = removed {
        tracing::error!("old backups stay: {why:#}");
    }
}

async fn take(replica: &Replica, home: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(home).with_context(|| format!("creating {}", home.display()))?;
    for left in leftovers(home, &replica.part_ending())? {
        std::fs::remove_dir_all(&left).with_context(|| format!("removing {}", left.display()))?;
    }
    let newest = own(home, replica)?.last().map(|newest| newest.at);
    let name = home.join(format!("{PREFIX}{:0DIGITS$}", next(newest, now_ms())));
    replica.backup_to(&name).await?;
    Ok(name)
}

async fn run_command(command: Option<&str>, backup: &Path) -> anyhow::Result<()> {
    let Some(command) = command else { return Ok(()) };
    let mut shell = tokio::process::Command::new("sh");
    let running = shell.arg("-c").arg(command).env("BOREALIS_BACKUP", backup).kill_on_drop(true).status();
    let status = tokio::time::timeout(COMMAND_MAX, running)
        .await
        .context("it ran for an hour and was ended")?
        .context("it could not be started")?;
    anyhow::ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn now_ms() -> u64 {
    crate::leader::clock::wall_ms()
}

/// A backup that this replica wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Own {
    /// Of its name: later ones have more.
    at: u64,
    /// What the wall clock showed.
    taken_ms: u64,
    path: PathBuf,
}

/// This replica's backups in a directory, the newest last.
fn own(home: &Path, replica: &Replica) -> anyhow::Result<Vec<Own>> {
    let identity = replica.identity();
    written_by(home, &identity.cluster_id, identity.node_id)
}

fn written_by(home: &Path, cluster_id: &str, node_id: u64) -> anyhow::Result<Vec<Own>> {
    let read = |path: PathBuf| {
        let at = number(path.file_name()?.to_str()?)?;
        let manifest = transfer::read_manifest(&path).ok()?;
        let is_own = manifest.cluster_id == cluster_id && manifest.node_id == node_id;
        is_own.then_some(Own { at, taken_ms: manifest.taken_ms, path })
    };
    let mut own: Vec<Own> = list(home)?.filter_map(read).collect();
    own.sort_by_key(|backup| backup.at);
    Ok(own)
}

/// The number in a backup's name, if it is such a name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    let are_digits = digits.len() >= DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| are_digits)
}

/// What this replica, when it was killed, left of backups half written.
fn leftovers(home: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let is_left = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PREFIX) && name.ends_with(ending)
    };
    Ok(list(home)?.filter(is_left).collect())
}

fn list(home: &Path) -> anyhow::Result<impl Iterator<Item = PathBuf>> {
    let entries = std::fs::read_dir(home).with_context(|| format!("listing {}", home.display()))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())))
}

/// The number of the next backup: above all others, whatever the wall clock shows.
fn next(newest: Option<u64>, now_ms: u64) -> u64 {
    newest.map_or(now_ms, |newest| now_ms.max(newest.saturating_add(1)))
}

/// How long until the next backup, if the newest was taken at that time; one of the future says nothing.
fn due_in(taken_ms: Option<u64>, now_ms: u64, every: Duration) -> Duration {
    let age = taken_ms.and_then(|taken| now_ms.checked_sub(taken)).map(Duration::from_millis);
    age.map_or(Duration::ZERO, |age| every.saturating_sub(age))
}

/// Of backups in order, all but the newest `keep`; never the one that was just made.
fn surplus(mut own: Vec<Own>, keep: usize, made: &Path) -> Vec<Own> {
    own.truncate(own.len().saturating_sub(keep.max(1)));
    own.retain(|backup| backup.path != made);
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::raft::{BackupManifest, SnapshotMeta};

    fn backup(home: &Path, name: &str, cluster_id: &str, node_id: u64) -> PathBuf {
        let (arrived, name) = (home.join("arriving"), home.join(name));
        std::fs::create_dir(&arrived).unwrap();
        let manifest = BackupManifest {
            level: 1,
            snapshot: Some(SnapshotMeta::default()),
            cluster_id: cluster_id.into(),
            node_id,
            taken_ms: 7,
            ..BackupManifest::default()
        };
        transfer::seal(&arrived, &manifest, &name).unwrap();
        name
    }

    #[test]
    fn a_replica_counts_only_its_own_backups() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let second = backup(home, "borealis-0000000000200", "c", 1);
        let first = backup(home, "borealis-0000000000100", "c", 1);
        backup(home, "borealis-0000000000300", "c", 2);
        backup(home, "borealis-0000000000400", "d", 1);
        backup(home, "borealis-500", "c", 1);
        backup(home, "borealis-0000000000600x", "c", 1);
        for dir in ["borealis-0000000000700", "borealis-www", "borealis-0000000000800.x.mine.part"] {
            std::fs::create_dir(home.join(dir)).unwrap();
        }
        std::fs::write(home.join("borealis-0000000000900"), "a file").unwrap();
        std::fs::create_dir(home.join("borealis-0000000000800.y.others.part")).unwrap();
        let own = written_by(home, "c", 1).unwrap();
        let paths: Vec<&PathBuf> = own.iter().map(|backup| &backup.path).collect();
        assert_eq!(paths, [&first, &second]);
        assert_eq!(next(own.last().map(|newest| newest.at), 150), 201, "a clock that went back");
        assert_eq!(leftovers(home, ".mine.part").unwrap(), [home.join("borealis-0000000000800.x.mine.part")]);
    }

    #[test]
    fn the_newest_are_kept_and_the_one_just_made() {
        let all: Vec<Own> =
            (1..=3).map(|at| Own { at, taken_ms: at, path: format!("/b/{at}").into() }).collect();
        let gone = |keep, made: &str| {
            surplus(all.clone(), keep, Path::new(made)).iter().map(|old| old.at).collect::<Vec<_>>()
        };
        assert_eq!(gone(2, "/b/3"), [1]);
        assert_eq!(gone(9, "/b/3"), [0; 0]);
        assert_eq!(gone(0, "/b/3"), [1, 2], "one is always kept");
        assert_eq!(gone(1, "/b/1"), [2]);
    }

    #[test]
    fn the_next_is_above_all_and_comes_when_the_newest_is_old() {
        assert_eq!((next(None, 50), next(Some(40), 50), next(Some(60), 50)), (50, 50, 61));
        let minute = Duration::from_secs(60);
        assert_eq!(due_in(None, 100_000, minute), Duration::ZERO);
        assert_eq!(due_in(Some(90_000), 100_000, minute), Duration::from_secs(50));
        assert_eq!(due_in(Some(30_000), 100_000, minute), Duration::ZERO);
        assert_eq!(due_in(Some(200_000), 100_000, minute), Duration::ZERO, "the clock went back");
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_apart() {
        let backup = Path::new("/b/1");
        assert!(run_command(None, backup).await.is_ok());
        assert!(run_command(Some("test $BOREALIS_BACKUP = /b/1"), backup).await.is_ok());
        let why = run_command(Some("exit 3"), backup).await.unwrap_err().to_string();
        assert!(why.contains("exit status: 3"), "{why}");
    }
}
