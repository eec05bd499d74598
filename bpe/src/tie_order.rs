//! Which of several equally frequent pairs is merged first: the smallest pair of ids, where bytes have their values for
//! ids, or their places in the byte-level alphabet of GPT-2.
//!
//! Promises that with the second the merges are those of Hugging Face `tokenizers`. Does not cover learning: it renames
//! the bytes before and after.

use crate::counts::Counts;
use crate::error::Error;
use crate::learn::{Vocabulary, learn};
use crate::word_list::WordList;

/// What the ids of single bytes are while ties are broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TieOrder {
    /// Their values, as in rustbpe.
    Bytes,
    /// Their places in the byte-level alphabet, as in Hugging Face `tokenizers`: the bytes that Latin-1 prints come
    /// first.
    ByteLevel,
}

/// The bytes in order of the characters that stand for them in the byte-level alphabet.
fn byte_level_alphabet() -> impl Iterator<Item = u8> {
    let printed = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    (0..=u8::MAX).filter(printed).chain((0..=u8::MAX).filter(move |byte| !printed(byte)))
}

/// `learn`, with ties broken in `order`.
pub fn learn_in_order<E: From<Error>>(
    counts: &Counts,
    vocab_size: i64,
    order: TieOrder,
    check: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vocabulary, E> {
    if order == TieOrder::Bytes {
        return learn(counts, vocab_size, check);
    }
    let mut place = [0; 256];
    let mut byte_at = [0; 256];
    for (at, byte) in (0..=u8::MAX).zip(byte_level_alphabet()) {
        place[usize::from(byte)] = at;
        byte_at[usize::from(at)] = byte;
    }
    let renamed =
        |bytes: &[u8], names: &[u8; 256]| -> Vec<u8> { bytes.iter().map(|&byte| names[usize::from(byte)]).collect() };
    let mut words = WordList::default();
    counts.for_each(|word, count| words.push(&renamed(word, &place), count));
    let counts = Counts::new(counts.pattern().to_owned(), counts.total_bytes(), counts.dropped(), words);
    let mut learnt = learn(&counts, vocab_size, check)?;
    for token in &mut learnt.tokens {
        *token = renamed(token, &byte_at);
    }
    learnt.tokens[..256].sort_unstable();
    Ok(learnt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counter, GPT4_PATTERN};

    #[test]
    fn the_alphabet_has_every_byte_once_and_space_after_the_letters() {
        let alphabet: Vec<u8> = byte_level_alphabet().collect();
        let mut sorted = alphabet.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..=u8::MAX).collect::<Vec<u8>>());
        assert_eq!((alphabet[0], alphabet[93], alphabet[188], alphabet[220]), (b'!', b'~', 0, b' '));
    }

    #[test]
    fn only_ties_depend_on_the_order() {
        let mut counter = Counter::new(GPT4_PATTERN, Some(1), None).unwrap();
        counter.add(&["a b", " b", "cd", "cd"]).unwrap();
        let counts = counter.finish().unwrap();
        let merges = |order| {
            let learnt = learn_in_order(&counts, 258, order, |_| Ok::<(), Error>(())).unwrap();
            assert!(learnt.tokens.iter().zip(0..=u8::MAX).all(|(token, byte)| token[..] == [byte]));
            learnt.tokens[256..].to_vec()
        };
        assert_eq!(merges(TieOrder::Bytes), [b" b", b"cd"]);
        assert_eq!(merges(TieOrder::ByteLevel), [b"cd", b" b"]);
    }
}
