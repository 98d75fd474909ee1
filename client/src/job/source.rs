//! A job's description in a file: read, evaluated, or refused with the place that is wrong.

use std::io::Read as _;
use std::path::Path;

use proto::JobKey;

use crate::Context;
use crate::arguments::Bind;
use crate::error::{Error, Kind};

/// Largest description, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads `file` (`-` is standard input). Warnings go to stderr.
pub(crate) fn load(context: &Context<'_>, file: &Path, bind: &Bind) -> Result<config::Loaded, Error> {
    let name = if file == Path::new("-") { "<stdin>".to_owned() } else { file.display().to_string() };
    let mut options = config::Options::default();
    for binding in &bind.bind {
        let (name, value) =
            binding.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                Error::new(Kind::InvalidParameter, format!("the binding {binding:?} has no name or no value"))
                    .hint("it reads --bind NAME=VALUE, as in --bind profile.port=8080")
            })?;
        options.bindings.insert(name.to_owned(), value.to_owned());
    }
    let text = read(file)?;
    let loaded = config::load(&name, &text, &options)
        .map_err(|problems| Error::new(Kind::InvalidConfig, problems.to_string()).rendered())?;
    for warning in &loaded.warnings {
        context.output.note(&warning.to_string());
    }
    Ok(loaded)
}

/// Reads `file` and chooses the job `key`.
pub(crate) fn load_job(
    context: &Context<'_>,
    file: &Path,
    bind: &Bind,
    key: &JobKey,
) -> Result<config::Job, Error> {
    let loaded = load(context, file, bind)?;
    let job = config::select(&loaded.jobs, key).map_err(|why| {
        Error::new(Kind::InvalidConfig, format!("{}: {why}", file.display()))
            .hint("the key on the command line must be that of a job in the file")
    })?;
    Ok(job.clone())
}

fn read(file: &Path) -> Result<String, Error> {
    let bad = |why: String| Error::new(Kind::InvalidConfig, format!("{} {why}", file.display()));
    let unread = |why: std::io::Error| bad(format!("cannot be read: {why}")).hint("check the path");
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unread)?;
    } else {
        let opened = std::fs::File::open(file).map_err(unread)?;
        opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unread)?;
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(bad(format!("is larger than {} MiB; is it a job's description?", FILE_BYTES_MAX >> 20)));
    }
    String::from_utf8(bytes)
        .map_err(|why| bad(format!("is not text: byte {} is not UTF-8", why.utf8_error().valid_up_to())))
}
