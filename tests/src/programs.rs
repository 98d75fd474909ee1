//! The programs under test: where they lie, and whether they are the ones that this source makes.
//!
//! How a program knows its commit: `make build` sets `BOREALIS_COMMIT` to `git rev-parse HEAD` (or `unknown`
//! outside of a clone), followed by `-dirty` when `git diff --quiet HEAD` says so. Each program's `main.rs`, and
//! nothing else, reads it with `option_env!("BOREALIS_COMMIT")`, `unknown` where it is not set, so that a new commit
//! only links the programs anew; cargo notices by itself when the variable changed. `--version` prints
//! `NAME VERSION (COMMIT)`.
//!
//! The harness expects the commit that `BOREALIS_COMMIT` names when it runs, or else what the same git commands say
//! now, and refuses to test anything else. `BOREALIS_COMMIT=any` tests whatever lies there, for work in progress.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The replica.
pub const SCHEDULER: &str = "borealis-scheduler";
/// The daemon of a host.
pub const AGENT: &str = "borealis-agent";
/// The process that runs a task.
pub const EXECUTOR: &str = "borealis-executor";
/// The command line for people.
pub const CLIENT: &str = "borealis";

/// A replica of the register map; not shipped.
pub const REGISTERS: &str = "registers";

/// Instead of a commit: no check.
const ANY: &str = "any";

/// The four programs, checked.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The folder they lie in.
    pub dir: PathBuf,
    /// The commit they were built from.
    pub commit: String,
}

impl Programs {
    /// Finds the programs in `$BOREALIS_BIN`, or beside this one, and checks that they are of this commit.
    pub fn find() -> Result<Programs> {
        let programs = Programs::somewhere()?;
        for name in [SCHEDULER, AGENT, EXECUTOR, CLIENT] {
            programs.check(name)?;
        }
        Ok(programs)
    }

    /// The path of one program, found and checked in the same way.
    pub fn find_one(name: &str) -> Result<PathBuf> {
        let programs = Programs::somewhere()?;
        programs.check(name)?;
        Ok(programs.path(name))
    }

    fn somewhere() -> Result<Programs> {
        let dir = match std::env::var_os("BOREALIS_BIN") {
            Some(dir) => PathBuf::from(dir),
            None => beside_this_program()?,
        };
        let dir = dir.canonicalize().with_context(|| {
            format!("no folder {}; set BOREALIS_BIN to the one that `make build` fills", dir.display())
        })?;
        Ok(Programs { dir, commit: expected_commit() })
    }

    /// The path of one program.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn check(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        let output = Command::new(&path)
            .arg("--version")
            .output()
            .with_context(|| format!("cannot run {}; build it with `make build`", path.display()))?;
        ensure!(output.status.success(), "`{} --version` failed: {}", path.display(), output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        judge_version(name, text.trim(), &self.commit)
            .with_context(|| format!("{} is not what this source makes", path.display()))
    }
}

/// Whether `NAME VERSION (COMMIT)` is this program of that commit.
pub fn judge_version(name: &str, printed: &str, commit: &str) -> Result<()> {
    if commit == ANY {
        return Ok(());
    }
    let rest = printed
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix(' '))
        .with_context(|| format!("it says {printed:?}, which does not begin with {name:?}"))?;
    let built = rest
        .split_once(" (")
        .and_then(|(_, commit)| commit.strip_suffix(')'))
        .with_context(|| format!("it says {printed:?}, which names no commit in parentheses"))?;
    if built != commit {
        bail!("it was built from `{built}`, the source is at `{commit}`; run `make build` and try again");
    }
    Ok(())
}

/// The commit that programs must come from.
pub fn expected_commit() -> String {
    std::env::var("BOREALIS_COMMIT").ok().filter(|commit| !commit.is_empty()).unwrap_or_else(described_commit)
}

fn described_commit() -> String {
    let git = |arguments: &[&str]| Command::new("git").args(arguments).current_dir(source_dir()).output();
    let head = git(&["rev-parse", "HEAD"]).ok().filter(|output| output.status.success());
    let mut commit = match head {
        Some(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        None => "unknown".into(),
    };
    if !git(&["diff", "--quiet", "HEAD"]).is_ok_and(|output| output.status.success()) {
        commit.push_str("-dirty");
    }
    commit
}

/// The root of the source tree.
pub fn source_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a folder of the workspace")
}

fn beside_this_program() -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot tell where this program lies")?;
    // Test binaries lie in `deps`, one below the programs.
    let mut dir = me.parent().context("this program has no folder")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("`deps` has no parent")?;
    }
    Ok(dir.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_another_commit_is_refused() {
        assert!(judge_version("borealis", "borealis 0.1.0 (abc)", "abc").is_ok());
        assert!(judge_version("borealis", "borealis 0.1.0", "any").is_ok());
        for (printed, word) in [
            ("borealis 0.1.0 (abd)", "built from `abd`"),
            ("borealis 0.1.0 (abc-dirty)", "abc-dirty"),
            ("borealis 0.1.0", "no commit"),
            ("borealis-agent 0.1.0 (abc)", "does not begin"),
        ] {
            let why = judge_version("borealis", printed, "abc").unwrap_err().to_string();
            assert!(why.contains(word), "{printed}: {why}");
        }
    }
}
