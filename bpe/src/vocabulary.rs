//! Saves a vocabulary as JSON and reads it back: tokens in base64, one a line, for a file that tools can compare.
//!
//! Promises that the file is whole or absent, and that what is read is a vocabulary: the 256 bytes first, every other
//! token made of two before it, and no two equal. Does not cover integrity beyond that: whoever stores the file keeps
//! its digest.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::error::Error;
use crate::learn::Vocabulary;
use crate::save::save;
use crate::split::Splitter;

const FORMAT: &str = "nanobpe-vocabulary-1";

impl Vocabulary {
    /// Writes the vocabulary to `path`; the file is whole or absent.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        Ok(save(path, |out| {
            write!(out, "{{\"format\": \"{FORMAT}\",\n \"pattern\": {},\n \"tokens\": [", Value::from(&*self.pattern))?;
            for (id, token) in self.tokens.iter().enumerate() {
                write!(out, "{}\n  \"{}\"", if id == 0 { "" } else { "," }, STANDARD.encode(token))?;
            }
            out.write_all(b"\n ]}\n")
        })?)
    }

    /// Reads what `save` wrote; anything else is an error.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let malformed = |reason: &str| Error::NotAVocabulary(reason.to_owned());
        let file = std::fs::read(path)?;
        let json: Value = serde_json::from_slice(&file).map_err(|error| Error::NotAVocabulary(error.to_string()))?;
        if json["format"] != FORMAT {
            return Err(Error::NotAVocabulary(format!("its \"format\" is not {FORMAT:?}")));
        }
        let pattern = json["pattern"].as_str().ok_or_else(|| malformed("its \"pattern\" is not a string"))?;
        Splitter::new(pattern).map_err(|error| Error::NotAVocabulary(error.to_string()))?;
        let tokens = json["tokens"].as_array().ok_or_else(|| malformed("its \"tokens\" are not a list"))?;
        let bytes = |token: &Value| token.as_str().and_then(|token| STANDARD.decode(token).ok());
        let tokens: Option<Vec<Vec<u8>>> = tokens.iter().map(bytes).collect();
        let tokens = tokens.ok_or_else(|| malformed("a token is not in base64"))?;
        check_tokens(&tokens)?;
        Ok(Self { pattern: pattern.to_owned(), tokens })
    }
}

/// An error unless the 256 bytes come first and every other token is two earlier ones, joined.
fn check_tokens(tokens: &[Vec<u8>]) -> Result<(), Error> {
    let mut known = HashSet::new();
    let mut longest = 1;
    for (id, token) in tokens.iter().enumerate() {
        let splits = token.len().saturating_sub(longest).max(1)..=longest.min(token.len().saturating_sub(1));
        let good = match u8::try_from(id) {
            Ok(byte) => token[..] == [byte],
            Err(_) => splits.into_iter().any(|at| known.contains(&token[..at]) && known.contains(&token[at..])),
        };
        if !good || !known.insert(&token[..]) {
            return Err(Error::NotAVocabulary(format!(
                "token {id} is not made of the tokens before it, or is one of them"
            )));
        }
        longest = longest.max(token.len());
    }
    if tokens.len() < 256 {
        return Err(Error::NotAVocabulary(format!("it has {} tokens, fewer than bytes", tokens.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_bytes_and_then_pairs_of_tokens() {
        let bytes: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let with = |others: &[&[u8]]| [bytes.clone(), others.iter().map(|token| token.to_vec()).collect()].concat();
        assert!(check_tokens(&with(&[b"ab", b"abab", b"ababc", b"cababc"])).is_ok());
        let long = vec![b'a'; 1 << 20];
        for bad in [&[&b""[..]][..], &[b"ab", b"ab"], &[b"a"], &[b"abc"], &[b"ab", b"abcd"], &[&long]] {
            assert!(check_tokens(&with(bad)).is_err(), "{bad:?}");
        }
        assert!(check_tokens(&bytes[..255]).is_err());
        assert!(check_tokens(&bytes[1..]).is_err());
    }
}
