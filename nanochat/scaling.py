"""Depth is the one dial: every size and rate of a pretraining run that follows from it, each with its reason.

`derive` is what `nanochat plan` prints and what `pretrain` trains by, so that the price is told before it is paid.
Standard library only. Promises: a knob that is set wins over what would follow from the depth, and the reason says so;
the classic d20 is the model of the write-ups to the parameter (560,988,160). The rules are those of nanochat, in
November 2025 (classic) and July 2026 (modern), fitted there on runs from d12 to d26: far below d12 they are only a
start. Not here: memory (memory.py), hours and prices of machines.
"""

import dataclasses
from dataclasses import dataclass
from math import ceil, log2, sqrt
from typing import TYPE_CHECKING, Any

from nanochat.model.config import GPTConfig

if TYPE_CHECKING:
    from nanochat.pipeline import Pretrain

BATCH_REFERENCE = 2**19  # tokens: the batch for which the learning rates were tuned
BATCH_FITTED = (2**18, 2**21)  # tokens: where the square-root rule of the rates was used; it is not stretched beyond
FEWEST_STEPS = 50  # of a stage of chat whose length nobody has chosen
REFERENCE_DEPTH, REFERENCE_DECAY = 12, 0.28
BATCH_EXPONENT = 0.383  # of the horizon: arXiv:2505.13738
CLASSIC_RATIO, MODERN_RATIO = 20.0, 12.0


@dataclass(frozen=True)
class Rates:
    """What an architecture takes where the knob says -1. Each number beside the reference: docs/hyperparameters.md."""

    matrix_lr: float
    embedding_lr: float
    unembedding_lr: float
    scalar_lr: float
    warmup_steps: int
    warmdown_ratio: float
    final_lr_frac: float

    def learning_rates(self) -> dict[str, Any]:
        """Those of the optimizer's settings, by name."""
        return {name: value for name, value in vars(self).items() if name.endswith("_lr")}


RATES = {
    "classic": Rates(0.02, 0.2, 0.004, 0.5, 0, 0.2, 0.0),
    "modern": Rates(0.02, 0.3, 0.008, 0.5, 40, 0.65, 0.05),
}


@dataclass(frozen=True)
class Hyperparameters:
    """A pretraining run, priced: what `depth` and the knobs come to. `reasons` has a line for each derived number."""

    config: GPTConfig
    total_batch_size: int  # tokens per step over all ranks
    num_steps: int
    rates: Rates  # the learning rates before `lr_scale`
    lr_scale: float  # multiplies every one of them
    weight_decay: float
    reasons: dict[str, str]

    @property
    def num_parameters(self) -> int:
        """All trained numbers."""
        return self.config.num_parameters()

    @property
    def tokens(self) -> int:
        """Tokens trained on, over the whole run."""
        return self.num_steps * self.total_batch_size

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole run."""
        return self.tokens * self.config.flops_per_token()


def derive(stage: "Pretrain", vocab_size: int, sequence_len: int = 2048) -> Hyperparameters:
    """Everything that follows from the knobs of a `Pretrain`, the tokenizer's size and the length of a row.

    Raises:
        ValueError: a shape that cannot be built, or a batch that is no whole number of rows.
    """
    config = shape(stage, vocab_size, sequence_len)
    reasons = {
        "n_embd": f"aspect_ratio {stage.aspect_ratio} * depth {stage.depth}, in whole heads",
        "n_head": f"width {config.n_embd} / head_dim {stage.head_dim}",
    }
    ratio, horizon, reasons["tokens"] = _horizon(stage, config)
    batch, reasons["total_batch_size"] = _batch(stage, ratio, horizon, vocab_size, sequence_len)
    rows_per_step(batch, sequence_len, stage.num_ranks, stage.name)
    steps, reasons["num_steps"] = max(1, int(horizon / batch)), f"{horizon:,.0f} tokens / {batch:,} a step"
    if stage.num_steps:
        steps, reasons["num_steps"] = stage.num_steps, "the knob num_steps"
    rates, reasons["rates"] = _rates(stage, steps)
    reasons["lr_scale"] = _lr_scale_reason(stage.architecture, batch)
    decay, reasons["weight_decay"] = _decay(stage, batch, horizon, ratio, vocab_size, sequence_len)
    scale = lr_scale(stage.architecture, batch)
    return Hyperparameters(config, batch, steps, rates, scale, decay, reasons)


def shape(stage: "Pretrain", vocab_size: int, sequence_len: int, depth: int = 0) -> GPTConfig:
    """The model of that depth (0: the stage's). Raises ValueError for one whose width is not whole heads."""
    depth = depth or stage.depth
    width, heads = stage.aspect_ratio * depth, -(-stage.aspect_ratio * depth // stage.head_dim)
    if stage.architecture == "classic" and width % heads:
        raise ValueError(
            f"pretrain.depth = {depth}: width {stage.aspect_ratio} * {depth} = {width} does not divide into {heads} "
            f"heads (pretrain.head_dim = {stage.head_dim}): take one that divides {width}, or change aspect_ratio"
        )
    family = GPTConfig.classic if stage.architecture == "classic" else GPTConfig.modern
    kv_heads = stage.kv_heads or None
    config = family(
        depth, vocab_size, sequence_len, aspect_ratio=stage.aspect_ratio, head_dim=stage.head_dim, n_kv_head=kv_heads
    )
    return dataclasses.replace(config, window_pattern=stage.window_pattern or config.window_pattern)


def rows_per_step(total_batch_size: int, sequence_len: int, num_ranks: int, stage: str) -> int:
    """Rows of one step over all ranks. Raises ValueError for a batch that is not whole rows on every rank."""
    unit = sequence_len * num_ranks
    if total_batch_size % unit:
        near = max(unit, round(total_batch_size / unit) * unit)
        raise ValueError(
            f"{stage}.total_batch_size = {total_batch_size}: must be a multiple of sequence_len * num_ranks = "
            f"{sequence_len} * {num_ranks} = {unit}; {near} is"
        )
    return total_batch_size // sequence_len


def too_short(stage: str) -> str:
    """What is wrong with an epoch of fewer steps than FEWEST_STEPS, and the remedies."""
    return (
        f"too few to learn from: lower {stage}.total_batch_size, add rows to {stage}_data.mixture, or set "
        f"{stage}.num_steps if that is meant"
    )


def scaling_parameters(stage: "Pretrain", config: GPTConfig) -> int:
    """The parameters that the horizon counts: all of them (classic), or those that multiply: blocks and head
    (modern).
    """
    if stage.architecture == "classic":
        return config.num_parameters()
    return config.num_matrix_parameters() + config.vocab_size * config.n_embd


def _horizon(stage: "Pretrain", config: GPTConfig) -> tuple[float, float, str]:
    """Tokens per parameter, tokens, reason. It is the horizon of the depth also where num_steps cuts the run short."""
    classic = stage.architecture == "classic"
    ratio = stage.tokens_per_parameter or (CLASSIC_RATIO if classic else MODERN_RATIO)
    counted = scaling_parameters(stage, config)
    what, source = ("all", "arXiv:2203.15556") if classic else ("matrix", "nanochat's fit of July 2026")
    source = "the knob tokens_per_parameter" if stage.tokens_per_parameter else source
    return ratio, ratio * counted, f"{ratio:g} tokens a parameter ({source}) * {counted:,} {what} parameters"


def _reference_horizon(stage: "Pretrain", ratio: float, vocab_size: int, sequence_len: int) -> float:
    reference = stage.replaced(aspect_ratio=64, head_dim=128, kv_heads=0, window_pattern="")
    return ratio * scaling_parameters(stage, shape(reference, vocab_size, sequence_len, REFERENCE_DEPTH))


def _batch(stage: "Pretrain", ratio: float, horizon: float, vocab_size: int, sequence_len: int) -> tuple[int, str]:
    if stage.total_batch_size:
        return stage.total_batch_size, "the knob total_batch_size"
    if stage.architecture == "classic":
        return BATCH_REFERENCE, "2^19 tokens for every depth"
    growth = horizon / _reference_horizon(stage, ratio, vocab_size, sequence_len)
    batch = 2 ** round(log2(BATCH_REFERENCE * growth**BATCH_EXPONENT))
    rule = f"2^19 * (horizon / d12's = {growth:.3g})^{BATCH_EXPONENT}"
    return batch, f"{rule}, to a power of two (arXiv:2505.13738)"


def _rates(stage: "Pretrain", num_steps: int) -> tuple[Rates, str]:
    family = RATES[stage.architecture]
    family = dataclasses.replace(family, warmup_steps=min(family.warmup_steps, ceil(num_steps / 10)))
    knobs = {field.name: getattr(stage, field.name) for field in dataclasses.fields(Rates)}
    given = {name: value for name, value in knobs.items() if value != -1}
    reason = f"{stage.architecture}: docs/hyperparameters.md"
    return dataclasses.replace(family, **given), f"{reason}; by knob {', '.join(given)}" if given else reason


def lr_scale(architecture: str, batch: int) -> float:
    """By how much a batch of so many tokens changes the learning rates, in any stage that trains."""
    if architecture == "classic":
        return 1.0
    return sqrt(_fitted(batch) / BATCH_REFERENCE)


def _fitted(batch: int) -> int:
    return min(max(batch, BATCH_FITTED[0]), BATCH_FITTED[1])


def _lr_scale_reason(architecture: str, batch: int) -> str:
    if architecture == "classic":
        return "classic: the same rates for every batch"
    inside = _fitted(batch)
    note = "" if inside == batch else f", the batch taken as {inside:,}, the nearest for which that was fitted"
    return f"sqrt(batch / 2^19) (arXiv:2205.10287){note}"


def _decay(
    stage: "Pretrain", batch: int, horizon: float, ratio: float, vocab_size: int, sequence_len: int
) -> tuple[float, str]:
    if stage.weight_decay >= 0:
        return stage.weight_decay, "the knob weight_decay"
    if stage.architecture == "classic":
        return 0.0, "classic: none"
    shrink = _reference_horizon(stage, ratio, vocab_size, sequence_len) / horizon
    decay = REFERENCE_DECAY * sqrt(batch / BATCH_REFERENCE) * shrink
    rule = f"{REFERENCE_DECAY} * sqrt(batch / 2^19) * (d12's horizon / horizon = {shrink:.3g})"
    return decay, f"{rule} (arXiv:2405.13698)"
