//! Tries to break the crate with text and files that nobody would write:
//!
//!     cargo run --release --example fuzz -- [MINUTES] [FIRST_ROUND]
//!
//! Each round makes its input from its number alone, so a round that fails is run again by giving its number. Compared
//! are: the scanners with the regex engine, counting on three threads with counting word by word, learning and encoding
//! with slow twins that follow the definition, and files with what was saved; readers get damaged files, which they may
//! refuse. Any difference and any panic ends the run. Does not cover the Python face: hypothesis does, in `tests/`.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nanobpe::{
    CL100K_PATTERN, Counter, Counts, Encoder, Error, GPT2_PATTERN, GPT4_PATTERN, Location, O200K_PATTERN, PART_BYTES,
    Splitter, Texts, TieOrder, Vocabulary, documents, last_cut, learn, parts,
};

#[path = "../src/learn/slow_twin.rs"]
mod slow_twin;
use slow_twin::slow_learn;

const PATTERNS: [&str; 4] = [GPT4_PATTERN, CL100K_PATTERN, O200K_PATTERN, GPT2_PATTERN];
const OTHER_PATTERNS: [&str; 3] = [r"\w+|\s+", r"[a-e]+(?=x)|\p{L}", r"."];
const KINDS: &[&str] = &[
    "a",
    "b",
    "e",
    "S",
    "T",
    "ll",
    "ve",
    "é",
    "É",
    "ß",
    "ſ",
    "日",
    "本",
    "ǅ",
    "ʰ",
    "ª",
    "ः",
    "\u{301}",
    "1",
    "7",
    "½",
    "٣",
    " ",
    "  ",
    "\t",
    "\u{a0}",
    "\u{3000}",
    "\u{85}",
    "\n",
    "\r",
    "\r\n",
    "\u{2028}",
    "!",
    "/",
    "'",
    "'s",
    "'LL",
    "’",
    "-",
    "_",
    "😀",
    "\u{200d}",
    "\0",
    "\u{10ffff}",
    "the ",
    "word",
    " and",
];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15); // splitmix64 (Steele, Lea, Flood 2014)
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ mixed >> 31) % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self) -> Vec<u8> {
        let (length, values) = (self.below(300), self.pick(&[4, 128, 256]));
        (0..length).map(|_| self.below(values) as u8).collect()
    }

    /// Of a few kinds of characters, or of any bytes that are UTF-8, or of all code points.
    fn text(&mut self) -> String {
        let length = self.pick(&[3, 20, 200, 1500]);
        match self.below(4) {
            0 => String::from_utf8_lossy(&self.bytes()).into_owned(),
            1 => (0..self.below(length)).filter_map(|_| char::from_u32(self.below(0x11_0000) as u32)).collect(),
            _ => {
                let kinds: Vec<&str> = (0..1 + self.below(8)).map(|_| self.pick(KINDS)).collect();
                (0..self.below(length)).map(|_| self.pick(&kinds)).collect()
            }
        }
    }

    fn texts(&mut self) -> Vec<String> {
        (0..1 + self.below(12)).map(|_| self.text()).collect()
    }

    /// Some bytes changed, removed, repeated or cut off.
    fn damage(&mut self, file: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(file.len().max(1));
            match self.below(5) {
                0 => file.truncate(at),
                1 if at < file.len() => file[at] ^= 1 << self.below(8),
                2 if at < file.len() => file[at] = self.below(256) as u8,
                3 => file.splice(at..at, self.bytes()).for_each(drop),
                _ => drop(file.drain(at..(at + self.below(20)).min(file.len()))),
            }
        }
    }
}

fn pieces(splitter: &Splitter, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    splitter.split(text, || false, |start, end| out.push(text[start..end].to_owned())).expect("a split");
    assert_eq!(out.concat(), text);
    out
}

/// The engine that reads the pattern, where a scanner would be taken.
fn by_regex(pattern: &str) -> Splitter {
    let splitter = Splitter::new(&format!("(?:{pattern})")).expect("a pattern");
    assert!(matches!(splitter, Splitter::Regex(_)));
    splitter
}

fn check_split(random: &mut Random, engines: &[(Splitter, Splitter)], text: &str) {
    for (at, (scanner, regex)) in engines.iter().enumerate() {
        let whole = pieces(scanner, text);
        assert_eq!(whole, pieces(regex, text), "{text:?}");
        let size = 1 + random.below(64);
        let cut: Vec<String> = parts(text, size).flat_map(|part| pieces(scanner, part)).collect();
        assert_eq!(cut, whole, "parts of {size} of {text:?}");
        if PATTERNS[at] != GPT2_PATTERN {
            let cut: Vec<String> = documents(text, size).flat_map(|part| pieces(scanner, part)).collect();
            assert_eq!(cut, whole, "documents of {size} of {text:?}");
        }
    }
    let end = random.below(text.len() + 1);
    let last = last_cut(&text.as_bytes()[..end]);
    let all = [&text[..last], &text[last..]].map(|part| pieces(&engines[0].0, part)).concat();
    assert_eq!(all, pieces(&engines[0].0, text), "cut at {last} of {text:?}");
}

fn count(random: &mut Random, texts: &[&str], pattern: &str, threads: i64, most: Option<i64>) -> Counts {
    let mut counter = Counter::new(pattern, Some(threads), most).expect("a counter");
    let mut rest = texts;
    while !rest.is_empty() {
        let batch;
        (batch, rest) = rest.split_at(1 + random.below(rest.len()));
        counter.add(batch, || Ok::<(), Error>(())).expect("counted");
    }
    counter.finish(|| Ok::<(), Error>(())).expect("counts")
}

fn check_counts(random: &mut Random, texts: &[&str], pattern: &str) -> Counts {
    let mut words = BTreeMap::<Vec<u8>, u64>::new();
    let regex = by_regex(pattern);
    for piece in texts.iter().flat_map(|text| pieces(&regex, text)) {
        *words.entry(piece.into_bytes()).or_default() += 1;
    }
    let expected: Vec<(&[u8], u64)> = words.iter().map(|(word, count)| (&word[..], *count)).collect();
    let counts = count(random, texts, pattern, 1, None);
    assert_eq!(counts.sorted(), expected);
    let mut shuffled = texts.to_vec();
    shuffled.rotate_left(random.below(texts.len()));
    assert_eq!(count(random, &shuffled, pattern, 3, None).sorted(), expected);
    let middle = random.below(texts.len());
    let (left, right) = texts.split_at(middle);
    let halves = [left, right].map(|half| count(random, half, pattern, 2, None));
    assert_eq!(halves[0].plus(&halves[1]).expect("a sum").sorted(), expected);
    let most = 1 + random.below(20) as i64;
    let few = count(random, texts, pattern, 2, Some(most));
    assert!(few.len() as i64 <= most && (counts.len() as i64 > most || few.dropped().words == 0));
    assert_eq!(few.occurrences() + few.dropped().occurrences, counts.occurrences());
    counts
}

fn alphabet(order: TieOrder) -> [u8; 256] {
    let mut bytes = std::array::from_fn(|byte| byte as u8);
    if order == TieOrder::ByteLevel {
        bytes.sort_by_key(|byte| !matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF));
    }
    bytes
}

fn check_learn(random: &mut Random, counts: &Counts) -> Option<Vocabulary> {
    let order = random.pick(&[TieOrder::Bytes, TieOrder::ByteLevel]);
    let size = 256 + random.below(120);
    let expected = slow_learn(counts.sorted(), &alphabet(order), size);
    match learn(counts, size as i64, order, |_| Ok::<(), Error>(())) {
        Ok(learnt) => {
            assert_eq!(learnt.tokens, expected);
            Some(learnt)
        }
        Err(Error::EmptyCorpus) => {
            assert!(counts.is_empty());
            None
        }
        Err(Error::CorpusTooSmall { reachable, .. }) => {
            assert!(expected.len() < size && reachable == expected.len());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The ids of a piece: the whole if it is a token, else the pair of lowest rank is joined until there is none.
fn slow_encode(ranks: &HashMap<&[u8], u32>, piece: &[u8]) -> Vec<u32> {
    if let Some(id) = ranks.get(piece) {
        return vec![*id];
    }
    let mut ends: Vec<usize> = (0..=piece.len()).collect();
    loop {
        let rank = |at: usize| ranks.get(&piece[ends[at]..ends[at + 2]]).map(|rank| (*rank, at));
        let Some((_, at)) = (0..ends.len().saturating_sub(2)).filter_map(rank).min() else { break };
        ends.remove(at + 1);
    }
    ends.windows(2).map(|pair| ranks[&piece[pair[0]..pair[1]]]).collect()
}

fn check_encode(random: &mut Random, learnt: &Vocabulary, texts: &[&str]) {
    let mut tokens = learnt.tokens.clone();
    if random.below(3) == 0 {
        for word in [&b"the wordd"[..], b"eeeee", "日日本".as_bytes(), b"a token of more than sixteen bytes"] {
            if !tokens.iter().any(|token| token == word) {
                tokens.push(word.to_vec()); // that no merges reach
            }
        }
    }
    let encoder = Encoder::new(&learnt.pattern, tokens.clone()).expect("an encoder");
    let ranks: HashMap<&[u8], u32> = tokens.iter().enumerate().map(|(id, token)| (&token[..], id as u32)).collect();
    let regex = by_regex(&learnt.pattern);
    let (mut ids, mut ends, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for text in texts {
        let pieces = pieces(&regex, text);
        if pieces.iter().any(|piece| piece.len() > 4096) {
            continue; // the twin is quadratic
        }
        known.push(*text);
        pieces.iter().for_each(|piece| ids.extend(slow_encode(&ranks, piece.as_bytes())));
        ends.push(ids.len() as u64);
    }
    for threads in [1, 3] {
        let encoded = encoder.encode_batch(&known, Some(threads), || Ok::<(), Error>(())).expect("ids");
        assert_eq!((&encoded.ids, &encoded.ends), (&ids, &ends), "{threads} threads");
    }
}

fn check_files(random: &mut Random, counts: &Counts, learnt: Option<&Vocabulary>, path: &PathBuf) {
    counts.save(path).expect("saved");
    let same = Counts::load(path).expect("loaded");
    assert_eq!((same.sorted(), same.pattern()), (counts.sorted(), counts.pattern()));
    let mut file = std::fs::read(path).expect("a file");
    random.damage(&mut file);
    std::fs::write(path, &file).expect("written");
    if let Ok(loaded) = Counts::load(path) {
        loaded.plus(&loaded).ok();
        learn(&loaded, 300, TieOrder::Bytes, |_| Ok::<(), Error>(())).ok();
    }
    let Some(learnt) = learnt else { return };
    learnt.save(path).expect("saved");
    let same = Vocabulary::load(path).expect("loaded");
    assert_eq!((&same.tokens, &same.pattern), (&learnt.tokens, &learnt.pattern));
    let mut file = std::fs::read(path).expect("a file");
    random.damage(&mut file);
    std::fs::write(path, &file).expect("written");
    if let Ok(loaded) = Vocabulary::load(path) {
        Encoder::new(&loaded.pattern, loaded.tokens).expect("what loads can encode");
    }
}

fn check_readers(random: &mut Random, texts: &[&str]) {
    let place = Location { kind: "line", first: 0 };
    let line = |text: &&str| format!("{{\"other\": [1, {{}}], \"text\": {}}}\n", serde_json::Value::from(*text));
    let mut lines = texts.iter().map(line).collect::<String>().into_bytes();
    let (read, number) = Texts::from_json_lines(&lines, "text", place).expect("texts");
    assert_eq!((read.iter().collect::<Vec<_>>(), number), (texts.to_vec(), texts.len()));
    random.damage(&mut lines);
    if let Ok((read, _)) = Texts::from_json_lines(&lines, "text", place) {
        let objects = lines.split(|byte| *byte == b'\n').map(serde_json::from_slice::<serde_json::Value>);
        let expected: Vec<String> =
            objects.flatten().filter_map(|object| Some(object["text"].as_str()?.to_owned())).collect();
        assert_eq!(read.iter().collect::<Vec<_>>(), expected);
    }
    let bytes = random.bytes();
    Texts::from_json_lines(&bytes, "text", place).ok();
    match Texts::from_plain_text(bytes.clone(), "file", 0) {
        Ok(read) => assert_eq!(read.iter().collect::<String>().into_bytes(), bytes),
        Err(_) => assert!(std::str::from_utf8(&bytes).is_err()),
    }
    let mut bounds: Vec<usize> = (0..1 + random.below(6)).map(|_| random.below(bytes.len() + 2)).collect();
    if random.below(2) == 0 {
        bounds.extend([0, bytes.len()]);
        bounds.sort_unstable();
    }
    let nulls = random.below(64);
    Texts::from_arrow(bytes, &bounds, Some(|row: usize| nulls >> row & 1 == 1), place).ok();
}

fn round(number: u64, engines: &[(Splitter, Splitter)], path: &PathBuf) {
    let random = &mut Random(number.wrapping_mul(0xD134_2543_DE82_EF95));
    let texts = random.texts();
    let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    texts.iter().for_each(|text| check_split(random, engines, text));
    let long = (number.is_multiple_of(64)).then(|| texts.concat().repeat(1 + PART_BYTES / 1024));
    texts.extend(long.as_deref().filter(|long| long.len() < 8 * PART_BYTES));
    let pattern = if random.below(4) == 0 { random.pick(&OTHER_PATTERNS) } else { random.pick(&PATTERNS) };
    let counts = check_counts(random, &texts, pattern);
    let learnt = check_learn(random, &counts);
    if let Some(learnt) = &learnt {
        check_encode(random, learnt, &texts);
    }
    check_files(random, &counts, learnt.as_ref(), path);
    check_readers(random, &texts);
}

fn main() -> Result<(), Infallible> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let (minutes, first) = (arguments.next().unwrap_or(10), arguments.next().unwrap_or(0));
    let engines: Vec<_> =
        PATTERNS.iter().map(|pattern| (Splitter::new(pattern).expect("a pattern"), by_regex(pattern))).collect();
    let path = std::env::temp_dir().join(format!("nanobpe-fuzz-{}", std::process::id()));
    let (started, mut number) = (Instant::now(), first);
    while number == first || started.elapsed() < Duration::from_secs(60 * minutes) {
        if let Err(panic) = std::panic::catch_unwind(|| round(number, &engines, &path)) {
            eprintln!("round {number} failed: cargo run --release --example fuzz -- 0 {number}");
            std::panic::resume_unwind(panic);
        }
        number += 1;
        if number.is_multiple_of(1000) {
            println!("{number} rounds, {} s", started.elapsed().as_secs());
        }
    }
    std::fs::remove_file(&path).ok();
    println!("{} rounds from round {first} on found nothing", number - first);
    Ok(())
}
