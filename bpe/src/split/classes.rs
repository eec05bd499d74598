//! What the split patterns of the GPT family tell apart: one byte for every code point, a bit for each class.
//!
//! Unicode classes come from `regex-syntax`, the tables that the regex engine itself uses (Unicode 16, as in tiktoken).
//! Does not cover any pattern.

use std::sync::LazyLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// A class, or several of them.
pub type Class = u8;

pub const UPPER: Class = 1; // \p{Lu}\p{Lt}
pub const LOWER: Class = 2; // \p{Ll}
pub const CASELESS: Class = 4; // \p{Lm}\p{Lo}
pub const LETTER: Class = UPPER | LOWER | CASELESS; // \p{L}
pub const NUMBER: Class = 8; // \p{N}
pub const NEWLINE: Class = 16; // [\r\n]
pub const SPACE: Class = 32; // the rest of \s
pub const MARK: Class = 64; // \p{M}
pub const SYMBOL: Class = 128; // everything else
pub const OTHER: Class = MARK | SYMBOL; // [^\s\p{L}\p{N}]

/// Flat: only the pages of the scripts in use are ever touched.
static CLASSES: LazyLock<Box<[Class]>> = LazyLock::new(|| {
    let mut classes = vec![SYMBOL; 0x11_0000].into_boxed_slice();
    for (property, class) in [
        (r"[\p{Lu}\p{Lt}]", UPPER),
        (r"\p{Ll}", LOWER),
        (r"[\p{Lm}\p{Lo}]", CASELESS),
        (r"\p{N}", NUMBER),
        (r"\p{M}", MARK),
        (r"\s", SPACE),
        (r"[\r\n]", NEWLINE),
    ] {
        let hir = regex_syntax::parse(property).expect("Unicode properties that regex-syntax knows");
        let HirKind::Class(HirClass::Unicode(ranges)) = hir.kind() else {
            unreachable!("a Unicode property is a class, not {hir:?}");
        };
        for range in ranges.ranges() {
            classes[range.start() as usize..=range.end() as usize].fill(class);
        }
    }
    classes
});

/// A text, looked at one character after the other.
#[derive(Clone, Copy)]
pub struct Characters<'t> {
    text: &'t [u8], // whole UTF-8
    classes: &'static [Class],
}

impl<'t> Characters<'t> {
    #[inline]
    pub fn of(text: &'t str) -> Self {
        Self { text: text.as_bytes(), classes: &CLASSES }
    }

    #[inline]
    pub fn bytes(self) -> &'t [u8] {
        self.text
    }

    /// Class of the character at byte `at`, and where the next one starts. No class (0) at the end of the text.
    #[inline]
    pub fn look(self, at: usize) -> (Class, usize) {
        let Some(&lead) = self.text.get(at) else {
            return (0, at);
        };
        if lead < 0x80 {
            return (self.classes[usize::from(lead)], at + 1);
        }
        let tail = |i: usize| usize::from(self.text[at + i] & 0x3F);
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

    /// Where the run of characters of `class` that holds byte `at` ends; `at` if there is none.
    #[inline]
    pub fn run(self, mut at: usize, class: Class) -> usize {
        loop {
            let (next, after) = self.look(at);
            if next & class == 0 {
                return at;
            }
            at = after;
        }
    }

    /// `\p{N}{1,most}`, one numeral in.
    pub fn numerals(self, mut at: usize, most: usize) -> usize {
        for _ in 1..most {
            let (next, after) = self.look(at);
            if next != NUMBER {
                break;
            }
            at = after;
        }
        at
    }

    /// `\s*[\r\n]|\s+(?!\S)|\s+` from `start` on: up to the last of the `line_ends`; else all of it, less the last
    /// character if text follows.
    pub fn white_space(self, start: usize, line_ends: Class) -> usize {
        let (mut at, mut last, mut line_end) = (start, start, None);
        loop {
            let (class, after) = self.look(at);
            if class & (SPACE | NEWLINE) == 0 {
                let all = class == 0 || last == start;
                return line_end.unwrap_or(if all { at } else { last });
            }
            if class & line_ends != 0 {
                line_end = Some(after);
            }
            (last, at) = (at, after);
        }
    }

    /// Length of `(?i:[sdmt]|ll|ve|re)` at byte `at`. U+017F, the long s, is an `s` to a regex that ignores case.
    pub fn contraction(self, at: usize, ignore_case: bool) -> Option<usize> {
        let letter =
            |i: usize| self.text.get(at + i).map(|byte| if ignore_case { byte.to_ascii_lowercase() } else { *byte });
        match (letter(0)?, letter(1)) {
            (b's' | b'd' | b'm' | b't', _) => Some(1),
            (b'l', Some(b'l')) | (b'v' | b'r', Some(b'e')) => Some(2),
            (0xC5, Some(0xBF)) if ignore_case => Some(2),
            _ => None,
        }
    }
}
