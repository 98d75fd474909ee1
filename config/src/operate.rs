//! Operators: arithmetic that never overflows silently, texts and lists that never outgrow the budget.

use ruff_python_ast::Operator;

use crate::eval::Evaluator;
use crate::format;
use crate::problem::{Fault, Issue};
use crate::source::Span;
use crate::value::{Heap, Kind, VALUE_BYTES, Value};

/// `left op right`.
pub(crate) fn binary(
    e: &mut Evaluator<'_, '_>,
    op: Operator,
    left: &Value,
    right: &Value,
    span: Span,
) -> Result<Value, Fault> {
    use Kind::{Bool, Float, Int, List, Text, Tuple};
    let kind = match (op, &left.kind, &right.kind) {
        (Operator::Mod, Text(template), _) => {
            let text = format::percent(e, template, left.span, right)?;
            return e.text(span, &text);
        }
        (Operator::Add, Text(a), Text(b)) => {
            e.run.budget.text(span, a.len() + b.len())?;
            return Ok(Value::text(span, &format!("{a}{b}")));
        }
        (Operator::Mult, Text(text), Int(times)) | (Operator::Mult, Int(times), Text(text)) => {
            let times = usize::try_from(*times).unwrap_or(0);
            e.run.budget.text(span, text.len().saturating_mul(times))?;
            return Ok(Value::text(span, &text.repeat(times)));
        }
        (Operator::Add, List(a), List(b)) | (Operator::Add, Tuple(a), Tuple(b)) => {
            let (a, b) = (e.run.heap.items(*a), e.run.heap.items(*b));
            e.run.budget.charge(span, VALUE_BYTES * (a.len() + b.len()))?;
            let items = [a, b].concat();
            let id = e.run.heap.list(&mut e.run.budget, span, items)?;
            if matches!(left.kind, List(_)) { List(id) } else { Tuple(id) }
        }
        (Operator::Mult, List(list), Int(times)) | (Operator::Mult, Int(times), List(list)) => {
            let times = usize::try_from(*times).unwrap_or(0);
            let items = e.run.heap.items(*list);
            e.run.budget.charge(span, VALUE_BYTES.saturating_mul(items.len()).saturating_mul(times))?;
            let items = vec![items; times].concat();
            return e.list(span, items);
        }
        (_, Int(a), Int(b)) => integers(op, *a, *b, right, span)?,
        (_, Int(_) | Float(_) | Bool(_), Int(_) | Float(_) | Bool(_)) => {
            let (Some(a), Some(b)) = (number(&left.kind), number(&right.kind)) else {
                return Err(unfit(op, left, right, span, &e.run.heap));
            };
            floats(op, a, b, right, span)?
        }
        _ => return Err(unfit(op, left, right, span, &e.run.heap)),
    };
    Ok(Value::new(span, kind))
}

fn unfit(op: Operator, left: &Value, right: &Value, span: Span, heap: &Heap) -> Fault {
    let (left, right) = (left.kind.describe(heap), right.kind.describe(heap));
    let fault = Issue::error(span, format!("`{op}` cannot be used with {left} and {right}"));
    if op == Operator::Add && (left == "a text" || right == "a text") {
        return fault.hint("`str(...)` makes a text of a number");
    }
    fault
}

#[expect(clippy::cast_precision_loss, reason = "as in Python")]
fn number(kind: &Kind) -> Option<f64> {
    match kind {
        Kind::Int(int) => Some(*int as f64),
        Kind::Float(float) => Some(*float),
        Kind::Bool(bool) => Some(f64::from(u8::from(*bool))),
        _ => None,
    }
}

fn too_large(span: Span) -> Fault {
    Issue::error(span, "the result is too large")
}

fn not_yet(op: Operator, span: Span) -> Fault {
    Issue::error(span, format!("`{op}` is not understood here yet"))
}

fn by_zero(right: &Value) -> Fault {
    Issue::error(right.span, "division by zero")
}

fn integers(op: Operator, a: i64, b: i64, right: &Value, span: Span) -> Result<Kind, Fault> {
    let result = match op {
        Operator::Add => a.checked_add(b),
        Operator::Sub => a.checked_sub(b),
        Operator::Mult => a.checked_mul(b),
        Operator::FloorDiv | Operator::Mod if b == 0 => return Err(by_zero(right)),
        // Towards minus infinity, as in Python.
        Operator::FloorDiv => {
            a.checked_div(b).map(|quotient| quotient - i64::from(a % b != 0 && (a < 0) != (b < 0)))
        }
        Operator::Mod => {
            a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
        }
        Operator::Pow => match u32::try_from(b) {
            Ok(power) => a.checked_pow(power),
            #[expect(clippy::cast_precision_loss, reason = "as in Python")]
            Err(_) if b < 0 => return floats(op, a as f64, b as f64, right, span),
            Err(_) => None,
        },
        Operator::LShift => {
            u32::try_from(b).ok().and_then(|by| 1_i64.checked_shl(by)).and_then(|by| a.checked_mul(by))
        }
        Operator::RShift => Some(if b < 0 { return Err(too_large(right.span)) } else { a >> b.min(63) }),
        #[expect(clippy::cast_precision_loss, reason = "as in Python")]
        Operator::Div => return floats(op, a as f64, b as f64, right, span),
        Operator::MatMult | Operator::BitOr | Operator::BitXor | Operator::BitAnd => {
            return Err(not_yet(op, span));
        }
    };
    result.map(Kind::Int).ok_or_else(|| too_large(span))
}

fn floats(op: Operator, a: f64, b: f64, right: &Value, span: Span) -> Result<Kind, Fault> {
    let result = match op {
        Operator::Add => a + b,
        Operator::Sub => a - b,
        Operator::Mult => a * b,
        Operator::Div | Operator::FloorDiv | Operator::Mod if b == 0.0 => return Err(by_zero(right)),
        Operator::Div => a / b,
        Operator::FloorDiv => (a / b).floor(),
        Operator::Mod => a - b * (a / b).floor(),
        Operator::Pow => a.powf(b),
        _ => return Err(not_yet(op, span)),
    };
    if result.is_finite() { Ok(Kind::Float(result)) } else { Err(too_large(span)) }
}

/// `-value` or `+value`.
pub(crate) fn signed(negative: bool, value: &Value, span: Span, heap: &Heap) -> Result<Value, Fault> {
    let kind = match &value.kind {
        Kind::Int(int) if negative => Kind::Int(int.checked_neg().ok_or_else(|| too_large(span))?),
        Kind::Float(float) if negative => Kind::Float(-float),
        Kind::Int(int) => Kind::Int(*int),
        Kind::Float(float) => Kind::Float(*float),
        other => return Err(Issue::error(span, format!("{} has no sign", other.describe(heap)))),
    };
    Ok(Value::new(span, kind))
}

/// The place of an element that `key` means; negative counts from the end.
pub(crate) fn index(key: &Value, len: usize) -> Result<usize, Fault> {
    let Kind::Int(int) = key.kind else {
        return Err(Issue::error(key.span, "an index is a whole number"));
    };
    let at = if int < 0 { i64::try_from(len).unwrap_or(i64::MAX).saturating_add(int) } else { int };
    let at = usize::try_from(at).ok().filter(|&at| at < len);
    at.ok_or_else(|| Issue::error(key.span, format!("there is no element {int}; there are {len}")))
}
