//! Whether a file may be given to the parser: its size, and a bound on how deep its syntax tree can get.
//!
//! The parser is recursive and so is the tree it makes. The scan below knows only brackets, texts, comments and
//! line ends; where it could be led astray (quotes inside an f-string's braces) it refuses the file.

use crate::limits::{CHAIN_MAX, FILE_BYTES_MAX, NESTING_MAX};
use crate::problem::{Fault, Issue};
use crate::source::Span;

/// Most `lambda`s in one statement: each may hold the next, across commas.
const LAMBDAS_MAX: usize = 50;

/// The size of a file of either kind.
pub(crate) fn check_size(text: &str) -> Result<(), Fault> {
    if text.len() > FILE_BYTES_MAX {
        let reason = format!("the file is longer than {} MiB", FILE_BYTES_MAX >> 20);
        return Err(Issue::error(Span::default(), reason).hint("split it into several files"));
    }
    Ok(())
}

/// Bounds the depth of an `.aurora` file's syntax tree. Gives the place of a bracket that is never closed.
pub(crate) fn check_nesting(text: &str) -> Result<Option<Span>, Fault> {
    let mut scan = Scan {
        bytes: text.as_bytes(),
        at: 0,
        open: Vec::new(),
        below: 0,
        chain: 0,
        lambdas: 0,
        indents: Vec::new(),
    };
    scan.line_start()?;
    while scan.at < scan.bytes.len() {
        scan.token()?;
    }
    Ok(scan.open.last().map(|open| scan.span(open.at, open.at + 1)))
}

struct Open {
    bracket: u8,
    at: usize,
    chain: usize,
}

struct Scan<'t> {
    bytes: &'t [u8],
    at: usize,
    open: Vec<Open>,
    /// Sum of the chains of all open brackets.
    below: usize,
    /// Tokens since the last comma on this level: no tree over them is deeper.
    chain: usize,
    lambdas: usize,
    indents: Vec<usize>,
}

impl Scan<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn span(&self, from: usize, to: usize) -> Span {
        Span::new(0, from, to)
    }

    fn link(&mut self, weight: usize) -> Result<(), Fault> {
        self.chain += weight;
        if self.below + self.chain <= CHAIN_MAX {
            return Ok(());
        }
        let from = self.open.last().map_or(self.at, |open| open.at);
        let hint = if self.open.is_empty() { "split it into parts" } else { "is this bracket closed?" };
        Err(Issue::error(self.span(from, from + 1), "this expression is too long or nested too deeply")
            .hint(hint))
    }

    fn token(&mut self) -> Result<(), Fault> {
        let start = self.at;
        let byte = self.peek(0);
        self.at += 1;
        match byte {
            b'\n' | b'\r' => {
                if self.open.is_empty() {
                    self.line_start()?;
                }
            }
            b';' if self.open.is_empty() => (self.chain, self.lambdas) = (0, 0),
            b',' => self.chain = 0,
            b'#' => self.skip_until(|b| matches!(b, b'\n' | b'\r')),
            b'\\' => {
                if self.peek(0) == b'\r' && self.peek(1) == b'\n' {
                    self.at += 1;
                }
                self.at += 1;
            }
            b'(' | b'[' | b'{' => {
                self.link(1)?;
                if self.open.len() >= NESTING_MAX {
                    let reason = format!("brackets are nested more than {NESTING_MAX} deep");
                    return Err(Issue::error(self.span(start, self.at), reason));
                }
                self.open.push(Open { bracket: byte, at: start, chain: self.chain });
                self.below += self.chain;
                self.chain = 0;
            }
            b')' | b']' | b'}' => {
                // A bracket that does not fit closes nothing: the parser will complain.
                let opened = match byte {
                    b')' => b'(',
                    b']' => b'[',
                    _ => b'{',
                };
                if self.open.last().is_some_and(|open| open.bracket == opened)
                    && let Some(open) = self.open.pop()
                {
                    self.below -= open.chain;
                    self.chain = open.chain;
                }
            }
            b'\'' | b'"' => self.string(start, false)?,
            b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | 0x80.. => {
                self.skip_until(|b| !(b == b'_' || b.is_ascii_alphanumeric() || b >= 0x80));
                let word = self.bytes.get(start..self.at).unwrap_or_default();
                if matches!(self.peek(0), b'\'' | b'"') {
                    let start = self.at;
                    let template = formatted(word);
                    self.at += 1;
                    return self.string(start, template);
                }
                if word == b"lambda" {
                    self.lambdas += 1;
                    if self.lambdas > LAMBDAS_MAX {
                        let reason = format!("more than {LAMBDAS_MAX} `lambda`s in one statement");
                        return Err(Issue::error(self.span(start, self.at), reason));
                    }
                }
                self.link(1)?;
            }
            b' ' | b'\t' | 0x0c => {}
            _ => self.link(1)?,
        }
        Ok(())
    }

    fn skip_until(&mut self, end: impl Fn(u8) -> bool) {
        while self.at < self.bytes.len() && !end(self.peek(0)) {
            self.at += 1;
        }
    }

    /// A text, from behind its first quote on.
    fn string(&mut self, start: usize, formatted: bool) -> Result<(), Fault> {
        let quote = self.bytes.get(start).copied().unwrap_or(0);
        let triple = self.peek(0) == quote && self.peek(1) == quote;
        if triple {
            self.at += 2;
        }
        let mut braces = 0_usize;
        while self.at < self.bytes.len() {
            let byte = self.peek(0);
            let at = self.at;
            self.at += 1;
            if braces > 0 {
                if matches!(byte, b'\'' | b'"' | b'\\' | b'#') || (!triple && matches!(byte, b'\n' | b'\r')) {
                    let reason = "quotes, backslashes, comments and line ends inside the braces of an f-string \
                                  are not understood here";
                    let hint = "assign the value to a name first";
                    return Err(Issue::error(self.span(at, self.at), reason).hint(hint));
                }
                self.link(1)?;
            }
            match byte {
                b'\n' | b'\r' if !triple => {
                    self.at = at; // the text is not closed; the parser will complain
                    return Ok(());
                }
                b'\\' if formatted && matches!(self.peek(0), b'{' | b'}') => {}
                b'\\' => self.at += 1,
                b'{' if formatted && braces == 0 && self.peek(0) == b'{' => self.at += 1,
                b'{' if formatted => braces += 1,
                b'}' if formatted => braces = braces.saturating_sub(1),
                _ if byte == quote => {
                    if !triple {
                        return Ok(());
                    }
                    if self.peek(0) == quote && self.peek(1) == quote {
                        self.at += 2;
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The indentation of a line that begins a statement.
    fn line_start(&mut self) -> Result<(), Fault> {
        (self.chain, self.lambdas) = (0, 0);
        let start = self.at;
        self.skip_until(|b| !matches!(b, b' ' | b'\t' | 0x0c));
        let blank = self.bytes.get(start..self.at).unwrap_or_default();
        if matches!(self.peek(0), b'\n' | b'\r' | b'#' | 0) {
            return Ok(());
        }
        let width = blank.len();
        if blank.contains(&0x0c) || (blank.contains(&b' ') && blank.contains(&b'\t')) {
            let reason = "this line is indented with tabs and blanks mixed";
            return Err(Issue::error(self.span(start, self.at), reason).hint("use blanks only"));
        }
        while self.indents.last().is_some_and(|&top| top >= width) {
            self.indents.pop();
        }
        if width > 0 {
            self.indents.push(width);
        }
        if self.indents.len() > NESTING_MAX {
            let reason = format!("blocks are nested more than {NESTING_MAX} deep");
            return Err(Issue::error(self.span(start, self.at), reason));
        }
        Ok(())
    }
}

/// Whether the letters before a quote can make an f-string (or t-string) of it.
fn formatted(word: &[u8]) -> bool {
    let is = |at: usize, letters: &[u8]| {
        word.len() > at && word.get(word.len() - 1 - at).is_some_and(|byte| letters.contains(byte))
    };
    is(0, b"fFtT") || (is(0, b"rR") && is(1, b"fFtT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_passes() {
        let texts = [
            "a = [1, (2, 3), {'b': \"c)\"}]  # (((\n",
            "x = '''\n((((((((\n'''\ny = r'\\''\n",
            "if a:\n  if b:\n    c = 1\nd = f'{{{x}}} {y:>{w}}'\n",
            "a = 'don\\'t' \\\n  'b'\n",
        ];
        for text in texts {
            check_nesting(text).unwrap();
        }
    }

    #[test]
    fn deep_trees_are_refused() {
        let mut ifs = String::new();
        for depth in 0..200 {
            ifs += &format!("{}if a:\n", " ".repeat(depth));
        }
        let texts = [
            "(".repeat(1_000),
            "a = ".to_owned() + &"[".repeat(1_000),
            "-".repeat(100_000),
            "not ".repeat(100_000),
            "a = 1".to_owned() + &"+1".repeat(100_000),
            "a = a".to_owned() + &".a".repeat(100_000),
            "a = a".to_owned() + &"()".repeat(100_000),
            "a = ".to_owned() + &"1 if 1 else ".repeat(100_000),
            "lambda a, b=".repeat(10_000),
            format!("f'{{{}", "-".repeat(100_000)),
            format!("😀f'{{{}", "(".repeat(100_000)),
            format!("1f'{{{}", "(".repeat(100_000)),
            format!("a = ']' + {}", "(".repeat(1_000)),
            format!("a = f\"{{'}}'}}\" + {}", "(".repeat(1_000)),
            ifs,
        ];
        for text in texts {
            assert!(check_nesting(&text).is_err(), "{:.40}", text);
        }
    }
}
