"""Where a training run stands: its step, its clock, its checkpoints and its log.

Promises: after a resume the log has every line once, as if nothing had happened; time spent saving and evaluating is
not throughput, and is told beside it; every rank saves a share of its own while training goes on, and nobody leaves
before all of it is durable; weights that are not finite are never saved. Not here: the loop (training/loop.py), the
thread that writes (training/saving.py), the format on disk (training/checkpoint.py).
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.artifacts.metrics import Metrics
from nanochat.errors import Interrupted
from nanochat.model.gpt import GPT
from nanochat.model.gpus import peak_flops
from nanochat.training import checkpoint
from nanochat.training.distributed import World, barrier, broadcast_object
from nanochat.training.optim import MuonAdamW
from nanochat.training.saving import Files, Saver

Numbers = dict[str, float]

log = logging.getLogger(__name__)


@dataclass
class Clock:
    """Time spent training; saving and evaluating lie between `lap` and `go_on` and do not count."""

    seconds: float = 0.0  # over all attempts
    laps: list[float] = field(default_factory=list)  # of this attempt, without the first, which compiles
    logged: int = 0  # how many of them were in a line of the log
    mark: float = 0.0
    warm: bool = False
    begun: float = field(default_factory=time.perf_counter)  # when this attempt did
    held: dict[str, float] = field(default_factory=lambda: {"checkpoint": 0.0, "eval": 0.0})  # seconds, of this attempt

    def go_on(self) -> None:
        """Time counts from here."""
        self.mark = time.perf_counter()

    def lap(self) -> None:
        """A step ends here."""
        now = time.perf_counter()
        self.seconds += now - self.mark
        if self.warm:
            self.laps.append(now - self.mark)
        self.warm, self.mark = True, now

    @contextmanager
    def holding(self, what: str) -> Iterator[None]:
        """Training waits while the block runs, for "checkpoint" or "eval"."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.held[what] += time.perf_counter() - begun

    def checkpoint_stall(self) -> float:
        """Share of this attempt's time for which saving has held the training."""
        return self.held["checkpoint"] / (time.perf_counter() - self.begun)

    def step_seconds(self, since: int = 0) -> float | None:
        """Mean time of a step, of those after lap `since`; None where there was none."""
        laps = self.laps[since:]
        return sum(laps) / len(laps) if laps else None


@dataclass
class TrainState:
    """Where a run stands: its step, its clock, its checkpoints and its log."""

    model: GPT
    optimizer: MuonAdamW
    metrics: Metrics
    checkpoints: Path
    inputs: Mapping[str, str]  # addresses of what it is trained on
    world: World
    num_steps: int
    tokens_per_step: int
    updates_per_step: int = 1
    step: int = 0
    clock: Clock = field(default_factory=Clock)
    last: Numbers = field(default_factory=dict)  # the newest value of everything logged
    row: Numbers = field(default_factory=dict)  # what was logged at this very step

    def __post_init__(self) -> None:
        """Take the memory for copies of what will be saved."""
        self.saver, self.saved_at = Saver(self.checkpoints, self.world, self._share()), time.monotonic()

    def advance(self) -> None:
        """An update was made."""
        self.step += 1
        self.row = {}
        self.clock.lap()

    def log(self, numbers: Numbers) -> None:
        """One line of metrics, with throughput since the last one and the time that is left."""
        pace = self.pace(self.clock.step_seconds(since=self.clock.logged))
        self.clock.logged = len(self.clock.laps)
        stall = {"checkpoint_stall": self.clock.checkpoint_stall()}
        self.note({**numbers, **pace, **stall, "num_steps": self.num_steps})

    def pace(self, step_seconds: float | None) -> Numbers:
        """What a step's time comes to; nothing where none was taken yet."""
        if step_seconds is None:
            return {}
        tok_per_s = self.tokens_per_step / step_seconds
        pace = {"tok_per_s": tok_per_s, "eta_seconds": (self.num_steps - self.step) * step_seconds}
        if peak := _peak_flops(self.world.device):
            pace["mfu"] = tok_per_s * self.model.flops_per_token() / (peak * self.world.size)
        return pace

    def final(self) -> Numbers:
        """The newest numbers, with the throughput of this attempt as a whole, the seconds for which saving and
        evaluating held it, and the seconds of training of all attempts.
        """
        held = {f"{what}_seconds": seconds for what, seconds in self.clock.held.items()}
        stall = {"checkpoint_stall": self.clock.checkpoint_stall()}
        return self.last | self.pace(self.clock.step_seconds()) | held | stall | {"seconds": self.clock.seconds}

    def note(self, numbers: Numbers) -> None:
        """Writes numbers of this step down; they become part of the checkpoint that follows."""
        self.row |= numbers
        self.last |= numbers
        if self.world.rank == 0 and numbers:
            self.metrics.log(self.step, **numbers)

    def evaluate(self, measure: Callable[[int], Numbers]) -> None:
        """Notes what `measure` says of this step."""
        with self.clock.holding("eval"):
            self.note(measure(self.step))

    def overdue(self, minutes: float) -> bool:
        """Whether it is so long since the last checkpoint (0: never), by the clock of rank 0; no other rank says so."""
        return self.world.rank == 0 and 0 < minutes * 60 <= time.monotonic() - self.saved_at

    def save(self) -> None:
        """Copies this rank's share of a checkpoint of this step and leaves it to be written while training goes on.

        Raises:
            FloatingPointError: a weight is not finite.
            OSError: the checkpoint before this one could not be written.
        """
        with self.clock.holding("checkpoint"):
            self._refuse_divergence()
            state = {"seconds": self.clock.seconds, "row": dict(self.row), "last": dict(self.last)}
            self.saver.save(self.step, self._share(), state | {"meaning": self._meaning()})
            self.saved_at = time.monotonic()

    @contextmanager
    def all_saved(self) -> Iterator[None]:
        """Whoever leaves the block, done, interrupted or with an error, leaves it when what was saved is durable."""
        try:
            yield
        except Interrupted:
            self._flush()
            raise
        except BaseException:
            try:
                self.saver.wait()  # and not for the other ranks, which may never come
            except OSError as error:
                log.warning("%s", error)
            raise
        self._flush()

    def _flush(self) -> None:
        with self.clock.holding("checkpoint"):
            self.saver.wait()
            barrier()

    def _share(self) -> Files:
        """What this rank saves."""
        weights = checkpoint.share_of(self.model.state_dict(), self.world.rank, self.world.size)
        return {checkpoint.WEIGHTS: weights, checkpoint.OPTIMIZER: self.optimizer.state_share()}

    def _refuse_divergence(self) -> None:
        """All ranks look at all weights, which are the same everywhere, so that all of them refuse."""
        weights = self.model.state_dict()
        extremes = torch.stack([torch.stack(weight.aminmax()).float() for weight in weights.values()])  # NaN if one is
        finite = torch.isfinite(extremes).all(1).tolist()
        if bad := [name for name, good in zip(weights, finite, strict=True) if not good]:
            raise FloatingPointError(diverged(f"{bad[0]} is not finite", self.step))

    def resume(self) -> None:
        """Continues from the newest whole checkpoint, if there is one; drops metrics that lie after it.

        Raises:
            ValueError: the checkpoint belongs to another run (inputs, number of steps).
        """
        root = self.checkpoints
        if self.world.rank == 0 and root.is_dir():
            checkpoint.remove_leftovers(root)
        found = checkpoint.newest(root) if self.world.rank == 0 else None
        step = broadcast_object(found.step if found else None)
        if step is None:
            self._rewind(-1)
            return
        found = checkpoint.Checkpoint(root / f"step-{step:06d}", step)
        state = found.state()
        if state["meaning"] != self._meaning():
            raise ValueError(
                f"{found.directory} is of another run ({state['meaning']}, this is {self._meaning()}): move it away"
            )
        _copy_into(self.model, found.weights())
        self.optimizer.load_state(found.optimizer(), step * self.updates_per_step)
        self.step, self.last, self.clock.seconds = step, state["last"], state["seconds"]
        self._rewind(step - 1)
        self.note(state["row"])

    def _rewind(self, step: int) -> None:
        if self.world.rank == 0:
            self.metrics.truncate(step)

    def _meaning(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "inputs": dict(self.inputs)}


@torch.no_grad()
def _copy_into(model: GPT, weights: Mapping[str, Tensor]) -> None:
    """Into the memory that is there: a matrix product may round otherwise when its operands are aligned otherwise."""
    own = model.state_dict()
    assert own.keys() == weights.keys(), f"model {sorted(own)}, checkpoint {sorted(weights)}"
    for name, weight in weights.items():
        own[name].copy_(weight)


def diverged(symptom: str, step: int) -> str:
    """What to tell the user whose training diverged."""
    return (
        f"{symptom} after {step} steps: training diverged; nothing of it was saved. Lower the learning rates or "
        "lengthen the warm-up, and run again"
    )


def _peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of the GPU; None where it is not known, as on a CPU."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
