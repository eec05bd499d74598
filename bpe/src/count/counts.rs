//! The words of a corpus and how often each occurs: all that learning needs to know of it.
//!
//! Promises that counts made in parts and added are the counts made at once, and that the saved file depends on the
//! text alone (words in order of their bytes). Does not cover integrity beyond its own format: whoever stores the file
//! keeps its digest.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::word_list::WordList;
use super::words::{Dropped, WordMap};
use crate::error::Error;
use crate::save::save;
use crate::split::Splitter;

const MAGIC: &[u8] = b"nanobpe-counts-2\n";
/// Learning adds counts of pairs, of which there are fewer than bytes: below this no sum can overflow.
const MOST_BYTES: u64 = i64::MAX as u64;

/// Word counts of some text, and the pattern that cut it into words.
pub struct Counts {
    pattern: String,
    total_bytes: u64,
    dropped: Dropped,
    words: WordList,
}

impl Counts {
    pub(crate) fn new(pattern: String, total_bytes: u64, dropped: Dropped, words: WordList) -> Self {
        Self { pattern, total_bytes, dropped, words }
    }

    /// The pattern that cut the text.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Bytes of text counted, those of dropped words included.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What counting gave up to stay within its `max_words`.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Number of distinct words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.words.len() == 0
    }

    /// Number of words in the text, dropped ones not counted.
    pub fn occurrences(&self) -> u64 {
        self.words.occurrences()
    }

    /// Calls `each` with every word and its count, in no order that means anything.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], u64)) {
        self.words.iter().for_each(|(word, count)| each(word, count));
    }

    /// Words and counts in order of the words' bytes.
    pub fn sorted(&self) -> Vec<(&[u8], u64)> {
        self.words.sorted()
    }

    /// The counts of both texts together; an error if their patterns differ.
    pub fn plus(&self, other: &Self) -> Result<Self, Error> {
        let mut sum = Sum::of(self);
        sum.add(other)?;
        Ok(sum.finish())
    }

    /// The sum of what is saved in `first` and in `others`, with one of them in memory at a time; the error and the file
    /// that it is about.
    pub fn load_all<'p>(first: &'p Path, others: &'p [PathBuf]) -> Result<Self, (Error, &'p Path)> {
        let load = |path: &'p Path| Self::load(path).map_err(|error| (error, path));
        let counts = load(first)?;
        if others.is_empty() {
            return Ok(counts);
        }
        let mut sum = Sum::of(&counts);
        drop(counts);
        others.iter().try_for_each(|path| sum.add(&load(path)?).map_err(|error| (error, &**path)))?;
        Ok(sum.finish())
    }

    /// Writes the counts to `path`: magic, then pattern, bytes of text, dropped words and occurrences, number of words,
    /// and per word its bytes and count; strings after their length, all numbers 64 bits, little-endian. The file is
    /// whole or absent.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let Dropped { words, occurrences } = self.dropped;
        Ok(save(path, |out| {
            out.write_all(MAGIC)?;
            write_string(out, self.pattern.as_bytes())?;
            for number in [self.total_bytes, words, occurrences, self.len() as u64] {
                out.write_all(&number.to_le_bytes())?;
            }
            self.sorted().into_iter().try_for_each(|(word, count)| {
                write_string(out, word)?;
                out.write_all(&count.to_le_bytes())
            })
        })?)
    }

    /// Reads what `save` wrote; anything else is an error.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let file = std::fs::read(path)?;
        let rest = file.strip_prefix(MAGIC);
        let mut rest = rest.ok_or_else(|| Error::Malformed("it does not start as one of this version".into()))?;
        let pattern = String::from_utf8(take_string(&mut rest)?.to_vec());
        let pattern = pattern.map_err(|_| Error::Malformed("its pattern is not UTF-8".into()))?;
        Splitter::new(&pattern).map_err(|error| Error::Malformed(error.to_string()))?;
        let total_bytes = within_limits(Some(take_u64(&mut rest)?))?;
        let dropped = Dropped { words: take_u64(&mut rest)?, occurrences: take_u64(&mut rest)? };
        let (mut words, mut kept_bytes, mut previous) = (WordList::default(), 0_u64, &b""[..]);
        for _ in 0..take_u64(&mut rest)? {
            let word = take_string(&mut rest)?;
            let count = take_u64(&mut rest)?;
            if word <= previous || count == 0 {
                return Err(Error::Malformed(format!("after the word {previous:?}")));
            }
            let bytes = count.checked_mul(word.len() as u64).and_then(|bytes| bytes.checked_add(kept_bytes));
            kept_bytes = within_limits(bytes)?;
            words.push(word, count);
            previous = word;
        }
        if !rest.is_empty() {
            return Err(Error::Malformed(format!("{} bytes follow the last word", rest.len())));
        }
        let missing = total_bytes.checked_sub(kept_bytes);
        if missing.is_none_or(|bytes| bytes < dropped.occurrences || (bytes == 0) != (dropped.words == 0))
            || dropped.words > dropped.occurrences
        {
            return Err(Error::Malformed(format!("its words have {kept_bytes} bytes, its text {total_bytes}")));
        }
        Ok(Self::new(pattern, total_bytes, dropped, words))
    }
}

/// Counts being added up.
struct Sum {
    pattern: String,
    total_bytes: u64,
    dropped: Dropped,
    words: WordMap,
}

impl Sum {
    fn of(first: &Counts) -> Self {
        let mut words = WordMap::new(usize::MAX);
        first.for_each(|word, count| words.add(word, count));
        Self { pattern: first.pattern.clone(), total_bytes: first.total_bytes, dropped: first.dropped, words }
    }

    fn add(&mut self, more: &Counts) -> Result<(), Error> {
        if self.pattern != more.pattern {
            return Err(Error::PatternsDiffer(self.pattern.clone(), more.pattern.clone()));
        }
        self.total_bytes = within_limits(self.total_bytes.checked_add(more.total_bytes))?;
        self.dropped = self.dropped.plus(more.dropped);
        more.for_each(|word, count| self.words.add(word, count));
        Ok(())
    }

    fn finish(self) -> Counts {
        Counts::new(self.pattern, self.total_bytes, self.dropped, self.words.list())
    }
}

fn within_limits(bytes: Option<u64>) -> Result<u64, Error> {
    let too_large = || Error::TooLarge(format!("the counts stand for more than {MOST_BYTES} bytes of text"));
    bytes.filter(|&bytes| bytes <= MOST_BYTES).ok_or_else(too_large)
}

fn write_string(out: &mut impl Write, string: &[u8]) -> std::io::Result<()> {
    out.write_all(&(string.len() as u64).to_le_bytes())?;
    out.write_all(string)
}

fn take<'f>(rest: &mut &'f [u8], length: u64) -> Result<&'f [u8], Error> {
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let (taken, after) = split.ok_or_else(|| Error::Malformed("it ends too early".into()))?;
    *rest = after;
    Ok(taken)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, Error> {
    let bytes = take(rest, 8)?;
    Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

fn take_string<'f>(rest: &mut &'f [u8]) -> Result<&'f [u8], Error> {
    let length = take_u64(rest)?;
    take(rest, length)
}
