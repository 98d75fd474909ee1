//! The only file that prints. Answers go to stdout, everything else to stderr; a reader that has gone is no panic.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use crate::error::{Error, Kind};

/// Where answers, notes and progress go, and in which form.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    terminal: bool,
    progress: RefCell<String>,
    line_open: Cell<bool>,
}

impl Output {
    /// For this process; `json` asks for answers and errors that machines read.
    pub(crate) fn new(json: bool) -> Self {
        Output {
            json,
            terminal: io::stderr().is_terminal(),
            progress: RefCell::default(),
            line_open: Cell::new(false),
        }
    }

    /// Whether machines read the answers.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The answer of a command: the text for people, or the value for machines.
    pub(crate) fn answer(&self, text: &str, value: &Value) -> Result<(), Error> {
        if self.json { self.value(value) } else { self.text(text) }
    }

    /// Something that happened while a command goes on running: a line of text, or a value on one line.
    pub(crate) fn event(&self, text: &str, value: &Value) -> Result<(), Error> {
        if self.json { self.text(&value.to_string()) } else { self.text(text) }
    }

    /// A value for machines, indented.
    pub(crate) fn value(&self, value: &Value) -> Result<(), Error> {
        self.text(&format!("{value:#}"))
    }

    /// Text with a line end, on stdout.
    pub(crate) fn text(&self, text: &str) -> Result<(), Error> {
        self.bytes(format!("{}\n", text.trim_end_matches('\n')).as_bytes())
    }

    /// Bytes as they are, on stdout.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        self.end_progress();
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|why| match why.kind() {
            io::ErrorKind::BrokenPipe => Error::new(Kind::ClosedPipe, "nobody reads the output"),
            _ => Error::new(Kind::Failed, format!("the output could not be written: {why}")),
        })
    }

    /// A remark for people, on stderr.
    pub(crate) fn note(&self, text: &str) {
        self.end_progress();
        let _ = writeln!(io::stderr(), "{}", text.trim_end());
    }

    /// What the command is waiting for. One line that changes on a terminal; elsewhere a line for each change.
    pub(crate) fn progress(&self, text: &str) {
        if self.progress.replace(text.to_owned()) == text {
            return;
        }
        let mut stderr = io::stderr().lock();
        if self.terminal {
            let _ = write!(stderr, "\r\x1b[K{}", text.lines().next().unwrap_or_default());
            let _ = stderr.flush();
            self.line_open.set(true);
        } else {
            let _ = writeln!(stderr, "{text}");
        }
    }

    /// Why the command failed, on stderr.
    pub(crate) fn error(&self, error: &Error) {
        match error.kind {
            Kind::ClosedPipe => {}
            _ if self.json => self.note(&error.to_json().to_string()),
            _ => self.note(&error.to_string()),
        }
    }

    fn end_progress(&self) {
        if self.line_open.replace(false) {
            let _ = writeln!(io::stderr());
        }
    }
}
