//! All distinct words end to end in one array of 32-bit cells, a boundary before each and after the last.
//!
//! A token's id stands in the first and in the last cell of its span, so neighbours are found by adding a length or
//! looking one cell back, and a merge moves nothing. Words of equal count lie together and fill whole blocks, so a
//! cell's weight is its block's. Promises that every token is one cell long after `compact`, which also drops the
//! words that are one token and have nothing left to merge. Does not know which pairs are worth merging.

use rustc_hash::FxHashMap;

use super::progress::Progress;
use crate::count::Counts;
use crate::error::Error;

/// The cell before a word, also after the last. All token ids are smaller.
pub(super) const BOUNDARY: u32 = i32::MAX as u32;
pub(super) const MOST_TOKENS: usize = BOUNDARY as usize;
const INNER: u32 = 1 << 31; // marks every cell of a token but its first
const BLOCK: usize = 64;
const CHUNK: usize = 1024; // places looked at before those that hold are worked on, so that cells load side by side

/// The words of a corpus, as tokens.
pub(super) struct Cells {
    cells: Vec<u32>,
    weights: Vec<u64>, // how often the words of a block occur
    lengths: Vec<u32>, // of each token, in cells
}

/// One place where a pair became one token, and the tokens beside it, or boundaries.
pub(super) struct Joined {
    pub(super) place: u32,
    pub(super) before: u32,
    pub(super) after: u32,
}

/// All pairs of adjacent tokens, sorted by the first, in order of place within each.
pub(super) struct SortedPairs {
    pub(super) pairs: Vec<(u32, u32)>, // the second token and the place
    pub(super) ends: Vec<usize>,       // where the pairs of each first token end
}

impl Cells {
    /// Lays out the words of two bytes and more, the frequent first, each byte as its rank in `alphabet`.
    pub(super) fn lay_out<E: From<Error>>(
        counts: &Counts,
        alphabet: &[u8; 256],
        most_cells: usize,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<Self, E> {
        let mut segments = FxHashMap::<u64, usize>::default(); // cells for the words of a count
        each_word(counts, progress, |word, count| *segments.entry(count).or_default() += word.len() + 1)?;
        let mut by_count: Vec<u64> = segments.keys().copied().collect();
        by_count.sort_unstable_by(|one, other| other.cmp(one));
        let mut weights = Vec::new();
        for count in by_count {
            let segment = segments.get_mut(&count).expect("the keys are its own");
            let blocks = segment.div_ceil(BLOCK);
            *segment = weights.len() * BLOCK; // from here on, where the next word goes
            weights.resize(weights.len() + blocks, count);
        }
        let size = weights.len() * BLOCK + 1;
        if size > most_cells {
            return Err(Error::TooLarge(format!("the distinct words take more than {most_cells} bytes")).into());
        }
        let mut ids = [0; 256];
        for (id, &byte) in (0..).zip(alphabet) {
            ids[usize::from(byte)] = id;
        }
        let mut cells = vec![BOUNDARY; size];
        each_word(counts, progress, |word, count| {
            let next = segments.get_mut(&count).expect("every count was seen above");
            for (cell, &byte) in cells[*next + 1..].iter_mut().zip(word) {
                *cell = ids[usize::from(byte)];
            }
            *next += word.len() + 1;
        })?;
        Ok(Self { cells, weights, lengths: vec![1; 256] })
    }

    /// How many tokens there are, used or not.
    pub(super) fn tokens(&self) -> usize {
        self.lengths.len()
    }

    /// The weight of all cells run_workers, which no pair's count exceeds.
    pub(super) fn weight_of_all(&self) -> u64 {
        self.weights.iter().fold(0, |sum: u64, weight| sum.saturating_add(weight.saturating_mul(BLOCK as u64)))
    }

    /// How often the word at `place` occurs.
    #[inline]
    pub(super) fn weight(&self, place: u32) -> u64 {
        self.weights[place as usize / BLOCK]
    }

    /// How many cells `token` takes.
    #[inline]
    pub(super) fn length(&self, token: u32) -> u32 {
        self.lengths[token as usize]
    }

    /// All pairs of adjacent tokens and their places. All tokens must be one cell long.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (u32, u32, u32)> + Clone {
        let two = self.cells.windows(2).zip(0..).map(|(two, place)| (two[0], two[1], place));
        two.filter(|&(first, second, _)| first != BOUNDARY && second != BOUNDARY)
    }

    /// What `pairs` gives, sorted by the first token.
    pub(super) fn sorted_pairs<E>(
        &self,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<SortedPairs, E> {
        let mut ends = vec![0; self.tokens()];
        for (first, _, _) in self.pairs() {
            ends[first as usize] += 1;
            progress.made(1)?;
        }
        let mut end = 0;
        for token in &mut ends {
            end += std::mem::replace(token, end);
        }
        let mut sorted = vec![(0, 0); end];
        for (first, second, place) in self.pairs() {
            let next = &mut ends[first as usize];
            sorted[*next] = (second, place);
            *next += 1;
            progress.made(1)?;
        }
        Ok(SortedPairs { pairs: sorted, ends })
    }

    /// Makes a new token of `first` and `second` wherever one of `places`, ascending, still holds them, and appends
    /// those to `joined`.
    pub(super) fn join<E>(
        &mut self,
        (first, second): (u32, u32),
        places: &[u32],
        joined: &mut Vec<Joined>,
        progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    ) -> Result<(), E> {
        let token = self.tokens() as u32;
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

    /// Moves all tokens run_workers, one cell each, and drops words that are one token. Places are other ones afterwards.
    pub(super) fn compact<E>(&mut self, progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>) -> Result<(), E> {
        let (mut blocks, mut from, mut to) = (0, 0, 0);
        while from < self.weights.len() {
            let weight = self.weights[from];
            let until = from + self.weights[from..].iter().take_while(|&&other| other == weight).count();
            let mut word = to; // where the boundary before the current word goes
            for block in from..until {
                for at in block * BLOCK..(block + 1) * BLOCK {
                    let cell = self.cells[at];
                    if cell == BOUNDARY {
                        word = if to - word > 2 { to } else { word };
                        to = word;
                    }
                    self.cells[to] = cell;
                    to += usize::from(cell & INNER == 0);
                }
                progress.made(BLOCK)?;
            }
            to = if to - word > 2 { to } else { word };
            let padded = to.next_multiple_of(BLOCK);
            self.cells[to..padded].fill(BOUNDARY);
            to = padded;
            self.weights[blocks..to / BLOCK].fill(weight);
            blocks = to / BLOCK;
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

/// Calls `each` with the words of two bytes and more: one byte has nothing to merge.
fn each_word<E>(
    counts: &Counts,
    progress: &mut Progress<impl FnMut(usize) -> Result<(), E>>,
    mut each: impl FnMut(&[u8], u64),
) -> Result<(), E> {
    let mut outcome = Ok(());
    counts.for_each(|word, count| {
        if word.len() > 1 && outcome.is_ok() {
            each(word, count);
            outcome = progress.made(word.len());
        }
    });
    outcome
}
