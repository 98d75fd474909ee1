//! Spans of time as people write and read them: `60s` in, `3m` out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest span that is believed: a year.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

/// Reads `500ms`, `3s`, `1.5m`, `2h`, `1d`; a bare number is seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (amount, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("has the unit {unit:?}; use ms, s, m, h or d")),
    };
    let amount: f64 = amount.parse().map_err(|_| format!("is {text:?}; write it like 60s, 500ms or 2m"))?;
    let seconds = amount * factor;
    if (0.0..=SECONDS_MAX).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("is {text:?}; it must lie between 0 and a year"))
    }
}

/// A span as people say it: `0.4s`, `30s`, `1.5m` and so on, exactly where that is short.
pub(crate) fn words(span: Duration) -> String {
    match span.as_millis() {
        ms @ 0..1_000 => format!("{ms}ms"),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{:.1}s", ms as f64 / 1000.0),
    }
}

/// How long ago `since_ms` (wall clock) was, in its largest unit: `5s`, `3m`, `2h`, `9d`.
pub(crate) fn age(since_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(since_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Milliseconds of the wall clock since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, ms) in
            [("60s", 60_000), ("500ms", 500), ("1.5m", 90_000), ("2h", 7_200_000), ("7", 7_000), ("0s", 0)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "-1s", "1y", "9999d", "1e400s", "nan", "1 s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages_are_short() {
        for (ms, want) in
            [(0, "0s"), (59_999, "59s"), (60_000, "1m"), (7_199_000, "1h"), (86_400_000 * 3, "3d")]
        {
            assert_eq!(age(1_000, 1_000 + ms), want);
        }
        assert_eq!(age(5_000, 1_000), "0s", "the cluster's clock may be ahead of ours");
        assert_eq!(words(Duration::from_millis(30_000)), "30s");
        assert_eq!(words(Duration::from_millis(1_500)), "1.5s");
    }
}
