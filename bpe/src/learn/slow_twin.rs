//! Learning by its definition: the oracle of the tests and of `examples/fuzz.rs`. Does not cover speed.

use std::cmp::Reverse;
use std::collections::HashMap;

/// The tokens, `size` or as many as there are: counts all pairs, joins the best one from left to right, starts again.
/// `alphabet` is the bytes in order of their ids.
pub fn slow_learn(words: Vec<(&[u8], u64)>, alphabet: &[u8; 256], size: usize) -> Vec<Vec<u8>> {
    let mut ids = [0; 256];
    (0..).zip(alphabet).for_each(|(id, &byte)| ids[usize::from(byte)] = id);
    let mut tokens: Vec<Vec<u8>> = alphabet.iter().map(|&byte| vec![byte]).collect();
    let spelled = |word: &[u8]| word.iter().map(|&byte| ids[usize::from(byte)]).collect();
    let mut words: Vec<(Vec<usize>, u64)> = words.into_iter().map(|(word, count)| (spelled(word), count)).collect();
    while tokens.len() < size {
        let mut pairs = HashMap::<(usize, usize), u64>::new();
        for (word, count) in &words {
            word.windows(2).for_each(|two| *pairs.entry((two[0], two[1])).or_default() += count);
        }
        let best = pairs.iter().min_by_key(|&(pair, count)| (Reverse(*count), *pair));
        let Some((&pair, _)) = best else { break };
        for (word, _) in &mut words {
            let (old, mut at) = (std::mem::take(word), 0);
            while at < old.len() {
                let joins = at + 1 < old.len() && (old[at], old[at + 1]) == pair;
                word.push(if joins { tokens.len() } else { old[at] });
                at += 1 + usize::from(joins);
            }
        }
        tokens.push([&tokens[pair.0][..], &tokens[pair.1]].concat());
    }
    tokens[..256].sort();
    tokens
}
