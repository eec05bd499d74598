"""Training on conversations: what midtraining and SFT share. They differ in which tokens the loss is on.

The whole epoch is rendered and packed by one process before the first step, so that the position in the data is one
integer and every row of it is known. Promises: the rows of a step are the same on any number of ranks and with any
device batch; the loss of a step is divided by what counts in all of it; resuming packs nothing again. Not here: the
loop (nanochat/training/loop.py), its set-up (nanochat/stages/trainer.py), rendering and packing.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nanochat.data.chat_template import render
from nanochat.data.conversation_packing import PackedRows, pack
from nanochat.data.rows import EpochOrder
from nanochat.data.tokenizer import Tokenizer
from nanochat.stages.trainer import Trainer, from_artifact, process_group
from nanochat.tasks import TASKS
from nanochat.tasks.mixture import Mixture, parse_mixture
from nanochat.tasks.task import Split
from nanochat.training.distributed import World, all_reduce_sum, barrier
from nanochat.training.loop import Batch, Numbers, split_rows
from nanochat.training.schedule import Schedule
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import Chat

VALIDATION_CONVERSATIONS = 512  # held-out ones for the validation loss, shared among the tasks of the mixture
FEWEST_STEPS = 50  # of a stage whose length nobody has chosen
POLL_SECONDS = 0.5  # between two looks whether the rows are packed


class ChatBatches:
    """The source of batches: step s takes rows s*B .. (s+1)*B of an endless sequence of shuffled epochs.

    `min_label` is the lowest label that the loss is on (data/conversation_packing.py): CONTEXT for every token,
    ASSISTANT for what the assistant says.
    """

    def __init__(
        self, rows: PackedRows, min_label: int, rows_per_step: int, device_batch_size: int, world: World, seed: int
    ) -> None:
        self.rows, self.min_label, self.world = rows, min_label, world
        self.rows_per_step, self.device_batch_size = rows_per_step, device_batch_size
        self.order = EpochOrder(len(rows.tokens), seed)

    def batch(self, step: int) -> list[Batch]:
        """This rank's micro-batches of the update after `step` updates."""
        first = step * self.rows_per_step
        everybody = self.order[first : first + self.rows_per_step]  # (B,)
        normalizer = float((self.rows.labels[everybody, 1:] >= self.min_label).sum())
        inputs, targets = inputs_and_targets(self.rows, everybody[self.world.rank :: self.world.size], self.min_label)
        return split_rows(inputs, targets, self.device_batch_size, normalizer)


def inputs_and_targets(rows: PackedRows, indices: np.ndarray, min_label: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (n, sequence_len) int64; a target is -1 where the label is lower than `min_label`."""
    tokens = torch.from_numpy(rows.tokens[indices].astype(np.int64))  # (n, T + 1)
    counted = torch.from_numpy(rows.labels[indices, 1:] >= min_label)  # (n, T)
    return tokens[:, :-1].contiguous(), torch.where(counted, tokens[:, 1:], -1)


def train_on_conversations(stage: "Chat", ctx: StageContext, previous: Path, min_label: int) -> Numbers:
    """Trains the model of `previous` on the stage's mixture and writes the artifact; returns the final numbers."""
    with process_group(stage) as world:
        training = from_artifact(stage, ctx, world, previous, stage.total_batch_size)
        mixture = parse_mixture(stage.mixture, f"{stage.name}.mixture")
        rows = packed(training, ctx.work / "rows", mixture, "train")
        held_out = packed(training, ctx.work / "held_out_rows", _sample(mixture), "test")
        rows_per_step = training.rows_per_step()
        source = ChatBatches(rows, min_label, rows_per_step, stage.device_batch_size, world, stage.seed)
        num_steps = stage.num_steps or one_epoch(stage, len(rows.tokens), rows_per_step)
        schedule = Schedule(num_steps, warmdown_ratio=stage.warmdown_ratio)
        numbers = training.fit(source, schedule, evaluate=validation(training, held_out, min_label))
        numbers |= _facts(rows) | {"epochs": num_steps * rows_per_step / len(rows.tokens)}
        training.write_artifact(numbers, step=num_steps)
    return numbers


def one_epoch(stage: "Chat", num_rows: int, rows_per_step: int) -> int:
    """Steps that go through all rows once. ValueError for so few that next to nothing would be learned."""
    steps = -(-num_rows // rows_per_step)
    if steps < FEWEST_STEPS:
        raise ValueError(
            f"{stage.name}: one epoch of its {num_rows:,} rows is {steps} steps of {rows_per_step:,} rows, too few to "
            f"learn from: lower {stage.name}.total_batch_size, add rows to {stage.name}.mixture, or set "
            f"{stage.name}.num_steps = {steps} if that is meant"
        )
    return steps


def packed(training: Trainer, directory: Path, mixture: Mapping[str, int], split: Split) -> PackedRows:
    """The rows of a mixture: made by rank 0 unless an earlier attempt did, then read by all."""
    if training.world.rank == 0 and not directory.exists():
        ctx, config = training.ctx, training.model.config
        tokenizer = Tokenizer.from_file(training.files[0])
        conversations = Mixture(mixture, split, ctx["task_data"], training.stage.seed)
        total = len(conversations)

        def rendered(index: int) -> tuple[list[int], list[int]]:
            if index % 10_000 == 0:
                ctx.metrics.progress(index, total, "conversations")
            return render(tokenizer, conversations[index]["messages"])

        pack(map(rendered, range(total)), config.sequence_len, config.vocab_size, tokenizer.bos).save(directory)
    while not directory.exists():  # packing takes longer than a collective may: nanochat.training.distributed.TIMEOUT
        time.sleep(POLL_SECONDS)
    barrier()
    return PackedRows.load(directory)


def validation(training: Trainer, rows: PackedRows, min_label: int) -> Callable[[int], Numbers]:
    """A function of the step that gives the mean loss on held-out rows, in nats a token that counts."""
    world = training.world

    @torch.no_grad()
    def evaluate(step: int) -> Numbers:
        mine = np.arange(world.rank, len(rows.tokens), world.size)
        total = torch.zeros(2, dtype=torch.float64, device=world.device)
        for start in range(0, len(mine), training.stage.device_batch_size):
            chosen = mine[start : start + training.stage.device_batch_size]
            inputs, targets = (x.to(world.device) for x in inputs_and_targets(rows, chosen, min_label))
            total += torch.stack([training.model.loss(inputs, targets).double(), (targets >= 0).sum().double()])
        loss, count = all_reduce_sum(total).tolist()
        return {"validation_loss": loss / count}

    return evaluate


def _sample(mixture: Mapping[str, int]) -> dict[str, int]:
    """A mixture of the same proportions, as small as a validation loss needs, of the tasks that hold something out."""
    held_out = {name: count for name, count in mixture.items() if "test" in TASKS[name].splits}
    total = sum(held_out.values())
    return {
        name: max(1, min(count, round(VALIDATION_CONVERSATIONS * count / total))) for name, count in held_out.items()
    }


def _facts(rows: PackedRows) -> Numbers:
    counts = rows.counts
    return {
        "rows": len(rows.tokens),
        "conversations": counts.conversations,
        "truncated": counts.truncated,
        "dropped": counts.dropped,
        "supervised_share": counts.supervised_tokens / counts.tokens,
        "padding_share": 1 - counts.tokens / rows.tokens.size,
    }
