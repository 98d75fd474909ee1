//! Histories that a broken cluster makes, each caught, and the right ones beside them.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::compared::{Values, correct};
use super::{Action, Answer, Operation, Verdict, judge};

const STEPS_MAX: u64 = 1_000_000;

fn put(called: u64, answered: u64, new: u64) -> Operation {
    Operation { key: 0, action: Action::Put(new), called, answered: Some((answered, Answer::Stored)) }
}

fn got(called: u64, answered: u64, value: u64) -> Operation {
    let value = Some(value).filter(|value| *value > 0);
    Operation { key: 0, action: Action::Get, called, answered: Some((answered, Answer::Got(value))) }
}

fn cas(called: u64, answered: u64, expected: u64, new: u64, answer: Answer) -> Operation {
    let action = Action::Cas { expected: Some(expected), new };
    Operation { key: 0, action, called, answered: Some((answered, answer)) }
}

fn lost(operation: Operation) -> Operation {
    Operation { answered: None, ..operation }
}

#[test]
fn each_breach_is_caught_and_its_lawful_neighbour_passes() {
    let swapped = Answer::Swapped;
    let found = |value| Answer::Found(Some(value));
    for (what, history, lawful) in [
        ("a read of the newest", vec![put(1, 2, 1), put(3, 4, 2), got(5, 6, 2)], true),
        ("a stale read", vec![put(1, 2, 1), put(3, 4, 2), got(5, 6, 1)], false),
        ("a read beside the write sees the old", vec![put(1, 2, 1), put(3, 9, 2), got(5, 6, 1)], true),
        ("two reads that go back", vec![put(1, 2, 1), put(3, 9, 2), got(4, 5, 2), got(6, 7, 1)], false),
        ("a read from the future", vec![got(1, 2, 1), put(3, 4, 1)], false),
        ("a read of nothing written", vec![put(1, 2, 1), got(3, 4, 7)], false),
        ("an acknowledged write is gone", vec![put(1, 2, 1), got(3, 4, 0)], false),
        ("an unknown write is seen", vec![put(1, 2, 1), lost(put(3, 0, 2)), got(5, 6, 2)], true),
        ("an unknown write is not seen", vec![put(1, 2, 1), lost(put(3, 0, 2)), got(5, 6, 1)], true),
        (
            "an unknown write is seen late",
            vec![put(1, 2, 1), lost(put(3, 0, 2)), got(5, 6, 1), got(7, 8, 2)],
            true,
        ),
        (
            "an unknown write takes effect twice",
            vec![lost(put(1, 0, 1)), got(2, 3, 1), put(4, 5, 2), got(6, 7, 1)],
            false,
        ),
        ("an unknown write is seen before its call", vec![got(1, 2, 1), lost(put(3, 0, 1))], false),
        ("both swap the same", vec![put(1, 2, 1), cas(3, 6, 1, 2, swapped), cas(4, 5, 1, 3, swapped)], false),
        (
            "one swaps, one finds",
            vec![put(1, 2, 1), cas(3, 6, 1, 2, swapped), cas(4, 5, 1, 3, found(2))],
            true,
        ),
        ("a refused swap that fits", vec![put(1, 2, 1), cas(3, 4, 1, 2, found(1))], false),
        (
            "a refused swap that took effect",
            vec![put(1, 2, 1), cas(3, 4, 9, 2, found(1)), got(5, 6, 2)],
            false,
        ),
        (
            "unknown swaps build on one another",
            vec![put(1, 2, 1), lost(cas(3, 0, 1, 2, swapped)), lost(cas(4, 0, 2, 3, swapped)), got(5, 6, 3)],
            true,
        ),
        (
            "an unknown swap whose ground was never there",
            vec![put(1, 2, 1), lost(cas(3, 0, 7, 2, swapped)), got(5, 6, 2)],
            false,
        ),
    ] {
        let report = judge(&history, STEPS_MAX);
        assert_eq!(report.passed(), lawful, "{what}: {report}");
    }
}

#[test]
fn keys_are_judged_apart_and_the_broken_one_is_named() {
    let other = |operation| Operation { key: 9, ..operation };
    let history = [put(1, 2, 1), other(put(3, 4, 2)), got(5, 6, 1), other(got(7, 8, 1))];
    let report = judge(&history, STEPS_MAX);
    assert_eq!((report.keys, report.failures.len()), (2, 1));
    assert!(report.to_string().contains("key 9: 1 of 2 answered operations stand in order"), "{report}");
}

#[test]
fn giving_up_and_judging_nothing_are_no_passes() {
    let many: Vec<_> = (0..20).map(|n| put(n + 1, 100 + n, n + 1)).chain([got(200, 201, 99)]).collect();
    let report = judge(&many, 1_000);
    assert_eq!(report.failures[&0], Verdict::GaveUp);
    assert!(!report.passed() && !judge(&[], 1_000).passed());
}

/// As large as a run on real processes: 200,000 operations, an eighth of them of unknown fate. One answer of the past
/// among them is found.
#[test]
fn a_large_history_is_judged_and_one_stale_read_in_it_is_found() {
    let mut random = StdRng::seed_from_u64(7);
    let mut history = correct(&mut random, Values::Unique, 32, 200_000, 500);
    let report = judge(&history, STEPS_MAX);
    println!("{report}");
    assert!(report.passed() && report.unknown > 10_000, "{report}");
    // Of the last quarter, so that much was written before.
    let stale =
        history.iter().skip(150_000).position(|o| matches!(o.answered, Some((_, Answer::Got(Some(_))))));
    let stale = &mut history[150_000 + stale.expect("a read")];
    // As old as a value can be.
    let key = stale.key;
    stale.answered = stale.answered.map(|(at, _)| (at, Answer::Got(None)));
    let report = judge(&history, STEPS_MAX);
    assert_eq!(report.failures.keys().copied().collect::<Vec<_>>(), [key], "{report}");
    assert!(matches!(report.failures[&key], Verdict::Broken(_)), "{report}");
}
