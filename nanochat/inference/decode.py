"""One decoding step of the model, as fast as the device allows: compiled on a CPU, a CUDA graph on a GPU.

On a CPU one compilation serves any number of rows and positions. On a GPU each shape is captured once and replayed, so
that no time passes between kernels. Promises: the same function either way. Not here: the cache (model/kv_cache.py),
choosing tokens beyond the likeliest (sampling.py).
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from nanochat.model.gpt import GPT
from nanochat.model.kv_cache import DecodeStep, KVCache

LEAST = 4  # rows of a product: for fewer, those of a CPU round otherwise
Decoded = tuple[Tensor, Tensor, Tensor]  # logits (B, V) fp32, the likeliest token (B,), its log-probability (B,)


def decode(
    model: GPT, rooms: tuple[int, ...], tokens: Tensor, step: list[Tensor], keys: list[Tensor], values: list[Tensor]
) -> Decoded:
    """Reads tokens (B,) on, into rows that have read `step` = [lengths (B,) or -1 to idle, token before (B,)]."""
    logits = model(tokens[:, None], DecodeStep(step[0], step[1], keys, values, rooms))[:, 0]
    best, likeliest = logits.max(dim=-1)
    return logits, likeliest, best - logits.logsumexp(dim=-1)


class Decoder:
    """Decoding steps of a model in its cache."""

    def __init__(self, model: GPT, cache: KVCache, compile: bool) -> None:
        self.model, self.cache, self.compile = model, cache, compile
        self.rooms = tuple(cache.rooms)
        self._graphs: dict[tuple[int, int], CudaGraph] = {}
        self._warm = False

    @property
    def on_gpu(self) -> bool:
        """Whether shapes are worth keeping to few."""
        return self.cache.device.type == "cuda"

    def bucket(self, rows: int) -> int:
        """So many rows are decoded where `rows` speak: the last ones idle.

        On a CPU never one alone, for which oneDNN takes another product with other rounding: what a row says would
        depend on whether it is alone. In fp32 that is so for up to three (docs/log.md).
        """
        if self.on_gpu:
            return min(1 << (rows - 1).bit_length(), self.cache.max_rows)
        least = 2 if self.cache.dtype == torch.bfloat16 and rows <= 2 else LEAST
        return min(-(-rows // least) * least, self.cache.max_rows)

    def __call__(self, tokens: Tensor, lengths: Tensor, before: Tensor, longest: int) -> Decoded:
        """Decodes the first B rows, of which the longest will hold `longest` positions; on the CPU (B,) tensors."""
        span = longest if not self.on_gpu else min(1 << (longest - 1).bit_length(), self.cache.max_len)
        keys, values = self.cache.views(len(tokens), span)
        if not self.compile:
            step = [lengths.to(self.cache.device), before.to(self.cache.device)]
            return decode(self.model, self.rooms, tokens.to(self.cache.device), step, keys, values)
        if self.on_gpu:
            return self._replayed(tokens, [lengths, before], keys, values)
        step = [lengths, before]
        if not self._warm:  # what is said of sizes counts while it is compiled; any call after that is a plain one
            self._warm = True
            return compile_decode(self.model, self.rooms, tokens, step, keys, values)
        return compiled_decode()(self.model, self.rooms, tokens, step, keys, values)

    def _replayed(self, tokens: Tensor, step: list[Tensor], keys: list[Tensor], values: list[Tensor]) -> Decoded:
        key = (len(tokens), max(each.size(2) for each in keys))  # a layer with a window stops growing early
        try:
            if key not in self._graphs:
                self._graphs[key] = CudaGraph(self.model, self.rooms, tokens, step, (keys, values))
        except Exception as error:  # an evaluation after hours of training must not end for want of speed
            warnings.warn(f"no CUDA graph of {key} ({error}): decoding goes on without", stacklevel=2)
            self.compile = False
            step = [each.to(self.cache.device) for each in step]
            return decode(self.model, self.rooms, tokens.to(self.cache.device), step, keys, values)
        return self._graphs[key](tokens, step)


@functools.cache
def compiled_decode() -> Callable[..., Decoded]:
    """`decode`, compiled for any number of rows and positions."""
    return torch.compile(decode, fullgraph=True)


def compile_decode(
    model: GPT, rooms: tuple[int, ...], tokens: Tensor, step: list[Tensor], keys: list[Tensor], values: list[Tensor]
) -> Decoded:
    """The first call, which compiles: rows and positions may vary, even where two sizes happen to be equal now."""
    for each in (tokens, *step):
        torch._dynamo.maybe_mark_dynamic(each, 0)
    for each in (*keys, *values):
        torch._dynamo.maybe_mark_dynamic(each, (0, 2))
    with torch.fx.experimental._config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        return compiled_decode()(model, rooms, tokens, step, keys, values)


class CudaGraph:
    """One shape of the compiled step, captured and replayed (CUDA programming guide, "CUDA Graphs")."""

    def __init__(
        self, model: GPT, rooms: tuple[int, ...], tokens: Tensor, step: list[Tensor], views: tuple[list[Tensor], ...]
    ) -> None:
        device = model.wte.weight.device
        self.tokens, self.step = tokens.to(device), [each.to(device) for each in step]
        with torch.cuda.device(device):  # a thread begins on the first GPU, and streams belong to the current one
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # warm-up, as capture wants it: the same tokens into the same places
                for _ in range(2):
                    compile_decode(model, rooms, self.tokens, self.step, *views)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            # of this thread only: another one, such as NCCL's watchdog, may ask the GPU for something meanwhile
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.decoded = compiled_decode()(model, rooms, self.tokens, self.step, *views)

    def __call__(self, tokens: Tensor, step: list[Tensor]) -> Decoded:
        """The result lies in memory that the next call writes again."""
        self.tokens.copy_(tokens, non_blocking=True)
        for mine, given in zip(self.step, step, strict=True):
            mine.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.decoded
