//! Checks of the source tree that keep the rooms apart. Pure: listings and texts in, complaints out.
//!
//! Each complaint names the place, the rule and what to do. The table of the rooms is here, once; `it/tidy.rs`
//! feeds it the real tree, and broken ones to see that each check can fail.

use std::collections::BTreeSet;

/// One room: what its crate may use of ours, and what it must never pull in.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Crate.
    pub name: &'static str,
    /// Folder, from the root.
    pub dir: &'static str,
    /// Our crates that it may use, directly or through others.
    pub ours: &'static [&'static str],
    /// Crates that it must not contain, however deep.
    pub never: &'static [&'static str],
    /// Crates that it must not name itself, though a room that it uses may.
    pub never_named: &'static [&'static str],
    /// Paths that must not stand in its sources.
    pub never_said: &'static [&'static str],
}

const PURE: &[&str] = &["tokio", "rocksdb", "openraft", "tonic", "hyper", "axum", "rand", "mio"];
const NO_STORE: &[&str] = &["rocksdb", "librocksdb-sys", "openraft"];

/// The table.
pub const ROOMS: &[Room] = &[
    Room {
        name: "proto",
        dir: "proto/src",
        ours: &[],
        never: PURE,
        never_named: &[],
        never_said: &["std::net"],
    },
    Room {
        name: "rpc",
        dir: "proto/rpc",
        ours: &["proto"],
        never: NO_STORE,
        never_named: &[],
        never_said: &[],
    },
    Room {
        name: "engine",
        dir: "engine",
        ours: &["proto"],
        never: PURE,
        never_named: &[],
        never_said: &["std::net", "std::process", "std::thread"],
    },
    Room {
        name: "replication",
        dir: "replication",
        ours: &["proto", "rpc"],
        never: &["metrics-exporter-prometheus", "clap"],
        never_named: &["axum"],
        never_said: &["wire::Job", "wire::Task", "wire::Host", "ids::JobId", "ids::TaskId", "ids::HostId"],
    },
    Room {
        name: "scheduler",
        dir: "scheduler",
        ours: &["engine", "replication", "proto", "rpc"],
        never: &[],
        never_named: &["openraft", "rocksdb"],
        never_said: &["openraft::", "rocksdb::"],
    },
    Room {
        name: "isolation",
        dir: "isolation",
        ours: &[],
        never: &["tokio", "tonic", "rocksdb", "openraft", "hyper", "prost"],
        never_named: &[],
        never_said: &["std::net"],
    },
    Room {
        name: "executor",
        dir: "executor",
        ours: &["proto", "isolation"],
        never: &[
            "rocksdb",
            "openraft",
            "tokio",
            "tonic",
            "hyper",
            "axum",
            "clap",
            "tracing-subscriber",
            "regex",
        ],
        never_named: &[],
        never_said: &[],
    },
    Room {
        name: "agent",
        dir: "agent",
        ours: &["proto", "rpc", "isolation", "executor"],
        never: NO_STORE,
        never_named: &[],
        never_said: &[],
    },
    Room {
        name: "config",
        dir: "config",
        ours: &["proto"],
        never: &["tokio", "tonic", "hyper", "axum", "mio", "rocksdb", "openraft", "reqwest", "ureq"],
        never_named: &[],
        never_said: &["std::net"],
    },
    Room {
        name: "client",
        dir: "client",
        ours: &["config", "proto", "rpc"],
        never: NO_STORE,
        never_named: &[],
        never_said: &[],
    },
];

/// Our crates by name, `tests` too.
fn ours() -> BTreeSet<&'static str> {
    ROOMS.iter().map(|room| room.name).chain(["tests"]).collect()
}

/// The room of this name.
pub fn room(name: &str) -> &'static Room {
    ROOMS.iter().find(|room| room.name == name).expect("a room of the table")
}

/// Judges what `cargo tree -e normal -p CRATE --prefix none` lists for a room: a crate per line, its own first.
pub fn check_tree(room: &Room, listing: &str) -> Vec<String> {
    let crates: BTreeSet<&str> = listing.lines().filter_map(|line| line.split(' ').next()).collect();
    let mut complaints = Vec::new();
    if !crates.contains(room.name) {
        complaints.push(format!("the listing of `{}` does not name it; was it asked for?", room.name));
    }
    for name in crates.iter().filter(|name| **name != room.name && ours().contains(*name)) {
        if !room.ours.contains(name) {
            complaints.push(format!(
                "`{}` uses our `{name}`, and may use {:?} only; take the dependency out of {}/Cargo.toml or of what \
                 it pulls in, and pass what is needed through a seam",
                room.name, room.ours, room.dir
            ));
        }
    }
    for name in room.never.iter().filter(|name| crates.contains(*name)) {
        complaints.push(format!(
            "`{}` contains `{name}`, which it never may; `cargo tree -p {} -i {name}` shows by what way",
            room.name, room.name
        ));
    }
    complaints
}

/// Judges a crate's manifest: direct dependencies, and that all versions come from the workspace's table.
pub fn check_manifest(room: &Room, manifest: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut section = "";
    for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        if !section.contains("dependencies") {
            continue;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if !line.contains("workspace = true") {
            complaints.push(format!(
                "{}/Cargo.toml gives `{name}` a version of its own; move it to the table in the root's Cargo.toml \
                 and write `{name}.workspace = true`",
                room.dir
            ));
        }
        if section == "[dependencies]" && room.never_named.contains(&name) {
            complaints.push(format!("`{}` names `{name}`; only the room below it may", room.name));
        }
    }
    complaints
}

/// Judges one source file of a room.
pub fn check_source(room: &Room, path: &str, text: &str) -> Vec<String> {
    let code = code_only(text);
    let mut complaints = Vec::new();
    if !text.starts_with("//!") {
        complaints.push(format!("{path} does not begin with `//!`: say what is here, and what is not"));
    }
    let lines: Vec<&str> = code.lines().collect();
    let marks = ["#[ignore", concat!("to", "do!("), concat!("db", "g!("), concat!("unimple", "mented!(")];
    for mark in marks {
        for line in found(&lines, mark) {
            complaints.push(format!("{path}:{line}: `{mark}`; finish it or take it out"));
        }
    }
    for said in room.never_said {
        for line in found(&lines, said) {
            complaints.push(format!("{path}:{line}: `{said}` has no place in `{}`", room.name));
        }
    }
    let others = ours();
    // A module of the crate's own may have the name of another room.
    let own_module = |name: &str| lines.iter().any(|line| line.contains(&format!("mod {name}")));
    let foreign = |name: &&&str| **name != room.name && !room.ours.contains(*name) && !own_module(name);
    for name in others.iter().filter(foreign) {
        for (at, line) in lines.iter().enumerate() {
            let named = [format!("use {name}::"), format!("use {name};"), format!("extern crate {name}")];
            if named.iter().any(|named| line.contains(named.as_str())) {
                complaints.push(format!("{path}:{}: `{}` may not use `{name}`", at + 1, room.name));
            }
        }
    }
    complaints
}

/// What has no place in `engine/`, and what to do instead. The first word of a pair is looked for as whole words.
const IMPURE: &[(&str, &str)] = &[
    ("async", "decide on a view; the scheduler waits"),
    ("await", "decide on a view; the scheduler waits"),
    ("tokio", "the scheduler has the runtime"),
    ("rocksdb", "give out rows; replication stores them"),
    ("openraft", "take commands; replication orders them"),
    ("tonic", "take messages; the scheduler speaks"),
    ("rand", "take a seed"),
    ("HashMap", "its order differs between replicas; use BTreeMap, or map.rs"),
    ("HashSet", "its order differs between replicas; use BTreeSet"),
    ("RandomState", "its order differs between replicas"),
    ("Instant::now", "time enters through the command"),
    ("SystemTime::now", "time enters through the command"),
    ("std::env", "take it as an argument"),
    ("std::fs", "give out rows; replication stores them"),
    ("std::io", "give out values"),
    ("println", "give out values"),
    ("eprintln", "give out values"),
    ("thread_local", "State is all there is"),
];

/// Judges the purity of one file of `engine/src`. Tests at its end, behind `#[cfg(test)]`, may do as they like.
pub fn check_purity(path: &str, text: &str) -> Vec<String> {
    let code = code_only(text);
    let product = without_tests(&code);
    let lines: Vec<&str> = product.lines().collect();
    let mut complaints = Vec::new();
    for (word, instead) in IMPURE {
        if word.starts_with("Hash") && path.ends_with("/map.rs") {
            continue;
        }
        for line in found(&lines, word) {
            complaints.push(format!("{path}:{line}: `{word}` in the pure engine: {instead}"));
        }
    }
    if path.contains("/state/") || path.ends_with("/state.rs") {
        for float in ["f32", "f64"] {
            for line in found(&lines, float) {
                complaints
                    .push(format!("{path}:{line}: `{float}` in State: count in thousandths, or in MiB"));
            }
        }
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| has_float(line)) {
            complaints.push(format!("{path}:{}: a float in State: `{}`", at + 1, line.trim()));
        }
    }
    complaints
}

/// Modules of a file that exist in tests only: `#[cfg(test)] mod NAME;`.
pub fn test_modules(text: &str) -> Vec<String> {
    let code = code_only(text);
    let mut lines = code.lines().map(str::trim);
    let mut modules = Vec::new();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            let next = lines.find(|line| !line.is_empty()).unwrap_or_default();
            let name = next.trim_start_matches("pub(crate) ").trim_start_matches("pub ").strip_prefix("mod ");
            modules.extend(name.and_then(|name| name.strip_suffix(';')).map(str::to_owned));
        }
    }
    modules
}

fn without_tests(code: &str) -> String {
    let lines: Vec<&str> = code.lines().collect();
    let end = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]"
            && pair[0].starts_with('#')
            && pair[1].contains("mod ")
            && pair[1].ends_with('{')
    });
    lines[..end.unwrap_or(lines.len())].join("\n")
}

/// Numbers of the lines that hold `words`, not as a part of a longer word.
fn found(lines: &[&str], words: &str) -> Vec<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let whole = |line: &str| {
        line.match_indices(words).any(|(at, _)| {
            let starts = words.starts_with(|c| !part(c)) || !line[..at].ends_with(part);
            let ends = words.ends_with(|c: char| !part(c)) || !line[at + words.len()..].starts_with(part);
            starts && ends
        })
    };
    // `wire::Job` stands for all messages whose name begins so.
    let begins = |line: &str| words.contains("wire::") && line.contains(words);
    let hits = lines.iter().enumerate().filter(|(_, line)| whole(line) || begins(line));
    hits.map(|(at, _)| at + 1).collect()
}

/// A float literal: digit, point, digit, and no range or tuple index.
fn has_float(line: &str) -> bool {
    let bytes = line.as_bytes();
    (1..bytes.len().saturating_sub(1)).any(|at| {
        let start = bytes[..at].iter().rposition(|b| !b.is_ascii_digit() && *b != b'_').map_or(0, |p| p + 1);
        let before = start.checked_sub(1).map(|p| bytes[p]);
        let literal =
            before.is_none_or(|b| !b.is_ascii_alphanumeric() && !matches!(b, b'_' | b'.' | b')' | b']'));
        bytes[at] == b'.' && start < at && literal && bytes[at + 1].is_ascii_digit()
    })
}

/// The names of metrics that a `telemetry.rs` declares and nothing in the crate uses. `sources`: the crate's files.
pub fn check_metrics(path: &str, telemetry: &str, sources: &[String]) -> Vec<String> {
    let code = code_only(telemetry);
    let constants = code.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("pub const ")?;
        let (name, kind) = rest.split_once(':')?;
        kind.trim_start().starts_with("&str").then(|| name.trim().to_owned())
    });
    let uses = |name: &str| {
        let count = |text: &String| found(&code_only(text).lines().collect::<Vec<_>>(), name).len();
        sources.iter().map(count).sum::<usize>()
    };
    constants
        .filter(|name| uses(name) < 2)
        .map(|name| format!("{path}: nothing counts `{name}`; use it or take it out"))
        .collect()
}

/// The README's map must name every room, by its folder.
pub fn check_map(readme: &str) -> Vec<String> {
    let folders =
        ["proto", "proto/rpc", "engine", "replication", "scheduler", "isolation", "executor", "agent"];
    let folders = folders.into_iter().chain(["config", "client", "deploy", "tests"]);
    let missing = folders.filter(|folder| {
        !readme.contains(&format!("`{folder}/`")) && !readme.contains(&format!("`{folder}`"))
    });
    missing.map(|folder| format!("README.md: the map has no row for `{folder}/`; add one")).collect()
}

/// The set-up script builds RocksDB by itself: its versions, features and flags must be those that the workspace links.
pub fn check_rocksdb(script: &str, manifest: &str, lock: &str, config: &str) -> Vec<String> {
    let value = |name: &str| {
        let line = script.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        let value = match line.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next(),
            None => line.split_whitespace().next(),
        };
        value.map(str::to_owned)
    };
    let locked = |name: &str| {
        let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{name}\""));
        let version = lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"')?;
        version.split('+').next().map(str::to_owned)
    };
    let table = manifest.lines().find(|line| line.starts_with("rocksdb = ")).unwrap_or_default();
    let list = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!("{name} = ["))?;
        rest.split(']').next().map(str::to_owned)
    };
    let pinned = table.split_once("version = \"=").and_then(|(_, rest)| rest.split('"').next());
    let flags = list(config, "rustflags").map(|flags| flags.trim_matches('"').to_owned());
    let pairs = [
        ("VERSION", "Cargo.toml", pinned.map(str::to_owned)),
        ("VERSION", "Cargo.lock", locked("rocksdb")),
        ("SYS_VERSION", "Cargo.lock", locked("librocksdb-sys")),
        ("FEATURES", "Cargo.toml", list(table, "features")),
        ("FLAGS", ".cargo/config.toml", flags),
    ];
    let differ = pairs.into_iter().filter(|(name, _, wanted)| wanted.is_none() || value(name) != *wanted);
    let told = differ.map(|(name, file, wanted)| {
        format!(
            "deploy/setup/rocksdb.sh: {name} is {:?}, and {file} says {wanted:?}; make them equal",
            value(name)
        )
    });
    told.collect()
}

/// Files may not be large: test data of size is made by the test.
pub fn check_size(path: &str, bytes: u64) -> Option<String> {
    const BYTES_MAX: u64 = 200 * 1024;
    (bytes > BYTES_MAX && path != "Cargo.lock")
        .then(|| format!("{path} has {bytes} bytes, more than {BYTES_MAX}; let the test make its data"))
}

/// The text with comments, strings and characters blanked out, line by line as before.
pub fn code_only(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |out: &mut String, c: char| out.push(if c == '\n' { '\n' } else { ' ' });
    while at < bytes.len() {
        let (c, next) = (bytes[at], bytes.get(at + 1).copied());
        let end = match (c, next) {
            ('/', Some('/')) => bytes[at..].iter().position(|c| *c == '\n').map_or(bytes.len(), |n| at + n),
            ('/', Some('*')) => block_comment_end(&bytes, at),
            ('"', _) => string_end(&bytes, at),
            ('r', Some('"' | '#')) if !word_before(&bytes, at) => raw_string_end(&bytes, at).unwrap_or(at),
            ('\'', _) => character_end(&bytes, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            out.push(c);
            at += 1;
        } else {
            bytes[at..end].iter().for_each(|c| blank(&mut out, *c));
            at = end;
        }
    }
    out
}

fn word_before(text: &[char], at: usize) -> bool {
    // `br"..."` is a raw string too.
    let before = |n: usize| at.checked_sub(n).map(|p| text[p]);
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    word(before(1)) && (before(1) != Some('b') || word(before(2)))
}

fn block_comment_end(text: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(text.len())
}

fn string_end(text: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn raw_string_end(text: &[char], start: usize) -> Option<usize> {
    let hashes = text[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if text.get(open) != Some(&'"') {
        return None;
    }
    let close = (open + 1..text.len()).find(|at| {
        text[*at] == '"' && text[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    });
    Some(close.map_or(text.len(), |at| at + 1 + hashes))
}

/// A lifetime has no closing quote where a character has one.
fn character_end(text: &[char], start: usize) -> Option<usize> {
    match (text.get(start + 1)?, text.get(start + 2)?) {
        ('\\', _) => {
            let close = text[start + 3..].iter().take(10).position(|c| *c == '\'')?;
            Some(start + 3 + close + 1)
        }
        (_, '\'') => Some(start + 3),
        _ => None,
    }
}
