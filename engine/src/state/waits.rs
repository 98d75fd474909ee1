//! Why tasks that are THROTTLED or PARTITIONED wait and until when, in words. Why PENDING ones do is for `round` to say.

use std::collections::BTreeSet;

use super::State;
use super::status::Status;
use super::task::Task;
use crate::limits::REPLACED_WINDOW_MS;
use crate::time::Timestamp;

/// Hosts that one sentence names.
const HOSTS_NAMED_MAX: usize = 5;

/// What tasks wait for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waits {
    /// When it goes on with the first of them by itself, as far as that is known.
    pub until: Option<Timestamp>,
    /// The same, with the reason.
    pub words: String,
}

impl State {
    /// Why nothing at all is decided now, and what a person can do about it.
    pub fn stopped(&self) -> Option<&'static str> {
        if self.cluster.held.is_some() {
            Some("the cluster is held after a restore; `borealis cluster resume` lets it go on")
        } else if self.cluster.frozen {
            Some("the cluster is frozen; `borealis cluster thaw` lets it go on")
        } else {
            None
        }
    }

    /// Why tasks of one config and status wait, seen at `now`: State's own clock stands between two commands. `None`
    /// where the status is neither THROTTLED nor PARTITIONED.
    pub fn waits(&self, tasks: &[&Task], now: Timestamp) -> Option<Waits> {
        let mut waits = match tasks.first()?.status {
            Status::Throttled => of_throttled(tasks, now),
            Status::Partitioned => self.of_partitioned(tasks, now),
            _ => return None,
        };
        if let Some(stopped) = self.stopped() {
            waits.until = None;
            waits.words = format!("{}; but {stopped}", waits.words);
        }
        Some(waits)
    }

    fn of_partitioned(&self, tasks: &[&Task], now: Timestamp) -> Waits {
        let ids: BTreeSet<_> = tasks.iter().filter_map(|task| task.host).collect();
        let hosts: Vec<_> = ids.iter().filter_map(|id| self.host(*id)).collect();
        let since = hosts.iter().filter_map(|host| host.record.silent_since).min();
        let silent = span(now.since_ms(since.unwrap_or(now)));
        let names: Vec<&str> = hosts.iter().take(HOSTS_NAMED_MAX).map(|host| &**host.name()).collect();
        let who = match hosts.len() {
            1 => format!("host {} has been silent for {silent}", names.join("")),
            n if n <= HOSTS_NAMED_MAX => format!("hosts {} are silent, for up to {silent}", names.join(", ")),
            n => format!(
                "hosts {} and {} more are silent, for up to {silent}",
                names.join(", "),
                n - names.len()
            ),
        };
        let dues = tasks.iter().filter_map(|task| task.deadline());
        let Some(first) = dues.clone().min() else {
            let words = "the job's partition policy is to wait until it returns, for as long as that takes";
            return Waits { until: None, words: format!("{who}; {words}") };
        };
        let last = dues.max().unwrap_or(first);
        let (tasks, hosts) = match (tasks.len(), hosts.len()) {
            (1, _) => ("the task is", "its host returns"),
            (_, 1) => ("the tasks are", "their host returns"),
            _ => ("the tasks are", "their hosts return"),
        };
        let when = match (later(first, now), later(last, now)) {
            _ if last <= now => "due to be replaced".to_owned(),
            (soon, late) if soon == late => format!("replaced {late}"),
            (soon, late) => format!("replaced {soon} to {late}"),
        };
        let replaced = format!("{tasks} {when}, unless {hosts} first");
        let words = format!("{who}; {replaced}");
        if self.braked().is_some() {
            let brake = "many hosts fell silent at once, so none of their tasks is replaced; as hosts return it \
                         goes on, or by `borealis cluster thaw`";
            return Waits { until: None, words: format!("{words}; but {brake}") };
        }
        // The first of them whose turn it is.
        let turns = ids.iter().map(|id| self.turn(*id).unwrap_or_default());
        match turns.min().filter(|turn| *turn > first.max(now)) {
            None => Waits { until: Some(first), words },
            Some(turn) => {
                let most = self.replacements_borne();
                let span = span(REPLACED_WINDOW_MS);
                let limit = format!("tasks of at most {most} hosts are replaced in {span}");
                let words = format!("{words}; but {limit}: its turn comes {} or later", later(turn, now));
                Waits { until: Some(turn), words }
            }
        }
    }
}

/// In how long something happens.
fn later(at: Timestamp, now: Timestamp) -> String {
    match at.since_ms(now) {
        0 => "at once".to_owned(),
        ms => format!("in {}", span(ms)),
    }
}

fn of_throttled(tasks: &[&Task], now: Timestamp) -> Waits {
    let ends = tasks.iter().map(|task| task.until);
    let (first, last) = (ends.clone().min().unwrap_or_default(), ends.max().unwrap_or_default());
    let (soon, late) = (later(first, now), later(last, now));
    let flaps = tasks.iter().map(|task| task.flaps).max().unwrap_or_default();
    let often = if flaps > 1 { format!(" {flaps} times in a row") } else { String::new() };
    let again = match tasks.len() {
        1 => format!("it is tried again {late}"),
        _ if soon == late => format!("all are tried again {late}"),
        _ => format!("the first is tried again {soon}, the last {late}"),
    };
    Waits { until: Some(first), words: format!("ended soon after the start{often}; {again}") }
}

/// A time, rounded up, in the two largest units that matter.
fn span(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes, seconds) {
        (0, 0, _) => format!("{seconds} s"),
        (0, _, 0) => format!("{minutes} min"),
        (0, _, _) => format!("{minutes} min {seconds} s"),
        (_, 0, _) => format!("{hours} h"),
        _ => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn a_time_is_said_in_words() {
        for (ms, words) in [
            (1, "1 s"),
            (59_001, "1 min"),
            (270_000, "4 min 30 s"),
            (3_600_000, "1 h"),
            (7_500_000, "2 h 5 min"),
        ] {
            assert_eq!(span(ms), words);
        }
    }
}
