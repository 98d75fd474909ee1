//! Files and places in them. Every value knows its place, so that a complaint can point at it.
//! Not here: how a complaint looks (`problem.rs`).

/// A range of bytes in one of the files that were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Span {
    /// Index into [`Sources`].
    pub(crate) file: u16,
    /// First byte.
    pub(crate) start: u32,
    /// One past the last byte.
    pub(crate) end: u32,
}

impl Span {
    pub(crate) fn new(file: u16, start: usize, end: usize) -> Self {
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Span { file, start: offset(start), end: offset(end.max(start)) }
    }

    /// Whether all of `inner` lies within.
    pub(crate) fn holds(self, inner: Span) -> bool {
        self.file == inner.file && self.start <= inner.start && inner.end <= self.end
    }
}

/// One file: its name and text, and where its lines begin.
pub(crate) struct Source<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    line_starts: Vec<usize>,
}

/// A place as a person counts: lines and columns from 1, columns and lengths in characters.
pub(crate) struct Place<'a> {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) length: u32,
    pub(crate) text: &'a str,
}

impl<'a> Source<'a> {
    pub(crate) fn new(name: &'a str, text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let mut line_starts = vec![0];
        for (at, byte) in bytes.iter().enumerate() {
            let ends = *byte == b'\n' || (*byte == b'\r' && bytes.get(at + 1) != Some(&b'\n'));
            if ends {
                line_starts.push(at + 1);
            }
        }
        Source { name, text, line_starts }
    }

    /// The text of a span; empty when the span does not fit the text.
    pub(crate) fn slice(&self, span: Span) -> &'a str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or("")
    }

    /// Where a span begins, and how much of that line it covers (at least one character).
    pub(crate) fn place(&self, span: Span) -> Place<'a> {
        let floor =
            |at: usize| (0..=at.min(self.text.len())).rev().find(|&at| self.text.is_char_boundary(at));
        let start = floor(span.start as usize).unwrap_or(0);
        let line = self.line_starts.partition_point(|&at| at <= start).saturating_sub(1);
        let line_start = self.line_starts.get(line).copied().unwrap_or(0);
        let line_end = self.line_starts.get(line + 1).copied().unwrap_or(self.text.len());
        let text = self.text.get(line_start..line_end).unwrap_or("").trim_end_matches(['\n', '\r']);
        let start = start.min(line_start + text.len());
        let end = floor(span.end as usize).unwrap_or(0).clamp(start, line_start + text.len());
        let count = |from: usize, to: usize| self.text.get(from..to).unwrap_or("").chars().count();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Place {
            line: number(line + 1),
            column: number(count(line_start, start) + 1),
            length: number(count(start, end).max(1)),
            text,
        }
    }
}

/// All files that were read, the main one first.
pub(crate) struct Sources<'a>(pub(crate) Vec<Source<'a>>);

impl<'a> Sources<'a> {
    pub(crate) fn get(&self, span: Span) -> Option<&Source<'a>> {
        self.0.get(usize::from(span.file))
    }

    /// The first place of `needle` inside `span`, or the whole span.
    pub(crate) fn narrow(&self, span: Span, needle: &str) -> Span {
        let Some(source) = self.get(span) else { return span };
        match source.slice(span).find(needle) {
            Some(at) if !needle.is_empty() => {
                let start = span.start as usize + at;
                Span::new(span.file, start, start + needle.len())
            }
            _ => span,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let source = Source::new("x", "a = 1\r\nü = 'b'\nlast");
        let place = source.place(Span::new(0, 12, 15));
        assert_eq!((place.line, place.column, place.length, place.text), (2, 5, 3, "ü = 'b'"));
        let end = source.place(Span::new(0, 900, 1000));
        assert_eq!((end.line, end.column, end.length), (3, 5, 1));
        let middle_of_a_character = source.place(Span::new(0, 8, 8));
        assert_eq!((middle_of_a_character.line, middle_of_a_character.column), (2, 1));
    }
}
