"""How fast answers come: `python -m benchmarks.engine [--peer CHECKOUT]`, on a CPU.

Tokens per second of 1, 8, 64 and 256 different prompts and of 8 answers to one prompt, the time to the first token, the
most memory, and both under requests that arrive at random (poisson_load.py). Contestants take turns: `ours`, all at
once; `one by one`, the same engine with a prompt at a time; `peer`, the reference's engine in a process of its own,
which serves one prompt at a time, several answers to it at once. `limit` is what memory allows: rows times the bytes
per second that this run reads from a large buffer, over the bytes of weights that a step reads; where the caches hold
the weights it can be passed, so the rate of a buffer of their size is printed too. Medians, answers of a fixed length,
greedy. Not covered: GPUs (benchmarks/gpu), tool calls, drawing of tokens.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import poisson_load
from benchmarks.peer import Peer
from benchmarks.poisson_load import Load, Waited
from benchmarks.small_model import CLOCKS, add_shape, described, model_and_tokenizer
from nanochat.inference.engine import Engine
from nanochat.model.gpt import GPT

BATCHES = (1, 8, 64, 256)
ALONE = 8  # prompts one by one: as many tokens a second however many there are
LARGE = 1 << 28  # bytes of the buffer that is read to know what memory gives
LOADS = (0.5, 2.0)  # requests a second, over what the engine could answer one by one
Calls = dict[str, Callable[[], float]]


class Ours:
    """Our engine, whose answers no token ends."""

    def __init__(self, model: GPT, tokenizer: Any, compiled: bool, clock: str) -> None:
        self.engine = Engine(model, tokenizer, calculator=False, compile=compiled)
        self.clock = CLOCKS[clock]
        self.engine.scheduler.terminals = (-1, -1)

    def together(self, prompts: list[list[int]], tokens: int, samples: int = 1) -> float:
        """Tokens per second of all at once."""
        self.engine.scheduler.forget()
        begun = self.clock()
        found = self.engine.generate(prompts, tokens, num_samples=samples)
        return sum(len(one.tokens) for one in found) / (self.clock() - begun)

    def one_by_one(self, prompts: list[list[int]], tokens: int, samples: int = 1) -> float:
        """The same, one answer after another."""
        self.engine.scheduler.forget()
        begun = self.clock()
        answers = [self.engine.generate([prompt], tokens) for prompt in prompts for _ in range(samples)]
        return sum(len(each[0].tokens) for each in answers) / (self.clock() - begun)

    def first(self, prompt: list[int]) -> float:
        """Seconds until the first token of an answer."""
        self.engine.scheduler.forget()
        begun = self.clock()
        stream = self.engine.stream_tokens(prompt, 2)
        next(stream)
        seconds = self.clock() - begun
        list(stream)
        return seconds

    def stream(self, prompt: Sequence[int], length: int) -> Iterator[int]:
        """One answer as it comes."""
        return self.engine.stream_tokens(prompt, length)

    def outside_the_model(self, prompt: list[int], tokens: int) -> float:
        """The share of a step of one answer that is not spent in the model's call."""
        scheduler = self.engine.scheduler
        scheduler.forget()
        within = Timed(scheduler.decoder, self.clock)
        scheduler.decoder = within  # type: ignore[assignment]
        stream = self.engine.stream_tokens(prompt, tokens)
        next(stream)  # the prompt has been read
        within.seconds, begun = 0.0, self.clock()
        list(stream)
        whole, scheduler.decoder = self.clock() - begun, within.decoder
        return 1 - within.seconds / whole


class Timed:
    """A decoder whose calls are timed."""

    def __init__(self, decoder: Any, clock: Callable[[], float]) -> None:
        self.decoder, self.clock, self.seconds = decoder, clock, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def __call__(self, *args: Any) -> Any:
        begun = self.clock()
        found = self.decoder(*args)
        self.seconds += self.clock() - begun
        return found


def by_peer(peer: Peer, prompts: list[list[int]], tokens: int, samples: int = 1) -> float:
    """The reference's tokens per second."""
    return (
        len(prompts)
        * samples
        * tokens
        / peer.ask("generate", prompts=prompts, tokens=tokens, samples=samples)["seconds"]
    )


def random_prompts(count: int, length: int, vocab_size: int) -> list[list[int]]:
    """Different ones, half to one and a half times so long."""
    dice = np.random.default_rng(count)
    return [dice.integers(0, vocab_size, int(length * dice.uniform(0.5, 1.5))).tolist() for _ in range(count)]


def medians(calls: Calls, rounds: int) -> dict[str, float]:
    """The calls take turns; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            value = call()
            if turn:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def read_bytes_per_second(size: int) -> float:
    """What all threads together read of a buffer of that size, again and again."""
    buffer = torch.ones(max(size // 4, 1))
    times = []
    for _ in range(max(5, 2 * LARGE // size)):
        begun = time.perf_counter()
        buffer.sum()
        times.append(time.perf_counter() - begun)
    return buffer.nbytes / statistics.median(times)


def weight_bytes(model: GPT) -> int:
    """What a step reads of the weights: all but the tables, of which it takes one line a token."""
    tables = {id(model.wte.weight), *(id(table.weight) for table in model.value_embeddings.values())}
    return sum(each.numel() * model.compute_dtype.itemsize for each in model.parameters() if id(each) not in tables)


def peak_bytes() -> float:
    """The most memory that this process has held since the last `forget_peak`, where Linux says it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Where Linux allows it: the buffers of the measurements above do not count."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Table:
    """Rows as they are measured: ours, the others, the limit, and the ratios of ours to each."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        cells = ["measured", *names, *(f"ours / {name}" for name in names[1:])]
        print("| " + " | ".join(cells) + " |\n|" + "---|" * len(cells))

    def add(self, title: str, found: dict[str, float], digits: int = 0, less_is_better: bool = False) -> None:
        """One row; a ratio above 1 is always to our credit."""
        cells = [f"{found[name]:,.{digits}f}" if name in found else "" for name in self.names]
        for name in self.names[1:]:
            ratio = found["ours"] / found[name] if found.get(name) else 0.0
            ratio = 1 / ratio if less_is_better and ratio else ratio
            cells.append(f"{ratio:.2f}" if ratio else "")
        print("| " + " | ".join([title, *cells]) + " |", flush=True)


def first_token(table: Table, ours: Ours, peer: Peer | None, options: argparse.Namespace, vocab: int) -> None:
    """Prompts of several lengths."""
    for length in (32, min(256, options.context - 2)):
        prompt = np.random.default_rng(length).integers(0, vocab, length).tolist()
        calls: Calls = {"ours": lambda prompt=prompt: ours.first(prompt)}  # type: ignore[misc]
        if peer:
            calls["peer"] = lambda prompt=prompt: peer.ask("generate", prompts=[prompt], tokens=1, samples=1)["first"]  # type: ignore[misc]
        found = {name: 1e3 * value for name, value in medians(calls, 3 * options.rounds).items()}
        table.add(f"first token after {length}, ms", found, 1, less_is_better=True)


def throughput(
    table: Table, ours: Ours, peer: Peer | None, options: argparse.Namespace, vocab: int, step_limit: float
) -> None:
    """Different prompts, then several answers to one."""
    tokens = options.tokens
    for count, samples in [*((batch, 1) for batch in options.batches), (1, 8)]:
        prompts = random_prompts(count, options.prompt, vocab)
        alone = prompts[:ALONE]
        calls: Calls = {
            "ours": lambda p=prompts, s=samples: ours.together(p, tokens, s),  # type: ignore[misc]
            "one by one": lambda p=alone, s=samples: ours.one_by_one(p, tokens, s),  # type: ignore[misc]
        }
        if peer:
            calls["peer"] = lambda p=alone, s=samples: by_peer(peer, p, tokens, s)  # type: ignore[misc]
        found = medians(calls, options.rounds)
        found["limit"] = step_limit * count * samples
        title = f"{count} prompt{'s' * (count > 1)}" if samples == 1 else f"{samples} answers to one prompt"
        table.add(f"{title}, tokens/s", found)


def under_load(table: Table, ours: Ours, peer: Peer | None, options: argparse.Namespace, vocab: int) -> None:
    """Requests that arrive at random, at rates below and above what one by one can answer."""
    context = options.context
    probe = Load.drawn(16, 1e9, vocab, context, seed=1)
    poisson_load.together(ours.engine.scheduler, probe)  # compiles
    taken = [max(poisson_load.one_by_one(ours.stream, probe).last) for _ in range(3)]
    capacity = len(probe.prompts) / statistics.median(taken)
    for share in options.loads:
        load = Load.drawn(options.requests, share * capacity, vocab, context)
        served: dict[str, Callable[[], Waited]] = {
            "ours": lambda load=load: poisson_load.together(ours.engine.scheduler, load),  # type: ignore[misc]
            "one by one": lambda load=load: poisson_load.one_by_one(ours.stream, load),  # type: ignore[misc]
        }
        if peer:
            served["peer"] = lambda load=load: Waited(**peer.ask("load", **vars(load)))  # type: ignore[misc]
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in served}
        for _ in range(max(1, options.rounds // 2)):
            for name, serve in served.items():
                ours.engine.scheduler.forget()
                seen[name].append(serve().summary(load))
        for figure in seen["ours"][0]:
            found = {name: statistics.median(each[figure] for each in some) for name, some in seen.items()}
            title = f"{share * capacity:.1f} requests/s ({share} of one by one): {figure}"
            per_second = figure == "tokens/s"
            table.add(title, found, 0 if per_second else 3, less_is_better=not per_second)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser, sequence_len=1024)
    parser.add_argument("--peer", type=Path, help="a checkout of karpathy's nanochat to measure beside")
    parser.add_argument("--peer-dtype", choices=("bfloat16", "float32"), help="theirs; without it, as ours")
    parser.add_argument("--eager", action="store_true", help="our step is not compiled")
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    parser.add_argument("--loads", type=float, nargs="*", default=LOADS)
    parser.add_argument("--prompt", type=int, default=32, help="mean tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--requests", type=int, default=64, help="that arrive at random")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model, tokenizer = model_and_tokenizer(options)
    options.context = model.config.sequence_len
    print(described(options, model))
    ours, size, vocab = (
        Ours(model, tokenizer, not options.eager, options.clock),
        weight_bytes(model),
        model.config.vocab_size,
    )
    memory, caches = read_bytes_per_second(LARGE), read_bytes_per_second(size)
    print(
        f"a step reads {size / 1e6:.1f} MB of weights; {options.threads} threads read {memory / 1e9:.1f} GB/s of a "
        f"large buffer, {caches / 1e9:.1f} GB/s of one of that size\n"
    )
    forget_peak()
    with ExitStack() as stack:
        peer = None
        if options.peer:
            dtype = getattr(torch, options.peer_dtype) if options.peer_dtype else model.compute_dtype
            peer = stack.enter_context(Peer(options.peer, model, tokenizer, dtype, options.threads, options.clock))
        table = Table(["ours", "one by one", *(["peer"] if peer else []), "limit"])
        first_token(table, ours, peer, options, vocab)
        throughput(table, ours, peer, options, vocab, memory / size)
        under_load(table, ours, peer, options, vocab)
        outside = statistics.median(
            ours.outside_the_model([1] * options.prompt, options.tokens) for _ in range(options.rounds)
        )
        print(f"\nof a step of one answer, {outside:.1%} is spent outside the model's call")
        held = f"ours {peak_bytes() / 1e6:,.0f} MB" + (
            f", peer {peer.ask('peak')['bytes'] / 1e6:,.0f} MB" if peer else ""
        )
        print(f"most memory of the process, interpreter and torch included: {held}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
