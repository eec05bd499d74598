"""The stage `tokenize`, measured: text.parquet to packed rows on one core, encoded by nanobpe and by tiktoken.

    python -m benchmarks.tokenize_shard                                 # text of the installed Python packages
    python -m benchmarks.tokenize_shard --corpus train.parquet --held-out other.parquet --repeats 5

Learns a tokenizer from one text and runs the stage's work function on another, all of it: reading Parquet, encoding,
packing, writing. Both encoders take turns in one process that is pinned to one core; figures are medians, the rows are
compared byte by byte. It does not measure the store nor the orchestration.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import nanobpe
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bpe import installed_texts, parquet_texts
from benchmarks.encode import first
from nanochat.artifacts.metrics import Metrics
from nanochat.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanochat.pipeline import Tokenize
from nanochat.stages import tokenize
from nanochat.workflow.stage import StageContext


class TiktokenEncoder:
    """tiktoken with the face of nanobpe.Encoder: what the stage would do without it."""

    def __init__(self, tokens: tuple[bytes, ...], pattern: str) -> None:
        self.tokenizer = Tokenizer(tokens, pattern)

    def encode_batch(self, texts: nanobpe.Texts, threads: int) -> tuple[np.ndarray, np.ndarray]:
        lists = self.tokenizer.encode_batch(texts.to_list(), threads)
        return np.concatenate([np.array(ids, np.uint32) for ids in lists]), np.cumsum([0, *map(len, lists)])


ENCODERS = {"nanobpe": nanobpe.Encoder, "tiktoken": TiktokenEncoder}


def run(name: str, stage: Tokenize, place: StageContext) -> float:
    """Seconds of the stage."""
    place.out.mkdir()
    with mock.patch.object(nanobpe, "Encoder", ENCODERS[name]):
        start = time.perf_counter()
        tokenize.run(stage, place)
        return time.perf_counter() - start


def texts_of(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """To learn from, and to encode."""
    if options.corpus:
        return first(parquet_texts(options.corpus), 200), first(parquet_texts(options.held_out), options.mb)
    installed = first(installed_texts(), 2 * options.mb)
    return installed[1::2], installed[::2]


def places(options: argparse.Namespace, folder: Path) -> Iterator[StageContext]:
    train, texts = texts_of(options)
    for name in ("tokenizer", "text", "work"):
        (folder / name).mkdir()
    tokens = nanobpe.train(train, vocab_size=options.vocab_size - len(SPECIAL_TOKENS)).tokens
    Tokenizer(tuple(tokens)).save(folder / "tokenizer" / "tokenizer.json")
    pq.write_table(pa.table({"text": texts}), folder / "text" / "text.parquet", row_group_size=1024)
    print(f"{sum(len(text.encode()) for text in texts) / 1e6:.1f} MB in {len(texts)} documents, one core\n")
    del train, texts
    inputs = {"tokenizer": folder / "tokenizer", "download": folder / "text"}
    metrics = Metrics(folder / "work" / "metrics.jsonl")
    number = 0
    while True:
        yield StageContext(inputs, {}, folder / f"out{number}", folder / "work", metrics, part=1)
        number += 1


def amount(folder: Path) -> tuple[int, int]:
    """Bytes and tokens of the text, those included that the packing drops."""
    tokenizer = Tokenizer.from_file(folder / "tokenizer" / "tokenizer.json")
    texts = list(parquet_texts([folder / "text" / "text.parquet"]))
    return sum(len(text.encode()) for text in texts), sum(map(len, tokenizer.encode_batch(texts)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=50, help="text to tokenize, in 10^6 bytes")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--sequence-len", type=int, default=2048)
    parser.add_argument("--packing", choices=["best_fit", "stream"], default="best_fit")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--corpus", type=Path, nargs="+", help="parquet files with a column `text`, to learn from")
    parser.add_argument("--held-out", type=Path, nargs="+", help="the same, to tokenize")
    options = parser.parse_args()
    if (options.corpus is None) != (options.held_out is None):
        parser.error("--corpus and --held-out go together")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    stage = Tokenize(sequence_len=options.sequence_len, packing=options.packing, threads=1)
    seconds: dict[str, list[float]] = {name: [] for name in ENCODERS}
    rows = set()
    with tempfile.TemporaryDirectory() as folder:
        place = places(options, Path(folder))
        for name in list(ENCODERS) * options.repeats:
            here = next(place)
            seconds[name].append(run(name, stage, here))
            rows.add((here.out / "rows.bin").read_bytes())
            (here.out / "rows.bin").unlink()
        text, tokens = amount(Path(folder))
    print("| encoder | seconds | MB/s | million tokens/s | times tiktoken |\n|---|---|---|---|---|")
    base = statistics.median(seconds["tiktoken"])
    for name, all_seconds in seconds.items():
        took = statistics.median(all_seconds)
        print(f"| {name} | {took:.2f} | {text / took / 1e6:.1f} | {tokens / took / 1e6:.2f} | {base / took:.1f} |")
    print(f"\nThe rows {'are the same' if len(rows) == 1 else 'DIFFER'}.")


if __name__ == "__main__":
    main()
