"""Decoding: prompts in, answers out, with a key-value cache, tool calls and streaming; for chat, evaluation and RL.

Different prompts decode in one batch; a prompt is read once for all its samples; rows that are done leave the batch.
Promises: what a row says does not depend on the rows decoded with it (each brings its own random numbers), nor on the
cache; every tool call is answered; a prompt that does not fit is refused. The token that ends the turn is part of the
answer. Not here: prompts (nanochat/data/chat_template.py), admission of new prompts into a running batch, a server.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nanochat.inference.sampling import check_settings, choose, draws
from nanochat.inference.tool_calls import ToolCalls
from nanochat.model.gpt import GPT
from nanochat.model.kv_cache import KVCache

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer

PREFILL_TOKENS = 16_384  # read in one forward: bounds the activations of many long prompts
CROWDED = 7 / 8  # a batch is compacted when fewer of its rows still speak: copying the cache costs about a step


@dataclass(frozen=True)
class Completion:
    """One answer: what follows the prompt.

    `mask` is 1 where the model chose the token and 0 where a tool's answer was forced upon it. `log_probs` are in nats,
    of the distribution drawn from; 0 where forced. `text` is without the token that ended the turn, special tokens
    within it by name. `finished` is False where the answer was cut by max_new_tokens or the end of the context.
    """

    tokens: list[int]
    mask: list[int]
    log_probs: list[float]
    text: str
    finished: bool


@dataclass
class _Batch:
    """What N rows have said so far; every row is at the same column."""

    tokens: np.ndarray  # (N, steps) int64
    spoken: np.ndarray  # (N, steps) bool: chosen by the model
    log_probs: np.ndarray  # (N, steps) float32
    limits: np.ndarray  # (N,) tokens each row may have
    lengths: np.ndarray  # (N,) tokens each row has
    finished: np.ndarray  # (N,) bool: ended by its own token


class Engine:
    """Decodes with a copy of the model's weights, made when it is built: build it anew after a training step."""

    def __init__(self, model: GPT, tokenizer: "Tokenizer", calculator: bool = True) -> None:
        self.model, self.tokenizer, self.calculator = model.inference_copy(), tokenizer, calculator
        self.terminals = (tokenizer.special("<|assistant_end|>"), tokenizer.bos)

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
        check_settings(max_new_tokens, temperature, top_k)
        if not prompts:
            return []
        batch = self._batch(prompts, max_new_tokens, num_samples)
        for _ in self._decode(batch, prompts, temperature, top_k, self._seeds(seed, len(prompts)), num_samples):
            pass
        return [self._completion(batch, row) for row in range(len(batch.tokens))]

    def stream_tokens(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Iterator[int]:
        """The same answer as `generate` to one prompt, token by token as they come; raises what `generate` raises."""
        check_settings(max_new_tokens, temperature, top_k)
        batch = self._batch([prompt], max_new_tokens, 1)
        for column in self._decode(batch, [prompt], temperature, top_k, self._seeds(seed, 1), 1):
            yield int(batch.tokens[0, column])

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens as they come, without the end of the turn; a special token is a piece of its own, by name.

        Characters of several bytes are held back until they are whole. No piece is empty.
        """
        return filter(None, self._pieces(tokens))

    def _pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            if token in self.terminals:
                continue
            special = token >= self.tokenizer.bos  # the special tokens follow the learned ones, <|bos|> first
            yield utf8.decode(b"" if special else self.tokenizer.decode_bytes([token]), final=special)
            yield self.tokenizer.decode([token]) if special else ""
        yield utf8.decode(b"", final=True)

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

    def _seeds(self, seed: int | Sequence[int], num_prompts: int) -> list[int]:
        if isinstance(seed, int):
            return [int(np.random.SeedSequence((seed, index)).generate_state(1)[0]) for index in range(num_prompts)]
        if len(seed) != num_prompts:
            raise ValueError(f"{len(seed)} seeds for {num_prompts} prompts: give one for each, or a single number")
        return list(seed)

    def _batch(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, num_samples: int) -> _Batch:
        context, vocab_size = self.model.config.sequence_len, self.model.config.vocab_size
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples}: must be at least 1")
        for prompt in prompts:
            if not 1 <= len(prompt) < context:
                raise ValueError(
                    f"a prompt of {len(prompt)} tokens: the context takes 1 to {context - 1}; shorten the conversation"
                )
            if not 0 <= min(prompt) <= max(prompt) < vocab_size:
                raise ValueError(f"a prompt holds ids outside 0..{vocab_size - 1}: take the model's own tokenizer")
        room = context - np.array([len(prompt) for prompt in prompts]).repeat(num_samples)  # (N,)
        limits = np.minimum(room, min(max_new_tokens, context))  # any whole number, larger than int64 too
        shape, none = (len(limits), int(limits.max())), np.zeros(len(limits), dtype=np.int64)
        tokens, spoken, log_probs = (np.zeros(shape, kind) for kind in (np.int64, bool, np.float32))
        return _Batch(tokens, spoken, log_probs, limits, none, none > 0)

    @torch.inference_mode()
    def _prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, KVCache]:
        """Logits (P, V) after each prompt, and a cache with `room` more positions than the longest prompt."""
        model, device = self.model, self.model.wte.weight.device
        counts = torch.tensor([len(prompt) for prompt in prompts])  # (P,)
        padded = pad_right(prompts).to(device)
        cache = KVCache(model.config, len(prompts), padded.size(1) + room, device, model.compute_dtype)
        logits = torch.empty(len(prompts), model.config.vocab_size, device=device)
        width = max(1, PREFILL_TOKENS // len(prompts))
        for at in range(0, padded.size(1), width):
            chunk = padded[:, at : at + width]
            here = (counts - at).clamp(0, chunk.size(1))
            ends = (counts > at) & (counts <= at + width)
            latest = model(chunk, cache, last=(here - 1).clamp(min=0))  # (P, V)
            cache.advance(here)
            logits = torch.where(ends.to(device)[:, None], latest, logits)
        return logits, cache

    def _decode(
        self,
        batch: _Batch,
        prompts: Sequence[Sequence[int]],
        temperature: float,
        top_k: int | None,
        seeds: Sequence[int],
        num_samples: int,
    ) -> Iterator[int]:
        """Fills the batch column by column and yields each column's index."""
        num_rows, steps = batch.tokens.shape
        logits, cache = self._prefill(prompts, steps)
        device = logits.device
        rows = np.arange(num_rows)  # the batch's row in each row of the cache
        if num_samples > 1:
            logits, cache = logits.repeat_interleave(num_samples, dim=0), cache.repeat(num_samples)
        uniform = torch.from_numpy(draws(seeds, num_samples, steps)).to(device) if temperature else None
        tools = ToolCalls(self.tokenizer, num_rows) if self.calculator else None
        for column in range(steps):
            picked = torch.from_numpy(rows).to(device)
            with torch.inference_mode():
                draw = uniform[picked, column] if uniform is not None else picked
                chosen, log_probs = choose(logits, draw, temperature, top_k)
            alive = self._write(batch, tools, rows, column, chosen.cpu().numpy(), log_probs.cpu().numpy())
            yield column
            if not alive.any():
                return
            keep = np.flatnonzero(alive[rows])
            if len(keep) < CROWDED * len(rows):
                rows, cache = rows[keep], cache.select(torch.from_numpy(keep))
            with torch.inference_mode():
                latest = torch.from_numpy(batch.tokens[rows, column]).to(device)[:, None]  # (B, 1)
                logits = self.model(latest, cache)[:, 0]  # (B, V)
                cache.advance()

    def _write(
        self,
        batch: _Batch,
        tools: ToolCalls | None,
        rows: np.ndarray,
        column: int,
        chosen: np.ndarray,
        log_probs: np.ndarray,
    ) -> np.ndarray:
        """Enters one column; returns (N,) bool, True for the rows that go on."""
        running = (batch.lengths == column) & ~batch.finished & (column < batch.limits)
        tokens = np.zeros(len(running), dtype=np.int64)
        tokens[rows] = chosen
        forced = tools.force(tokens) if tools else np.zeros_like(running)
        spoken = running & ~forced
        batch.tokens[:, column], batch.spoken[:, column] = tokens, spoken
        batch.log_probs[rows, column] = log_probs * spoken[rows]
        batch.lengths[running] += 1
        batch.finished |= spoken & np.isin(tokens, self.terminals)
        if tools:
            tools.watch(batch.tokens, spoken, column)
        return running & ~batch.finished & (column + 1 < batch.limits)

    def _completion(self, batch: _Batch, row: int) -> Completion:
        length, finished = int(batch.lengths[row]), bool(batch.finished[row])
        tokens = batch.tokens[row, :length].tolist()
        return Completion(
            tokens,
            batch.spoken[row, :length].astype(int).tolist(),
            batch.log_probs[row, :length].tolist(),
            self.tokenizer.decode(tokens[:-1] if finished else tokens),
            finished,
        )


def pad_right(rows: Sequence[Sequence[int]]) -> Tensor:
    """Tokens (R, T) of rows of different lengths, filled up on the right with token 0, whose outputs nobody reads."""
    return pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True)
