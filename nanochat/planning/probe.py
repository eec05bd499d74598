"""How fast this machine multiplies matrices, and how long the demo takes on it: measured for a second before it starts.

Promises: nothing depends on what is measured but what is said; torch is imported only to measure. Not here: prices and
hours of GPUs (nanochat/planning/estimate.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nanochat import scaling
from nanochat.pipeline import Pretrain, Tokenize, Tokenizer
from nanochat.workflow.plan import Step

SHAPE = (4096, 256, 1024)  # rows, inner, columns: of a small model's feed-forward on 16 rows of 256 tokens
LOOP = 2_000_000  # turns of a loop in Python, whose time stands for all that is no matrix product
# Fitted to the demo on two kinds of AVX2 cores and one with bf16 units, see docs/log.md. A step takes what its products
# take at the measured rate, and for all else so many seconds a token, layer and channel; a stage takes beside its steps
# (to start, to compile, to generate one token at a time) so many seconds and so many times the loop, of all 18 stages
# alike.
ELEMENTWISE_SECONDS = {"float32": 1e-7, "bfloat16": 5e-8}
SECONDS_A_STAGE = 9.5
LOOPS_A_STAGE = 60.0


@dataclass(frozen=True)
class Rate:
    """FLOP/s of matrix products in the precision that the machine multiplies fast, its name, seconds of the loop."""

    flops: float
    arithmetic: str
    loop_seconds: float
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.flops / 1e9:,.0f} GFLOP/s in {self.arithmetic}"


def matrix_rate(seconds: float = 1.0) -> Rate:
    """The median rate over about `seconds`, on the device and in the precision that training would take."""
    import torch

    from nanochat.model.device import arithmetic, compute_dtype, device_of

    device = device_of("auto")
    dtype = compute_dtype("auto", device)
    rows, inner, columns = SHAPE
    a, b = torch.randn(rows, inner).to(device, dtype), torch.randn(inner, columns).to(device, dtype)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken: list[float] = []
    a @ b  # the first one finds its kernel
    wait()
    end = time.monotonic() + seconds
    while time.monotonic() < end or not taken:
        begun = time.perf_counter()
        a @ b
        wait()
        taken.append(time.perf_counter() - begun)
    flops = 2 * rows * inner * columns / statistics.median(taken)
    loop_seconds = statistics.median(_loop() for _ in range(3))
    return Rate(flops, arithmetic(dtype, device), loop_seconds, str(dtype).removeprefix("torch."))


def _loop() -> float:
    begun = time.perf_counter()
    sum(number * number for number in range(LOOP))
    return time.perf_counter() - begun


def seconds_of(steps: Iterable[Step], to_make: set[str], rate: Rate) -> float | None:
    """What the stages `to_make` take at that rate; None where the length of a stage is known only from its data."""
    by_name: dict[str, Any] = {step.name: step.stage for step in steps}
    pretrain, tokenizer, tokenize = (by_name.get(name) for name in ("pretrain", "tokenizer", "tokenize"))
    if not isinstance(pretrain, Pretrain) or not isinstance(tokenizer, Tokenizer) or not isinstance(tokenize, Tokenize):
        return None
    derived = scaling.derive(pretrain, tokenizer.vocab_size, tokenize.sequence_len)
    tokens = {"pretrain": derived.tokens}
    for name in ("midtrain", "sft"):
        stage = by_name[name]
        tokens[name] = stage.num_steps * (stage.total_batch_size or derived.total_batch_size)
        if not tokens[name] and name in to_make:
            return None
    config, count = derived.config, sum(count for name, count in tokens.items() if name in to_make)
    elementwise = ELEMENTWISE_SECONDS[rate.dtype] * config.n_layer * config.n_embd
    a_token = config.flops_per_token() / rate.flops + elementwise
    return len(to_make) * (SECONDS_A_STAGE + LOOPS_A_STAGE * rate.loop_seconds) + count * a_token
