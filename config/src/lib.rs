//! The job language: `.aurora` files and JSON in, validated jobs out, or problems that point at the line.
//!
//! The way of a file: `guard` (may it be parsed at all) -> ruff's parser -> `eval` (statements make values, each
//! with its place) or `json` -> `resolve` (templates, types, defaults by `schema`) -> `spec` (a `wire::JobSpec`, checked). Pure: no network, no clock, no environment, no file is read. What a hostile file can cost is
//! bounded in `limits`.

mod builtin;
mod eval;
mod format;
mod guard;
mod json;
mod limits;
mod object;
mod operate;
mod ports;
mod print;
mod problem;
mod read;
mod resolve;
mod schema;
mod source;
mod spec;
mod template;
mod value;

use std::collections::BTreeMap;

use proto::{JobKey, wire};

pub use print::to_json;
pub use problem::{Label, Problem, Problems, Severity};
pub use read::load;

/// What the caller adds to a file.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Values for templates that the file leaves open: `profile.port` -> `8080`.
    pub bindings: BTreeMap<String, String>,
}

/// One job of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its key; the same as in the spec.
    pub key: JobKey,
    /// The job itself, complete: every default is filled in.
    pub spec: wire::JobSpec,
}

/// What a file defines.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// In the order of the file; no two have the same key.
    pub jobs: Vec<Job>,
    /// What the file asks for and does not get.
    pub warnings: Vec<Problem>,
}

/// No job of the file has the key that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no job `{wanted}` in the file; it defines {}", list(.defined))]
pub struct NoSuchJob {
    /// The key asked for.
    pub wanted: JobKey,
    /// The keys that the file defines.
    pub defined: Vec<JobKey>,
}

fn list(keys: &[JobKey]) -> String {
    const SHOWN_MAX: usize = 10;
    let mut names: Vec<String> = keys.iter().take(SHOWN_MAX).map(|key| format!("`{key}`")).collect();
    if keys.len() > SHOWN_MAX {
        names.push(format!("{} more", keys.len() - SHOWN_MAX));
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Finds the job with this key.
pub fn select<'a>(jobs: &'a [Job], key: &JobKey) -> Result<&'a Job, NoSuchJob> {
    jobs.iter().find(|job| job.key == *key).ok_or_else(|| NoSuchJob {
        wanted: key.clone(),
        defined: jobs.iter().map(|job| job.key.clone()).collect(),
    })
}
