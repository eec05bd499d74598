//! Many texts end to end in one block of memory, as files and Arrow arrays hold them, so that none of them has to
//! become an object of its own.
//!
//! Promises that every text is UTF-8 and that an error says which text, row or line it is about. Does not cover reading
//! files: the caller hands over their bytes in blocks.

use std::fmt;

use memchr::memchr;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::cuts::{PART_BYTES, documents};
use crate::error::Error;

/// What a place in the input is called: `"text 3"`, `"/data/a.parquet, row 3"`.
#[derive(Clone, Copy)]
pub struct Location<'a> {
    /// What is numbered.
    pub kind: &'a str,
    /// The number of the first of them.
    pub first: u64,
}

impl Location<'_> {
    /// The error that the text number `index` is wrong.
    pub fn error(&self, index: usize, reason: impl fmt::Display) -> Error {
        Error::Text { place: format!("{} {}", self.kind, self.first + index as u64), reason: reason.to_string() }
    }

    /// `bytes` as text; an error that names the number `index` if they are not UTF-8.
    pub fn text<'t>(&self, index: usize, bytes: &'t [u8]) -> Result<&'t str, Error> {
        std::str::from_utf8(bytes).map_err(|error| self.error(index, not_utf8(error.valid_up_to())))
    }
}

fn not_utf8(byte: usize) -> String {
    format!("not UTF-8 at its byte {byte}: decode it from its own encoding first")
}

/// Texts in one block.
#[derive(Default)]
pub struct Texts {
    block: String,
    ends: Vec<usize>,
}

impl Texts {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all texts.
    pub fn num_bytes(&self) -> usize {
        self.block.len()
    }

    /// The texts in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.block[start..end])
    }

    fn push(&mut self, text: &str) {
        self.block.push_str(text);
        self.ends.push(self.block.len());
    }

    /// Takes an Arrow array apart: text `i` is `data[bounds[i]..bounds[i + 1]]`, and none where `is_null(i)`.
    pub fn from_arrow(
        data: Vec<u8>,
        bounds: &[usize],
        is_null: Option<impl Fn(usize) -> bool>,
        place: Location<'_>,
    ) -> Result<Self, Error> {
        let ordered = bounds.windows(2).all(|pair| pair[0] <= pair[1]);
        if bounds.first() != Some(&0) || bounds.last() != Some(&data.len()) || !ordered {
            return Err(place.error(0, "the offsets of its Arrow array are not in order"));
        }
        let data = match (String::from_utf8(data), &is_null) {
            (Ok(block), None) if bounds.iter().all(|&bound| block.is_char_boundary(bound)) => {
                return Ok(Self { block, ends: bounds[1..].to_vec() });
            }
            (Ok(block), _) => block.into_bytes(),
            (Err(error), _) => error.into_bytes(),
        };
        let mut texts = Self::default();
        for (index, pair) in bounds.windows(2).enumerate() {
            if !is_null.as_ref().is_some_and(|is_null| is_null(index)) {
                texts.push(place.text(index, &data[pair[0]..pair[1]])?);
            }
        }
        Ok(texts)
    }

    /// The value of `key` in each line, an object of JSON; and the number of lines. Blank lines are skipped, and a null
    /// is no text.
    pub fn from_json_lines(lines: &[u8], key: &str, place: Location<'_>) -> Result<(Self, usize), Error> {
        let (mut texts, mut rest, mut number) = (Self::default(), lines, 0);
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let line = rest[..end].trim_ascii();
            if !line.is_empty() {
                texts.push_json(line, key).map_err(|error| place.error(number, json_reason(&error)))?;
            }
            (rest, number) = (&rest[end..], number + 1);
        }
        Ok((texts, number))
    }

    fn push_json(&mut self, line: &[u8], key: &str) -> Result<(), serde_json::Error> {
        let mut json = serde_json::Deserializer::from_slice(line);
        let text = json.deserialize_map(Field { key, block: &mut self.block })?;
        json.end()?;
        if text {
            self.ends.push(self.block.len());
        }
        Ok(())
    }

    /// Cuts the text of a file into documents where no word of the GPT-4 family crosses; `start` is where in the file
    /// `block` starts.
    pub fn from_plain_text(block: Vec<u8>, path: &str, start: u64) -> Result<Self, Error> {
        let block = String::from_utf8(block).map_err(|error| Error::Text {
            place: path.to_owned(),
            reason: format!("not UTF-8 at byte {}", start + error.utf8_error().valid_up_to() as u64),
        })?;
        let mut end = 0;
        let ends = documents(&block, PART_BYTES).map(|document| {
            end += document.len();
            end
        });
        let ends = ends.collect();
        Ok(Self { block, ends })
    }
}

fn json_reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
    format!("{reason} (column {})", error.column())
}

/// Appends the string under `key` to `block`; of several, the last. Yields whether there is one, and not null.
struct Field<'a> {
    key: &'a str,
    block: &'a mut String,
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the key {:?}", self.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let start = self.block.len();
        let mut found = None;
        while let Some(wanted) = map.next_key_seed(IsKey(self.key))? {
            if wanted {
                self.block.truncate(start);
                found = Some(map.next_value_seed(Text { key: self.key, block: self.block })?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        found.ok_or_else(|| A::Error::custom(format!("the object has no key {:?}", self.key)))
    }
}

/// Whether a key is this one.
struct IsKey<'a>(&'a str);

impl<'de> serde::de::DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// Appends a string to `block`; false for null.
struct Text<'a> {
    key: &'a str,
    block: &'a mut String,
}

impl<'de> serde::de::DeserializeSeed<'de> for Text<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string under the key {:?}", self.key)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        self.block.push_str(text);
        Ok(true)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Location<'_> = Location { kind: "row", first: 7 };
    fn reason(result: Result<(Texts, usize), Error>) -> String {
        result.err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn an_arrow_array_gives_its_texts_less_the_nulls() {
        let none = None::<fn(usize) -> bool>;
        let texts = Texts::from_arrow("aéb".into(), &[0, 1, 1, 3, 4], none, PLACE).unwrap();
        assert_eq!(texts.iter().collect::<Vec<_>>(), ["a", "", "é", "b"]);
        let texts = Texts::from_arrow(b"a\xFFb".to_vec(), &[0, 1, 2, 3], Some(|i| i == 1), PLACE).unwrap();
        assert_eq!((texts.iter().collect::<Vec<_>>(), texts.num_bytes()), (vec!["a", "b"], 2));
    }

    #[test]
    fn an_arrow_array_that_is_wrong_is_an_error() {
        let none = None::<fn(usize) -> bool>;
        for (data, bounds, message) in [
            (&b"ab\xFF"[..], &[0, 1, 3][..], "row 8: not UTF-8 at its byte 1"),
            ("é".as_bytes(), &[0, 1, 2], "row 7: not UTF-8 at its byte 0"),
            (b"ab", &[0, 2, 1, 2], "not in order"),
            (b"ab", &[0, 3], "not in order"),
            (b"ab", &[1, 2], "not in order"),
            (b"", &[], "not in order"),
        ] {
            let error = Texts::from_arrow(data.to_vec(), bounds, none, PLACE).err().unwrap().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn lines_of_json_give_the_strings_of_their_key() {
        let lines = concat!(
            "{\"text\": \"a\\n\\u00e9\\ud83d\\ude00\", \"n\": [1, {\"text\": 2}]}\r\n\n  \n",
            "{\"text\": \"first\", \"te\\u0078t\": \"last\"}\n{\"text\": null}\n{\"n\": 1.5, \"text\": \"\"}"
        );
        let (texts, number) = Texts::from_json_lines(lines.as_bytes(), "text", PLACE).unwrap();
        assert_eq!(texts.iter().collect::<Vec<_>>(), ["a\né😀", "last", ""]);
        assert_eq!(number, 6);
    }

    #[test]
    fn a_line_that_is_no_such_object_is_an_error_that_names_it() {
        for (line, message) in [
            (&b"{\"text\": \"a\""[..], "row 9: EOF while parsing an object"),
            (b"{\"text\": 5}", "expected a string under the key \"text\""),
            (b"{\"other\": \"a\"}", "the object has no key \"text\""),
            (b"[]", "expected an object with the key \"text\""),
            (b"{\"text\": \"\xFF\"}", "invalid unicode"),
            (b"{\"text\": \"\\ud800\"}", "hex escape"),
            (b"{\"text\": \"a\"} x", "trailing characters (column 15)"),
            (&[b'['; 1 << 20], "expected an object"),
        ] {
            let lines = [b"{\"text\": \"a\"}\n\n", line].concat();
            let reason = reason(Texts::from_json_lines(&lines, "text", PLACE));
            assert!(reason.contains(message), "{reason}");
        }
    }

    #[test]
    fn deep_values_under_other_keys_are_passed_over() {
        let line = [b"{\"deep\": ".to_vec(), vec![b'['; 1 << 18], vec![b']'; 1 << 18], b", \"text\": \"a\"}".to_vec()];
        assert_eq!(Texts::from_json_lines(&line.concat(), "text", PLACE).unwrap().0.len(), 1);
    }

    #[test]
    fn plain_text_that_is_not_utf8_names_the_byte_of_the_file() {
        let error = Texts::from_plain_text(b"abc\xFF".to_vec(), "a.txt", 1000).err().unwrap().to_string();
        assert_eq!(error, "a.txt: not UTF-8 at byte 1003");
    }
}
