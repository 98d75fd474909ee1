//! `borealis quota`: what roles' production tasks may take, and what they take.

use proto::wire::{GetQuotaRequest, QuotaView, SetQuotaRequest};
use proto::{Resources, resources, wire};
use serde_json::{Value, json};

use crate::arguments::{Amounts, Quota};
use crate::connection::{Ask, Effect};
use crate::error::{Error, Kind};
use crate::table::{clean, table};
use crate::{Context, TIMEOUT, request};

/// Shows or sets quotas.
pub(crate) async fn run(context: &Context<'_>, quota: &Quota) -> Result<(), Error> {
    match quota {
        Quota::Get { role } => get(context, role.as_deref().unwrap_or_default()).await,
        Quota::Set { role, amounts } => set(context, role, amounts, false).await,
        Quota::Increment { role, amounts } => set(context, role, amounts, true).await,
    }
}

async fn get(context: &Context<'_>, role: &str) -> Result<(), Error> {
    let connection = context.connect(None, TIMEOUT)?;
    let message = GetQuotaRequest { role: role.to_owned() };
    let ask = Ask { doing: "asking for quotas", effect: Effect::Reads };
    let reply = connection.ask(ask, async |mut api| api.get_quota(message.clone()).await).await?;
    let value = json!({ "roles": reply.roles.iter().map(value).collect::<Vec<_>>() });
    context.output.answer(&text(role, &reply.roles), &value)
}

async fn set(context: &Context<'_>, role: &str, amounts: &Amounts, increment: bool) -> Result<(), Error> {
    check(role, amounts, increment)?;
    let request = request::request(amounts.again.request_id.as_deref())?;
    let id = request.id.clone();
    let connection = context.connect(None, TIMEOUT)?;
    let message = SetQuotaRequest {
        request: Some(request),
        role: role.to_owned(),
        quota: Some(wire::Resources {
            cpu_milli: amounts.cpus.unwrap_or(0),
            ram_mib: amounts.ram_mib.unwrap_or(0),
            disk_mib: amounts.disk_mib.unwrap_or(0),
            gpus: amounts.gpus.unwrap_or(0),
        }),
        increment,
    };
    let doing = format!("setting the quota of role {role}");
    let ask = Ask { doing: &doing, effect: Effect::Once(&id) };
    let reply = connection.ask(ask, async |mut api| api.set_quota(message.clone()).await).await?;
    let quota = read(reply.quota.as_ref());
    let answer = json!({ "role": role, "quota": amounts_json(quota), "request_id": id });
    context.output.answer(&format!("role {role} has a quota of {quota}"), &answer)
}

/// A quota is set as a whole, as in Aurora: what was left out would be nothing, and nobody means that.
fn check(role: &str, amounts: &Amounts, increment: bool) -> Result<(), Error> {
    let all = [
        ("--cpus", amounts.cpus.is_none()),
        ("--ram-mib", amounts.ram_mib.is_none()),
        ("--disk-mib", amounts.disk_mib.is_none()),
    ];
    let missing: Vec<&str> = all.iter().filter(|(_, missing)| *missing).map(|(flag, _)| *flag).collect();
    if increment && missing.len() == all.len() && amounts.gpus.is_none() {
        let what = format!("nothing is said that the quota of role {role} shall grow by");
        return Err(Error::new(Kind::InvalidParameter, what).hint("say, for example, --cpus 2"));
    }
    if increment || missing.is_empty() {
        return Ok(());
    }
    let what =
        format!("the quota of role {role} is set as a whole, and {} is not said", missing.join(" and "));
    Err(Error::new(Kind::InvalidParameter, what).hint(format!(
        "say all of --cpus, --ram-mib and --disk-mib, or add to one: `borealis quota increment {role} --cpus N`; \
         `borealis quota get {role}` shows what it has"
    )))
}

fn read(amounts: Option<&wire::Resources>) -> Resources {
    amounts.and_then(|amounts| Resources::try_from(amounts).ok()).unwrap_or_default()
}

fn amounts_json(amounts: Resources) -> Value {
    json!({
        "cpu_milli": amounts.cpu_milli,
        "ram_mib": amounts.ram_mib,
        "disk_mib": amounts.disk_mib,
        "gpus": amounts.gpus,
    })
}

fn value(role: &QuotaView) -> Value {
    json!({
        "role": role.role,
        "quota": role.quota.as_ref().map(|quota| amounts_json(read(Some(quota)))),
        "charged": amounts_json(read(role.charged.as_ref())),
        "promised": amounts_json(read(role.promised.as_ref())),
        "production_dedicated": amounts_json(read(role.production_dedicated.as_ref())),
        "other": amounts_json(read(role.other.as_ref())),
    })
}

fn text(asked: &str, roles: &[QuotaView]) -> String {
    if roles.is_empty() {
        return match asked {
            "" => "no role has a quota or runs anything\n".to_owned(),
            role => format!(
                "role {role} has no quota and runs nothing; `borealis quota set {role} ...` gives it one\n"
            ),
        };
    }
    let mut rows = Vec::new();
    for role in roles {
        let accounts = [
            ("quota", role.quota.as_ref()),
            ("production", role.charged.as_ref()),
            ("production, promised", role.promised.as_ref()),
            ("production, dedicated", role.production_dedicated.as_ref()),
            ("other", role.other.as_ref()),
        ];
        for (account, amounts) in accounts {
            let amounts = read(amounts);
            if account != "quota" && amounts == Resources::default() {
                continue;
            }
            rows.push(vec![
                clean(&role.role),
                account.to_owned(),
                resources::cores(amounts.cpu_milli),
                resources::mib(amounts.ram_mib),
                resources::mib(amounts.disk_mib),
                amounts.gpus.to_string(),
            ]);
        }
    }
    table(&["ROLE", "ACCOUNT", "CPU", "RAM", "DISK", "GPU"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_accounts() {
        let some = |cpu_milli, ram_mib| Some(wire::Resources { cpu_milli, ram_mib, ..Default::default() });
        let role = QuotaView {
            role: "www".into(),
            quota: some(8_000, 4_096),
            charged: some(1_500, 512),
            promised: some(1_000, 256),
            other: some(250, 64),
            ..QuotaView::default()
        };
        expect_test::expect![[r#"
            ROLE  ACCOUNT               CPU   RAM      DISK   GPU
            www   quota                 8.0   4.0 GiB  0 MiB  0
            www   production            1.5   512 MiB  0 MiB  0
            www   production, promised  1.0   256 MiB  0 MiB  0
            www   other                 0.25  64 MiB   0 MiB  0
        "#]]
        .assert_eq(&text("", &[role]));
    }
}
