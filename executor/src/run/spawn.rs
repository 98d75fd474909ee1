//! Starting one run of one process: `/bin/bash -c`, in a session of its own, as the role's user, with little else.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use isolation::namespace;
use isolation::user::{self, User};
use proto::wire::TaskSpec;

use super::detach::usual_signals;
use super::logs::{Logs, open_directory};
use crate::cleanup::{SANDBOX_VARIABLE, TASK_ID_VARIABLE};
use crate::layout::Stream;
use crate::template::Values;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Read by bash before each command line, if the task has put one into its sandbox.
const PROFILE: &str = ".thermos_profile";

/// One run that is there.
pub(super) struct Running {
    /// Index in the task.
    pub(super) process: usize,
    /// Counts from 0.
    pub(super) run: u32,
    pid: i32,
    logs: Logs,
}

impl Running {
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }
    pub(super) fn rotates(&self) -> bool {
        self.logs.rotates()
    }
    pub(super) fn rotate(&mut self) {
        self.logs.rotate();
    }
}

struct Line {
    name: String,
    cmdline: String,
    rotate: (u64, u32),
}

/// What all runs of a task have in common.
pub(super) struct Spawner {
    lines: Vec<Line>,
    shell: &'static str,
    sandbox: PathBuf,
    directory: OwnedFd,
    user: User,
    become_user: bool,
    /// Whether what it starts is in another pid namespace than this process.
    shut_in: bool,
    environment: Vec<(String, String)>,
}

impl Spawner {
    /// The error is the reason of a failed task.
    pub(super) fn new(
        task: &TaskSpec,
        values: &Values,
        sandbox: PathBuf,
        user: User,
        become_user: bool,
        shut_in: bool,
    ) -> Result<Spawner, String> {
        let at = |e: io::Error| format!("sandbox {}: {e}", sandbox.display());
        match fs::create_dir(&sandbox) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(e)),
            _ => {}
        }
        let directory = open_directory(&sandbox).map_err(at)?;
        if become_user {
            std::os::unix::fs::fchown(&directory, Some(user.uid), Some(user.gid)).map_err(at)?;
        }
        let mut lines = Vec::new();
        for process in &task.processes {
            let cmdline =
                values.fill(&process.cmdline).map_err(|why| format!("process {:?}: {why}", process.name))?;
            let rotate = (process.log_rotate_bytes, process.log_backups);
            lines.push(Line { name: process.name.clone(), cmdline, rotate });
        }
        let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
        let environment = environment(values, &sandbox);
        Ok(Spawner { lines, shell, sandbox, directory, user, become_user, shut_in, environment })
    }

    /// Starts a run; the error says why it could not be.
    pub(super) fn start(&self, process: usize, run: u32) -> Result<Running, String> {
        let line = &self.lines[process];
        let owner = self.become_user.then_some((self.user.uid, self.user.gid));
        let logs = Logs::create(&self.directory, &line.name, run, owner, line.rotate)
            .map_err(|e| format!("cannot make its output files: {e}"))?;
        let output = |stream| logs.output(stream).map_err(|e| format!("cannot open its output files: {e}"));
        let mut command = Command::new(self.shell);
        command
            .args(["-c", &line.cmdline])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output(Stream::Stdout)?)
            .stderr(output(Stream::Stderr)?);
        if self.sandbox.join(PROFILE).exists() {
            command.env("BASH_ENV", PROFILE);
        }
        let shut_in = self.shut_in;
        // From within a namespace, a parent outside has no number.
        let executor = if shut_in { 0 } else { std::process::id() };
        let directory = self.directory.as_raw_fd();
        let user = self.become_user.then(|| self.user.clone());
        // SAFETY: what runs between fork and exec makes system calls only: it allocates nothing and takes no lock.
        // The directory outlives the call.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                if libc::fchdir(directory) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if shut_in {
                    namespace::mount_own_proc()?;
                }
                libc::umask(0o022);
                match &user {
                    Some(user) => user::become_user(user)?,
                    None => user::no_new_privileges()?,
                }
                // After the change of user, which would undo it: the shell dies with its executor.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                if libc::getppid() as u32 != executor {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                usual_signals();
                Ok(())
            });
        }
        let child = command.spawn().map_err(|e| format!("cannot run {}: {e}", self.shell))?;
        Ok(Running { process, run, pid: child.id() as i32, logs })
    }
}

/// The task's id is a fencing token too: of one instance, a later task has the higher id.
fn environment(values: &Values, sandbox: &Path) -> Vec<(String, String)> {
    let sandbox = sandbox.display().to_string();
    let mut environment = vec![
        ("HOME".to_owned(), sandbox.clone()),
        ("USER".to_owned(), values.user.clone()),
        ("LOGNAME".to_owned(), values.user.clone()),
        ("PATH".to_owned(), PATH.to_owned()),
        (TASK_ID_VARIABLE.to_owned(), values.task_id.clone()),
        (SANDBOX_VARIABLE.to_owned(), sandbox),
        ("BOREALIS_INSTANCE".to_owned(), values.instance.to_string()),
    ];
    environment.extend(values.ports.iter().map(|(name, port)| {
        let name = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
        (format!("BOREALIS_PORT_{}", name.collect::<String>()), port.to_string())
    }));
    environment
}
