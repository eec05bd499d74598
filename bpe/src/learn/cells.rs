//! All distinct words end to end in one array of 32-bit cells, a boundary before each and after the last.
//!
//! A token's id stands in the first and in the last cell of its span, so neighbours are found by adding a length or
//! looking one cell back, and a merge moves nothing. Words of equal count lie together and fill whole blocks, so a
//! cell's weight is its block's. Promises that every token is one cell long after `compact`, which also drops the
//! words that are one token and have nothing left to merge. Does not know which pairs are worth merging.

use rustc_hash::FxHashMap;

use super::Progress;
use super::pair::{Pair, pack, unpack};
use crate::counts::Counts;
use crate::error::Error;

/// The cell before a word, also after the last. All token ids are smaller.
pub(super) const BOUNDARY: u32 = i32::MAX as u32;
const INNER: u32 = 1 << 31; // marks every cell of a token but its first
const BLOCK: usize = 64;
const CHUNK: usize = 1024; // places looked at before those that hold are worked on: their cells load side by side

pub(super) struct Cells {
    cells: Vec<u32>,
    weights: Vec<u64>, // by block
    lengths: Vec<u32>, // by token, in cells
    total: u64,
}

/// One place where a pair became one token, and the tokens beside it, or boundaries.
pub(super) struct Joined {
    pub(super) place: u32,
    pub(super) before: u32,
    pub(super) after: u32,
}

impl Cells {
    /// Lays out the words of two bytes and more, the frequent first; `ids` maps bytes to tokens.
    pub(super) fn lay_out<E: From<Error>>(
        counts: &Counts,
        ids: &[u32; 256],
        most_cells: usize,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<Self, E> {
        let (mut segments, mut outcome) = (FxHashMap::<u64, usize>::default(), Ok(()));
        counts.for_each(|word, count| {
            if word.len() > 1 && outcome.is_ok() {
                *segments.entry(count).or_default() += word.len() + 1;
                outcome = progress.made(word.len());
            }
        });
        outcome?;
        let mut order: Vec<u64> = segments.keys().copied().collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let (mut weights, mut total) = (Vec::new(), 0);
        for &count in &order {
            let segment = segments.get_mut(&count).expect("the keys are its own");
            total += count * *segment as u64;
            let blocks = segment.div_ceil(BLOCK);
            *segment = weights.len() * BLOCK; // from here on where its next word goes
            weights.resize(weights.len() + blocks, count);
        }
        let mut cells = vec![BOUNDARY; weights.len() * BLOCK + 1];
        if cells.len() > most_cells {
            return Err(Error::TooLarge(format!("the distinct words take more than {most_cells} bytes")).into());
        }
        let mut outcome = Ok(());
        counts.for_each(|word, count| {
            if word.len() > 1 && outcome.is_ok() {
                let next = segments.get_mut(&count).expect("counted above");
                for (cell, &byte) in cells[*next + 1..].iter_mut().zip(word) {
                    *cell = ids[usize::from(byte)];
                }
                *next += word.len() + 1;
                outcome = progress.made(word.len());
            }
        });
        outcome?;
        Ok(Self { cells, weights, lengths: vec![1; 256], total })
    }

    pub(super) fn total(&self) -> u64 { self.total }
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    #[inline]
    pub(super) fn weight(&self, place: u32) -> u64 {
        self.weights[place as usize / BLOCK]
    }

    #[inline]
    pub(super) fn length(&self, token: u32) -> u32 {
        self.lengths[token as usize]
    }

    /// All pairs of adjacent tokens and their places. All tokens must be one cell long.
    pub(super) fn adjacent(&self) -> impl Iterator<Item = (u32, u32, u32)> + Clone {
        let two = self.cells.windows(2).zip(0..).map(|(two, place)| (two[0], two[1], place));
        two.filter(|&(first, second, _)| first != BOUNDARY && second != BOUNDARY)
    }

    /// All pairs of adjacent tokens, as the second and the place, sorted by the first, and where each first's end.
    pub(super) fn sorted_pairs<E>(
        &self,
        tokens: usize,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<(Vec<(u32, u32)>, Vec<usize>), E> {
        let mut ends = vec![0; tokens];
        for (first, _, _) in self.adjacent() {
            ends[first as usize] += 1;
            progress.made(1)?;
        }
        let mut end = 0;
        for token in &mut ends {
            end += std::mem::replace(token, end);
        }
        let mut sorted = vec![(0, 0); end];
        for (first, second, place) in self.adjacent() {
            let next = &mut ends[first as usize];
            sorted[*next] = (second, place);
            *next += 1;
            progress.made(1)?;
        }
        Ok((sorted, ends))
    }

    /// Makes a new token of `pair` wherever one of `places`, ascending, still holds it, and appends those to `joined`.
    pub(super) fn join<E>(
        &mut self,
        pair: Pair,
        places: &[u32],
        joined: &mut Vec<Joined>,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<(), E> {
        let (first, second) = unpack(pair);
        let token = self.lengths.len() as u32;
        let (to_middle, to_end) = (self.length(first), self.length(first) + self.length(second));
        self.lengths.push(to_end);
        let mut holding = [0; CHUNK];
        for chunk in places.chunks(CHUNK) {
            let mut number = 0;
            for &place in chunk {
                let (start, middle) = (place as usize, (place + to_middle) as usize);
                holding[number] = place;
                number += usize::from((self.cells[start] == first) & (self.cells[middle] == second));
            }
            for &place in &holding[..number] {
                let (start, middle, end) = (place as usize, (place + to_middle) as usize, (place + to_end) as usize);
                if self.cells[start] != first || self.cells[middle] != second {
                    continue; // the place before overlapped this one and was joined a moment ago
                }
                self.cells[middle] = INNER;
                self.cells[middle - 1] |= INNER;
                self.cells[end - 1] = token | INNER;
                self.cells[start] = token;
                let (mut before, after) = (self.cells[start - 1] & !INNER, self.cells[end]);
                if before == token {
                    // The place before was joined a moment ago too, and took the `first` of this one for its neighbour.
                    joined.last_mut().expect("joined a moment ago").after = token;
                    before = BOUNDARY;
                }
                joined.push(Joined { place, before, after });
            }
            progress.made(chunk.len())?;
        }
        Ok(())
    }

    /// Moves all tokens together, one cell each, and drops words that are one token. Places are other ones afterwards.
    pub(super) fn compact<E>(
        &mut self,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<(), E> {
        let (mut blocks, mut from, mut to) = (0, 0, 0);
        while from < self.weights.len() {
            let weight = self.weights[from];
            let until = from + self.weights[from..].iter().take_while(|&&other| other == weight).count();
            let mut word = to; // where the boundary before the current word goes
            for at in from * BLOCK..until * BLOCK {
                let cell = self.cells[at];
                if cell == BOUNDARY {
                    word = if to - word > 2 { to } else { word };
                    to = word;
                }
                self.cells[to] = cell;
                to += usize::from(cell & INNER == 0);
            }
            to = if to - word > 2 { to } else { word };
            let padded = to.next_multiple_of(BLOCK);
            self.cells[to..padded].fill(BOUNDARY);
            to = padded;
            self.weights[blocks..to / BLOCK].fill(weight);
            blocks = to / BLOCK;
            progress.made((until - from) * BLOCK)?;
            from = until;
        }
        self.cells[to] = BOUNDARY;
        self.cells.truncate(to + 1);
        self.weights.truncate(blocks);
        self.cells.shrink_to_fit();
        self.weights.shrink_to_fit();
        self.lengths.fill(1);
        Ok(())
    }
}
