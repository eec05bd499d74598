//! Learns merges from word counts: exact greedy BPE, incremental, with most pairs left out of sight.
//!
//! `cells.rs` holds the words and joins tokens in them; `index.rs` knows the pairs that occur often enough to be merged
//! soon and where they are. When those are used up, the words are laid together again, token by token, and indexed with
//! a lower threshold. Guessing a threshold wrong costs time or memory and never changes the result.
//!
//! Promises: at each step the most frequent pair, of equals the smallest ids; all tokens have different bytes; the
//! result does not depend on the order of the words. Does not cover counting.
//!
//! Memory: the words of two bytes and more take a cell for each byte and one for each word. A cell is 4 bytes, and the
//! places of the pairs in it take 12 at the most. To that come some 64 bytes for each pair in sight, usually no more
//! than there are tokens, and 100 bytes for each token. In all, 11 to 13 bytes a cell were measured. More than 2^32
//! cells are an error.

mod cells;
mod index;
mod progress;
#[cfg(test)]
mod slow_twin;
#[cfg(test)]
mod tests;

use crate::count::Counts;
use crate::error::Error;
use cells::{Cells, MOST_TOKENS};
use index::Index;
use progress::Progress;

const MOST_CELLS: usize = u32::MAX as usize; // places are 32 bits
const WORK_PER_MERGE: usize = 1 << 8; // of a merge as such, on the same scale

/// Of pairs that occur equally often, the smallest two ids are merged first. This says which ids the single bytes have
/// in that comparison; merges follow them, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TieOrder {
    /// The values of the bytes.
    Bytes,
    /// The alphabet of Hugging Face's `ByteLevel`: printable bytes of Latin-1 by value, then the others.
    ByteLevel,
}

impl TieOrder {
    /// The bytes in order of their ids.
    fn alphabet(self) -> [u8; 256] {
        let mut alphabet = std::array::from_fn(|byte| byte as u8);
        if self == Self::ByteLevel {
            alphabet.sort_by_key(|byte| !matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF));
        }
        alphabet
    }
}

/// A learnt vocabulary.
pub struct Vocabulary {
    /// Pattern that cuts text into words.
    pub pattern: String,
    /// Bytes of each token by id: the 256 single bytes by value, then the merges in order. No two are equal.
    pub tokens: Vec<Vec<u8>>,
}

/// Learns a vocabulary of `vocab_size` tokens. Calls `check` with the number of tokens so far, many times a second, and
/// stops at its error.
pub fn learn<E: From<Error>>(
    counts: &Counts,
    vocab_size: i64,
    tie_order: TieOrder,
    check: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vocabulary, E> {
    let size = usize::try_from(vocab_size).ok().filter(|&size| size >= 256).ok_or(Error::VocabSize(vocab_size))?;
    if size > MOST_TOKENS {
        return Err(Error::TooLarge(format!("vocab_size={size}: there cannot be more than {MOST_TOKENS} ids")).into());
    }
    if counts.is_empty() {
        return Err(Error::EmptyCorpus.into());
    }
    let alphabet = tie_order.alphabet();
    let merges = learn_merges(counts, size, &alphabet, Thresholds::TUNED, check)?;
    Ok(Vocabulary { pattern: counts.pattern().to_owned(), tokens: spell(&alphabet, &merges) })
}

/// The pairs of ids to merge, in order, if the single bytes have the ids of `alphabet`.
///
/// No two merges give the same bytes. Bytes that become one token were in no merge with bytes around them before, so
/// they alone, and not what surrounds them, decide how they are merged: wherever else they stand so, they become the
/// same token in the same merge.
fn learn_merges<E: From<Error>>(
    counts: &Counts,
    size: usize,
    alphabet: &[u8; 256],
    thresholds: Thresholds,
    mut check: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<(u32, u32)>, E> {
    check(256)?;
    let mut progress = Progress { tokens: 256, work: 0, check };
    let mut cells = Cells::lay_out(counts, alphabet, MOST_CELLS, &mut progress)?;
    let mut index = Index::of_bytes(&cells, thresholds.first(cells.weight_of_all()), &mut progress)?;
    let (mut merges, mut joined) = (Vec::new(), Vec::new());
    while progress.tokens < size {
        if let Some(pair) = index.pop() {
            joined.clear();
            cells.join(pair.tokens(), index.places(&pair), &mut joined, &mut progress)?;
            index.update(pair.tokens(), &joined, &cells, &mut progress)?;
            merges.push(pair.tokens());
            progress.tokens += 1;
            progress.made(WORK_PER_MERGE)?;
        } else if index.threshold() > 1 {
            let threshold = thresholds.next(index.threshold(), progress.tokens, size);
            drop(index); // its memory, before more is taken
            cells.compact(&mut progress)?;
            index = Index::of_tokens(&cells, threshold, &mut progress)?;
        } else {
            return Err(Error::CorpusTooSmall { vocab_size: size, reachable: progress.tokens }.into());
        }
    }
    Ok(merges)
}

/// The bytes of all tokens.
fn spell(alphabet: &[u8; 256], merges: &[(u32, u32)]) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = alphabet.iter().map(|&byte| vec![byte]).collect();
    for &(first, second) in merges {
        tokens.push([&tokens[first as usize][..], &tokens[second as usize]].concat());
    }
    tokens[..256].sort_unstable();
    tokens
}

/// How often a pair must occur to be kept in sight. Tuned for time; half or twice of either is within 5 % of it.
#[derive(Clone, Copy)]
struct Thresholds {
    first_ratio: u64, // all pairs together to the threshold for pairs of bytes
    ratio: u64,       // one threshold to the next, at the most
}

impl Thresholds {
    const TUNED: Self = Self { first_ratio: 4096, ratio: 64 };

    fn first(self, all: u64) -> u64 {
        (all / self.first_ratio).max(1)
    }

    /// The threshold to follow `used`, which all pairs are below. Counts fall a little slower than with the square of
    /// the rank, so the square tells what the last merge will need.
    fn next(self, used: u64, tokens: usize, size: usize) -> u64 {
        let last = u128::from(used) * (tokens as u128).pow(2) / (size as u128).pow(2);
        (last as u64).max(used / self.ratio).min(used / 2).max(1)
    }
}
