//! All tests that need more than one room, in one binary: each extra one would have to be linked by itself.
//!
//! `tidy` reads the sources. The others run real programs: `path` what must hold while processes die, `decisions` what
//! the engine decides, `recount` the figures that it tells, `doors` what comes in from people and networks, `runbooks`
//! what an operator does, `chaos` many kills under load, `registers` the map of registers, `linearizable` what its
//! clients are told under faults of processes and networks, `disks` under faults of disks and clocks, `levels` what
//! programs of earlier levels wrote.

mod chaos;
mod decisions;
mod disks;
mod doors;
mod levels;
mod linearizable;
mod path;
mod recount;
mod registers;
mod runbooks;
mod tidy;
