//! The harness: what the tests, the demo and the benchmarks share.
//!
//! It drives real programs as processes of their own, on 127.0.0.1 and in temporary directories, and it judges
//! what they left behind. The judging parts (`oracle`, `linearizable`, `journal`, `tidy`, `figures`, `recount`) are pure
//! functions over values, so that each is itself tested with broken histories. Nothing here is used by the product.

pub mod api;
pub mod cases;
pub mod client;
pub mod cluster;
pub mod commit;
pub mod decisions;
pub mod faults;
pub mod figures;
pub mod fsync;
pub mod jobs;
pub mod journal;
pub mod levels;
pub mod linearizable;
pub mod load;
pub mod million;
pub mod network;
pub mod oracle;
pub mod packing;
pub mod processes;
pub mod programs;
pub mod recount;
pub mod registers;
pub mod scrape;
pub mod tidy;
pub mod usage;
pub mod verdict;
pub mod wait;
