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
    /// Indexes the pairs that occur at least `threshold` times. All tokens must be one cell long.
    pub(super) fn build<E>(
        cells: &Cells,
        tokens: usize,
        threshold: u64,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<Self, E> {
        let mut index = Self {
            threshold,
            pairs: FxHashMap::default(),
            heap: BinaryHeap::new(),
            places: Vec::new(),
            tallies: vec![Tally::default(); tokens],
            distinct: Vec::new(),
        };
        let (places, ends) = cells.sorted_places(tokens, progress)?;
        let (mut start, mut found) = (0, Vec::new());
        for (token, &end) in ends.iter().enumerate() {
            found.clear();
            found.extend(places[start..end].iter().map(|&place| cells.beside(place)));
            index.count_side(&found, Side::Right, cells, |neighbour| (None, pack(token as u32, neighbour)));
            progress.made(end - start)?;
            start = end;
        }
        Ok(index)
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
        let (first, second) = unpack(pair);
        self.tallies.push(Tally::default());
        self.count_side(joined, Side::Left, cells, |neighbour| {
            (Some(pack(neighbour, first)), pack(neighbour, token))
        });
        self.count_side(joined, Side::Right, cells, |neighbour| {
            let before = if neighbour == token { first } else { neighbour };
            (Some(pack(second, before)), pack(token, neighbour))
        });
    }

    #[inline]
    fn count_side(&mut self, joined: &[Joined], side: Side, cells: &Cells, pairs: impl Fn(u32) -> (Option<Pair>, Pair)) {
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
            let (old, new) = pairs(neighbour);
            if let Some(known) = old.and_then(|old| self.pairs.get_mut(&old)) {
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
