//! Trains byte-level BPE vocabularies: count the words of a corpus, then learn merges from the counts.
//!
//! Promises: exact greedy BPE (always the most frequent pair; of several, the smallest pair of ids over raw byte
//! values), so the result depends on the text alone, never on threads or on the order of documents; 64-bit counts;
//! no text is dropped. `Encoder` gives the ids of tiktoken's `encode_ordinary`. Does not cover special tokens.
//!
//! Only `py*.rs` know Python; everything else builds and tests without it.

mod blocks;
mod classes;
mod count;
mod counts;
mod cuts;
mod encode;
mod error;
mod key;
mod learn;
mod prefetch;
#[cfg(feature = "python")]
mod py;
#[cfg(feature = "python")]
mod py_encode;
#[cfg(feature = "python")]
mod py_errors;
#[cfg(feature = "python")]
mod py_texts;
mod save;
mod scan;
mod split;
mod texts;
mod threads;
mod vocabulary;
mod word_list;
mod words;

pub use count::Counter;
pub use counts::Counts;
pub use cuts::{PART_BYTES, documents, last_cut, parts};
pub use encode::{Encoded, Encoder};
pub use error::Error;
pub use learn::{TieOrder, Vocabulary, learn};
pub use split::{CL100K_PATTERN, GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, Splitter};
pub use texts::{Place, Texts};
pub use words::Dropped;
