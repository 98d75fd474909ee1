//! `borealis job plan`: what creating a job would do. Exit code 0: no change, 1: a change, 2: it cannot be done now.

use proto::JobKey;
use proto::wire::{PlanJobReply, PlanJobRequest};
use serde_json::{Value, json};

use super::{progress, source, why};
use crate::arguments::{Bind, JobPlan};
use crate::connection::{Ask, Effect};
use crate::error::{Error, Kind};
use crate::table::{clean, count};
use crate::{Context, TIMEOUT, duration};

/// Victims that people are shown.
const VICTIMS_SHOWN_MAX: usize = 20;

/// Asks what the job would do; nothing changes.
pub(crate) async fn run(context: &Context<'_>, plan: &JobPlan) -> Result<(), Error> {
    let job = choose(context, plan, &plan.bind)?;
    let connection = context.connect(Some(&job.key.cluster), TIMEOUT)?;
    let message = PlanJobRequest { spec: Some(job.spec.clone()) };
    let doing = format!("planning {}", job.key);
    let ask = Ask { doing: &doing, effect: Effect::Reads };
    let reply = connection.ask(ask, async |mut api| api.plan_job(message.clone()).await).await?;
    context.exit.set(exit(&reply));
    context.output.answer(&text(&job.key, &reply), &value(&job.key, &reply))
}

fn choose(context: &Context<'_>, plan: &JobPlan, bind: &Bind) -> Result<config::Job, Error> {
    if let Some(key) = &plan.key {
        let key: JobKey = key.parse()?;
        return source::load_job(context, &plan.file, bind, &key);
    }
    let mut jobs = source::load(context, &plan.file, bind)?.jobs;
    match (jobs.pop(), jobs.is_empty()) {
        (Some(job), true) => Ok(job),
        (None, _) => {
            Err(Error::new(Kind::InvalidConfig, format!("{} describes no job", plan.file.display())))
        }
        (Some(job), false) => {
            let what = format!("{} describes several jobs", plan.file.display());
            Err(Error::new(Kind::InvalidParameter, what)
                .hint(format!("say which one: `borealis job plan FILE {}`", job.key)))
        }
    }
}

fn exit(reply: &PlanJobReply) -> u8 {
    match (reply.exists && reply.changes.is_empty(), reply.feasible) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    }
}

fn text(key: &JobKey, reply: &PlanJobReply) -> String {
    if reply.exists && reply.changes.is_empty() {
        return format!("{key}: exists just so; nothing would change\n");
    }
    let mut text = match reply.exists {
        false => format!("{key}: would be created\n"),
        true => format!(
            "{key}: exists otherwise; {}\n{}",
            clean(&reply.way_out),
            reply
                .changes
                .iter()
                .map(|change| format!("  it has        {}\n", clean(change)))
                .collect::<String>()
        ),
    };
    let least = if reply.cut { "at least " } else { "" };
    let placed = count(reply.would_place as usize, "instance");
    text.push_str(&match reply.within_quota {
        true => format!("  placed now    {least}{placed}\n"),
        false => format!("  placed now    nothing: over quota; else {least}{placed}\n"),
    });
    if reply.displaced > 0 {
        let placed = count(reply.after_displacing as usize, "instance");
        let victims = count(reply.displaced as usize, "task");
        text.push_str(&format!("  placed later  {least}{placed}, once {victims} of others are displaced\n"));
    }
    if !reply.quota.is_empty() {
        text.push_str(&format!("  quota         {}\n", clean(&reply.quota)));
    }
    if let Some(reason) = reply.why.as_ref().filter(|why| why.waiting > 0) {
        text.push_str(&why::text(reason, duration::now_ms()));
    }
    if reply.cut {
        text.push_str("  not all was tried: it took too long; more may find a place\n");
    }
    for victim in reply.victims.iter().take(VICTIMS_SHOWN_MAX) {
        let instance = format!("instance {} on {}", victim.instance, clean(&victim.host));
        text.push_str(&format!("  displaced     {} ({instance})\n", proto::TaskId(victim.task_id)));
    }
    let more = (reply.displaced as usize).saturating_sub(reply.victims.len().min(VICTIMS_SHOWN_MAX));
    if more > 0 {
        text.push_str(&format!("  displaced     {more} more\n"));
    }
    text
}

fn value(key: &JobKey, reply: &PlanJobReply) -> Value {
    json!({
        "job": key.to_string(),
        "exists": reply.exists,
        "changes": reply.changes,
        "way_out": reply.way_out,
        "feasible": reply.feasible,
        "would_place": reply.would_place,
        "would_wait": reply.would_wait,
        "after_displacing": reply.after_displacing,
        "displaced": reply.displaced,
        "cut": reply.cut,
        "why": reply.why.as_ref().map(why::value),
        "quota": reply.quota,
        "within_quota": reply.within_quota,
        "victims": reply.victims.iter().map(progress::task_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_three_ends() {
        let plan = |exists, changes: &[&str], feasible| PlanJobReply {
            exists,
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
            feasible,
            would_place: 2,
            quota: "role www takes nothing".into(),
            within_quota: true,
            way_out: "`borealis job add west/www/prod/web/0 2` adds what is missing".into(),
            ..PlanJobReply::default()
        };
        let key: JobKey = "west/www/prod/web".parse().unwrap();
        assert_eq!(exit(&plan(true, &[], true)), 0);
        assert_eq!(exit(&plan(true, &["other ports"], true)), 1);
        assert_eq!(exit(&plan(false, &[], true)), 1);
        assert_eq!(exit(&plan(false, &[], false)), 2);
        expect_test::expect![[r#"
            west/www/prod/web: exists otherwise; `borealis job add west/www/prod/web/0 2` adds what is missing
              it has        other ports
              placed now    2 instances
              quota         role www takes nothing
        "#]]
        .assert_eq(&text(&key, &plan(true, &["other ports"], true)));
        expect_test::expect![[r#"
            west/www/prod/web: would be created
              placed now    nothing: over quota; else 2 instances
              quota         role www takes nothing
        "#]]
        .assert_eq(&text(&key, &PlanJobReply { within_quota: false, ..plan(false, &[], false) }));
    }
}
