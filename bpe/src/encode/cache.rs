//! The tokens of pieces seen before, in a table of bounded size.
//!
//! Promises exact answers (bytes are compared, not hashes alone), at most four slots looked at whatever the text, and
//! at most `MOST_SLOTS` slots of 32 bytes, some `MOST_SPILLED` ids and `MOST_BYTES` bytes of long pieces, which with the
//! room that vectors keep is 60 MB. Does not promise to remember: a newcomer takes the place of the least used of four.

use crate::key::{INLINE, Key, pack, pack_at, spread};

/// Pieces longer than this are not remembered: they hardly come twice.
const LONGEST: usize = 128;

const WAYS: usize = 4; // slots where a piece may lie, the most used first
const FIRST_SLOTS: usize = 1 << 12;
const MOST_SLOTS: usize = 1 << 20;
const MOST_SPILLED: usize = 1 << 20;
const MOST_BYTES: usize = 8 << 20;
const INLINE_IDS: u32 = 3;
const SPILLED: u32 = 1 << 31;
const LONG: u64 = 0xFF << 56; // stands where short pieces have their length

/// `value` is up to three ids and their number; or where in `ids` they lie, where in `bytes` the long piece lies,
/// nothing, and their number with `SPILLED`.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Slot {
    key: Key, // all zero: free, for no piece is empty
    value: [u32; 4],
}

/// A piece with what finds it.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub start: usize,
    pub end: usize,
    key: Key,
    hash: u64,
}

impl Piece {
    pub const EMPTY: Self = Self { start: 0, end: 0, key: [0; 2], hash: 0 };

    #[inline]
    pub fn new(text: &[u8], start: usize, end: usize) -> Self {
        let key = match end - start {
            length if length <= INLINE => pack_at(text, start, end),
            length if length <= LONGEST => [hash_long(&text[start..end]), LONG | length as u64],
            _ => [0; 2], // equal to no piece in the table
        };
        Self { start, end, key, hash: spread(key) }
    }

    fn is_cached(&self) -> bool {
        self.end - self.start <= LONGEST
    }
}

/// Equality without a load of 16 bytes, which would wait for the two stores of 8 bytes that wrote the key.
#[inline]
fn same(left: Key, right: Key) -> bool {
    (left[0] ^ right[0]) | (left[1] ^ right[1]) == 0
}

fn hash_long(piece: &[u8]) -> u64 {
    piece.chunks(INLINE).fold(0, |hash, chunk| {
        let [low, high] = pack(chunk);
        spread([low ^ hash, high])
    })
}

/// Pieces and their tokens.
#[derive(Default)]
pub(crate) struct Cache {
    slots: Vec<Slot>,
    used: usize,
    ids: Vec<u32>,
    bytes: Vec<u8>,
}

impl Cache {
    /// Makes room for the pieces to come; to be called before every batch of pieces.
    pub fn make_room(&mut self, pieces: usize) {
        if self.ids.len() > MOST_SPILLED || self.bytes.len() > MOST_BYTES {
            self.slots.fill(Slot::default());
            self.ids.clear();
            self.bytes.clear();
            self.used = 0;
        }
        if (self.used + pieces) * 8 > self.slots.len() * 5 && self.slots.len() < MOST_SLOTS {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let capacity = (self.slots.len() * 2).max(FIRST_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); capacity]);
        self.used = 0;
        for slot in old.into_iter().filter(|slot| slot.key != [0; 2]) {
            self.put(spread(slot.key), slot);
        }
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.slots.len() - WAYS)
    }

    /// Loads the first slots of the pieces, with so little in between that the loads wait for memory together.
    #[inline]
    pub fn touch(&self, pieces: &[Piece]) -> u64 {
        pieces.iter().fold(0, |all, piece| all ^ self.slots[self.home(piece.hash)].key[0])
    }

    /// Up to three ids and their number, if they lie in one of the first two slots, which share a cache line.
    #[inline]
    pub fn first(&self, piece: &Piece) -> Option<([u32; 4], usize)> {
        let home = self.home(piece.hash);
        let slot = home | usize::from(same(self.slots[home | 1].key, piece.key));
        let Slot { key, value } = self.slots[slot];
        let number = value[3];
        (same(key, piece.key) && number.wrapping_sub(1) < INLINE_IDS).then_some((value, number as usize))
    }

    /// Appends the tokens of the piece to `out` if they are known; the piece moves one slot forward.
    pub fn append(&mut self, text: &[u8], piece: &Piece, out: &mut Vec<u32>) -> bool {
        let home = self.home(piece.hash);
        let bytes = &text[piece.start..piece.end];
        let is_same = |slot: &Slot| same(slot.key, piece.key) && piece.is_cached() && self.is_same(slot, bytes);
        let Some(way) = self.slots[home..home + WAYS].iter().position(is_same) else {
            return false;
        };
        let slot = self.slots[home + way];
        let number = slot.value[3];
        if number & SPILLED == 0 {
            out.extend_from_slice(&slot.value[..number as usize]);
        } else {
            let start = slot.value[0] as usize;
            out.extend_from_slice(&self.ids[start..start + (number ^ SPILLED) as usize]);
        }
        if way > 0 {
            self.slots.swap(home + way, home + way - 1);
        }
        true
    }

    fn is_same(&self, slot: &Slot, piece: &[u8]) -> bool {
        let start = slot.value[1] as usize;
        piece.len() <= INLINE || self.bytes[start..start + piece.len()] == *piece
    }

    /// Remembers the tokens of a piece that is not known, unless it is too long.
    pub fn insert(&mut self, text: &[u8], piece: &Piece, ids: &[u32]) {
        if !piece.is_cached() {
            return;
        }
        let mut value = [0; 4];
        if piece.end - piece.start <= INLINE && ids.len() <= INLINE_IDS as usize {
            value[..ids.len()].copy_from_slice(ids);
            value[3] = ids.len() as u32;
        } else {
            value = [self.ids.len() as u32, self.bytes.len() as u32, 0, SPILLED | ids.len() as u32];
            self.ids.extend_from_slice(ids);
            if piece.end - piece.start > INLINE {
                self.bytes.extend_from_slice(&text[piece.start..piece.end]);
            }
        }
        let slot = Slot { key: piece.key, value };
        self.put(piece.hash, slot);
    }

    /// Puts a slot into the first free place, else the last.
    fn put(&mut self, hash: u64, slot: Slot) {
        let home = self.home(hash);
        let ways = &mut self.slots[home..home + WAYS];
        let free = ways.iter().position(|slot| slot.key == [0; 2]);
        self.used += usize::from(free.is_some());
        ways[free.unwrap_or(WAYS - 1)] = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbered words, some long, and ids that only they have.
    fn word(number: usize) -> (String, Vec<u32>) {
        let text = format!("{number}{}", "x".repeat(number % 40));
        let ids = (0..=number % 7).map(|i| (number * 10 + i) as u32).collect();
        (text, ids)
    }

    fn look_up(cache: &mut Cache, text: &str) -> Option<Vec<u32>> {
        let piece = Piece::new(text.as_bytes(), 0, text.len());
        if let Some((ids, number)) = cache.first(&piece) {
            return Some(ids[..number].to_vec());
        }
        let mut out = Vec::new();
        cache.append(text.as_bytes(), &piece, &mut out).then_some(out)
    }

    #[test]
    fn what_is_known_is_right_and_the_bounds_hold() {
        let mut cache = Cache::default();
        let mut known = 0;
        for number in 0..1_200_000 {
            let (text, ids) = word(number);
            cache.make_room(1);
            assert_eq!(look_up(&mut cache, &text), None, "{text}");
            cache.insert(text.as_bytes(), &Piece::new(text.as_bytes(), 0, text.len()), &ids);
            assert_eq!(look_up(&mut cache, &text), Some(ids), "{text}");
            let (early, ids) = word(number / 2);
            let found = look_up(&mut cache, &early);
            known += usize::from(number < 100_000 && found.is_some());
            assert!(found.is_none_or(|found| found == ids), "{early}");
        }
        assert!(known > 80_000, "forgets too much before it is full: {known}");
        assert!(cache.slots.len() <= MOST_SLOTS && cache.used <= cache.slots.len());
        assert!(cache.ids.len() <= MOST_SPILLED + LONGEST && cache.bytes.len() <= MOST_BYTES + LONGEST);
    }

    #[test]
    fn pieces_that_are_too_long_are_not_remembered() {
        let mut cache = Cache::default();
        cache.make_room(1);
        for (length, remembered) in [(LONGEST, true), (LONGEST + 1, false)] {
            let text = "a".repeat(length);
            cache.insert(text.as_bytes(), &Piece::new(text.as_bytes(), 0, length), &[1, 2]);
            assert_eq!(look_up(&mut cache, &text).is_some(), remembered);
        }
    }
}
