//! Trains byte-level BPE vocabularies: count the words of a corpus, then learn merges from the counts.
//!
//! Promises: exact greedy BPE (always the most frequent pair; of several, the smallest pair of ids over raw byte
//! values), so the result depends on the text alone, never on threads or on the order of documents; 64-bit counts;
//! no text is dropped; no `unsafe`. Does not cover encoding: any encoder that merges by rank gives the same tokens.
//!
//! Only `py.rs` knows Python; everything else builds and tests without it.

mod blocks;
mod count;
mod counts;
mod encode;
mod error;
mod learn;
#[cfg(feature = "python")]
mod py;
mod scan;
mod split;
mod word_list;
mod words;

pub use count::Counter;
pub use counts::Counts;
pub use encode::{Encoded, Encoder};
pub use error::Error;
pub use learn::{Vocabulary, learn};
pub use split::{GPT4_PATTERN, Splitter};
pub use words::Dropped;
