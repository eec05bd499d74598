//! Seconds to split and to count a file of text on one thread: `cargo run --release --example count FILE [threads]`.

use std::time::Instant;

use nanobpe::{Counter, GPT4_PATTERN, Splitter};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the path of a text file");
    let threads = arguments.next().map_or(1, |threads| threads.parse().expect("a number of threads"));
    let text = std::fs::read_to_string(path).expect("a text file");
    let texts: Vec<&str> = text.split_inclusive('\0').collect();
    let splitter = Splitter::new(GPT4_PATTERN).expect("a pattern");
    for _ in 0..5 {
        let (start, mut pieces, mut sum) = (Instant::now(), 0_u64, 0_usize);
        for text in &texts {
            splitter
                .split(
                    text,
                    || false,
                    |start, end| {
                        pieces += 1;
                        sum ^= start ^ end;
                    },
                )
                .expect("no error");
        }
        let split = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut counter = Counter::new(GPT4_PATTERN, Some(threads), None).expect("threads");
        for batch in texts.chunks(2048) {
            counter.add(batch, || Ok::<(), nanobpe::Error>(())).expect("counted");
        }
        let counted = start.elapsed().as_secs_f64();
        let counts = counter.finish(|| Ok::<(), nanobpe::Error>(())).expect("counts");
        let all = start.elapsed().as_secs_f64();
        println!(
            "split {split:.3} s ({pieces} pieces, {sum}), count {counted:.3} s, with finish {all:.3} s, {} words",
            counts.len()
        );
    }
}
