"""Packs conversations into rows of equal length, whole, with padding where nothing more fits.

Every row begins with the <|bos|> of a conversation. Promises: no conversation is cut by the packing and none waits for
ever (the one that waits longest opens the next row); what is too long for a row is cut before, and what then has
nothing to learn from is dropped, both counted; so every row has something to learn from. The rows depend on the
conversations and their order alone. Documents for pretraining are packed in nanochat/data/document_packing.py.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanochat.data.best_fit import BestFitQueue
from nanochat.data.chat_template import truncate
from nanochat.data.rows import Joined, row_dtype

PADDING, CONTEXT, ASSISTANT = 0, 1, 2  # labels of tokens: no token, read only, said by the assistant
BUFFER = 1000  # conversations among which the best fit is looked for


@dataclass(frozen=True)
class Counts:
    """What became of the conversations."""

    conversations: int  # in the rows
    truncated: int  # of those
    dropped: int  # not in the rows
    tokens: int  # in the rows, without padding
    supervised_tokens: int

    @classmethod
    def sum(cls, counts: Iterable["Counts"]) -> "Counts":
        """Those of several parts together."""
        return cls(*map(sum, zip(*map(dataclasses.astuple, counts), strict=True)))


@dataclass(frozen=True)
class PackedRows:
    """Rows of one part: `tokens` (R, sequence_len + 1) ids, `labels` of that shape (PADDING, CONTEXT, ASSISTANT)."""

    tokens: np.ndarray
    labels: np.ndarray
    counts: Counts

    def save(self, directory: Path) -> None:
        """Writes tokens.npy, labels.npy and counts.json."""
        np.save(directory / "tokens.npy", self.tokens)
        np.save(directory / "labels.npy", self.labels)
        (directory / "counts.json").write_text(json.dumps(dataclasses.asdict(self.counts)), encoding="utf-8")


class ConversationRows:
    """The rows of one or more parts, mapped into memory and never loaded, so that the ranks of a node share one copy.

    Raises:
        ValueError: the parts have no row, or rows of another length than `sequence_len` + 1.
    """

    def __init__(self, parts: Sequence[Path], sequence_len: int) -> None:
        tokens, labels = (
            [np.load(part / f"{name}.npy", mmap_mode="r") for part in parts] for name in ("tokens", "labels")
        )
        for part, rows in zip(parts, tokens, strict=True):
            if (width := rows.shape[1]) != sequence_len + 1:
                raise ValueError(
                    f"{part} has rows of {width - 1} tokens, the model a context of {sequence_len}: give both stages "
                    "one sequence_len"
                )
        self.tokens, self.labels = Joined(tokens, sequence_len + 1), Joined(labels, sequence_len + 1)
        self.counts = Counts.sum(
            Counts(**json.loads((part / "counts.json").read_text(encoding="utf-8"))) for part in parts
        )
        if not len(self):
            raise ValueError("there are no conversations to learn from: add rows to the mixture")

    def __len__(self) -> int:
        return len(self.tokens)

    def facts(self) -> dict[str, float]:
        """Rows, what became of the conversations, and the shares of tokens that are said and of padding."""
        counts = self.counts
        return {
            "rows": float(len(self)),
            "conversations": float(counts.conversations),
            "truncated": float(counts.truncated),
            "dropped": float(counts.dropped),
            "supervised_share": counts.supervised_tokens / counts.tokens,
            "padding_share": 1 - counts.tokens / (len(self) * self.tokens.width),
        }


def pack(
    conversations: Iterable[tuple[list[int], list[int]]], sequence_len: int, vocab_size: int, pad: int
) -> PackedRows:
    """Rows of rendered conversations (ids, mask); `pad` is the id that stands where there is no token.

    Raises:
        ValueError: no conversation has anything to learn from within `sequence_len` tokens.
    """
    capacity = sequence_len + 1
    dtype = row_dtype(vocab_size)
    kept, truncated, dropped = [], 0, 0
    for ids, mask in conversations:
        shortened = truncate(ids, mask, capacity)
        if shortened is None:
            dropped += 1
            continue
        truncated += len(ids) > capacity
        kept.append((np.array(shortened[0], dtype), np.array(shortened[1], np.uint8) + np.uint8(CONTEXT)))
    if not kept:
        raise ValueError(
            f"none of {dropped} conversations says anything within sequence_len = {sequence_len} tokens: "
            "pretrain with a longer sequence_len, or take tasks with shorter conversations"
        )
    plan = best_fit([len(ids) for ids, _ in kept], capacity)
    tokens = np.full((len(plan), capacity), pad, dtype)
    labels = np.full((len(plan), capacity), PADDING, np.uint8)
    for row, members in enumerate(plan):
        at = 0
        for tokens_of, labels_of in (kept[member] for member in members):
            end = at + len(tokens_of)
            tokens[row, at:end], labels[row, at:end] = tokens_of, labels_of
            at = end
    counts = Counts(len(kept), truncated, dropped, int((labels != PADDING).sum()), int((labels == ASSISTANT).sum()))
    return PackedRows(tokens, labels, counts)


def best_fit(lengths: Sequence[int], capacity: int, buffer: int = BUFFER) -> list[list[int]]:
    """Rows as lists of indices into `lengths`, none of which exceeds `capacity`.

    The oldest of the buffer opens a row; then whatever fits best into the room left, the oldest of equals.
    """
    rows: list[list[int]] = []
    waiting: dict[int, None] = {}  # in order of arrival
    queue = BestFitQueue()
    coming = iter(enumerate(lengths))

    def refill() -> None:
        while len(waiting) < buffer and (arrived := next(coming, None)) is not None:
            index, length = arrived
            assert 0 < length <= capacity, (length, capacity)
            waiting[index] = None
            queue.add(index, length)

    refill()
    while waiting:
        oldest = next(iter(waiting))
        queue.remove(oldest, lengths[oldest])
        row, room = [oldest], capacity - lengths[oldest]
        del waiting[oldest]
        refill()
        while (fitting := queue.take_longest(room)) is not None:
            row.append(fitting)
            room -= lengths[fitting]
            del waiting[fitting]
            refill()
        rows.append(row)
    return rows
