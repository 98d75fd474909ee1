//! `recover`: a new cluster in the place of a directory, which is kept beside it.
//!
//! All checks come first, and are the same with and without `--yes`. The new directory is made whole under another name;
//! then the old one gets out of its way, and it gets its name. A process that is killed between these two is told of by
//! the next try, which does what is left.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use proto::NodeId;
use replication::Identity;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::{PATIENCE, Place, say, say_next, to_text};
use crate::machine::Machine;

/// Ending of the new directory until it is whole.
const NEW: &str = "recovering";
/// Ending of the old one, before its number.
const KEPT: &str = "before-epoch-";

/// Recovers what `named` has, or finishes a recovery of it that broke off; without `yes` only says what would be done.
pub(super) fn run(named: &Path, place: &Place, yes: bool, await_minute: bool) -> anyhow::Result<()> {
    let dir = whole(named)?;
    if !exists(&dir)? {
        return finish(&dir, place, yes);
    }
    let found = replication::inspect(&dir).map_err(|why| told_what_is_beside(&dir, why.into()))?;
    let level =
        found.identity.as_ref().map(|_| replication::level::<Machine>(&dir).map_err(|e| e.to_string()));
    say(to_text(&dir, &found, level.clone()))?;
    let old = replication::may_recover(&dir).map_err(|why| told_what_is_beside(&dir, why.into()))?;
    if let Some(Err(why)) = level {
        bail!("{why}");
    }
    let (new, kept) = (beside(&dir, NEW), beside(&dir, &format!("{KEPT}{}", old.epoch + 1)));
    let mut options = place.options(&new, &old.cluster)?;
    options.await_minute = await_minute;
    refuse_immovable(&dir)?;
    ensure!(
        !exists(&kept)?,
        "{} is in the way: an earlier recovery kept its directory there; move it away and repeat",
        kept.display()
    );
    let others: Vec<String> = found
        .members
        .iter()
        .filter(|m| m.node_id != old.node_id)
        .map(|m| NodeId(m.node_id).to_string())
        .collect();
    say(format_args!(
        "\nA new cluster would hold all of this. What only {} had is lost: every change that they acknowledged without this replica, which is each entry behind the last one above. If the directory of one of them can still be read, inspect it too, and recover the one whose last entry has the highest term, then the highest index.",
        if others.is_empty() { "others".to_owned() } else { others.join(", ") }
    ))?;
    if !yes {
        return say(
            "Nothing was changed. Make sure that no other replica of the old cluster runs, then repeat with --yes.",
        );
    }
    if exists(&new)? {
        // Of a try that broke off: it belongs to nobody.
        fs::remove_dir_all(&new).with_context(|| format!("removing {}", new.display()))?;
    }
    if await_minute {
        eprintln!("{PATIENCE}");
    }
    let identity = replication::recover::<Machine>(&dir, &options)?;
    rename(&dir, &kept)?;
    rename(&new, &dir).with_context(|| {
        format!("the old directory is {} already; repeat the command to finish", kept.display())
    })?;
    say(format_args!("The old directory is kept as {}.", kept.display()))?;
    say_next(&identity, &dir, &place.api)
}

/// There is no directory `dir`: what an earlier recovery left beside it gets its name, if it is whole.
fn finish(dir: &Path, place: &Place, yes: bool) -> anyhow::Result<()> {
    let new = beside(dir, NEW);
    let kept = kept(dir)?;
    let Some(newest) = kept.last() else {
        bail!("there is no data directory {}", dir.display());
    };
    let made = if exists(&new)? { replication::identity(&new)? } else { None };
    let Some(made) = made.filter(|made| follows(newest, made)) else {
        bail!(
            "there is no data directory {}; an earlier recovery kept it as {} and there is no new one: rename that back and repeat",
            dir.display(),
            newest.display()
        );
    };
    let found = replication::inspect(&new)?;
    let there: Vec<_> = found.members.iter().map(|m| (&*m.api_address, &*m.raft_address)).collect();
    ensure!(
        there == [(&*place.api, &*place.raft)],
        "an earlier recovery broke off, and its new cluster in {} was made for other addresses: {there:?} as --api and --raft; repeat with those, or remove it, rename {} to {} and repeat",
        new.display(),
        newest.display(),
        dir.display()
    );
    say(format_args!(
        "An earlier recovery broke off: the old directory is {} already, and the new cluster lies whole in {}.",
        newest.display(),
        new.display()
    ))?;
    if !yes {
        return say("Nothing was changed. Repeat with --yes to give the new one its place.");
    }
    rename(&new, dir)?;
    say_next(&made, dir, &place.api)
}

/// Whether `made` is the new cluster of what lies in `kept`.
fn follows(kept: &Path, made: &Identity) -> bool {
    replication::identity(kept)
        .is_ok_and(|old| old.is_some_and(|old| old.lineage_id == made.lineage_id && old.epoch < made.epoch))
}

/// The directories that recoveries of `dir` kept, the latest last.
fn kept(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let above = dir.parent().unwrap_or(dir);
    let prefix = beside(dir, KEPT);
    let prefix = prefix.file_name().unwrap_or_default().to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir(above).with_context(|| format!("listing {}", above.display()))? {
        let entry = entry.with_context(|| format!("listing {}", above.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        found.extend(name.strip_prefix(&*prefix).and_then(|n| Some((n.parse::<u64>().ok()?, entry.path()))));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// A directory that is none, or nobody's, may stand where a recovery that broke off has left its own aside.
fn told_what_is_beside(dir: &Path, why: anyhow::Error) -> anyhow::Error {
    let new = beside(dir, NEW);
    match (kept(dir).ok().and_then(|mut kept| kept.pop()), exists(&new)) {
        (Some(kept), Ok(true)) => why.context(format!(
            "an earlier recovery of {} broke off and left {} and {}; if nothing but that has been done since, move {} away and repeat to finish it",
            dir.display(),
            kept.display(),
            new.display(),
            dir.display()
        )),
        _ => why,
    }
}

/// The directory itself, whatever link or relative path names it; it need not be there.
fn whole(named: &Path) -> anyhow::Result<PathBuf> {
    match fs::canonicalize(named) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        done => return done.with_context(|| format!("finding {}", named.display())),
    }
    let above = match named.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    if let Ok(target) = fs::read_link(named) {
        return whole(&above.join(target));
    }
    let Some(name) = named.file_name() else { bail!("there is no data directory {}", named.display()) };
    let above =
        fs::canonicalize(above).with_context(|| format!("there is no data directory {}", named.display()))?;
    Ok(above.join(name))
}

/// A mount point cannot be renamed.
fn refuse_immovable(dir: &Path) -> anyhow::Result<()> {
    let looking = || format!("looking at {}", dir.display());
    let found = statx(CWD, dir, AtFlags::empty(), StatxFlags::BASIC_STATS).with_context(looking)?;
    let is_mount = match dir.parent() {
        None => true,
        Some(above) => {
            found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
                || fs::metadata(dir).with_context(looking)?.dev()
                    != fs::metadata(above).with_context(looking)?.dev()
        }
    };
    ensure!(
        !is_mount,
        "{} is a mount point, which cannot be renamed to be kept; copy all that is in it into a directory beside or below it, recover that one, and start the replica with that --dir",
        dir.display()
    );
    Ok(())
}

fn exists(path: &Path) -> anyhow::Result<bool> {
    path.try_exists().with_context(|| format!("looking at {}", path.display()))
}

/// Renames, for good.
fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(from, to).with_context(|| format!("renaming {} to {}", from.display(), to.display()))?;
    Ok(transfer::sync_dir(to.parent().unwrap_or(to))?)
}

/// `DIR.ENDING`, beside `DIR`.
fn beside(dir: &Path, ending: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    dir.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_found_whatever_names_it() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let link = home.join("link");
        std::os::unix::fs::symlink("a", &link).unwrap();
        for there in [false, true] {
            if there {
                fs::create_dir(home.join("a")).unwrap();
            }
            for named in
                [home.join("a"), home.join("a/"), link.clone(), home.join("../").join(&home).join("a")]
            {
                assert_eq!(whole(&named).unwrap(), home.join("a"), "{} {there}", named.display());
            }
        }
        assert_eq!(whole(Path::new(".")).unwrap(), std::env::current_dir().unwrap().canonicalize().unwrap());
    }

    #[test]
    fn a_mount_point_is_refused() {
        for mount in ["/", "/proc"] {
            let why = refuse_immovable(Path::new(mount)).unwrap_err().to_string();
            assert!(why.contains("mount point"), "{why}");
        }
        refuse_immovable(tempfile::tempdir().unwrap().path()).unwrap();
    }
}
