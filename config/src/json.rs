//! JSON with places: every value knows where it stands. Strict: what is not JSON is refused.

use crate::eval::Run;
use crate::limits::NESTING_MAX;
use crate::problem::{Fault, Issue, did_you_mean};
use crate::source::Span;
use crate::value::{Dict, Kind, Value};

/// What JSON is, for those whose file is almost JSON.
const PLAIN: &str = "JSON is `{\"name\": value, ...}`, `[value, ...]`, numbers and \"texts\": a comma between two, none behind the last";

/// Reads a whole text.
pub(crate) fn read(run: &mut Run<'_>, text: &str, file: u16) -> Result<Value, Fault> {
    let mut reader = Reader { run, text, bytes: text.as_bytes(), at: 0, file };
    if text.starts_with('\u{feff}') {
        reader.at = '\u{feff}'.len_utf8();
    }
    let value = reader.value(0)?;
    reader.blank();
    if reader.at < reader.bytes.len() {
        return Err(reader.unexpected("the end of the file"));
    }
    Ok(value)
}

struct Reader<'r, 's, 't> {
    run: &'r mut Run<'s>,
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    file: u16,
}

impl Reader<'_, '_, '_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn span(&self, from: usize) -> Span {
        Span::new(self.file, from, self.at)
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// A complaint about what stands here instead of `wanted`.
    fn unexpected(&self, wanted: &str) -> Fault {
        let rest = self.text.get(self.at..).unwrap_or("");
        let word =
            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').take(40).map(char::len_utf8).sum();
        let len = if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
        let span = Span::new(self.file, self.at, self.at + len);
        let found = match rest.chars().next() {
            None => "the end of the file".to_owned(),
            Some('\'') => {
                return Issue::error(span, "texts stand in double quotes in JSON").hint("write `\"...\"`");
            }
            Some('#' | '/') => {
                return Issue::error(span, "JSON has no comments")
                    .hint("remove it, or write the job as an `.aurora` file");
            }
            Some(_) => crate::problem::quoted(rest.get(..len).unwrap_or("")),
        };
        let fault = Issue::error(span, format!("this is not JSON: {wanted} is expected, not {found}"));
        let hint = match rest.get(..word).unwrap_or("") {
            "" => Some(PLAIN.to_owned()),
            "True" => Some("JSON writes `true`".to_owned()),
            "False" => Some("JSON writes `false`".to_owned()),
            "None" => Some("JSON writes `null`".to_owned()),
            "NaN" | "Infinity" => None,
            word => did_you_mean(word, ["true", "false", "null"]).or_else(|| {
                Some("only plain data can stand in a `.json` file, not names or calls".to_owned())
            }),
        };
        fault.maybe_hint(hint)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        self.blank();
        let start = self.at;
        self.run.budget.step(self.span(start))?;
        if depth > NESTING_MAX {
            return Err(Issue::error(
                self.span(start),
                format!("this is nested more than {NESTING_MAX} deep"),
            ));
        }
        let kind = match self.peek() {
            Some(b'{') => return self.object(depth),
            Some(b'[') => return self.array(depth),
            Some(b'"') => return self.string(),
            Some(b'-' | b'0'..=b'9') => return self.number(),
            Some(b't') if self.word("true") => Kind::Bool(true),
            Some(b'f') if self.word("false") => Kind::Bool(false),
            Some(b'n') if self.word("null") => Kind::None,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Value::new(self.span(start), kind))
    }

    fn word(&mut self, word: &str) -> bool {
        let rest = self.text.get(self.at..).unwrap_or("");
        let found =
            rest.strip_prefix(word).is_some_and(|after| !after.starts_with(|c: char| c.is_alphanumeric()));
        if found {
            self.at += word.len();
        }
        found
    }

    fn object(&mut self, depth: usize) -> Result<Value, Fault> {
        let start = self.at;
        self.at += 1;
        let mut dict = Dict::default();
        loop {
            self.blank();
            if dict.items().is_empty() && self.peek() == Some(b'}') {
                break;
            }
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("the name of a field"));
            }
            let key = self.string()?;
            self.blank();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("`:`"));
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            self.run.budget.charge(value.span, crate::value::ENTRY_BYTES)?;
            let key_span = key.span;
            if let Some((before, _)) = dict.insert(key, value)? {
                return Err(
                    Issue::error(key_span, "this field is there twice").also(before.span, "first here")
                );
            }
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => {
                    return Err(self
                        .unexpected("`,` or `}`")
                        .also(Span::new(self.file, start, start + 1), "opened here"));
                }
            }
        }
        self.at += 1;
        let span = self.span(start);
        let id = self.run.heap.dict(&mut self.run.budget, span, dict)?;
        Ok(Value::new(span, Kind::Dict(id)))
    }

    fn array(&mut self, depth: usize) -> Result<Value, Fault> {
        let start = self.at;
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.blank();
            if items.is_empty() && self.peek() == Some(b']') {
                break;
            }
            items.push(self.value(depth + 1)?);
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => {
                    return Err(self
                        .unexpected("`,` or `]`")
                        .also(Span::new(self.file, start, start + 1), "opened here"));
                }
            }
        }
        self.at += 1;
        let span = self.span(start);
        let id = self.run.heap.list(&mut self.run.budget, span, items)?;
        Ok(Value::new(span, Kind::List(id)))
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = self.text.get(start..self.at).unwrap_or("");
        let span = self.span(start);
        let digits = text.strip_prefix('-').unwrap_or(text);
        let bytes = digits.as_bytes();
        let leading =
            bytes.len() > 1 && bytes.first() == Some(&b'0') && bytes.get(1).is_some_and(u8::is_ascii_digit);
        let malformed = || Issue::error(span, "this is not a number in JSON");
        if leading
            || !digits.starts_with(|c: char| c.is_ascii_digit())
            || digits.ends_with('.')
            || digits.contains(".e")
        {
            return Err(malformed());
        }
        let kind = if digits.contains(['.', 'e', 'E']) {
            Kind::Float(text.parse().map_err(|_| malformed())?)
        } else {
            if digits.contains(['-', '+']) {
                return Err(malformed());
            }
            Kind::Int(text.parse().map_err(|_| Issue::error(span, "this number is too large"))?)
        };
        if let Kind::Float(float) = kind
            && !float.is_finite()
        {
            return Err(Issue::error(span, "this number is too large"));
        }
        Ok(Value::new(span, kind))
    }

    fn string(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let from = self.at;
            while self.peek().is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
                self.at += 1;
            }
            text.push_str(self.text.get(from..self.at).unwrap_or(""));
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => text.push(self.escape()?),
                _ => {
                    let span = Span::new(self.file, start, start + 1);
                    let reason = "this text is not closed on its line";
                    return Err(Issue::error(span, reason).hint("a line end inside a text is written `\\n`"));
                }
            }
        }
        self.at += 1;
        let span = self.span(start);
        self.run.budget.text(span, text.len())?;
        Ok(Value::text(span, &text))
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let start = self.at;
        self.at += 1;
        let plain = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self.four_digits(start)?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first).ok_or_else(|| self.bad_escape(start));
                }
                if self.text.get(self.at..self.at + 2) != Some("\\u") {
                    return Err(self.bad_escape(start));
                }
                self.at += 2;
                let second = self.four_digits(start)?;
                let low = second
                    .checked_sub(0xdc00)
                    .filter(|low| *low < 0x400)
                    .ok_or_else(|| self.bad_escape(start))?;
                return char::from_u32(0x10000 + ((first - 0xd800) << 10) + low)
                    .ok_or_else(|| self.bad_escape(start));
            }
            _ => return Err(self.bad_escape(start)),
        };
        self.at += 1;
        Ok(plain)
    }

    fn four_digits(&mut self, start: usize) -> Result<u32, Fault> {
        let digits =
            self.text.get(self.at..self.at + 4).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let value = value.ok_or_else(|| self.bad_escape(start))?;
        self.at += 4;
        Ok(value)
    }

    fn bad_escape(&self, start: usize) -> Fault {
        let end = (self.at + 1).max(start + 2);
        Issue::error(Span::new(self.file, start, end), "this is no escape that JSON knows")
            .hint("a backslash is written `\\\\`")
    }
}
