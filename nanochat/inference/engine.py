"""Everything that generates: prompts in, answers out, for chat, evaluation, RL and the server.

`generate` answers any number of prompts at once, `stream` one as it is made; both share one scheduler, so that an open
stream goes on while others generate. Promises: what an answer says does not depend on the answers beside it, nor on the
cache; every tool call is answered; a prompt that does not fit is refused. The token that ends the turn is part of the
answer. Not here: prompts (nanochat/data/chat_template.py), threads (worker.py), a server.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nanochat.inference.decode import LEAST
from nanochat.inference.requests import Completion, Delta, Request
from nanochat.inference.sampling import Sampling
from nanochat.inference.scheduler import Scheduler
from nanochat.inference.text_stream import TextStream
from nanochat.model.gpt import GPT
from nanochat.model.kv_cache import row_bytes

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer

__all__ = ["Completion", "Delta", "Engine", "Sampling", "pad_right"]

MAX_ROWS = 256  # beyond it a step takes about as much longer as it does more
CACHE_SHARE = 0.6  # of the free memory of a GPU
CPU_CACHE_BYTES = 2 << 30


class Engine:
    """Decodes with a copy of the model's weights; `update` takes over what training has made of them since.

    `max_rows` answers at the most are under way at once, fewer where memory does not allow them, the rest waits; a
    prompt and its answer have `max_len` tokens at the most, None: as many as the context. `compile` makes a step on a
    CPU two to four times as fast, after a compilation of some 15 s that later processes find in their cache; None:
    on a GPU only, where it takes away the time between kernels.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: "Tokenizer",
        calculator: bool = True,
        max_rows: int = 0,
        max_len: int | None = None,
        compile: bool | None = None,
    ) -> None:
        self.model, self.tokenizer = model.inference_copy(), tokenizer
        compile = self.model.wte.weight.device.type == "cuda" if compile is None else compile
        fitting = rows_that_fit(self.model, max_len)
        rows = min(max_rows, fitting) if max_rows else fitting
        self.scheduler = Scheduler(self.model, tokenizer, calculator, rows, max_len, compile)

    def update(self, model: GPT) -> None:
        """The weights as they are now."""
        self.model.load_state_dict(model.state_dict())
        self.scheduler.forget()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int | Sequence[int] = 0,
        num_samples: int = 1,
    ) -> list[Completion]:
        """`num_samples` answers to every prompt, those to one prompt next to each other.

        Args:
            prompts: token ids, each shorter than the context.
            max_new_tokens: at most so many tokens an answer, forced ones included.
            temperature: 0 takes the likeliest token each time.
            top_k: draw among so many likeliest tokens only; None: all.
            seed: of the samples; one number, from which each prompt's follows by its index, or one for every prompt.
            num_samples: answers to each prompt.

        Raises:
            ValueError: a prompt is empty, does not fit or holds unknown ids; a setting is out of its range.
        """
        Sampling(max_new_tokens, temperature, top_k)  # refused even where there is no prompt
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples}: must be at least 1")
        seeds = _seeds(seed, len(prompts))
        each = [Sampling(max_new_tokens, temperature, top_k, seed=one) for one in seeds]
        return self.answers(prompts, each, num_samples)

    def answers(
        self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling], num_samples: int = 1
    ) -> list[Completion]:
        """As `generate`, with settings of its own for each prompt."""
        found = dict(self.as_completed(prompts, samplings, num_samples))
        return [completion for index in range(len(prompts)) for completion in found[index]]

    def as_completed(
        self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling], num_samples: int = 1
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Which prompt, and all its answers, as soon as they are there; the others go on meanwhile."""
        requests: list[list[Request]] = []
        try:
            for prompt, sampling in zip(prompts, samplings, strict=True):
                requests.append(self.scheduler.submit(prompt, sampling, num_samples))
            left = dict(enumerate(requests))
            while left:
                ended = self.scheduler.counts.ended
                self.scheduler.step()
                if self.scheduler.counts.ended > ended:
                    for index in [index for index, pieces in left.items() if all(piece.done for piece in pieces)]:
                        yield index, [piece.completions[n] for piece in left.pop(index) for n in piece.samples]
        finally:
            for piece in (piece for pieces in requests for piece in pieces):
                if not piece.done:  # an error or Ctrl-C: whoever generates next must not wait for them
                    piece.cancel()

    def stream_deltas(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Delta]:
        """One answer as it is made; raises what `generate` raises. A stream that is closed early is cancelled."""
        arrived: deque[Delta] = deque()
        (request,) = self.scheduler.submit(prompt, sampling, 1, arrived.append)
        try:
            while arrived or not request.done:
                while arrived:
                    yield arrived.popleft()
                if not request.done:
                    self.scheduler.step()
        finally:
            if not request.done:
                request.cancel()

    def stream_tokens(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Iterator[int]:
        """The same answer as `generate` to one prompt, token by token as they come; raises what `generate` raises."""
        for delta in self.stream_deltas(prompt, Sampling(max_new_tokens, temperature, top_k, seed=_seeds(seed, 1)[0])):
            yield delta.token

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens as they come, without the end of the turn; a special token is named in the text.

        Characters of several bytes are held back until they are whole. No piece is empty.
        """
        text = TextStream(self.tokenizer)
        yield from filter(None, (text.push(token) for token in tokens if token not in self.scheduler.terminals))
        yield from filter(None, [text.flush()])

    def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """The same text as `generate` to one prompt, in pieces; raises what `generate` raises."""
        return self.pieces(self.stream_tokens(prompt, max_new_tokens, temperature, top_k, seed))


def rows_that_fit(model: GPT, max_len: int | None = None) -> int:
    """How many rows of so many positions (None: of the whole context) the cache may hold, 4 to 256."""
    device = model.wte.weight.device
    free = CACHE_SHARE * _free(device) if device.type == "cuda" else CPU_CACHE_BYTES
    return int(min(max(free // row_bytes(model.config, model.compute_dtype, max_len), LEAST), MAX_ROWS))


def _free(device: torch.device) -> int:
    """Bytes of a GPU that a tensor may take: also what torch keeps for itself, as nearly all of it once it trained."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _seeds(seed: int | Sequence[int], num_prompts: int) -> list[int]:
    if isinstance(seed, int | np.integer):
        if seed < 0:
            raise ValueError(f"seed={seed!r}: must be a whole number, 0 or more")
        return [int(np.random.SeedSequence((int(seed), index)).generate_state(1)[0]) for index in range(num_prompts)]
    if len(seed) != num_prompts:
        raise ValueError(f"{len(seed)} seeds for {num_prompts} prompts: give one for each, or a single number")
    return list(seed)


def pad_right(rows: Sequence[Sequence[int]]) -> Tensor:
    """Tokens (R, T) of rows of different lengths, filled up on the right with token 0, whose outputs nobody reads."""
    return pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True)
