//! What a simulated task's newest report says to people: few sentences, kept as their numbers.

use std::borrow::Cow;

use crate::plan;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nothing to say.
    Nothing,
    /// It was told to end.
    Killed,
    /// A keep without a task.
    NotHere,
    /// A start of a task that was forgotten.
    WasHere,
    /// A kill without a task.
    NothingToKill,
    /// An order that grew old.
    TooOld,
    /// An intent without a beginning.
    Restarted,
    /// The machine is not the one that it ran on.
    Rebooted,
    /// It pretended to fail, with this exit code.
    Exited(u32),
}

/// Before the exit code.
const EXITED: &str = "The task pretended to end with exit code ";

impl Word {
    const ALL: [Word; 8] = [
        Word::Nothing,
        Word::Killed,
        Word::NotHere,
        Word::WasHere,
        Word::NothingToKill,
        Word::TooOld,
        Word::Restarted,
        Word::Rebooted,
    ];

    /// As people read it.
    pub fn text(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Word::Nothing => "",
            Word::Killed => "Killed by the scheduler.",
            Word::NotHere => plan::NOT_HERE,
            Word::WasHere => plan::WAS_HERE,
            Word::NothingToKill => plan::NOTHING_TO_KILL,
            Word::TooOld => "The order to start was too old once it was written down.",
            Word::Restarted => "The agent was restarted before the task had begun.",
            Word::Rebooted => "The machine was restarted.",
            Word::Exited(code) => return Cow::Owned(format!("{EXITED}{code}.")),
        })
    }

    /// Which one `text` is.
    pub fn of(text: &str) -> Self {
        let code = || text.strip_prefix(EXITED)?.strip_suffix('.')?.parse().ok().map(Word::Exited);
        let known = Word::ALL.into_iter().find(|word| word.text() == text);
        known.or_else(code).unwrap_or(Word::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_known_by_its_text() {
        for word in Word::ALL.into_iter().chain([Word::Exited(3)]) {
            assert_eq!(Word::of(&word.text()), word);
        }
        assert_eq!(Word::of("of a later version"), Word::Nothing);
    }
}
