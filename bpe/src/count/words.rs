//! How often each distinct word occurs: an open-addressing map whose keys lie in the table itself.
//!
//! Promises one probe and no allocation for words of up to 15 bytes (99 % of them), packed with their length into 128
//! bits; 24 bytes a slot, of which at most three quarters are in use. Does not cover removing single words, only all
//! rare ones at once.

use super::prefetch::prefetch;
use super::word_list::WordList;
use crate::key::{INLINE, Key, LONG, hash_long, pack, pack_at, spread};

const FIRST_CAPACITY: usize = 1024;
const BATCH: usize = 64;

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key, // all zero: free, for no word is empty
    count: u64,
}

impl Slot {
    fn is_long(&self) -> bool {
        self.key[1] >> 56 == LONG
    }

    fn long_index(&self) -> usize {
        (self.key[1] & !(LONG << 56)) as usize
    }

    fn hash(&self) -> u64 {
        if self.is_long() { self.key[0] } else { spread(self.key) }
    }

    /// The word, if it is not long, and what follows it.
    fn bytes(&self) -> [u8; 16] {
        (u128::from(self.key[1]) << 64 | u128::from(self.key[0])).to_le_bytes()
    }
}

/// A multiset of words.
pub struct WordMap {
    slots: Vec<Slot>,
    used: usize,
    pending: [Key; BATCH], // short words as they come
    waiting: usize,
    coming: [Key; BATCH], // those before them, whose slots are on their way from memory
    num_coming: usize,
    long: Vec<u8>,
    long_ends: Vec<usize>,
    most: usize,
    dropped: Dropped,
}

/// What was given up to stay within a number of words.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Words; one that came back and was dropped again counts twice.
    pub words: u64,
    /// Their occurrences.
    pub occurrences: u64,
}

impl Dropped {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { words: self.words + other.words, occurrences: self.occurrences + other.occurrences }
    }
}

impl WordMap {
    /// An empty map. When it has more than `most` words, the rarer half goes.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            dropped: Dropped::default(),
            slots: vec![Slot::default(); FIRST_CAPACITY],
            used: 0,
            pending: [Key::default(); BATCH],
            waiting: 0,
            coming: [Key::default(); BATCH],
            num_coming: 0,
            long: Vec::new(),
            long_ends: Vec::new(),
        }
    }

    /// What `most` made it give up.
    pub fn dropped(&self) -> Dropped {
        self.dropped
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
            self.advance();
        }
    }

    /// Counts all words that wait.
    pub fn settle(&mut self) {
        self.advance();
        self.advance();
    }

    /// Asks for the slots of the words that are pending, and counts those before them meanwhile.
    fn advance(&mut self) {
        self.make_room(self.num_coming);
        let mask = self.slots.len() - 1;
        for key in &self.pending[..self.waiting] {
            prefetch(&self.slots[spread(*key) as usize & mask]);
        }
        let coming = self.coming;
        for key in &coming[..self.num_coming] {
            let home = spread(*key) as usize & mask;
            let slot = &mut self.slots[home];
            if slot.key == *key {
                slot.count += 1;
            } else {
                self.count(*key, home, 1);
            }
        }
        self.drop_excess();
        self.coming = self.pending;
        self.num_coming = std::mem::take(&mut self.waiting);
    }

    /// Adds `count` occurrences of `word`, which is not empty.
    pub fn add(&mut self, word: &[u8], count: u64) {
        if word.len() > INLINE {
            return self.add_long(word, count);
        }
        self.make_room(1);
        let key = pack(word);
        self.count(key, spread(key) as usize & (self.slots.len() - 1), count);
        self.drop_excess();
    }

    #[inline]
    fn count(&mut self, key: Key, home: usize, count: u64) {
        let at = self.find(home, |slot| slot.key == key);
        let slot = &mut self.slots[at];
        self.used += usize::from(slot.count == 0);
        slot.key = key;
        slot.count += count;
    }

    fn add_long(&mut self, word: &[u8], count: u64) {
        self.make_room(1);
        let hash = hash_long(word);
        let same = |slot: &Slot| slot.key[0] == hash && slot.is_long() && self.long_word(slot.long_index()) == word;
        let slot = self.find(hash as usize & (self.slots.len() - 1), same);
        if self.slots[slot].count == 0 {
            self.slots[slot].key = [hash, LONG << 56 | self.long_ends.len() as u64];
            self.long.extend_from_slice(word);
            self.long_ends.push(self.long.len());
            self.used += 1;
        }
        self.slots[slot].count += count;
        self.drop_excess();
    }

    fn long_word(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.long_ends[index - 1] };
        &self.long[start..self.long_ends[index]]
    }

    /// The slot whose key is the `same`, or the free one where it belongs, from `home` on.
    #[inline]
    fn find(&self, home: usize, same: impl Fn(&Slot) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = home;
        while self.slots[at].count != 0 && !same(&self.slots[at]) {
            at = (at + 1) & mask;
        }
        at
    }

    #[inline]
    fn drop_excess(&mut self) {
        if self.used > self.most {
            self.drop_rare();
        }
    }

    /// Grows the table if `more` words could fill more than three quarters of it.
    #[inline]
    fn make_room(&mut self, more: usize) {
        if (self.used + more) * 4 > self.slots.len() * 3 {
            self.rebuild(self.slots.len() * 2, |_| true);
        }
    }

    fn rebuild(&mut self, capacity: usize, mut keep: impl FnMut(&Slot) -> bool) {
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); capacity]);
        for slot in old.into_iter().filter(|slot| slot.count != 0 && keep(slot)) {
            let at = self.find(slot.hash() as usize & (capacity - 1), |_| false);
            self.slots[at] = slot;
        }
    }

    /// Drops the rarer half of the words.
    #[cold]
    fn drop_rare(&mut self) {
        let mut counts: Vec<u64> = self.slots.iter().map(|slot| slot.count).filter(|&count| count != 0).collect();
        let half = counts.len().div_ceil(2);
        if half == 0 {
            return;
        }
        let (rarer, &mut middle, _) = counts.select_nth_unstable(half - 1);
        let mut as_rare = 1 + rarer.iter().filter(|&&count| count == middle).count(); // to be dropped, of those
        self.dropped.words += half as u64;
        self.dropped.occurrences += rarer.iter().sum::<u64>() + middle;
        self.used -= half;
        self.rebuild(self.slots.len(), |slot| {
            let goes = slot.count < middle || slot.count == middle && as_rare > 0;
            as_rare -= usize::from(goes && slot.count == middle);
            !goes
        });
        self.pack_long();
    }

    /// Gives back the bytes of long words that were dropped.
    fn pack_long(&mut self) {
        let (old, old_ends) = (std::mem::take(&mut self.long), std::mem::take(&mut self.long_ends));
        for slot in self.slots.iter_mut().filter(|slot| slot.count != 0 && slot.is_long()) {
            let index = slot.long_index();
            let start = if index == 0 { 0 } else { old_ends[index - 1] };
            self.long.extend_from_slice(&old[start..old_ends[index]]);
            slot.key[1] = LONG << 56 | self.long_ends.len() as u64;
            self.long_ends.push(self.long.len());
        }
    }

    /// Calls `each` with every word of the given `part` of `parts`, and its count. Which part a word is in depends on
    /// the word alone.
    pub fn for_each_in(&self, part: usize, parts: usize, mut each: impl FnMut(&[u8], u64)) {
        debug_assert_eq!(self.waiting + self.num_coming, 0, "settle first");
        for slot in self.slots.iter().filter(|slot| slot.count != 0) {
            if parts > 1 && (slot.hash() >> 32) as usize % parts != part {
                continue;
            }
            if slot.is_long() {
                each(self.long_word(slot.long_index()), slot.count);
            } else {
                each(&slot.bytes()[..(slot.key[1] >> 56) as usize], slot.count);
            }
        }
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// All words.
    pub fn list(&self) -> WordList {
        let mut list = WordList::with_capacity(self.used);
        self.for_each_in(0, 1, |word, count| list.push(word, count));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(map: &WordMap) -> Vec<(Vec<u8>, u64)> {
        map.list().sorted().into_iter().map(|(word, count)| (word.to_vec(), count)).collect()
    }

    #[test]
    fn words_of_every_length_are_kept_apart_and_counted() {
        let text: Vec<u8> = (0..64_u32).map(|i| (i * 37 % 251) as u8).collect();
        let mut map = WordMap::new(usize::MAX);
        for round in 1..=3 {
            for length in 1..=40 {
                for start in 0..24 {
                    map.add(&text[start..start + length], round);
                    map.add_at(&text, start, start + length);
                }
            }
        }
        map.settle();
        let words = words(&map);
        assert_eq!(words.len(), 40 * 24);
        assert!(words.iter().all(|(_, count)| *count == 9));
        for (word, _) in &words {
            assert!(text.windows(word.len()).any(|window| window == word));
        }
        let mut parts = WordList::default();
        (0..3).for_each(|part| map.for_each_in(part, 3, |word, count| parts.push(word, count)));
        assert_eq!(parts.sorted(), map.list().sorted());
    }

    #[test]
    fn zero_bytes_at_the_end_make_another_word() {
        let mut map = WordMap::new(usize::MAX);
        for word in [&b"a"[..], b"a\0", b"\0", b"\0\0", b"\0a"] {
            map.add(word, 1);
        }
        assert_eq!(map.list().len(), 5);
    }

    #[test]
    fn too_many_words_cost_the_rare_ones_and_it_says_so() {
        let mut map = WordMap::new(100);
        let word = |i: u64| format!("{i}{}", "x".repeat(i as usize % 30)).into_bytes();
        let (mut words_added, mut added) = (0, 0);
        for i in 0..1000_u64 {
            let count = if i % 20 == 0 { 1000 } else { 1 + i % 3 };
            map.add(&word(i), count);
            (words_added, added) = (words_added + 1, added + count);
        }
        let kept = words(&map);
        assert!(kept.len() <= 100);
        assert_eq!(map.dropped().words + kept.len() as u64, words_added);
        assert_eq!(map.dropped().occurrences + kept.iter().map(|(_, count)| count).sum::<u64>(), added);
        for i in (0..1000).step_by(20) {
            assert!(kept.contains(&(word(i), 1000)), "{i}");
        }
    }
}
