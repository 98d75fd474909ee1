//! The planner by table, and by chance: whatever is sent, lost, repeated or forgotten, no id is started twice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LIVE: Have = Have {
    ended: false,
    acknowledged: false,
    named: 4,
    alive: true,
    doomed: false,
    killing: None,
    wait_ms: 1_000,
};
const ENDED: Have = Have { ended: true, alive: false, ..LIVE };
const APPLIED: Have = Have { acknowledged: true, ..ENDED };

#[test]
fn what_is_wanted_against_what_is_here() {
    use Action::{Forget, Kill, ReportKilled, ReportLost, Start};
    let task = TaskId(1);
    // want (None = not named), have, burned, startable and fresh => actions, whole
    for (want, have, burned, startable, fresh, actions, whole) in [
        (Some(Want::Start), None, false, true, true, vec![Start(task)], true),
        (Some(Want::Start), None, false, true, false, vec![], false),
        (Some(Want::Start), None, false, false, true, vec![], false),
        (Some(Want::Start), None, true, true, true, vec![ReportLost(task, WAS_HERE)], true),
        (Some(Want::Start), Some(LIVE), false, true, true, vec![], true),
        (Some(Want::Start), Some(ENDED), false, true, true, vec![], true),
        (Some(Want::Start), Some(APPLIED), false, true, true, vec![], true),
        (Some(Want::Keep), None, false, true, true, vec![ReportLost(task, NOT_HERE)], true),
        (Some(Want::Keep), None, true, true, true, vec![ReportLost(task, NOT_HERE)], true),
        (Some(Want::Keep), Some(LIVE), false, true, true, vec![], true),
        (Some(Want::Keep), Some(ENDED), false, true, true, vec![], true),
        (
            Some(Want::Keep),
            Some(Have { doomed: true, ..LIVE }),
            false,
            true,
            true,
            vec![Kill(task, Force::Ask)],
            true,
        ),
        (Some(Want::Kill), None, false, true, true, vec![ReportKilled(task, NOTHING_TO_KILL)], true),
        (Some(Want::Kill), Some(LIVE), false, true, true, vec![Kill(task, Force::Ask)], true),
        (Some(Want::Kill), Some(ENDED), false, true, true, vec![], true),
        (Some(Want::Unknown), None, false, true, true, vec![], false),
        (Some(Want::Unknown), Some(LIVE), false, true, true, vec![], true),
        (None, Some(LIVE), false, true, true, vec![Kill(task, Force::Ask)], true),
        (None, Some(ENDED), false, true, true, vec![], true),
        (None, Some(APPLIED), false, true, true, vec![Forget(task)], true),
        (None, Some(Have { named: 5, ..APPLIED }), false, true, true, vec![], true),
        (None, Some(Have { alive: true, ..APPLIED }), false, true, true, vec![], true),
    ] {
        let wanted = Wanted { generation: 5, tasks: want.into_iter().map(|want| (task, want)).collect() };
        let has: BTreeMap<_, _> = have.clone().into_iter().map(|have| (task, have)).collect();
        let got = plan(&wanted, &has, |_| burned, |_| startable, fresh, 0);
        assert_eq!(got, Plan { actions, whole }, "{want:?} {have:?} burned {burned} fresh {fresh}");
    }
}

#[test]
fn a_kill_grows_harder() {
    let (wait_ms, mut killing) = (1_000, None);
    let mut orders = Vec::new();
    for now_ms in (0..20_000).step_by(500) {
        if let Some(force) = escalate(killing, wait_ms, now_ms) {
            orders.push((now_ms, force));
            let since_ms = killing.map_or(now_ms, |killing: Killing| killing.since_ms);
            killing = Some(Killing { since_ms, force, last_ms: now_ms, heard: force == Force::Ask });
        }
    }
    let want = [
        (0, Force::Ask),
        (6_000, Force::AtOnce),
        (8_000, Force::AtOnce),
        (10_000, Force::AtOnce),
        (11_000, Force::Force),
        (13_000, Force::Force),
        (15_000, Force::Force),
        (17_000, Force::Force),
        (19_000, Force::Force),
    ];
    assert_eq!(orders, want);
    let unheard = Killing { since_ms: 0, force: Force::Ask, last_ms: 0, heard: false };
    assert_eq!(escalate(Some(unheard), wait_ms, ASK_AGAIN_MS - 1), None);
    assert_eq!(escalate(Some(unheard), wait_ms, ASK_AGAIN_MS), Some(Force::Ask), "nobody heard it");
}

/// What may happen to an agent, in any order.
#[derive(Clone, Debug)]
enum Step {
    /// A wanted set, of any generation, fresh or not; a leader that lies is no excuse.
    Wanted(u64, Vec<(u64, u8)>, bool),
    /// A task ends by itself.
    Ends(u64),
    /// What was reported is applied.
    Acknowledged,
    /// The agent is killed and comes back: what only memory knew is gone; a task without a claim is abandoned.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let tasks = prop::collection::vec((1..6u64, 0..4u8), 0..5);
    prop_oneof![
        4 => (1..12u64, tasks, any::<bool>()).prop_map(|(g, tasks, fresh)| Step::Wanted(g, tasks, fresh)),
        2 => (1..6u64).prop_map(Step::Ends),
        1 => Just(Step::Acknowledged),
        1 => Just(Step::Crash),
    ]
}

/// A host that does what is planned.
#[derive(Default)]
struct Model {
    have: BTreeMap<TaskId, Have>,
    burned: BTreeSet<TaskId>,
    started: Vec<TaskId>,
    now_ms: u64,
}

impl Model {
    fn take(&mut self, step: Step) {
        self.now_ms += 700;
        match step {
            Step::Wanted(generation, tasks, fresh) => {
                let want = |want| [Want::Start, Want::Keep, Want::Kill, Want::Unknown][usize::from(want)];
                let tasks = tasks.into_iter().map(|(task, w)| (TaskId(task), want(w))).collect();
                let wanted = Wanted { generation, tasks };
                for (task, have) in &mut self.have {
                    if wanted.tasks.contains_key(task) {
                        have.named = generation;
                    }
                }
                let plan =
                    plan(&wanted, &self.have, |t| self.burned.contains(&t), |_| true, fresh, self.now_ms);
                for action in plan.actions {
                    self.act(action, generation);
                }
            }
            Step::Ends(task) => {
                if let Some(have) = self.have.get_mut(&TaskId(task)) {
                    (have.ended, have.alive) = (true, false);
                }
            }
            Step::Acknowledged => self.have.values_mut().for_each(|have| have.acknowledged = have.ended),
            Step::Crash => self.have.values_mut().for_each(|have| {
                (have.acknowledged, have.killing) = (false, None);
            }),
        }
    }

    fn act(&mut self, action: Action, generation: u64) {
        match action {
            Action::Start(task) => {
                self.started.push(task);
                let had = self.have.insert(task, Have { named: generation, ..LIVE });
                assert_eq!(had, None, "{task} was known and is started");
            }
            Action::Kill(task, force) => {
                let have = self.have.get_mut(&task).expect("only what is here is killed");
                let since_ms = have.killing.map_or(self.now_ms, |killing| killing.since_ms);
                have.killing = Some(Killing { since_ms, force, last_ms: self.now_ms, heard: true });
            }
            Action::ReportLost(task, _) | Action::ReportKilled(task, _) => {
                let had = self.have.insert(task, Have { named: generation, ..ENDED });
                assert_eq!(had, None, "{task} was known and is reported as not here");
            }
            Action::Forget(task) => {
                let had = self.have.remove(&task).expect("only what is known is forgotten");
                assert!(
                    had.ended && had.acknowledged && had.named < generation,
                    "{task} is forgotten too early"
                );
                self.burned.insert(task);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_task_is_ever_started_twice(steps in prop::collection::vec(step(), 0..40)) {
        let mut model = Model::default();
        for step in steps {
            model.take(step);
        }
        let distinct: BTreeSet<_> = model.started.iter().collect();
        prop_assert_eq!(distinct.len(), model.started.len(), "{:?}", model.started);
    }
}
