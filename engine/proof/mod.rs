//! Proof of the engine: the status table cell by cell, golden scenarios, requests and clocks, and a seeded
//! simulation that hunts for a breach of the laws.

mod book;
mod golden;
mod history;
mod make;
mod plan;
mod records;
mod recount;
mod requests;
mod rounds;
mod sim;
mod table;
mod waits;
