//! Learns merges from word counts: exact greedy BPE, incremental.
//!
//! All distinct words lie end to end in one array of cells, one per byte. A token's id stands in the first and the last
//! cell of its span, so neighbours are found by adding or subtracting a length, and a merge moves nothing. Each pair of
//! adjacent tokens knows its count and the places where it was seen; a place that no longer holds the pair is skipped
//! when visited. A heap orders pairs by a count that may be out of date, which is sound because the count of a pair
//! never grows once the merge that made its younger token is done.
//!
//! Promises: at each step the most frequent pair, of equals the smallest ids; the result does not depend on the order
//! of the words. Does not cover counting.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use crate::counts::Counts;
use crate::error::Error;

const BOUNDARY: u32 = u32::MAX; // a cell between two words
const INSIDE: u32 = u32::MAX - 1; // a cell within a token, neither first nor last
const MOST_CELLS: usize = u32::MAX as usize; // places are 32 bits
const MERGES_PER_CHECK: usize = 256;

/// A learnt vocabulary.
pub struct Vocabulary {
    /// Pattern that cuts text into words.
    pub pattern: String,
    /// Bytes of each token by id: the 256 single bytes, then the merges in order.
    pub tokens: Vec<Vec<u8>>,
}

/// Learns a vocabulary of `vocab_size` tokens. Calls `check` with the number of tokens so far every so many merges and
/// stops at its error.
pub fn learn<E: From<Error>>(
    counts: &Counts,
    vocab_size: i64,
    mut check: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vocabulary, E> {
    let size = usize::try_from(vocab_size).ok().filter(|&size| size >= 256).ok_or(Error::VocabSize(vocab_size))?;
    if counts.is_empty() {
        return Err(Error::EmptyCorpus.into());
    }
    let mut learner = Learner::new(Cells::lay_out(counts, MOST_CELLS)?);
    while learner.tokens.len() < size {
        if learner.tokens.len().is_multiple_of(MERGES_PER_CHECK) {
            check(learner.tokens.len())?;
        }
        if !learner.merge_best() {
            return Err(Error::CorpusTooSmall { vocab_size: size, reachable: learner.tokens.len() }.into());
        }
    }
    Ok(Vocabulary { pattern: counts.pattern().to_owned(), tokens: learner.tokens })
}

#[derive(Clone, Copy)]
struct Cell {
    token: u32,
    weight: u32, // index of the word's count: there are few distinct counts, so they stay in the cache
}

/// The distinct words, end to end, a boundary before, between and after them.
struct Cells {
    cells: Vec<Cell>,
    weights: Vec<u64>,
}

impl Cells {
    fn lay_out(counts: &Counts, most_cells: usize) -> Result<Self, Error> {
        let boundary = Cell { token: BOUNDARY, weight: 0 };
        let (mut cells, mut weights) = (vec![boundary], Vec::new());
        let mut index_of = FxHashMap::default();
        counts.for_each(|word, count| {
            if word.len() < 2 || cells.len() > most_cells {
                return;
            }
            let weight = *index_of.entry(count).or_insert_with(|| {
                weights.push(count);
                weights.len() as u32 - 1
            });
            cells.extend(word.iter().map(|&byte| Cell { token: u32::from(byte), weight }));
            cells.push(boundary);
        });
        if cells.len() > most_cells {
            return Err(Error::TooLarge(format!("the distinct words take more than {most_cells} bytes")));
        }
        Ok(Self { cells, weights })
    }
}

/// Two adjacent tokens; packed, so that pairs compare as numbers.
type Pair = u64;

fn pack(first: u32, second: u32) -> Pair {
    u64::from(first) << 32 | u64::from(second)
}

fn unpack(pair: Pair) -> (u32, u32) {
    ((pair >> 32) as u32, pair as u32)
}

/// How often a pair occurs, and which part of `Learner::places` says where.
struct Occurrences {
    count: u64,
    start: usize,
    length: usize,
}

struct Learner {
    cells: Vec<Cell>,
    weights: Vec<u64>,
    tokens: Vec<Vec<u8>>,
    places: Vec<u32>, // where a pair starts, ascending within each pair
    pairs: FxHashMap<Pair, Occurrences>,
    heap: BinaryHeap<(u64, Reverse<Pair>)>,
    left: Neighbours,
    right: Neighbours,
}

impl Learner {
    fn new(words: Cells) -> Self {
        let mut learner = Self {
            cells: words.cells,
            weights: words.weights,
            tokens: (0..=u8::MAX).map(|byte| vec![byte]).collect(),
            places: Vec::new(),
            pairs: FxHashMap::default(),
            heap: BinaryHeap::new(),
            left: Neighbours::new(256),
            right: Neighbours::new(256),
        };
        learner.index_bytes();
        learner
    }

    /// Finds all pairs of bytes, by a counting sort over the 65,536 there can be.
    fn index_bytes(&mut self) {
        let mut pairs = Neighbours::new(1 << 16);
        for (place, two) in self.cells.windows(2).enumerate() {
            if two[0].token != BOUNDARY && two[1].token != BOUNDARY {
                let pair = two[0].token << 8 | two[1].token;
                pairs.saw(pair, place as u32, self.weights[two[0].weight as usize]);
            }
        }
        for (pair, found) in pairs.drain(&mut self.places) {
            self.insert(pack(pair >> 8, pair & 0xFF), found);
        }
    }

    fn insert(&mut self, pair: Pair, found: Occurrences) {
        self.heap.push((found.count, Reverse(pair)));
        self.pairs.insert(pair, found);
    }

    /// Makes one token of the best pair; false if there is no pair left.
    fn merge_best(&mut self) -> bool {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let current = self.pairs[&pair].count;
            if current == count {
                self.merge(pair);
                return true;
            }
            if current > 0 {
                self.heap.push((current, Reverse(pair)));
            }
        }
        false
    }

    fn merge(&mut self, pair: Pair) {
        let (first, second) = unpack(pair);
        let token = self.tokens.len() as u32;
        self.left.grow();
        self.right.grow();
        self.join_occurrences(pair, token);
        for (neighbour, found) in self.left.drain(&mut self.places) {
            self.forget(pack(neighbour, first), found.count);
            self.insert(pack(neighbour, token), found);
        }
        for (neighbour, found) in self.right.drain(&mut self.places) {
            let before = if neighbour == token { first } else { neighbour };
            self.forget(pack(second, before), found.count);
            self.insert(pack(token, neighbour), found);
        }
        self.pairs.remove(&pair);
        self.tokens.push([&self.tokens[first as usize][..], &self.tokens[second as usize]].concat());
    }

    fn forget(&mut self, pair: Pair, count: u64) {
        let known = self.pairs.get_mut(&pair).expect("adjacent tokens are a known pair");
        known.count -= count;
    }

    /// Writes `token` over every place of `pair` that still holds it, and notes the neighbours.
    fn join_occurrences(&mut self, pair: Pair, token: u32) {
        let (first, second) = unpack(pair);
        let length = |token: u32| self.tokens[token as usize].len();
        let (first_length, second_length) = (length(first), length(second));
        let places = &self.pairs[&pair];
        let places = &self.places[places.start..places.start + places.length];
        for &start in places {
            let middle = start as usize + first_length;
            let end = middle + second_length;
            let start = start as usize;
            if self.cells[start].token != first || self.cells[middle].token != second {
                continue; // one of the two has gone into another token since
            }
            self.cells[middle - 1].token = INSIDE;
            self.cells[middle].token = INSIDE;
            self.cells[start].token = token;
            self.cells[end - 1].token = token;
            let weight = self.weights[self.cells[start].weight as usize];
            let (before, after) = (self.cells[start - 1].token, self.cells[end].token);
            if before == token {
                // The place before was joined a moment ago and took the `first` of this one for its neighbour.
                self.right.saw_wrongly(first, weight);
                self.right.saw(token, (start - first_length - second_length) as u32, weight);
            } else if before != BOUNDARY {
                self.left.saw(before, (start - length(before)) as u32, weight);
            }
            if after != BOUNDARY {
                self.right.saw(after, start as u32, weight);
            }
        }
    }
}

/// Neighbours seen on one side during one merge, in arrays by token: the map of pairs is touched once per distinct
/// neighbour and not once per occurrence.
struct Neighbours {
    tallies: Vec<Tally>,
    distinct: Vec<u32>,
    seen: Vec<(u32, u32)>, // (neighbour, place), in order of place
}

#[derive(Clone, Copy, Default)]
struct Tally {
    count: u64,
    places: usize, // how many; while draining, where the next goes
}

impl Neighbours {
    fn new(tokens: usize) -> Self {
        Self { tallies: vec![Tally::default(); tokens], distinct: Vec::new(), seen: Vec::new() }
    }

    /// Makes room for one token more.
    fn grow(&mut self) {
        self.tallies.push(Tally::default());
    }

    #[inline]
    fn saw(&mut self, neighbour: u32, place: u32, count: u64) {
        let tally = &mut self.tallies[neighbour as usize];
        if tally.places == 0 {
            self.distinct.push(neighbour);
        }
        tally.places += 1;
        tally.count += count;
        self.seen.push((neighbour, place));
    }

    /// Takes back a count. Its place stays, and is skipped when visited.
    fn saw_wrongly(&mut self, neighbour: u32, count: u64) {
        self.tallies[neighbour as usize].count -= count;
    }

    /// Appends the places to `places`, those of each neighbour together, and yields what was seen of each.
    fn drain(&mut self, places: &mut Vec<u32>) -> Vec<(u32, Occurrences)> {
        let mut start = places.len();
        let mut found = Vec::with_capacity(self.distinct.len());
        for &neighbour in &self.distinct {
            let tally = &mut self.tallies[neighbour as usize];
            let length = std::mem::replace(&mut tally.places, start);
            found.push((neighbour, Occurrences { count: tally.count, start, length }));
            start += length;
        }
        places.resize(start, 0);
        for (neighbour, place) in self.seen.drain(..) {
            let next = &mut self.tallies[neighbour as usize].places;
            places[*next] = place;
            *next += 1;
        }
        for neighbour in self.distinct.drain(..) {
            self.tallies[neighbour as usize] = Tally::default();
        }
        found.retain(|(_, occurrences)| occurrences.count > 0);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counter, GPT4_PATTERN};

    fn counts(text: &str) -> Counts {
        let mut counter = Counter::new(GPT4_PATTERN, Some(1), None).unwrap();
        counter.add(&[text]).unwrap();
        counter.finish().unwrap()
    }

    fn merges(text: &str, number: i64) -> Vec<String> {
        let learnt = learn(&counts(text), 256 + number, |_| Ok::<(), Error>(())).unwrap();
        learnt.tokens[256..].iter().map(|token| String::from_utf8_lossy(token).into_owned()).collect()
    }

    #[test]
    fn the_most_frequent_pair_comes_first_and_of_equals_the_smallest_ids() {
        assert_eq!(merges("low lower lowest new newer newest", 6), ["we", " n", "lo", " ne", " lo", "st"]);
    }

    #[test]
    fn pairs_that_overlap_themselves_are_counted_as_they_stand() {
        assert_eq!(merges("aaaaa", 3), ["aa", "aaa", "aaaaa"]);
        assert_eq!(merges("abababa", 3), ["ab", "abab", "aba"]);
    }

    #[test]
    fn words_beyond_32_bit_places_are_refused() {
        assert!(matches!(Cells::lay_out(&counts("ab cd ef"), 8), Err(Error::TooLarge(_))));
        assert_eq!(Cells::lay_out(&counts("ab cd ef"), 12).unwrap().cells.len(), 12);
    }

    #[test]
    fn the_error_of_a_check_ends_the_work() {
        let stopped = learn(&counts("some text"), 300, |_| Err(Error::EmptyCorpus));
        assert!(matches!(stopped, Err(Error::EmptyCorpus)));
    }
}
