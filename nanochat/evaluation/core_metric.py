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
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nanochat.evaluation.core_bundle import CoreTask, prompts
from nanochat.evaluation.prefix_tree import Line, PrefixTree
from nanochat.evaluation.scores import TaskScore, text_digest
from nanochat.model.gpt import GPT
from nanochat.training.distributed import World, all_reduce_sum

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer

CPU_TOKENS = 2048  # of a batch: activations of more leave the caches, and twice as many took 10 % longer
CPU_LOGITS, GPU_LOGITS = 1 << 21, 1 << 27  # numbers at a time


@dataclass(frozen=True)
class Question:
    """What is read to answer one example: a row of tokens per option, and where in it the scored tokens are."""

    rows: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int], ...]
    gold: int  # index of the right row; a language-modeling question has one row

    @cached_property
    def shared(self) -> int:
        """Tokens that all rows begin with: read once. The last token of a row is not read, since nothing follows."""
        return min(_common(self.rows), *(len(row) - 1 for row in self.rows))

    @property
    def num_read(self) -> int:
        """Tokens that are read to answer it, those included that `Line` repeats."""
        rests = [len(row) - 1 - self.shared for row in self.rows]
        return self.shared + sum(rests) + max(sum(rest > 0 for rest in rests) - 1, 0)


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
    if device.type == "cpu":
        tokens_per_batch = min(tokens_per_batch, CPU_TOKENS)
    right = torch.zeros(len(texts), dtype=torch.int32, device=device)
    for done, batch in batches(list(asked.values()), tokens_per_batch):
        right[[index_of[id(item)] for item in batch]] = torch.tensor(
            answer(model, batch), dtype=torch.int32, device=device
        )
        progress(min(done * world.size, len(texts)))
    return [bool(one) for one in (all_reduce_sum(right) if world.size > 1 else right).tolist()]


def batches(questions: Sequence[Question], tokens_per_batch: int) -> Iterator[tuple[int, list[Question]]]:
    """Questions of like length together, at most so many padded tokens a batch, with the number done after it."""
    size = {id(item): item.num_read for item in questions}
    longest_first = sorted(questions, key=lambda item: size[id(item)], reverse=True)
    done = 0
    while done < len(questions):
        count = max(1, tokens_per_batch // max(size[id(longest_first[done])], 1))
        batch = longest_first[done : done + count]
        done += len(batch)
        yield done, batch


@torch.inference_mode()
def answer(model: GPT, batch: Sequence[Question]) -> list[bool]:
    """Whether each question is answered correctly. What its rows share is read once, and all of it in one forward."""
    lines = [Line.of(item.rows[0][: item.shared], [row[item.shared : -1] for row in item.rows]) for item in batch]
    tree = PrefixTree(lines, model.wte.weight.device)
    places: list[int] = []  # of the tokens before the scored ones, among all
    targets: list[int] = []
    width = tree.tokens.size(1)
    for index, (item, line) in enumerate(zip(batch, lines, strict=True)):
        for row, (tokens, (start, end)) in enumerate(zip(item.rows, item.spans, strict=True)):
            places += [index * width + line.place(row, at - 1) for at in range(start, end)]
            targets += tokens[start:end]
    features = model.features(tree.tokens, tree).flatten(0, 1)  # (B T, C)
    return _verdicts(batch, *_scored(model, features[places], torch.tensor(targets, device=features.device)))


def _scored(model: GPT, features: Tensor, targets: Tensor) -> tuple[list[float], list[bool]]:
    """The loss of each target (N,) after features (N, C), in nats, and whether it was the likeliest token."""
    memory = CPU_LOGITS if features.device.type == "cpu" else GPU_LOGITS
    chunk = max(1, memory // model.config.vocab_size)
    losses, hits = [], []
    for some, wanted in zip(features.split(chunk), targets.split(chunk), strict=True):
        logits = model.logits(some)  # (n, V)
        losses.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
        hits.append(logits.argmax(-1) == wanted)
    return torch.cat(losses).tolist(), torch.cat(hits).tolist()


def _verdicts(batch: Sequence[Question], losses: Sequence[float], hits: Sequence[bool]) -> list[bool]:
    """A verdict per question, from the loss and hit of every scored token of every row."""
    verdicts, at = [], 0
    for item in batch:
        means, exact = [], []
        for start, end in item.spans:
            scored = slice(at, at := at + end - start)
            means.append(sum(losses[scored]) / (end - start))
            exact.append(all(hits[scored]))
        verdicts.append(exact[0] if len(item.rows) == 1 else means.index(min(means)) == item.gold)
    return verdicts
