//! Learns merges from word counts: exact greedy BPE, incremental.

mod cells;
mod index;
mod pair;

use crate::counts::Counts;
use crate::error::Error;
use cells::Cells;
use index::Index;
use pair::unpack;

const MOST_CELLS: usize = u32::MAX as usize; // places are 32 bits
const RATIO: u64 = 16;
const WORK_PER_CHECK: usize = 1 << 20;
const WORK_PER_MERGE: usize = 1 << 8;

/// A learnt vocabulary.
pub struct Vocabulary {
    /// Pattern that cuts text into words.
    pub pattern: String,
    /// Bytes of each token by id: the 256 single bytes, then the merges in order.
    pub tokens: Vec<Vec<u8>>,
}

/// Learns a vocabulary of `vocab_size` tokens. Calls `check` every so many merges and stops at its error.
pub fn learn<E: From<Error>>(
    counts: &Counts,
    vocab_size: i64,
    check: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vocabulary, E> {
    let size = usize::try_from(vocab_size).ok().filter(|&size| size >= 256).ok_or(Error::VocabSize(vocab_size))?;
    if counts.is_empty() {
        return Err(Error::EmptyCorpus.into());
    }
    let ratio = std::env::var("RATIO").ok().map_or(RATIO, |r| r.parse().unwrap());
    let ratio0 = std::env::var("RATIO0").ok().map_or(RATIO, |r| r.parse().unwrap());
    let ids = std::array::from_fn(|byte| byte as u32);
    let mut progress = Progress { tokens: 256, work: 0, check };
    let t = std::time::Instant::now();
    let verbose = std::env::var("V").is_ok();
    let mut cells = Cells::lay_out(counts, &ids, MOST_CELLS, &mut progress)?;
    if verbose { eprintln!("laid out {:?}", t.elapsed()); }
    let mut index = Index::build(&cells, 256, (cells.total()/ratio0).max(1), &mut progress)?;
    if verbose { eprintln!("index {:?} T {}", t.elapsed(), index.threshold()); }
    let mut merges = Vec::new();
    let mut joined = Vec::new();
    while progress.tokens < size {
        let Some((pair, range)) = index.pop() else {
            if index.threshold() == 1 {
                return Err(Error::CorpusTooSmall { vocab_size: size, reachable: progress.tokens }.into());
            }
            if verbose { eprintln!("rebuild at {} {:?} {}", progress.tokens, t.elapsed(), index.stat()); }
            let below = index.threshold();
            drop(index);
            cells.compact(&mut progress)?;
            if verbose { eprintln!("  compacted {:?} {}", t.elapsed(), cells.len()); }
            index = Index::build(&cells, progress.tokens, (below / ratio).max((below as f64*(progress.tokens as f64/size as f64).powi(2)) as u64).min(below/2).max(1), &mut progress)?;
            if verbose { eprintln!("  index {:?} T {} {}", t.elapsed(), index.threshold(), index.stat()); }
            continue;
        };
        joined.clear();
        cells.join(pair, index.places(range), &mut joined, &mut progress)?;
        index.update(pair, progress.tokens as u32, &joined, &cells, &mut progress)?;
        merges.push(unpack(pair));
        progress.tokens += 1;
        progress.made(WORK_PER_MERGE)?;
    }
    if verbose { eprintln!("done at {} {:?} {}", progress.tokens, t.elapsed(), index.stat()); }
    let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    for (first, second) in merges {
        tokens.push([&tokens[first as usize][..], &tokens[second as usize]].concat());
    }
    Ok(Vocabulary { pattern: counts.pattern().to_owned(), tokens })
}

/// Calls `check` with the number of tokens learnt, every so much work.
struct Progress<F> {
    tokens: usize,
    work: usize,
    check: F,
}

impl<E, F: FnMut(usize) -> Result<(), E>> Progress<F> {
    #[inline]
    fn made(&mut self, work: usize) -> Result<(), E> {
        self.work += work;
        if self.work >= WORK_PER_CHECK {
            self.work = 0;
            (self.check)(self.tokens)?;
        }
        Ok(())
    }
}
