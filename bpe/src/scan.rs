//! A hand-written splitter for the GPT-4 family of patterns (`split::GPT4_PATTERN` with any digit group from 1 to 9).
//!
//! Promises the same pieces as a backtracking regex engine gives, in one pass and without going back more than one
//! character, except over white space. Unicode classes come from `regex-syntax`, the tables that the regex engine
//! itself uses (Unicode 16, as in tiktoken). Does not cover any other pattern.

use std::sync::LazyLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

use crate::blocks;

/// All that the pattern distinguishes. `End` is what follows the last character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Letter,
    Number,
    Newline,
    Space,
    Other,
    End,
}

/// The class of every code point, flat: only the pages of the scripts in use are ever touched.
static CLASSES: LazyLock<Box<[Class]>> = LazyLock::new(|| {
    let mut classes = vec![Class::Other; 0x11_0000].into_boxed_slice();
    for (property, class) in [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)] {
        let hir = regex_syntax::parse(property).expect("a Unicode property that regex-syntax knows");
        let HirKind::Class(HirClass::Unicode(ranges)) = hir.kind() else {
            unreachable!("a Unicode property is a class, not {hir:?}");
        };
        for range in ranges.ranges() {
            classes[range.start() as usize..=range.end() as usize].fill(class);
        }
    }
    classes[usize::from(b'\r')] = Class::Newline;
    classes[usize::from(b'\n')] = Class::Newline;
    classes
});

/// Splits text as the GPT-4 pattern does, with groups of at most `digits` numerals.
#[derive(Clone, Copy)]
pub struct Scanner {
    digits: usize,
    classes: &'static [Class],
}

impl Scanner {
    pub fn new(digits: usize) -> Self {
        Self { digits, classes: &CLASSES }
    }

    /// Calls `each` with where each piece of `text` starts and ends, in order.
    #[inline]
    pub fn split(&self, text: &str, mut each: impl FnMut(usize, usize)) {
        let (text, mut start) = (text.as_bytes(), 0);
        while start < text.len() {
            let mut ends = self.ends_in_sight(text, start);
            if ends == 0 {
                let end = self.piece_end(text, start);
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

    /// Bit i is set if a piece ends `i` bytes after `start`, for all pieces that `blocks` can see.
    #[inline]
    fn ends_in_sight(&self, text: &[u8], start: usize) -> u64 {
        match text[start..].first_chunk() {
            Some(block) if block[..8].is_ascii() => blocks::starts(block, self.digits) & !1,
            _ => 0,
        }
    }

    /// End of the piece of `text` (whole UTF-8) that starts at byte `start`.
    #[inline]
    pub fn piece_end(&self, text: &[u8], start: usize) -> usize {
        let (class, after) = self.look(text, start);
        match class {
            Class::Letter => self.run(text, after, Class::Letter),
            Class::Number => self.numerals(text, after),
            Class::Other => self.after_other(text, start, after),
            Class::Space => self.after_space(text, start, after),
            Class::Newline | Class::End => self.white_space(text, start),
        }
    }

    /// Class of the character at byte `at`, and where the next one starts.
    #[inline]
    fn look(&self, text: &[u8], at: usize) -> (Class, usize) {
        let Some(&lead) = text.get(at) else {
            return (Class::End, at);
        };
        if lead < 0x80 {
            return (self.classes[usize::from(lead)], at + 1);
        }
        let tail = |i: usize| usize::from(text[at + i] & 0x3F);
        let lead = usize::from(lead);
        let (code, length) = if lead < 0xE0 {
            ((lead & 0x1F) << 6 | tail(1), 2)
        } else if lead < 0xF0 {
            ((lead & 0x0F) << 12 | tail(1) << 6 | tail(2), 3)
        } else {
            ((lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4)
        };
        (self.classes[code], at + length)
    }

    #[inline]
    fn run(&self, text: &[u8], mut at: usize, class: Class) -> usize {
        loop {
            let (next, after) = self.look(text, at);
            if next != class {
                return at;
            }
            at = after;
        }
    }

    /// `\p{N}{1,digits}`, one numeral in.
    fn numerals(&self, text: &[u8], mut at: usize) -> usize {
        for _ in 1..self.digits {
            let (next, after) = self.look(text, at);
            if next != Class::Number {
                break;
            }
            at = after;
        }
        at
    }

    /// A contraction, or one character before letters, or a run of symbols.
    fn after_other(&self, text: &[u8], start: usize, after: usize) -> usize {
        if text[start] == b'\''
            && let Some(length) = contraction(&text[after..])
        {
            return after + length;
        }
        match self.look(text, after) {
            (Class::Letter, end) => self.run(text, end, Class::Letter),
            _ => self.symbols(text, after),
        }
    }

    /// One white-space character before letters, a space before symbols, or just white space.
    fn after_space(&self, text: &[u8], start: usize, after: usize) -> usize {
        match self.look(text, after) {
            (Class::Letter, end) => self.run(text, end, Class::Letter),
            (Class::Other, end) if text[start] == b' ' => self.symbols(text, end),
            _ => self.white_space(text, start),
        }
    }

    /// `[^\s\p{L}\p{N}]++[\r\n]*`, one symbol in.
    fn symbols(&self, text: &[u8], at: usize) -> usize {
        let end = self.run(text, at, Class::Other);
        self.run(text, end, Class::Newline)
    }

    /// `\s*[\r\n]|\s+(?!\S)|\s+`: up to the last line end; else all of it, less the last character if text follows.
    fn white_space(&self, text: &[u8], start: usize) -> usize {
        let (mut at, mut last, mut line_end) = (start, start, None);
        loop {
            let (class, after) = self.look(text, at);
            match class {
                Class::Newline => line_end = Some(after),
                Class::Space => {}
                Class::End => return line_end.unwrap_or(at),
                _ => break,
            }
            (last, at) = (at, after);
        }
        line_end.unwrap_or(if last > start { last } else { at })
    }
}

/// Length of `(?i:[sdmt]|ll|ve|re)` at the start of `text`. U+017F, the long s, is an `s` to a regex that ignores case.
fn contraction(text: &[u8]) -> Option<usize> {
    let lower = |i: usize| text.get(i).map(u8::to_ascii_lowercase);
    match (lower(0)?, lower(1)) {
        (b's' | b'd' | b'm' | b't', _) => Some(1),
        (b'l', Some(b'l')) | (b'v' | b'r', Some(b'e')) => Some(2),
        (0xC5, Some(0xBF)) => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str, digits: usize) -> Vec<&str> {
        let mut out = Vec::new();
        Scanner::new(digits).split(text, |start, end| out.push(&text[start..end]));
        out
    }

    #[test]
    fn every_alternative_of_the_pattern_has_its_piece() {
        assert_eq!(pieces("Hello world", 2), ["Hello", " world"]);
        assert_eq!(pieces("I'll we'VE it'ſ 'tis", 2), ["I", "'ll", " we", "'VE", " it", "'ſ", " '", "tis"]);
        assert_eq!(pieces("12345 1", 2), ["12", "34", "5", " ", "1"]);
        assert_eq!(pieces("12345", 3), ["123", "45"]);
        assert_eq!(pieces("a  b\t!\tc", 2), ["a", " ", " b", "\t", "!", "\tc"]);
        assert_eq!(pieces("x) {\r\n\n  y", 2), ["x", ")", " {\r\n\n", " ", " y"]);
        assert_eq!(pieces("a \n \n  b  ", 2), ["a", " \n \n", " ", " b", "  "]);
        assert_eq!(pieces("日本語 ½٣ 😀!", 2), ["日本語", " ", "½٣", " 😀!"]);
    }
}
