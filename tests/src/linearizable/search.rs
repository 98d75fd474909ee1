//! One register: the search of Wing and Gong for an order, with Lowe's memory of what was already tried.
//!
//! A node of the search is a set of operations that stand in order, and what the register then holds. Next may come
//! whatever was called before the first answer among the rest. Two nodes of the same set and value have the same
//! future, so the second is not searched. Three rules make it short, and none changes the verdict:
//! - an operation that by its answer changed nothing (a get, a refused cas) comes as soon as it fits: an order in which
//!   it comes later stays one when it is moved forward, since nobody else notices it;
//! - a change of unknown fate whose value no operation ever saw is left out: whatever followed it did not look;
//! - those of unknown fate are tried after the others.

use std::collections::HashSet;

use super::{Action, Answer, Operation, Value, Verdict, step};

/// What was tried: the first answered operation that does not stand in order, those behind it that do, those of
/// unknown fate that took effect, and the value.
type Tried = (usize, Box<[u32]>, Box<[u32]>, Value);

struct Search {
    /// Answered operations, by call.
    answered: Vec<(Operation, u64, Answer)>,
    /// Those of unknown fate that may matter.
    unknown: Vec<Operation>,
    /// Which of the answered stand in order.
    done: Vec<bool>,
    /// Which of the unknown took effect.
    taken: Vec<bool>,
    /// All answered before this one stand in order.
    from: usize,
    /// So many answered stand in order.
    count: usize,
    value: Value,
}

#[derive(Clone, Copy)]
enum Choice {
    Answered(usize),
    Unknown(usize),
}

/// A node: what may come next, how much of that was tried, and how to go back behind it.
struct Node {
    choices: Vec<Choice>,
    tried: usize,
    came_by: Option<Choice>,
    from_before: usize,
    value_before: Value,
}

/// The verdict on operations of one key, and the steps it took.
pub(super) fn search(operations: &[Operation], steps_max: u64) -> (Verdict, u64) {
    let mut search = Search::new(operations);
    let mut seen: HashSet<Tried> = HashSet::new();
    let mut far = Far::default();
    let mut steps = 0;
    let mut path = vec![search.node(None, 0, None)];
    far.look(&search, &path[0].choices);
    while let Some(node) = path.last_mut() {
        if search.from == search.answered.len() {
            return (Verdict::Linearizable, steps);
        }
        let Some(choice) = node.choices.get(node.tried).copied() else {
            search.undo(node);
            path.pop();
            continue;
        };
        node.tried += 1;
        steps += 1;
        if steps > steps_max {
            return (Verdict::GaveUp, steps);
        }
        let (from_before, value_before) = (search.from, search.value);
        search.take(choice);
        let mut next = Node { choices: vec![], tried: 0, came_by: Some(choice), from_before, value_before };
        if seen.insert(search.tried()) {
            next.choices = search.choices();
            far.look(&search, &next.choices);
            path.push(next);
        } else {
            search.undo(&next);
        }
    }
    (Verdict::Broken(far.told), steps)
}

impl Search {
    fn new(operations: &[Operation]) -> Self {
        let mut sorted = operations.to_vec();
        sorted.sort_by_key(|operation| operation.called);
        let answered: Vec<_> = sorted
            .iter()
            .filter_map(|operation| operation.answered.map(|(at, answer)| (*operation, at, answer)))
            .collect();
        let saw: HashSet<Value> = sorted.iter().filter_map(saw).collect();
        let matters = |operation: &Operation| match operation.action {
            Action::Get => false,
            Action::Put(new) | Action::Cas { new, .. } => saw.contains(&Some(new)),
        };
        let unknown: Vec<_> = sorted
            .into_iter()
            .filter(|operation| operation.answered.is_none() && matters(operation))
            .collect();
        Search {
            done: vec![false; answered.len()],
            taken: vec![false; unknown.len()],
            answered,
            unknown,
            from: 0,
            count: 0,
            value: None,
        }
    }

    fn node(&self, came_by: Option<Choice>, from_before: usize, value_before: Value) -> Node {
        Node { choices: self.choices(), tried: 0, came_by, from_before, value_before }
    }

    /// What may come next and fits.
    fn choices(&self) -> Vec<Choice> {
        let mut horizon = u64::MAX;
        let mut open = Vec::new();
        for at in self.from..self.answered.len() {
            let (operation, answered, _) = &self.answered[at];
            if self.done[at] {
                continue;
            }
            if operation.called > horizon {
                break;
            }
            horizon = horizon.min(*answered);
            open.push(at);
        }
        let mut choices = Vec::new();
        for at in open {
            let (operation, _, answer) = &self.answered[at];
            if operation.called > horizon || step(self.value, operation.action).1 != *answer {
                continue;
            }
            if matches!(answer, Answer::Got(_) | Answer::Found(_)) {
                return vec![Choice::Answered(at)];
            }
            choices.push(Choice::Answered(at));
        }
        for (at, operation) in self.unknown.iter().enumerate() {
            let changes = step(self.value, operation.action).0 != self.value;
            if !self.taken[at] && operation.called < horizon && changes {
                choices.push(Choice::Unknown(at));
            }
        }
        choices
    }

    fn take(&mut self, choice: Choice) {
        let action = match choice {
            Choice::Answered(at) => {
                self.done[at] = true;
                self.count += 1;
                self.answered[at].0.action
            }
            Choice::Unknown(at) => {
                self.taken[at] = true;
                self.unknown[at].action
            }
        };
        self.value = step(self.value, action).0;
        while self.done.get(self.from) == Some(&true) {
            self.from += 1;
        }
    }

    fn undo(&mut self, node: &Node) {
        match node.came_by {
            Some(Choice::Answered(at)) => {
                self.done[at] = false;
                self.count -= 1;
            }
            Some(Choice::Unknown(at)) => self.taken[at] = false,
            None => {}
        }
        (self.from, self.value) = (node.from_before, node.value_before);
    }

    fn tried(&self) -> Tried {
        let set = |flags: &[bool], from: usize, count: usize| -> Box<[u32]> {
            let set = flags[from..].iter().enumerate().filter(|(_, set)| **set);
            set.map(|(at, _)| (from + at) as u32).take(count).collect()
        };
        // The count ends the look: what is called later than the open ones is not in order yet.
        let ahead = set(&self.done, self.from, self.count - self.from);
        (self.from, ahead, set(&self.taken, 0, self.taken.len()), self.value)
    }
}

/// What a value must have been for this operation's answer, or may have been for its effect.
fn saw(operation: &Operation) -> Option<Value> {
    match (operation.action, operation.answered) {
        (_, Some((_, Answer::Got(value) | Answer::Found(value)))) => Some(value),
        (Action::Cas { expected, .. }, _) => Some(expected),
        _ => None,
    }
}

/// How far any order came, for the person who must find out why.
#[derive(Default)]
struct Far {
    done: Option<usize>,
    told: String,
}

impl Far {
    fn look(&mut self, search: &Search, choices: &[Choice]) {
        let done = search.count;
        if !choices.is_empty() || self.done.is_some_and(|before| before >= done) {
            return;
        }
        self.done = Some(done);
        let rest = (search.from..search.answered.len()).filter(|at| !search.done[*at]).take(4);
        let rest: Vec<String> = rest
            .map(|at| {
                let (operation, answered, answer) = &search.answered[at];
                format!("{:?} at {}..{answered} -> {answer:?}", operation.action, operation.called)
            })
            .collect();
        self.told = format!(
            "{done} of {} answered operations stand in order, the register then holds {:?}, and none of the next fits: {}",
            search.answered.len(),
            search.value,
            rest.join("; ")
        );
    }
}
