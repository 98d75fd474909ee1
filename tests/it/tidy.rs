//! The rooms stay apart, the engine stays pure, and nothing unfinished or oversized gets in.
//!
//! Every check runs on the real tree, and on a broken one, since a check that cannot fail guards nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::programs::source_dir;
use tests::tidy::{self, ROOMS};

fn complain(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

fn git_files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(source_dir())
        .output()
        .expect("git runs");
    let listed = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let files: Vec<String> = listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    if files.is_empty() { walk(source_dir()) } else { files }
}

/// For a source tree that is no clone.
fn walk(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![dir.into()];
    while let Some(dir) = open.pop() {
        for path in fs::read_dir(dir).expect("a folder of the tree").map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true if path.ends_with("target") || path.ends_with(".git") => {}
                true => open.push(path),
                false => found.push(path.strip_prefix(source_dir()).unwrap().display().to_string()),
            }
        }
    }
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(source_dir().join(path)).unwrap_or_default()
}

fn sources_under(files: &[String], dir: &str) -> Vec<String> {
    let under = |path: &&String| path.starts_with(&format!("{dir}/")) && path.ends_with(".rs");
    files.iter().filter(under).cloned().collect()
}

#[test]
fn each_crate_built_alone_contains_only_what_its_room_may() {
    let mut complaints = Vec::new();
    for room in ROOMS {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "-e", "normal", "-p", room.name, "--prefix", "none"])
            .current_dir(source_dir())
            .output()
            .expect("cargo runs");
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo tree -p {}: {why}", room.name);
        complaints.extend(tidy::check_tree(room, &String::from_utf8_lossy(&output.stdout)));
        complaints.extend(tidy::check_manifest(room, &read(&format!("{}/Cargo.toml", manifest_dir(room)))));
    }
    complain(complaints);
}

fn manifest_dir(room: &tidy::Room) -> &str {
    room.dir.strip_suffix("/src").unwrap_or(room.dir)
}

#[test]
fn sources_say_only_what_their_room_may() {
    let files = git_files();
    let mut complaints = Vec::new();
    for room in ROOMS {
        let sources = sources_under(&files, room.dir);
        assert!(!sources.is_empty(), "no sources under {}: was the room moved?", room.dir);
        for path in sources {
            complaints.extend(tidy::check_source(room, &path, &read(&path)));
        }
    }
    // The harness may use everything, but is held to the same habits.
    let tests = tidy::Room {
        name: "tests",
        dir: "tests",
        never_said: &[],
        ours: EVERYTHING,
        ..*tidy::room("client")
    };
    for path in sources_under(&files, "tests") {
        complaints.extend(tidy::check_source(&tests, &path, &read(&path)));
    }
    complain(complaints);
}

const EVERYTHING: &[&str] = &[
    "proto",
    "rpc",
    "engine",
    "replication",
    "scheduler",
    "isolation",
    "executor",
    "agent",
    "config",
    "client",
];

#[test]
fn the_engine_is_pure() {
    let files = git_files();
    let sources = sources_under(&files, "engine/src");
    assert!(sources.len() > 1, "the engine's sources are not where they are looked for: {sources:?}");
    let tests: Vec<String> = sources
        .iter()
        .flat_map(|path| {
            let folder = module_folder(path);
            tidy::test_modules(&read(path)).into_iter().map(move |name| format!("{folder}/{name}"))
        })
        .collect();
    let only_for_tests = |path: &String| {
        tests.iter().any(|t| path == &format!("{t}.rs") || path.starts_with(&format!("{t}/")))
    };
    complain(
        sources
            .iter()
            .filter(|path| !only_for_tests(path))
            .flat_map(|p| tidy::check_purity(p, &read(p)))
            .collect(),
    );
}

/// Where a file's submodules lie.
fn module_folder(path: &str) -> String {
    let stem = path.trim_end_matches(".rs");
    let folder = ["/lib", "/main", "/mod"].iter().find_map(|own| stem.strip_suffix(own));
    folder.unwrap_or(stem).to_owned()
}

#[test]
fn every_metric_is_used() {
    let files = git_files();
    let telemetry = files.iter().filter(|path| path.ends_with("/telemetry.rs"));
    let mut complaints = Vec::new();
    for path in telemetry {
        let room = path.split('/').next().expect("a path has a first part");
        let sources: Vec<String> = sources_under(&files, room).iter().map(|path| read(path)).collect();
        complaints.extend(tidy::check_metrics(path, &read(path), &sources));
    }
    complain(complaints);
}

#[test]
fn every_golden_file_has_a_test() {
    let files = git_files();
    let mut complaints = Vec::new();
    for path in files.iter().filter(|path| path.contains("/testdata/")) {
        let (room, rest) = path.split_once("/testdata/").expect("it was filtered for");
        let folder = rest.split('/').next().unwrap_or_default();
        let named = |source: &String| {
            let text = read(source);
            text.contains("testdata") && (!rest.contains('/') || text.contains(folder))
                || text.contains(path.as_str())
        };
        if !sources_under(&files, room).iter().any(named) {
            complaints.push(format!(
                "{path}: no source of `{room}` names its folder; write the test that reads it"
            ));
        }
    }
    complain(complaints);
}

#[test]
fn the_map_names_every_room_and_no_file_is_large() {
    let mut complaints = tidy::check_map(&read("README.md"));
    for path in git_files() {
        let bytes = fs::metadata(source_dir().join(&path)).map_or(0, |file| file.len());
        complaints.extend(tidy::check_size(&path, bytes));
    }
    complain(complaints);
}

#[test]
fn the_set_up_builds_the_rocksdb_that_is_linked() {
    let [script, manifest, lock, config] =
        ["deploy/setup/rocksdb.sh", "Cargo.toml", "Cargo.lock", ".cargo/config.toml"].map(read);
    complain(tidy::check_rocksdb(&script, &manifest, &lock, &config));
    for (what, complaints) in [
        (
            "another version",
            tidy::check_rocksdb(&script.replace("VERSION=0", "VERSION=9"), &manifest, &lock, &config),
        ),
        (
            "other features",
            tidy::check_rocksdb(&script.replace("\"lz4\"", "\"zstd\""), &manifest, &lock, &config),
        ),
        ("other flags", tidy::check_rocksdb(&script, &manifest, &lock, &config.replace("v2", "v3"))),
        ("no lock", tidy::check_rocksdb(&script, &manifest, "", &config)),
    ] {
        assert!(!complaints.is_empty(), "{what} is not seen");
    }
}

#[test]
fn a_broken_table_is_seen() {
    let cases = [
        ("engine", "engine v0.1.0\nproto v0.1.0 (/x/proto)\nprost v0.14.6", 0),
        ("engine", "engine v0.1.0\nproto v0.1.0\ntokio v1.54.0\n", 1),
        ("engine", "engine v0.1.0\nreplication v0.1.0\n", 1),
        ("engine", "proto v0.1.0\n", 1),
        ("client", "client v0.1.0\nconfig v0.1.0\nproto v0.1.0\nrpc v0.1.0\ntokio v1.54.0\n", 0),
        ("client", "client v0.1.0\nscheduler v0.1.0\n", 1),
        ("agent", "agent v0.1.0\nexecutor v0.1.0\nlibrocksdb-sys v0.19.0+10.4.2\nrocksdb v0.25.0\n", 2),
        ("executor", "executor v0.1.0\nproto v0.1.0\nisolation v0.1.0\ntokio v1.54.0 (*)\n", 1),
        ("proto", "proto v0.1.0\ntonic v0.14.9\n", 1),
        ("config", "config v0.1.0\nproto v0.1.0\nhyper v1.0.0\n", 1),
        (
            "scheduler",
            "scheduler v0.1.0\nengine v0.1.0\nreplication v0.1.0\nrocksdb v0.25.0\nagent v0.1.0\n",
            1,
        ),
        ("isolation", "isolation v0.1.0\nproto v0.1.0\n", 1),
        ("replication", "replication v0.1.0\nengine v0.1.0\nproto v0.1.0\n", 1),
        ("rpc", "rpc v0.1.0\nproto v0.1.0\ntests v0.1.0\n", 1),
    ];
    for (name, listing, want) in cases {
        let complaints = tidy::check_tree(tidy::room(name), listing);
        assert_eq!(complaints.len(), want, "{listing}\n{complaints:?}");
    }
    for (name, manifest, want) in [
        ("scheduler", "[dependencies]\nengine.workspace = true\n", 0),
        ("scheduler", "[dependencies]\nopenraft.workspace = true\n", 1),
        ("agent", "[package]\nversion = \"1\"\n[dependencies]\ntokio = \"1\"\n", 1),
        ("agent", "[dev-dependencies]\nprost = { version = \"0.14\" }\n", 1),
    ] {
        let complaints = tidy::check_manifest(tidy::room(name), manifest);
        assert_eq!(complaints.len(), want, "{manifest}\n{complaints:?}");
    }
}

#[test]
fn a_broken_source_is_seen() {
    for (room, text, want) in [
        ("engine", "//! Fine.\nuse proto::wire;\n", 0),
        ("engine", "// no header\n", 1),
        ("engine", "//! X.\nuse scheduler::leader;\n", 1),
        ("engine", "//! X.\nuse std::net::TcpStream;\n", 1),
        ("client", "//! X.\nuse engine::State;\n", 1),
        ("scheduler", "//! X.\nfn f(x: openraft::LogId) {}\n", 1),
        ("scheduler", "//! X. No openraft::here, said a comment.\n", 0),
        ("replication", "//! X.\nfn f(x: wire::JobKey) {}\n", 1),
        ("replication", "//! X.\nuse proto::wire::raft::Vote;\n", 0),
        ("client", "//! X.\n#[test]\n#[ignore]\nfn f() {}\n", 1),
        ("client", concat!("//! X.\nfn f() { to", "do!() }\n"), 1),
        ("client", concat!("//! X.\nfn f() { db", "g!(1); unimple", "mented!() }\n"), 2),
        ("client", concat!("//! X.\nfn f() { say(\"to", "do!(\") }\n"), 0),
    ] {
        let complaints = tidy::check_source(tidy::room(room), "x.rs", text);
        assert_eq!(complaints.len(), want, "{text}\n{complaints:?}");
    }
}

#[test]
fn an_impure_engine_is_seen() {
    let in_state = "engine/src/state/job.rs";
    for (path, text, want) in [
        ("engine/src/apply.rs", "//! X.\nfn pure(at: u64) -> u64 { at }\n", 0),
        ("engine/src/apply.rs", "async fn f() {}\n", 1),
        ("engine/src/apply.rs", "let now = std::time::Instant::now();\n", 1),
        ("engine/src/apply.rs", "let now = SystemTime::now();\n", 1),
        ("engine/src/apply.rs", "use std::collections::HashMap;\n", 1),
        ("engine/src/map.rs", "use std::collections::HashMap;\n", 0),
        ("engine/src/apply.rs", "use std::env;\nuse std::fs::File;\nuse rand::Rng;\n", 3),
        ("engine/src/apply.rs", "use tokio::sync::mpsc;\nuse rocksdb::DB;\n", 2),
        ("engine/src/apply.rs", "// tokio has no place here\nlet s = \"std::fs\"; let operand = 1;\n", 0),
        ("engine/src/apply.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\n", 0),
        ("engine/src/apply.rs", "#[cfg(test)]\nfn f() {}\nuse std::fs;\n", 1),
        (in_state, "pub cpu: f64,\n", 1),
        (in_state, "let half = 0.5;\n", 1),
        (in_state, "let last = pair.0.1; for i in 0..10 {}\n", 0),
        ("engine/src/round/rank.rs", "let half: f64 = 0.5;\n", 0),
    ] {
        let complaints = tidy::check_purity(path, text);
        assert_eq!(complaints.len(), want, "{path}: {text}\n{complaints:?}");
    }
    assert_eq!(tidy::test_modules("//! X.\n#[cfg(test)]\nmod sim;\nmod real;\n"), ["sim"]);
}

#[test]
fn unused_metrics_missing_rows_and_large_files_are_seen() {
    let telemetry =
        "//! X.\n/// A.\npub const A: &str = \"a\";\n/// B.\npub const B: &str = \"b\";\n".to_owned();
    let user = "fn f() { counter!(telemetry::A) }".to_owned();
    assert_eq!(tidy::check_metrics("telemetry.rs", &telemetry, &[telemetry.clone(), user]).len(), 1);
    let whole = "`proto/` `proto/rpc` `engine/` `replication/` `scheduler/` `isolation/` `executor/` `agent/` \
                 `config/` `client/` `deploy/` `tests/`";
    assert_eq!(tidy::check_map(whole), [""; 0]);
    assert_eq!(tidy::check_map(&whole.replace("`agent/`", "")).len(), 1);
    assert!(tidy::check_size("a.bin", 300_000).is_some());
    assert!(tidy::check_size("Cargo.lock", 300_000).is_none());
    assert!(tidy::check_size("a.rs", 1_000).is_none());
}

#[test]
fn comments_and_strings_are_not_code() {
    let text =
        "a /* b /* c */ d */ e \"f \\\" g\" h r#\"i \" j\"# k 'l' '\\'' m<'n> b\"o\" br\"p\" for_r\"q\"";
    let words: Vec<String> = tidy::code_only(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["a", "e", "h", "k", "m<'n>", "b", "b", "for_r"]);
}
