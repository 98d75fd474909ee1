//! `borealis cluster set-clock`: the cluster's own time goes forward to the wall clock, however far behind it is.
//!
//! Not here: going back. The cluster refuses it and says why.

use proto::wire::SetClockRequest;
use serde_json::json;

use super::status;
use crate::connection::{Ask, Effect};
use crate::error::{Error, Kind};
use crate::{Context, TIMEOUT, duration};

/// Reads whole seconds since 1970.
pub(crate) fn read_seconds(text: &str) -> Result<u64, String> {
    let ms = text.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1000));
    ms.ok_or_else(|| format!("{text:?} is no time; give whole seconds since 1970, as `date +%s` prints them"))
}

/// Sets the clock to `to_ms`, or to what this machine's shows; without `yes` only says what that would be.
pub(crate) async fn run(context: &Context<'_>, to_ms: Option<u64>, yes: bool) -> Result<(), Error> {
    let to_ms = to_ms.unwrap_or_else(duration::now_ms);
    let connection = context.connect(None, TIMEOUT)?;
    if !yes {
        connection.check_cluster().await?;
        let answers = status::ask_all(connection.addresses(), connection.timeout()).await;
        status::one_cluster(connection.addresses(), &answers)?;
        let newest = answers.values().flatten().max_by_key(|reply| reply.clock_ms);
        let Some(clock_ms) = newest.map(|reply| reply.clock_ms).filter(|ms| *ms > 0) else {
            return Err(Error::new(Kind::Network, "no replica says what the cluster's time is")
                .hint("a replica must run whose program can set it: see `borealis cluster status`"));
        };
        return context.output.answer(
            &would(clock_ms, to_ms),
            &json!({ "clock_ms": clock_ms, "to_ms": to_ms, "changed": false }),
        );
    }
    let ask = Ask { doing: "setting the cluster's clock", effect: Effect::Bare };
    let reply =
        connection.operate(ask, async |mut api| api.set_clock(SetClockRequest { to_ms }).await).await?;
    let changed = to_ms > reply.before_ms;
    context.output.answer(
        &format!("the cluster's time is {} now, {}", seconds(reply.clock_ms), set(reply.before_ms, to_ms)),
        &json!({ "clock_ms": reply.clock_ms, "before_ms": reply.before_ms, "changed": changed }),
    )
}

fn seconds(ms: u64) -> String {
    format!("{} s since 1970", ms / 1000)
}

fn set(before_ms: u64, to_ms: u64) -> String {
    match to_ms.saturating_sub(before_ms) {
        0 => "as it was: it was there already".to_owned(),
        by => format!("{} s later than before", by / 1000),
    }
}

fn would(clock_ms: u64, to_ms: u64) -> String {
    let (clock, to) = (seconds(clock_ms), seconds(to_ms));
    match to_ms.checked_sub(clock_ms) {
        Some(by) => {
            format!(
                "The cluster's time is {clock}, and would go forward by {} s to {to}, unless the leader's machine shows a much earlier time: then it is refused.\nNothing was changed; repeat with --yes. There is no way back. All that is due until then is due at once: penalties, what is left of ended jobs, hosts that were silent for a day; what hosts should have reported waits for them as after an election.",
                by / 1000
            )
        }
        None => {
            format!(
                "The cluster's time is {clock}, which is later than {to}: it would be refused to go back."
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_and_what_would_be_is_said() {
        assert_eq!(read_seconds("1800000000"), Ok(1_800_000_000_000));
        for bad in ["", "now", "-5", "1.5", "99999999999999999999", "18446744073709552"] {
            assert!(read_seconds(bad).is_err(), "{bad}");
        }
        assert!(would(5_000, 90_000).contains("is 5 s since 1970, and would go forward by 85 s to 90 s"));
        assert_eq!(set(5_000, 90_000), "85 s later than before");
        assert!(set(90_000, 90_000).contains("as it was"));
        assert!(would(5_000, 90_000).contains("--yes"));
        let back = would(90_000, 5_000);
        assert!(back.contains("refused to go back") && !back.contains("--yes"), "{back}");
    }
}
