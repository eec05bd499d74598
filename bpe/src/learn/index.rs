//! Which pairs of adjacent tokens there are, how often and where: only those worth knowing, the hot ones.
//!
//! Promises the exact count of every pair that occurs at least `threshold` times. A pair's count never grows once the
//! merge that made its younger token is done, so a pair that is born colder or grows colder is let go for good, and
//! only when no hot pair is left are all pairs looked at again, with a lower threshold. The heap orders pairs by a count
//! that may be out of date, and so too high, which is noticed when a pair comes out of it. Places are never taken out:
//! whoever visits one looks whether it still holds the pair.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::Progress;
use super::cells::{BOUNDARY, Cells, Joined};
use super::pair::{Pair, pack, unpack};

const CELLS_PER_BUCKET: usize = 16;
const COLD: usize = usize::MAX;

/// How often a pair occurs, and which part of `Index::places` says where.
#[derive(Default)]
struct Occurrences {
    count: u64,
    start: usize,
    length: usize,
}

pub(super) struct Index {
    threshold: u64,
    pairs: FxHashMap<Pair, Occurrences>,
    heap: BinaryHeap<(u64, Reverse<Pair>)>,
    places: Vec<u32>, // ascending within each pair
    tallies: Vec<Tally>, // by token
    distinct: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    count: u64,
    places: usize, // how many; then where the next goes, or COLD
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

impl Index {
    /// Indexes the pairs that occur at least one `ratio`-th as often as the best, and less than `below` allows.
    pub(super) fn build<E>(
        cells: &Cells,
        tokens: usize,
        below: u64,
        ratio: u64,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<Self, E> {
        // Pairs share buckets, so a bucket's weight is no less than the count of any pair in it.
        let bits = (cells.len() / CELLS_PER_BUCKET).next_power_of_two().trailing_zeros().max(1);
        let bucket = |pair: Pair| (pair.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - bits)) as usize;
        let mut buckets = vec![0; 1 << bits];
        cells.for_each_pair(progress, |pair, _, weight| buckets[bucket(pair)] += weight)?;
        let heaviest = buckets.iter().copied().max().unwrap_or(0);
        let threshold = (heaviest / ratio).min(below / 2).max(1);
        let mut pairs = FxHashMap::<Pair, Occurrences>::default();
        cells.for_each_pair(progress, |pair, _, weight| {
            if buckets[bucket(pair)] >= threshold {
                let found = pairs.entry(pair).or_default();
                found.count += weight;
                found.length += 1;
            }
        })?;
        pairs.retain(|_, found| found.count >= threshold);
        let mut end = 0;
        for found in pairs.values_mut() {
            found.start = end;
            end += found.length;
            found.length = 0;
        }
        let mut places = vec![0; end];
        cells.for_each_pair(progress, |pair, place, _| {
            if buckets[bucket(pair)] >= threshold {
                if let Some(found) = pairs.get_mut(&pair) {
                    places[found.start + found.length] = place;
                    found.length += 1;
                }
            }
        })?;
        let heap = pairs.iter().map(|(&pair, found)| (found.count, Reverse(pair))).collect();
        Ok(Self { threshold, pairs, heap, places, tallies: vec![Tally::default(); tokens], distinct: Vec::new() })
    }

    pub(super) fn stat(&self) -> String { format!("pairs {} heap {} places {}", self.pairs.len(), self.heap.len(), self.places.len()) }
    pub(super) fn threshold(&self) -> u64 {
        self.threshold
    }

    /// Takes out the most frequent pair, of equals the smallest; none if no pair is hot any more.
    pub(super) fn pop(&mut self) -> Option<(Pair, Range<usize>)> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let found = &self.pairs[&pair];
            if found.count == count {
                let range = found.start..found.start + found.length;
                self.pairs.remove(&pair);
                return Some((pair, range));
            }
            if found.count >= self.threshold {
                self.heap.push((found.count, Reverse(pair)));
            } else {
                self.pairs.remove(&pair);
            }
        }
        None
    }

    pub(super) fn places(&self, range: Range<usize>) -> &[u32] {
        &self.places[range]
    }

    /// Counts anew what the merge of `pair` into `token` changed.
    pub(super) fn update(&mut self, pair: Pair, token: u32, joined: &[Joined], cells: &Cells) {
        self.tallies.push(Tally::default());
        self.update_side(pair, token, joined, cells, Side::Left);
        self.update_side(pair, token, joined, cells, Side::Right);
    }

    #[inline]
    fn update_side(&mut self, pair: Pair, token: u32, joined: &[Joined], cells: &Cells, side: Side) {
        let (first, second) = unpack(pair);
        let neighbour = |joined: &Joined| match side {
            Side::Left => joined.before,
            Side::Right => joined.after,
        };
        for joined in joined {
            let neighbour = neighbour(joined);
            if neighbour != BOUNDARY {
                let tally = &mut self.tallies[neighbour as usize];
                if tally.places == 0 {
                    self.distinct.push(neighbour);
                }
                tally.places += 1;
                tally.count += cells.weight(joined.place);
            }
        }
        let start = self.places.len();
        let mut end = start;
        for &neighbour in &self.distinct {
            let tally = &mut self.tallies[neighbour as usize];
            let (old, new) = match side {
                Side::Left => (pack(neighbour, first), pack(neighbour, token)),
                Side::Right if neighbour == token => (pack(second, first), pack(token, token)),
                Side::Right => (pack(second, neighbour), pack(token, neighbour)),
            };
            if let Some(known) = self.pairs.get_mut(&old) {
                known.count -= tally.count;
            }
            if tally.count >= self.threshold {
                self.heap.push((tally.count, Reverse(new)));
                self.pairs.insert(new, Occurrences { count: tally.count, start: end, length: tally.places });
                end += std::mem::replace(&mut tally.places, end);
            } else {
                tally.places = COLD;
            }
        }
        if end > start {
            self.places.resize(end, 0);
            for joined in joined {
                let neighbour = neighbour(joined);
                if neighbour != BOUNDARY && self.tallies[neighbour as usize].places != COLD {
                    let next = &mut self.tallies[neighbour as usize].places;
                    self.places[*next] = match side {
                        Side::Left => joined.place - cells.length(neighbour),
                        Side::Right => joined.place,
                    };
                    *next += 1;
                }
            }
        }
        for neighbour in self.distinct.drain(..) {
            self.tallies[neighbour as usize] = Tally::default();
        }
    }
}
