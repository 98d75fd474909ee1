//! The daemon of one host: makes the host equal to its wanted set, isolates tasks, and reports what became of them.
//!
//! [`plan`] decides and is pure, and so is [`usage`], which says what may be lent; [`journal`] is what the agent may never forget; [`host`] is the one thread that owns
//! both and acts; [`link`] speaks with the scheduler, [`watch`] and [`work`] with the executors, [`http`] with people.
//! Not here: what an executor does inside a task, how cgroups work, and any decision about where a task runs.

pub mod clock;
pub mod host;
pub mod http;
pub mod journal;
pub mod limits;
pub mod link;
pub mod machine;
pub mod options;
pub mod plan;
pub mod sandbox;
pub mod simulated;
pub mod standing;
pub mod telemetry;
pub mod usage;
pub mod watch;
pub mod work;
