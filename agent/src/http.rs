//! The agent's own pages: metrics, health, tasks, and the logs in sandboxes.
//!
//! What lies in a sandbox belongs to its task, which may put links anywhere: files are opened beneath the sandbox by
//! the kernel (`openat2`), never by comparing paths, and only ordinary files are read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use proto::TaskId;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde::Deserialize;

use crate::host::Views;
use crate::limits::{LISTING_MAX, LOG_BYTES_DEFAULT, LOG_BYTES_MAX};
use crate::sandbox::Sandboxes;

/// Where the pages get what they show.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Tasks.
    pub views: Views,
    /// Logs.
    pub sandboxes: Sandboxes,
    /// Metrics.
    pub metrics: PrometheusHandle,
}

/// The pages.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(async || "OK\n"))
        .route("/tasks", get(tasks))
        .route("/tasks/{task}/logs", get(processes))
        .route("/tasks/{task}/logs/{process}", get(runs))
        .route("/tasks/{task}/logs/{process}/{stream}", get(log))
        .with_state(pages)
}

/// Folds what the recorder has collected, for ever.
pub async fn upkeep(metrics: PrometheusHandle) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        metrics.run_upkeep();
    }
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render())
}

async fn tasks(State(pages): State<Pages>) -> axum::Json<serde_json::Value> {
    let view = pages.views.get();
    let task = |task: &crate::host::TaskView| {
        serde_json::json!({
            "task_id": task.task.to_string(),
            "job": task.job,
            "status": task.status.map(|status| status.as_str_name()),
            "message": task.message,
            "executor_pid": task.executor_pid,
            "launched_at_ms": task.launched_at_ms,
        })
    };
    axum::Json(serde_json::json!({
        "host_id": view.host_id,
        "fence": view.fence,
        "tasks": view.tasks.iter().map(task).collect::<Vec<_>>(),
    }))
}

/// Which part of a log.
#[derive(Debug, Default, Deserialize)]
struct Part {
    /// Bytes from the beginning; without it, the end is shown.
    offset: Option<u64>,
    limit: Option<u64>,
    /// Counts from 0; without it, the newest.
    run: Option<u32>,
}

async fn log(
    State(pages): State<Pages>,
    UrlPath((task, process, stream)): UrlPath<(String, String, String)>,
    Query(part): Query<Part>,
) -> Response {
    let read = move || -> io::Result<Response> {
        if stream != "stdout" && stream != "stderr" {
            return Err(not_found("a log is stdout or stderr"));
        }
        let logs = open_logs(&pages.sandboxes, &task)?;
        check(&process)?;
        let runs = open_beneath(&logs, Path::new(&process), OFlags::DIRECTORY)?;
        let run = match part.run {
            Some(run) => run,
            None => list(&runs)?
                .iter()
                .filter_map(|name| name.parse().ok())
                .max()
                .ok_or_else(|| not_found("the process has not run yet"))?,
        };
        let path = Path::new(&run.to_string()).join(&stream);
        let file = open_beneath(&runs, &path, OFlags::NONBLOCK)?;
        let data = file.metadata()?;
        if !data.is_file() {
            return Err(not_found("it is not an ordinary file"));
        }
        let limit = part.limit.unwrap_or(LOG_BYTES_DEFAULT).min(LOG_BYTES_MAX);
        let offset = part.offset.unwrap_or(data.len().saturating_sub(limit));
        let mut bytes = vec![0; limit as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset.saturating_add(filled as u64))? {
                0 => break,
                got => filled += got,
            }
        }
        bytes.truncate(filled);
        let headers = [
            (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8".to_owned()),
            (header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff".to_owned()),
            ("x-log-run", run.to_string()),
            ("x-log-offset", offset.to_string()),
            ("x-log-bytes", data.len().to_string()),
        ];
        Ok((headers, bytes).into_response())
    };
    blocking(read).await
}

async fn processes(State(pages): State<Pages>, UrlPath(task): UrlPath<String>) -> Response {
    blocking(move || Ok(axum::Json(list(&open_logs(&pages.sandboxes, &task)?)?).into_response())).await
}

async fn runs(State(pages): State<Pages>, UrlPath((task, process)): UrlPath<(String, String)>) -> Response {
    blocking(move || {
        let logs = open_logs(&pages.sandboxes, &task)?;
        check(&process)?;
        Ok(axum::Json(list(&open_beneath(&logs, Path::new(&process), OFlags::DIRECTORY)?)?).into_response())
    })
    .await
}

async fn blocking(read: impl FnOnce() -> io::Result<Response> + Send + 'static) -> Response {
    let answer = tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    answer.unwrap_or_else(|e| {
        let status = match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{e}\n")).into_response()
    })
}

fn not_found(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, why)
}

fn check(process: &str) -> io::Result<()> {
    executor::layout::check_process_name(process).map_err(|e| not_found(&e.to_string()))
}

fn open_logs(sandboxes: &Sandboxes, task: &str) -> io::Result<File> {
    let task: TaskId = task.parse().map_err(|e: proto::BadField| not_found(&e.to_string()))?;
    let dir = sandboxes.of(task);
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
    let sandbox = openat(CWD, dir.sandbox(), flags, Mode::empty())
        .map_err(|_| not_found(&format!("{task} has no sandbox on this host (any more)")))?;
    open_beneath(&File::from(sandbox), Path::new(".logs"), OFlags::DIRECTORY)
        .map_err(|_| not_found(&format!("{task} has no logs yet")))
}

fn open_beneath(dir: &File, path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(dir, path, flags, Mode::empty(), resolve).map(File::from).map_err(|e| match e {
        // A link that leads out, or a thing that cannot be opened so: for the asker, it is not there.
        rustix::io::Errno::XDEV
        | rustix::io::Errno::LOOP
        | rustix::io::Errno::NXIO
        | rustix::io::Errno::NOTDIR => not_found("it is not beneath the sandbox"),
        other => other.into(),
    })
}

/// Names in a directory, sorted; at most [`LISTING_MAX`].
fn list(dir: &File) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
        if names.len() >= LISTING_MAX {
            break;
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_leave_the_sandbox_are_not_there() {
        let temp = tempfile::tempdir().unwrap();
        let sandboxes = Sandboxes::open(temp.path()).unwrap();
        let task = TaskId(7);
        let dir = sandboxes.make(task, None).unwrap();
        assert!(open_logs(&sandboxes, "task-0-7").is_err(), "no logs yet");
        let run = dir.logs().join("web").join("0");
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(run.join("stdout"), "hello").unwrap();
        std::fs::write(temp.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(temp.path().join("secret"), run.join("stderr")).unwrap();
        std::os::unix::fs::symlink("/", dir.logs().join("root")).unwrap();
        std::os::unix::fs::symlink("stdout", run.join("inside")).unwrap();
        let logs = open_logs(&sandboxes, "task-0-7").unwrap();
        let open = |path: &str| open_beneath(&logs, Path::new(path), OFlags::NONBLOCK);
        assert!(open("web/0/stdout").is_ok());
        assert!(open("web/0/inside").is_ok());
        for bad in ["web/0/stderr", "root/etc/passwd", "../../checkpoint", "/etc/passwd", "nothing"] {
            assert!(open(bad).is_err(), "{bad}");
        }
        assert_eq!(list(&logs).unwrap(), ["root", "web"]);
        std::fs::rename(dir.logs(), dir.sandbox().join("moved")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.logs()).unwrap();
        assert!(open_logs(&sandboxes, "task-0-7").is_err(), "the directory of logs itself leads out");
    }
}
