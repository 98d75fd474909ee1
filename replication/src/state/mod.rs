//! The machine in memory, the rows on disk, and the way from one to the other.

pub(crate) mod cut;
pub(crate) mod rocks;
pub(crate) mod rows;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
