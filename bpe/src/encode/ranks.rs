//! Which token some bytes are, and so how early a merge that makes them comes: a token's id is its rank.
//!
//! Promises one or two cache lines per question for tokens of up to 15 bytes: a table of hash tags, small enough to
//! stay close to the core, answers most of the many questions whose answer is no. Does not cover merging.

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::key::{INLINE, Key, pack, pack_at, spread};

/// The rank of bytes that are no token.
pub(crate) const NONE: u32 = u32::MAX;
/// Ranks lie above a position of 6 bits in 32 bits while a piece is merged.
pub(crate) const MOST_TOKENS: usize = 1 << 26;

const FREE: u64 = u64::MAX; // no token: its rank would be `NONE`

/// The tokens of a vocabulary by their bytes.
pub(crate) struct Ranks {
    bytes: [u32; 256],
    pairs: Vec<u32>,
    tagged: Vec<u64>, // upper half of the hash, then rank
    packed: Vec<Key>, // by rank; all zero for long tokens
    long: FxHashMap<Vec<u8>, u32>,
    longest: usize,
}

impl Ranks {
    /// Refuses tokens that are empty, equal or too many, and vocabularies without some single byte.
    pub fn new(tokens: Vec<Vec<u8>>) -> Result<Self, Error> {
        check_number(tokens.len())?;
        let mut ranks = Self {
            bytes: [NONE; 256],
            pairs: vec![NONE; 1 << 16],
            tagged: vec![FREE; (tokens.len() * 2).next_power_of_two()],
            packed: vec![[0; 2]; tokens.len()],
            long: FxHashMap::default(),
            longest: tokens.iter().map(Vec::len).max().unwrap_or(0),
        };
        for (rank, token) in tokens.into_iter().enumerate() {
            let former = ranks.insert(token, rank as u32)?;
            if former != NONE {
                return Err(Error::Tokens(format!("token {rank} has the bytes of token {former}")));
            }
        }
        match ranks.bytes.iter().position(|rank| *rank == NONE) {
            Some(byte) => Err(Error::Tokens(format!("the single byte {byte:#04x} is no token, so text may have none"))),
            None => Ok(ranks),
        }
    }

    /// Returns the rank that the bytes had.
    fn insert(&mut self, token: Vec<u8>, rank: u32) -> Result<u32, Error> {
        Ok(match token[..] {
            [] => return Err(Error::Tokens(format!("token {rank} is empty"))),
            [byte] => std::mem::replace(&mut self.bytes[usize::from(byte)], rank),
            [first, second] => std::mem::replace(&mut self.pairs[pair_index(first, second)], rank),
            _ if token.len() <= INLINE => {
                let key = pack(&token);
                let former = self.packed(key);
                if former == NONE {
                    self.insert_packed(key, rank);
                }
                former
            }
            _ => self.long.insert(token, rank).unwrap_or(NONE),
        })
    }

    fn insert_packed(&mut self, key: Key, rank: u32) {
        let mask = self.tagged.len() - 1;
        let hash = spread(key);
        let mut at = hash as usize & mask;
        while self.tagged[at] != FREE {
            at = (at + 1) & mask;
        }
        self.tagged[at] = hash >> 32 << 32 | u64::from(rank);
        self.packed[rank as usize] = key;
    }

    /// The rank of the token with this key, of 3 to `INLINE` bytes.
    #[inline]
    pub fn packed(&self, key: Key) -> u32 {
        let mask = self.tagged.len() - 1;
        let hash = spread(key);
        let mut at = hash as usize & mask;
        loop {
            let tagged = self.tagged[at];
            if tagged == FREE {
                return NONE;
            }
            if tagged >> 32 == hash >> 32 && self.packed[tagged as u32 as usize] == key {
                return tagged as u32;
            }
            at = (at + 1) & mask;
        }
    }

    /// The token of one byte.
    #[inline]
    pub fn byte(&self, byte: u8) -> u32 {
        self.bytes[usize::from(byte)]
    }

    /// The rank of two bytes.
    #[inline]
    pub fn pair(&self, first: u8, second: u8) -> u32 {
        self.pairs[pair_index(first, second)]
    }

    /// The rank of `text[start..end]`, which is not empty.
    #[inline]
    pub fn of(&self, text: &[u8], start: usize, end: usize) -> u32 {
        match end - start {
            1 => self.byte(text[start]),
            2 => self.pair(text[start], text[start + 1]),
            3..=INLINE => self.packed(pack_at(text, start, end)),
            length if length <= self.longest => self.long.get(&text[start..end]).copied().unwrap_or(NONE),
            _ => NONE,
        }
    }
}

fn check_number(tokens: usize) -> Result<(), Error> {
    if tokens > MOST_TOKENS {
        return Err(Error::Tokens(format!("{tokens} tokens are too many: {MOST_TOKENS} at the most")));
    }
    Ok(())
}

fn pair_index(first: u8, second: u8) -> usize {
    usize::from(first) << 8 | usize::from(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single_bytes() -> Vec<Vec<u8>> {
        (0..=255).map(|byte| vec![byte]).collect()
    }

    fn refusal(tokens: Vec<Vec<u8>>) -> String {
        match Ranks::new(tokens) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("not refused"),
        }
    }

    #[test]
    fn tokens_of_every_length_are_found_and_nothing_else() {
        let text: Vec<u8> = (0..=99).collect();
        let mut tokens = single_bytes();
        tokens.extend((2..=50).map(|length| text[..length].to_vec()));
        let ranks = Ranks::new(tokens.clone()).unwrap();
        for start in 0..60 {
            for length in 1..=text.len() - start {
                let expected = tokens.iter().position(|token| *token == text[start..start + length]);
                let found = ranks.of(&text, start, start + length);
                assert_eq!(found, expected.map_or(NONE, |rank| rank as u32), "{start} {length}");
            }
        }
    }

    #[test]
    fn vocabularies_that_cannot_encode_are_refused() {
        assert!(refusal(Vec::new()).contains("0x00"));
        assert!(refusal(single_bytes()[..255].to_vec()).contains("0xff"));
        for token in [&b"a"[..], b"ab", b"abc", b"a token of many bytes"] {
            let tokens = [single_bytes(), vec![token.to_vec(), token.to_vec()]].concat();
            assert!(refusal(tokens).contains("has the bytes of token"));
        }
        assert!(refusal([single_bytes(), vec![Vec::new()]].concat()).contains("token 256 is empty"));
        assert!(check_number(MOST_TOKENS).is_ok() && check_number(MOST_TOKENS + 1).is_err());
    }
}
