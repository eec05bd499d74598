"""What must hold on a device before its speed means anything: kernels, cache, engine, optimizer and loop.

Each check comes to one figure, an error, beside the largest that is right; NaN is wrong. Oracles: attention written out
in float64, the same model without the compiler, without a cache or on the CPU, and a run that was not interrupted.
Promises: torch, numpy, safetensors and the library suffice; a check leaves no file behind. Not here: speed
(measure.py).
"""

import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from math import isnan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.artifacts.metrics import Metrics, read
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.decode import Decoder
from nanochat.inference.engine import Engine
from nanochat.model import attention as kernels
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.kv_cache import KVCache
from nanochat.model.weights import load_model, save_model
from nanochat.pipeline import Pretrain
from nanochat.scaling import derive
from nanochat.stages.pretrain import INITIAL, settings
from nanochat.training.distributed import World
from nanochat.training.loop import Batch, accumulate_gradients, fit, loss_function, split_rows
from nanochat.training.optim import MuonAdamW, OptimSettings, build_optimizer
from nanochat.training.schedule import Schedule

FAMILIES = ("modern", "classic")
VOCAB = 265  # every byte and the special tokens
FP32, BF16 = torch.float32, torch.bfloat16


@dataclass(frozen=True)
class Place:
    """Where the checks run; `tiny` takes sizes for a CPU, and no code generator behind torch.compile."""

    device: torch.device
    tiny: bool = False

    @property
    def backend(self) -> str:
        """Of torch.compile; what depends on being compiled is the same behind both."""
        return "aot_eager" if self.tiny else "inductor"

    @property
    def window(self) -> int:
        """Of the checks of attention alone; models have windows of whole tiles."""
        return 40 if self.tiny else 256


@dataclass(frozen=True)
class Check:
    """A figure that is right up to `tolerance`."""

    name: str
    tolerance: float
    figure: Callable[[Place], float]
    cuda_only: bool = False

    def run(self, place: Place) -> dict[str, Any]:
        """The verdict as `gpu.json` has it; what the check raises is its caller's."""
        torch.compiler.reset()
        begun = time.perf_counter()
        figure = self.figure(place)
        passed = "passed" if figure <= self.tolerance else "failed"
        seconds = round(time.perf_counter() - begun, 1)
        return {"name": self.name, "tolerance": self.tolerance, "figure": figure, "verdict": passed, "seconds": seconds}


def worst(errors: Iterable[float]) -> float:
    """The largest; infinite where one is NaN, which `max` might pass over."""
    return max((float("inf") if isnan(error) else error for error in errors), default=float("inf"))


def error_of(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected, in float64 on the CPU."""
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    return float((actual - expected).norm() / (expected.norm() + 1e-30))


def normal(place: Place, *shape: int, seed: int, dtype: torch.dtype = FP32) -> Tensor:
    """Normal numbers that are the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(place.device, dtype)


# --- attention


def plain(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Attention in float64, every score and then the mask; shapes as in nanochat/model/attention.py."""
    q, k, v = (x.double() for x in (q, k, v))
    shared = torch.arange(q.size(2), device=q.device) // (q.size(2) // k.size(2))  # (H,) each query head's key head
    scores = torch.einsum("bthd,bshd->bhts", q, k[:, :, shared]) * q.size(-1) ** -0.5
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(~visible, float("-inf")).softmax(-1), v[:, :, shared])


def heads(place: Place, n_kv_head: int, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v of 2 rows and 4 query heads; the length is no multiple of any kernel's block."""
    length, dim = (150, 16) if place.tiny else (1000, 128)
    sizes = enumerate((4, n_kv_head, n_kv_head))
    return [normal(place, 2, length, n, dim, seed=seed, dtype=dtype).requires_grad_() for seed, n in sizes]


def attention_error(dtype: torch.dtype, compiled: bool, cases: list[tuple[bool, int]], place: Place) -> float:
    """Values and gradients of the kernel that is chosen here; cases are (windowed, key heads)."""
    return worst(each for case in cases for each in _attention_errors(place, dtype, compiled, *case))


def _attention_errors(
    place: Place, dtype: torch.dtype, compiled: bool, windowed: bool, n_kv_head: int
) -> Iterable[float]:
    ours, exact = heads(place, n_kv_head, dtype), heads(place, n_kv_head, dtype)
    (q, k, v), length, window = ours, ours[0].size(1), place.window if windowed else None
    attend = kernels.attention
    if compiled:
        attend = torch.compile(attend, fullgraph=True, dynamic=False, backend=place.backend)
    positions = torch.arange(length, device=place.device)
    age = positions[:, None] - positions  # (T, T)
    expected = plain(exact[0], exact[1], exact[2], (age >= 0) & (age < (window or length)))
    actual = attend(q, k, v, window)
    pull = normal(place, *expected.shape, seed=3, dtype=dtype)
    expected.backward(pull.double()), actual.backward(pull)
    yield error_of(actual, expected)
    for one, other in zip(ours, exact, strict=True):
        assert one.grad is not None, "backward gives every operand a gradient"
        assert other.grad is not None, "backward gives every operand a gradient"
        yield error_of(one.grad, other.grad)


@torch.no_grad()
def decoding_error(dtype: torch.dtype, place: Place) -> float:
    """Logits of tokens read one by one, as the engine does it on this device, beside those read at once."""
    errors = []
    for family in FAMILIES:
        model = model_of(place, family, dtype)
        tokens, start = some_tokens(place, 2, model.config.sequence_len), model.config.sequence_len - 9
        cache = KVCache(model.config, 2, device=place.device, dtype=dtype)
        decoder = Decoder(model, cache, compile=place.device.type == "cuda")
        reading = cache.reading(tokens[:, :start], (0, 1), (start, start))
        model(tokens[:, :start], reading, last=torch.tensor([start - 1] * 2))
        reading.finish()
        pieces = []
        for at in range(start, tokens.size(1)):
            lengths, before = torch.from_numpy(cache.lengths.copy()), torch.from_numpy(cache.latest.copy())
            logits, _, _ = decoder(tokens[:, at].cpu(), lengths, before, at + 1)
            pieces.append(logits.clone())
            cache.advance([0, 1], 1, tokens[:, at].cpu().numpy())
        errors.append(error_of(torch.stack(pieces, dim=1), model(tokens)[:, start:]))
    return worst(errors)


# --- the model


def shape(place: Place, family: str) -> GPTConfig:
    """Three layers, the modern ones with windows that are shorter than the rows, and shared keys.

    Of two layers the one whose output `backout` takes away would be the last, and its gradient nothing but rounding.
    """
    make = GPTConfig.classic if family == "classic" else GPTConfig.modern
    length, width, dim = (192, 32, 16) if place.tiny else (512, 256, 128)
    return make(3, VOCAB, length, width=width, head_dim=dim, n_kv_head=1)


def model_of(place: Place, family: str, dtype: torch.dtype = FP32) -> GPT:
    """A model in which no parameter is at a special value such as zero, the same on every device."""
    model = GPT(shape(place, family))
    model.init_weights(1, INITIAL[family])
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            parameter.add_(noise, alpha=0.05)
    model.compute_dtype = dtype
    return model.to(place.device)


def some_tokens(place: Place, rows: int, length: int, seed: int = 0) -> Tensor:
    """(rows, length) int64 on the device."""
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed)).to(place.device)


@cache  # three checks look at them, and compiling is most of the time
def _pass(place: Place, family: str, dtype: torch.dtype, compiled: bool) -> tuple[Tensor, dict[str, Tensor]]:
    model = model_of(place, family, dtype)
    tokens = some_tokens(place, 2, model.config.sequence_len + 1)
    loss_of = torch.compile(model.loss, dynamic=False, backend=place.backend) if compiled else model.loss
    loss = loss_of(tokens[:, :-1], tokens[:, 1:].contiguous()) / tokens[:, 1:].numel()
    loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compiled_error(place: Place) -> float:
    """Loss and every gradient of the compiled model beside the plain one, in fp32."""
    errors = []
    for family in FAMILIES:
        (loss, gradients), (expected, exact) = (_pass(place, family, FP32, compiled) for compiled in (True, False))
        assert gradients.keys() == exact.keys(), f"gradients of {sorted(gradients.keys() ^ exact.keys())}"
        errors += [error_of(loss, expected), *(error_of(gradients[name], exact[name]) for name in exact)]
    return worst(errors)


def bf16_error(gradient: bool, place: Place) -> float:
    """The compiled model in bf16 beside the plain one in fp32: its loss, or all of its gradients as one."""
    errors = []
    for family in FAMILIES:
        (loss, found), (expected, exact) = _pass(place, family, BF16, True), _pass(place, family, FP32, False)
        if gradient:
            loss, expected = (torch.cat([each[name].flatten() for name in exact]) for each in (found, exact))
        errors.append(error_of(loss, expected))
    return worst(errors)


@torch.no_grad()
def chunks_error(dtype: torch.dtype, place: Place) -> float:
    """Logits read through a cache in chunks and single tokens beside those read at once."""
    errors = []
    for family in FAMILIES:
        model = model_of(place, family, dtype)
        tokens = some_tokens(place, 2, model.config.sequence_len)
        cache, at, pieces = KVCache(model.config, 2, tokens.size(1), place.device, dtype), 0, []
        for count in (70, 1, 1, tokens.size(1) - 72):
            some = tokens[:, at : at + count]
            reading = cache.reading(some, (0, 1), (count, count))
            pieces.append(model(some, reading))
            reading.finish()
            at += count
        errors.append(error_of(torch.cat(pieces, dim=1), model(tokens)))
    return worst(errors)


@torch.no_grad()
def generation_error(place: Place) -> float:
    """Largest difference, in nats, of what the engine says of its own greedy answers from what the model says without
    a cache of its likeliest tokens.
    """
    errors = []
    for family in FAMILIES:
        model = model_of(place, family)
        prompts = [some_tokens(place, 1, length, seed=length)[0].tolist() for length in (140, 3, 31)]
        tokenizer = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
        for prompt, said in zip(prompts, Engine(model, tokenizer, False).generate(prompts, 24), strict=True):
            logits = model(torch.tensor([prompt + said.tokens], device=place.device))[0, len(prompt) - 1 : -1]  # (N, V)
            nats, chosen = logits.log_softmax(-1).cpu(), torch.tensor(said.tokens)
            own = nats.gather(1, chosen[:, None])[:, 0]
            errors += [float((own - torch.tensor(said.log_probs)).abs().max()), float((nats.amax(1) - own).max())]
    return worst(errors)


def saved_error(place: Place) -> float:
    """How many tensors are not the same to the bit after a stay on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(place, "modern")
        save_model(model, Path(folder))
        loaded, _ = load_model(Path(folder), place.device)
    return float(sum(not torch.equal(model.state_dict()[name], each) for name, each in loaded.state_dict().items()))


# --- training


def recipe_settings(family: Any) -> OptimSettings:
    """What the d12 of that family trains with."""
    stage = Pretrain(depth=12, architecture=family)
    return settings(stage, derive(stage, 32768))


def optimizer_error(dtype: torch.dtype, place: Place) -> float:
    """What two steps change on the device, with products in `dtype`, beside what they change on the CPU in fp32."""
    errors = []
    for family in FAMILIES:
        found = []
        for here, precision in ((place, dtype), (Place(torch.device("cpu"), place.tiny), FP32)):
            model = model_of(here, family, precision)
            before = {name: each.detach().clone() for name, each in model.named_parameters()}
            optimizer = build_optimizer(model, recipe_settings(family), World(device=here.device))
            for step in range(2):
                for seed, parameter in enumerate(model.parameters()):
                    parameter.grad = normal(here, *parameter.shape, seed=100 * step + seed)
                optimizer.step(0.7, 0.9, 0.5)
            found.append({name: each.detach() - before[name] for name, each in model.named_parameters()})
        errors += [error_of(found[0][name], found[1][name]) for name in found[1]]
    return worst(errors)


@dataclass(frozen=True)
class RandomRows:
    """A source whose rows follow from the number of the step."""

    length: int

    def batch(self, step: int) -> list[Batch]:
        """Two micro-batches of two rows."""
        tokens = torch.randint(VOCAB, (4, self.length + 1), generator=torch.Generator().manual_seed(step))
        return split_rows(tokens[:, :-1], tokens[:, 1:], 2, 4.0 * self.length)


def started(place: Place) -> tuple[GPT, MuonAdamW]:
    """A modern model in the precision of the device, and its optimizer."""
    model = model_of(place, "modern", BF16 if place.device.type == "cuda" else FP32)
    return model, build_optimizer(model, recipe_settings("modern"), World(device=place.device))


def resume_error(place: Place) -> float:
    """Losses of steps 4 to 6 after a resume from the checkpoint of step 3, beside those of the run in one piece."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints, log = Path(folder) / "checkpoints", Path(folder) / "metrics.jsonl"

        def losses() -> list[float]:
            model, optimizer = started(place)
            fit(
                model, optimizer, RandomRows(64), Schedule(6), World(device=place.device), metrics=Metrics(log),
                checkpoints=checkpoints, inputs={}, num_steps=6, tokens_per_step=256, checkpoint_every=3, log_every=1,
            )  # fmt: skip
            return [row["loss"] for row in read(log)]

        whole = losses()
        shutil.rmtree(checkpoints / "step-000006")
        resumed = losses()
    assert len(whole) == len(resumed) == 6, f"{len(whole)} and {len(resumed)} losses of 6 steps"
    assert whole[:3] == resumed[:3], "the first three steps are not taken again"
    return worst(abs(a - b) / abs(b) for a, b in zip(resumed, whole, strict=True))


def host_waits(place: Place) -> float:
    """How often a training step makes the host wait for the device, but for the loss that it waits for on purpose."""
    model, optimizer = started(place)
    source, world = RandomRows(model.config.sequence_len), World(device=place.device)
    loss_of = loss_function(model, compile=True)

    def step(number: int) -> None:
        accumulate_gradients(loss_of, source.batch(number), world)
        optimizer.step()

    for number in range(2):
        step(number)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return float(sum("called a synchronizing" in str(each.message) for each in seen))


EVERY = [(windowed, n) for windowed in (False, True) for n in (4, 2, 1)]
SOME = [(False, 2), (True, 4), (True, 2)]
CHECKS = {
    check.name: check
    for check in (
        Check("attention, fp32", 1e-3, partial(attention_error, FP32, False, EVERY)),
        Check("attention, bf16", 2e-2, partial(attention_error, BF16, False, EVERY)),
        Check("decoding token by token, fp32", 1e-3, partial(decoding_error, FP32)),
        Check("decoding token by token, bf16", 5e-2, partial(decoding_error, BF16)),
        Check("logits through a cache, fp32", 1e-3, partial(chunks_error, FP32)),
        Check("logits through a cache, bf16", 5e-2, partial(chunks_error, BF16)),
        Check("generation with a cache, nats", 1e-3, generation_error),
        Check("optimizer steps, fp32", 5e-3, partial(optimizer_error, FP32)),
        Check("optimizer steps, bf16 near fp32", 0.1, partial(optimizer_error, BF16)),
        Check("weights saved and loaded", 0.0, saved_error),
        Check("checkpoint and resume", 1e-3, resume_error),
        Check("attention, compiled, bf16", 2e-2, partial(attention_error, BF16, True, SOME)),
        Check("attention, compiled, fp32", 1e-3, partial(attention_error, FP32, True, SOME[-1:])),
        Check("compiled loss and gradients, fp32", 5e-3, compiled_error),
        Check("compiled loss, bf16 near fp32", 1e-2, partial(bf16_error, False)),
        Check("compiled gradients, bf16 near fp32", 0.1, partial(bf16_error, True)),
        Check("waits of the host in a step", 0.0, host_waits, cuda_only=True),
    )
}
