"""How fast reinforcement learning samples answers: `python -m benchmarks.rollouts [--directory MODEL] [--peer PATH]`.

Tokens a second of the rollouts of one step of the demo, 16 problems of arithmetic with 8 answers each of at most 48
tokens at temperature 1, on a CPU. `together`: all prompts in one call, as the stage does. `one prompt at a time`: our
engine, a call a prompt. `peer`: a checkout of karpathy's nanochat in a process of its own, whose engine takes one
prompt's samples at a time, at most 8 together, as its RL does. It gets our weights, so that its answers are as long as
ours, and counts as ours do: the tokens of a row up to its end. Ways take turns; medians. Without a model's directory:
random weights of the demo's shape, which rarely stop. Not here: rewards and training, which are the rest of a step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks import rollouts_peer
from benchmarks.rollouts_peer import CLOCKS
from nanochat.data.chat_template import render_prompt
from nanochat.data.special_tokens import SPECIAL_TOKENS
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.engine import Engine
from nanochat.inference.load import load
from nanochat.model.config import GPTConfig
from nanochat.model.device import arithmetic
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_model
from nanochat.tasks import make

Way = Callable[[int], tuple[int, float]]  # of a round: tokens and seconds


def main() -> None:
    """Prints each way's tokens a second and how many times as fast the first is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--directory", type=Path, help="artifact of a chat stage; else random weights")
    parser.add_argument("--peer", type=Path, help="checkout of the reference")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="cpu: where others use the machine too")
    parser.add_argument("--compile", action="store_true", help="our steps of decoding, in a round that is not measured")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        directory = asked.directory or _random(Path(folder))
        model, tokenizer = load(directory, "cpu", asked.dtype)
        task = make("arithmetic", "train")
        prompts = [render_prompt(tokenizer, task[index]["messages"][:-1]) for index in range(asked.prompts)]
        ways = _ours(model, tokenizer, prompts, asked)
        if asked.peer is None:
            rates = measure(ways, asked.repeats)
        else:
            names = {name: tokenizer.special(name) for name in SPECIAL_TOKENS}
            spec = {"directory": str(directory.resolve()), "special": names, "prompts": prompts}
            spec |= {name: getattr(asked, name) for name in ("samples", "max_new_tokens", "threads", "clock")}
            with _peer(asked.peer, spec, Path(folder)) as peer:
                rates = measure(ways | {"peer": peer}, asked.repeats)
    kind = "trained" if asked.directory else "random"
    config, precision = model.config, arithmetic(model.compute_dtype, torch.device("cpu"))
    shape, compiled = f"d{config.n_layer} of width {config.n_embd}", "compiled, " if asked.compile else ""
    print(f"{asked.prompts} prompts x {asked.samples} samples, {kind} weights, {shape}, {asked.threads} threads")
    print(f"ours {compiled}in {precision}, the peer in its own default; by the {asked.clock} clock")
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        ratio = "" if rate is first else f"   together is {first / rate:.2f} times as fast"
        print(f"{name:<22}{rate:>10,.0f} tok/s{ratio}")


def measure(ways: dict[str, Way], repeats: int) -> dict[str, float]:
    """Tokens a second of each way, the median of rounds in which they take turns; a round before them warms up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            tokens, seconds = way(turn)
            if turn:
                found[name].append(tokens / seconds)
    return {name: statistics.median(rates) for name, rates in found.items()}


def _ours(model: GPT, tokenizer: Tokenizer, prompts: list[list[int]], asked: argparse.Namespace) -> dict[str, Way]:
    clock, samples = CLOCKS[asked.clock], asked.samples
    longest = min(model.config.sequence_len, max(map(len, prompts)) + asked.max_new_tokens)

    def engine_for(count: int) -> Engine:
        return Engine(model, tokenizer, max_rows=count * samples, max_len=longest, compile=asked.compile)

    def timed(engine: Engine, calls: list[list[list[int]]], turn: int) -> tuple[int, float]:
        began, tokens = clock(), 0
        engine.update(model)  # the weights of the step, as in training
        for number, some in enumerate(calls):
            seed = turn * len(calls) + number
            answers = engine.generate(some, asked.max_new_tokens, 1.0, seed=seed, num_samples=samples)
            tokens += sum(len(answer.tokens) for answer in answers)
        return tokens, clock() - began

    return {
        "together": partial(timed, engine_for(len(prompts)), [prompts]),
        "one prompt at a time": partial(timed, engine_for(1), [[prompt] for prompt in prompts]),
    }


def _random(folder: Path) -> Path:
    """A model of the demo's shape and a tokenizer of its size, of which only the bytes matter."""
    pairs = [bytes([first, second]) for first in range(7) for second in range(256)]
    tokenizer = Tokenizer(tuple([bytes([byte]) for byte in range(256)] + pairs)[: 2048 - len(SPECIAL_TOKENS)])
    model = GPT(GPTConfig.modern(4, tokenizer.vocab_size, 256, aspect_ratio=32, head_dim=64))
    model.init_weights(1)
    save_model(model, folder)
    tokenizer.save(folder / "tokenizer.json")
    return folder


@contextmanager
def _peer(checkout: Path, spec: dict, folder: Path) -> Iterator[Way]:
    """The reference in a process of its own, which answers a line for a line."""
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, rollouts_peer.__file__, str(checkout.resolve()), str(folder / "spec.json")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8") as process:
        assert process.stdin is not None, "asked for as a pipe"
        assert process.stdout is not None, "asked for as a pipe"

        def way(turn: int) -> tuple[int, float]:
            print(turn, file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the peer's process ended: its error is above")
            tokens, seconds = json.loads(line)
            return tokens, seconds

        yield way
        process.stdin.close()


if __name__ == "__main__":
    main()
