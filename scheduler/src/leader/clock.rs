//! State's time: the only reader of wall time.
//!
//! A command's time is State's clock at the start of the leader's session plus what CLOCK_BOOTTIME has counted
//! since, slewed towards wall time by at most 10%. So time in the log never turns back and never jumps, whatever
//! a machine's wall clock does. A new leader jumps to wall time only when its own clock lies within a minute of
//! the median of a quorum's clocks.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far a wall clock may lie from the median of a quorum's and still be believed.
const TRUST_MS: u64 = 60_000;
/// Slew: at most one part in this many.
const SLEW: u64 = 10;

/// Nanoseconds since boot, counting time asleep.
pub fn boottime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Wall clock, milliseconds since 1970; zero if it lies before that.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Where a new session's clock starts: wall time if `own_ms` is near the median of `readings_ms` (its own among
/// them), which must be a quorum of `voters`; else where State's clock stands.
pub fn session_start(state_ms: u64, own_ms: u64, readings_ms: &[u64], voters: usize) -> u64 {
    let mut sorted = readings_ms.to_vec();
    sorted.sort_unstable();
    let believable = sorted.len() > voters / 2
        && sorted.get((sorted.len() - 1) / 2).is_some_and(|median| median.abs_diff(own_ms) <= TRUST_MS);
    if believable { own_ms.max(state_ms) } else { state_ms }
}

/// The clock of one leader session.
#[derive(Debug)]
pub struct SessionClock(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    now_ms: u64,
    read_at: Duration,
}

impl SessionClock {
    /// A clock that shows `start_ms` now.
    pub fn new(start_ms: u64) -> Self {
        SessionClock(Mutex::new(Inner { now_ms: start_ms, read_at: boottime() }))
    }

    /// Shows at least `ms` from now on: somebody set State's clock.
    pub fn reach(&self, ms: u64) {
        let _up_to_now = self.now_ms();
        let mut inner = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        inner.now_ms = inner.now_ms.max(ms);
    }

    /// State's time now, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        let mut inner = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        let at = boottime();
        let elapsed_ms = u64::try_from(at.saturating_sub(inner.read_at).as_millis()).unwrap_or(0);
        if elapsed_ms > 0 {
            inner.now_ms = slewed(inner.now_ms, elapsed_ms, wall_ms());
            inner.read_at += Duration::from_millis(elapsed_ms);
        }
        inner.now_ms
    }
}

/// `now_ms` after `elapsed_ms`, drawn towards `wall_ms` by at most a tenth of what elapsed.
fn slewed(now_ms: u64, elapsed_ms: u64, wall_ms: u64) -> u64 {
    let plain = now_ms.saturating_add(elapsed_ms);
    let most = elapsed_ms / SLEW;
    if wall_ms >= plain { plain + most.min(wall_ms - plain) } else { plain - most.min(plain - wall_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_jumps_to_wall_time_only_with_a_quorum_behind_it() {
        assert_eq!(session_start(5, 100_000, &[100_000, 101_000], 3), 100_000);
        assert_eq!(session_start(5, 100_000, &[100_000], 3), 5, "one reading of three is no quorum");
        assert_eq!(
            session_start(5, 900_000, &[900_000, 100_000, 101_000], 3),
            5,
            "its own clock is the odd one"
        );
        assert_eq!(session_start(200_000, 100_000, &[100_000, 100_000], 3), 200_000, "never back");
        assert_eq!(session_start(5, 7, &[7], 1), 7);
    }

    #[test]
    fn a_clock_that_was_set_goes_on_from_there_and_never_back() {
        let clock = SessionClock::new(1_000);
        clock.reach(90_000_000);
        let now = clock.now_ms();
        assert!((90_000_000..90_060_000).contains(&now), "{now}");
        clock.reach(1_000);
        assert!(clock.now_ms() >= now);
    }

    #[test]
    fn time_is_drawn_to_the_wall_by_a_tenth_at_most() {
        assert_eq!(slewed(1_000, 100, 1_100), 1_100);
        assert_eq!(slewed(1_000, 100, 9_000), 1_110);
        assert_eq!(slewed(1_000, 100, 0), 1_090);
        assert_eq!(slewed(1_000, 100, 1_105), 1_105);
    }
}
