"""Tokens per second of one training step on a CPU, by form of the step: `python -m benchmarks.model_cpu [--quick]`.

Claim: compiled bf16 with attention in blocks of queries is the fastest form of this model on a CPU, optimizer included.
The forms take turns, so that a busy machine slows all of them alike; medians, and ratios to the first. Not covered:
compile time, GPUs, quality of the result (tests/test_model.py holds every form to the same numbers).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from nanochat.attention import attention, by_blocks, fused
from nanochat.distributed import World
from nanochat.model import GPT, GPTConfig
from nanochat.optim import OptimSettings, build_optimizer

CONFIG = GPTConfig.classic(4, vocab_size=2048, sequence_len=256, width=256, head_dim=64)
ROWS = 16


def stepper(
    dtype: torch.dtype, compiled: bool, attend: Callable[..., torch.Tensor], config: GPTConfig
) -> Callable[[], None]:
    """One optimizer step of a fresh model in that form."""
    model = GPT(config)
    model.init_weights(0)
    model.compute_dtype = dtype
    for block in model.blocks:
        block.attn.attend = attend
    optimizer = build_optimizer(model, OptimSettings(), World())
    loss = torch.compile(model.loss, fullgraph=True, dynamic=False) if compiled else model.loss
    tokens = torch.randint(
        config.vocab_size, (ROWS, config.sequence_len + 1), generator=torch.Generator().manual_seed(0)
    )
    inputs, targets = tokens[:, :-1], tokens[:, 1:].contiguous()

    def step() -> None:
        (loss(inputs, targets) / targets.numel()).backward()
        optimizer.step()

    return step


def whole_fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """The fused kernel, for models without windows."""
    return fused(q, k, v)


FORMS = {
    "eager fp32, SDPA": partial(stepper, torch.float32, False, whole_fused),
    "eager bf16, SDPA": partial(stepper, torch.bfloat16, False, whole_fused),
    "compiled fp32, SDPA": partial(stepper, torch.float32, True, whole_fused),
    "compiled bf16, SDPA": partial(stepper, torch.bfloat16, True, whole_fused),
    "compiled bf16, bmm, one block": partial(
        stepper, torch.bfloat16, True, partial(by_blocks, block=CONFIG.sequence_len)
    ),
    "compiled bf16, as shipped": partial(stepper, torch.bfloat16, True, attention),
}
QUICK = ("eager fp32, SDPA", "compiled bf16, SDPA", "compiled bf16, bmm, one block", "compiled bf16, as shipped")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four forms, 8 rounds")
    quick = parser.parse_args().quick
    steps = {name: form(CONFIG) for name, form in FORMS.items() if not quick or name in QUICK}
    for step in steps.values():
        step(), step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(8 if quick else 25):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    tokens = ROWS * CONFIG.sequence_len
    speed = {name: tokens / statistics.median(taken) for name, taken in seconds.items()}
    first = next(iter(speed.values()))
    shape = f"V{CONFIG.vocab_size} D{CONFIG.n_embd} L{CONFIG.n_layer} T{CONFIG.sequence_len} B{ROWS}"
    print(f"{shape}, torch {torch.__version__}, medians of {len(seconds[next(iter(seconds))])} steps")
    for name, per_second in speed.items():
        print(f"{name:32s} {per_second:9,.0f} tok/s  {per_second / first:5.2f} x")


if __name__ == "__main__":
    main()
