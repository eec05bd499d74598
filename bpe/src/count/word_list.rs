//! Words and their counts, end to end: the form in which counts are kept once no more are added. Takes 16 bytes a word
//! beside its own bytes. Does not cover looking words up.

/// Words, each with its count, in no order that means anything.
#[derive(Clone, Default)]
pub struct WordList {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    counts: Vec<u64>,
}

impl WordList {
    /// With room for so many words; their bytes come to it.
    pub fn with_capacity(words: usize) -> Self {
        Self { bytes: Vec::new(), ends: Vec::with_capacity(words), counts: Vec::with_capacity(words) }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn push(&mut self, word: &[u8], count: u64) {
        self.bytes.extend_from_slice(word);
        self.ends.push(self.bytes.len());
        self.counts.push(count);
    }

    /// These words and those of `other`.
    pub fn with(mut self, other: Self) -> Self {
        if self.len() == 0 {
            return other;
        }
        other.iter().for_each(|(word, count)| self.push(word, count));
        self
    }

    /// Sum of all counts.
    pub fn occurrences(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).zip(&self.counts).map(|((&start, &end), &count)| (&self.bytes[start..end], count))
    }

    /// Words and counts in order of the words' bytes: the one order that does not depend on how they came in.
    pub fn sorted(&self) -> Vec<(&[u8], u64)> {
        let mut words: Vec<_> = self.iter().collect();
        words.sort_unstable();
        words
    }

    /// The `most` most frequent words, of equals those whose bytes come first.
    pub fn most_frequent(&self, most: usize) -> Self {
        let mut words: Vec<_> = self.iter().collect();
        words.sort_unstable_by(|(left, left_count), (right, right_count)| {
            right_count.cmp(left_count).then_with(|| left.cmp(right))
        });
        let mut kept = Self::default();
        words.into_iter().take(most).for_each(|(word, count)| kept.push(word, count));
        kept
    }
}
