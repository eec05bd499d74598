//! Times learning from saved word counts.
//!
//!     cargo run --release --example learn -- COUNTS VOCAB_SIZE [REPEATS] [TOKENS]
//!
//! Prints the seconds of each run, by the clock and of the processor, and by how much the peak of resident memory rose
//! over the counts themselves (Linux only, elsewhere 0). Writes the tokens, in hexadecimal and one a line, to the file
//! TOKENS, so that two versions can be compared. Does not measure counting.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use nanobpe::{Counts, TieOrder, learn};

/// Kibibytes that `/proc/self/status` gives under `name`.
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok()).unwrap_or(0)
}

/// Seconds that this thread has had a processor: steadier than the clock on a busy machine.
fn cpu_seconds() -> f64 {
    let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    nanoseconds.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0) / 1e9
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, counts, vocab_size, rest @ ..] = &arguments[..] else {
        return Err("usage: learn COUNTS VOCAB_SIZE [REPEATS] [TOKENS]".into());
    };
    let vocab_size: i64 = vocab_size.parse()?;
    let repeats: usize = rest.first().map_or(Ok(1), |repeats| repeats.parse())?;
    let counts = Counts::load(Path::new(counts))?;
    let mut tokens = Vec::new();
    for _ in 0..repeats {
        std::fs::write("/proc/self/clear_refs", "5").ok(); // the peak starts from here
        let before = status("VmRSS");
        let (start, cpu) = (Instant::now(), cpu_seconds());
        tokens = learn(&counts, vocab_size, TieOrder::Bytes, |_| Ok::<(), nanobpe::Error>(()))?.tokens;
        let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!("{wall:.4} s, processor {cpu:.4} s, peak +{} KiB", status("VmHWM").saturating_sub(before));
    }
    if let Some(file) = rest.get(1) {
        let hex = |token: &Vec<u8>| token.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
        std::fs::write(file, tokens.iter().map(hex).collect::<String>())?;
    }
    Ok(())
}
