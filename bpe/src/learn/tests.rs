//! Learning against its slow twin, on words of few letters, where pairs overlap and tie all the time.

use std::collections::BTreeSet;

use super::slow_twin::slow_learn;
use super::*;
use crate::{Counter, GPT4_PATTERN};

const LETTERS: [&str; 6] = ["a", "b", "~", "\n", "é", "è"];
/// Everything in sight at once; the threshold halved each time; and between the two.
const THRESHOLDS: [Thresholds; 4] = [
    Thresholds { first_ratio: u64::MAX, ratio: 1 },
    Thresholds { first_ratio: 1, ratio: 1 },
    Thresholds { first_ratio: 8, ratio: 4 },
    Thresholds::TUNED,
];

fn counts(text: &str, pattern: &str) -> Counts {
    let mut counter = Counter::new(pattern, Some(1), None).unwrap();
    counter.add(&[text], || Ok::<(), Error>(())).unwrap();
    counter.finish(|| Ok::<(), Error>(())).unwrap()
}

fn merges(text: &str, number: i64) -> Vec<String> {
    let learnt = learn(&counts(text, GPT4_PATTERN), 256 + number, TieOrder::Bytes, |_| Ok::<(), Error>(())).unwrap();
    learnt.tokens[256..].iter().map(|token| String::from_utf8_lossy(token).into_owned()).collect()
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (self.0 >> 33) % bound
    }

    /// Words of few letters; some occur many times.
    fn words(&mut self) -> Counts {
        let (words, letters, length) = (1 + self.below(24), 1 + self.below(6), 1 + self.below(16));
        let mut text = String::new();
        for _ in 0..words {
            let word: String =
                (0..=self.below(length)).map(|_| LETTERS[self.below(letters) as usize]).chain([" "]).collect();
            let times = if self.below(4) == 0 { 1 + self.below(300) } else { 1 + self.below(4) };
            text.push_str(&word.repeat(times as usize));
        }
        counts(&text, "[^ ]+| ")
    }
}

#[test]
fn merges_are_those_of_the_slow_twin_whatever_the_thresholds() {
    let mut random = Random(1);
    for trial in 0..400 {
        let words = random.words();
        let tie_order = if trial % 2 == 0 { TieOrder::Bytes } else { TieOrder::ByteLevel };
        let all = slow_learn(words.sorted(), &tie_order.alphabet(), usize::MAX);
        let alphabet = tie_order.alphabet();
        for thresholds in THRESHOLDS {
            for size in [256 + random.below(all.len() as u64 - 255) as usize, all.len()] {
                let merges = learn_merges(&words, size, &alphabet, thresholds, |_| Ok::<(), Error>(())).unwrap();
                assert_eq!(spell(&alphabet, &merges), all[..size], "trial {trial}");
            }
            let exhausted = learn_merges(&words, all.len() + 1, &alphabet, thresholds, |_| Ok(()));
            assert!(matches!(exhausted, Err(Error::CorpusTooSmall { reachable, .. }) if reachable == all.len()));
        }
    }
}

#[test]
fn no_two_tokens_have_the_same_bytes() {
    let mut random = Random(2);
    for trial in 0..500 {
        let tokens = slow_learn(random.words().sorted(), &TieOrder::Bytes.alphabet(), usize::MAX);
        assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), tokens.len(), "trial {trial}");
    }
}

#[test]
fn the_most_frequent_pair_comes_first_and_of_equals_the_smallest_ids() {
    assert_eq!(merges("low lower lowest new newer newest", 6), ["we", " n", "lo", " ne", " lo", "st"]);
}

#[test]
fn the_byte_level_alphabet_puts_the_printable_bytes_first() {
    let words = counts("\ta ab", "[^ ]+| ");
    let first = |tie_order| learn(&words, 257, tie_order, |_| Ok::<(), Error>(())).unwrap().tokens;
    assert_eq!(first(TieOrder::Bytes)[256], b"\ta");
    assert_eq!(first(TieOrder::ByteLevel)[256], b"ab");
    let single: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    assert_eq!(first(TieOrder::ByteLevel)[..256], single);
    let ends: Vec<u8> = [0, 93, 94, 105, 106, 187, 188, 255].map(|id| TieOrder::ByteLevel.alphabet()[id]).to_vec();
    assert_eq!(ends, [0x21, 0x7E, 0xA1, 0xAC, 0xAE, 0xFF, 0x00, 0xAD]);
}

#[test]
fn pairs_that_overlap_themselves_are_counted_as_they_stand() {
    assert_eq!(merges("aaaaa", 3), ["aa", "aaa", "aaaaa"]);
    assert_eq!(merges("abababa", 3), ["ab", "abab", "aba"]);
}

#[test]
fn words_beyond_32_bit_places_are_refused() {
    let (words, alphabet) = (counts("ab cd cd", "[^ ]+| "), TieOrder::Bytes.alphabet());
    let mut progress = Progress { tokens: 256, work: 0, check: |_| Ok(()) };
    let mut lay_out = |most_cells| Cells::lay_out(&words, &alphabet, most_cells, &mut progress);
    assert!(matches!(lay_out(128), Err(Error::TooLarge(_))));
    assert!(lay_out(129).is_ok()); // a block for each of two counts, and the last boundary
}

#[test]
fn ids_beyond_31_bits_are_refused() {
    let learnt = learn(&counts("some text", GPT4_PATTERN), 1 << 31, TieOrder::Bytes, |_| Ok(()));
    assert!(matches!(learnt, Err(Error::TooLarge(_))));
}

#[test]
fn checks_are_told_the_number_of_tokens_and_their_error_ends_the_work() {
    let text: String = (0..20_000).map(|number| format!("{number:x} ")).collect();
    let (words, mut told) = (counts(&text, "[^ ]+| "), Vec::new());
    let check = |tokens| {
        told.push(tokens);
        if tokens < 3000 { Ok(()) } else { Err(Error::EmptyCorpus) }
    };
    assert!(matches!(learn(&words, 1 << 14, TieOrder::Bytes, check), Err(Error::EmptyCorpus)));
    assert!(told[0] == 256 && told.is_sorted());
    assert!(told.last().is_some_and(|&tokens| (3000..7200).contains(&tokens)));
}
