//! Times encoding: `cargo run --release --example encode -- COUNTS VOCAB_SIZE TEXT [REPEATS] [THREADS]`.
//!
//! Learns the vocabulary from saved word counts and encodes a file of texts that null bytes separate, first with an
//! empty cache. Prints each pass and a digest of the ids, so that two versions can be compared.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use nanobpe::{Counts, Encoder, TieOrder, learn};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, counts, vocab_size, text, rest @ ..] = &arguments[..] else {
        return Err("usage: encode COUNTS VOCAB_SIZE TEXT [REPEATS] [THREADS]".into());
    };
    let repeats: usize = rest.first().map_or(Ok(5), |repeats| repeats.parse())?;
    let threads: i64 = rest.get(1).map_or(Ok(1), |threads| threads.parse())?;
    let learnt = learn(&Counts::load(Path::new(counts))?, vocab_size.parse()?, TieOrder::Bytes, |_| {
        Ok::<(), nanobpe::Error>(())
    })?;
    let encoder = Encoder::new(&learnt.pattern, learnt.tokens)?;
    let text = std::fs::read_to_string(text)?;
    let texts: Vec<&str> = text.split('\0').collect();
    for _ in 0..repeats {
        let start = Instant::now();
        let encoded = encoder.encode_batch(&texts, Some(threads), || Ok::<(), nanobpe::Error>(()))?;
        let seconds = start.elapsed().as_secs_f64();
        let digest =
            encoded.ids.iter().fold(0_u64, |digest, id| (digest ^ u64::from(*id)).wrapping_mul(0x100_0000_01B3));
        let speed = text.len() as f64 / seconds / 1e6;
        println!("{seconds:.4} s, {speed:.1} MB/s, {} ids, digest {digest:016x}", encoded.ids.len());
    }
    Ok(())
}
