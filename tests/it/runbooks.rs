//! Every page of `deploy/runbooks`: its shell blocks, in their order, against real replicas.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tests::cluster::{self, free_ports};
use tests::processes;
use tests::programs::Programs;
use tests::wait;

/// A page takes less than this, or hangs.
const PAGE_MAX: Duration = Duration::from_secs(240);

/// The shell blocks of a page, one behind the other.
fn script(page: &str) -> String {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```bash" => inside = true,
            "```" => inside = false,
            line if inside => lines.push(line),
            _ => {}
        }
    }
    lines.join("\n")
}

/// Four replicas' addresses, none of which anybody uses.
fn addresses() -> Result<BTreeMap<String, String>> {
    let names = ["A", "B", "C", "D"].into_iter().flat_map(|name| [name.to_owned(), format!("{name}_RAFT")]);
    let ports = free_ports(8)?.into_iter().map(|port| format!("127.0.0.1:{port}"));
    Ok(names.zip(ports).collect())
}

/// A page's shell; whatever it started ends with it.
struct Shell {
    bash: Child,
    home: tempfile::TempDir,
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _has_ended = self.bash.kill();
        let _is_gone = self.bash.wait();
        if let Err(left) = processes::sweep(self.home.path(), Duration::from_secs(10)) {
            eprintln!("a runbook left something behind: {left:#}");
        }
    }
}

async fn execute(page: &Path) -> Result<()> {
    let text = std::fs::read_to_string(page)?;
    let home = tempfile::tempdir()?;
    let programs = Programs::find()?.dir;
    let root = page.ancestors().nth(3).context("the project's root")?;
    let log = std::fs::File::create(home.path().join("out"))?;
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = Command::new("bash");
    bash.args(["-euxo", "pipefail", "-c", &script(&text)]).current_dir(root);
    bash.env("PATH", path).env("BOREALIS_BIN", &programs).env("DIR", home.path()).envs(addresses()?);
    bash.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut shell = Shell { bash: bash.spawn()?, home };
    let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let ended =
        wait::until(&format!("the end of {name}"), PAGE_MAX, async || match shell.bash.try_wait()? {
            Some(ended) => Ok(ended),
            None => bail!("it runs still"),
        })
        .await;
    let said = std::fs::read_to_string(shell.home.path().join("out")).unwrap_or_default();
    let end: Vec<&str> = said.lines().rev().take(60).collect();
    let end: Vec<&str> = end.into_iter().rev().collect();
    let ended = ended.with_context(|| format!("{name} hangs:\n{}", end.join("\n")))?;
    ensure!(ended.success(), "{name} ended with {ended}:\n{}", end.join("\n"));
    Ok(())
}

fn pages() -> Result<Vec<PathBuf>> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/runbooks").canonicalize()?;
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(home)? {
        let path = entry?.path();
        let is_page = path.extension().is_some_and(|ending| ending == "md");
        if is_page && path.file_name().is_some_and(|name| name != "README.md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(pages)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_runbook_can_be_executed_as_it_stands() -> Result<()> {
    let pages = pages()?;
    ensure!(pages.len() >= 4, "only {} pages", pages.len());
    for page in pages {
        let _turn = cluster::turn().await;
        execute(&page).await?;
    }
    Ok(())
}
