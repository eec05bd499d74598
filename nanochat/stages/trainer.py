"""What every stage that trains sets up alike: processes, precision, model, optimizer, and the artifact at the end.

A stage's work function is then its data and little else:

    def run(stage: Midtrain, ctx: StageContext) -> dict[str, float]:
        with process_group(stage) as world:
            training = from_artifact(stage, ctx, world, ctx["pretrain"], stage.total_batch_size)
            rows = training.rows_per_step()  # of all ranks
            source = ...  # .batch(step) -> list[Batch], see nanochat/training/loop.py; use split_rows for one shape
            numbers = training.fit(source, Schedule(num_steps, warmdown_ratio=stage.warmdown_ratio), evaluate=...)
            training.write_artifact(numbers)
        return numbers

Promises: learning rates are pretraining's times `lr_frac`, scaled by the stage's own batch, however many stages lie
between, and nothing decays after pretraining; every rank returns the same
numbers; only rank 0 writes. Not here: data, the loop (nanochat/training/loop.py), sizes that follow from depth
(nanochat/scaling.py).
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nanochat.artifacts.mirror import CHECKPOINTS
from nanochat.errors import Interrupted
from nanochat.model.device import compute_dtype
from nanochat.model.gpt import GPT, GPTConfig, InitScales
from nanochat.model.memory import rows_of_a_pass
from nanochat.model.weights import load_model, save_model
from nanochat.scaling import Hyperparameters, lr_scale, rows_per_step
from nanochat.training.distributed import World, barrier, start, stop
from nanochat.training.loop import LossFunction, Numbers, Source, fit
from nanochat.training.optim import MuonAdamW, OptimSettings, build_optimizer
from nanochat.training.schedule import Schedule
from nanochat.workflow.out_of_memory import note_rows, sparing
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import Chat, ModelStage, Pretrain, Rl, Trained


@contextmanager
def process_group(stage: "ModelStage") -> Iterator[World]:
    """The processes of the stage, on the device that its knobs say; left again by all of them together.

    After an error of one of several they are not: leaving is collective, and the others wait for that one elsewhere.
    """
    world = start(stage.device)
    try:
        yield world
    except Interrupted:  # of all ranks at the same step
        stop()
        raise
    stop()


@dataclass(frozen=True)
class Trainer:
    """A model, its optimizer and where they train. `total_batch_size` is in tokens per step over all ranks."""

    stage: "Trained"
    ctx: StageContext
    world: World
    model: GPT
    optimizer: MuonAdamW
    settings: OptimSettings  # pretraining's, before batch and lr_frac scale its rates
    architecture: str
    total_batch_size: int
    device_batch_size: int  # rows per rank and forward pass
    files: tuple[Path, Path]  # tokenizer.json and token_bytes.npy to pass on

    def rows_per_step(self) -> int:
        """Rows of `sequence_len` tokens of one step over all ranks: a multiple of their number. Raises ValueError."""
        return rows_per_step(self.total_batch_size, self.model.config.sequence_len, self.world.size, self.stage.name)

    def fit(
        self,
        source: Source,
        schedule: Schedule,
        *,
        tokens_per_step: int | None = None,
        evaluate: Callable[[int], Numbers] | None = None,
        also_every: int = 0,
        loss: LossFunction | None = None,
        updates_per_step: int = 1,
    ) -> Numbers:
        """Trains to the end of the schedule with the stage's execution knobs; raises as `training.loop.fit` does."""
        return fit(
            self.model,
            self.optimizer,
            source,
            schedule,
            self.world,
            metrics=self.ctx.metrics,
            checkpoints=self.ctx.work / CHECKPOINTS,
            inputs=self.ctx.addresses,
            num_steps=schedule.num_steps,
            tokens_per_step=tokens_per_step or self.total_batch_size,
            checkpoint_every=self.stage.checkpoint_every,
            checkpoint_minutes=self.stage.checkpoint_minutes,
            eval_every=self.stage.eval_every,
            also_every=also_every,
            evaluate=evaluate,
            compile=self.stage.compile,
            log_every=self.stage.log_every,
            loss=loss,
            updates_per_step=updates_per_step,
        ) | {"device_batch_size": self.device_batch_size}

    def write_artifact(self, numbers: Numbers, **facts: Any) -> None:
        """The four files of a trained stage, from rank 0; `facts` go into `model.json` too.

        Of the numbers only the step does: the same training gives the same bytes, and its seconds are never the same.
        """
        if self.world.rank == 0:
            facts |= {"step": int(numbers["num_steps"]), "total_batch_size": self.total_batch_size}
            facts |= {"optimizer": dataclasses.asdict(self.settings), "architecture": self.architecture}
            save_model(self.model, self.ctx.out, stage=self.stage.name, **facts)
            for path in self.files:
                shutil.copyfile(path, self.ctx.out / path.name)
        barrier()


def from_scratch(
    stage: "Pretrain",
    ctx: StageContext,
    world: World,
    derived: Hyperparameters,
    settings: OptimSettings,
    scales: InitScales,
) -> Trainer:
    """A new model with the weights of the stage's seed."""
    with torch.device("meta"):
        model = GPT(derived.config)
    model.to_empty(device=world.device)
    model.init_weights(stage.seed, scales)
    files = (ctx["tokenizer"] / "tokenizer.json", ctx["tokenize"] / "token_bytes.npy")
    optimizer = _optimizer(stage, world, model, settings.scaled(derived.lr_scale))
    batch = derived.total_batch_size
    rows = _rows(stage, ctx, world, derived.config, batch // derived.config.sequence_len)
    return Trainer(stage, ctx, world, model, optimizer, settings, stage.architecture, batch, rows, files)


def from_artifact(
    stage: "Chat | Rl", ctx: StageContext, world: World, previous: Path, batch: int, num_rows: int = 0, copies: int = 0
) -> Trainer:
    """The model of an earlier stage, with a new optimizer at `stage.lr_frac` of pretraining's learning rates.

    They are scaled by the stage's own `batch` of so many tokens (0: the earlier stage's). Nothing decays. A step has
    `num_rows` rows over all ranks (0: as the batch fills). Room is left for so many copies of the weights.
    """
    model, facts = load_model(previous, world.device)
    settings, architecture = OptimSettings(**facts["optimizer"]), facts["architecture"]
    batch = batch or facts["total_batch_size"]
    files = (previous / "tokenizer.json", previous / "token_bytes.npy")
    lowered = settings.for_finetuning(stage.lr_frac * lr_scale(architecture, batch))
    optimizer = _optimizer(stage, world, model, lowered)
    rows = _rows(stage, ctx, world, model.config, num_rows or batch // model.config.sequence_len, copies)
    return Trainer(stage, ctx, world, model, optimizer, settings, architecture, batch, rows, files)


def _optimizer(stage: "Trained", world: World, model: GPT, settings: OptimSettings) -> MuonAdamW:
    model.compute_dtype = compute_dtype(stage.dtype, world.device)
    model.checkpoint_activations, model.loss_chunk = stage.checkpoint_activations, stage.loss_chunk
    return build_optimizer(model, settings, world)


def _rows(stage: "Trained", ctx: StageContext, world: World, config: GPTConfig, num_rows: int, copies: int = 0) -> int:
    """Rows of a forward pass: the knob's, else as many of this rank's share of a step as the device holds."""
    per_rank = max(1, num_rows // world.size)
    card = torch.cuda.get_device_properties(world.device).total_memory if world.device.type == "cuda" else None
    rows = stage.device_batch_size or rows_of_a_pass(
        config, per_rank, card, world.size, copies=copies, **sparing(vars(stage))
    )
    if world.rank == 0:
        note_rows(ctx.work, min(rows, per_rank))
    return rows
