//! Text to token ids, on several threads.
//!
//! Promises the ids of tiktoken's `encode_ordinary`, whatever the threads and the batches: a piece that is a token is
//! that token, any other is merged by rank. Text that the pattern does not match is a piece as well, where tiktoken
//! drops it. Each thread keeps a cache of bounded size over batches (`cache.rs`). Does not cover special tokens, whose
//! names are text like any other, nor decoding.

mod cache;
mod merge;
mod ranks;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::split::Splitter;
use crate::threads::{number_of_threads, run_workers};
use cache::{Cache, Piece};
use merge::Merger;
use ranks::{NONE, Ranks};

const PIECES: usize = 64; // looked up together
const CHUNK_BYTES: usize = 1 << 18; // of text, claimed by a thread together
const MOST_IDS_KEPT: usize = 1 << 22; // capacity of a worker's output that the next batch may use

/// The tokens of a batch of texts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids of all texts, one text after the other.
    pub ids: Vec<u32>,
    /// Where in `ids` each text ends, which is where the next one starts.
    pub ends: Vec<u64>,
}

/// A vocabulary and a pattern, ready to encode.
pub struct Encoder {
    splitter: Splitter,
    ranks: Ranks,
    idle: Mutex<Vec<Worker>>,
}

/// What one thread needs, and what it made of its texts.
struct Worker {
    splitter: Splitter,
    batch: Batch,
    ids: Vec<u32>,
    ends: Vec<usize>,   // of each text in `ids`
    chunks: Vec<usize>, // that it took, by number
}

/// Pieces on their way through the cache.
struct Batch {
    start: usize, // of the first piece, in its text
    ends: [usize; PIECES],
    number: usize,
    pieces: [Piece; PIECES],
    cache: Cache,
    merger: Merger,
}

impl Encoder {
    /// Prepares an encoder for `tokens` by id: distinct, not empty, all 256 single bytes among them.
    pub fn new(pattern: &str, tokens: Vec<Vec<u8>>) -> Result<Self, Error> {
        let splitter = Splitter::new(pattern)?;
        Ok(Self { splitter, ranks: Ranks::new(tokens)?, idle: Mutex::default() })
    }

    /// Encodes texts on `threads` threads (`None`: one per core). Calls `check` every so many texts and stops at its
    /// error.
    pub fn encode_batch<E: From<Error>>(
        &self,
        texts: &[&str],
        threads: Option<i64>,
        check: impl FnMut() -> Result<(), E>,
    ) -> Result<Encoded, E> {
        self.encode_with(texts, threads, check, |parts| {
            let mut encoded = Encoded { ids: Vec::with_capacity(parts.len()), ends: Vec::with_capacity(texts.len()) };
            parts.for_each(|ids, ends| {
                let before = encoded.ids.len();
                encoded.ids.extend_from_slice(ids);
                encoded.ends.extend(ends.map(|end| (before + end) as u64));
            });
            encoded
        })
    }

    /// Encodes texts and hands the parts to `take`, so that they need be copied but once.
    pub(crate) fn encode_with<T, E: From<Error>>(
        &self,
        texts: &[&str],
        threads: Option<i64>,
        check: impl FnMut() -> Result<(), E>,
        take: impl FnOnce(&Parts) -> T,
    ) -> Result<T, E> {
        let chunks = chunks(texts);
        let mut workers = self.workers(number_of_threads(threads)?.min(chunks.len()));
        let queue = Queue { texts, chunks: &chunks, next: &AtomicUsize::new(0) };
        let done = run_workers(&mut workers, check, |worker, give_up| worker.work(&self.ranks, queue, give_up));
        let taken = done.map(|()| take(&Parts::new(&workers, &chunks)));
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(workers.into_iter().map(Worker::rested));
        taken
    }

    /// Workers that have rested, and new ones where there are not enough.
    fn workers(&self, number: usize) -> Vec<Worker> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.len().saturating_sub(number);
        let mut workers = idle.split_off(kept);
        workers.resize_with(number, || Worker::new(self.splitter.clone()));
        workers
    }
}

/// Texts that threads take in chunks.
#[derive(Clone, Copy)]
struct Queue<'a> {
    texts: &'a [&'a str],
    chunks: &'a [Range<usize>],
    next: &'a AtomicUsize,
}

impl<'a> Queue<'a> {
    fn take(&self) -> Option<(usize, &'a [&'a str])> {
        let chunk = self.next.fetch_add(1, Ordering::Relaxed);
        self.chunks.get(chunk).map(|range| (chunk, &self.texts[range.clone()]))
    }
}

impl Worker {
    fn new(splitter: Splitter) -> Self {
        let batch = Batch {
            start: 0,
            ends: [0; PIECES],
            number: 0,
            pieces: [Piece::EMPTY; PIECES],
            cache: Cache::default(),
            merger: Merger::default(),
        };
        Self { splitter, batch, ids: Vec::new(), ends: Vec::new(), chunks: Vec::new() }
    }

    fn work(&mut self, ranks: &Ranks, queue: Queue, give_up: &mut dyn FnMut() -> bool) -> Result<(), Error> {
        while let Some((chunk, texts)) = queue.take() {
            self.chunks.push(chunk);
            texts.iter().try_for_each(|text| self.encode(ranks, text, &mut *give_up))?;
            if give_up() {
                break;
            }
        }
        Ok(())
    }

    fn encode(&mut self, ranks: &Ranks, text: &str, give_up: &mut dyn FnMut() -> bool) -> Result<(), Error> {
        let (batch, ids, bytes) = (&mut self.batch, &mut self.ids, text.as_bytes());
        batch.start = 0;
        let give_up = RefCell::new(give_up);
        let asked = || (*give_up.borrow_mut())();
        let split = self.splitter.split(text, asked, |_, end| {
            batch.ends[batch.number % PIECES] = end;
            batch.number += 1;
            if batch.number == PIECES {
                batch.flush(ranks, bytes, asked, ids);
            }
        });
        batch.flush(ranks, bytes, asked, ids);
        self.ends.push(ids.len());
        split
    }

    /// The worker, ready for the next batch.
    fn rested(mut self) -> Self {
        self.ids.clear();
        self.ids.shrink_to(MOST_IDS_KEPT);
        self.ends = Vec::new();
        self.chunks = Vec::new();
        self
    }
}

impl Batch {
    /// Appends the tokens of the pieces to `out`.
    #[inline(never)]
    fn flush(&mut self, ranks: &Ranks, text: &[u8], give_up: impl Fn() -> bool, out: &mut Vec<u32>) {
        self.cache.make_room(PIECES);
        let pieces = &mut self.pieces[..self.number];
        for (piece, end) in pieces.iter_mut().zip(self.ends) {
            *piece = Piece::new(text, self.start, end);
            self.start = end;
        }
        std::hint::black_box(self.cache.touch(pieces));
        let mut known = [0; 3 * PIECES + 1];
        let mut length = 0;
        for piece in &*pieces {
            if let Some((ids, number)) = self.cache.first(piece) {
                known[length..length + 4].copy_from_slice(&ids);
                length += number;
            } else {
                out.extend_from_slice(&known[..length]);
                length = 0;
                if !self.cache.append(text, piece, out) {
                    let start = out.len();
                    encode_piece(ranks, &mut self.merger, &text[piece.start..piece.end], &give_up, out);
                    self.cache.insert(text, piece, &out[start..]);
                }
            }
        }
        out.extend_from_slice(&known[..length]);
        self.number = 0;
    }
}

/// A piece that is a token is that token, even if merges would not reach it.
fn encode_piece(ranks: &Ranks, merger: &mut Merger, piece: &[u8], give_up: impl Fn() -> bool, out: &mut Vec<u32>) {
    match ranks.of(piece, 0, piece.len()) {
        NONE => merger.merge(ranks, piece, give_up, out),
        token => out.push(token),
    }
}

/// What the workers made, to be read in the order of the texts.
pub(crate) struct Parts<'a> {
    parts: Vec<(usize, &'a [u32], &'a [usize], usize)>,
}

impl<'a> Parts<'a> {
    fn new(workers: &'a [Worker], chunks: &[Range<usize>]) -> Self {
        let mut parts = Vec::new();
        for worker in workers {
            let (mut text, mut start) = (0, 0);
            for &chunk in &worker.chunks {
                let ends = &worker.ends[text..text + chunks[chunk].len()];
                let end = ends.last().copied().unwrap_or(start);
                parts.push((chunk, &worker.ids[start..end], ends, start));
                (text, start) = (text + ends.len(), end);
            }
        }
        parts.sort_unstable_by_key(|part| part.0);
        Self { parts }
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.1.len()).sum()
    }

    /// Calls `each` with the ids of some texts and where in them each text ends.
    pub fn for_each(&self, mut each: impl FnMut(&[u32], &mut dyn Iterator<Item = usize>)) {
        for (_, ids, ends, start) in &self.parts {
            each(ids, &mut ends.iter().map(|end| end - start));
        }
    }
}

/// Runs of texts of `CHUNK_BYTES` and more.
fn chunks(texts: &[&str]) -> Vec<Range<usize>> {
    let (mut chunks, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, text) in texts.iter().enumerate() {
        bytes += text.len();
        if bytes >= CHUNK_BYTES || at + 1 == texts.len() {
            chunks.push(start..at + 1);
            (start, bytes) = (at + 1, 0);
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::GPT4_PATTERN;

    fn encoder(pattern: &str, merges: &[&str]) -> Encoder {
        let bytes = (0..=255).map(|byte| vec![byte]);
        Encoder::new(pattern, bytes.chain(merges.iter().map(|token| token.as_bytes().to_vec())).collect()).unwrap()
    }

    fn encode(encoder: &Encoder, texts: &[&str], threads: i64) -> Encoded {
        let done: Result<Encoded, Error> = encoder.encode_batch(texts, Some(threads), || Ok(()));
        done.unwrap()
    }

    #[test]
    fn a_piece_that_is_a_token_needs_no_merges() {
        let encoder = encoder(GPT4_PATTERN, &["the", "he", "th"]);
        let ids = |text: &str| encode(&encoder, &[text], 1).ids;
        assert_eq!(ids("the"), [256]);
        assert_eq!(ids("thethe"), [256, 256]); // h and e first, then t and he
        assert_eq!(ids("thh"), [258, 104]);
    }

    #[test]
    fn threads_and_batches_change_nothing() {
        let encoder = encoder(GPT4_PATTERN, &["he", " t", " the", "er", "12", "  ", "    "]);
        let texts: Vec<String> = (0..3000).map(|i| "the other  12\n".repeat(i * 7919 % 400)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let whole = encode(&encoder, &texts, 1);
        assert_eq!(whole, encode(&encoder, &texts, 3));
        assert_eq!(whole, encode(&encoder, &texts, 64));
        let mut parts = Encoded::default();
        for batch in texts.chunks(7) {
            let part = encode(&encoder, batch, 2);
            parts.ends.extend(part.ends.iter().map(|end| parts.ids.len() as u64 + end));
            parts.ids.extend(part.ids);
        }
        assert_eq!(whole, parts);
        assert_eq!(whole.ends.len(), texts.len());
    }

    #[test]
    fn nothing_in_nothing_out() {
        let encoder = encoder(GPT4_PATTERN, &[]);
        assert_eq!(encode(&encoder, &[], 2), Encoded::default());
        assert_eq!(encode(&encoder, &["", "", "a", ""], 2), Encoded { ids: vec![97], ends: vec![0, 0, 1, 1] });
    }

    #[test]
    fn what_is_refused_leaves_the_encoder_in_order() {
        let encoder = encoder(r"(?=(a|aa)+$)\1b|b", &[]);
        let text = "a".repeat(10_000) + "c";
        let refused: Result<Encoded, Error> = encoder.encode_batch(&["b", &text], Some(2), || Ok(()));
        assert!(matches!(refused, Err(Error::Pattern { .. })));
        let refused: Result<Encoded, Error> = encoder.encode_batch(&["b"], Some(2), || Err(Error::EmptyCorpus));
        assert!(matches!(refused, Err(Error::EmptyCorpus)));
        let refused: Result<Encoded, Error> = encoder.encode_batch(&["b"], Some(0), || Ok(()));
        assert!(matches!(refused, Err(Error::Threads(0))));
        assert_eq!(encode(&encoder, &["bb"], 1).ids, [98, 98]);
    }
}
