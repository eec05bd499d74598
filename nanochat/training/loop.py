"""The training loop: one `fit` for pretraining, midtraining, SFT and RL, on one process or many.

A source gives the micro-batches of a step as a pure function of the step's number, so that the position in the data is
one integer and no random state has to be kept. Promises: N steps equal k steps, a kill, a resume and N - k steps, bit
for bit on a CPU; a checkpoint comes before an evaluation and is written while training goes on; all ranks save after
the same step; SIGTERM and SIGINT save and raise `Interrupted` when that is on the disk; a loss that is not finite stops
the run before it reaches the weights or the disk. Not here: data, learning rates, what the loss weighs.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils import deterministic

from nanochat.artifacts.metrics import Metrics
from nanochat.errors import Interrupted
from nanochat.model.gpt import GPT
from nanochat.training.distributed import World, all_reduce_sum
from nanochat.training.optim import MuonAdamW
from nanochat.training.schedule import Schedule
from nanochat.training.state import Numbers, TrainState, diverged

LossFunction = Callable[..., Tensor]  # of inputs, targets, weights and what else a batch holds: a sum, not a mean


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
    more: tuple[Tensor, ...] = ()  # (b, T) float each: what else the loss takes

    def to(self, device: torch.device) -> tuple[Tensor | None, ...]:
        """The tensors, on a device; on their way to a GPU through pinned memory, so that the host need not wait."""

        def moved(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        weights = None if self.weights is None else moved(self.weights)
        return moved(self.inputs), moved(self.targets), weights, *map(moved, self.more)


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
    world: World,
    *,
    metrics: Metrics,
    checkpoints: Path,
    inputs: Mapping[str, str],
    num_steps: int,
    tokens_per_step: int,
    checkpoint_every: int = 0,
    checkpoint_minutes: float = 0.0,
    eval_every: int = 0,
    also_every: int = 0,
    evaluate: Callable[[int], Numbers] | None = None,
    compile: bool = False,
    log_every: int = 10,
    loss: LossFunction | None = None,
    updates_per_step: int = 1,
) -> Numbers:
    """Trains from the newest checkpoint in `checkpoints`, or from the model as it is, up to `num_steps` steps.

    Checkpoints of other `inputs` are refused. `tokens_per_step` of all ranks are only for the clock. `evaluate(step)`
    is called on every rank, at step 0, every `eval_every` and `also_every` steps and at the end; its numbers are
    logged. Saves every `checkpoint_every` steps, so many minutes after the last time, and at the end. `loss`, if given,
    takes the place of the model's; a step is `updates_per_step` updates on the same batches. Returns the last numbers.

    Raises:
        Interrupted: asked to stop by a signal; everything is saved.
        FloatingPointError: the loss, or a weight about to be saved, is not finite.
        OSError: a checkpoint could not be written; said at the next one or at the end.
    """
    steps = num_steps, tokens_per_step, updates_per_step
    run = TrainState(model, optimizer, metrics, checkpoints, inputs, world, *steps)
    loss_of = loss or loss_function(model, compile)
    with stop_signals() as stop, reproducible_sums(world.device), run.all_saved():
        run.resume()
        if evaluate and (run.step == 0 or due(run.step, eval_every, num_steps) or due(run.step, also_every, num_steps)):
            run.evaluate(evaluate)
        run.clock.go_on()
        while run.step < num_steps:
            wishes = stop.is_set, partial(run.overdue, checkpoint_minutes)
            batches = source.batch(run.step)
            for _ in range(updates_per_step):
                mean_loss, (stopping, overdue) = accumulate_gradients(loss_of, batches, world, *wishes)
                update(optimizer, schedule, run.step, mean_loss)
            run.advance()
            if run.step == 1 or due(run.step, log_every, num_steps):
                said = source.numbers() if isinstance(source, ReportingSource) else {}
                run.log({"loss": mean_loss, "lr_multiplier": schedule.lr(run.step - 1), **said})
            if stopping or overdue or due(run.step, checkpoint_every, num_steps):
                run.save()
            if stopping and run.step < num_steps:
                raise Interrupted(f"stopped after step {run.step} of {num_steps} and saved: start it again to go on")
            if evaluate and (due(run.step, eval_every, num_steps) or due(run.step, also_every, num_steps)):
                run.evaluate(evaluate)
            run.clock.go_on()
    return run.final()


def update(optimizer: MuonAdamW, schedule: Schedule, step: int, mean_loss: float) -> None:
    """Follows the gradients that are there, unless the loss that they are of is not finite (FloatingPointError)."""
    if not isfinite(mean_loss):
        raise FloatingPointError(diverged(f"the loss is {mean_loss}", step))
    optimizer.step(schedule.lr(step), schedule.momentum(step), schedule.weight_decay(step))


def due(step: int, every: int, num_steps: int) -> bool:
    """Whether something that happens every so many steps (0: only at the end) happens after `step` updates."""
    return step == num_steps or (every > 0 and step % every == 0)


def loss_function(model: GPT, compile: bool) -> LossFunction:
    """`model.loss`, compiled for one shape where asked."""
    return torch.compile(model.loss, dynamic=False) if compile else model.loss


def accumulate_gradients(
    loss_of: LossFunction, batches: list[Batch], world: World, *wishes: Callable[[], bool]
) -> tuple[float, list[bool]]:
    """Adds up the gradients of a step's micro-batches; returns the global mean loss and, per wish, if any rank has it.

    The loss travels to the host while the last backward pass runs, so that looking at it before the update costs no
    bubble on a GPU; the wishes to stop and to save travel with it, so that all ranks do so after the same step.
    """
    assert batches, "a source gave no micro-batch: give one whose targets are all -1"
    total = torch.zeros((), device=world.device)
    for batch in batches:
        loss = loss_of(*batch.to(world.device)) / batch.normalizer
        total += loss.detach()
        if batch is batches[-1]:
            wished = [total.new_full((), float(wish())) for wish in wishes]  # filled on the device: no wait for a copy
            arriving = HostCopy(all_reduce_sum(torch.stack([total, *wished])))
        loss.backward()
    mean, *ranks = arriving.values()
    return mean, [count > 0 for count in ranks]


class HostCopy:
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
def reproducible_sums(device: torch.device) -> Iterator[None]:
    """The same sums in the same order while the block runs, on a CPU: compiled there, an embedding's gradient is added
    up by threads in the order of their arrival. On a GPU it costs too much, and resuming is exact but for such
    roundings.
    """
    if device.type != "cpu":
        yield
        return
    switch: Any = deterministic  # a property of the module, which type checkers do not see
    before, fill = torch.are_deterministic_algorithms_enabled(), switch.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    switch.fill_uninitialized_memory = False  # nothing reads what it has not written; filling costs a pass
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        switch.fill_uninitialized_memory = fill
