"""Seconds for which a checkpoint holds the training: `python -m benchmarks.checkpoint_stall [--depth N] [--rounds N]`.

Three ways to save the same model and optimizer of one process on a CPU, in turns, each in its own empty directory:
`reread` writes safetensors with the library, waits for the disk and reads the files again for their digests; `wait`
copies and writes as the trainer does and waits until that is durable; `beside` is the trainer's way: it copies, and the
writing goes on while steps are made. `share` is of a run with one checkpoint every ten minutes; `longer steps` is what
the steps beside the writing lost to it, more on a CPU than on a GPU. Not covered: several ranks, which divide the
bytes; GPUs, whose copies go over PCIe; the first save of a process, which also maps the memory, is left out.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from nanochat.artifacts.files import sha256_of
from nanochat.artifacts.metrics import Metrics
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import write_tensors
from nanochat.training.distributed import World
from nanochat.training.optim import OptimSettings, build_optimizer
from nanochat.training.state import TrainState

EVERY = 600.0  # seconds
LENGTH = 64  # tokens of a step: short ones, of which several lie beside a writing


class Training:
    """A model that is trained and saved."""

    def __init__(self, depth: int, root: Path) -> None:
        config = GPTConfig.modern(depth, vocab_size=32768, sequence_len=LENGTH, width=64 * depth, head_dim=64)
        model = GPT(config)
        model.init_weights(0)
        settings = OptimSettings(normuon_beta2=0.9, muon_value_gates=True)
        optimizer = build_optimizer(model, settings, World())
        self.run = TrainState(model, optimizer, Metrics(None), root / "checkpoints", {}, World(), 10**6, LENGTH)
        self.root, self.tokens = root, torch.arange(LENGTH + 1)[None]

    def step(self) -> float:
        """Seconds of one step."""
        begun = time.perf_counter()
        (self.run.model.loss(self.tokens[:, :-1], self.tokens[:, 1:].contiguous()) / LENGTH).backward()
        self.run.optimizer.step()
        self.run.advance()
        return time.perf_counter() - begun

    def megabytes(self) -> float:
        """Size of a checkpoint."""
        return sum(image.buffer.nbytes for image in self.run.saver.images.values()) / 1e6

    def reread(self) -> None:
        """The library's writer, and the digests from the disk."""
        tensors = {"model": self.run.model.state_dict(), "optimizer": self.run.optimizer.state_share()}
        for kind, named in tensors.items():
            path = self.root / f"{kind}.safetensors"
            write_tensors(path, {name: tensor.clone() for name, tensor in named.items()})
            sha256_of(path)

    def wait(self) -> None:
        """The trainer's writer, waited for."""
        self.run.save()
        self.run.saver.wait()

    def writing(self) -> bool:
        """Whether the thread is at work."""
        return self.run.saver.thread.is_alive()


def seconds_of(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure(training: Training, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way and round, of the writing beside the steps, and what the steps lost in it."""
    taken: dict[str, list[float]] = {"reread": [], "wait": [], "beside": [], "writing": [], "lost": []}
    training.wait(), training.step()
    for _ in range(rounds):
        quiet = statistics.median(training.step() for _ in range(3))
        taken["reread"].append(seconds_of(training.reread))
        training.step()
        taken["wait"].append(seconds_of(training.wait))
        training.step()
        begun = time.perf_counter()
        taken["beside"].append(seconds_of(training.run.save))
        steps = list(iter(partial(lambda: training.step() if training.writing() else None), None))
        training.run.saver.wait()
        taken["writing"].append(time.perf_counter() - begun)
        taken["lost"].append(sum(steps) - quiet * len(steps))
    return taken


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4, help="layers; width is 64 times as much")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way; the median counts")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=Path.cwd(), prefix=".checkpoint-stall-"))
    try:
        training = Training(given.depth, root)
        taken = measure(training, given.rounds)
    finally:
        shutil.rmtree(root)
    size, medians = training.megabytes(), {name: statistics.median(times) for name, times in taken.items()}
    print(f"d{given.depth}, {size:,.0f} MB a checkpoint, one every {EVERY:.0f} s, median of {given.rounds}\n")
    print("| way | held, s | share | longer steps, s | share with them |\n|---|---|---|---|---|")
    for name, lost in (("reread", 0.0), ("wait", 0.0), ("beside", medians["lost"])):
        held = medians[name]
        shares = [seconds / (EVERY + seconds) for seconds in (held, held + lost)]
        print(f"| {name} | {held:.3f} | {shares[0]:.3%} | {lost:.3f} | {shares[1]:.3%} |")
    print(f"\nwriting beside the steps took {medians['writing']:.2f} s")


if __name__ == "__main__":
    main()
