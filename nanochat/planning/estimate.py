"""What a plan takes, before a cent is spent: what is done, parameters, tokens, FLOPs, memory, hours, cost.

Every derived number comes with its reason (scaling.py). Hours are FLOPs over the peak of the named GPUs at the stated
share of it; chat stages are not counted. Of every stage that trains it says the tokens of a step and the learning rates
that it really takes, and the number of steps where no data decides it. It measures nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from nanochat import scaling
from nanochat.errors import unknown
from nanochat.model.gpus import DOLLARS_AN_HOUR, MEMORY_BYTES, PEAK_FLOPS
from nanochat.model.memory import peak_memory, rows_that_fit
from nanochat.pipeline import Chat, Pretrain, Rl, Tokenize, Tokenizer
from nanochat.redaction import bare
from nanochat.scaling import Hyperparameters, Rates
from nanochat.training.schedule import Schedule
from nanochat.workflow.explain import Status
from nanochat.workflow.plan import Step

MFU = 0.45  # of a well-filled GPU; nanochat's d32 ran at 0.51 on 8 H100s (2025-10)
GIB = 2**30
USUAL_GPU = "H100"  # whose memory counts where none is named


def parse_gpus(text: str) -> tuple[int, str]:
    """`8xH100` → (8, "H100"). ValueError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})x(\w+)", text)
    if not match or int(match[1]) < 1:
        raise ValueError(f"--gpus {text!r}: write it as 8xH100")
    if match[2] not in DOLLARS_AN_HOUR:
        raise ValueError(unknown("GPU", match[2], DOLLARS_AN_HOUR))
    return int(match[1]), match[2]


def describe(recipe: str, steps: Iterable[Step], found: Iterable[Status], gpus: str = "") -> dict[str, Any]:
    """The plan as data; `parameters` is the size of the model."""
    by_name = {step.name: step for step in steps}
    described: dict[str, Any] = {"recipe": recipe, "steps": [_step(status) for status in found]}
    pretrain = by_name.get("pretrain")
    if pretrain is not None and isinstance(pretrain.stage, Pretrain):
        described |= _model(by_name, pretrain.stage, gpus)
    return described


def _step(status: Status) -> dict[str, Any]:
    step = status.step
    return {
        "stage": step.name,
        "address": step.address,
        "parts": [part.address for part in step.parts],
        "on": step.stage.on,
        "done": status.done,
        "reasons": list(status.reasons),
        "knobs": bare({**step.stage.values("identity"), **step.stage.values("execution")}),
        "inputs": {name: each.address for name, each in step.inputs.items()},
    }


def _model(by_name: dict[str, Step], stage: Pretrain, gpus: str) -> dict[str, Any]:
    tokenizer, tokenize = by_name["tokenizer"].stage, by_name["tokenize"].stage
    assert isinstance(tokenizer, Tokenizer), tokenizer
    assert isinstance(tokenize, Tokenize), tokenize
    derived = scaling.derive(stage, tokenizer.vocab_size, tokenize.sequence_len)
    sparing: dict[str, Any] = {name: getattr(stage, name) for name in ("checkpoint_activations", "loss_chunk")}
    rows_per_rank = max(1, derived.total_batch_size // (tokenize.sequence_len * stage.num_ranks))
    card = MEMORY_BYTES[parse_gpus(gpus)[1] if gpus else USUAL_GPU]
    rows = stage.device_batch_size or rows_that_fit(derived.config, rows_per_rank, card, stage.num_ranks, **sparing)
    rows = min(rows, rows_per_rank)
    described = {
        "device_batch_size": rows,
        "parameters": derived.num_parameters,
        "n_layer": derived.config.n_layer,
        "n_embd": derived.config.n_embd,
        "n_head": derived.config.n_head,
        "total_batch_size": derived.total_batch_size,
        "num_steps": derived.num_steps,
        "tokens": derived.tokens,
        "flops": derived.flops,
        "weight_decay": derived.weight_decay,
        "peak_memory_bytes": peak_memory(derived.config, rows, stage.num_ranks, **sparing),
        "reasons": derived.reasons,
        "training": list(_training(by_name, stage, derived)),
    }
    if gpus:
        count, kind = parse_gpus(gpus)
        hours = derived.flops / (count * PEAK_FLOPS[kind] * MFU) / 3600
        described |= {"gpus": gpus, "hours": hours, "dollars": hours * count * DOLLARS_AN_HOUR[kind]}
    return described


def _training(by_name: dict[str, Step], pretrain: Pretrain, derived: Hyperparameters) -> Iterator[dict[str, Any]]:
    """The stages that train: tokens of a step over all ranks, steps, rates after `lr_frac` and batch, their sum."""
    batch = derived.total_batch_size
    rates, scale = derived.rates, derived.lr_scale
    ramps: Schedule | None = Schedule(derived.num_steps, rates.warmup_steps, rates.warmdown_ratio, rates.final_lr_frac)
    yield _trained("pretrain", batch, derived.num_steps, derived.rates, scale, ramps)
    for name in ("midtrain", "sft", "rl"):
        stage = by_name[name].stage if name in by_name else None
        if isinstance(stage, Chat):
            batch, ratio = stage.total_batch_size or batch, stage.warmdown_ratio
            tokens = batch
        elif isinstance(stage, Rl):
            tokens, ratio = stage.most_tokens_per_step(), 1.0
        else:
            continue
        ramps = Schedule(stage.num_steps, warmdown_ratio=ratio) if stage.num_steps else None
        scale = stage.lr_frac * scaling.lr_scale(pretrain.architecture, tokens)
        yield _trained(name, tokens, stage.num_steps, derived.rates, scale, ramps)


def _trained(name: str, tokens: int, steps: int, rates: Rates, scale: float, ramps: Schedule | None) -> dict[str, Any]:
    learning_rates = {each: rate * scale for each, rate in rates.learning_rates().items()}
    multipliers = sum(ramps.lr(step) for step in range(steps)) if ramps else None
    return {
        "stage": name,
        "tokens_per_step": tokens,
        "num_steps": steps or None,
        "learning_rates": learning_rates,
        "matrix_lr_sum": None if multipliers is None else learning_rates["matrix_lr"] * multipliers,
    }


def text(described: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"recipe {described['recipe']}"]
    for step in described["steps"]:
        parts = f"  ({len(step['parts'])} parts)" if step["parts"] else ""
        lines.append(f"  {'done   ' if step['done'] else 'to make'}  {step['on']}  {step['address']}{parts}")
    if "parameters" not in described:
        return "\n".join(lines)
    lines += [
        "",
        f"  parameters  {described['parameters']:,}",
        f"  training    {described['tokens']:,} tokens in {described['num_steps']:,} steps",
        f"  FLOPs       {described['flops']:.3g}",
        f"  memory      {described['peak_memory_bytes'] / GIB:.1f} GiB a rank at the most, estimated",
    ]
    if "gpus" in described:
        cost = f"{described['hours']:.1f} h, about ${described['dollars']:,.0f}"
        lines.append(f"  pretraining on {described['gpus']}: {cost} (at {MFU:.0%} of the peak)")
    lines += ["", "  stage      tokens a step    steps   rates: matrix, embedding, head, scalars    sum of the first"]
    for each in described["training"]:
        rates = "  ".join(f"{rate:.3g}" for rate in each["learning_rates"].values())
        steps = f"{each['num_steps']:,}" if each["num_steps"] else "1 epoch"
        total = f"{each['matrix_lr_sum']:.3g}" if each["num_steps"] else ""
        lines.append(f"  {each['stage']:<9}{each['tokens_per_step']:>15,}{steps:>9}   {rates:<43}{total}".rstrip())
    lines += ["", "  because"] + [f"    {name}: {reason}" for name, reason in described["reasons"].items()]
    return "\n".join(lines)
