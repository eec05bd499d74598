//! Finds where pieces start in 64 bytes of ASCII at once, for the patterns of GPT-2 and the GPT-4 family.
//!
//! One bit a byte and one word a class of characters: which bytes start a piece follows from shifts and sums of these
//! words, without a branch per piece. Promises the same pieces as `scan.rs`, for as far as it says. Does not cover what
//! it cannot see to the end of: bytes beyond ASCII, white space within a line end, whatever touches the end of the block.

pub const BLOCK: usize = 64;

/// Which bytes of a block are in which class; bit i stands for byte i.
#[derive(Default)]
struct Classes {
    letter: u64,
    digit: u64,
    newline: u64, // \r, \n
    white: u64,   // white space, newlines included
    space: u64,
    apostrophe: u64,
    ascii: u64,
}

impl Classes {
    #[inline]
    fn of(block: &[u8; BLOCK]) -> Self {
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        // SAFETY: what the call needs is SSE2, and every x86-64 processor has it.
        return unsafe { sse2::classes(block) };
        #[cfg(not(target_arch = "x86_64"))]
        return words::classes(block);
    }
}

/// Sixteen bytes at once, with instructions that every x86-64 has.
#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi8, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8,
    };

    use super::{BLOCK, Classes};

    /// All ones in each byte from `low` to `high`; moved to the bottom of the signed bytes, one comparison says it.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn within(bytes: __m128i, low: u8, high: u8) -> __m128i {
        let bottom = _mm_add_epi8(bytes, _mm_set1_epi8(0x80_u8.wrapping_sub(low) as i8));
        _mm_cmplt_epi8(bottom, _mm_set1_epi8((0x80 + (high - low) + 1) as i8))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn is(bytes: __m128i, byte: u8) -> __m128i {
        _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub fn classes(block: &[u8; BLOCK]) -> Classes {
        let mut classes = Classes { ascii: !0, ..Classes::default() };
        for (i, sixteen) in block.as_chunks::<16>().0.iter().enumerate() {
            let whole = u128::from_le_bytes(*sixteen);
            let bytes = _mm_set_epi64x((whole >> 64) as i64, whole as i64);
            let put = |class: &mut u64, flags: __m128i| {
                *class |= u64::from(_mm_movemask_epi8(flags) as u16) << (16 * i);
            };
            put(&mut classes.letter, within(_mm_or_si128(bytes, _mm_set1_epi8(0x20)), b'a', b'z'));
            put(&mut classes.digit, within(bytes, b'0', b'9'));
            put(&mut classes.newline, _mm_or_si128(is(bytes, b'\n'), is(bytes, b'\r')));
            let space = is(bytes, b' ');
            put(&mut classes.white, _mm_or_si128(within(bytes, b'\t', b'\r'), space));
            put(&mut classes.space, space);
            put(&mut classes.apostrophe, is(bytes, b'\''));
            classes.ascii ^= u64::from(_mm_movemask_epi8(bytes) as u16) << (16 * i);
        }
        classes
    }
}

/// Eight bytes at once, in a plain 64-bit word: for all other processors.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod words {
    use super::{BLOCK, Classes};

    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;

    /// The high bit of each byte from `low` to `high`, all bytes being below 0x80: no sum carries into the next byte.
    #[inline]
    fn within(bytes: u64, low: u8, high: u8) -> u64 {
        let at_least = |bound: u8| bytes + ONES * u64::from(0x80 - bound);
        at_least(low) & !at_least(high + 1)
    }

    /// The eight high bits of `flags` as one byte: the product gathers them at the top.
    #[inline]
    fn gather(flags: u64) -> u64 {
        ((flags & HIGH) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    }

    #[inline]
    pub fn classes(block: &[u8; BLOCK]) -> Classes {
        let mut classes = Classes::default();
        for (i, eight) in block.as_chunks::<8>().0.iter().enumerate() {
            let (bytes, ascii) = (u64::from_le_bytes(*eight) & !HIGH, !u64::from_le_bytes(*eight));
            let put = |class: &mut u64, flags: u64| *class |= gather(flags & ascii) << (8 * i);
            put(&mut classes.letter, within(bytes | (ONES * 0x20), b'a', b'z'));
            put(&mut classes.digit, within(bytes, b'0', b'9'));
            put(&mut classes.newline, within(bytes, b'\n', b'\n') | within(bytes, b'\r', b'\r'));
            let space = within(bytes, b' ', b' ');
            put(&mut classes.white, within(bytes, b'\t', b'\r') | space);
            put(&mut classes.space, space);
            put(&mut classes.apostrophe, within(bytes, b'\'', b'\''));
            put(&mut classes.ascii, HIGH);
        }
        classes
    }
}

/// Bits below `n`, which is at most 64.
#[inline]
fn below(n: u32) -> u64 {
    if n >= 64 { !0 } else { (1 << n) - 1 }
}

/// The lowest bit and all above it of each run of ones in `runs` that holds a bit of `seeds` as its lowest.
#[inline]
fn runs_from(runs: u64, seeds: u64) -> u64 {
    runs & !runs.wrapping_add(seeds)
}

/// Bit i is set if a piece of GPT-4's starts at byte i of `block`, whose byte 0 starts one. Only the bits up to the
/// highest one set are known: if that is bit 0, not even the first piece ends within sight.
#[inline]
pub fn gpt4_starts(block: &[u8; BLOCK], digits: usize) -> u64 {
    let class = Classes::of(block);
    let seen = class.ascii.trailing_ones(); // bytes from here on are out of sight
    let visible = below(seen);
    let newline = class.newline & visible;
    let white = class.white & visible;
    let (letter, digit) = (class.letter & visible, class.digit & visible);
    let other = visible & !(letter | digit | white);

    let absorbed = runs_from(newline, newline & other << 1); // line ends that belong to the symbols before them
    let blank = white & !newline;
    let gap = white & !absorbed;
    let symbols = other & !(other << 1) & !(class.space << 1);
    let words = letter & !(letter << 1) & !(blank << 1) & !(symbols << 1);
    let gaps = (gap & !(gap << 1)) | (blank & newline << 1) | (blank & !(white >> 1));
    let mut starts = 1 | symbols | words | gaps | digit_groups(digit, digits);

    let mut known = below(start_of_run(white, seen));
    let mixed = blank & newline >> 1; // white space that a line end may take along
    if mixed != 0 {
        known &= below(start_of_run(white, mixed.trailing_zeros() + 1));
    }
    let quotes = class.apostrophe & starts & letter >> 1;
    (starts, known) = with_contractions(block, quotes, (starts, known), (letter, seen), 0x20);
    starts & (known << 1 | 1)
}

/// The same for GPT-2's pieces.
#[inline]
pub fn gpt2_starts(block: &[u8; BLOCK]) -> u64 {
    let class = Classes::of(block);
    let seen = class.ascii.trailing_ones();
    let visible = below(seen);
    let white = class.white & visible;
    let (letter, digit) = (class.letter & visible, class.digit & visible);
    let other = visible & !(letter | digit | white);

    let firsts = |of: u64| of & !(of << 1);
    let visible_starts = (firsts(letter) | firsts(digit) | firsts(other)) & !(class.space << 1);
    let mut starts = 1 | visible_starts | firsts(white) | white & !(white >> 1);

    let mut known = below(start_of_run(white, seen));
    let quotes = class.apostrophe & starts & letter >> 1;
    (starts, known) = with_contractions(block, quotes, (starts, known), (letter, seen), 0);
    starts & (known << 1 | 1)
}

/// Where the run of ones in `runs` begins that ends just below bit `end`; `end` if there is none.
#[inline]
fn start_of_run(runs: u64, end: u32) -> u32 {
    64 - (!runs & below(end)).leading_zeros()
}

/// First bit of each group of at most `size` digits.
#[inline]
fn digit_groups(digit: u64, size: usize) -> u64 {
    let full = (1..size).fold(digit, |full, before| full & digit << before); // `size` digits end here
    let mut found = digit & !(digit << 1);
    let mut next = found << size & full;
    while next != 0 {
        found |= next;
        next = next << size & full;
    }
    found
}

/// What starts and what is known, once the contractions at `quotes` are pieces: none starts within them, and one after
/// them if a letter follows.
#[inline]
fn with_contractions(
    block: &[u8; BLOCK],
    mut quotes: u64,
    (mut starts, mut known): (u64, u64),
    (letter, seen): (u64, u32),
    either_case: u8,
) -> (u64, u64) {
    while quotes != 0 {
        let quote = quotes.trailing_zeros();
        quotes &= quotes - 1;
        match contraction(block, quote as usize, seen as usize, either_case) {
            Some(0) => {}
            Some(end) => starts = starts & !(2 << quote) | end & letter,
            None => known &= below(quote),
        }
    }
    (starts, known)
}

/// Where the contraction that starts at `quote`, before a letter, ends: as a bit; no bit if it is none, `None` if that
/// is out of sight. Bits of `either_case` may be missing in its letters.
#[inline]
fn contraction(block: &[u8; BLOCK], quote: usize, seen: usize, either_case: u8) -> Option<u64> {
    if quote + 3 >= seen {
        return None;
    }
    let length = match (block[quote + 1] | either_case, block[quote + 2] | either_case) {
        (b's' | b'd' | b'm' | b't', _) => 2,
        (b'l', b'l') | (b'v' | b'r', b'e') => 3,
        _ => return Some(0),
    };
    Some(1 << (quote + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(classes: impl Fn(&[u8; BLOCK]) -> Classes) {
        for first in (0..=255_u8).step_by(BLOCK) {
            let block: [u8; BLOCK] = std::array::from_fn(|i| first + i as u8);
            let class = classes(&block);
            for (i, byte) in block.iter().enumerate() {
                let is = |mask: u64| mask >> i & 1 == 1;
                assert_eq!(is(class.ascii), byte.is_ascii(), "{byte:#x}");
                assert_eq!(is(class.letter), byte.is_ascii_alphabetic(), "{byte:#x}");
                assert_eq!(is(class.digit), byte.is_ascii_digit(), "{byte:#x}");
                assert_eq!(is(class.newline), matches!(byte, b'\r' | b'\n'), "{byte:#x}");
                assert_eq!(is(class.white), matches!(byte, b' ' | b'\t'..=b'\r'), "{byte:#x}");
                assert_eq!(is(class.space), *byte == b' ', "{byte:#x}");
                assert_eq!(is(class.apostrophe), *byte == b'\'', "{byte:#x}");
            }
        }
    }

    #[test]
    fn each_byte_has_the_class_that_the_standard_library_gives_it() {
        check(Classes::of);
        check(words::classes);
    }
}
