"""Wall time of training a tokenizer: nanobpe against rustbpe and Hugging Face tokenizers, same text, pattern and size.

    python -m benchmarks.bpe --mb 20 --vocab-size 32768 --threads 2 --repeats 5

Every run is a fresh process that has its text in memory before the clock starts; contenders take turns, so that a busy
machine troubles all of them. Prints medians, bests and ratios of medians, and whether rustbpe's merges are ours. Text:
the documentation and source of the installed Python packages, or the parquet file given by `--corpus`. It does not
measure encoding.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nanobpe

Tokens = list[bytes] | None  # None: ordered by another tie-break, so not comparable


def installed_texts() -> Iterator[str]:
    for folder in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in (".py", ".rst", ".md", ".txt") and path.is_file():
                yield path.read_text(encoding="utf-8", errors="replace")


def parquet_texts(file: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches(batch_size=256, columns=["text"]):
        yield from batch.column(0).to_pylist()


def corpus(options: argparse.Namespace) -> list[str]:
    texts, left = [], int(options.mb * 1e6)
    for text in parquet_texts(options.corpus) if options.corpus else installed_texts():
        texts.append(text)
        left -= len(text.encode())
        if left <= 0:
            return texts
    raise ValueError(f"--mb {options.mb}: the corpus has only {options.mb - left / 1e6:.1f} MB; ask for less")


def train_nanobpe(texts: list[str], options: argparse.Namespace) -> Tokens:
    return nanobpe.train(texts, vocab_size=options.vocab_size, threads=options.threads).tokens


def train_rustbpe(texts: list[str], options: argparse.Namespace) -> Tokens:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), options.vocab_size, pattern=nanobpe.GPT4_PATTERN)
    return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda entry: entry[1])]


def train_huggingface(texts: list[str], options: argparse.Namespace) -> Tokens:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(nanobpe.GPT4_PATTERN), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=options.vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return None


CONTENDERS: dict[str, Callable[[list[str], argparse.Namespace], Tokens]] = {
    "nanobpe": train_nanobpe,
    "rustbpe": train_rustbpe,
    "tokenizers": train_huggingface,
}


def run_one(options: argparse.Namespace) -> None:
    """One run in this process; prints seconds and a digest of the tokens."""
    texts = corpus(options)
    start = time.perf_counter()
    tokens = CONTENDERS[options.only](texts, options)
    seconds = time.perf_counter() - start
    digest = tokens and hashlib.sha256(b"\0".join(tokens)).hexdigest()
    print(json.dumps({"seconds": seconds, "digest": digest}))


def run_all(options: argparse.Namespace) -> None:
    """All contenders in turn, each in a process of its own, then the table."""
    env = os.environ | {"RAYON_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "true"}
    runs: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for _ in range(options.repeats):
        for name, results in runs.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
            results.append(json.loads(done.stdout))
    print(f"{options.mb:g} MB, vocab {options.vocab_size}, {options.threads} threads, {options.repeats} runs each\n")
    print(f"{'trainer':<12}{'median s':>10}{'best s':>10}{'nanobpe is':>14}")
    ours = statistics.median(result["seconds"] for result in runs["nanobpe"])
    for name, results in runs.items():
        seconds = [result["seconds"] for result in results]
        median = statistics.median(seconds)
        print(f"{name:<12}{median:>10.3f}{min(seconds):>10.3f}{median / ours:>13.1f}x")
    same = {result["digest"] for name in ("nanobpe", "rustbpe") for result in runs[name]}
    print(f"\nmerges of nanobpe and rustbpe: {'identical' if len(same) == 1 else 'DIFFERENT'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=20, help="text to train on, in 10^6 bytes")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--corpus", type=Path, help="a parquet file with a column `text`")
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    run_one(options) if options.only else run_all(options)


if __name__ == "__main__":
    main()
