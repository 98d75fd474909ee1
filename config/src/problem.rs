//! What is wrong in a file, and how it is shown: reason, place, source line, underline, hint.
//! Not here: what counts as wrong.

use std::fmt;

use crate::source::{Source, Sources, Span};

/// Longest part of a source line that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 120;
/// Most problems that are reported of one file.
pub(crate) const PROBLEMS_MAX: usize = 20;

/// Whether the file can be used in spite of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// No job comes out of this file.
    Error,
    /// The job runs, but not everything it asks for is honoured.
    Warning,
}

/// One thing that is wrong, where, and what to do about it. `Display` draws it the way compilers do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The file's name, as it was given.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
    /// How much of the line is meant, in characters; at least 1.
    pub length: u32,
    /// The line itself, without its end.
    pub source_line: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Other places that take part in it.
    pub also: Vec<Label>,
}

/// Another place, with a few words on what it has to do with the problem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// The file's name.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
    /// In characters; at least 1.
    pub length: u32,
    /// The line itself, without its end.
    pub source_line: String,
    /// What is there.
    pub text: String,
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}: {}", self.reason)?;
        let widest = self.also.iter().map(|label| label.line).fold(self.line, u32::max);
        let margin = widest.to_string().len();
        writeln!(f, "{:margin$}--> {}:{}:{}", "", plain(&self.file), self.line, self.column)?;
        let excerpt = Excerpt::of(&self.source_line, self.column, self.length);
        excerpt.draw(f, margin, self.line, '^', "")?;
        for label in &self.also {
            writeln!(f, "{:margin$}::: {}:{}:{}", "", plain(&label.file), label.line, label.column)?;
            let excerpt = Excerpt::of(&label.source_line, label.column, label.length);
            excerpt.draw(f, margin, label.line, '-', &label.text)?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "hint: {hint}")?;
        }
        Ok(())
    }
}

/// The part of a line that is shown, and what is underlined in it.
struct Excerpt {
    text: String,
    before: usize,
    marked: usize,
}

impl Excerpt {
    /// Cuts a long line to the part around the underline; control characters become visible.
    fn of(line: &str, column: u32, length: u32) -> Self {
        let at = column.saturating_sub(1) as usize;
        let total = line.chars().count();
        let ends_early = at + (length as usize).min(SHOWN_CHARS_MAX / 3) <= SHOWN_CHARS_MAX;
        let from =
            if total <= SHOWN_CHARS_MAX || ends_early { 0 } else { at.saturating_sub(SHOWN_CHARS_MAX / 3) };
        let mut text = String::new();
        let mut before = at - from.min(at);
        if from > 0 {
            text.push_str("... ");
            before += 4;
        }
        text.extend(line.chars().skip(from).take(SHOWN_CHARS_MAX).map(visible));
        let left = (from + SHOWN_CHARS_MAX).min(total).saturating_sub(at);
        if from + SHOWN_CHARS_MAX < total {
            text.push_str(" ...");
        }
        Excerpt { text, before, marked: (length as usize).min(left).max(1) }
    }

    fn draw(
        &self,
        f: &mut fmt::Formatter<'_>,
        margin: usize,
        line: u32,
        mark: char,
        words: &str,
    ) -> fmt::Result {
        writeln!(f, "{:margin$} |", "")?;
        writeln!(f, "{}", format!("{line:margin$} | {}", self.text).trim_end())?;
        let marks: String = std::iter::repeat_n(mark, self.marked).collect();
        let space = if words.is_empty() { "" } else { " " };
        writeln!(f, "{:margin$} | {:before$}{marks}{space}{words}", "", "", before = self.before)
    }
}

/// A tab is one blank, so that the underline fits; what would move a terminal's cursor is replaced.
fn visible(c: char) -> char {
    if c == '\t' {
        ' '
    } else if c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    {
        '\u{fffd}'
    } else {
        c
    }
}

/// All that is wrong in a file; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems(pub Vec<Problem>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// A complaint before its lines and columns are counted.
#[derive(Clone, Debug)]
pub(crate) struct Issue {
    pub(crate) severity: Severity,
    pub(crate) span: Span,
    pub(crate) reason: String,
    pub(crate) hint: Option<String>,
    pub(crate) also: Vec<(Span, String)>,
}

/// Boxed, so that the good path stays small.
pub(crate) type Fault = Box<Issue>;

impl Issue {
    pub(crate) fn error(span: Span, reason: impl Into<String>) -> Fault {
        let reason = reason.into();
        Box::new(Issue { severity: Severity::Error, span, reason, hint: None, also: Vec::new() })
    }

    pub(crate) fn warning(span: Span, reason: impl Into<String>) -> Fault {
        let mut issue = Issue::error(span, reason);
        issue.severity = Severity::Warning;
        issue
    }

    pub(crate) fn hint(mut self: Box<Self>, hint: impl Into<String>) -> Fault {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn maybe_hint(mut self: Box<Self>, hint: Option<String>) -> Fault {
        self.hint = hint.or(self.hint);
        self
    }

    pub(crate) fn also(mut self: Box<Self>, span: Span, text: impl Into<String>) -> Fault {
        if span != self.span {
            self.also.push((span, text.into()));
        }
        self
    }

    /// Counts lines and columns.
    pub(crate) fn locate(self, sources: &Sources<'_>) -> Problem {
        let none = Source::new("", "");
        let source = sources.get(self.span).unwrap_or(&none);
        let place = source.place(self.span);
        let also = self.also.into_iter().map(|(span, text)| {
            let source = sources.get(span).unwrap_or(&none);
            let place = source.place(span);
            Label {
                file: source.name.to_owned(),
                line: place.line,
                column: place.column,
                length: place.length,
                source_line: place.text.to_owned(),
                text: plain(&text),
            }
        });
        let also = also.collect();
        Problem {
            severity: self.severity,
            file: source.name.to_owned(),
            line: place.line,
            column: place.column,
            length: place.length,
            source_line: place.text.to_owned(),
            reason: plain(&self.reason),
            hint: self.hint.as_deref().map(plain),
            also,
        }
    }
}

/// Words of others without what would move a terminal's cursor.
fn plain(words: &str) -> String {
    words.chars().map(visible).collect()
}

/// A person's word as it can stand in a sentence: in backquotes, shortened, on one line.
pub(crate) fn quoted(word: &str) -> String {
    const WORD_CHARS_MAX: usize = 60;
    let mut text: String = word.chars().take(WORD_CHARS_MAX).map(visible).collect();
    if word.chars().nth(WORD_CHARS_MAX).is_some() {
        text.push_str("...");
    }
    format!("`{text}`")
}

/// `did you mean ...?`, when one of the known words is close to what was written.
pub(crate) fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    if word.len() > 64 {
        return None;
    }
    let near =
        known.into_iter().filter(|known| known.len() <= 64).map(|known| (distance(word, known), known));
    let best = near.min_by_key(|(distance, _)| *distance)?;
    let allowed = if word.chars().count() <= 3 { 1 } else { 2.max(word.chars().count() / 3) };
    (best.0 <= allowed).then(|| format!("did you mean `{}`?", best.1))
}

/// How many letters must be added, removed, changed or swapped with their neighbour; case counts half, rounded up.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j - 1] + change).min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_offered_and_far_ones_are_not() {
        let known = ["cmdline", "name", "max_failures"];
        assert_eq!(did_you_mean("cmdlnie", known).as_deref(), Some("did you mean `cmdline`?"));
        assert_eq!(did_you_mean("Name", known).as_deref(), Some("did you mean `name`?"));
        assert_eq!(did_you_mean("zebra", known), None);
        assert_eq!(did_you_mean("", known), None);
    }

    #[test]
    fn a_long_line_is_cut_around_the_underline() {
        let line = format!("{}HERE{}", "a".repeat(1000), "b".repeat(1000));
        let excerpt = Excerpt::of(&line, 1001, 4);
        let marked: String = excerpt.text.chars().skip(excerpt.before).take(excerpt.marked).collect();
        assert_eq!(marked, "HERE");
        assert!(excerpt.text.chars().count() < 140);
    }
}
