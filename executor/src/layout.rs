//! Paths inside a task's directory. The agent makes the directory and `sandbox/`; the executor makes the rest.
//!
//! ```text
//! TASK_DIR/launch          what to run: one record, a wire::Launch        (agent)
//! TASK_DIR/claim           who decided about this launch                  (whoever is first)
//! TASK_DIR/checkpoint      records of wire::CheckpointRecord              (executor)
//! TASK_DIR/control.sock    one wire::ControlRequest per connection        (executor)
//! TASK_DIR/executor.log    the executor's own words                       (executor)
//! TASK_DIR/sandbox/        the task's home and working directory          (agent, then the task)
//! TASK_DIR/sandbox/.logs/PROCESS/RUN/{stdout,stderr}                      (executor)
//! ```

use std::path::{Path, PathBuf};

use proto::BadField;

/// A task's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDir {
    root: PathBuf,
}

/// One of a process' two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// `stdout`.
    Stdout,
    /// `stderr`.
    Stderr,
}

impl Stream {
    /// Name of its file.
    pub fn file_name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

impl TaskDir {
    /// The directory at `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        TaskDir { root: root.into() }
    }
    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// What to run.
    pub fn launch(&self) -> PathBuf {
        self.root.join("launch")
    }
    /// Who decided about this launch.
    pub fn claim(&self) -> PathBuf {
        self.root.join("claim")
    }
    /// What happened.
    pub fn checkpoint(&self) -> PathBuf {
        self.root.join("checkpoint")
    }
    /// Where the executor listens.
    pub fn control_socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }
    /// The executor's own words.
    pub fn executor_log(&self) -> PathBuf {
        self.root.join("executor.log")
    }
    /// The task's home.
    pub fn sandbox(&self) -> PathBuf {
        self.root.join("sandbox")
    }
    /// Where the processes' outputs are. What lies there belongs to the task: open it without following links.
    pub fn logs(&self) -> PathBuf {
        self.sandbox().join(".logs")
    }
    /// One output of one run of a process; a name that is not a file's name is refused.
    pub fn log(&self, process: &str, run: u32, stream: Stream) -> Result<PathBuf, BadField> {
        check_process_name(process)?;
        Ok(self.logs().join(process).join(run.to_string()).join(stream.file_name()))
    }
}

/// Whether `name` may be a process' name: it becomes a directory's name.
pub fn check_process_name(name: &str) -> Result<(), BadField> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.starts_with('.') {
        "begins with a dot"
    } else if name.len() > 255 {
        "is longer than 255 bytes"
    } else if name.chars().any(|c| c == '/' || c.is_control()) {
        "holds a slash or a control character"
    } else {
        return Ok(());
    };
    Err(BadField::new(format!("process {name:?}"), problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_sandbox() {
        let dir = TaskDir::new("/t");
        let log = dir.log("web server", 2, Stream::Stderr).unwrap();
        assert_eq!(log, Path::new("/t/sandbox/.logs/web server/2/stderr"));
        for bad in ["", ".", "..", "../x", "a/b", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(dir.log(bad, 0, Stream::Stdout).is_err(), "{bad:?}");
        }
    }
}
