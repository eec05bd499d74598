//! Counts words on several threads. Promises the same counts whatever the threads and the order of texts. Does not
//! cover where texts come from: the caller hands them over in batches and may do as it likes in between.

mod counts;
mod prefetch;
mod word_list;
mod words;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Error;
use crate::split::Splitter;
use crate::threads::{number_of_threads, run_workers};
use word_list::WordList;
use words::WordMap;

pub use counts::Counts;
pub use words::Dropped;

const MOST_TEXTS_AT_ONCE: usize = 64;

/// Words counted by one thread, over all batches.
struct Worker {
    splitter: Splitter,
    words: WordMap,
}

impl Worker {
    /// Counts texts until none is left; `next` is the first that nobody has taken.
    fn work(
        &mut self,
        texts: &[&str],
        next: &AtomicUsize,
        at_once: usize,
        give_up: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        loop {
            let start = next.fetch_add(at_once, Ordering::Relaxed);
            if start >= texts.len() || give_up() {
                self.words.settle();
                return Ok(());
            }
            for text in &texts[start..texts.len().min(start + at_once)] {
                let bytes = text.as_bytes();
                self.splitter.split(text, &mut *give_up, |start, end| self.words.add_at(bytes, start, end))?;
            }
        }
    }
}

/// A count in progress.
pub struct Counter {
    pattern: String,
    total_bytes: u64,
    most_words: usize,
    workers: Vec<Worker>,
}

impl Counter {
    /// Starts counting the words that `pattern` cuts, on `threads` threads (`None`: one per core). With `max_words`, at
    /// most so many distinct words are in the result. Whenever a thread has more, but for some 64, it drops the rarer
    /// half; `Counts::dropped` says how much was dropped, and the result then depends on threads and order.
    pub fn new(pattern: &str, threads: Option<i64>, max_words: Option<i64>) -> Result<Self, Error> {
        let threads = number_of_threads(threads)?;
        let most_words = match max_words {
            Some(words) => usize::try_from(words).ok().filter(|&n| n > 0).ok_or(Error::MaxWords(words))?,
            None => usize::MAX,
        };
        let splitter = Splitter::new(pattern)?;
        let worker = || Worker { splitter: splitter.clone(), words: WordMap::new(most_words) };
        let workers = std::iter::repeat_with(worker).take(threads).collect();
        Ok(Self { pattern: pattern.to_owned(), total_bytes: 0, most_words, workers })
    }

    /// Counts a batch of texts. Calls `check` every so often and stops at its error; then a part of it is counted.
    pub fn add<E: From<Error>>(&mut self, texts: &[&str], check: impl FnMut() -> Result<(), E>) -> Result<(), E> {
        self.total_bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
        let next = AtomicUsize::new(0);
        let at_once = (texts.len() / (16 * self.workers.len())).clamp(1, MOST_TEXTS_AT_ONCE);
        let useful = self.workers.len().min(texts.len());
        run_workers(&mut self.workers[..useful], check, |worker, give_up| worker.work(texts, &next, at_once, give_up))
    }

    /// Whether long texts may be cut into `parts`: the pattern is one of those that have a scanner.
    pub fn cuttable(&self) -> bool {
        self.workers.iter().all(|worker| matches!(worker.splitter, Splitter::Scanner(_)))
    }

    /// All counts together. Calls `check` every so often and stops at its error.
    pub fn finish<E: From<Error>>(mut self, check: impl FnMut() -> Result<(), E>) -> Result<Counts, E> {
        let mut dropped =
            self.workers.iter().map(|worker| worker.words.dropped()).fold(Dropped::default(), Dropped::plus);
        let mut words = self.gather(check)?;
        if words.len() > self.most_words {
            let kept = words.most_frequent(self.most_words);
            dropped.words += (words.len() - kept.len()) as u64;
            dropped.occurrences += words.occurrences() - kept.occurrences();
            words = kept;
        }
        Ok(Counts::new(self.pattern, self.total_bytes, dropped, words))
    }

    /// The words of all workers: each thread adds up a part of the alphabet of hashes.
    fn gather<E: From<Error>>(&mut self, check: impl FnMut() -> Result<(), E>) -> Result<WordList, E> {
        self.workers.retain(|worker| !worker.words.is_empty());
        if let [worker] = &self.workers[..] {
            return Ok(worker.words.list());
        }
        let mut parts: Vec<(usize, WordList)> =
            (0..self.workers.len()).map(|part| (part, WordList::default())).collect();
        run_workers(&mut parts, check, |(part, list), give_up| {
            let mut sum = WordMap::new(usize::MAX);
            for worker in &self.workers {
                if !give_up() {
                    worker.words.for_each_in(*part, self.workers.len(), |word, count| sum.add(word, count));
                }
            }
            *list = sum.list();
            Ok(())
        })?;
        Ok(parts.into_iter().fold(WordList::default(), |all, (_, part)| all.with(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::GPT4_PATTERN;

    fn count(texts: &[&str], threads: i64) -> Counts {
        let mut counter = Counter::new(GPT4_PATTERN, Some(threads), None).unwrap();
        counter.add(texts, || Ok::<(), Error>(())).unwrap();
        counter.finish(|| Ok::<(), Error>(())).unwrap()
    }

    #[test]
    fn threads_and_order_change_nothing_and_no_byte_is_lost() {
        let texts: Vec<String> = (0..500).map(|i| format!("Text {i}: {} naïve\n\n", i * i)).collect();
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let one = count(&texts, 1);
        texts.reverse();
        let many = count(&texts, 5);
        assert_eq!(one.sorted(), many.sorted());
        assert_eq!(one.total_bytes(), texts.iter().map(|text| text.len() as u64).sum::<u64>());
        assert_eq!(one.total_bytes(), one.sorted().iter().map(|(word, n)| word.len() as u64 * n).sum::<u64>());
    }

    #[test]
    fn words_beyond_the_most_are_dropped_and_none_is_lost_without_a_word() {
        let text: String = (0..3000).map(|i| format!(" word{} frequent{}", "x".repeat(i % 300), i % 7)).collect();
        for threads in [1, 3] {
            let mut counter = Counter::new(GPT4_PATTERN, Some(threads), Some(50)).unwrap();
            counter.add(&[&text[..], &text[..]], || Ok::<(), Error>(())).unwrap();
            let counts = counter.finish(|| Ok::<(), Error>(())).unwrap();
            let (whole, kept) = (count(&[&text, &text], 1), counts.occurrences());
            assert!(counts.len() <= 50 && counts.dropped().words >= (whole.len() - counts.len()) as u64);
            assert_eq!(kept + counts.dropped().occurrences, whole.occurrences());
            assert_eq!(counts.total_bytes(), whole.total_bytes());
            for word in whole.sorted().into_iter().filter(|(word, _)| word.starts_with(b" frequent")) {
                assert!(counts.sorted().contains(&word), "{word:?}");
            }
        }
        assert!(matches!(Counter::new(GPT4_PATTERN, None, Some(0)), Err(Error::MaxWords(0))));
    }

    #[test]
    fn no_word_is_dropped_where_there_are_not_too_many() {
        let text: String = (0..1000).map(|i| format!(" {} {}", i % 40, "x".repeat(i % 40))).collect();
        let distinct = count(&[&text], 1).len() as i64;
        for most in [distinct, distinct + 1] {
            let mut counter = Counter::new(GPT4_PATTERN, Some(2), Some(most)).unwrap();
            counter.add(&[&text[..]; 9], || Ok::<(), Error>(())).unwrap();
            assert_eq!(counter.finish(|| Ok::<(), Error>(())).unwrap().dropped(), Dropped::default());
        }
    }
}
