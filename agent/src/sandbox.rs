//! The directories of tasks: making one before a launch, choosing those that may be removed.
//!
//! `DIR/tasks/TASK_ID/` is laid out by `executor::layout`; its `sandbox/` belongs to the role's user.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use executor::layout::TaskDir;
use isolation::user::User;
use proto::TaskId;

/// Where an agent keeps its tasks.
#[derive(Clone, Debug)]
pub struct Sandboxes {
    root: PathBuf,
}

impl Sandboxes {
    /// Under the agent's directory, made if missing.
    pub fn open(agent_dir: &Path) -> io::Result<Self> {
        let root = agent_dir.join("tasks");
        std::fs::create_dir_all(&root)?;
        Ok(Sandboxes { root })
    }

    /// The directory of a task, whether it exists or not.
    pub fn of(&self, task: TaskId) -> TaskDir {
        TaskDir::new(self.root.join(task.to_string()))
    }

    /// Makes the directory of a task and its sandbox, owned by `user` if one is given.
    pub fn make(&self, task: TaskId, user: Option<&User>) -> io::Result<TaskDir> {
        let dir = self.of(task);
        // It may be there, left by a crash between this and the spawn, or by an earlier journal: the claim decides,
        // not this. Or all of `tasks/` may have been removed under a running agent.
        let sandbox = dir.sandbox();
        std::fs::create_dir_all(&sandbox)?;
        std::fs::set_permissions(&sandbox, std::fs::Permissions::from_mode(0o750))?;
        if let Some(user) = user {
            std::os::unix::fs::lchown(&sandbox, Some(user.uid), Some(user.gid))?;
        }
        Ok(dir)
    }

    /// Tasks that have a directory, sorted. Names that are no task's are left alone.
    pub fn list(&self) -> io::Result<Vec<TaskId>> {
        let mut tasks = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            if let Some(task) = entry?.file_name().to_str().and_then(task_of) {
                tasks.push(task);
            }
        }
        tasks.sort();
        Ok(tasks)
    }

    /// Directories to remove: of the tasks that nobody needs, those beyond `count_max` or older than `age_max`.
    pub fn expired(
        &self,
        needed: impl Fn(TaskId) -> bool,
        count_max: usize,
        age_max: Duration,
        now: SystemTime,
    ) -> io::Result<Vec<PathBuf>> {
        let mut old = Vec::new();
        for task in self.list()?.into_iter().filter(|task| !needed(*task)) {
            let dir = self.of(task);
            let touched = [dir.checkpoint(), dir.root().to_path_buf()]
                .iter()
                .find_map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok());
            old.push((touched.unwrap_or(SystemTime::UNIX_EPOCH), dir.root().to_path_buf()));
        }
        old.sort_by(|a, b| b.cmp(a));
        let expired = |(place, (touched, _)): (usize, &(SystemTime, PathBuf))| {
            place >= count_max || now.duration_since(*touched).is_ok_and(|age| age > age_max)
        };
        let keep: Vec<bool> = old.iter().enumerate().map(expired).collect();
        Ok(old.into_iter().zip(keep).filter(|(_, expired)| *expired).map(|((_, path), _)| path).collect())
    }
}

/// The task whose directory has this name; only the form that is written counts.
pub fn task_of(name: &str) -> Option<TaskId> {
    name.parse::<TaskId>().ok().filter(|task| task.to_string() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_sandboxes_go_by_count_and_age_and_needed_ones_stay() {
        let temp = tempfile::tempdir().unwrap();
        let sandboxes = Sandboxes::open(temp.path()).unwrap();
        for id in 1..=5 {
            let dir = sandboxes.make(TaskId(id), None).unwrap();
            assert!(dir.sandbox().is_dir());
        }
        std::fs::create_dir(temp.path().join("tasks/something")).unwrap();
        assert_eq!(sandboxes.list().unwrap().len(), 5);
        let hour = Duration::from_secs(3600);
        let count = |needed: u64, count_max, later| {
            let now = SystemTime::now() + later;
            sandboxes.expired(|task| task.0 <= needed, count_max, hour, now).unwrap().len()
        };
        assert_eq!(count(0, 10, Duration::ZERO), 0);
        assert_eq!(count(0, 3, Duration::ZERO), 2);
        assert_eq!(count(3, 1, Duration::ZERO), 1);
        assert_eq!(count(2, 10, 2 * hour), 3);
    }
}
