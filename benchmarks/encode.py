"""Encoding text, measured: nanobpe against tiktoken, Hugging Face tokenizers and gigatoken, same vocabulary and text.

    python -m benchmarks.encode                                         # text of the installed Python packages
    python -m benchmarks.encode --corpus train.parquet --held-out other.parquet --mb 50 --repeats 5

Learns a vocabulary from one text and encodes another: one document after the other, and all in one batch on one and on
two threads, cold (the first pass of a fresh process) and warm (the median of the passes after it). Contenders take
turns, so that a busy machine troubles all of them; figures are medians over runs, ratios against tiktoken's figure for
the same way. Each gives what it gives to its users: tiktoken and tokenizers lists, gigatoken an array for each text,
nanobpe one for the batch.
Trailing white space is cut from the documents and digit groups are of three by default, for gigatoken splits in no
other way; tokenizers is slow, gets a tenth of the text and runs once. It does not measure training. Needs Linux.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import nanobpe
import numpy as np

from benchmarks.bpe import installed_texts, parquet_texts

WAYS = {"one document at a time": 1, "batch, 1 thread": 1, "batch, 2 threads": 2}
SLOW_SHARE = 10  # tokenizers gets one in so many bytes
WARM_PASSES = 3

Encode = Callable[[list[str]], Any]
"""Encodes texts; what it returns is for `ids_of`."""


def nanobpe_encode(tokens: list[bytes], pattern: str, batch: bool, threads: int) -> tuple[Encode, Encode]:
    encoder = nanobpe.Encoder(tokens, pattern)
    if batch:
        return lambda texts: encoder.encode_batch(texts, threads), lambda out: out[0]
    return lambda texts: [encoder.encode(text) for text in texts], np.concatenate


def tiktoken_encode(tokens: list[bytes], pattern: str, batch: bool, threads: int) -> tuple[Encode, Encode]:
    import tiktoken

    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("benchmark", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    if batch:
        return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=threads), flat
    return lambda texts: [encoding.encode_ordinary(text) for text in texts], flat


def gigatoken_encode(tokens: list[bytes], pattern: str, batch: bool, threads: int) -> tuple[Encode, Encode]:
    import gigatoken

    with tempfile.NamedTemporaryFile(suffix=".tiktoken") as file:
        file.write(b"".join(b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
        file.flush()
        encoder = gigatoken.Tokenizer.from_tiktoken(file.name, "cl100k")
    if batch:
        return lambda texts: encoder.encode_batch(texts, parallel=threads > 1), np.concatenate
    return lambda texts: [encoder.encode(text) for text in texts], np.concatenate


def tokenizers_encode(tokens: list[bytes], pattern: str, batch: bool, threads: int) -> tuple[Encode, Encode]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    names = [spelled(token) for token in tokens]
    vocabulary = {name: rank for rank, name in enumerate(names)}
    merges = [tuple(map(spelled, pair)) for pair in pairs_of(tokens)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    if batch:
        return tokenizer.encode_batch, lambda out: flat([one.ids for one in out])
    return lambda texts: [tokenizer.encode(text).ids for text in texts], flat


CONTENDERS: dict[str, Callable[[list[bytes], str, bool, int], tuple[Encode, Encode]]] = {
    "nanobpe": nanobpe_encode,
    "tiktoken": tiktoken_encode,
    "gigatoken": gigatoken_encode,
    "tokenizers": tokenizers_encode,
}


def flat(lists: Iterable[list[int]]) -> np.ndarray:
    return np.array([token for ids in lists for token in ids], np.uint32)


def spelled(token: bytes) -> str:
    """Each byte as the character that tokenizers has for it."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return "".join(chr(byte if byte in visible else 256 + hidden.index(byte)) for byte in token)


def pairs_of(tokens: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The two tokens that each learnt token was merged from: what is left of it when all earlier merges are made."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for token in tokens[256:]:
        parts = [token[at : at + 1] for at in range(len(token))]
        while len(parts) > 2:
            joined = [ranks.get(parts[at] + parts[at + 1], len(ranks)) for at in range(len(parts) - 1)]
            at = joined.index(min(joined))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        yield parts[0], parts[1]


def run_one(job: Path, name: str, way: str) -> None:
    """One run in this process: seconds of each pass, tokens, and a digest of the ids of the first texts."""
    task = json.loads(job.read_text(encoding="utf-8"))
    tokens = [b64decode(token) for token in task["tokens"]]
    texts = task["texts"][: task["few"]] if name == "tokenizers" else task["texts"]
    threads = WAYS[way]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    encode, ids_of = CONTENDERS[name](tokens, task["pattern"], way.startswith("batch"), threads)
    encode(["imports, tables"])
    seconds, out = [], None
    for _ in range(1 + WARM_PASSES):
        out = None  # let go before the clock starts
        start = time.perf_counter()
        out = encode(texts)
        seconds.append(time.perf_counter() - start)
        if name == "tokenizers":
            break
    count = len(ids_of(out))
    digest = hashlib.sha256(ids_of(encode(texts[: task["few"]])).tobytes()).hexdigest()
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"seconds": seconds, "tokens": count, "bytes": size, "digest": digest}))


def run_all(job: Path, names: list[str], repeats: int) -> None:
    """All contenders in turn, each in a process of its own, then a table for every way."""
    for way, threads in WAYS.items():
        if threads > len(os.sched_getaffinity(0)):
            print(f"{way}: skipped, there are not so many cores\n")
            continue
        env = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
        runs: dict[str, list[dict]] = {name: [] for name in names}
        for turn in range(repeats):
            for name in names:
                if turn and name == "tokenizers":
                    continue
                command = [sys.executable, "-m", "benchmarks.encode", "--run", str(job), name, way]
                done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, encoding="utf-8")
                if done.returncode:
                    print(f"{way}: {name} failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                else:
                    runs[name].append(json.loads(done.stdout))
        print(table(way, runs), flush=True)


def table(way: str, runs: dict[str, list[dict]]) -> str:
    """Medians over runs; ratios are those of the cold figures."""

    def median(name: str, rate: Callable[[dict], float]) -> float:
        return statistics.median(map(rate, runs[name])) if runs[name] else float("nan")

    def cold(run: dict) -> float:
        return run["bytes"] / run["seconds"][0] / 1e6

    def warm(run: dict) -> float:
        return run["bytes"] / statistics.median(run["seconds"][1:] or [float("nan")]) / 1e6

    def million_tokens(run: dict) -> float:
        return run["tokens"] / run["seconds"][0] / 1e6 / WAYS[way]

    reference = {run["digest"] for run in runs.get("tiktoken", [])}
    lines = [
        f"### {way}",
        "",
        "| encoder | cold MB/s | warm MB/s | cold million tokens/s per core | times tiktoken, cold | warm | ids |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in runs:
        speed = [median(name, cold), median(name, warm)]
        base = [median("tiktoken", cold), median("tiktoken", warm)] if reference else [float("nan")] * 2
        ids = "-"
        if reference and runs[name]:
            same = {run["digest"] for run in runs[name]} == reference
            ids = "as tiktoken" if same else "DIFFERENT"
        lines.append(
            f"| {name} | {speed[0]:.1f} | {speed[1]:.1f} | {median(name, million_tokens):.2f} "
            f"| {speed[0] / base[0]:.1f} | {speed[1] / base[1]:.1f} | {ids} |"
        )
    return "\n".join([*lines, ""]).replace("| nan |", "| - |")


def first(texts: Iterable[str], mb: float) -> list[str]:
    """The first texts of `mb` * 10^6 bytes together, or all."""
    taken, left = [], mb * 1e6
    for text in texts:
        taken.append(text.rstrip())
        left -= len(taken[-1].encode())
        if left <= 0:
            break
    return taken


def prepare(options: argparse.Namespace, job: Path) -> None:
    """Learns the vocabulary and writes it with the text to be encoded."""
    if options.corpus:
        train = first(parquet_texts(options.corpus), options.train_mb)
        texts = first(parquet_texts(options.held_out), options.mb)
    else:
        installed = first(installed_texts(), options.train_mb + options.mb)
        texts = first(installed[::3], options.mb)
        train = [text for at, text in enumerate(installed) if at % 3]
    pattern = nanobpe.GPT4_PATTERN.replace("{1,2}", f"{{1,{options.digits}}}")
    tokens = nanobpe.train(train, vocab_size=options.vocab_size, pattern=pattern).tokens
    size = sum(len(text.encode()) for text in texts)
    few = len(first(texts, size / 1e6 / SLOW_SHARE))
    task = {"tokens": [b64encode(token).decode() for token in tokens], "texts": texts, "pattern": pattern, "few": few}
    job.write_text(json.dumps(task), encoding="utf-8")
    learnt = sum(len(text.encode()) for text in train) / 1e6
    print(f"{len(tokens)} tokens learnt from {learnt:.1f} MB; {len(texts)} documents of {size / 1e6:.1f} MB encoded\n")


def chosen(options: argparse.Namespace) -> list[str]:
    names = []
    for name in CONTENDERS:
        if not importlib.util.find_spec(name):
            print(f"{name}: skipped, it is not installed\n")
        elif name == "gigatoken" and options.digits != 3:
            print("gigatoken: skipped, it has digit groups of 3 only\n")
        else:
            names.append(name)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=50, help="text to encode, in 10^6 bytes")
    parser.add_argument("--train-mb", type=float, default=200, help="text to learn the vocabulary from, at the most")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--digits", type=int, default=3, choices=range(1, 10), help="longest group of digits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--corpus", type=Path, nargs="+", help="parquet files with a column `text`, to learn from")
    parser.add_argument("--held-out", type=Path, nargs="+", help="the same, to encode")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        return run_one(Path(options.run[0]), *options.run[1:])
    if (options.corpus is None) != (options.held_out is None):
        parser.error("--corpus and --held-out go together")
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        prepare(options, job)
        run_all(job, chosen(options), options.repeats)
    return None


if __name__ == "__main__":
    main()
