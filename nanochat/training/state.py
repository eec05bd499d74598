"""Where a training run stands: its step, its clock, its checkpoints and its log.

Promises: after a resume the log has every line once, as if nothing had happened; time spent saving and evaluating is
not throughput; only rank 0 writes, and the others wait until what it wrote is durable; weights that are not finite are
never saved. Not here: the loop (nanochat/training/loop.py), the format on disk (nanochat/training/checkpoint.py).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.artifacts.metrics import Metrics
from nanochat.model.gpt import GPT
from nanochat.model.gpus import peak_flops
from nanochat.training import checkpoint
from nanochat.training.distributed import World, barrier, broadcast_object
from nanochat.training.optim import MuonAdamW

Numbers = dict[str, float]


@dataclass
class Clock:
    """Time spent training; saving and evaluating lie between `lap` and `go_on` and do not count."""

    seconds: float = 0.0  # over all attempts
    laps: list[float] = field(default_factory=list)  # of this attempt, without the first, which compiles
    logged: int = 0  # how many of them were in a line of the log
    mark: float = 0.0
    warm: bool = False

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
    step: int = 0
    clock: Clock = field(default_factory=Clock)
    last: Numbers = field(default_factory=dict)  # the newest value of everything logged
    row: Numbers = field(default_factory=dict)  # what was logged at this very step

    def advance(self) -> None:
        """An update was made."""
        self.step += 1
        self.row = {}
        self.clock.lap()

    def log(self, numbers: Numbers) -> None:
        """One line of metrics, with throughput since the last one and the time that is left."""
        pace = self.pace(self.clock.step_seconds(since=self.clock.logged))
        self.clock.logged = len(self.clock.laps)
        self.note({**numbers, **pace, "num_steps": self.num_steps})

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
        """The newest numbers, with the throughput of this attempt as a whole and the seconds of all of them."""
        return self.last | self.pace(self.clock.step_seconds()) | {"seconds": self.clock.seconds}

    def note(self, numbers: Numbers) -> None:
        """Writes numbers of this step down; they become part of the checkpoint that follows."""
        self.row |= numbers
        self.last |= numbers
        if self.world.rank == 0 and numbers:
            self.metrics.log(self.step, **numbers)

    def save(self) -> None:
        """A checkpoint of this step on rank 0; the others wait until it is durable."""
        root = self.checkpoints
        if bad := [name for name, weight in self.model.state_dict().items() if not bool(torch.isfinite(weight).all())]:
            raise FloatingPointError(diverged(f"{bad[0]} is not finite", self.step))
        optimizer = self.optimizer.full_state()
        if self.world.rank == 0:
            state = {"seconds": self.clock.seconds, "row": self.row, "last": self.last, "meaning": self._meaning()}
            checkpoint.save(root, self.step, self.model.state_dict(), optimizer, state)
            checkpoint.prune(root)
        barrier()

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
        self.optimizer.load_full_state(found.optimizer())
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
