//! What agents wrote on their disks: which tasks they launched, under which fence, when; and which processes ran.
//!
//! The journals are the truth about launches: they are written by those who launch, before they launch.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use executor::layout::TaskDir;
use executor::{checkpoint, records};
use prost::Message as _;
use proto::Fence;
use proto::wire::{JournalRecord, journal_record::Body};

use crate::processes::Identity;

/// One launch intent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Launch {
    /// CLOCK_BOOTTIME when it was written, in nanoseconds.
    pub at_ns: u64,
    /// The task that is launched.
    pub task_id: u64,
    /// Who commanded it.
    pub fence: Fence,
    /// Job key and instance.
    pub job: String,
    /// The agent that launched it.
    pub agent: String,
}

/// What one agent's journal holds.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// By time.
    pub launches: BTreeSet<Launch>,
    /// The executor of each task that was spawned.
    pub executors: BTreeMap<u64, Identity>,
}

/// Reads the journal in the directory of the agent `name`. No journal yet = nothing launched.
pub fn read(dir: &Path, name: &str) -> Result<Journal> {
    let mut journal = Journal::default();
    for path in files(dir)? {
        let read = match records::read_all(&path) {
            Ok(read) => read,
            // The agent has just put a new file in its place.
            Err(why) if why.is_not_found() => continue,
            Err(why) => return Err(why).context("an agent's journal cannot be read"),
        };
        for bytes in read.records {
            let record = JournalRecord::decode(&bytes[..])
                .with_context(|| format!("{} holds a record that is no JournalRecord", path.display()))?;
            journal.add(record, name);
        }
    }
    Ok(journal)
}

impl Journal {
    fn add(&mut self, record: JournalRecord, agent: &str) {
        match record.body {
            // A journal that was written anew repeats records; they are the same launch.
            Some(Body::Intent(intent)) => {
                self.launches.insert(Launch {
                    at_ns: record.boottime_ns,
                    task_id: intent.task_id,
                    fence: intent.fence.as_ref().map(Fence::from).unwrap_or_default(),
                    job: intent.job,
                    agent: agent.into(),
                });
            }
            Some(Body::Launched(launched)) => {
                if let Some(identity) = &launched.executor {
                    self.executors.insert(launched.task_id, identity.into());
                }
            }
            _ => {}
        }
    }
}

/// `journal*` of a directory, and what lies in folders of such names, in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in sorted(dir)? {
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal"));
        match (named, path.is_dir()) {
            (true, true) => found.extend(sorted(&path)?.into_iter().filter(|path| path.is_file())),
            (true, false) => found.push(path),
            _ => {}
        }
    }
    // Half-written successors count once they are renamed.
    found.retain(|path| path.extension().is_none_or(|ext| ext != "new" && ext != "tmp"));
    Ok(found)
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}

/// One task's directory on an agent.
#[derive(Clone, Debug)]
pub struct TaskOnDisk {
    /// Its id.
    pub task_id: u64,
    /// Job key and instance.
    pub job: String,
    /// Where it lies.
    pub dir: PathBuf,
    /// What its executor recorded.
    pub summary: checkpoint::Summary,
}

impl TaskOnDisk {
    /// The executor and those of its processes that live, by name.
    pub fn living(&self) -> BTreeMap<String, Identity> {
        let executor =
            self.summary.executor.as_ref().map(|wire| ("(executor)".to_owned(), Identity::from(wire)));
        let processes = self.summary.processes.iter();
        let processes =
            processes.filter_map(|(name, p)| Some((name.clone(), Identity::from(p.identity.as_ref()?))));
        executor.into_iter().chain(processes).filter(|(_, identity)| identity.alive()).collect()
    }
}

/// All tasks that have a directory under an agent's.
pub fn tasks(dir: &Path) -> Result<Vec<TaskOnDisk>> {
    let mut found = Vec::new();
    find_tasks(dir, 4, &mut found)?;
    Ok(found)
}

fn find_tasks(dir: &Path, depth: usize, found: &mut Vec<TaskOnDisk>) -> Result<()> {
    let task = TaskDir::new(dir);
    if task.launch().is_file() {
        // The agent may be removing the directory at this moment.
        let Ok(bytes) = records::read_one(&task.launch()) else { return Ok(()) };
        let launch = proto::wire::Launch::decode(&bytes[..])
            .with_context(|| format!("{} holds no Launch", task.launch().display()))?;
        let key = launch.config.as_ref().and_then(|config| config.job.as_ref());
        let key =
            key.map(|k| format!("{}/{}/{}/{}", k.cluster, k.role, k.environment, k.name)).unwrap_or_default();
        let summary = checkpoint::read(&task).context("a checkpoint cannot be read")?;
        let job = format!("{key}/{}", launch.instance);
        found.push(TaskOnDisk { task_id: launch.task_id, job, dir: dir.into(), summary });
    } else if depth > 0 {
        for path in sorted(dir).unwrap_or_default().into_iter().filter(|path| path.is_dir()) {
            find_tasks(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire;

    #[test]
    fn a_journal_that_was_written_anew_does_not_double_its_launches() {
        let dir = tempfile::tempdir().unwrap();
        let intent = |task_id, at| JournalRecord {
            level: 1,
            boottime_ns: at,
            body: Some(Body::Intent(wire::LaunchIntent {
                task_id,
                fence: Some(wire::Fence { epoch: 1, term: 2, leader: 3 }),
                job: "c/r/e/j/0".into(),
                generation: 1,
                pretence: None,
            })),
            ..JournalRecord::default()
        };
        for (file, kept) in
            [("journal-1", vec![intent(7, 70)]), ("journal-2", vec![intent(7, 70), intent(8, 80)])]
        {
            let mut writer = records::Writer::create(&dir.path().join(file)).unwrap();
            kept.iter().for_each(|record| writer.append(&record.encode_to_vec()).unwrap());
        }
        let journal = read(dir.path(), "a1").unwrap();
        let launches: Vec<_> = journal.launches.iter().map(|l| (l.task_id, l.at_ns, l.fence.term)).collect();
        assert_eq!(launches, [(7, 70, 2), (8, 80, 2)]);
    }
}
