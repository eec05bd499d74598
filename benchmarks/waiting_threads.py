"""How a training step's speed depends on how OpenMP's threads wait for each other, quiet and beside one busy process.

Called by `benchmarks/model_cpu.py`. One process per setting is started and compiles its step; then they take turns, so
that a busy machine slows all of them alike. Such a process reads how many seconds to train from a line of its input and
answers with the median seconds of a step (`serve`). Not covered: several ranks, GPUs.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SETTINGS = {
    "default (no bound)": {},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "GOMP_SPINCOUNT=2000": {"GOMP_SPINCOUNT": "2000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=20000": {"GOMP_SPINCOUNT": "20000"},
    "GOMP_SPINCOUNT=60000": {"GOMP_SPINCOUNT": "60000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
QUICK = ("default (no bound)", "GOMP_SPINCOUNT=2000", "GOMP_SPINCOUNT=10000")
OPENMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


class Trainer:
    """A process that trains when told to."""

    def __init__(self, setting: dict[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in OPENMP}
        command = [sys.executable, "-m", "benchmarks.model_cpu", "--serve"]
        self.child = subprocess.Popen(
            command,
            env={**kept, **setting},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.answer()  # compiled

    def answer(self) -> float:
        assert self.child.stdout is not None
        return json.loads(self.child.stdout.readline())

    def train(self, seconds: float) -> float:
        """Trains for about so long; the median seconds of a step."""
        assert self.child.stdin is not None
        self.child.stdin.write(f"{seconds}\n")
        self.child.stdin.flush()
        return self.answer()


@contextmanager
def busy_process() -> Iterator[None]:
    """A process that never waits, while the block runs."""
    child = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        yield
    finally:
        child.kill()
        child.wait()


def measure(rounds: int, seconds: float, quick: bool) -> dict[str, tuple[float, float]]:
    """Median seconds of a step per setting: quiet, and beside one busy process."""
    trainers = {name: Trainer(setting) for name, setting in SETTINGS.items() if not quick or name in QUICK}
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in trainers}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            taken[name][0].append(trainer.train(seconds))
        with busy_process():
            for name, trainer in trainers.items():
                taken[name][1].append(trainer.train(seconds))
    for trainer in trainers.values():
        trainer.child.kill()
        trainer.child.communicate()
    return {name: (statistics.median(quiet), statistics.median(beside)) for name, (quiet, beside) in taken.items()}


def serve(step: Callable[[], None]) -> None:
    """Answers every line of the input."""
    step(), step()
    print(0.0, flush=True)
    for line in sys.stdin:
        end, times = time.monotonic() + float(line), []
        while time.monotonic() < end or not times:
            begun = time.perf_counter()
            step()
            times.append(time.perf_counter() - begun)
        print(statistics.median(times), flush=True)
