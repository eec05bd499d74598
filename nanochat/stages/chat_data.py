"""Turns the conversations of a mixture into packed rows of tokens: files that training maps into memory.

Part 0 has held-out conversations for the validation loss, the others a slice of the shuffled mixture each, so that many
machines can work side by side and no GPU ever waits for a tokenizer. Promises: the rows depend on mixture, seed, data
and tokenizer alone, not on threads; a file of one's own that changed since the plan was made is refused. Not here:
which tokens the loss is on (stages/chat_training.py), rendering and packing (data/).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.data import own_conversations
from nanochat.data.chat_template import Rendered, render_batch
from nanochat.data.conversation_packing import ConversationRows, pack
from nanochat.data.tokenizer import Tokenizer, whole_characters
from nanochat.tasks import TASKS
from nanochat.tasks.mixture import OWN, Mixture, parse_mixture
from nanochat.tasks.task import Split, Task

if TYPE_CHECKING:
    from nanochat.pipeline import ChatData
    from nanochat.workflow.stage import StageContext

HELD_OUT = 512  # conversations for the validation loss, shared among the tasks of the mixture
TOGETHER = 2000  # conversations encoded at once


class OwnConversations(Task):
    """A file of one's own; `name` is NAME@DIGEST."""

    def __init__(self, split: Split, path: Path, name: str) -> None:
        super().__init__(split)
        if (found := own_conversations.digest(path)) != name.rpartition("@")[2]:
            raise ValueError(f"{path} has changed since the run was planned ({name}, now {found}): start it again")
        train, held_out = own_conversations.split(own_conversations.read(path))
        self.conversations = train if split == "train" else held_out

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.conversations[index]


def run(stage: ChatData, ctx: StageContext) -> dict[str, float]:
    """Writes the rows of this part; returns their number and what became of the conversations.

    Raises:
        ValueError: data of a task is missing, or no conversation says anything within `sequence_len` tokens.
    """
    assert ctx.part is not None
    rows = parse_mixture(stage.mixture)
    split: Split = "train" if ctx.part else "test"
    tokenizer = Tokenizer.from_file(ctx["tokenizer"] / "tokenizer.json")
    own = _own(stage, split)
    mixture = Mixture(rows if ctx.part else held_out(rows), split, ctx["task_data"], stage.seed, own)
    start = (ctx.part - 1) * stage.part_size
    indices = range(len(mixture))[start : start + stage.part_size] if ctx.part else range(len(mixture))
    rendered = render_all(tokenizer, mixture, indices, stage.threads, ctx)
    packed = pack(rendered, stage.sequence_len, tokenizer.vocab_size, tokenizer.bos)
    packed.save(ctx.out)
    return {"rows": float(len(packed.tokens)), "conversations": float(packed.counts.conversations)}


def _own(stage: ChatData, split: Split) -> dict[str, Task]:
    """The files of one's own, by their names in the mixture."""
    places = json.loads(stage.own_files or "{}")
    return {OWN + name: OwnConversations(split, Path(path), name) for name, path in places.items()}


def held_out(mixture: Mapping[str, int]) -> dict[str, int]:
    """A mixture of the same proportions, as small as a validation loss needs, of the tasks that hold something out."""
    able = {name: count for name, count in mixture.items() if name.startswith(OWN) or "test" in TASKS[name].splits}
    total = sum(able.values())
    return {name: max(1, min(count, round(HELD_OUT * count / total))) for name, count in able.items()}


def render_all(
    tokenizer: Tokenizer, mixture: Mixture, indices: range, threads: int, ctx: StageContext
) -> Iterator[Rendered]:
    """The conversations of the mixture as tokens and masks, in order: those of `chat_template.render`, only faster."""
    import nanobpe

    encoder = nanobpe.Encoder(tokenizer.tokens, tokenizer.pattern)

    def encode_batch(texts: list[str]) -> Iterator[list[int]]:
        ids, offsets = encoder.encode_batch([whole_characters(text) for text in texts], threads or None)
        return (ids[start:end].tolist() for start, end in pairwise(offsets.tolist()))

    for start in range(0, len(indices), TOGETHER):
        some = [mixture[index]["messages"] for index in indices[start : start + TOGETHER]]
        yield from render_batch(tokenizer, some, encode_batch)
        ctx.metrics.progress(start + len(some), len(indices), "conversations")


def gather(stage: ChatData, ctx: StageContext) -> dict[str, float]:
    """Writes index.json, what each part holds; returns what the training rows come to.

    Raises:
        ValueError: there is no row to train on.
    """
    held, *train = ctx.parts(stage.name)
    rows = ConversationRows(train, stage.sequence_len)
    validation = ConversationRows([held], stage.sequence_len)
    numbers = {**rows.facts(), "validation_rows": float(len(validation))}
    index = {"sequence_len": stage.sequence_len, "mixture": stage.mixture, "numbers": numbers}
    (ctx.out / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return numbers
