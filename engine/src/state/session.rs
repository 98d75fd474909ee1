//! Leader sessions, State's clock and level, ids, and the freeze.
//!
//! Why the clock never goes back, not even by hand (decided at level 2): deadlines, penalties, silences and remembered
//! requests are stamped with times of the clock. Set back, each of them would come later by as much; to move them along
//! would change every row in one command. Where machines' clocks ran ahead when the cluster was made, its time slows down
//! by a tenth until theirs has caught up.

use super::State;
use super::command::{Done, Hint, Refusal, RefusalKind, Reply, StartSession};
use super::touch::{Key, Touch};
use crate::limits::{
    CLOCK_JUMP_MAX_MS, CLOCK_MEDIAN_DISTANCE_MAX_MS, CLOCK_SET_LATE_MS, CLOCK_SET_MAX_MS, SESSION_GAP_MS,
    SESSION_GRACE_MS,
};
use crate::time::Timestamp;

/// The median; of an even number of readings the lower one.
fn median(readings: &[Timestamp]) -> Option<Timestamp> {
    let mut sorted = readings.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

impl State {
    /// The next id: `epoch << 40 | counter`.
    pub(super) fn new_id(&mut self) -> u64 {
        let id = self.cluster.epoch << proto::ids::COUNTER_BITS | self.cluster.next_id;
        self.cluster.next_id += 1;
        id
    }

    /// Whether an op other than the session's first may move the clock to `at`.
    pub(super) fn check_clock(&self, at: Timestamp) -> Result<(), Refusal> {
        if self.cluster.epoch == 0 {
            return Err(Refusal::new(RefusalKind::Stale, "no leader session has started yet"));
        }
        let clock = self.cluster.clock;
        if at > clock.plus_ms(CLOCK_JUMP_MAX_MS) {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("the command's time {at} is more than an hour after the cluster's time {clock}"),
            ));
        }
        Ok(())
    }

    pub(super) fn start_session(&mut self, at: Timestamp, session: StartSession, touch: &mut Touch) -> Reply {
        let named = (session.term, session.leader);
        let newest = (self.cluster.term, self.cluster.leader);
        if named < newest {
            return Err(Refusal::new(
                RefusalKind::Stale,
                format!(
                    "the session of term {} (node {}) is older than that of term {} (node {})",
                    named.0, named.1, newest.0, newest.1
                ),
            ));
        }
        let first = self.cluster.epoch == 0;
        if first && session.epoch == 0 {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                "the first session must bring the cluster's epoch",
            ));
        }
        let clock = self.cluster.clock;
        if at > clock.plus_ms(CLOCK_JUMP_MAX_MS) {
            let near = median(&session.wall_clocks)
                .is_some_and(|wall| wall.since_ms(at).max(at.since_ms(wall)) <= CLOCK_MEDIAN_DISTANCE_MAX_MS);
            if !near {
                return Err(Refusal::new(
                    RefusalKind::Invalid,
                    format!(
                        "the session's time {at} is far from the cluster's time {clock} and not within a minute of the median of its members' clocks"
                    ),
                ));
            }
        }
        let cluster = &mut self.cluster;
        let restored = !first && session.epoch > cluster.epoch;
        if first {
            cluster.epoch = session.epoch;
            cluster.name = session.cluster.into();
            cluster.lineage = session.lineage.into();
        }
        (cluster.term, cluster.leader) = named;
        if !first && at.since_ms(clock) > SESSION_GAP_MS {
            cluster.grace_until = at.plus_ms(SESSION_GRACE_MS);
        }
        cluster.clock = clock.max(at);
        if restored {
            self.hold(session.epoch, at, touch);
        }
        touch.row(Key::Cluster);
        Ok(Done::default())
    }

    /// A level never falls: rows and commands of a higher one may lie there.
    pub(super) fn raise_level(&mut self, to: u32, touch: &mut Touch) -> Reply {
        let now = self.cluster.level;
        if to <= now {
            return Err(Refusal::new(
                RefusalKind::Stale,
                format!("the cluster acts at level {now} already, and a level never falls"),
            ));
        }
        self.cluster.level = to;
        touch.row(Key::Cluster);
        Ok(Done::default())
    }

    /// The one jump of more than an hour outside of a session's first command. As after a gap in time, hosts report
    /// before anything that should have passed expires.
    pub(super) fn set_clock(&mut self, to: Timestamp, touch: &mut Touch) -> Reply {
        let clock = self.cluster.clock;
        let refuse = |why: String| Err(Refusal::new(RefusalKind::Invalid, why));
        if to < clock && clock.since_ms(to) <= CLOCK_SET_LATE_MS {
            return Ok(Done { unchanged: true, ..Done::default() });
        }
        if to < clock {
            return refuse(format!(
                "the cluster's time is {clock}, and {to} is before that: deadlines, penalties and remembered requests are stamped with the later time and would wait for it, so the clock never goes back; where the machines' clocks are right, the cluster's time runs slower until they have caught up"
            ));
        }
        if to.since_ms(clock) > CLOCK_SET_MAX_MS {
            return refuse(format!(
                "{to} is more than ten years after the cluster's time {clock}, and there is no way back; give the time in seconds since 1970"
            ));
        }
        if to.since_ms(clock) > SESSION_GAP_MS {
            self.cluster.grace_until = to.plus_ms(SESSION_GRACE_MS);
        }
        self.cluster.clock = to;
        touch.row(Key::Cluster);
        touch.deadlines();
        Ok(Done::default())
    }

    pub(super) fn freeze(&mut self, frozen: bool, touch: &mut Touch) -> Reply {
        self.cluster.frozen = frozen;
        if !frozen {
            self.release_brake();
        }
        touch.row(Key::Cluster);
        touch.hint(Hint::FreezeChanged);
        touch.deadlines();
        Ok(Done::default())
    }
}
