//! Counts words on several threads. Promises the same counts whatever the threads and the order of texts. Does not
//! cover where texts come from: the caller hands them over in batches and may do as it likes in between.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::counts::Counts;
use crate::error::Error;
use crate::split::Splitter;
use crate::words::WordMap;

pub(crate) const MOST_THREADS: usize = 1024;
const MOST_TEXTS_AT_ONCE: usize = 64;

/// Words counted by one thread, over all batches.
struct Worker {
    splitter: Splitter,
    words: WordMap,
}

impl Worker {
    /// Counts texts until none is left; `next` is the first that nobody has taken.
    fn work(&mut self, texts: &[&str], next: &AtomicUsize, at_once: usize) -> Result<(), Error> {
        loop {
            let start = next.fetch_add(at_once, Ordering::Relaxed);
            if start >= texts.len() {
                self.words.settle();
                return Ok(());
            }
            for text in &texts[start..texts.len().min(start + at_once)] {
                let bytes = text.as_bytes();
                self.splitter.split(text, |start, end| self.words.add_at(bytes, start, end))?;
            }
        }
    }
}

/// A count in progress.
pub struct Counter {
    pattern: String,
    total_bytes: u64,
    workers: Vec<Worker>,
}

impl Counter {
    /// Starts counting the words that `pattern` cuts, on `threads` threads (`None`: one per core).
    pub fn new(pattern: &str, threads: Option<i64>) -> Result<Self, Error> {
        let threads = match threads {
            Some(threads) => usize::try_from(threads)
                .ok()
                .filter(|n| (1..=MOST_THREADS).contains(n))
                .ok_or(Error::Threads(threads))?,
            None => thread::available_parallelism().map_or(1, usize::from),
        };
        let splitter = Splitter::new(pattern)?;
        let worker = || Worker { splitter: splitter.clone(), words: WordMap::default() };
        let workers = std::iter::repeat_with(worker).take(threads).collect();
        Ok(Self { pattern: pattern.to_owned(), total_bytes: 0, workers })
    }

    /// Counts a batch of texts.
    pub fn add(&mut self, texts: &[&str]) -> Result<(), Error> {
        self.total_bytes += texts.iter().map(|text| text.len() as u64).sum::<u64>();
        let next = AtomicUsize::new(0);
        let at_once = (texts.len() / (16 * self.workers.len())).clamp(1, MOST_TEXTS_AT_ONCE);
        let Some((first, others)) = self.workers.split_first_mut() else {
            unreachable!("there is at least one worker");
        };
        thread::scope(|scope| {
            let mut handles = Vec::new();
            for worker in others.iter_mut().take(texts.len().saturating_sub(1)) {
                let work = || worker.work(texts, &next, at_once);
                handles.push(thread::Builder::new().spawn_scoped(scope, work)?);
            }
            let mine = first.work(texts, &next, at_once);
            let theirs = handles.into_iter().map(|handle| handle.join().expect("no worker panics"));
            theirs.fold(mine, Result::and)
        })
    }

    /// All counts together.
    pub fn finish(self) -> Counts {
        let words = self.workers.into_iter().map(|worker| worker.words).reduce(|mut all, part| {
            all.merge(&part);
            all
        });
        Counts::new(self.pattern, self.total_bytes, words.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::GPT4_PATTERN;

    fn count(texts: &[&str], threads: i64) -> Counts {
        let mut counter = Counter::new(GPT4_PATTERN, Some(threads)).unwrap();
        counter.add(texts).unwrap();
        counter.finish()
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
    fn a_number_of_threads_that_is_none_is_refused() {
        for threads in [-1, 0, MOST_THREADS as i64 + 1] {
            assert!(matches!(Counter::new(GPT4_PATTERN, Some(threads)), Err(Error::Threads(_))));
        }
    }
}
