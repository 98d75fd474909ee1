//! The driver's own memory: what it asked, written and synced before the call; what it was told, synced after.
//!
//! A driver that dies at any point leaves a file that says at least as much as the cluster may have done. Each
//! driver owns its jobs, so the history of one job is a sequence; but a request whose fate is unknown may take
//! effect at any later time. Judging is pure: a history and the final sight in, breaches out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::api::Answer;

/// One line of a driver's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// About to call. The same request may be tried several times.
    Intent(Intent),
    /// The call returned.
    Told {
        /// Which request.
        request: String,
        /// What it was told.
        outcome: Outcome,
        /// In words, for people.
        why: String,
    },
}

/// What a request shall do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its id.
    pub request: String,
    /// Key of the job it is about.
    pub job: String,
    /// What to do with it.
    pub wish: Wish,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Create a service of so many instances.
    Create(u32),
    /// Kill these instances; none = all.
    Kill(Vec<u32>),
}

/// What one try was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Done,
    /// Not done, now or ever.
    Refused,
    /// Unknown.
    Unknown,
}

/// A driver's file.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    file: File,
}

impl Book {
    /// A new one.
    pub fn create(path: &Path) -> Result<Book> {
        let file = File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Book { path: path.into(), file })
    }

    /// Writes what is about to be asked.
    pub fn intend(&mut self, intent: &Intent) -> Result<()> {
        self.write(&Record::Intent(intent.clone()))
    }

    /// Writes what was told, and passes on in short what it means.
    pub fn told<T>(&mut self, request: &str, answer: &Answer<T>) -> Result<Outcome> {
        let (outcome, why) = match answer {
            Answer::Done(_) => (Outcome::Done, String::new()),
            Answer::Refused(code, why) => (Outcome::Refused, format!("{code:?}: {why}")),
            Answer::Unknown(why) => (Outcome::Unknown, why.clone()),
        };
        self.write(&Record::Told { request: request.into(), outcome, why })?;
        Ok(outcome)
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Reads a driver's file.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut records = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line?;
        records.push(serde_json::from_str(&line).with_context(|| format!("{}: {line:?}", path.display()))?);
    }
    Ok(records)
}

/// What a request came to, all tries together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Every try was refused.
    NotDone,
    /// No try was told "done", and at least one may have been done.
    Unknown,
    /// Some try was told "done".
    Done,
}

/// The requests of a history in the order they were first tried, with their fates.
pub fn fates(history: &[Record]) -> Vec<(Intent, Fate)> {
    let mut order: Vec<(Intent, Fate)> = Vec::new();
    let mut tries: BTreeMap<String, (usize, Vec<Option<Outcome>>)> = BTreeMap::new();
    for record in history {
        match record {
            Record::Intent(intent) => {
                let fresh = order.len();
                let (at, outcomes) = tries.entry(intent.request.clone()).or_insert((fresh, Vec::new()));
                outcomes.push(None);
                if *at == fresh {
                    order.push((intent.clone(), Fate::Unknown));
                }
            }
            Record::Told { request, outcome, .. } => {
                if let Some(last) = tries.get_mut(request).and_then(|(_, outcomes)| outcomes.last_mut()) {
                    *last = Some(*outcome);
                }
            }
        }
    }
    for (at, outcomes) in tries.values() {
        order[*at].1 = if outcomes.contains(&Some(Outcome::Done)) {
            Fate::Done
        } else if outcomes.iter().all(|outcome| *outcome == Some(Outcome::Refused)) {
            Fate::NotDone
        } else {
            Fate::Unknown
        };
    }
    order
}

/// For each job of a history: all sets of instances that may live once everything is quiet.
pub fn possible(history: &[Record]) -> BTreeMap<String, BTreeSet<BTreeSet<u32>>> {
    let mut jobs: BTreeMap<String, BTreeSet<BTreeSet<u32>>> = BTreeMap::new();
    // Requests of unknown fate per job: each may take effect now, later, or never.
    let mut floating: BTreeMap<String, Vec<Wish>> = BTreeMap::new();
    for (intent, fate) in fates(history) {
        let now = jobs.entry(intent.job.clone()).or_insert_with(|| BTreeSet::from([BTreeSet::new()]));
        let loose = floating.entry(intent.job.clone()).or_default();
        match fate {
            Fate::NotDone => {}
            Fate::Done => *now = now.iter().map(|set| wished(set, &intent.wish)).collect(),
            Fate::Unknown => loose.push(intent.wish.clone()),
        }
        for _ in 0..loose.len() {
            let more: Vec<_> =
                now.iter().flat_map(|set| loose.iter().map(|wish| wished(set, wish))).collect();
            now.extend(more);
        }
    }
    jobs
}

fn wished(alive: &BTreeSet<u32>, wish: &Wish) -> BTreeSet<u32> {
    match wish {
        // A driver never creates a job under a key that lives, nor twice under one key.
        Wish::Create(instances) => (0..*instances).collect(),
        Wish::Kill(instances) if instances.is_empty() => BTreeSet::new(),
        Wish::Kill(instances) => alive.iter().filter(|i| !instances.contains(i)).copied().collect(),
    }
}

/// Compares what the drivers may expect with the instances that live, by job. Empty = all is as acknowledged.
pub fn judge(histories: &[Vec<Record>], seen: &BTreeMap<String, BTreeSet<u32>>) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut known = BTreeSet::new();
    for history in histories {
        for (job, sets) in possible(history) {
            let lives = seen.get(&job).cloned().unwrap_or_default();
            if !sets.contains(&lives) {
                breaches.push(format!(
                    "{job}: instances {lives:?} live; by what was acknowledged, one of {sets:?}"
                ));
            }
            known.insert(job);
        }
    }
    for (job, lives) in seen.iter().filter(|(job, lives)| !known.contains(*job) && !lives.is_empty()) {
        breaches.push(format!("{job}: instances {lives:?} live, and nobody asked for them"));
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Done, Refused, Unknown};

    fn history(requests: &[(&str, Wish, &[Option<Outcome>])]) -> Vec<Record> {
        let mut records = Vec::new();
        for (n, (job, wish, tries)) in requests.iter().enumerate() {
            for outcome in *tries {
                let request = format!("r{n}");
                records.push(Record::Intent(Intent {
                    request: request.clone(),
                    job: (*job).into(),
                    wish: wish.clone(),
                }));
                records.extend(outcome.map(|outcome| Record::Told { request, outcome, why: String::new() }));
            }
        }
        records
    }

    fn seen(jobs: &[(&str, &[u32])]) -> BTreeMap<String, BTreeSet<u32>> {
        jobs.iter().map(|(job, lives)| (job.to_string(), lives.iter().copied().collect())).collect()
    }

    #[test]
    fn each_way_to_break_a_promise_is_found() {
        use Wish::{Create, Kill};
        let all = || Kill(vec![]);
        type Case<'a> = (&'a [(&'a str, Wish, &'a [Option<Outcome>])], &'a [(&'a str, &'a [u32])], bool);
        let cases: &[Case] = &[
            // Acknowledged and there; and lost; and short of an instance; and with one too many.
            (&[("a", Create(2), &[Some(Done)])], &[("a", &[0, 1])], true),
            (&[("a", Create(2), &[Some(Done)])], &[], false),
            (&[("a", Create(2), &[Some(Done)])], &[("a", &[0])], false),
            (&[("a", Create(2), &[Some(Done)])], &[("a", &[0, 1, 2])], false),
            // Unknown: wholly there or not at all. An unanswered call is as unknown.
            (&[("a", Create(2), &[Some(Unknown)])], &[], true),
            (&[("a", Create(2), &[None])], &[("a", &[0, 1])], true),
            (&[("a", Create(2), &[Some(Unknown)])], &[("a", &[1])], false),
            // A later try tells; a refusal after an unknown try does not.
            (&[("a", Create(1), &[Some(Unknown), Some(Done)])], &[], false),
            (&[("a", Create(1), &[Some(Unknown), Some(Refused)])], &[("a", &[0])], true),
            (&[("a", Create(1), &[Some(Refused)])], &[("a", &[0])], false),
            // Kills.
            (&[("a", Create(2), &[Some(Done)]), ("a", all(), &[Some(Done)])], &[], true),
            (&[("a", Create(2), &[Some(Done)]), ("a", all(), &[Some(Done)])], &[("a", &[0])], false),
            (&[("a", Create(2), &[Some(Done)]), ("a", all(), &[Some(Unknown)])], &[("a", &[0, 1])], true),
            (&[("a", Create(2), &[Some(Done)]), ("a", all(), &[Some(Unknown)])], &[("a", &[0])], false),
            (
                &[("a", Create(3), &[Some(Done)]), ("a", Kill(vec![1]), &[Some(Done)])],
                &[("a", &[0, 2])],
                true,
            ),
            (
                &[("a", Create(3), &[Some(Done)]), ("a", Kill(vec![1]), &[Some(Done)])],
                &[("a", &[0, 1, 2])],
                false,
            ),
            // An unknown kill may take effect after a later one that was answered.
            (
                &[
                    ("a", Create(3), &[Some(Done)]),
                    ("a", Kill(vec![0]), &[Some(Unknown)]),
                    ("a", Kill(vec![1]), &[Some(Done)]),
                ],
                &[("a", &[2])],
                true,
            ),
            // Nobody asked.
            (&[], &[("b", &[0])], false),
        ];
        for (requests, lives, fine) in cases {
            let breaches = judge(&[history(requests)], &seen(lives));
            assert_eq!(breaches.is_empty(), *fine, "{requests:?} seen as {lives:?}: {breaches:?}");
        }
    }

    #[test]
    fn a_book_reads_back_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("book");
        let mut book = Book::create(&path).unwrap();
        let intent = Intent { request: "r".into(), job: "a".into(), wish: Wish::Kill(vec![3]) };
        book.intend(&intent).unwrap();
        book.told::<()>("r", &Answer::Unknown("gone".into())).unwrap();
        let want = [
            Record::Intent(intent),
            Record::Told { request: "r".into(), outcome: Unknown, why: "gone".into() },
        ];
        assert_eq!(read(&path).unwrap(), want);
    }
}
