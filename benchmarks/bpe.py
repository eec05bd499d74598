"""Training a tokenizer, measured: nanobpe against rustbpe, Hugging Face tokenizers and gigatoken, same text and size.

    python -m benchmarks.bpe                                            # 20 MB, 32,768 tokens, all cores
    python -m benchmarks.bpe --all --repeats 5 --corpus shards/*.parquet --json bpe.json

For every cell of --mb x --vocab-size x --threads: wall time, CPU time, memory and their ratios, what ours spends on
counting and on merging, and whether the merges are the same; a Markdown table for each cell, then one of all. Every
run is a fresh process (bpe_run.py) and contenders (bpe_peers.py) take turns, so that a busy machine troubles all of
them; runs from which other processes took much CPU are marked and, where enough others are left, not counted. It does
not measure encoding. Needs Linux.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.bpe_peers import CONTENDERS, SEPARATOR
from benchmarks.bpe_table import NOISY_SHARE, NOTES, overview, table


@dataclass
class Cell:
    """One point of the grid, and what was measured there."""

    mb: float
    text_mb: float  # what the corpus had, at least 99 % of `mb`
    vocab_size: int
    threads: int
    runs: dict[str, list[dict]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # contender -> why it has no further runs

    @property
    def title(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.mb:g} MB, vocabulary of {self.vocab_size}, {threads}"


def installed_texts() -> Iterator[str]:
    """Documentation and source of the installed Python packages."""
    for folder in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in (".py", ".rst", ".md", ".txt") and path.is_file():
                yield path.read_text(encoding="utf-8", errors="replace")


def parquet_texts(sources: list[Path]) -> Iterator[str]:
    import pyarrow.parquet as pq

    for source in sources:
        for file in sorted(source.glob("*.parquet")) if source.is_dir() else [source]:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=256, columns=["text"]):
                yield from filter(None, batch.column(0).to_pylist())


def write_corpus(texts: Iterator[str], mb: float, file: Path) -> float:
    """Writes the first `mb` * 10^6 bytes of texts, the last one whole; returns the MB there were."""
    written, wanted = 0, mb * 1e6
    with file.open("wb") as out:
        for data in (text.encode() for text in texts):
            if SEPARATOR in data:
                continue
            out.write(SEPARATOR + data if written else data)
            written += len(data)
            if written >= wanted:
                break
    return written / 1e6


def run_once(name: str, cell: Cell, text: Path, timeout_s: float) -> dict:
    """One run in a fresh process; RuntimeError if it fails or takes too long."""
    result = text.with_name("result.json")
    task = {"contender": name, "text": str(text), "vocab_size": cell.vocab_size, "threads": cell.threads}
    command = [sys.executable, "-m", "benchmarks.bpe_run", json.dumps(task | {"result": str(result)})]
    env = os.environ | {"RAYON_NUM_THREADS": str(cell.threads), "TOKENIZERS_PARALLELISM": "true"}
    try:
        subprocess.run(
            command, env=env, capture_output=True, text=True, check=True, timeout=timeout_s, encoding="utf-8"
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"stopped after {timeout_s:g} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        raise RuntimeError(f"failed: {said[-1]}") from error
    return json.loads(result.read_text(encoding="utf-8"))


def run_cell(cell: Cell, names: list[str], text: Path, options: argparse.Namespace) -> None:
    """All contenders in turn, until each has its runs; a word on stderr after every run."""
    cell.runs = {name: [] for name in names}
    for turn in range(options.repeats):
        for name in names:
            if name in cell.failed or (CONTENDERS[name].slow and turn >= options.slow_repeats):
                continue
            try:
                run = run_once(name, cell, text, options.timeout)
            except RuntimeError as error:
                cell.failed[name] = str(error)
                print(f"{cell.title}: {name} {error}", file=sys.stderr)
                continue
            cell.runs[name].append(run)
            noisy = " (noisy)" if run["others_share"] > NOISY_SHARE else ""
            print(
                f"{cell.title}: run {turn + 1} of {name}: {run['wall_s']:.2f} s, "
                f"others took {run['others_share']:.0%} of the CPU{noisy}",
                file=sys.stderr,
            )


def chosen(options: argparse.Namespace) -> list[str]:
    """The contenders that are installed; ours with GPT-2's pattern comes with gigatoken, or when asked for by name."""
    names = []
    for name in options.contenders or CONTENDERS:
        if importlib.util.find_spec(CONTENDERS[name].module):
            names.append(name)
        else:
            print(f"{name}: skipped, {CONTENDERS[name].module} is not installed\n")
    if "gigatoken" in names and "nanobpe-gpt2" not in names:
        names.insert(names.index("gigatoken"), "nanobpe-gpt2")
    elif "gigatoken" not in names and not options.contenders:
        names.remove("nanobpe-gpt2")
    return names


def machine(names: list[str]) -> dict:
    """What the figures depend on besides the text."""
    cpu_lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    modules = {CONTENDERS[name].module for name in names}
    return {
        "cpu": next((line.split(": ")[1] for line in cpu_lines if line.startswith("model name")), platform.machine()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {module: importlib.metadata.version(module) for module in sorted(modules)},
    }


def parse() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, nargs="+", default=[20], help="text to train on, in 10^6 bytes")
    parser.add_argument("--vocab-size", type=int, nargs="+", default=[32768])
    parser.add_argument("--threads", type=int, nargs="+", default=[cores], help="fewer than there are cores: pinned")
    parser.add_argument("--all", action="store_true", help="20 and 200 MB x 32768 and 65536 tokens x 1 and 2 threads")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender")
    parser.add_argument("--slow-repeats", type=int, default=1, help="at most so many of tokenizers, which is slow")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="default: all that are installed")
    parser.add_argument(
        "--corpus", type=Path, nargs="+", help="parquet files with a column `text`, or folders of them; default: "
        "documentation and source of the installed Python packages"
    )  # fmt: skip
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which a run is given up")
    parser.add_argument("--json", type=Path, help="every run, in a file")
    options = parser.parse_args()
    if options.all:
        options.mb, options.vocab_size, options.threads = [20, 200], [32768, 65536], [1, 2]
    if not 1 <= min(options.threads) <= max(options.threads) <= cores:
        parser.error(f"--threads {options.threads}: this process has {cores} cores")
    if options.repeats < 1 or options.slow_repeats < 0:
        parser.error("--repeats must be at least 1, --slow-repeats at least 0")
    return options


def main() -> None:
    options = parse()
    names = chosen(options)
    about, cells = machine(names), []
    versions = ", ".join(f"{module} {version}" for module, version in about["versions"].items())
    print(f"{about['cpu']}, {about['cores']} cores; Python {about['python']}, {versions}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for mb in options.mb:
            text = Path(folder) / f"{mb:g}.txt"
            have = write_corpus(parquet_texts(options.corpus) if options.corpus else installed_texts(), mb, text)
            for vocab_size, threads in itertools.product(options.vocab_size, options.threads):
                cell = Cell(mb, have, vocab_size, threads)
                if have < 0.99 * mb:
                    print(f"{cell.title}: skipped, the corpus has only {have:.1f} MB\n", flush=True)
                    continue
                run_cell(cell, names, text, options)
                print(table(cell.title, cell.runs, cell.failed), flush=True)
                cells.append(asdict(cell))
                if options.json:
                    options.json.write_text(
                        json.dumps({"machine": about, "cells": cells}, indent=1) + "\n", encoding="utf-8"
                    )
            text.unlink()
    print(overview(cells))
    print(NOTES)


if __name__ == "__main__":
    main()
