//! `borealis job list`.

use proto::JobKey;
use proto::wire::{ClusterStatusRequest, JobSummary, ListJobsRequest};
use serde_json::{Value, json};

use crate::addresses;
use crate::connection::{Ask, Connection, Effect};
use crate::error::{Error, Kind};
use crate::table::table;
use crate::{Context, TIMEOUT, duration};

/// Which jobs are meant; empty = all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Which {
    role: String,
    environment: String,
}

/// Lists jobs.
pub(crate) async fn run(context: &Context<'_>, which: Option<&str>, stale: bool) -> Result<(), Error> {
    let parts: Vec<&str> = which.map(|which| which.split('/').collect()).unwrap_or_default();
    for part in &parts {
        proto::job_key::check_part("job list", part)?;
    }
    if parts.len() > 3 {
        return Err(not_jobs(&parts));
    }
    let known = match addresses::clusters_file() {
        Some(file) => addresses::read_clusters(&file)?,
        None => Default::default(),
    };
    // A first part that is a cluster in the user's file, or one of three parts, names the cluster.
    let named = parts.first().copied().filter(|first| parts.len() == 3 || known.contains_key(*first));
    let connection = context.connect(named, TIMEOUT)?;
    let cluster = match (named, &parts[..]) {
        (Some(named), _) => Some(named.to_owned()),
        (None, []) => None,
        (None, _) => Some(cluster_name(&connection).await?),
    };
    let which = read(&parts, cluster.as_deref())?;

    let request = ListJobsRequest { role: which.role, environment: which.environment, stale };
    let ask = Ask { doing: "listing jobs", effect: Effect::Reads };
    let reply = connection.ask(ask, async |mut api| api.list_jobs(request.clone()).await).await?;
    let value =
        json!({ "jobs": reply.jobs.iter().map(job_json).collect::<Vec<_>>(), "age_ms": reply.age_ms });
    let age_ms = stale.then_some(reply.age_ms);
    context.output.answer(&text(&reply.jobs, age_ms), &value)
}

async fn cluster_name(connection: &Connection<'_>) -> Result<String, Error> {
    let ask = Ask { doing: "asking for the cluster's name", effect: Effect::Reads };
    let reply = connection.operate(ask, async |mut api| api.status(ClusterStatusRequest {}).await).await?;
    Ok(reply.cluster)
}

/// Whether the first part is the cluster's name or a role is clear once the cluster's name is known.
fn read(parts: &[&str], cluster: Option<&str>) -> Result<Which, Error> {
    let rest = match parts {
        [first, rest @ ..] if Some(*first) == cluster => rest,
        parts => parts,
    };
    let which = |role: &str, environment: &str| Which { role: role.into(), environment: environment.into() };
    match *rest {
        [] => Ok(which("", "")),
        [role] => Ok(which(role, "")),
        [role, environment] => Ok(which(role, environment)),
        _ => Err(not_jobs(parts)),
    }
}

fn not_jobs(parts: &[&str]) -> Error {
    let what = format!("`{}` names no jobs of this cluster", parts.join("/"));
    Error::new(Kind::InvalidParameter, what).hint(
        "write ROLE, ROLE/ENV, CLUSTER, CLUSTER/ROLE or CLUSTER/ROLE/ENV; for one job use `borealis job status`",
    )
}

fn key(job: &JobSummary) -> String {
    job.key
        .as_ref()
        .and_then(|key| JobKey::try_from(key).ok())
        .map_or_else(|| "?".to_owned(), |key| key.to_string())
}

fn job_json(job: &JobSummary) -> Value {
    json!({
        "job": key(job),
        "instances": job.instances,
        "pending": job.pending,
        "active": job.active,
        "running": job.running,
        "service": job.service,
    })
}

/// `age_ms` is told of one replica's word.
fn text(jobs: &[JobSummary], age_ms: Option<u64>) -> String {
    let age = age_ms.map(|age| {
        format!("one replica's word, at most {} old\n", duration::age(0, age.saturating_add(999)))
    });
    let age = age.unwrap_or_default();
    if jobs.is_empty() {
        return format!("{age}no jobs");
    }
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            let kind = if job.service { "service" } else { "batch" };
            let numbers = [job.instances, job.running, job.active, job.pending];
            let mut row = vec![key(job), kind.to_owned()];
            row.extend(numbers.map(|number| number.to_string()));
            row
        })
        .collect();
    age + &table(&["JOB", "KIND", "INSTANCES", "RUNNING", "ACTIVE", "PENDING"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire;

    #[test]
    fn the_first_part_may_be_the_cluster() {
        for (text, want) in [
            ("", "/"),
            ("west", "/"),
            ("www-data", "www-data/"),
            ("www-data/prod", "www-data/prod"),
            ("west/www-data", "www-data/"),
            ("west/www-data/prod", "www-data/prod"),
            ("east/www-data/prod", "exit 6"),
            ("west/www-data/prod/web", "exit 6"),
        ] {
            let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
            let got = match read(&parts, Some("west")) {
                Ok(which) => format!("{}/{}", which.role, which.environment),
                Err(error) => format!("exit {}", error.exit_code()),
            };
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn jobs_are_lines() {
        let key = wire::JobKey {
            cluster: "west".into(),
            role: "r".into(),
            environment: "prod".into(),
            name: "web".into(),
        };
        let job =
            JobSummary { key: Some(key), instances: 4, pending: 1, active: 0, running: 3, service: true };
        expect_test::expect![[r#"
            JOB              KIND     INSTANCES  RUNNING  ACTIVE  PENDING
            west/r/prod/web  service  4          3        0       1
        "#]]
        .assert_eq(&text(&[job], None));
        assert_eq!(text(&[], Some(1_500)), "one replica's word, at most 2s old\nno jobs");
    }
}
