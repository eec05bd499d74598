//! Everything that a user can get wrong, each with what to do about it. Does not cover bugs of this crate: those are
//! assertions.

use std::fmt;

pub(crate) const MOST_THREADS: usize = 1024;

/// What a user can get wrong.
#[derive(Debug)]
pub enum Error {
    /// Fewer tokens asked for than there are bytes.
    VocabSize(i64),
    /// Fewer threads than one, or more than anyone has cores.
    Threads(i64),
    /// The operating system has not so many threads.
    NoThread(usize, std::io::Error),
    /// Fewer distinct words than one.
    MaxWords(i64),
    /// Not a regular expression.
    Pattern {
        /// The pattern as given.
        pattern: String,
        /// What the regex engine says.
        reason: String,
    },
    /// No text at all.
    EmptyCorpus,
    /// The text has fewer merges than the vocabulary needs.
    CorpusTooSmall {
        /// Tokens asked for.
        vocab_size: usize,
        /// Tokens that the text gives.
        reachable: usize,
    },
    /// Counts of words that were split differently cannot be added.
    PatternsDiffer(String, String),
    /// A file that is not what `Counts::save` writes.
    Malformed(String),
    /// More text or more distinct words than the integers in use can hold.
    TooLarge(String),
    /// A text that is not UTF-8, or a line that holds none.
    Text {
        /// Which text, row or line.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that is not what `Vocabulary::save` writes.
    NotAVocabulary(String),
    /// Tokens that cannot encode every text, or not in one way.
    Tokens(String),
    /// The operating system refused a file.
    Io(std::io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VocabSize(size) => {
                write!(f, "vocab_size={size}: the 256 single bytes are always in; ask for at least 256")
            }
            Self::Threads(threads) => {
                write!(f, "threads={threads}: give 1 to {MOST_THREADS}, or None for one per core")
            }
            Self::NoThread(threads, error) => {
                write!(f, "threads={threads}: the operating system does not start so many ({error}); ask for fewer")
            }
            Self::MaxWords(words) => write!(f, "max_words={words}: give at least 1, or None for no limit"),
            Self::Pattern { pattern, reason } => write!(f, "pattern={pattern:?} cannot split text: {reason}"),
            Self::EmptyCorpus => write!(f, "the corpus has no text: check that the texts are not all empty"),
            Self::CorpusTooSmall { vocab_size, reachable } => write!(
                f,
                "vocab_size={vocab_size}: the corpus is too small, it gives {reachable} tokens at the most; \
                 give more text or a smaller vocab_size"
            ),
            Self::PatternsDiffer(left, right) => {
                write!(f, "counts made with different patterns cannot be added: {left:?} and {right:?}")
            }
            Self::Malformed(reason) => write!(f, "not a file of word counts: {reason}"),
            Self::Text { place, reason } => write!(f, "{place}: {reason}"),
            Self::NotAVocabulary(reason) => write!(f, "not a file of a vocabulary: {reason}"),
            Self::TooLarge(reason) => write!(f, "{reason}"),
            Self::Tokens(reason) => write!(f, "tokens: {reason}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}
