//! The checker beside another one: stateright's tester, which knows neither keys nor memory of what was tried.
//!
//! Small random histories come from clients of a correct map; about half are then spoiled. Both must say the same of
//! each. An operation of unknown fate stays in flight there, on a thread of its own, since a thread whose call is in
//! flight can make no other.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};

use super::{Action, Answer, Operation, Value, judge, step};

const HISTORIES: u64 = 10_000;
const FIRST_SEED: u64 = 1;

/// All registers as one thing: the other checker judges the whole history at once.
#[derive(Clone, Default)]
struct Registers(BTreeMap<u32, Value>);

impl SequentialSpec for Registers {
    type Op = (u32, Action);
    type Ret = Answer;

    fn invoke(&mut self, (key, action): &(u32, Action)) -> Answer {
        let held = self.0.entry(*key).or_default();
        let (value, answer) = step(*held, *action);
        *held = value;
        answer
    }
}

/// What stateright says.
fn theirs(history: &[Operation]) -> bool {
    // Each moment, with the operation's own thread: only the order of moments matters to either checker.
    let mut moments: Vec<(u64, usize, Option<Answer>)> = Vec::new();
    for (at, operation) in history.iter().enumerate() {
        moments.push((operation.called, at, None));
        moments.extend(operation.answered.map(|(when, answer)| (when, at, Some(answer))));
    }
    moments.sort_by_key(|(when, ..)| *when);
    let mut tester = LinearizabilityTester::new(Registers::default());
    for (_, at, answer) in moments {
        match answer {
            None => tester.on_invoke(at, (history[at].key, history[at].action)).unwrap(),
            Some(answer) => tester.on_return(at, answer).unwrap(),
        };
    }
    tester.is_consistent()
}

/// How writes choose what they write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    /// One of three, so that one value has many possible writers.
    Few,
    /// Never the same twice, as in runs on real processes; a cas expects what it knows to be there, or was.
    Unique,
}

fn random_action(random: &mut StdRng, values: Values, held: Value, now: u64) -> Action {
    let (new, expected) = match values {
        Values::Few => (random.random_range(1..=3), random_value(random)),
        Values::Unique => (now, held),
    };
    match random.random_range(0..3) {
        0 => Action::Get,
        1 => Action::Put(new),
        _ => Action::Cas { expected, new },
    }
}

fn random_value(random: &mut StdRng) -> Value {
    random.random_bool(0.8).then(|| random.random_range(1..=3))
}

/// What a correct map tells clients whose calls overlap at random. Some never get their answer; of those, some take
/// effect at once, some at the end, some never.
pub(super) fn correct(
    random: &mut StdRng,
    values: Values,
    clients: usize,
    operations: usize,
    keys: u32,
) -> Vec<Operation> {
    let mut map = Registers::default();
    let mut history: Vec<Operation> = Vec::new();
    // Of each client: its open operation, and the answer once it took effect.
    let mut open: Vec<Option<(usize, Option<Answer>)>> = vec![None; clients];
    let mut late: Vec<usize> = Vec::new();
    let mut now = 0;
    while history.len() < operations || open.iter().any(Option::is_some) {
        now += 1;
        let client = random.random_range(0..clients);
        match open[client] {
            None if history.len() < operations => {
                open[client] = Some((history.len(), None));
                let key = random.random_range(0..keys);
                let held = map.0.get(&key).copied().flatten();
                let action = random_action(random, values, held, now);
                history.push(Operation { key, action, called: now, answered: None });
            }
            None => {}
            // Its answer is lost, before or after the effect.
            Some((at, effect)) if random.random_bool(0.08) => {
                late.extend(effect.is_none().then_some(at));
                open[client] = None;
            }
            Some((at, None)) => {
                let answer = map.invoke(&(history[at].key, history[at].action));
                open[client] = Some((at, Some(answer)));
            }
            Some((at, Some(answer))) => {
                history[at].answered = Some((now, answer));
                open[client] = None;
            }
        }
        if random.random_bool(0.05)
            && let Some(at) = late.pop()
        {
            map.invoke(&(history[at].key, history[at].action));
        }
    }
    history
}

/// Changes one answer, so that it may be wrong.
fn spoil(random: &mut StdRng, history: &mut [Operation]) {
    for _ in 0..20 {
        let at = random.random_range(0..history.len());
        let other = random_value(random);
        let Some((_, answer)) = &mut history[at].answered else { continue };
        let changed = match *answer {
            Answer::Stored => continue,
            Answer::Got(_) => Answer::Got(other),
            Answer::Swapped => Answer::Found(other),
            Answer::Found(_) if random.random_bool(0.5) => Answer::Swapped,
            Answer::Found(_) => Answer::Found(other),
        };
        if changed != *answer {
            *answer = changed;
            return;
        }
    }
}

#[test]
fn stateright_says_the_same_of_ten_thousand_small_histories() {
    let (mut good, mut bad, mut in_flight) = (0, 0, 0);
    for seed in FIRST_SEED..FIRST_SEED + HISTORIES {
        let mut random = StdRng::seed_from_u64(seed);
        let (clients, operations) = (random.random_range(2..=4), random.random_range(3..=9));
        let keys = random.random_range(1..=2);
        let mut history = correct(&mut random, Values::Few, clients, operations, keys);
        if random.random_bool(0.65) {
            spoil(&mut random, &mut history);
        }
        let report = judge(&history, 1_000_000);
        let wanted = theirs(&history);
        assert_eq!(report.passed(), wanted, "seed {seed}: {report}\n{history:#?}");
        good += u64::from(wanted);
        bad += u64::from(!wanted);
        in_flight += report.unknown;
    }
    println!(
        "seeds {FIRST_SEED}..{}: both say linearizable of {good} and not of {bad}; {in_flight} operations of unknown fate",
        FIRST_SEED + HISTORIES
    );
    assert!(
        good > HISTORIES * 2 / 5 && bad > HISTORIES * 2 / 5,
        "{good} good, {bad} bad: about half should be broken"
    );
    assert!(
        in_flight as u64 > HISTORIES / 10,
        "{in_flight} operations of unknown fate are too few to show anything"
    );
}
