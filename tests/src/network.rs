//! A network of its own for some processes: a namespace for each, joined by a bridge in one more, the hub, where the
//! harness's own clients live. From any member to any other, packets can be lost, in one direction or both.
//!
//! Nothing of it can be seen from outside, and all of it is gone when the last process in it is: the namespaces have
//! no names, only open files. Needs root. A direction is cut by giving the sender a wrong hardware address of the
//! receiver: its packets go out and nobody takes them, as with a broken switch, and the sender is told nothing.
//! Not here: delay, loss by chance, reordering.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

/// Nobody has it.
const NOWHERE: &str = "02:00:00:00:ff:ff";

/// One end of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Where the clients are.
    Hub,
    /// A member, from 0.
    Member(usize),
}

impl Place {
    fn number(self) -> usize {
        match self {
            Place::Hub => 254,
            Place::Member(n) => n + 1,
        }
    }

    /// Its address in the network.
    pub fn ip(self) -> String {
        format!("10.77.0.{}", self.number())
    }

    fn hardware(self) -> String {
        format!("02:00:00:00:00:{:02x}", self.number())
    }

    /// Its own network device.
    fn device(self) -> &'static str {
        match self {
            Place::Hub => "hub",
            Place::Member(_) => "eth0",
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct Network {
    hub: File,
    members: Vec<File>,
}

impl Network {
    /// Whether this process may make one.
    pub fn possible() -> bool {
        // SAFETY: geteuid takes nothing and cannot fail.
        unsafe { libc::geteuid() == 0 }
    }

    /// Makes a network of so many members, all of whom reach each other and the hub.
    pub fn new(members: usize) -> Result<Network> {
        ensure!(members < 200, "{members} members are too many for one small network");
        let members: Result<Vec<File>> = (0..members).map(|_| namespace()).collect();
        let network = Network { hub: namespace()?, members: members? };
        let hub = network.file(Place::Hub);
        ip(hub, "link add hub type bridge")?;
        ip(hub, "link set lo up")?;
        network.raise(Place::Hub)?;
        for (n, member) in network.members.iter().enumerate() {
            ip(hub, &format!("link add m{n} type veth peer name eth0 netns {}", path(member)))?;
            ip(hub, &format!("link set m{n} master hub up"))?;
            ip(member, "link set lo up")?;
            network.raise(Place::Member(n))?;
        }
        network.heal()?;
        Ok(network)
    }

    fn raise(&self, place: Place) -> Result<()> {
        let (file, device) = (self.file(place), place.device());
        ip(file, &format!("link set {device} address {} up", place.hardware()))?;
        ip(file, &format!("address add {}/24 dev {device}", place.ip()))
    }

    fn file(&self, place: Place) -> &File {
        match place {
            Place::Hub => &self.hub,
            Place::Member(n) => &self.members[n],
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> + Clone + use<> {
        [Place::Hub].into_iter().chain((0..self.members.len()).map(Place::Member))
    }

    /// Packets from `from` to `to` are lost from now on.
    pub fn cut(&self, from: Place, to: Place) -> Result<()> {
        self.direct(from, to, NOWHERE)
    }

    /// Every direction works again.
    pub fn heal(&self) -> Result<()> {
        for from in self.places() {
            for to in self.places().filter(|to| *to != from) {
                self.direct(from, to, &to.hardware())?;
            }
        }
        Ok(())
    }

    fn direct(&self, from: Place, to: Place, hardware: &str) -> Result<()> {
        let device = from.device();
        let words = format!("neighbour replace {} lladdr {hardware} nud permanent dev {device}", to.ip());
        ip(self.file(from), &words)
    }

    /// What stands before a program's path so that it runs as this member.
    pub fn before(&self, member: usize) -> Vec<String> {
        vec!["nsenter".into(), format!("--net={}", path(&self.members[member]))]
    }

    /// Runs `work` on a runtime of its own, all of whose threads are in the hub.
    pub fn block_on<T: Send>(self: &Arc<Self>, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        let this = Arc::clone(self);
        let enter = move || this.enter_hub().expect("this process made the namespace and may enter it");
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().on_thread_start(enter).build()?;
        let run = || {
            self.enter_hub()?;
            runtime.block_on(work())
        };
        let ran = std::thread::scope(|scope| scope.spawn(run).join());
        ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// From now on, what this thread opens is in the hub.
    pub fn enter_hub(&self) -> Result<()> {
        // SAFETY: setns takes two integers; the file is open, and only this thread's namespace changes.
        let entered = unsafe { libc::setns(self.hub.as_raw_fd(), libc::CLONE_NEWNET) };
        ensure!(entered == 0, "cannot enter a network namespace: {}", std::io::Error::last_os_error());
        Ok(())
    }
}

/// A path by which this process's children and their tools find an open namespace.
fn path(namespace: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

/// A new one, empty and nameless.
fn namespace() -> Result<File> {
    let made = std::thread::spawn(|| {
        // SAFETY: unshare takes an integer; it changes the namespace of this thread, which ends at once.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            bail!(
                "cannot make a network namespace: {}; tests that cut networks need root",
                std::io::Error::last_os_error()
            );
        }
        File::open("/proc/thread-self/ns/net").context("cannot open this thread's network namespace")
    });
    made.join().map_err(|_| anyhow::anyhow!("the thread that makes a namespace panicked"))?
}

/// Runs `ip` in a namespace.
fn ip(namespace: &File, words: &str) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path(namespace))).arg("ip").args(words.split(' '));
    let output =
        command.output().context("cannot run nsenter and ip; they are in util-linux and iproute2")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {words}` in a namespace: {}", why.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    /// A socket of a member, by a thread that is in its namespace.
    fn socket(network: &Network, place: Place) -> UdpSocket {
        let file = network.file(place).try_clone().unwrap();
        let opened = std::thread::spawn(move || {
            // SAFETY: as in `enter_hub`; the thread ends at once.
            assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            let socket = UdpSocket::bind((place.ip(), 7000)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        });
        opened.join().unwrap()
    }

    #[test]
    fn a_cut_direction_loses_packets_and_no_other_does() {
        if !Network::possible() {
            return println!("not root: networks cannot be cut");
        }
        let network = Network::new(2).unwrap();
        let places = [Place::Hub, Place::Member(0), Place::Member(1)];
        let sockets = places.map(|place| socket(&network, place));
        let arrives = |from: usize, to: usize| {
            sockets[from].send_to(&[from as u8], (places[to].ip(), 7000)).unwrap();
            sockets[to].recv(&mut [0]).is_ok()
        };
        for cut in [None, Some((1, 2)), Some((2, 0)), None] {
            network.heal().unwrap();
            if let Some((from, to)) = cut {
                network.cut(places[from], places[to]).unwrap();
            }
            for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
                assert_eq!(arrives(from, to), cut != Some((from, to)), "{cut:?}: from {from} to {to}");
            }
        }
    }
}
