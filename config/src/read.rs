//! The way of a file through the stages, on a thread with a stack of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use ruff_text_size::Ranged;

use crate::eval::{Evaluator, Run};
use crate::limits::STACK_BYTES;
use crate::problem::{Fault, Issue, PROBLEMS_MAX, Severity};
use crate::resolve::{ISSUES_ENOUGH, Resolver};
use crate::schema::JOB;
use crate::source::{Source, Sources, Span};
use crate::value::{Kind, Value};
use crate::{Job, Loaded, Options, Problem, Problems, guard, json, object, spec};

/// Reads a file; one whose name ends in `.json` as JSON, any other as the `.aurora` language.
pub fn load(file_name: &str, text: &str, options: &Options) -> Result<Loaded, Problems> {
    let sources = Sources(vec![Source::new(file_name, text)]);
    let one = |fault: Fault| Problems(vec![fault.locate(&sources)]);
    guard::check_size(text).map_err(one)?;
    // The parser, and the trees it makes, are recursive; the guard bounds them, and this stack holds that bound.
    let result = thread::scope(|scope| {
        let builder = thread::Builder::new().name("config".to_owned()).stack_size(STACK_BYTES);
        match builder.spawn_scoped(scope, || read(&sources, options)) {
            Ok(reader) => {
                reader.join().map_err(|_| "this file made the reader fail; that is a defect of Borealis")
            }
            Err(_) => Err("no memory for reading this file"),
        }
    });
    result.map_err(|reason| one(Issue::error(Span::default(), reason)))?
}

/// Everything after the size check.
fn read(sources: &Sources<'_>, options: &Options) -> Result<Loaded, Problems> {
    let mut issues = Vec::new();
    let jobs = jobs(sources, options, &mut issues).unwrap_or_else(|fault| {
        issues.push(fault);
        Vec::new()
    });
    let mut seen = BTreeSet::new();
    issues.retain(|issue| seen.insert((issue.span.file, issue.span.start, issue.reason.clone())));
    let located = |severity| -> Vec<Problem> {
        let chosen = issues.iter().filter(|issue| issue.severity == severity).take(PROBLEMS_MAX);
        chosen.map(|issue| issue.clone().locate(sources)).collect()
    };
    let errors = located(Severity::Error);
    if errors.is_empty() {
        Ok(Loaded { jobs, warnings: located(Severity::Warning) })
    } else {
        Err(Problems(errors))
    }
}

fn jobs(sources: &Sources<'_>, options: &Options, issues: &mut Vec<Fault>) -> Result<Vec<Job>, Fault> {
    let Some(source) = sources.0.first() else { return Ok(Vec::new()) };
    let mut run = Run::new(sources);
    let candidates = if source.name.ends_with(".json") {
        from_json(&mut run, source.text)?
    } else {
        from_language(&mut run, source.text)?
    };
    let mut resolver = Resolver::new(&mut run, &options.bindings);
    let mut jobs: Vec<Job> = Vec::new();
    let mut places: BTreeMap<_, Span> = BTreeMap::new();
    for candidate in candidates {
        let Kind::Struct(id) = candidate.kind else { continue };
        let resolved = resolver.job(id);
        issues.append(&mut resolver.issues);
        if issues.iter().filter(|issue| issue.severity == Severity::Error).count() > ISSUES_ENOUGH {
            break;
        }
        let Some(resolved) = resolved else { continue };
        let Some(job) = spec::job(&resolved, issues) else { continue };
        let named = resolved.span_of("name");
        let place = if candidate.span.holds(named) { named } else { candidate.span };
        if let Some(first) = places.insert(job.key.clone(), place) {
            let fault = Issue::error(place, format!("two jobs have the key `{}`", job.key));
            issues.push(fault.also(first, "the other one"));
        }
        jobs.push(job);
    }
    Ok(jobs)
}

/// The jobs of an `.aurora` file: what it assigned to `jobs`.
fn from_language(run: &mut Run<'_>, text: &str) -> Result<Vec<Value>, Fault> {
    let unclosed = guard::check_nesting(text)?;
    let parsed = ruff_python_parser::parse_module(text)
        .map_err(|error| syntax(run.sources, text, &error, unclosed))?;
    let mut globals = Evaluator::new(run, 0).module(parsed.suite())?;
    let last_line = Span::new(0, text.trim_end().len().saturating_sub(1), text.trim_end().len());
    let Some(jobs) = globals.remove("jobs") else {
        let job = globals.iter().find(|(_, value)| match value.kind {
            Kind::Struct(id) => run.heap.instance(id).ty.name == JOB.name,
            _ => false,
        });
        let hint = format!("end it with `jobs = [{}]`", job.map_or("Job(...)", |(name, _)| name));
        return Err(Issue::error(last_line, "the file defines no `jobs`").hint(hint));
    };
    let (Kind::List(list) | Kind::Tuple(list)) = jobs.kind else {
        let reason = format!("`jobs` must be a list of `Job`, not {}", jobs.kind.describe(&run.heap));
        return Err(Issue::error(jobs.span, reason).hint("put it in brackets: `jobs = [...]`"));
    };
    let items = run.heap.items(list);
    if items.is_empty() {
        return Err(Issue::error(jobs.span, "`jobs` is empty"));
    }
    for item in items {
        match item.kind {
            Kind::Struct(id) if run.heap.instance(id).ty.name == JOB.name => {}
            _ => {
                let reason = format!("`jobs` must hold `Job`s, not {}", item.kind.describe(&run.heap));
                return Err(Issue::error(item.span, reason));
            }
        }
    }
    Ok(items.to_vec())
}

/// The jobs of a JSON file: one object, a list of them, or an object with a list `jobs`.
fn from_json(run: &mut Run<'_>, text: &str) -> Result<Vec<Value>, Fault> {
    let value = json::read(run, text, 0)?;
    let jobs = match value.kind {
        Kind::Dict(dict) => {
            let dict = run.heap.entries(dict);
            match dict.get(&Value::text(value.span, "jobs"))?.cloned() {
                None => vec![value.clone()],
                Some(jobs) => {
                    let is_jobs = |key: &Value| matches!(&key.kind, Kind::Text(name) if &**name == "jobs");
                    let other = dict.items().iter().map(|(key, _)| key).find(|key| !is_jobs(key));
                    let other = other.map(|key| key.span);
                    if let Some(span) = other {
                        return Err(Issue::error(span, "beside `jobs` nothing else can stand here"));
                    }
                    listed(run, &jobs)?
                }
            }
        }
        Kind::List(_) => listed(run, &value)?,
        other => {
            return Err(Issue::error(value.span, format!("a job is a JSON object, not {}", other.a_name())));
        }
    };
    if jobs.is_empty() {
        return Err(Issue::error(value.span, "the file defines no job"));
    }
    let mut objects = Vec::with_capacity(jobs.len());
    for job in jobs {
        let Kind::Dict(dict) = job.kind else {
            let reason = format!("a job is a JSON object, not {}", job.kind.a_name());
            return Err(Issue::error(job.span, reason));
        };
        objects.push(object::from_dict(run, &JOB, dict, job.span)?);
    }
    Ok(objects)
}

fn listed(run: &Run<'_>, value: &Value) -> Result<Vec<Value>, Fault> {
    match value.kind {
        Kind::List(list) => Ok(run.heap.items(list).to_vec()),
        _ => Err(Issue::error(value.span, format!("`jobs` must be a list, not {}", value.kind.a_name()))),
    }
}

/// The parser's complaint in our form.
fn syntax(
    sources: &Sources<'_>,
    text: &str,
    error: &ruff_python_parser::ParseError,
    unclosed: Option<Span>,
) -> Fault {
    let range = error.range();
    let span = Span::new(0, range.start().to_usize(), range.end().to_usize());
    let line = sources.get(span).map_or("", |source| source.place(span).text);
    if line.trim_start().starts_with("print ") {
        let before = text.get(..range.start().to_usize()).unwrap_or("");
        let start = before.rfind("print").unwrap_or(before.len());
        let span = Span::new(0, start, start + "print".len());
        return Issue::error(span, "`print` is not understood here")
            .hint("remove the line: a job file prints nothing");
    }
    let words = error.error.to_string();
    let mut chars = words.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    let fault = Issue::error(span, first.into_iter().chain(chars).collect::<String>());
    match unclosed {
        Some(bracket) if (bracket.start as usize) < text.len() => {
            fault.also(bracket, "this bracket is not closed").hint("close it, or look for a quote that is open")
        }
        _ => fault.hint("look at the end of the line before, too: a comma, a quote or a bracket is missing there, or too many"),
    }
}
