//! Backups by the clock: every replica that is told to takes its own, keeps the newest ones, and runs a command after
//! each, such as one that copies it away.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::options::Options;
use crate::running::Replica;
use crate::telemetry;

/// How long the command after a backup may run.
const COMMAND_MAX: Duration = Duration::from_secs(3600);
/// Every backup's name begins so.
const PREFIX: &str = "borealis-";

/// Takes backups for as long as the replica runs, if the options say where.
pub async fn keep(replica: Replica, options: Options) {
    let Some(home) = options.backup_dir.clone() else { return };
    loop {
        tokio::time::sleep(Duration::from_secs(options.backup_every_s)).await;
        match take(&replica, &home, &options).await {
            Ok(name) => {
                metrics::counter!(telemetry::BACKUPS, "outcome" => "taken").increment(1);
                tracing::info!(name = %name.display(), "a backup was taken");
            }
            Err(why) => {
                metrics::counter!(telemetry::BACKUPS, "outcome" => "failed").increment(1);
                tracing::error!("no backup was taken: {why:#}");
            }
        }
    }
}

async fn take(replica: &Replica, home: &Path, options: &Options) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(home).with_context(|| format!("creating {}", home.display()))?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = home.join(format!("{PREFIX}{:013}", since.as_millis()));
    replica.backup_to(&name).await?;
    metrics::gauge!(telemetry::BACKUP_TAKEN).set(since.as_secs_f64());
    for old in surplus(names(home)?, options.backup_keep) {
        std::fs::remove_dir_all(&old).with_context(|| format!("removing {}", old.display()))?;
    }
    if let Some(command) = &options.backup_command {
        let mut shell = tokio::process::Command::new("sh");
        let running = shell.arg("-c").arg(command).env("BOREALIS_BACKUP", &name).kill_on_drop(true).status();
        let status = tokio::time::timeout(COMMAND_MAX, running)
            .await
            .context("the command after the backup ran for an hour and was ended")?
            .context("running the command after the backup")?;
        anyhow::ensure!(
            status.success(),
            "the backup {} is there, but the command after it ended with {status}",
            name.display()
        );
    }
    Ok(name)
}

/// The backups in a directory; what is half written is none.
fn names(home: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(home).with_context(|| format!("listing {}", home.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let ours = |path: &PathBuf| {
        path.extension().is_none()
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
    };
    Ok(paths.filter(ours).collect())
}

/// Of backups whose names carry their time, all but the newest `keep`.
fn surplus(mut backups: Vec<PathBuf>, keep: usize) -> Vec<PathBuf> {
    backups.sort();
    let kept = backups.len().min(keep.max(1));
    backups.truncate(backups.len() - kept);
    backups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let all = paths(&["borealis-3", "borealis-1", "borealis-2"]);
        assert_eq!(surplus(all.clone(), 2), paths(&["borealis-1"]));
        assert_eq!(surplus(all.clone(), 9), paths(&[]));
        assert_eq!(surplus(all, 0).len(), 2, "one is always kept");
    }
}
