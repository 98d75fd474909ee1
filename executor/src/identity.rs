//! Who a process is: pid, start time and boot id together. A pid alone may be another's after a while.

use std::io;

pub use proto::wire::ProcessIdentity;

/// What `/proc/PID/stat` says, as far as it is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: i32,
    /// `R`, `S`, `D`, `Z`, `X`, ...
    pub state: char,
    /// Parent.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    /// Session.
    pub session: i32,
    /// Clock ticks after boot at which it started.
    pub start_ticks: u64,
}

impl Stat {
    /// Of a process that exists, zombie or not.
    pub fn of(pid: i32) -> io::Result<Stat> {
        let text = std::fs::read(format!("/proc/{pid}/stat"))?;
        parse_stat(&String::from_utf8_lossy(&text)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat makes no sense"))
        })
    }

    /// Whether it has ended and only waits for its parent to look.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The name in parentheses may hold anything, even parentheses and spaces: fields are counted from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let pid = text.split(' ').next()?.parse().ok()?;
    let rest: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let number = |field: usize| rest.get(field).and_then(|word| word.parse().ok());
    Some(Stat {
        pid,
        state: rest.first()?.chars().next()?,
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        start_ticks: rest.get(19)?.parse().ok()?,
    })
}

/// Random id of this boot of the machine.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Identity of a process that exists now.
pub fn of(pid: i32) -> io::Result<ProcessIdentity> {
    Ok(ProcessIdentity { pid, start_ticks: Stat::of(pid)?.start_ticks, boot_id: boot_id()? })
}

/// Whether this very process still runs; a zombie does not.
pub fn is_alive(identity: &ProcessIdentity) -> bool {
    identity.pid > 0
        && boot_id().is_ok_and(|boot_id| boot_id == identity.boot_id)
        && Stat::of(identity.pid)
            .is_ok_and(|stat| stat.start_ticks == identity.start_ticks && !stat.is_zombie())
}

/// All processes of the machine that can be seen, in no order. Those that end while it looks are left out.
pub fn all() -> io::Result<Vec<Stat>> {
    let mut stats = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            stats.extend(Stat::of(pid).ok());
        }
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let text = "42 (a) R 1 (b) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 10 11 12\n";
        let want = Stat { pid: 42, state: 'S', parent: 7, group: 42, session: 41, start_ticks: 987_654 };
        assert_eq!(parse_stat(text), Some(want));
        for bad in ["", "42", "42 (", "x (a) S 1 1 1", "42 (a) S 7 42 41"] {
            assert_eq!(parse_stat(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_process_is_alive_until_it_ends_and_its_pid_is_not_enough() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let identity = of(child.id() as i32).unwrap();
        assert!(is_alive(&identity));
        assert!(!is_alive(&ProcessIdentity { start_ticks: identity.start_ticks + 1, ..identity.clone() }));
        assert!(!is_alive(&ProcessIdentity { boot_id: "another".into(), ..identity.clone() }));
        assert!(!is_alive(&ProcessIdentity::default()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&identity));
    }
}
