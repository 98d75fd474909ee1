//! The file `claim`: whoever makes it first decides whether the task runs.
//!
//! The executor makes it as its first effect; an agent that finds a launch intent after a crash, and no executor,
//! makes it as "abandoned", after which an executor that comes late ends at once. The file appears whole or not at
//! all: it is written under another name and linked. It is not synced, since a machine that lost it has lost the
//! executor as well.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;

use crate::identity::ProcessIdentity;
use crate::layout::TaskDir;

/// Who was first.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// This executor runs the task, or ran it.
    Executor(ProcessIdentity),
    /// An agent gave the launch up; the task never runs.
    Abandoned,
}

impl Claim {
    fn to_text(&self) -> String {
        match self {
            Claim::Executor(id) => format!("executor {} {} {}\n", id.pid, id.start_ticks, id.boot_id),
            Claim::Abandoned => "abandoned\n".into(),
        }
    }

    fn from_text(text: &str) -> Option<Claim> {
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["abandoned"] => Some(Claim::Abandoned),
            ["executor", pid, ticks, boot_id] => Some(Claim::Executor(ProcessIdentity {
                pid: pid.parse().ok()?,
                start_ticks: ticks.parse().ok()?,
                boot_id: boot_id.into(),
            })),
            _ => None,
        }
    }
}

/// Tries to be first. `Ok(None)`: we are. `Ok(Some(claim))`: that one was.
pub fn take(dir: &TaskDir, claim: &Claim) -> io::Result<Option<Claim>> {
    let own = dir.root().join(format!("claim.{}", std::process::id()));
    let _ = fs::remove_file(&own);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&own)?;
    io::Write::write_all(&mut file, claim.to_text().as_bytes())?;
    let linked = fs::hard_link(&own, dir.claim());
    let _ = fs::remove_file(&own);
    match linked {
        Ok(()) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => read(dir)?.map(Some).ok_or(e),
        Err(e) => Err(e),
    }
}

/// Who was first, if anybody was.
pub fn read(dir: &TaskDir) -> io::Result<Option<Claim>> {
    let path = dir.claim();
    match fs::read_to_string(&path) {
        Ok(text) => Claim::from_text(&text).map(Some).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: is not a claim: {text:?}", path.display()),
            )
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_claim_stays() {
        let temp = tempfile::tempdir().unwrap();
        let dir = TaskDir::new(temp.path());
        let executor = Claim::Executor(crate::identity::of(std::process::id() as i32).unwrap());
        assert_eq!(read(&dir).unwrap(), None);
        assert_eq!(take(&dir, &executor).unwrap(), None);
        assert_eq!(take(&dir, &Claim::Abandoned).unwrap(), Some(executor.clone()));
        assert_eq!(read(&dir).unwrap(), Some(executor));
        std::fs::write(dir.claim(), "what").unwrap();
        assert!(read(&dir).is_err());
        assert!(take(&dir, &Claim::Abandoned).is_err());
    }
}
