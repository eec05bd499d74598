//! Hand-written splitters for the patterns of the GPT family: GPT-2, GPT-4 (with any digit group from 1 to 9), GPT-4o.
//!
//! Promises the same pieces as a backtracking regex engine gives, in one pass and without going back more than one
//! character, except over white space and, in GPT-4o's, capitals. Does not cover any other pattern.

use super::blocks::{BLOCK, gpt2_starts, gpt4_starts};
use super::classes::{CASELESS, Characters, LETTER, LOWER, MARK, NEWLINE, NUMBER, OTHER, SPACE, SYMBOL, UPPER};

const STRETCH: usize = 1 << 16; // bytes between two looks whether to give up

/// Which pattern a scanner stands for; the patterns are in `split.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scanner {
    /// GPT-2's.
    Gpt2,
    /// GPT-4's, with groups of at most `digits` numerals.
    Gpt4 {
        /// 1 to 9.
        digits: usize,
        /// Whether white space that ends the text is one piece, line ends and all.
        whole_tail: bool,
    },
    /// GPT-4o's.
    Gpt4o,
}

impl Scanner {
    /// Calls `each` with where each piece of `text` starts and ends, in order, and `give_up` every so often: if that is
    /// true, the rest of the text is left.
    #[inline]
    pub fn split(self, text: &str, give_up: impl FnMut() -> bool, each: impl FnMut(usize, usize)) {
        let text = Characters::of(text);
        match self {
            Self::Gpt2 => split(text, gpt2_starts, |start| gpt2_end(text, start), give_up, each),
            Self::Gpt4 { digits, whole_tail } => {
                let starts = |block: &_| gpt4_starts(block, digits);
                split(text, starts, |start| gpt4_end(text, start, digits, whole_tail), give_up, each);
            }
            Self::Gpt4o => split(text, |_| 1, |start| gpt4o_end(text, start), give_up, each),
        }
    }
}

/// All pieces that a block of ASCII shows at once, by `starts`, the others one by one, by `end_of`.
#[inline]
fn split(
    text: Characters,
    starts: impl Fn(&[u8; BLOCK]) -> u64,
    end_of: impl Fn(usize) -> usize,
    mut give_up: impl FnMut() -> bool,
    mut each: impl FnMut(usize, usize),
) {
    let (mut start, mut next_look) = (0, STRETCH);
    while start < text.bytes().len() {
        if start > next_look {
            if give_up() {
                return;
            }
            next_look = start + STRETCH;
        }
        let mut ends = ends_in_sight(text.bytes(), start, &starts);
        if ends == 0 {
            let end = end_of(start);
            each(start, end);
            start = end;
        }
        let (block, mut last) = (start, start);
        while ends != 0 {
            let end = block + ends.trailing_zeros() as usize;
            each(last, end);
            last = end;
            ends &= ends - 1;
        }
        start = last;
    }
}

/// Bit i is set if a piece ends `i` bytes after `start`, for all pieces that `starts` can see in a block.
#[inline]
fn ends_in_sight(text: &[u8], start: usize, starts: impl Fn(&[u8; BLOCK]) -> u64) -> u64 {
    match text[start..].first_chunk() {
        Some(block) if block[..8].is_ascii() => starts(block) & !1,
        _ => 0,
    }
}

/// End of the GPT-4 piece that starts at byte `start`.
#[inline]
fn gpt4_end(text: Characters, start: usize, digits: usize, whole_tail: bool) -> usize {
    let (class, after) = text.look(start);
    let white_space = || match text.run(start, SPACE | NEWLINE) {
        tail if whole_tail && tail == text.bytes().len() => tail,
        _ => text.white_space(start, NEWLINE),
    };
    match class {
        UPPER | LOWER | CASELESS => text.run(after, LETTER),
        NUMBER => text.numerals(after, digits),
        NEWLINE => white_space(),
        _ => {
            if text.bytes()[start] == b'\''
                && let Some(length) = text.contraction(after, true)
            {
                return after + length;
            }
            match text.look(after) {
                (UPPER | LOWER | CASELESS, end) => text.run(end, LETTER),
                _ => symbols(text, start, NEWLINE).unwrap_or_else(white_space),
            }
        }
    }
}

/// ` ?[^\s\p{L}\p{N}]++[\r\n]*` from `start` on.
fn symbols(text: Characters, start: usize, line_ends: u8) -> Option<usize> {
    let first = start + usize::from(text.bytes()[start] == b' ');
    let end = text.run(first, OTHER);
    (end > first).then(|| text.run(end, line_ends))
}

/// End of the GPT-2 piece that starts at byte `start`.
fn gpt2_end(text: Characters, start: usize) -> usize {
    let first = start + usize::from(text.bytes()[start] == b' ');
    match text.look(first).0 {
        class @ (SYMBOL | MARK) => {
            let contraction = if text.bytes()[start] == b'\'' { text.contraction(start + 1, false) } else { None };
            contraction.map_or_else(|| text.run(first, class | OTHER), |length| start + 1 + length)
        }
        UPPER | LOWER | CASELESS => text.run(first, LETTER),
        NUMBER => text.run(first, NUMBER),
        _ => text.white_space(start, 0),
    }
}

/// End of the GPT-4o piece that starts at byte `start`.
fn gpt4o_end(text: Characters, start: usize) -> usize {
    let (class, after) = text.look(start);
    match class {
        NUMBER => return text.numerals(after, 3),
        NEWLINE => return text.white_space(start, NEWLINE),
        _ => {}
    }
    let word = match class {
        UPPER | LOWER | CASELESS => capitalised(text, start).or_else(|| capitals(text, start)),
        MARK => capitalised(text, after).or_else(|| capitalised(text, start)),
        _ => capitalised(text, after).or_else(|| capitals(text, after)),
    };
    match word {
        Some(end) if text.bytes().get(end) == Some(&b'\'') => {
            text.contraction(end + 1, true).map_or(end, |length| end + 1 + length)
        }
        Some(end) => end,
        None => symbols_and_slashes(text, start).unwrap_or_else(|| text.white_space(start, NEWLINE)),
    }
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`: capitals, then at least one letter that is none.
fn capitalised(text: Characters, start: usize) -> Option<usize> {
    let (mut at, mut after_caseless) = (start, None);
    loop {
        let (class, after) = text.look(at);
        match class {
            UPPER => {}
            CASELESS | MARK => after_caseless = Some(after),
            LOWER => return Some(text.run(after, LOWER | CASELESS | MARK)),
            _ => return after_caseless,
        }
        at = after;
    }
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+`, where `capitalised` has found nothing.
fn capitals(text: Characters, start: usize) -> Option<usize> {
    Some(text.run(start, UPPER)).filter(|&end| end > start)
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n/]*` from `start` on.
fn symbols_and_slashes(text: Characters, start: usize) -> Option<usize> {
    let mut end = symbols(text, start, NEWLINE)?;
    while text.bytes().get(end) == Some(&b'/') {
        end = text.run(end + 1, NEWLINE);
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, scanner: Scanner) -> Vec<&str> {
        let mut out = Vec::new();
        scanner.split(text, || false, |start, end| out.push(&text[start..end]));
        out
    }

    #[test]
    fn every_alternative_of_gpt4_has_its_piece() {
        let two = Scanner::Gpt4 { digits: 2, whole_tail: false };
        assert_eq!(pieces("Hello world", two), ["Hello", " world"]);
        assert_eq!(pieces("I'll we'VE it'ſ 'tis", two), ["I", "'ll", " we", "'VE", " it", "'ſ", " '", "tis"]);
        assert_eq!(pieces("12345 1", two), ["12", "34", "5", " ", "1"]);
        assert_eq!(pieces("12345 \n ", Scanner::Gpt4 { digits: 3, whole_tail: true }), ["123", "45", " \n "]);
        assert_eq!(pieces("a  b\t!\tc", two), ["a", " ", " b", "\t", "!", "\tc"]);
        assert_eq!(pieces("x) {\r\n\n  y", two), ["x", ")", " {\r\n\n", " ", " y"]);
        assert_eq!(pieces("a \n \n  b  ", two), ["a", " \n \n", " ", " b", "  "]);
        assert_eq!(pieces("日本語 ½٣ 😀!", two), ["日本語", " ", "½٣", " 😀!"]);
    }

    #[test]
    fn every_alternative_of_gpt2_has_its_piece() {
        let text = "It's 'LL 1234 (x)\n\n  y";
        let expected = ["It", "'s", " '", "LL", " 1234", " (", "x", ")", "\n\n ", " y"];
        assert_eq!(pieces(text, Scanner::Gpt2), expected);
    }

    #[test]
    fn every_alternative_of_gpt4o_has_its_piece() {
        let text = "camelCase HTTPServer it's I'LL 1234 a/b //\n/ \n x";
        let expected =
            ["camel", "Case", " HTTPServer", " it's", " I'LL", " ", "123", "4", " a", "/b", " //\n/", " \n", " x"];
        assert_eq!(pieces(text, Scanner::Gpt4o), expected);
        assert_eq!(pieces("日A !\u{301}A", Scanner::Gpt4o), ["日", "A", " !\u{301}", "A"]);
    }
}
