"""Tokens per second of one training step on a CPU: `python -m benchmarks.model_cpu [--quick] [--only TABLE]`.

Three tables. `forms`: compiled, in the precision that the processor multiplies fast, with attention in blocks of
queries is the fastest form of this model. `share`: how much of a step is the optimizer's. `waiting`: a bounded spin of
OpenMP's threads keeps at least 95 % of the default's speed on a quiet machine and 45 % of it beside one busy process.
Forms and settings take turns, so that a busy machine slows all of them alike; medians, and ratios to the first line.
Not covered: compile time, GPUs, quality of the result (tests/model/test_model.py holds every form to the same numbers).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import waiting_threads
from nanochat.model.attention import attention, by_blocks, fused
from nanochat.model.config import GPTConfig
from nanochat.model.device import arithmetic, compute_dtype
from nanochat.model.gpt import GPT
from nanochat.training.distributed import World
from nanochat.training.optim import OptimSettings, build_optimizer

CONFIG = GPTConfig.classic(4, vocab_size=2048, sequence_len=256, width=256, head_dim=64)
ROWS = 16
CPU = torch.device("cpu")
FAST = compute_dtype("auto", CPU)


@dataclass(frozen=True)
class Step:
    """One optimizer step in its two halves."""

    gradients: Callable[[], None]
    update: Callable[[], None]

    def whole(self) -> None:
        self.gradients()
        self.update()


def stepper(dtype: torch.dtype, compiled: bool, attend: Callable[..., torch.Tensor], config: GPTConfig) -> Step:
    """The step of a fresh model in that form."""
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
    return Step(lambda: (loss(inputs, targets) / targets.numel()).backward(), optimizer.step)


def whole_fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """The fused kernel, for models without windows."""
    return fused(q, k, v)


as_shipped = partial(stepper, FAST, True, attention)
FAST_NAME = str(FAST).removeprefix("torch.")
FORMS = {
    "eager float32, SDPA": partial(stepper, torch.float32, False, whole_fused),
    f"eager {FAST_NAME}, SDPA": partial(stepper, FAST, False, whole_fused),
    "compiled float32, SDPA": partial(stepper, torch.float32, True, whole_fused),
    f"compiled {FAST_NAME}, SDPA": partial(stepper, FAST, True, whole_fused),
    f"compiled {FAST_NAME}, bmm, one block": partial(
        stepper, FAST, True, partial(by_blocks, block=CONFIG.sequence_len)
    ),
    f"compiled {FAST_NAME}, as shipped": as_shipped,
}
QUICK = {name for name in FORMS if name.startswith(("eager float32", f"compiled {FAST_NAME}"))}


def seconds_of(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times) for name, times in taken.items()}


def per_second(seconds: float) -> float:
    """Tokens per second of a step of so many seconds."""
    return ROWS * CONFIG.sequence_len / seconds


def forms(quick: bool) -> None:
    """Every form of the step beside the plainest."""
    steps = {name: form(CONFIG) for name, form in FORMS.items() if not quick or name in QUICK}
    for step in steps.values():
        step.whole(), step.whole()
    seconds = seconds_of({name: step.whole for name, step in steps.items()}, 8 if quick else 25)
    first = next(iter(seconds.values()))
    for name, each in seconds.items():
        print(f"{name:36s} {per_second(each):9,.0f} tok/s  {first / each:5.2f} x")


def share(quick: bool) -> None:
    """The optimizer's share of a step as shipped."""
    step = as_shipped(CONFIG)
    step.whole(), step.whole()
    seconds = seconds_of({"gradients": step.gradients, "update": step.update}, 10 if quick else 30)
    whole = sum(seconds.values())
    print(f"{'optimizer':36s} {seconds['update'] / whole:9.1%} of a step of {whole * 1e3:,.0f} ms")


def waiting(quick: bool) -> None:
    """Settings of OpenMP's waiting, quiet and beside a busy process."""
    found = waiting_threads.measure(3 if quick else 5, 2.0 if quick else 3.0, quick)
    first = next(iter(found.values()))[0]
    print(f"{'':36s}     quiet            beside one busy process")
    for name, (quiet, beside) in found.items():
        said = "  ".join(f"{per_second(each):9,.0f} tok/s {first / each:5.2f} x" for each in (quiet, beside))
        print(f"{name:36s} {said}")


TABLES = {"forms": forms, "share": share, "waiting": waiting}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer forms, settings and rounds")
    parser.add_argument("--only", choices=TABLES, help="one table")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:  # one of the processes whose threads wait
        waiting_threads.serve(as_shipped(CONFIG).whole)
        return
    shape = f"V{CONFIG.vocab_size} D{CONFIG.n_embd} L{CONFIG.n_layer} T{CONFIG.sequence_len} B{ROWS}"
    print(f"{shape}, torch {torch.__version__}, {arithmetic(FAST, CPU)}, {torch.get_num_threads()} threads")
    for name in [options.only] if options.only else TABLES:
        TABLES[name](options.quick)


if __name__ == "__main__":
    main()
