//! Which pairs of adjacent tokens there are, how often and where: only the hot ones, which may soon be the best.
//!
//! Promises the exact count of every pair that occurs at least `threshold` times. A pair's count never grows once the
//! merge that made its younger token is done, so a pair that is born colder, or becomes so, is let go. The heap orders
//! pairs by a count that may be out of date, and then too high, which is noticed when a pair comes out of it. Places
//! are never taken out: whoever visits one looks whether it still holds the pair.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::cells::{BOUNDARY, Cells, Joined};
use super::progress::Progress;

const COLD: usize = usize::MAX;

/// Two adjacent tokens; packed, so that pairs compare as numbers.
type Pair = u64;

#[inline]
fn pack(first: u32, second: u32) -> Pair {
    u64::from(first) << 32 | u64::from(second)
}

/// A pair that was taken out, and which part of `Index::places` says where it is.
pub(super) struct Popped {
    pair: Pair,
    places: Range<usize>,
}

impl Popped {
    pub(super) fn tokens(&self) -> (u32, u32) {
        ((self.pair >> 32) as u32, self.pair as u32)
    }
}

/// How often a pair occurs, and which part of `Index::places` says where.
struct Occurrences {
    count: u64,
    start: usize,
    length: usize,
}

/// What was found of one key, see `Index::count`.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: u64,
    places: usize, // how many; once all are counted, where the next goes, or COLD
}

/// The hot pairs.
pub(super) struct Index {
    threshold: u64,
    pairs: FxHashMap<Pair, Occurrences>,
    heap: BinaryHeap<(u64, Reverse<Pair>)>,
    places: Vec<u32>,    // ascending within each pair
    tallies: Vec<Tally>, // by key, all zero between calls of `count`
    keys: Vec<u32>,      // those that were found, likewise none
}

impl Index {
    fn new(threshold: u64, keys: usize) -> Self {
        Self {
            threshold,
            pairs: FxHashMap::default(),
            heap: BinaryHeap::new(),
            places: Vec::new(),
            tallies: vec![Tally::default(); keys],
            keys: Vec::new(),
        }
    }

    /// Indexes the pairs when all tokens are bytes: few enough for a tally each.
    pub(super) fn of_bytes<E>(
        cells: &Cells,
        threshold: u64,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<Self, E> {
        let mut index = Self::new(threshold, 1 << 16);
        let found = cells.pairs().map(|(first, second, place)| (first << 8 | second, place));
        index.count(found, cells, |both| (None, pack(both >> 8, both & 0xFF)), progress)?;
        index.tallies.truncate(256);
        Ok(index)
    }

    /// Indexes the pairs when all tokens are one cell long: for each first token, a tally for each second.
    pub(super) fn of_tokens<E>(
        cells: &Cells,
        threshold: u64,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<Self, E> {
        let mut index = Self::new(threshold, cells.tokens());
        let sorted = cells.sorted_pairs(progress)?;
        let mut start = 0;
        for (first, &end) in sorted.ends.iter().enumerate() {
            let found = sorted.pairs[start..end].iter().copied();
            index.count(found, cells, |second| (None, pack(first as u32, second)), progress)?;
            start = end;
        }
        Ok(index)
    }

    pub(super) fn threshold(&self) -> u64 {
        self.threshold
    }

    /// Takes out the most frequent pair, of equals the smallest; none if no pair is hot any more.
    pub(super) fn pop(&mut self) -> Option<Popped> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let known = self.pairs.get(&pair).expect("a pair is in the heap as long as it is in the map");
            if known.count == count {
                let places = known.start..known.start + known.length;
                self.pairs.remove(&pair);
                return Some(Popped { pair, places });
            } else if known.count >= self.threshold {
                self.heap.push((known.count, Reverse(pair)));
            } else {
                self.pairs.remove(&pair);
            }
        }
        None
    }

    /// Where `popped` was seen.
    pub(super) fn places(&self, popped: &Popped) -> &[u32] {
        &self.places[popped.places.clone()]
    }

    /// Counts anew what the merge of `first` and `second` into the youngest token has changed.
    pub(super) fn update<E>(
        &mut self,
        (first, second): (u32, u32),
        joined: &[Joined],
        cells: &Cells,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<(), E> {
        let token = self.tallies.len() as u32;
        self.tallies.push(Tally::default());
        let left = joined.iter().filter(|joined| joined.before != BOUNDARY);
        let left = left.map(|joined| (joined.before, joined.place - cells.length(joined.before)));
        self.count(left, cells, |before| (Some(pack(before, first)), pack(before, token)), progress)?;
        let right = joined.iter().filter(|joined| joined.after != BOUNDARY);
        let right = right.map(|joined| (joined.after, joined.place));
        let pairs = |after| (Some(pack(second, if after == token { first } else { after })), pack(token, after));
        self.count(right, cells, pairs, progress)
    }

    /// Adds the pairs `found`, each given as a key and a place. `pairs` tells of a key which pair it was before, if
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
                self.keys.push(key);
            }
            tally.places += 1;
            tally.count += cells.weight(place);
            progress.made(1)?;
        }
        let start = self.places.len();
        let mut end = start;
        for &key in &self.keys {
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
        for key in self.keys.drain(..) {
            self.tallies[key as usize] = Tally::default();
        }
        Ok(())
    }
}
