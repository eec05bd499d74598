//! How often each distinct word occurs: an open-addressing map whose keys lie in the table itself.
//!
//! Promises one probe and no allocation for words of up to 15 bytes (99 % of them), packed with their length into 128
//! bits. Does not cover removal.

pub(crate) const INLINE: usize = 15;
const LONG: u64 = 0xFF; // length byte of a word that lies in `long`
const FIRST_CAPACITY: usize = 1024;
// Odd constants with no structure (the golden ratio and the square root of 2, in 64 bits).
const SALT: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0x6A09_E667_F3BC_C909];

/// Either the bytes of a word and, in the top byte, its length; or a hash and, under `LONG`, an index into `long`.
pub(crate) type Key = [u64; 2];

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key, // all zero: free, for no word is empty
    count: u64,
}

/// A multiset of words.
#[derive(Clone, Default)]
pub struct WordMap {
    slots: Vec<Slot>,
    used: usize,
    long: Vec<Box<[u8]>>,
}

impl WordMap {
    /// Number of distinct words.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Adds `count` occurrences of `word`, which is not empty.
    #[inline]
    pub fn add(&mut self, word: &[u8], count: u64) {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        if word.len() <= INLINE {
            let key = pack(word);
            let slot = self.find(spread(key), |other| other == key);
            self.used += usize::from(self.slots[slot].count == 0);
            self.slots[slot].key = key;
            self.slots[slot].count += count;
        } else {
            self.add_long(word, count);
        }
    }

    fn add_long(&mut self, word: &[u8], count: u64) {
        let hash = hash_long(word);
        let same = |[low, high]: Key| low == hash && high >> 56 == LONG && *self.long[long_index([low, high])] == *word;
        let slot = self.find(hash, same);
        if self.slots[slot].count == 0 {
            self.slots[slot].key = [hash, LONG << 56 | self.long.len() as u64];
            self.long.push(word.into());
            self.used += 1;
        }
        self.slots[slot].count += count;
    }

    /// The slot whose key is the `same`, or the free one where a key of this `hash` belongs.
    #[inline]
    fn find(&self, hash: u64, same: impl Fn(Key) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at].count != 0 && !same(self.slots[at].key) {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let capacity = (self.slots.len() * 2).max(FIRST_CAPACITY);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); capacity]);
        for slot in old.into_iter().filter(|slot| slot.count != 0) {
            let hash = if slot.key[1] >> 56 == LONG { slot.key[0] } else { spread(slot.key) };
            let at = self.find(hash, |_| false);
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
                each(&self.long[long_index(slot.key)], slot.count);
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

fn long_index(key: Key) -> usize {
    (key[1] & !(LONG << 56)) as usize
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

/// `pack(&text[start..end])` of at most `INLINE` bytes, by one load and no branch on the length where it can.
#[inline]
pub(crate) fn pack_at(text: &[u8], start: usize, end: usize) -> Key {
    let n = end - start;
    match text.get(start..start + 16) {
        Some(bytes) => {
            let bytes: [u8; 16] = bytes.try_into().expect("16 bytes");
            let kept = u128::from_le_bytes(bytes) & ((1 << (8 * n)) - 1);
            [kept as u64, (kept >> 64) as u64 | (n as u64) << 56]
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
