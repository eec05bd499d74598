//! Trains byte-level BPE vocabularies: count the words of a corpus, then learn merges from the counts.
//!
//! Promises: exact greedy BPE (always the most frequent pair; of several, the smallest pair of ids over raw byte
//! values), so the result depends on the text alone, never on threads or on the order of documents; 64-bit counts;
//! no text is dropped. `Encoder` gives the ids of tiktoken's `encode_ordinary`. Does not cover special tokens.
//!
//! Only `py.rs` and `py/` know Python; everything else builds and tests without it.

mod count;
mod cuts;
mod encode;
mod error;
mod key;
mod learn;
#[cfg(feature = "python")]
mod py;
mod save;
mod split;
mod texts;
mod threads;
mod vocabulary;

pub use count::{Counter, Counts, Dropped};
pub use cuts::{PART_BYTES, documents, last_cut, parts};
pub use encode::{Encoded, Encoder};
pub use error::Error;
pub use learn::{TieOrder, Vocabulary, learn};
pub use split::{CL100K_PATTERN, GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, Splitter};
pub use texts::{Location, Texts};
