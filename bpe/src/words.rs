//! How often each distinct word occurs: an open-addressing map whose keys lie in the table itself.
//!
//! Promises one probe and no allocation for words of up to 15 bytes (99 % of them), packed with their length into 128
//! bits. Does not cover removal.

pub(crate) const INLINE: usize = 15;
const LONG: u64 = 0xFF; // length byte of a word that lies in `long`
const FIRST_CAPACITY: usize = 1024;
const BATCH: usize = 64;
// Odd constants with no structure (the golden ratio and the square root of 2, in 64 bits).
const SALT: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0x6A09_E667_F3BC_C909];

/// Either the bytes of a word and, in the top byte, its length; or a hash and, under `LONG`, an index into `long_ends`.
pub(crate) type Key = [u64; 2];

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key, // all zero: free, for no word is empty
    count: u64,
}

/// A multiset of words.
#[derive(Clone)]
pub struct WordMap {
    slots: Vec<Slot>,
    used: usize,
    pending: [Key; BATCH], // short words that wait for their turn: looked up together, they wait for memory together
    waiting: usize,
    long: Vec<u8>,
    long_ends: Vec<usize>,
}

impl Default for WordMap {
    fn default() -> Self {
        Self {
            slots: vec![Slot::default(); FIRST_CAPACITY],
            used: 0,
            pending: [Key::default(); BATCH],
            waiting: 0,
            long: Vec::new(),
            long_ends: Vec::new(),
        }
    }
}

impl WordMap {
    /// Number of distinct words.
    pub fn len(&self) -> usize {
        debug_assert_eq!(self.waiting, 0, "settle first");
        self.used
    }

    /// Adds one occurrence of the word from `start` to `end`, which is not empty. It may wait until `settle`.
    #[inline]
    pub fn add_at(&mut self, text: &[u8], start: usize, end: usize) {
        if end - start > INLINE {
            return self.add_long(&text[start..end], 1);
        }
        self.pending[self.waiting] = pack_at(text, start, end);
        self.waiting += 1;
        if self.waiting == BATCH {
            self.settle();
        }
    }

    /// Counts all words that wait.
    pub fn settle(&mut self) {
        self.make_room(BATCH);
        let waiting = std::mem::take(&mut self.waiting);
        let keys = self.pending;
        let mask = self.slots.len() - 1;
        let mut homes = [0; BATCH];
        for (home, key) in homes.iter_mut().zip(keys) {
            *home = spread(key) as usize & mask;
        }
        let touched = homes.iter().fold(0, |all, &home| all ^ self.slots[home].count);
        std::hint::black_box(touched);
        for (key, home) in keys.into_iter().zip(homes).take(waiting) {
            let slot = &mut self.slots[home];
            if slot.key == key {
                slot.count += 1;
            } else {
                self.count(key, home, 1);
            }
        }
    }

    /// Adds `count` occurrences of `word`, which is not empty.
    pub fn add(&mut self, word: &[u8], count: u64) {
        if word.len() > INLINE {
            return self.add_long(word, count);
        }
        self.make_room(1);
        let key = pack(word);
        self.count(key, spread(key) as usize & (self.slots.len() - 1), count);
    }

    #[inline]
    fn count(&mut self, key: Key, home: usize, count: u64) {
        let at = self.find(home, |other| other == key);
        let slot = &mut self.slots[at];
        self.used += usize::from(slot.count == 0);
        slot.key = key;
        slot.count += count;
    }

    fn add_long(&mut self, word: &[u8], count: u64) {
        self.make_room(BATCH);
        let hash = hash_long(word);
        let same = |[low, high]: Key| low == hash && high >> 56 == LONG && self.long_word([low, high]) == word;
        let slot = self.find(hash as usize & (self.slots.len() - 1), same);
        if self.slots[slot].count == 0 {
            self.slots[slot].key = [hash, LONG << 56 | self.long_ends.len() as u64];
            self.long.extend_from_slice(word);
            self.long_ends.push(self.long.len());
            self.used += 1;
        }
        self.slots[slot].count += count;
    }

    fn long_word(&self, key: Key) -> &[u8] {
        let index = (key[1] & !(LONG << 56)) as usize;
        let start = if index == 0 { 0 } else { self.long_ends[index - 1] };
        &self.long[start..self.long_ends[index]]
    }

    /// The slot whose key is the `same`, or the free one where it belongs, from `home` on.
    #[inline]
    fn find(&self, home: usize, same: impl Fn(Key) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = home;
        while !same(self.slots[at & mask].key) && self.slots[at & mask].count != 0 {
            at += 1;
        }
        at & mask
    }

    /// Grows the table if `more` words could fill more than three quarters of it.
    fn make_room(&mut self, more: usize) {
        if (self.used + more) * 4 <= self.slots.len() * 3 {
            return;
        }
        let capacity = self.slots.len() * 2;
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); capacity]);
        for slot in old.into_iter().filter(|slot| slot.count != 0) {
            let hash = if slot.key[1] >> 56 == LONG { slot.key[0] } else { spread(slot.key) };
            let at = self.find(hash as usize & (capacity - 1), |_| false);
            self.slots[at] = slot;
        }
    }

    /// Calls `each` with every word and its count, in no order that means anything.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], u64)) {
        for slot in self.slots.iter().filter(|slot| slot.count != 0) {
            let length = (slot.key[1] >> 56) as usize;
            if length <= INLINE {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&slot.key[0].to_le_bytes());
                bytes[8..].copy_from_slice(&slot.key[1].to_le_bytes());
                each(&bytes[..length], slot.count);
            } else {
                each(self.long_word(slot.key), slot.count);
            }
        }
    }

    /// Adds all words of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.for_each(|word, count| self.add(word, count));
    }

    /// All words in order of their bytes: the one form that does not depend on how they came in.
    pub fn sorted(&self) -> Vec<(Vec<u8>, u64)> {
        let mut words = Vec::with_capacity(self.used);
        self.for_each(|word, count| words.push((word.to_vec(), count)));
        words.sort_unstable();
        words
    }
}

/// The bytes of `word` in 15 of 16 bytes. Overlapping reads stand for a copy of unknown length, which would be a call.
#[inline]
pub(crate) fn pack(word: &[u8]) -> Key {
    let n = word.len();
    let four = |at: usize| u64::from(u32::from_le_bytes([word[at], word[at + 1], word[at + 2], word[at + 3]]));
    let (low, high) = if n > 8 {
        (four(0) | four(4) << 32, (four(n - 8) | four(n - 4) << 32) >> (8 * (16 - n)))
    } else if n >= 4 {
        (four(0) | four(n - 4) << (8 * (n - 4)), 0)
    } else {
        let one = |at: usize| u64::from(word[at]) << (8 * at);
        (one(0) | one(n / 2) | one(n - 1), 0)
    };
    [low, high | (n as u64) << 56]
}

const KEPT: [[u64; 3]; 16] = {
    let mut kept = [[0; 3]; 16];
    let mut n = 0;
    while n < 16 {
        let bits = (1_u128 << (8 * n)) - 1;
        kept[n] = [bits as u64, (bits >> 64) as u64, (n as u64) << 56];
        n += 1;
    }
    kept
};

/// `pack(&text[start..end])` of at most `INLINE` bytes, by one load and no branch on the length where it can.
#[inline]
pub(crate) fn pack_at(text: &[u8], start: usize, end: usize) -> Key {
    let n = end - start;
    match text.get(start..start + 16) {
        Some(bytes) => {
            let bytes: [u8; 16] = bytes.try_into().expect("16 bytes");
            let all = u128::from_le_bytes(bytes);
            let [low, high, length] = KEPT[n & 15];
            [all as u64 & low, (all >> 64) as u64 & high | length]
        }
        None => pack(&text[start..end]),
    }
}

/// Folded multiplication: both halves of the 128-bit product of the salted halves.
#[inline]
pub(crate) fn spread(key: Key) -> u64 {
    let product = u128::from(key[0] ^ SALT[0]) * u128::from(key[1] ^ SALT[1]);
    (product >> 64) as u64 ^ product as u64
}

fn hash_long(word: &[u8]) -> u64 {
    let mut hash = word.len() as u64;
    for chunk in word.chunks(INLINE) {
        let [low, high] = pack(chunk);
        hash = spread([low ^ hash, high]);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_every_length_are_kept_apart_and_counted() {
        let text: Vec<u8> = (0..64_u32).map(|i| (i * 37 % 251) as u8).collect();
        let mut map = WordMap::default();
        for round in 1..=3 {
            for length in 1..=40 {
                for start in 0..24 {
                    map.add(&text[start..start + length], round);
                }
            }
        }
        let words = map.sorted();
        assert_eq!((map.len(), words.len()), (40 * 24, 40 * 24));
        assert!(words.iter().all(|(_, count)| *count == 6));
        assert!(words.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (word, _) in &words {
            assert!(text.windows(word.len()).any(|window| window == word));
        }
    }

    #[test]
    fn zero_bytes_at_the_end_make_another_word() {
        let mut map = WordMap::default();
        for word in [&b"a"[..], b"a\0", b"\0", b"\0\0", b"\0a"] {
            map.add(word, 1);
        }
        assert_eq!(map.len(), 5);
    }

    #[test]
    fn merging_adds_the_counts() {
        let (mut left, mut right) = (WordMap::default(), WordMap::default());
        left.add(b"both", 1);
        right.add(b"both", 2);
        right.add(b"only on the right, and long", 3);
        left.merge(&right);
        assert_eq!(left.sorted(), [(b"both".to_vec(), 3), (b"only on the right, and long".to_vec(), 3)]);
    }
}
