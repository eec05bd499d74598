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
            tallies: Vec::new(),
            distinct: Vec::new(),
        };
        if tokens == 256 {
            index.tallies.resize(1 << 16, Tally::default());
            let found = cells.adjacent().map(|(first, second, place)| (first << 8 | second, place));
            index.count(found, cells, |both| (None, pack(both >> 8, both & 0xFF)), progress)?;
            index.tallies.truncate(tokens);
            return Ok(index);
        }
        index.tallies.resize(tokens, Tally::default());
        let (sorted, ends) = cells.sorted_pairs(tokens, progress)?;
        let mut start = 0;
        for (first, &end) in ends.iter().enumerate() {
            let found = sorted[start..end].iter().copied();
            index.count(found, cells, |second| (None, pack(first as u32, second)), progress)?;
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
    pub(super) fn update<E>(
        &mut self,
        pair: Pair,
        token: u32,
        joined: &[Joined],
        cells: &Cells,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<(), E> {
        let (first, second) = unpack(pair);
        self.tallies.push(Tally::default());
        let left = joined.iter().filter(|joined| joined.before != BOUNDARY);
        let left = left.map(|joined| (joined.before, joined.place - cells.length(joined.before)));
        self.count(left, cells, |before| (Some(pack(before, first)), pack(before, token)), progress)?;
        let right = joined.iter().filter(|joined| joined.after != BOUNDARY);
        let right = right.map(|joined| (joined.after, joined.place));
        let pairs = |after| (Some(pack(second, if after == token { first } else { after })), pack(token, after));
        self.count(right, cells, pairs, progress)
    }

    /// Adds pairs that were `found`, each as a key and a place; `pairs` tells from the key which pair it was before, if
    /// any, and which it is. Touches the map once per distinct key and not once per place.
    #[inline]
    fn count<E>(
        &mut self,
        found: impl Iterator<Item = (u32, u32)> + Clone,
        cells: &Cells,
        pairs: impl Fn(u32) -> (Option<Pair>, Pair),
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<(), E> {
        for (key, place) in found.clone() {
            let tally = &mut self.tallies[key as usize];
            if tally.places == 0 {
                self.distinct.push(key);
            }
            tally.places += 1;
            tally.count += cells.weight(place);
            progress.made(1)?;
        }
        let start = self.places.len();
        let mut end = start;
        for &key in &self.distinct {
            let tally = &mut self.tallies[key as usize];
            let (old, new) = pairs(key);
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
            for (key, place) in found {
                let next = &mut self.tallies[key as usize].places;
                if *next != COLD {
                    self.places[*next] = place;
                    *next += 1;
                }
                progress.made(1)?;
            }
        }
        for key in self.distinct.drain(..) {
            self.tallies[key as usize] = Tally::default();
        }
        Ok(())
    }
}
