//! Where a long text may be cut so that the words of its parts are the words of the whole: within a line for the GPT
//! family of patterns, after a line for GPT-4's. Promises to cut nowhere else, however long a part gets. Does not cover
//! other patterns, whose words may lie anywhere.

use memchr::{memchr, memchr_iter, memrchr};

/// Long texts are cut into parts of about this size, so that threads can share them.
pub const PART_BYTES: usize = 256 << 10;

/// The parts of `text`, each of at least `size` bytes but for the last, cut where no word of the GPT family (GPT-2,
/// cl100k, o200k, ours) crosses: before a space that follows something visible.
pub fn parts(text: &str, size: usize) -> impl Iterator<Item = &str> {
    let visible_before = |at: usize, rest: &str| rest[..at].chars().next_back().is_some_and(|c| !c.is_whitespace());
    split_repeatedly(text, move |rest| {
        let tail = rest.as_bytes().get(size..)?;
        memchr_iter(b' ', tail).map(|at| size + at).find(|&at| visible_before(at, rest))
    })
}

/// The parts of `text`, each of at least `size` bytes but for the last, cut where no word of the GPT-4 family (cl100k,
/// o200k, ours) crosses and a document may begin: after a line end that something visible follows. (Not a slash, which
/// o200k joins to the line end.)
pub fn documents(text: &str, size: usize) -> impl Iterator<Item = &str> {
    split_repeatedly(text, move |rest| {
        let mut from = size.saturating_sub(1);
        loop {
            from += memchr(b'\n', rest.as_bytes().get(from..)?)? + 1;
            if rest[from..].chars().next().is_some_and(begins_a_word) {
                return Some(from);
            }
        }
    })
}

fn split_repeatedly(text: &str, cut: impl Fn(&str) -> Option<usize>) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let part;
        (part, rest) = rest.split_at(cut(rest).unwrap_or(rest.len()));
        (!part.is_empty()).then_some(part)
    })
}

/// Where the last of the `documents` of `block` starts; 0 if they are one. The block may end within a character.
pub fn last_cut(block: &[u8]) -> usize {
    let mut end = block.len();
    while let Some(line_end) = memrchr(b'\n', &block[..end]) {
        let after = &block[line_end + 1..block.len().min(line_end + 5)];
        let first = after.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next());
        if first.is_some_and(begins_a_word) {
            return line_end + 1;
        }
        end = line_end;
    }
    0
}

fn begins_a_word(character: char) -> bool {
    !character.is_whitespace() && character != '/'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::{CL100K_PATTERN, GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN, Splitter};

    const KINDS: [&str; 12] = ["\n", "\r\n", " ", "a", "É", "1", "!", "/", "'s", "\u{3000}", "\u{301}", "\u{85}"];

    fn lengths(splitter: &Splitter, text: &str) -> Vec<usize> {
        let mut lengths = Vec::new();
        splitter.split(text, || false, |start, end| lengths.push(end - start)).unwrap();
        lengths
    }

    /// Every text of five kinds, in the parts that `cut` makes of it: they must split as the whole does.
    fn check(patterns: &[&str], cut: impl Fn(&str) -> Vec<&str>) {
        let splitters: Vec<Splitter> = patterns.iter().map(|pattern| Splitter::new(pattern).unwrap()).collect();
        let mut cuts = 0;
        for number in 0..KINDS.len().pow(5) {
            let text: String = (0..5).map(|place| KINDS[number / KINDS.len().pow(place) % KINDS.len()]).collect();
            let parts = cut(&text);
            assert_eq!(parts.concat(), text);
            for splitter in splitters.iter().filter(|_| parts.len() > 1) {
                let apart: Vec<usize> = parts.iter().flat_map(|part| lengths(splitter, part)).collect();
                assert_eq!(apart, lengths(splitter, &text), "{text:?}");
                cuts += 1;
            }
        }
        assert!(cuts > 10_000);
    }

    #[test]
    fn no_word_of_the_gpt_family_crosses_from_part_to_part() {
        check(&[GPT4_PATTERN, CL100K_PATTERN, O200K_PATTERN, GPT2_PATTERN], |text| parts(text, 1).collect());
    }

    #[test]
    fn no_word_of_the_gpt4_family_crosses_from_document_to_document() {
        check(&[GPT4_PATTERN, CL100K_PATTERN, O200K_PATTERN], |text| {
            let documents: Vec<&str> = documents(text, 1).collect();
            assert_eq!(last_cut(text.as_bytes()), text.len() - documents[documents.len() - 1].len(), "{text:?}");
            documents
        });
    }

    #[test]
    fn parts_are_as_long_as_asked_for_and_no_block_is_cut_within_a_character() {
        let text = "line é\n".repeat(100);
        assert!(documents(&text, 50).all(|document| (50..58).contains(&document.len()) || text.ends_with(document)));
        assert!(parts(&text, 50).all(|part| (50..58).contains(&part.len()) || text.ends_with(part)));
        assert_eq!((documents("", 5).count(), parts("", 5).count()), (0, 0));
        assert_eq!(last_cut("a\nb\né".as_bytes().split_last().unwrap().1), 2);
    }
}
