//! `borealis job inspect`: a job's config as JSON, from the cluster or from a file.

use std::path::Path;

use proto::JobKey;
use proto::wire::JobSpec;

use super::{progress, source};
use crate::arguments::Bind;
use crate::error::{Error, Kind};
use crate::{Context, TIMEOUT};

/// Prints the config of a running job (`target` is its key), or what a file describes (`target` is the file, or
/// chooses one job of `file`).
pub(crate) async fn run(
    context: &Context<'_>,
    target: &str,
    file: Option<&Path>,
    bind: &Bind,
) -> Result<(), Error> {
    if let Some(file) = file {
        let job = source::load_job(context, file, bind, &target.parse::<JobKey>()?)?;
        return print(context, &job.spec);
    }
    if is_file(target) {
        let loaded = source::load(context, Path::new(target), bind)?;
        return match &loaded.jobs[..] {
            [job] => print(context, &job.spec),
            jobs => context.output.value(&jobs.iter().map(|job| config::to_json(&job.spec)).collect()),
        };
    }
    let key: JobKey = target.parse()?;
    let connection = context.connect(Some(&key.cluster), TIMEOUT)?;
    let reply = progress::get(&connection, &key, false, true).await?;
    match reply.spec {
        Some(spec) => print(context, &spec),
        None => Err(Error::new(Kind::Unknown, format!("the answer about {key} has no config"))),
    }
}

fn print(context: &Context<'_>, spec: &JobSpec) -> Result<(), Error> {
    context.output.value(&config::to_json(spec))
}

/// A file's name ends like one, or there is a file of this name.
fn is_file(target: &str) -> bool {
    target == "-" || target.ends_with(".aurora") || target.ends_with(".json") || Path::new(target).is_file()
}
