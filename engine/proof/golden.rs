//! Golden scenarios: a script, `----`, and the exact trace of what it does. The first line says which rule it shows.
//! `UPDATE_GOLDEN=1` rewrites the traces; read the difference before you commit it.
//!
//! ```text
//! host h1 cpu=4 ram=8192 disk=100000 gpus=2 ports=31000-31009 rack=a
//!                                  registers; also machine= journal= boot= id=HOST held=TASK,TASK; the rest are attributes
//! submit web instances=2 cpu=1 ram=128 disk=64 gpus=1 service ports=http,admin static=http|80 by=alice id=r1
//!                                  also tier= priority= role= failures= together once, partition=wait or =SECONDS,
//!                                  limit:host=1 value:rack=a|b not:rack=c, least:cores=16 less:cores=32, has:ssd=1
//!                                  hasnot:ssd=1, prefer:zone=a, spread:zone=a|60 spread:rack=
//! round                             decides, applies it, and displaces for what found no place
//! round late                        the same, but decides whom to displace before its placements are applied
//! tick | wait SECONDS | lose HOST | freeze | thaw | session TERM | advance
//! report HOST TASK STATUS [why]     a task is JOB/INSTANCE.ATTEMPT, as the trace names it; also journal= seq=
//! kill | restart JOB [INSTANCE ...] [by=NAME] [why=WORD] [role=NAME]
//! add JOB INSTANCE COUNT            COUNT more like INSTANCE
//! quota ROLE cpu=4 ram=8192 disk=1000 gpus=1 [add]
//! drain | activate HOST ... [by=NAME]
//! unused HOST cpu=2 ram=512         what the host's tasks have reserved and do not use
//! update JOB instances=3 cpu=2 ...  begins one, with the words of submit; move JOB INSTANCE ...; endupdate JOB
//! cron JOB instances=3 ...          puts a template, with the words of submit; runcron JOB; dropcron JOB
//! raise LEVEL | setclock SECONDS    so many seconds forward from now, or back
//! wanted HOST | show JOB [role=NAME] | hosts | roles
//! ```
//!
//! A word that is none of these panics: a script says what it means.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use prost::Message as _;
use proto::{TaskId, wire};

use super::make::{
    BEGIN, JobMaker, compare as compares, exists, host_with, identity, limit, session, spread, value,
};
use crate::state::command::{Report, Request};
use crate::state::host::HostMode;
use crate::state::laws;
use crate::{Applied, Command, Op, RowValue, State, Status, Task, Timestamp, View, preemptions, round};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// Compares with a golden file, or rewrites it.
pub(crate) fn compare(name: &str, got: &str) {
    let path = folder().join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, got).unwrap();
        return;
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        got == want,
        "{} differs; if intended, rerun with UPDATE_GOLDEN=1\n--- got\n{got}",
        path.display()
    );
}

#[test]
fn every_scenario_runs_as_written() {
    let mut ran = 0;
    let mut files: Vec<_> =
        std::fs::read_dir(folder().join("scenarios")).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let script = text.split("----\n").next().unwrap_or_default();
        assert!(script.starts_with("# "), "{} begins with a line that says its rule", path.display());
        let Scenario { trace, log, .. } = Scenario::run(script);
        if let Some(to) = std::env::var_os("BOREALIS_FREEZE_COMMANDS") {
            // For a golden directory of a level, see tests/levels.
            let name = path.with_extension("batch");
            let batch = wire::raft::Batch { commands: log };
            std::fs::write(PathBuf::from(to).join(name.file_name().unwrap()), batch.encode_to_vec()).unwrap();
        }
        let name = format!("scenarios/{}", path.file_name().unwrap().to_string_lossy());
        compare(&name, &format!("{script}----\n{trace}"));
        ran += 1;
    }
    assert!(ran >= 60, "only {ran} scenarios were found");
}

/// `name=value` words of a line, and the bare ones.
struct Words<'a> {
    bare: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Words<'a> {
        let (mut bare, mut named) = (Vec::new(), BTreeMap::new());
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => drop(named.insert(name, value)),
                None => bare.push(word),
            }
        }
        Words { bare, named }
    }

    /// Panics at a word that the command does not know.
    fn check(&self, line: &str) {
        const JOB_FLAGS: &[&str] = &["service", "together", "once"];
        const JOB_NAMES: &[&str] = &[
            "instances",
            "cpu",
            "ram",
            "disk",
            "gpus",
            "ports",
            "static",
            "tier",
            "priority",
            "role",
            "failures",
            "partition",
            "by",
            "id",
        ];
        const RULES: [&str; 8] = ["limit", "value", "not", "least", "less", "has", "hasnot", "prefer"];
        let command = self.bare[0];
        // How many bare words follow, which of them are flags, and what has a value.
        let (least, most, flags, names): (usize, usize, &[&str], &[&str]) = match command {
            "submit" | "update" | "cron" => (1, 1, JOB_FLAGS, JOB_NAMES),
            "host" => (1, 1, &[], &[]),
            "round" => (0, 0, &["late"], &[]),
            "tick" | "freeze" | "thaw" | "resume" | "advance" | "hosts" | "roles" => (0, 0, &[], &[]),
            "wait" | "lose" | "session" | "restore" | "wanted" | "raise" | "setclock" => (1, 1, &[], &[]),
            "report" => (3, usize::MAX, &[], &["journal", "seq"]),
            "kill" | "restart" => (1, usize::MAX, &[], &["by", "id", "why", "role"]),
            "add" => (3, 3, &[], &["role"]),
            "quota" => (1, 1, &["add"], &["cpu", "ram", "disk", "gpus"]),
            "drain" | "activate" => (1, usize::MAX, &[], &["by", "id"]),
            "unused" => (1, 1, &[], &["cpu", "ram", "disk", "gpus"]),
            "move" => (2, usize::MAX, &[], &["by", "id", "role"]),
            "endupdate" | "runcron" | "dropcron" | "show" => (1, 1, &[], &["role"]),
            other => panic!("{other} is no command: {line}"),
        };
        let bare = self.bare[1..].iter().filter(|word| !flags.contains(word)).count();
        assert!((least..=most).contains(&bare), "{command} takes {least} or more words, not {bare}: {line}");
        for name in self.named.keys() {
            let rule =
                name.split_once(':').is_some_and(|(rule, _)| RULES.contains(&rule) || rule == "spread");
            let known = names.contains(name) || command == "host" || (names == JOB_NAMES && rule);
            assert!(known, "{command} knows no {name}=: {line}");
        }
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.named.get(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    }

    /// Thousandths of `name`, written as a decimal number.
    fn milli(&self, name: &str, default: &str) -> u64 {
        let text = self.named.get(name).unwrap_or(&default);
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        whole.parse::<u64>().unwrap() * 1000 + format!("{part:0<3}")[..3].parse::<u64>().unwrap()
    }
}

fn resources(words: &Words) -> proto::Resources {
    proto::Resources {
        cpu_milli: words.milli("cpu", "0"),
        ram_mib: words.number("ram", 0),
        disk_mib: words.number("disk", 0),
        gpus: words.number("gpus", 0),
    }
}

struct Scenario {
    state: State,
    view: View,
    at: Timestamp,
    names: BTreeMap<TaskId, String>,
    attempts: BTreeMap<(String, u32), u32>,
    sequence: u64,
    trace: String,
    /// Every command, encoded.
    log: Vec<prost::bytes::Bytes>,
}

impl Scenario {
    fn run(script: &str) -> Scenario {
        let mut scenario = Scenario {
            state: State::default(),
            view: View::default(),
            at: BEGIN,
            names: BTreeMap::new(),
            attempts: BTreeMap::new(),
            sequence: 0,
            trace: String::new(),
            log: Vec::new(),
        };
        scenario.commit(&session(BEGIN, 1)).reply.unwrap();
        for line in script.lines() {
            let code = line.split('#').next().unwrap_or_default().trim();
            if code.is_empty() {
                continue;
            }
            writeln!(scenario.trace, "> {code}").unwrap();
            scenario.step(code);
        }
        scenario
    }

    /// Applies what is read of what is written.
    fn commit(&mut self, command: &Command) -> Applied {
        let bytes = command.encode();
        let applied = self.state.apply(Command::decode(&bytes).unwrap());
        self.log.push(bytes.into());
        applied
    }

    fn say(&mut self, text: impl std::fmt::Display) {
        writeln!(self.trace, "  {text}").unwrap();
    }

    fn step(&mut self, line: &str) {
        let words = Words::of(line);
        words.check(line);
        let subject = words.bare.get(1).copied().unwrap_or_default();
        match words.bare[0] {
            "host" => self.host(subject, &words),
            "submit" => self.submit(subject, &words),
            "round" => self.round(words.bare.contains(&"late")),
            "report" => self.report(subject, &words),
            "lose" => {
                let found = self.state.host_by_name(subject).expect("a known host");
                let (host, since) = (found.id(), found.record.since);
                self.apply(Op::Silence { host, since }, None);
            }
            "tick" => self.apply(Op::Tick, None),
            "raise" => self.apply(Op::RaiseLevel { to: subject.parse().unwrap() }, None),
            "setclock" => {
                let seconds: i64 = subject.parse().unwrap();
                let to = Timestamp(self.at.0.saturating_add_signed(seconds * 1000));
                self.apply(Op::SetClock { to }, None);
                self.at = self.state.clock();
            }
            "wait" => self.at = self.at.plus_ms(subject.parse::<u64>().unwrap() * 1000),
            "kill" | "restart" => self.stop(subject, &words),
            "add" => {
                let job = self.key(subject, &words);
                let number = |at: usize| words.bare[at].parse().unwrap();
                self.apply(Op::AddInstances { job, like: number(2), count: number(3) }, None);
            }
            "unused" => {
                let host = self.state.host_by_name(subject).expect("a known host").id();
                self.apply(Op::ReportUnused { host, unused: resources(&words) }, None);
            }
            "update" => {
                let spec = self.spec(subject, &words);
                self.apply(Op::StartUpdate(spec), self.request(&words));
            }
            "move" => {
                let instances = words.bare[2..].iter().map(|n| n.parse().unwrap()).collect();
                let job = self.key(subject, &words);
                self.apply(Op::UpdateInstances { job, instances }, self.request(&words));
            }
            "endupdate" => {
                let job = self.key(subject, &words);
                self.apply(Op::EndUpdate { job }, None);
            }
            "cron" => {
                let (spec, schedule) = (self.spec(subject, &words), "0 * * * *".to_owned());
                self.apply(Op::PutCron { spec, schedule }, None);
            }
            "runcron" | "dropcron" => {
                let job = self.key(subject, &words);
                let run = words.bare[0] == "runcron";
                self.apply(if run { Op::RunCron { job } } else { Op::DropCron { job } }, None);
            }
            "quota" => {
                let quota = resources(&words);
                let increment = words.bare.contains(&"add");
                self.apply(Op::SetQuota { role: subject.to_owned(), quota, increment }, None);
            }
            "drain" | "activate" => {
                let hosts = words.bare[1..].iter().map(|name| (*name).to_owned()).collect();
                self.apply(
                    match words.bare[0] {
                        "drain" => Op::DrainHosts { hosts, message: String::new() },
                        _ => Op::ActivateHosts { hosts },
                    },
                    self.request(&words),
                );
            }
            "roles" => {
                let lines: Vec<String> = self
                    .state
                    .roles()
                    .map(|(name, role)| {
                        let quota = role.quota.map_or("none".to_owned(), |quota| quota.to_string());
                        let promised = match self.state.promised(name) {
                            none if none == proto::Resources::default() => String::new(),
                            some => format!(", promised {some}"),
                        };
                        format!(
                            "{name} quota {quota}, charged {}{promised}, other {}",
                            role.charged(),
                            role.other()
                        )
                    })
                    .collect();
                lines.into_iter().for_each(|line| self.say(line));
            }
            "resume" => self.apply(Op::Resume, None),
            "restore" => {
                let mut session = session(self.at, self.state.cluster().term + 1);
                if let Op::StartSession(session) = &mut session.op {
                    session.epoch = subject.parse().unwrap();
                }
                let applied = self.commit(&session);
                self.view = View::new(&self.state);
                self.say(
                    applied
                        .reply
                        .map_or_else(|no| no.to_string(), |_| "a leader of a later epoch".to_owned()),
                );
            }
            "freeze" | "thaw" => self.apply(Op::Freeze { frozen: words.bare[0] == "freeze" }, None),
            "advance" => {
                let work = self.state.next_work().expect("work to advance");
                self.apply(Op::AdvanceWork(work), None);
            }
            "session" => {
                let applied = self.commit(&session(self.at, subject.parse().unwrap()));
                self.view = View::new(&self.state);
                self.say(applied.reply.map_or_else(|no| no.to_string(), |_| "a new leader".to_owned()));
            }
            "wanted" => self.wanted(subject),
            "show" => self.show(subject, &words),
            "hosts" => self.hosts(),
            other => unreachable!("{other} was checked"),
        }
    }

    fn apply(&mut self, op: Op, request: Option<Request>) {
        let mut command = Command::new(self.at, op);
        command.request = request;
        let before: BTreeMap<TaskId, Task> = self.state.tasks().map(|task| (task.id, task.clone())).collect();
        let applied = self.commit(&command);
        laws::check(&self.state).unwrap_or_else(|broken| panic!("{broken}\n{}", self.trace));
        self.tell(&before, &applied);
        self.view.absorb(&self.state, &applied.hints);
    }

    /// What a command did, task by task in id order.
    fn tell(&mut self, before: &BTreeMap<TaskId, Task>, applied: &Applied) {
        if let Err(refusal) = &applied.reply {
            self.say(format!("refused, {:?}: {refusal}", refusal.kind));
        }
        let mut lines = BTreeMap::new();
        for change in &applied.changed {
            if let Some(RowValue::History(task)) = &change.row {
                lines.insert(task.id, self.shown(before.get(&task.id), task));
            }
        }
        let after: Vec<Task> = self.state.tasks().cloned().collect();
        for task in &after {
            if before.get(&task.id) != Some(task) {
                let line = self.shown(before.get(&task.id), task);
                lines.insert(task.id, line);
            }
        }
        for (id, task) in before {
            if self.state.task(*id).is_none() && !lines.contains_key(id) {
                lines.insert(*id, format!("{} {} -> gone", self.names[id], task.status));
            }
        }
        if lines.len() > 20 {
            let hidden = lines.len() - 2;
            let (first, last) = (lines.pop_first().unwrap().1, lines.pop_last().unwrap().1);
            self.say(first);
            self.say(format!("... {hidden} more alike ..."));
            self.say(last);
            lines.clear();
        }
        for line in lines.into_values() {
            self.say(line);
        }
        if let Ok(done) = applied.reply {
            let unchanged = if done.unchanged { ", nothing was made" } else { "" };
            self.say(format!("ok, {} tasks{unchanged}", done.tasks));
        }
    }

    fn shown(&mut self, before: Option<&Task>, task: &Task) -> String {
        let name = self.name(task);
        let host =
            task.host.and_then(|host| self.state.host(host)).map(|host| format!(" on {}", host.name()));
        let ports: Vec<String> = task.named_ports().map(|(name, port)| format!(" {name}={port}")).collect();
        let message = task.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        let was = before.map_or("new".to_owned(), |before| format!("{} ->", before.status));
        format!("{name} {was} {}{}{}{message}", task.status, host.unwrap_or_default(), ports.concat())
    }

    /// JOB/INSTANCE.ATTEMPT, attempts counted as they appear.
    fn name(&mut self, task: &Task) -> String {
        if let Some(name) = self.names.get(&task.id) {
            return name.clone();
        }
        let job = task.config.job.name.clone();
        let attempt = self.attempts.entry((job.clone(), task.instance)).or_default();
        *attempt += 1;
        let name = format!("{job}/{}.{attempt}", task.instance);
        self.names.insert(task.id, name.clone());
        name
    }

    fn task(&self, name: &str) -> TaskId {
        let found = self.names.iter().find(|(_, known)| *known == name).map(|(id, _)| *id);
        found.unwrap_or_else(|| name.parse().unwrap_or_else(|_| panic!("no task is called {name}")))
    }

    fn host(&mut self, name: &str, words: &Words) {
        let known = ["cpu", "ram", "disk", "gpus", "ports", "machine", "journal", "boot", "id", "held"];
        let attributes: Vec<(&str, &str)> =
            words.named.iter().filter(|(name, _)| !known.contains(name)).map(|(a, b)| (*a, *b)).collect();
        let ports = words.named.get("ports").and_then(|range| range.split_once('-'));
        let ports = ports.map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap()));
        let capacity = proto::Resources {
            cpu_milli: words.milli("cpu", "4"),
            ram_mib: words.number("ram", 8192),
            disk_mib: words.number("disk", 100_000),
            gpus: words.number("gpus", 0),
        };
        let spec = host_with(name, capacity, ports, &attributes);
        let or = |key: &str, default: &str| {
            words.named.get(key).map_or(default.to_owned(), |text| (*text).to_owned())
        };
        let mut who = identity(
            &or("machine", &format!("m-{name}")),
            &or("journal", &format!("j-{name}")),
            &or("boot", "b1"),
        );
        who.host = words.named.get("id").map(|of| self.state.host_by_name(of).expect("a known host").id());
        let held = words.named.get("held").into_iter().flat_map(|names| names.split(','));
        let held = held.map(|name| self.task(name)).collect();
        self.apply(Op::RegisterHost { identity: who, spec, held }, None);
    }

    fn request(&self, words: &Words) -> Option<Request> {
        let asked = words.named.iter().filter(|(name, _)| !matches!(**name, "by" | "id"));
        let body = format!("{:?} {:?}", words.bare, asked.collect::<Vec<_>>());
        let identity = (*words.named.get("by")?).to_owned();
        let id = words.named.get("id").map_or(format!("auto-{}", self.at.0), |id| (*id).to_owned());
        Some(Request { identity, id, created: self.at, body_hash: body.into_bytes() })
    }

    fn submit(&mut self, name: &str, words: &Words) {
        let spec = self.spec(name, words);
        self.apply(Op::CreateJob(spec), self.request(words));
    }

    fn spec(&self, name: &str, words: &Words) -> crate::JobSpec {
        let mut job = JobMaker::new(name);
        job.instances = words.number("instances", 1) as u32;
        job.cpu_milli = words.milli("cpu", "1");
        job.ram_mib = words.number("ram", 128);
        job.disk_mib = words.number("disk", 64);
        job.gpus = words.number("gpus", 0) as u32;
        job.service = words.bare.contains(&"service");
        job.priority = words.number("priority", 0) as i32;
        if let Some(failures) = words.named.get("failures") {
            job.max_task_failures = failures.parse().unwrap();
        }
        if let Some(ports) = words.named.get("ports") {
            job.ports = ports.split(',').map(str::to_owned).collect();
        }
        if let Some(role) = words.named.get("role") {
            job.role = (*role).to_owned();
        }
        if let Some(tier) = words.named.get("tier") {
            job.tier = (*tier).to_owned();
        }
        if let Some((name, port)) = words.named.get("static").and_then(|text| text.split_once('|')) {
            job.static_ports = vec![wire::NamedPort { name: name.into(), port: port.parse().unwrap() }];
        }
        job.at_most_one = words.bare.contains(&"once");
        job.all_or_nothing = words.bare.contains(&"together");
        job.partition = words.named.get("partition").map(|delay| wire::PartitionPolicy {
            reschedule: *delay != "wait",
            delay_seconds: delay.parse().unwrap_or(0),
        });
        for (key, text) in &words.named {
            match key.split_once(':') {
                Some(("limit", attribute)) => job.constraints.push(limit(attribute, text.parse().unwrap())),
                Some(("value", attribute)) => job.constraints.push(value(attribute, text, false)),
                Some(("not", attribute)) => job.constraints.push(value(attribute, text, true)),
                Some(("least", attribute)) => {
                    job.constraints.push(compares(attribute, wire::Comparison::AtLeast, text));
                }
                Some(("less", attribute)) => {
                    job.constraints.push(compares(attribute, wire::Comparison::Less, text));
                }
                Some(("has", attribute)) => job.constraints.push(exists(attribute, false)),
                Some(("hasnot", attribute)) => job.constraints.push(exists(attribute, true)),
                Some(("prefer", attribute)) => job
                    .preferences
                    .push(wire::Preference { constraint: Some(value(attribute, text, false)), weight: 50 }),
                Some(("spread", attribute)) => job.spreads.push(spread(attribute, text)),
                Some((rule, _)) => unreachable!("{rule} was checked"),
                None => {}
            }
        }
        job.spec()
    }

    fn key(&self, job: &str, words: &Words) -> proto::JobKey {
        let mut key = JobMaker::new(job).spec().config.job.clone();
        if let Some(role) = words.named.get("role") {
            key.role = (*role).to_owned();
        }
        key
    }

    fn round(&mut self, late: bool) {
        let decided = round(&self.view, usize::MAX);
        self.view.launch(&decided);
        let early = late.then(|| preemptions(&mut self.view, &self.state, &decided, 100));
        for assign in &decided.assigns {
            self.apply(Op::Assign(assign.clone()), None);
            self.view.settle(&self.state, assign);
        }
        for together in &decided.together {
            self.apply(Op::AssignTogether(together.clone()), None);
            together.iter().for_each(|assign| self.view.settle(&self.state, assign));
        }
        let displaced = early.unwrap_or_else(|| preemptions(&mut self.view, &self.state, &decided, 100));
        for preempt in &displaced {
            let host = self.state.host(preempt.host).unwrap().name().clone();
            let (taker, victims) = (self.names[&preempt.task].clone(), preempt.victims.len());
            self.say(format!("{taker} displaces {victims} on {host}"));
            self.apply(Op::Preempt(preempt.clone()), None);
            self.view.settle_preempt(&self.state, preempt);
        }
        for group in decided.report.groups.iter().filter(|group| group.waiting > 0) {
            let job = self.state.job_by_id(group.job).unwrap().key().name.clone();
            let vetoes: Vec<String> =
                group.vetoes.iter().map(|(kind, hosts)| format!("{} {hosts}", kind.label())).collect();
            let vetoes = if vetoes.is_empty() { String::new() } else { format!(" [{}]", vetoes.join(", ")) };
            self.say(format!("{job}: {} wait: {}{vetoes}", group.waiting, group.reason));
        }
        if decided.report.placed + decided.report.waiting == 0 {
            self.say("nothing waits");
        }
    }

    fn report(&mut self, host: &str, words: &Words) {
        self.sequence += 1;
        let status = Status::ALL.into_iter().find(|status| status.name() == words.bare[3]).expect("a status");
        let known = self.state.host_by_name(host).expect("a known host");
        let journal =
            words.named.get("journal").map_or(known.record.identity.journal.clone(), |j| (*j).to_owned());
        let id = known.id();
        let report = Report {
            task: self.task(words.bare[2]),
            status,
            message: words.bare[4..].join(" "),
            sequence: words.number("seq", self.sequence),
        };
        let generation = known.record.generation;
        self.apply(Op::ApplyReports { host: id, journal, reports: vec![report] }, None);
        let owed = self.state.host(id).unwrap().record.generation - generation;
        if owed > 0 {
            self.say(format!("{host} is owed another wanted set"));
        }
    }

    fn stop(&mut self, job: &str, words: &Words) {
        let job = self.key(job, words);
        let instances = words.bare[2..].iter().map(|n| n.parse().unwrap()).collect();
        let message = words.named.get("why").map_or(String::new(), |why| (*why).to_owned());
        let op = match words.bare[0] {
            "kill" => Op::KillTasks { job, instances, message },
            _ => Op::RestartTasks { job, instances, message },
        };
        self.apply(op, self.request(words));
    }

    fn wanted(&mut self, host: &str) {
        let id = self.state.host_by_name(host).expect("a known host").id();
        let wanted = self.state.wanted(id).unwrap();
        for task in &wanted.tasks {
            let line = format!("{:?} {}", task.want, self.names[&task.id]);
            self.say(line);
        }
        if wanted.tasks.is_empty() {
            self.say("nothing");
        }
    }

    fn show(&mut self, name: &str, words: &Words) {
        let key = self.key(name, words);
        let Some(job) = self.state.job(&key) else { return self.say("no such job") };
        let mut lines = vec![format!(
            "{} instances, {}",
            job.instances(),
            if job.is_active() { "active" } else { "ended" }
        )];
        for task in self.state.tasks_of(job) {
            let why = match self.view.why_pending(&task.config.hash) {
                Some(why) if task.status == Status::Pending => format!(": {}", why.reason),
                _ => self
                    .state
                    .waits(&[task], self.at)
                    .map(|waits| format!(": {}", waits.words))
                    .unwrap_or_default(),
            };
            lines.push(format!("live {} {}{why}", self.names[&task.id], task.status));
        }
        for ended in job.ended() {
            let host = ended.host.as_deref().map(|host| format!(" on {host}")).unwrap_or_default();
            let why = ended.message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            lines.push(format!("ended {} {}{host}{why}", self.names[&ended.id], ended.status));
        }
        lines.into_iter().for_each(|line| self.say(line));
    }

    fn hosts(&mut self) {
        let lines: Vec<String> = self
            .state
            .hosts()
            .map(|host| {
                let silent = match (host.is_silent(), host.mode()) {
                    (true, _) => ", silent",
                    (_, HostMode::Active) => "",
                    (_, HostMode::Draining) => ", draining",
                    (_, HostMode::Drained) => ", drained",
                };
                format!(
                    "{} {} free {}, {} tasks{silent}",
                    host.id(),
                    host.name(),
                    host.free(),
                    host.tasks().len()
                )
            })
            .collect();
        lines.into_iter().for_each(|line| self.say(line));
    }
}
