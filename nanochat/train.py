"""The training loop: one `fit` for pretraining, midtraining, SFT and RL, on one process or many.

A source gives the micro-batches of a step as a pure function of the step's number, so that the position in the data is one
integer and no random state has to be kept. Promises: N steps equal k steps, a kill, a resume and N - k steps, bit for bit
on a CPU; a checkpoint comes before an evaluation; SIGTERM and SIGINT save and raise `Interrupted`; a loss that is not
finite stops the run before it reaches the weights or the disk. Not here: data, learning rates, what the loss weighs.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils import deterministic

from nanochat import checkpoint
from nanochat.distributed import World, all_reduce_sum, barrier, broadcast_object
from nanochat.model import GPT
from nanochat.optim import MuonAdamW
from nanochat.schedule import Schedule
from nanochat.stage import Interrupted, Place

Numbers = dict[str, float]
LossFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Batch:
    """One micro-batch of this rank. All micro-batches of a run have one shape, so that the loss is compiled once.

    `normalizer` is the sum of the weights (without weights: the number of targets that count) over ALL ranks and
    micro-batches of the step: the step's loss is the sum over everything of weight * nll, divided by it.
    """

    inputs: Tensor  # (b, T) int
    targets: Tensor  # (b, T) int, -1 where there is nothing to learn
    weights: Tensor | None  # (b, T) float, negative ones included (RL's advantages)
    normalizer: float


class Source(Protocol):
    """Where batches come from."""

    def batch(self, step: int) -> list[Batch]:
        """This rank's micro-batches, at least one, of the update after `step` updates.

        A pure function of the step and, where it samples (RL), of the current weights and a seed made of the step.
        """
        ...


@runtime_checkable
class ReportingSource(Protocol):
    """A source that has something to say of its last batch (RL: the mean reward), the same on every rank."""

    def numbers(self) -> Numbers:
        """Values to log beside the loss."""
        ...


def split_rows(
    inputs: Tensor, targets: Tensor, device_batch_size: int, normalizer: float, weights: Tensor | None = None
) -> list[Batch]:
    """Rows (N, T) as micro-batches of one shape, as few and as equal as `device_batch_size` allows.

    The last is filled up with rows that count for nothing. Raises ValueError for a step without anything to learn.
    """
    if not normalizer > 0:
        raise ValueError(f"a step whose loss is a sum over nothing (normalizer {normalizer}): the data has no targets")
    count = -(-len(inputs) // device_batch_size)
    rows = -(-len(inputs) // count)
    if missing := rows * count - len(inputs):
        inputs = torch.cat([inputs, inputs[:1].expand(missing, -1)])
        targets = torch.cat([targets, torch.full_like(targets[:1], -1).expand(missing, -1)])
        weights = None if weights is None else torch.cat([weights, torch.zeros_like(weights[:1]).expand(missing, -1)])
    pieces = [None] * count if weights is None else weights.split(rows)
    return [Batch(*four, normalizer) for four in zip(inputs.split(rows), targets.split(rows), pieces, strict=True)]


def fit(
    model: GPT,
    optimizer: MuonAdamW,
    source: Source,
    schedule: Schedule,
    place: Place,
    world: World,
    *,
    num_steps: int,
    tokens_per_step: int,
    checkpoint_every: int = 0,
    eval_every: int = 0,
    evaluate: Callable[[int], Numbers] | None = None,
    compile: bool = False,
    log_every: int = 10,
) -> Numbers:
    """Trains from the newest checkpoint in `place.work`, or from the model as it is, up to `num_steps` updates.

    `tokens_per_step` counts all ranks and is only for the clock. `evaluate(step)` is called on every rank, at step 0, every
    `eval_every` steps and at the end; its numbers are logged. Returns the last logged numbers, with seconds of training.

    Raises:
        Interrupted: asked to stop by a signal; everything is saved.
        FloatingPointError: the loss, or a weight about to be saved, is not finite.
    """
    run = Run(model, optimizer, place, world, num_steps, tokens_per_step)
    loss_of = loss_function(model, compile)
    with stop_signals() as stop, repeatable(world.device):
        run.resume()
        if evaluate and (run.step == 0 or due(run.step, eval_every, num_steps)):
            run.note(evaluate(run.step))
        run.clock.go_on()
        while run.step < num_steps:
            loss, stopping = gradients(loss_of, source.batch(run.step), world, stop)
            if not isfinite(loss):
                raise FloatingPointError(diverged(f"the loss is {loss}", run.step))
            lr = schedule.lr(run.step)
            optimizer.step(lr, schedule.momentum(run.step), schedule.weight_decay(run.step))
            run.advance()
            if run.step == 1 or due(run.step, log_every, num_steps):
                said = source.numbers() if isinstance(source, ReportingSource) else {}
                run.log({"loss": loss, "lr_multiplier": lr, **said})
            if stopping or due(run.step, checkpoint_every, num_steps):
                run.save()
            if stopping and run.step < num_steps:
                raise Interrupted(f"stopped after step {run.step} of {num_steps} and saved: start it again to go on")
            if evaluate and due(run.step, eval_every, num_steps):
                run.note(evaluate(run.step))
            run.clock.go_on()
    return run.final()


def due(step: int, every: int, num_steps: int) -> bool:
    """Whether something that happens every so many steps (0: only at the end) happens after `step` updates."""
    return step == num_steps or (every > 0 and step % every == 0)


def loss_function(model: GPT, compile: bool) -> LossFunction:
    """`model.loss`, compiled for one shape where asked."""
    return torch.compile(model.loss, dynamic=False) if compile else model.loss


def gradients(loss_of: LossFunction, batches: list[Batch], world: World, stop: threading.Event) -> tuple[float, bool]:
    """Adds up the gradients of a step's micro-batches; returns the global mean loss and whether any rank is to stop.

    The loss travels to the host while the last backward pass runs, so that looking at it before the update costs no
    bubble on a GPU; the wish to stop travels with it, so that all ranks stop after the same step.
    """
    assert batches, "a source gave no micro-batch: give one whose targets are all -1"
    total = torch.zeros((), device=world.device)
    for batch in batches:
        tensors = [None if x is None else x.to(world.device, non_blocking=True) for x in (batch.inputs, batch.targets, batch.weights)]
        loss = loss_of(*tensors) / batch.normalizer
        total += loss.detach()
        if batch is batches[-1]:
            arriving = Arriving(all_reduce_sum(torch.stack([total, total.new_tensor(float(stop.is_set()))])))
        loss.backward()
    mean, wishes = arriving.values()
    return mean, wishes > 0


class Arriving:
    """Values on their way to the host: `values()` waits for the work queued before, not for what was queued since."""

    def __init__(self, values: Tensor) -> None:
        self.event = None
        self.host = values
        if values.is_cuda:
            self.host = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def values(self) -> list[float]:
        """The values, once they are there."""
        if self.event is not None:
            self.event.synchronize()
        return self.host.tolist()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set while the block runs; outside the main thread nothing can set it."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """The same sums in the same order while the block runs, on a CPU: compiled there, an embedding's gradient is added up
    by threads in the order of their arrival. On a GPU it costs too much, and resuming is exact but for such roundings.
    """
    if device.type != "cpu":
        yield
        return
    before, fill = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # nothing reads what it has not written; filling costs a pass
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        deterministic.fill_uninitialized_memory = fill


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
class Run:
    """Where a run stands: its step, its clock, its checkpoints and its log."""

    model: GPT
    optimizer: MuonAdamW
    place: Place
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
        if peak := peak_flops(self.world.device):
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
            self.place.metrics.log(self.step, **numbers)

    def save(self) -> None:
        """A checkpoint of this step on rank 0; the others wait until it is durable."""
        root = self.place.work / "checkpoints"
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
        root = self.place.work / "checkpoints"
        if self.world.rank == 0 and root.is_dir():
            checkpoint.remove_leftovers(root)
        found = checkpoint.newest(root) if self.world.rank == 0 else None
        step = broadcast_object(found and found.step)
        if step is None:
            self._rewind(-1)
            return
        found = checkpoint.Checkpoint(root / f"step-{step:06d}", step)
        state = found.state()
        if state["meaning"] != self._meaning():
            raise ValueError(f"{found.directory} is of another run ({state['meaning']}, this is {self._meaning()}): move it away")
        _copy_into(self.model, found.weights())
        self.optimizer.load_full_state(found.optimizer())
        self.step, self.last, self.clock.seconds = step, state["last"], state["seconds"]
        self._rewind(step - 1)
        self.note(state["row"])

    def _rewind(self, step: int) -> None:
        if self.world.rank == 0:
            self.place.metrics.truncate(step)

    def _meaning(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "inputs": dict(self.place.addresses)}


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
        f"{symptom} after {step} steps: training diverged; nothing of it was saved. Lower the learning rates or lengthen "
        "the warm-up, and run again"
    )


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of the GPU by NVIDIA's data sheets; None where it is not known, as on a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}
    return next((flops for key, flops in known.items() if key in name), None)
