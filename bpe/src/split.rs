//! Cuts text into the pieces that merges never cross: by the scanner where the pattern is of the GPT-4 family, by
//! fancy-regex otherwise. Promises that the pieces joined are the text: what a pattern does not match is a piece of
//! its own. Does not cover what to do with the pieces.

mod blocks;
mod classes;
mod scan;

use fancy_regex::Regex;

use crate::error::Error;
use scan::Scanner;

/// The pattern of GPT-4 (tiktoken's cl100k_base, of 2023), but with digit groups of at most 2 and not 3: a small
/// vocabulary has no room for a thousand numbers.
pub const GPT4_PATTERN: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// The pattern of tiktoken's cl100k_base, letter for letter: groups of at most 3 digits, and white space that ends the
/// text is one piece.
pub const CL100K_PATTERN: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+",
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
);

/// The pattern of GPT-4o (tiktoken's o200k_base, of 2024), letter for letter.
pub const O200K_PATTERN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The pattern of GPT-2 (of 2019).
pub const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The pattern of tiktoken's r50k_base, letter for letter: it cuts as GPT-2's does.
const R50K_PATTERN: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s";

const MATCHES: usize = 16; // of the regex engine, between two looks whether to give up

/// A way to cut text into pieces.
#[derive(Clone)]
pub enum Splitter {
    /// The hand-written one.
    Scanner(Scanner),
    /// Any other pattern.
    Regex(Box<Regex>),
}

impl Splitter {
    /// The fastest splitter for `pattern`; an error if it is not a regular expression.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        if let Some(scanner) = scanner_for(pattern) {
            return Ok(Self::Scanner(scanner));
        }
        match Regex::new(pattern) {
            Ok(regex) => Ok(Self::Regex(Box::new(regex))),
            Err(error) => Err(refusal(pattern, &error)),
        }
    }

    /// Calls `each` with where each piece of `text` starts and ends, in order; an error where the regex engine gives
    /// up. Asks `give_up` every so often, and leaves the rest of the text if that is so.
    #[inline]
    pub fn split(
        &self,
        text: &str,
        give_up: impl FnMut() -> bool,
        each: impl FnMut(usize, usize),
    ) -> Result<(), Error> {
        match self {
            Self::Scanner(scanner) => scanner.split(text, give_up, each),
            Self::Regex(regex) => return split_by_regex(regex, text, give_up, each),
        }
        Ok(())
    }
}

fn split_by_regex(
    regex: &Regex,
    text: &str,
    mut give_up: impl FnMut() -> bool,
    mut each: impl FnMut(usize, usize),
) -> Result<(), Error> {
    let mut covered = 0;
    let mut piece = |start: usize, end: usize| {
        if start < end {
            each(start, end);
        }
    };
    for (number, found) in regex.find_iter(text).enumerate() {
        if number % MATCHES == MATCHES - 1 && give_up() {
            return Ok(());
        }
        let found = found.map_err(|error| refusal(regex.as_str(), &error))?;
        let start = found.start().max(covered); // `\K` in a look-behind makes matches overlap
        if start < found.end() {
            piece(covered, start);
            piece(start, found.end());
            covered = found.end();
        }
    }
    piece(covered, text.len());
    Ok(())
}

/// The scanner for `pattern`, if it is one of the GPT family; in GPT-4's, the size of the digit groups may differ.
fn scanner_for(pattern: &str) -> Option<Scanner> {
    match pattern {
        GPT2_PATTERN | R50K_PATTERN => Some(Scanner::Gpt2),
        O200K_PATTERN => Some(Scanner::Gpt4o),
        CL100K_PATTERN => Some(Scanner::Gpt4 { digits: 3, whole_tail: true }),
        _ => {
            let digits = (1..=9).find(|&digits| pattern == gpt4_pattern(digits))?;
            Some(Scanner::Gpt4 { digits, whole_tail: false })
        }
    }
}

/// GPT-4's pattern with groups of at most `digits` numerals.
fn gpt4_pattern(digits: usize) -> String {
    GPT4_PATTERN.replace("{1,2}", &format!("{{1,{digits}}}"))
}

fn refusal(pattern: &str, error: &fancy_regex::Error) -> Error {
    Error::Pattern { pattern: pattern.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        let each = |start: usize, end: usize| out.push(text[start..end].to_owned());
        splitter.split(text, || false, each).unwrap();
        out
    }

    #[test]
    fn what_the_pattern_does_not_match_is_a_piece() {
        let splitter = Splitter::new("[a-z]+|x*").unwrap();
        assert_eq!(pieces(&splitter, "12ab, cd!"), ["12", "ab", ", ", "cd", "!"]);
        let overlapping = Splitter::new(r"a|(?<=\Ka)b").unwrap();
        assert_eq!(pieces(&overlapping, "abc"), ["a", "b", "c"]);
    }

    #[test]
    fn the_scanner_takes_the_family_and_nothing_else() {
        for (pattern, scanned) in [
            (GPT4_PATTERN.to_owned(), true),
            (CL100K_PATTERN.to_owned(), true),
            (O200K_PATTERN.to_owned(), true),
            (GPT2_PATTERN.to_owned(), true),
            (GPT4_PATTERN.replace("{1,2}", "{1,12}"), false),
            (format!("{GPT4_PATTERN}|x"), false),
        ] {
            assert_eq!(matches!(Splitter::new(&pattern), Ok(Splitter::Scanner(_))), scanned, "{pattern}");
        }
    }

    /// Splitter by scanner and splitter by regex, of every pattern of the family.
    fn both() -> impl Iterator<Item = (Splitter, Splitter)> {
        let patterns = (1..=9)
            .map(gpt4_pattern)
            .chain([CL100K_PATTERN, O200K_PATTERN, GPT2_PATTERN, R50K_PATTERN].map(str::to_owned));
        patterns.map(|pattern| {
            let scanner = Splitter::new(&pattern).unwrap();
            assert!(matches!(scanner, Splitter::Scanner(_)));
            (scanner, Splitter::Regex(Box::new(Regex::new(&pattern).unwrap())))
        })
    }

    #[test]
    fn the_scanner_splits_as_the_regex_does_after_every_four_kinds() {
        let kinds = [
            "a", "É", "日", "1", "½", " ", "\t", "\u{a0}", "\n", "\r", "!", "/", "'", "'s", "'LL", "ſ", "😀", "\u{301}",
        ];
        for (scanner, regex) in both() {
            let quadruples = (0..kinds.len().pow(4)).map(|n| {
                let pick = |power: u32| kinds[n / kinds.len().pow(power) % kinds.len()];
                [pick(0), pick(1), pick(2), pick(3)].concat()
            });
            for text in quadruples {
                assert_eq!(pieces(&scanner, &text), pieces(&regex, &text), "{text:?}");
            }
        }
    }

    #[test]
    fn the_scanner_splits_long_text_as_the_regex_does() {
        let kinds = [
            "a", "S", "ll", "ve", "1", "2", " ", "  ", "\t", "\n", "\r\n", "!", "/", "'", "'s", "'LL", "word", "é",
            "日",
        ];
        let mut random = 1_u64;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % below
        };
        for (scanner, regex) in both() {
            for _ in 0..1_000 {
                let (first, kinds_here) = (next(kinds.len()), 1 + next(kinds.len() - 2)); // few kinds make long runs
                let text: String = (0..300).map(|_| kinds[(first + next(kinds_here)) % kinds.len()]).collect();
                assert_eq!(pieces(&scanner, &text), pieces(&regex, &text), "{text:?}");
            }
        }
    }

    #[test]
    fn a_pattern_that_is_none_or_gives_up_is_an_error() {
        assert!(matches!(Splitter::new("(a"), Err(Error::Pattern { .. })));
        let splitter = Splitter::new(r"(?=(a|aa)+$)\1b").unwrap();
        let text = "a".repeat(10_000) + "c";
        assert!(matches!(splitter.split(&text, || false, |_, _| {}), Err(Error::Pattern { .. })));
    }

    #[test]
    fn a_long_text_is_given_up_within_it() {
        let text = "ab ".repeat(1 << 20);
        for pattern in ["[a-z]+", GPT4_PATTERN, GPT2_PATTERN, O200K_PATTERN] {
            let mut pieces = 0;
            Splitter::new(pattern).unwrap().split(&text, || true, |_, _| pieces += 1).unwrap();
            assert!((1..1 << 17).contains(&pieces), "{pattern}");
        }
    }
}
