"""Pretraining: packed rows in, base model out. Every size follows from the depth (nanochat/scaling.py).

Promises: the rows of a step are a pure function of its number, whatever the number of ranks and the device batch; a
horizon longer than the text is refused before the first step; the validation shard is never trained on. Not here: the
loop (nanochat/training/loop.py), tokenizing, evaluation beyond bits per byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nanochat.data.rows import EpochOrder, Rows
from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation.bits_per_byte import bits_per_byte
from nanochat.evaluation.core_bundle import load_source
from nanochat.evaluation.core_metric import ask_task
from nanochat.evaluation.scores import mean_centered
from nanochat.model.gpt import InitScales
from nanochat.scaling import Hyperparameters, derive
from nanochat.stages.trainer import Trainer, from_scratch, process_group
from nanochat.training.distributed import World
from nanochat.training.loop import Batch, Numbers, due, split_rows
from nanochat.training.optim import OptimSettings
from nanochat.training.schedule import CLASSIC_MOMENTUM, MODERN_MOMENTUM, Schedule
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import Pretrain

CORE_EXAMPLES = 100  # of a task at each look at CORE
CORE_TOKENS = 8192  # read together: little beside what training holds

OPTIMIZER: dict[str, dict[str, Any]] = {
    "classic": {},
    "modern": {
        "embedding_decay": 0.001,
        "value_embedding_decay": 0.01,
        "unembedding_decay": 0.01,
        "residual_decay": 0.05,
        "cautious": True,
        "embedding_beta2": 0.995,
        "unembedding_beta2": 0.96,
        "polar_express": True,
        "equal_rows": True,
        "equal_norm": True,
        "normuon_beta2": 0.9,
        "muon_value_gates": True,
    },
}
INITIAL = {
    "classic": InitScales(),
    "modern": InitScales(embedding_std=0.8, head_std=0.001, up_proj=0.4, gate_max=0.02),
}


def run(stage: Pretrain, ctx: StageContext) -> dict[str, float]:
    """Trains a GPT on `ctx.parts("tokenize")`; part 0 is for validation only.

    Raises:
        ValueError: the text is too short for the horizon, or sizes do not fit one another.
        Interrupted: stopped by a signal, and saved.
    """
    rows = Rows(ctx["tokenize"], ctx.parts("tokenize")[1:])
    with process_group(stage) as world:
        derived = derive(stage.replaced(num_ranks=world.size), rows.vocab_size, rows.sequence_len)
        refuse_short_text(stage, derived, len(rows))
        training = from_scratch(stage, ctx, world, derived, settings(stage, derived), INITIAL[stage.architecture])
        source = PretrainBatches(rows, derived.total_batch_size, stage.seed, training.device_batch_size, world)
        loss, core = validation_loss(stage, training, derived), core_metric(stage, training)

        def evaluate(step: int) -> Numbers:
            looks = step == 0 or due(step, stage.eval_every, derived.num_steps)
            asks = stage.core_every and step and due(step, stage.core_every, derived.num_steps)
            return (loss(step) if looks else {}) | (core() if asks else {})

        numbers = training.fit(source, schedule(stage, derived), evaluate=evaluate, also_every=stage.core_every)
        numbers |= {"num_parameters": derived.num_parameters, "tokens": derived.tokens, "flops": derived.flops}
        training.write_artifact(numbers)
    return numbers


class PretrainBatches:
    """Rows of the training shards in an order of their own for each epoch; step s takes the next `rows_per_step` of
    it.
    """

    def __init__(self, rows: Rows, total_batch_size: int, seed: int, device_batch_size: int, world: World) -> None:
        self.rows, self.device_batch_size, self.world = rows, device_batch_size, world
        self.rows_per_step = total_batch_size // rows.sequence_len
        self.order = EpochOrder(len(rows), seed)

    def batch(self, step: int) -> list[Batch]:
        """This rank's share of the step's rows."""
        share = self.rows_per_step // self.world.size
        first = step * self.rows_per_step + self.world.rank * share
        tokens = torch.from_numpy(self.rows[self.order[first : first + share]])  # (share, T + 1)
        normalizer = self.rows_per_step * (tokens.size(1) - 1)
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return split_rows(inputs, targets, self.device_batch_size, normalizer)


def settings(stage: Pretrain, derived: Hyperparameters) -> OptimSettings:
    """The optimizer of the architecture, at its learning rates before they are scaled by the batch."""
    rates = derived.rates.learning_rates()
    return OptimSettings(**rates, weight_decay=derived.weight_decay, **OPTIMIZER[stage.architecture])


def schedule(stage: Pretrain, derived: Hyperparameters) -> Schedule:
    """Warm-up, constant, warm-down."""
    rates, muon = derived.rates, MODERN_MOMENTUM if stage.architecture == "modern" else CLASSIC_MOMENTUM
    return Schedule(derived.num_steps, rates.warmup_steps, rates.warmdown_ratio, rates.final_lr_frac, muon)


def validation_loss(stage: Pretrain, training: Trainer, derived: Hyperparameters) -> Callable[[int], Numbers]:
    """What the loop measures: bits per byte on the first rows of the validation shard, on more of them at the end."""
    rows = Rows(training.ctx["tokenize"], training.ctx.parts("tokenize")[:1])
    token_bytes = np.load(training.ctx["tokenize"] / "token_bytes.npy")

    def evaluate(step: int) -> Numbers:
        most = stage.final_eval_rows if step == derived.num_steps else stage.eval_rows
        size = training.device_batch_size
        return {"val_bpb": bits_per_byte(training.model, rows, token_bytes, size, most, training.world)}

    return evaluate


def core_metric(stage: Pretrain, training: Trainer) -> Callable[[], Numbers]:
    """CORE of the model as it is, on the first examples of the tasks in `core_source`, shared out over the ranks.

    Raises:
        ValueError: that is no artifact of core_data, or one without tasks.
    """
    if not stage.core_every:
        return dict
    tasks = load_source(stage.core_source, CORE_EXAMPLES)
    tokenizer = Tokenizer.from_file(training.ctx["tokenizer"] / "tokenizer.json")

    def ask() -> Numbers:
        model, world = training.model, training.world
        asked = [ask_task(model, tokenizer, *each, CORE_EXAMPLES, CORE_TOKENS, world=world) for each in tasks]
        return {"core": mean_centered(score for score, _ in asked)}

    return ask


def refuse_short_text(stage: Pretrain, derived: Hyperparameters, num_rows: int) -> None:
    """ValueError where the run would go through the text more often than `max_epochs` allows."""
    length = derived.config.sequence_len
    needed, there = derived.tokens // length, num_rows * stage.max_epochs
    if needed > there:
        steps, epochs = there * length // derived.total_batch_size, -(-needed // max(1, num_rows))
        raise ValueError(
            f"pretrain needs {needed:,} rows of {length} tokens ({derived.num_steps:,} steps), and {num_rows:,} rows * "
            f"max_epochs {stage.max_epochs} = {there:,} are there: raise download.num_shards, lower pretrain.num_steps "
            f"to {steps:,} or pretrain.tokens_per_parameter, or set pretrain.max_epochs = {epochs}"
        )
