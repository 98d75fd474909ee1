//! Values as text: `str()`, `'...' % x`, `'...'.format(x)` and what stands behind the colon of an f-string.

use crate::eval::{Arguments, Evaluator};
use crate::problem::{Fault, Issue, quoted};
use crate::source::Span;
use crate::value::{Heap, Kind, Value};

/// Widest field and longest fraction.
const WIDTH_MAX: usize = 4_096;
const PRECISION_MAX: usize = 100;

/// What `str()` gives.
pub(crate) fn text(heap: &Heap, value: &Value) -> Result<String, String> {
    Ok(match &value.kind {
        Kind::None => "None".to_owned(),
        Kind::Bool(true) => "True".to_owned(),
        Kind::Bool(false) => "False".to_owned(),
        Kind::Int(int) => int.to_string(),
        Kind::Float(value) => float(*value),
        Kind::Text(text) => text.to_string(),
        other => return Err(format!("{} cannot become a text here", other.describe(heap))),
    })
}

/// As Python writes it: `1.0`, `0.25`, `1e+16`.
pub(crate) fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = value.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

/// The whole number that a float is, if it is one.
pub(crate) fn whole(value: f64) -> Option<i64> {
    const EDGE: f64 = 9_223_372_036_854_775_808.0;
    #[expect(clippy::cast_possible_truncation, reason = "checked here")]
    (value.fract() == 0.0 && (-EDGE..EDGE).contains(&value)).then_some(value as i64)
}

fn repr(heap: &Heap, value: &Value) -> Result<String, String> {
    match &value.kind {
        Kind::Text(text) => {
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let mut out = String::from(quote);
            for c in text.chars() {
                match c {
                    '\n' => out.push_str("\\n"),
                    '\t' => out.push_str("\\t"),
                    '\r' => out.push_str("\\r"),
                    '\\' => out.push_str("\\\\"),
                    c if c == quote => out.extend(['\\', c]),
                    c => out.push(c),
                }
            }
            out.push(quote);
            Ok(out)
        }
        _ => self::text(heap, value),
    }
}

/// How a value is laid out.
struct Spec {
    fill: char,
    align: Option<char>,
    plus: bool,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    /// What stands behind the colon: `>08.2f`.
    fn parse(text: &str) -> Result<Spec, String> {
        let bad = || format!("the format {} is not understood here yet", quoted(text));
        let mut spec = Spec { fill: ' ', align: None, plus: false, width: 0, precision: None, kind: None };
        let mut rest: Vec<char> = text.chars().rev().collect();
        if let [.., align @ ('<' | '>' | '^'), fill] = rest[..] {
            (spec.fill, spec.align) = (fill, Some(align));
            rest.truncate(rest.len() - 2);
        } else if let [.., align @ ('<' | '>' | '^')] = rest[..] {
            spec.align = Some(align);
            rest.pop();
        }
        if let Some('+' | '-') = rest.last() {
            spec.plus = rest.pop() == Some('+');
        }
        if let Some('0') = rest.last()
            && spec.align.is_none()
        {
            (spec.fill, spec.align) = ('0', Some('='));
        }
        let mut number = |max: usize| -> Result<Option<usize>, String> {
            let mut value = None;
            while let Some(digit) = rest.last().and_then(|c| c.to_digit(10)) {
                let sum = value.unwrap_or(0_usize) * 10 + digit as usize;
                value = Some(sum);
                if sum > max {
                    return Err(format!("the format {} is too wide", quoted(text)));
                }
                rest.pop();
            }
            Ok(value)
        };
        spec.width = number(WIDTH_MAX)?.unwrap_or(0);
        if rest.last() == Some(&'.') {
            rest.pop();
            let mut digits = String::new();
            while let Some(c) = rest.last().filter(|c| c.is_ascii_digit()) {
                digits.push(*c);
                rest.pop();
            }
            spec.precision = Some(digits.parse().ok().filter(|&p| p <= PRECISION_MAX).ok_or_else(bad)?);
        }
        spec.kind = rest.pop();
        if rest.is_empty() { Ok(spec) } else { Err(bad()) }
    }

    fn apply(&self, heap: &Heap, value: &Value) -> Result<String, String> {
        let int = || match &value.kind {
            Kind::Int(int) => Ok(*int),
            Kind::Bool(bool) => Ok(i64::from(*bool)),
            Kind::Float(float) => whole(float.trunc()).ok_or_else(|| "this number is too large".to_owned()),
            other => Err(format!("a number is needed here, not {}", other.describe(heap))),
        };
        let (body, numeric) = match (self.kind, &value.kind) {
            (Some('d' | 'i' | 'u'), _) => (int()?.to_string(), true),
            (Some('x'), _) => (signed_radix(int()?, |n| format!("{n:x}")), true),
            (Some('X'), _) => (signed_radix(int()?, |n| format!("{n:X}")), true),
            (Some('o'), _) => (signed_radix(int()?, |n| format!("{n:o}")), true),
            (Some('f' | 'F'), kind) => {
                #[expect(clippy::cast_precision_loss, reason = "as in Python")]
                let number = match kind {
                    Kind::Float(float) => *float,
                    _ => int()? as f64,
                };
                (format!("{number:.precision$}", precision = self.precision.unwrap_or(6)), true)
            }
            (None, Kind::Int(_) | Kind::Float(_)) if self.precision.is_none() => (text(heap, value)?, true),
            (None | Some('s'), _) => {
                let text = text(heap, value)?;
                (text.chars().take(self.precision.unwrap_or(usize::MAX)).collect(), false)
            }
            (Some(other), _) => {
                return Err(format!("the format {} is not understood here yet", quoted(&other.to_string())));
            }
        };
        let body = if self.plus && numeric && !body.starts_with('-') { format!("+{body}") } else { body };
        let missing = self.width.saturating_sub(body.chars().count());
        let (before, after) = match self.align.unwrap_or(if numeric { '>' } else { '<' }) {
            '<' => (0, missing),
            '^' => (missing / 2, missing - missing / 2),
            _ => (missing, 0),
        };
        let pad = |count: usize| std::iter::repeat_n(self.fill, count).collect::<String>();
        if self.align == Some('=') && numeric {
            let (sign, digits) = body.split_at(body.find(|c: char| c.is_ascii_alphanumeric()).unwrap_or(0));
            return Ok(format!("{sign}{}{digits}", pad(missing)));
        }
        Ok(format!("{}{body}{}", pad(before), pad(after)))
    }
}

fn signed_radix(int: i64, digits: impl Fn(u64) -> String) -> String {
    let sign = if int < 0 { "-" } else { "" };
    format!("{sign}{}", digits(int.unsigned_abs()))
}

/// `{value!conversion:spec}`.
pub(crate) fn formatted(
    heap: &Heap,
    value: &Value,
    conversion: Option<char>,
    spec: &str,
) -> Result<String, String> {
    let spec = Spec::parse(spec)?;
    let converted = match conversion {
        None => return spec.apply(heap, value),
        Some('s') => text(heap, value)?,
        Some('r') => repr(heap, value)?,
        Some(other) => {
            return Err(format!("the conversion {} is not understood here yet", quoted(&other.to_string())));
        }
    };
    spec.apply(heap, &Value::text(value.span, &converted))
}

/// `template % right`.
pub(crate) fn percent(
    e: &mut Evaluator<'_, '_>,
    template: &str,
    template_span: Span,
    right: &Value,
) -> Result<String, Fault> {
    let run = &mut *e.run;
    let whole_tuple = match right.kind {
        Kind::Tuple(list) => Some(run.heap.items(list).to_vec()),
        _ => None,
    };
    let mut next = whole_tuple.clone().unwrap_or_else(|| vec![right.clone()]).into_iter();
    let mut named = matches!(right.kind, Kind::Dict(_));
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        run.budget.step(template_span)?;
        let bad =
            |what: &str| Issue::error(template_span, what.to_owned()).hint("a literal `%` is written `%%`");
        let mut key = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let mut name = String::new();
            loop {
                match chars.next() {
                    Some(')') => break,
                    Some(c) => name.push(c),
                    None => return Err(bad("`%(` is not closed")),
                }
            }
            key = Some(name);
        }
        let mut spec = String::new();
        let mut left = false;
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '+' | ' ' | '#')) {
            match flag {
                '-' => left = true,
                '+' => spec.push('+'),
                ' ' => {}
                _ => return Err(bad("the flag `#` is not understood here yet")),
            }
        }
        while let Some(c) = chars.next_if(|c| c.is_ascii_digit() || *c == '.') {
            spec.push(c);
        }
        let kind = match chars.next() {
            Some('%') if key.is_none() => {
                out.push('%');
                continue;
            }
            Some(kind @ ('s' | 'r' | 'd' | 'i' | 'u' | 'f' | 'F' | 'x' | 'X' | 'o')) => kind,
            Some(other) => {
                return Err(bad(&format!(
                    "`%` before {} is no format known here",
                    quoted(&other.to_string())
                )));
            }
            None => return Err(bad("the text ends with a single `%`")),
        };
        let value = match (&key, &right.kind) {
            (Some(key), Kind::Dict(dict)) => {
                named = true;
                let wanted = Value::text(template_span, key);
                let found = run.heap.entries(*dict).get(&wanted)?.cloned();
                let reason = || format!("the dict has no key {}", quoted(key));
                found.ok_or_else(|| Issue::error(right.span, reason()).also(template_span, "needed here"))?
            }
            (Some(_), _) => return Err(bad("`%(name)` needs a dict behind the `%`")),
            (None, _) => {
                let reason = "there are more formats than values";
                next.next()
                    .ok_or_else(|| Issue::error(right.span, reason).also(template_span, "the formats"))?
            }
        };
        let align = match (left, kind) {
            (true, _) => "<",
            (false, 's' | 'r') if !spec.starts_with('0') => ">",
            _ => "",
        };
        let conversion = (kind == 'r').then_some('r');
        let kind = if kind == 'r' { 's' } else { kind };
        let spec = if left { spec.trim_start_matches('0') } else { &spec };
        let text = formatted(&run.heap, &value, conversion, &format!("{align}{spec}{kind}"))
            .map_err(|reason| Issue::error(value.span, reason))?;
        run.budget.charge(template_span, text.len())?;
        out.push_str(&text);
    }
    if !named && next.next().is_some() {
        let reason = "there are more values than formats";
        return Err(Issue::error(right.span, reason).also(template_span, "the formats"));
    }
    Ok(out)
}

/// `template.format(...)`.
pub(crate) fn dotted(
    e: &mut Evaluator<'_, '_>,
    template: &str,
    template_span: Span,
    args: &Arguments,
) -> Result<String, Fault> {
    let run = &mut *e.run;
    let mut out = String::new();
    let mut counted = 0_usize;
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' if chars.peek() == Some(&c) => {
                chars.next();
                out.push(c);
            }
            '}' => {
                let hint = "a literal `}` is written `}}`";
                return Err(Issue::error(template_span, "a `}` without its `{`").hint(hint));
            }
            '{' => {
                run.budget.step(template_span)?;
                let mut inside = String::new();
                loop {
                    match chars.next() {
                        Some('}') => break,
                        Some('{') => {
                            let reason = "a format inside a format is not understood here yet";
                            return Err(Issue::error(template_span, reason));
                        }
                        Some(c) => inside.push(c),
                        None => {
                            let hint = "a literal `{` is written `{{`, so a template is `{{{{name}}}}`";
                            return Err(Issue::error(template_span, "a `{` is not closed").hint(hint));
                        }
                    }
                }
                let (name, spec) = inside.split_once(':').unwrap_or((&inside, ""));
                let (name, conversion) = match name.split_once('!') {
                    Some((name, conversion)) => (name, conversion.chars().next()),
                    None => (name, None),
                };
                let place = if name.is_empty() { Some(counted) } else { name.parse::<usize>().ok() };
                counted += usize::from(name.is_empty());
                let by_name = || {
                    args.keywords.iter().find(|(known, _)| &**known == name).map(|(_, field)| &field.value)
                };
                let value = match place {
                    Some(place) => args.positional.get(place),
                    None => by_name(),
                };
                let value = value.ok_or_else(|| {
                    let reason = format!("nothing is given for {}", quoted(&format!("{{{inside}}}")));
                    let span = run.sources.narrow(template_span, &format!("{{{inside}}}"));
                    Issue::error(span, reason)
                        .hint("a literal brace is doubled; a template is `{{{{name}}}}`")
                })?;
                let text = formatted(&run.heap, value, conversion, spec)
                    .map_err(|reason| Issue::error(value.span, reason))?;
                run.budget.charge(template_span, text.len())?;
                out.push_str(&text);
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_read_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.25, "0.25"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (-2.0, "-2.0"),
            (1e300, "1e+300"),
        ];
        for (value, text) in cases {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn specs_lay_out_as_in_python() {
        let heap = Heap::default();
        let of = |kind| Value::new(Span::default(), kind);
        let cases = [
            (Kind::Int(7), "03d", "007"),
            (Kind::Int(-7), "05", "-0007"),
            (Kind::Int(255), "x", "ff"),
            (Kind::Float(2.5), ".2f", "2.50"),
            (Kind::Float(2.5), "", "2.5"),
            (Kind::Text("ab".into()), ">4", "  ab"),
            (Kind::Text("ab".into()), "*^5", "*ab**"),
            (Kind::Int(5), "+", "+5"),
        ];
        for (kind, spec, expected) in cases {
            assert_eq!(formatted(&heap, &of(kind), None, spec).unwrap(), expected, "{spec}");
        }
        assert!(formatted(&heap, &of(Kind::Int(1)), None, "999999999d").is_err());
        assert!(formatted(&heap, &of(Kind::Int(1)), None, "q").is_err());
    }
}
