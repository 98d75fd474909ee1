//! What this host and this process can do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What can be enforced here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Whether this process is root: may become other users.
    pub root: bool,
    /// The usable cgroups.
    pub cgroups: Hierarchy,
    /// Whether pid namespaces may be made, as far as can be seen; the executor's own test decides.
    pub pid_namespaces: bool,
    /// What is missing and why, a sentence each, for the log at start.
    pub missing: Vec<String>,
}

/// Cgroups as mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// Controller name to mount point: `cpu`, `cpuacct`, `memory`, `pids`, `freezer`.
    V1(BTreeMap<String, PathBuf>),
    /// The unified hierarchy and those of its controllers that may be used.
    V2 {
        /// Mount point.
        mount: PathBuf,
        /// Names.
        controllers: Vec<String>,
    },
    /// None that this process may use.
    None,
}

/// The value of the attribute `isolation` of a host where a task can be shut in a pid namespace. A job of which at most one
/// instance may live is placed only there: the scheduler looks for this very word.
pub const PID_NAMESPACE: &str = "pid_namespace";

const V1_WANTED: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "freezer"];

impl Host {
    /// Looks at the machine. Makes and removes one empty cgroup per hierarchy to see whether it may.
    pub fn detect() -> Host {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = rustix::process::geteuid().is_root();
        let mut missing = Vec::new();
        if !root {
            missing.push("not root: tasks run as the user of the agent, whatever their role".to_owned());
        }
        let (cgroups, why) =
            usable(Hierarchy::from_mounts(&mounts, |path| std::fs::read_to_string(path).ok()));
        missing.extend(why);
        let mut host = Host { root, cgroups, pid_namespaces: true, missing };
        if !root {
            host.no_pid_namespaces("not root");
        } else if !Path::new("/proc/self/ns/pid").exists() {
            host.no_pid_namespaces("this kernel has none");
        }
        host
    }

    /// Notes that no task can be shut in a pid namespace here, and why.
    pub fn no_pid_namespaces(&mut self, why: &str) {
        self.pid_namespaces = false;
        self.missing.push(format!(
            "no pid namespaces: {why}; jobs of which at most one instance may live are not placed here"
        ));
    }

    /// Values of the host's attribute `isolation`, for constraints and for people; `["none"]` where nothing is held.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.root {
            words.push("users".to_owned());
        }
        let (version, controllers) = match &self.cgroups {
            Hierarchy::V1(controllers) => ("cgroup-v1", controllers.keys().cloned().collect()),
            Hierarchy::V2 { controllers, .. } => ("cgroup-v2", controllers.clone()),
            Hierarchy::None => ("", Vec::new()),
        };
        if !version.is_empty() {
            words.push(version.to_owned());
            words.extend(controllers.into_iter().filter(|c| matches!(c.as_str(), "cpu" | "memory" | "pids")));
        }
        if self.pid_namespaces {
            words.push(PID_NAMESPACE.to_owned());
        }
        if words.is_empty() {
            words.push("none".to_owned());
        }
        words
    }
}

impl Hierarchy {
    /// Reads a mount table. v2 is chosen when it has cpu, memory and pids; else v1 where it has at least one of
    /// them; a hybrid host (v2 mounted with nothing of use in it) is therefore v1.
    pub fn from_mounts(mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Hierarchy {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in mounts.lines() {
            let mut words = line.split(' ');
            let (Some(_), Some(at), Some(kind), Some(options)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let at = PathBuf::from(at.replace("\\040", " "));
            match kind {
                "cgroup" => {
                    for option in options.split(',').filter(|option| V1_WANTED.contains(option)) {
                        v1.entry(option.to_owned()).or_insert_with(|| at.clone());
                    }
                }
                "cgroup2" if v2.is_none() => {
                    let names = read(&at.join("cgroup.controllers")).unwrap_or_default();
                    let controllers: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
                    v2 = Some((at, controllers));
                }
                _ => {}
            }
        }
        let of_use = |name: &str| matches!(name, "cpu" | "memory" | "pids");
        match v2 {
            Some((mount, controllers)) if controllers.iter().filter(|name| of_use(name)).count() == 3 => {
                Hierarchy::V2 { mount, controllers }
            }
            _ if v1.keys().any(|name| of_use(name)) => Hierarchy::V1(v1),
            _ => Hierarchy::None,
        }
    }
}

/// Keeps what this process may make cgroups in.
fn usable(found: Hierarchy) -> (Hierarchy, Vec<String>) {
    // Several may look at once, in one process too.
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    let name = format!("borealis-probe-{}-{}", std::process::id(), LOOKS.fetch_add(1, Ordering::Relaxed));
    let probe = |mount: &Path| {
        let directory = mount.join(&name);
        std::fs::create_dir(&directory).and_then(|()| std::fs::remove_dir(&directory))
    };
    let no = |name: &str, mount: &Path, e: std::io::Error| {
        format!(
            "no cgroup {name}: cannot make a directory in {}: {e}; its limits do not hold",
            mount.display()
        )
    };
    match found {
        Hierarchy::V1(controllers) => {
            let mut why = Vec::new();
            let mut kept = BTreeMap::new();
            for (name, mount) in controllers {
                match probe(&mount) {
                    Ok(()) => drop(kept.insert(name, mount)),
                    Err(e) => why.push(no(&name, &mount, e)),
                }
            }
            for name in ["cpu", "memory", "pids", "freezer"] {
                if !kept.contains_key(name) && why.is_empty() {
                    why.push(format!("no cgroup {name}: it is not mounted; its limits do not hold"));
                }
            }
            if kept.is_empty() { (Hierarchy::None, why) } else { (Hierarchy::V1(kept), why) }
        }
        Hierarchy::V2 { mount, controllers } => match probe(&mount) {
            Ok(()) => (Hierarchy::V2 { mount, controllers }, Vec::new()),
            Err(e) => (Hierarchy::None, vec![no("v2", &mount, e)]),
        },
        Hierarchy::None => (
            Hierarchy::None,
            vec!["no cgroups with cpu, memory or pids are mounted: limits do not hold".to_owned()],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/devices cgroup rw,relatime,devices 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
";

    #[test]
    fn mount_tables() {
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        for (mounts, controllers, want) in [
            (V1, "hugetlb", "V1 cpu cpuacct memory"),
            (V1, "cpu io memory pids", "V2 cpu io memory pids"),
            (v2, "cpuset cpu io memory pids", "V2 cpuset cpu io memory pids"),
            (v2, "hugetlb", "None"),
            ("", "", "None"),
            ("a b\n\ncgroup x\n", "", "None"),
        ] {
            let got = match Hierarchy::from_mounts(mounts, |_| Some(controllers.into())) {
                Hierarchy::V1(found) => format!("V1 {}", found.into_keys().collect::<Vec<_>>().join(" ")),
                Hierarchy::V2 { controllers, .. } => format!("V2 {}", controllers.join(" ")),
                Hierarchy::None => "None".into(),
            };
            assert_eq!(got, want, "{mounts} {controllers}");
        }
    }

    #[test]
    fn words_say_none_where_nothing_holds() {
        let mut host =
            Host { root: false, cgroups: Hierarchy::None, pid_namespaces: false, missing: Vec::new() };
        assert_eq!(host.words(), ["none"]);
        host.root = true;
        host.cgroups = Hierarchy::from_mounts(V1, |_| None);
        assert_eq!(host.words(), ["users", "cgroup-v1", "cpu", "memory"]);
    }

    #[test]
    fn this_host_is_detected() {
        let host = Host::detect();
        println!("{:?} {host:?}", host.words());
        assert!(!host.words().is_empty());
    }
}
