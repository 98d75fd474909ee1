//! All tests that need more than one room, in one binary: each extra one would link RocksDB again.

mod tidy;
