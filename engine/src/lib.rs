//! The pure middle of Borealis: the replicated State, how commands change it, and how a round decides.
//!
//! ```text
//!  command -> State::apply -> rows + reply + hints          (the same on every replica)
//!                  |                    |
//!                  |             View::absorb  <- what the leader keeps beside State
//!                  v                    v
//!           State::wanted        round(&View, now, budget) -> assignments -> commands
//!           (what a host is owed)
//! ```
//!
//! Not here: clocks, threads, disks, networks, chance. Time enters with a command, order is always sorted.
//!
//! The laws that this crate keeps:
//! - State changes only in `apply`, which reads only State and the command. First check, then change.
//! - A decision is made on a view and re-checked in `apply`; a refused command changes nothing but the clock
//!   and the memory of requests.
//! - What a host is owed is computed from State. A hint says where to look; losing one costs latency only.
//! - Every deadline, counter and penalty that must survive a leader is in State.
//! - Every request and every report may arrive twice or late.
//! - Every table and every command has a maximum (`limits`).

pub mod limits;
pub mod round;
pub mod state;
pub mod time;
pub mod validate;

pub use round::census::Census;
pub use round::plan::Plan;
pub use round::preempt::preemptions;
pub use round::{Round, View, round};
pub use state::command::{
    Applied, Assign, Change, Command, Done, Hint, Op, Placement, Preempt, Refusal, RefusalKind, Reply,
    Report, Request, StartSession,
};
pub use state::config::{ConfigHash, Constraint, JobSpec, Rule, TaskConfig, Tier};
pub use state::host::{Host, HostIdentity, HostSpec};
pub use state::job::{Counts, EndedTask, Job};
pub use state::record::{Corrupt, RowValue};
pub use state::status::Status;
pub use state::task::{Task, Want, Wanted, WantedTask};
pub use state::{Cluster, State};
pub use time::Timestamp;

#[cfg(test)]
#[path = "../proof/mod.rs"]
mod proof;
