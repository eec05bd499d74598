//! Byte-pair encoding of one piece: the adjacent pair whose joined bytes have the lowest rank is merged first, the
//! leftmost of equals, until no pair is a token.
//!
//! Promises no allocation for pieces of up to 64 bytes, and O(n log n) steps for longer ones. Does not look whether the
//! piece itself is a token: merges need not reach it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::ranks::{NONE, Ranks};
use crate::key::{INLINE, Key, pack};

const POSITION_BITS: u32 = 6;
const SMALL: usize = 1 << POSITION_BITS;
const NO_PAIR: u32 = u32::MAX; // above every rank with its position, for ranks have 26 bits at the most
const HEAP_POSITION_BITS: u32 = 38;
const BETWEEN_LOOKS: usize = 1 << 16; // merges, more than any piece has that the cache remembers
const MOST_KEPT: usize = 1 << 16; // nodes of a long piece kept for the next one

/// Merges pieces; holds the memory for long ones.
#[derive(Default)]
pub(crate) struct Merger {
    nodes: Vec<Node>,
    heap: BinaryHeap<Reverse<u64>>,
}

/// The token that starts at a byte of a long piece.
#[derive(Clone, Copy)]
struct Node {
    previous: usize,
    next: usize,
    token: u32,
    pair: u32, // rank of this token joined with the next; `NONE` also where a token has been swallowed
}

impl Merger {
    /// Appends the tokens of `piece`, which is not empty; not all merged if the piece is very long and `give_up` is so.
    pub fn merge(&mut self, ranks: &Ranks, piece: &[u8], give_up: impl Fn() -> bool, out: &mut Vec<u32>) {
        if piece.len() <= INLINE {
            let [low, high] = pack(piece);
            let word = u128::from(high) << 64 | u128::from(low);
            merge_small::<{ INLINE + 1 }>(ranks, piece, |start, end| ranks.packed(part(word, start, end)), out);
        } else if piece.len() <= SMALL {
            merge_small::<SMALL>(ranks, piece, |start, end| ranks.of(piece, start, end), out);
        } else {
            self.merge_long(ranks, piece, give_up, out);
        }
    }

    fn merge_long(&mut self, ranks: &Ranks, piece: &[u8], give_up: impl Fn() -> bool, out: &mut Vec<u32>) {
        let end = piece.len();
        let pair = |at: usize| piece.get(at + 1).map_or(NONE, |next| ranks.pair(piece[at], *next));
        let node = |at: usize| Node {
            previous: at.wrapping_sub(1),
            next: at + 1,
            token: ranks.byte(piece[at]),
            pair: pair(at),
        };
        self.nodes.clear();
        self.nodes.extend((0..end).map(node));
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        entries.clear();
        entries.extend(self.nodes.iter().enumerate().filter(|(_, node)| node.pair != NONE).map(entry));
        self.heap = BinaryHeap::from(entries);
        let mut merges = 0;
        while let Some(Reverse(top)) = self.heap.pop() {
            merges += 1;
            if merges % BETWEEN_LOOKS == 0 && give_up() {
                break;
            }
            let (rank, at) = ((top >> HEAP_POSITION_BITS) as u32, (top & ((1 << HEAP_POSITION_BITS) - 1)) as usize);
            if self.nodes[at].pair == rank {
                self.join(ranks, piece, at);
            }
        }
        let mut at = 0;
        while at < end {
            out.push(self.nodes[at].token);
            at = self.nodes[at].next;
        }
        if self.nodes.len() > MOST_KEPT {
            *self = Self::default();
        }
    }

    /// Merges the token at `at` with the next one.
    fn join(&mut self, ranks: &Ranks, piece: &[u8], at: usize) {
        let Node { previous, next, pair, .. } = self.nodes[at];
        let after = self.nodes[next].next;
        self.nodes[next].pair = NONE;
        self.nodes[at].token = pair;
        self.nodes[at].next = after;
        if previous < at {
            self.renew(ranks, piece, previous, after);
        }
        if after < piece.len() {
            self.nodes[after].previous = at;
            self.renew(ranks, piece, at, self.nodes[after].next);
        } else {
            self.nodes[at].pair = NONE;
        }
    }

    /// The pair that starts at `first` ends at `end` from now on.
    fn renew(&mut self, ranks: &Ranks, piece: &[u8], first: usize, end: usize) {
        let pair = ranks.of(piece, first, end);
        self.nodes[first].pair = pair;
        if pair != NONE {
            self.heap.push(entry((first, &self.nodes[first])));
        }
    }
}

fn entry((at, node): (usize, &Node)) -> Reverse<u64> {
    Reverse(u64::from(node.pair) << HEAP_POSITION_BITS | at as u64)
}

/// The key of bytes `start..end` of a packed word.
#[inline]
fn part(word: u128, start: usize, end: usize) -> Key {
    let kept = (word >> (8 * start)) & ((1 << (8 * (end - start))) - 1);
    [kept as u64, (kept >> 64) as u64 | ((end - start) as u64) << 56]
}

/// Merges up to `N` bytes, at most 64. `rank` is asked for the ranks of three and more bytes of the piece.
///
/// A bit per byte says where tokens start; at each start lies the rank of the pair that starts there, with the position
/// below it, so that the least of them is the leftmost pair of the lowest rank.
#[inline]
fn merge_small<const N: usize>(ranks: &Ranks, piece: &[u8], rank: impl Fn(usize, usize) -> u32, out: &mut Vec<u32>) {
    let n = piece.len();
    let mut pairs = [NO_PAIR; N];
    let mut tokens = [0; N];
    let pair = |rank: u32, at: usize| if rank == NONE { NO_PAIR } else { rank << POSITION_BITS | at as u32 };
    for (at, bytes) in piece.windows(2).enumerate() {
        pairs[at] = pair(ranks.pair(bytes[0], bytes[1]), at);
    }
    for (token, byte) in tokens.iter_mut().zip(piece) {
        *token = ranks.byte(*byte);
    }
    let mut starts = u64::MAX >> (64 - n);
    let scanned = n.next_multiple_of(16).min(N);
    loop {
        let least = pairs[..scanned].iter().fold(NO_PAIR, |least, pair| least.min(*pair));
        if least == NO_PAIR {
            break;
        }
        let at = least as usize % SMALL;
        let above = starts & (u64::MAX << at) & !(1 << at);
        let next = above.trailing_zeros();
        let later = above & (above - 1);
        let after = (later.trailing_zeros() as usize).min(n);
        starts &= !(1 << next);
        pairs[next as usize % N] = NO_PAIR;
        tokens[at % N] = least >> POSITION_BITS;
        pairs[at % N] = match later {
            0 => NO_PAIR,
            _ => {
                let end = ((later & (later - 1)).trailing_zeros() as usize).min(n);
                pair(rank(at, end), at)
            }
        };
        let below = starts & !(u64::MAX << at);
        if below != 0 {
            let previous = 63 - below.leading_zeros() as usize;
            pairs[previous % N] = pair(rank(previous, after), previous);
        }
    }
    while starts != 0 {
        out.push(tokens[starts.trailing_zeros() as usize % N]);
        starts &= starts - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As one would explain it: look at all pairs, merge the best, start again.
    fn slow(tokens: &[Vec<u8>], piece: &[u8]) -> Vec<u32> {
        let rank = |bytes: &[u8]| tokens.iter().position(|token| token == bytes);
        let mut parts: Vec<Vec<u8>> = piece.iter().map(|byte| vec![*byte]).collect();
        let best = |parts: &[Vec<u8>]| {
            let pairs = parts.windows(2).enumerate();
            pairs.filter_map(|(at, pair)| Some((rank(&pair.concat())?, at))).min()
        };
        while let Some((_, at)) = best(&parts) {
            let right = parts.remove(at + 1);
            parts[at].extend(right);
        }
        parts.iter().map(|part| rank(part).unwrap() as u32).collect()
    }

    fn merged(ranks: &Ranks, piece: &[u8]) -> Vec<u32> {
        let mut out = Vec::new();
        Merger::default().merge(ranks, piece, || false, &mut out);
        out
    }

    fn random_numbers(mut seed: u64) -> impl FnMut(usize) -> usize {
        move |below| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        }
    }

    /// The single bytes in any order among tokens of few letters, which merges may or may not reach.
    fn random_tokens(next: &mut impl FnMut(usize) -> usize) -> Vec<Vec<u8>> {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        for _ in 0..60 {
            let most = [2, 4, 24][next(3)];
            let length = 2 + next(most);
            let token = (0..length).map(|_| b'a' + next(3) as u8).collect();
            if !tokens.contains(&token) {
                tokens.insert(next(tokens.len() + 1), token);
            }
        }
        tokens
    }

    #[test]
    fn pieces_of_every_length_are_merged_as_the_slow_twin_merges_them() {
        let mut next = random_numbers(1);
        for _ in 0..40 {
            let tokens = random_tokens(&mut next);
            let ranks = Ranks::new(tokens.clone()).unwrap();
            for length in (1..=70).chain([100, 130]) {
                let letters = 1 + next(3);
                let piece: Vec<u8> = (0..length).map(|_| b'a' + next(letters) as u8).collect();
                assert_eq!(merged(&ranks, &piece), slow(&tokens, &piece), "{piece:?}");
            }
        }
    }

    #[test]
    fn long_runs_take_a_moment_and_not_a_day() {
        let mut next = random_numbers(2);
        let mut tokens = random_tokens(&mut next);
        let runs = (1..8).map(|power| b"a".repeat(1 << power)).filter(|run| !tokens.contains(run)).collect::<Vec<_>>();
        tokens.extend(runs);
        let ranks = Ranks::new(tokens.clone()).unwrap();
        let length = 1 << 20; // quadratic would be 10^12 steps
        let same = vec![b'a'; length];
        let random: Vec<u8> = (0..length).map(|_| b'a' + next(3) as u8).collect();
        for piece in [same, random] {
            let ids = merged(&ranks, &piece);
            assert_eq!(ids.iter().flat_map(|id| tokens[*id as usize].clone()).collect::<Vec<u8>>(), piece);
        }
    }
}
