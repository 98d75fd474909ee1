//! What can go wrong for a person at the command line, and the exit code each kind has. Not here: printing it.

use std::fmt;

/// Why the command did not do what was asked. The number is the exit code (Aurora's).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Whoever reads our output has gone (`| head`): nothing is wrong, and nobody is left to tell.
    ClosedPipe = 0,
    /// The job's description is not valid.
    InvalidConfig = 3,
    /// It was tried and did not succeed.
    Failed = 4,
    /// There is no such command.
    InvalidCommand = 5,
    /// A flag or argument makes no sense.
    InvalidParameter = 6,
    /// No replica, or no leader, answered in time; what was asked was not done.
    Network = 7,
    /// Time is over and what was asked may have been done, or may yet be.
    TimedOut = 9,
    /// The cluster refused.
    Refused = 10,
    /// A fault of ours.
    Unknown = 20,
    /// The cluster does not know, or does not let, whoever asks.
    Authentication = 30,
    /// Ctrl-C.
    Interrupted = 130,
}

impl Kind {
    /// The word for it in `--json`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::ClosedPipe => "closed_pipe",
            Kind::InvalidConfig => "invalid_config",
            Kind::Failed => "failed",
            Kind::InvalidCommand => "invalid_command",
            Kind::InvalidParameter => "invalid_parameter",
            Kind::Network => "network",
            Kind::TimedOut => "timed_out",
            Kind::Refused => "refused",
            Kind::Unknown => "unknown",
            Kind::Authentication => "authentication",
            Kind::Interrupted => "interrupted",
        }
    }
}

/// What happened, on which object and why; then what to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Error {
    /// Which exit code.
    pub(crate) kind: Kind,
    /// What happened, on which object, why. May have several lines.
    pub(crate) what: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// Of the request that it is about, where asking again must use the same one.
    pub(crate) request_id: Option<String>,
    /// `what` is a complete message with its own headings and is shown as it is.
    pub(crate) rendered: bool,
}

impl Error {
    /// An error without a hint.
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, what: what.into(), hint: None, request_id: None, rendered: false }
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the request it is about.
    pub(crate) fn request(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// Marks `what` as complete, to be shown as it is.
    pub(crate) fn rendered(mut self) -> Self {
        self.rendered = true;
        self
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        self.kind as u8
    }

    /// The error for machines.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": {
            "kind": self.kind.word(),
            "exit_code": self.exit_code(),
            "message": self.what,
            "hint": self.hint,
            "request_id": self.request_id,
        }})
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rendered {
            f.write_str(self.what.trim_end())?;
        } else {
            write!(f, "error: {}", self.what.trim_end())?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<proto::BadField> for Error {
    fn from(bad: proto::BadField) -> Self {
        Error::new(Kind::InvalidParameter, bad.to_string())
    }
}
