//! Runs a program to its end, within a deadline, and keeps what it said: for the command line's own tests.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::programs::{CLIENT, Programs};

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code; `None` = ended by a signal.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Ended {
    /// Its standard output, or an error with everything it said.
    pub fn ok(self) -> Result<String> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        bail!(
            "exit code {:?} after {:.1?}\nstdout: {}\nstderr: {}",
            self.code,
            self.took,
            self.stdout,
            self.stderr
        )
    }
}

/// The command line `borealis`, pointed at a cluster.
#[derive(Clone, Debug)]
pub struct Client {
    programs: Programs,
    addresses: String,
}

impl Client {
    /// Speaks to the replicas at `addresses`.
    pub fn new(programs: &Programs, addresses: &[String]) -> Client {
        Client { programs: programs.clone(), addresses: addresses.join(",") }
    }

    /// Runs `borealis ARGUMENTS`; more than `within` is an error, after the program was killed.
    pub fn run(&self, arguments: &[&str], within: Duration) -> Result<Ended> {
        let mut command = Command::new(self.programs.path(CLIENT));
        command.args(arguments).env("BOREALIS_ADDR", &self.addresses);
        run(&mut command, within)
    }
}

/// Runs any program to its end.
pub fn run(command: &mut Command, within: Duration) -> Result<Ended> {
    let begun = Instant::now();
    let named = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {named}"))?;
    // Both pipes are drained while it runs, or a talkative program would wait for its reader.
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let code = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status.code());
        }
        if begun.elapsed() > within {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = begun.elapsed();
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
    };
    let ended = Ended { code: code.flatten(), stdout: text(stdout), stderr: text(stderr), took };
    match code {
        Some(_) => Ok(ended),
        None => bail!(
            "{named} hung: killed after {:.1?}\nstdout: {}\nstderr: {}",
            took,
            ended.stdout,
            ended.stderr
        ),
    }
}

fn reader(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hang_is_an_error_and_leaves_no_process() {
        let why = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(why.to_string().contains("hung"), "{why}");
        let ended =
            run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), Duration::from_secs(5));
        let ended = ended.unwrap();
        assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(3), "out\n", "err\n"));
    }
}
