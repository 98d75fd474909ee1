//! The language as data: each file of `testdata` beside what comes out of it, jobs or problems.
//! `UPDATE_GOLDEN=1 cargo test -p config` writes the expectations anew; read the difference before it is kept.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use config::{Loaded, Options, load, to_json};

fn room(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(part)
}

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let wanted = |path: &PathBuf| path.extension().is_some_and(|e| e == "aurora" || e == "json");
    let mut files: Vec<PathBuf> = files.filter(wanted).collect();
    files.sort();
    files
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Jobs as JSON with the ports that were found, those with a number of their own beside, then warnings; or the problems.
fn shown(file: &str, text: &str) -> String {
    let mut options = Options::default();
    options.bindings.insert("from.outside".to_owned(), "bound".to_owned());
    let loaded = match load(file, text, &options) {
        Ok(loaded) => loaded,
        Err(problems) => return problems.to_string(),
    };
    let mut out = String::new();
    for job in &loaded.jobs {
        let task = job.spec.config.as_ref().unwrap().task.as_ref().unwrap();
        writeln!(out, "{} ports {:?}", job.key, task.ports).unwrap();
        if !task.static_ports.is_empty() {
            let ports = task.static_ports.iter().map(|port| format!("{}={}", port.name, port.port));
            writeln!(out, "static ports {}", ports.collect::<Vec<_>>().join(" ")).unwrap();
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&to_json(&job.spec)).unwrap()).unwrap();
    }
    for warning in &loaded.warnings {
        writeln!(out, "{warning}").unwrap();
    }
    reads_back(&loaded);
    out
}

/// The JSON form of every job is that job again, without a warning.
fn reads_back(loaded: &Loaded) {
    for job in &loaded.jobs {
        let text = to_json(&job.spec).to_string();
        let again = load("again.json", &text, &Options::default()).unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(again.jobs, std::slice::from_ref(job));
        assert!(again.warnings.is_empty());
    }
}

#[test]
fn every_file_gives_what_stands_beside_it() {
    let files = inputs(&room("testdata"));
    assert!(files.len() >= 40, "only {} files", files.len());
    let mut wrong = String::new();
    for path in files {
        let actual = shown(name(&path), &fs::read_to_string(&path).unwrap());
        let expected = PathBuf::from(format!("{}.expected", path.display()));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&expected, &actual).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != actual {
            write!(wrong, "== {}\n{actual}", name(&path)).unwrap();
        }
    }
    assert!(wrong.is_empty(), "these differ; UPDATE_GOLDEN=1 writes them anew:\n{wrong}");
}

#[test]
fn every_example_loads_without_a_warning() {
    let files = inputs(&room("../examples"));
    assert!(files.len() >= 3);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let loaded = load(name(&path), &text, &Options::default()).unwrap_or_else(|p| panic!("{p}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]);
        reads_back(&loaded);
    }
}

#[test]
fn the_two_steps_are_the_same_job_in_both_forms() {
    let read = |file: &str| {
        let text = fs::read_to_string(room("../examples").join(file)).unwrap();
        load(file, &text, &Options::default()).unwrap().jobs.remove(0).spec.config.unwrap()
    };
    let (language, mut json) = (read("two_steps.aurora"), read("two_steps.json"));
    assert_eq!(language.task.as_ref().unwrap().ports, ["http"]);
    let key = json.job.as_mut().unwrap();
    assert_eq!(key.name, "two_steps_json");
    key.name = "two_steps".to_owned();
    assert_eq!(language, json);
}
