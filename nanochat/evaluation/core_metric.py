"""CORE: what a base model knows, asked without any conversation format (DCLM, arXiv:2406.11794; 22 tasks).

Three kinds of questions: `multiple_choice` (one context, several endings: the ending with the lowest mean loss per
token wins), `schema` (several contexts, one ending), `language_modeling` (every token of the ending must be the
likeliest). Promises: the scores of the reference implementation; the answers do not depend on how questions are
batched, nor on how many ranks share them; what the options of a question share is read once; a prompt longer than the
context keeps its <|bos|> and its end. Not here: tasks and prompts (nanochat/evaluation/core_bundle.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nanochat.evaluation.core_bundle import CoreTask, prompts
from nanochat.evaluation.scores import TaskScore, text_digest
from nanochat.inference.engine import pad_right
from nanochat.model.gpt import GPT
from nanochat.model.kv_cache import KVCache
from nanochat.training.distributed import World, all_reduce_sum

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Question:
    """What is read to answer one example: a row of tokens per option, and where in it the scored tokens are."""

    rows: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int], ...]
    gold: int  # index of the right row; a language-modeling question has one row

    @property
    def shared(self) -> int:
        """Tokens that all rows begin with and whose predictions are not needed: read once."""
        return min(_common(self.rows), *(start - 1 for start, _ in self.spans))


def question(kind: str, rows: Sequence[Sequence[int]], gold: int, sequence_len: int) -> Question:
    """The rows with what is scored in them, cut on the left, behind <|bos|>, to the context of the model.

    What differs is scored: the tails of multiple choice, the common end of a schema, what the ending adds in language
    modeling; at least one token each, even where an option is the beginning of another.
    """
    if kind == "multiple_choice":
        starts = [min(_common(rows), *(len(row) - 1 for row in rows))] * len(rows)
    elif kind == "schema":
        same = min(_common([row[::-1] for row in rows]), *(len(row) - 1 for row in rows))
        starts = [len(row) - max(same, 1) for row in rows]
    else:
        asked, whole = rows
        rows, starts, gold = [whole], [min(len(asked), len(whole) - 1)], 0
    kept, spans = [], []
    for row, start in zip(rows, starts, strict=True):
        cut = max(len(row) - sequence_len, 0)
        kept.append((row[0], *row[1 + cut :]))
        spans.append((max(start - cut, 1), len(row) - cut))
    return Question(tuple(kept), tuple(spans), gold)


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    shortest = min(rows, key=len)
    return next((i for i, token in enumerate(shortest) if any(row[i] != token for row in rows)), len(shortest))


def ask_task(
    model: GPT,
    tokenizer: Tokenizer,
    task: CoreTask,
    examples: Sequence[dict[str, Any]],
    limit: int,
    tokens_per_batch: int,
    progress: Callable[[int], None] = lambda done: None,
    world: World | None = None,
) -> tuple[TaskScore, str]:
    """The score on the first `limit` examples, and the digest of their texts; on all ranks of a `world` the same."""
    texts = [prompts(task, examples, index) for index in range(min(limit, len(examples)))]
    golds = [0 if task.kind == "language_modeling" else example["gold"] for example in examples[: len(texts)]]
    right = verdicts(model, tokenizer, task.kind, texts, golds, tokens_per_batch, progress, world)
    score = TaskScore(sum(right), len(texts), task.baseline)
    return score, text_digest([*(text for group in texts for text in group), *map(str, golds)])


def verdicts(
    model: GPT,
    tokenizer: Tokenizer,
    kind: str,
    texts: Sequence[Sequence[str]],
    golds: Sequence[int],
    tokens_per_batch: int,
    progress: Callable[[int], None] = lambda done: None,
    world: World | None = None,
) -> list[bool]:
    """Whether each example is answered correctly; each rank asks every so-many-th of them in the order of length."""
    world, device = world or World(), model.wte.weight.device
    by_length = sorted(range(len(texts)), key=lambda index: sum(map(len, texts[index])), reverse=True)
    mine = by_length[world.rank :: world.size]
    encoded = iter(tokenizer.encode_batch([text for index in mine for text in texts[index]], 0))
    asked = {}
    for index in mine:
        rows = [[tokenizer.bos, *next(encoded)] for _ in texts[index]]
        asked[index] = question(kind, rows, golds[index], model.config.sequence_len)
    index_of = {id(item): index for index, item in asked.items()}
    right = torch.zeros(len(texts), dtype=torch.int32, device=device)
    for done, batch in batches(list(asked.values()), tokens_per_batch):
        right[[index_of[id(item)] for item in batch]] = torch.tensor(
            answer(model, batch), dtype=torch.int32, device=device
        )
        progress(min(done * world.size, len(texts)))
    return [bool(one) for one in (all_reduce_sum(right) if world.size > 1 else right).tolist()]


def batches(questions: Sequence[Question], tokens_per_batch: int) -> Iterator[tuple[int, list[Question]]]:
    """Questions of like length together, at most so many padded tokens a batch, with the number done after it."""
    done = 0
    batch: list[Question] = []
    size = {id(item): (max(map(len, item.rows)), len(item.rows)) for item in questions}
    rows = 0
    for item in sorted(questions, key=lambda item: size[id(item)], reverse=True):
        longest = size[id(batch[0])][0] if batch else 0
        if batch and (rows + len(item.rows)) * longest > tokens_per_batch:
            done += len(batch)
            yield done, batch
            batch, rows = [], 0
        batch.append(item)
        rows += len(item.rows)
    if batch:
        yield done + len(batch), batch


@torch.inference_mode()
def answer(model: GPT, batch: Sequence[Question]) -> list[bool]:
    """Whether each question is answered correctly. The shared beginnings are read once, then the rest of every row."""
    device = model.wte.weight.device
    heads = [item.rows[0][: item.shared] for item in batch]
    tails = [row[item.shared :] for item in batch for row in item.rows]
    owner = [index for index, item in enumerate(batch) for _ in item.rows]
    cache = KVCache(model.config, len(tails), device=device, dtype=model.compute_dtype)
    if any(heads):
        firsts = [owner.index(index) for index in range(len(batch))]
        shared = pad_right(heads)
        reading = cache.reading(shared, firsts, [len(head) for head in heads])
        model.features(shared.to(device), reading)
        reading.finish()
        others = [(firsts[index], row) for row, index in enumerate(owner) if row != firsts[index]]
        if others:
            sources, copies = ([pair[i] for pair in others] for i in (0, 1))
            cache.copy(sources, copies, cache.lengths[sources].tolist(), cache.latest[sources].tolist())
    given = pad_right(tails)
    tokens = given.to(device)  # (R, T)
    reading = cache.reading(given, range(len(tails)), [len(tail) for tail in tails])
    logits = model(tokens, reading)[:, :-1]  # (R, T - 1, V)
    targets = tokens[:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(
        targets
    )
    hits = logits.argmax(-1) == targets
    return _verdicts(batch, losses.cpu(), hits.cpu())


def _verdicts(batch: Sequence[Question], losses: Tensor, hits: Tensor) -> list[bool]:
    """From losses and hits (R, T - 1) of the tails to a verdict per question."""
    verdicts, row = [], 0
    for item in batch:
        means, exact = [], []
        for start, end in item.spans:
            span = slice(start - item.shared - 1, end - item.shared - 1)
            means.append(losses[row, span].mean().item())
            exact.append(bool(hits[row, span].all()))
            row += 1
        verdicts.append(exact[0] if len(item.rows) == 1 else means.index(min(means)) == item.gold)
    return verdicts
