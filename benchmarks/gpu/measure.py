"""What a model costs on a device: a training step and its parts, memory, saving, decoding; and what the device can do.

A step is the one that pretraining takes on one rank of the recipe: as many rows a pass and passes a step, the same loss
function, accumulation, optimizer and schedule, but for the exchange between ranks. Weights are random everywhere:
products with the zeros of a fresh model take less power and so less time. Seconds are between two synchronizations.
Promises: what is found is said at once, the most important first. Not here: processes and time limits (processes.py).
"""

import platform
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.processes import Say
from nanochat.artifacts.metrics import Metrics
from nanochat.data.special_tokens import SPECIAL_TOKENS
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.engine import Engine
from nanochat.model.device import arithmetic, compute_dtype, device_of
from nanochat.model.gpt import GPT
from nanochat.model.gpus import MEMORY_BYTES, peak_flops
from nanochat.model.memory import peak_memory, rows_that_fit
from nanochat.pipeline import Pretrain
from nanochat.recipes import RECIPES, stages_of
from nanochat.scaling import Hyperparameters, derive
from nanochat.stages.pretrain import schedule, settings
from nanochat.training.distributed import World
from nanochat.training.loop import Batch, accumulate_gradients, loss_function, split_rows
from nanochat.training.optim import MuonAdamW, build_optimizer
from nanochat.training.state import TrainState

WARM_UP, MOST_STEPS, ENOUGH_SECONDS = 2, 10, 15.0
DECODED = 128  # tokens of an answer
GIB = 2**30


@dataclass(frozen=True)
class Run:
    """A pretraining run as a recipe would set it up on one rank."""

    stage: Pretrain
    derived: Hyperparameters
    rows: int  # of one pass
    passes: int  # of one step

    @property
    def tokens(self) -> int:
        """Of one step of one rank."""
        return self.rows * self.passes * self.derived.config.sequence_len


def run_of(depth: int, architecture: Any, rows: int, tiny: bool) -> Run:
    """The run of that depth, on the ranks of the next deeper recipe; `rows` 0: as many as the card holds."""
    if tiny:
        small: dict[str, Any] = {"aspect_ratio": 16, "head_dim": 16, "total_batch_size": 256, "device_batch_size": 2}
        stage = Pretrain(depth=depth, architecture=architecture, **small)
        return Run(stage, derive(stage, 512, 64), 2, 2)
    real = [stage for name in RECIPES for stage in stages_of(name) if isinstance(stage, Pretrain)]
    real = sorted((each for each in real if not each.total_batch_size), key=lambda each: each.depth)
    nearest = next((each for each in real if each.depth >= depth), real[-1])
    stage = Pretrain(depth=depth, architecture=architecture, device_batch_size=rows, num_ranks=nearest.num_ranks)
    derived = derive(stage, 32768)
    rows_per_rank = max(1, derived.total_batch_size // (derived.config.sequence_len * stage.num_ranks))
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else MEMORY_BYTES["H100"]
    rows = rows or rows_that_fit(derived.config, rows_per_rank, memory, stage.num_ranks)
    return Run(stage, derived, rows, -(-rows_per_rank // rows))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """One call, between two synchronizations."""
    synchronize(device)
    begun = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - begun


@torch.no_grad()
def started(run: Run, device: torch.device) -> tuple[GPT, MuonAdamW]:
    """A model with random weights drawn on the device, and its optimizer."""
    with torch.device("meta"):
        model = GPT(run.derived.config)
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        parameter.normal_(std=1.0 if name == "wte.weight" else 0.02)
    model.compute_dtype = compute_dtype("auto", device)
    scaled = settings(run.stage, run.derived).scaled(run.derived.lr_scale)
    return model, build_optimizer(model, scaled, World(device=device))


def machine(device: str, tiny: bool, say: Say) -> None:
    """The device, and how fast it multiplies large matrices: the ceiling for a model made of products."""
    here = device_of(device)
    dtype = compute_dtype("auto", here)
    facts: dict[str, Any] = {
        "device": here.type, "name": arithmetic(dtype, here), "peak_flops": None, "memory_bytes": None,
        "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip
    if here.type == "cuda":
        properties = torch.cuda.get_device_properties(here)
        facts |= {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        facts |= {"peak_flops": peak_flops(properties.name), "capability": list(torch.cuda.get_device_capability(here))}
    say(facts)
    size = 256 if tiny else 8192
    a, b = (torch.randn(size, size, device=here).to(dtype) for _ in range(2))

    def products() -> None:
        for _ in range(10):
            torch.mm(a, b)

    products()
    taken = statistics.median(seconds_of(products, here) for _ in range(2 if tiny else 9))
    say({"matmul_flops": 10 * 2 * size**3 / taken})


def train(depth: int, architecture: str, rows: int, device: str, tiny: bool, say: Say) -> None:
    """Tokens per second, memory and the parts of a step."""
    here, run = device_of(device), run_of(depth, architecture, rows, tiny)
    config, world = run.derived.config, World(device=here)
    estimate = peak_memory(run.derived.config, run.rows)
    said = {"rows": run.rows, "passes": run.passes, "parameters": config.num_parameters(), "estimated_bytes": estimate}
    say({**said, "flops_per_token": config.flops_per_token()})
    model, optimizer = started(run, here)
    loss_of, plan = loss_function(model, compile=not tiny), schedule(run.stage, run.derived)
    tokens = torch.randint(config.vocab_size, (run.rows * run.passes, config.sequence_len + 1))
    batches = split_rows(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), run.rows, tokens[:, 1:].numel())
    number = 0

    def step() -> None:
        nonlocal number
        accumulate_gradients(loss_of, batches, world)
        optimizer.step(plan.lr(number), plan.momentum(number), plan.weight_decay(number))
        number += 1

    first = seconds_of(lambda: accumulate_gradients(loss_of, batches[:1], world), here)
    optimizer.zero_grad()
    if here.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(here)
    steady = seconds_of(lambda: accumulate_gradients(loss_of, batches[:1], world), here)
    say({"compile_seconds": first - steady})
    for _ in range(WARM_UP):
        step()
    taken: list[float] = []
    while len(taken) < 3 or (len(taken) < MOST_STEPS and sum(taken) < ENOUGH_SECONDS):
        taken.append(seconds_of(step, here))
    seconds = statistics.median(taken)
    say({"tok_per_s": run.tokens / seconds, "step_seconds": seconds, "steps": len(taken)})
    if here.type == "cuda":
        peak = torch.cuda.max_memory_allocated(here)
        say(
            {
                "peak_bytes": peak,
                "reserved_bytes": torch.cuda.max_memory_reserved(here),
                "estimate_ratio": peak / estimate,
            }
        )
    say({"parts": parts(loss_of, optimizer, batches, seconds, here)})


def parts(
    loss_of: Callable[..., Tensor],
    optimizer: MuonAdamW,
    batches: list[Batch],
    step_seconds: float,
    device: torch.device,
) -> dict[str, float]:
    """Seconds of one step's copies, forward and backward passes and update, taken one by one; the rest is `other`."""
    taken: dict[str, list[float]] = {"copy": [], "forward": [], "backward": [], "optimizer": []}
    moved: Any = None
    loss = torch.zeros(())

    def copy() -> None:
        nonlocal moved
        moved = batches[0].to(device)

    def forward() -> None:
        nonlocal loss
        loss = loss_of(*moved) / batches[0].normalizer

    for _ in range(3):
        taken["copy"].append(seconds_of(copy, device))
        taken["forward"].append(seconds_of(forward, device))
        taken["backward"].append(seconds_of(lambda: loss.backward(), device))
        taken["optimizer"].append(seconds_of(optimizer.step, device))
    times = {"copy": len(batches), "forward": len(batches), "backward": len(batches), "optimizer": 1}
    found = {name: statistics.median(each) * times[name] for name, each in taken.items()}
    return {**found, "other": step_seconds - sum(found.values())}


def save(depth: int, architecture: str, device: str, tiny: bool, scratch: str, say: Say) -> None:
    """Seconds that a checkpoint holds training up, and what it writes."""
    here, run = device_of(device), run_of(depth, architecture, 0, tiny)
    model, optimizer = started(run, here)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    folder = Path(scratch) / f"save-{architecture}-{depth}"
    state = TrainState(model, optimizer, Metrics(None), folder, {}, World(device=here), 1, run.tokens)
    with state.all_saved():
        say({"save_seconds": seconds_of(state.save, here)})
    say({"save_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())})
    shutil.rmtree(folder)


def decode(depth: int, architecture: str, device: str, tiny: bool, say: Say) -> None:
    """Tokens per second of greedy answers, one at a time and sixteen together, with the reading of the prompts."""
    here, run = device_of(device), run_of(depth, architecture, 0, tiny)
    vocab_size = run.derived.config.vocab_size
    learned = [bytes([byte]) for byte in range(256)]
    learned += [number.to_bytes(3, "big") for number in range(vocab_size - 256 - len(SPECIAL_TOKENS))]
    model, _ = started(run, here)
    engine = Engine(model, Tokenizer(tuple(learned)), calculator=False)
    engine.model.lm_head.weight[list(engine.scheduler.terminals)] = (
        0  # no answer ends by itself: the likeliest logit is above 0
    )
    count = 8 if tiny else DECODED
    for batch in (1, 16):
        prompts = torch.randint(256, (batch, 16 if tiny else 256)).tolist()
        engine.generate(prompts, count)
        say({f"decode_{batch}": batch * count / seconds_of(partial(engine.generate, prompts, count), here)})
