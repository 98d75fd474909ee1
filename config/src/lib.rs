//! The job language: `.aurora` files and JSON in, validated jobs out, or problems that point at the line.
//!
//! The way of a file: `guard` (may it be parsed at all) -> ruff's parser -> `eval` (statements make values, each
//! with its place) or `json` -> `resolve` (templates, types, defaults by `schema`) -> `build` (a `wire::JobSpec`,
//! checked). Pure: no network, no clock, no environment, no file is read. What a hostile file can cost is
//! bounded in `limits`.

mod problem;
mod source;

use std::collections::BTreeMap;

use proto::{JobKey, wire};

pub use problem::{Label, Problem, Problems, Severity};
use problem::Issue;
use source::{Source, Sources, Span};

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

/// Reads a file; one whose name ends in `.json` as JSON, any other as the `.aurora` language.
pub fn load(file_name: &str, text: &str, options: &Options) -> Result<Loaded, Problems> {
    let _ = options;
    let sources = Sources(vec![Source::new(file_name, text)]);
    Err(Problems(vec![Issue::error(Span::default(), "this file cannot be read yet").locate(&sources)]))
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

/// The JSON form of a job: reading it gives the job again.
pub fn to_json(spec: &wire::JobSpec) -> serde_json::Value {
    serde_json::json!({ "instances": spec.instances })
}
