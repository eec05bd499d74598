"""Training on conversations: what midtraining and SFT share. They differ in which tokens the loss is on.

The rows of the whole epoch were packed by a CPU stage (stages/chat_data.py), so that the position in the data is one
integer and every row of it is known. Promises: the rows of a step are the same on any number of ranks and with any
device batch; the loss of a step is divided by what counts in all of it. Not here: the loop (nanochat/training/loop.py),
its set-up (nanochat/stages/trainer.py), rendering and packing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nanochat.data.conversation_packing import ConversationRows
from nanochat.data.rows import EpochOrder
from nanochat.scaling import FEWEST_STEPS, too_short
from nanochat.stages.trainer import Trainer, from_artifact, process_group
from nanochat.training.distributed import World, all_reduce_sum
from nanochat.training.loop import Batch, Numbers, split_rows
from nanochat.training.schedule import Schedule
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import Chat


class ChatBatches:
    """The source of batches: step s takes rows s*B .. (s+1)*B of an endless sequence of shuffled epochs.

    `min_label` is the lowest label that the loss is on (data/conversation_packing.py): CONTEXT for every token,
    ASSISTANT for what the assistant says.
    """

    def __init__(
        self,
        rows: ConversationRows,
        min_label: int,
        rows_per_step: int,
        device_batch_size: int,
        world: World,
        seed: int,
    ) -> None:
        self.rows, self.min_label, self.world = rows, min_label, world
        self.rows_per_step, self.device_batch_size = rows_per_step, device_batch_size
        self.order = EpochOrder(len(rows), seed)

    def batch(self, step: int) -> list[Batch]:
        """This rank's micro-batches of the update after `step` updates."""
        first = step * self.rows_per_step
        everybody = self.order[first : first + self.rows_per_step]  # (B,)
        normalizer = float((self.rows.labels[everybody][:, 1:] >= self.min_label).sum())
        inputs, targets = inputs_and_targets(self.rows, everybody[self.world.rank :: self.world.size], self.min_label)
        return split_rows(inputs, targets, self.device_batch_size, normalizer)


def inputs_and_targets(rows: ConversationRows, indices: np.ndarray, min_label: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (n, sequence_len) int64; a target is -1 where the label is lower than `min_label`."""
    tokens = torch.from_numpy(rows.tokens[indices])  # (n, T + 1)
    counted = torch.from_numpy(rows.labels[indices][:, 1:] >= min_label)  # (n, T)
    return tokens[:, :-1].contiguous(), torch.where(counted, tokens[:, 1:], -1)


def train_on_conversations(stage: "Chat", ctx: StageContext, previous: str, data: str, min_label: int) -> Numbers:
    """Trains the model of the stage `previous` on the rows of `data` and writes the artifact; returns final numbers."""
    with process_group(stage) as world:
        training = from_artifact(stage, ctx, world, ctx[previous], stage.total_batch_size)
        held_out, *parts = ctx.parts(data)
        sequence_len = training.model.config.sequence_len
        rows, validation_rows = ConversationRows(parts, sequence_len), ConversationRows([held_out], sequence_len)
        rows_per_step = training.rows_per_step()
        source = ChatBatches(rows, min_label, rows_per_step, training.device_batch_size, world, stage.seed)
        num_steps = stage.num_steps or one_epoch(stage, len(rows), rows_per_step)
        schedule = Schedule(num_steps, warmdown_ratio=stage.warmdown_ratio)
        numbers = training.fit(source, schedule, evaluate=validation(training, validation_rows, min_label))
        numbers |= rows.facts() | {"epochs": num_steps * rows_per_step / len(rows)}
        training.write_artifact(numbers, step=num_steps)
    return numbers


def one_epoch(stage: "Chat", num_rows: int, rows_per_step: int) -> int:
    """Steps that go through all rows once. ValueError for so few that next to nothing would be learned."""
    steps = -(-num_rows // rows_per_step)
    if steps < FEWEST_STEPS:
        epoch = f"one epoch of its {num_rows:,} rows is {steps} steps of {rows_per_step:,} rows"
        raise ValueError(f"{stage.name}: {epoch}, {too_short(stage.name)}")
    return steps


def validation(training: Trainer, rows: ConversationRows, min_label: int) -> Callable[[int], Numbers]:
    """A function of the step that gives the mean loss on held-out rows, in nats a token that counts."""
    world = training.world

    @torch.no_grad()
    def evaluate(step: int) -> Numbers:
        mine = np.arange(world.rank, len(rows), world.size)
        total = torch.zeros(2, dtype=torch.float64, device=world.device)
        for start in range(0, len(mine), training.device_batch_size):
            chosen = mine[start : start + training.device_batch_size]
            inputs, targets = (x.to(world.device) for x in inputs_and_targets(rows, chosen, min_label))
            total += torch.stack([training.model.loss(inputs, targets).double(), (targets >= 0).sum().double()])
        loss, count = all_reduce_sum(total).tolist()
        return {"validation_loss": loss / count}

    return evaluate
