"""The same training step by karpathy's nanochat, from a checkout: `--peer PATH`.

It is imported under its own name, `nanochat`, so its process loads nothing of this library; it gets the same shape,
rows and passes. Its interface has moved: what is taken is `nanochat.gpt.GPTConfig` and `GPT`, `init_weights`,
`forward(inputs, targets)` as the mean loss, and `setup_optimizer()` or the list that `setup_optimizers()` gave. Not
here: its data, its schedules and FP8, and kernels that it would fetch from a network.
"""

import dataclasses
import importlib
import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.processes import Say

WARM_UP, STEPS = 2, 5


def peer(path: str, config: dict[str, Any], rows: int, passes: int, device: str, compiled: bool, say: Say) -> None:
    """Tokens per second of its step. Raises what its code raises, and ImportError where PATH is no such checkout."""
    root = Path(path).resolve()
    sys.path.insert(0, str(root))
    theirs = importlib.import_module("nanochat.gpt")
    if root not in Path(theirs.__file__ or "").resolve().parents:
        raise ImportError(f"nanochat.gpt came from {theirs.__file__}, not from {root}: give the root of a checkout")
    here = torch.device(device)
    model = build(theirs, config, here)
    optimizers = getattr(model, "setup_optimizer", None) or model.setup_optimizers
    made = optimizers()
    made = list(made) if isinstance(made, list | tuple) else [made]
    forward = torch.compile(model, dynamic=False) if compiled else model
    tokens = torch.randint(config["vocab_size"], (rows, config["sequence_len"] + 1), device=here)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step() -> float:
        begun = time.perf_counter()
        for _ in range(passes):
            with precision(here):
                loss = forward(inputs, targets)
            (loss / passes).backward()
        for each in made:
            each.step()
        model.zero_grad(set_to_none=True)
        if here.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    first = step()
    if here.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        step()
    seconds = statistics.median(step() for _ in range(STEPS))
    peak = torch.cuda.max_memory_allocated() if here.type == "cuda" else None
    tokens_per_step = rows * passes * config["sequence_len"]
    say({"tok_per_s": tokens_per_step / seconds, "compile_seconds": first - seconds, "peak_bytes": peak})


def build(theirs: Any, config: dict[str, Any], device: torch.device) -> Any:
    """Its model of our shape: the fields that both configs have."""
    fields = {field.name for field in dataclasses.fields(theirs.GPTConfig)}
    with torch.device("meta"):
        model = theirs.GPT(theirs.GPTConfig(**{name: value for name, value in config.items() if name in fields}))
    model.to_empty(device=device)
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)  # as ours: products with zeros take less time
    return model


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 by autocast, as it did before it had a COMPUTE_DTYPE of its own."""
    own = getattr(sys.modules.get("nanochat.common"), "COMPUTE_DTYPE", None)
    return nullcontext() if own or device.type != "cuda" else torch.autocast("cuda", torch.bfloat16)
