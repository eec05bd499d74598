"""Mixtures: conversations of several tasks in one shuffled order.

A mixture is written `smoltalk:460000, identity:2000, jsonl:PATH`: rows taken of each task, from its beginning and,
where it has fewer, from its beginning again; a file of one's own may stand without a number, for all it has. Promises:
the order depends on the mixture and the seed alone; a task that does not exist is refused before any work. Standard
library only, so that a plan is checked without torch. Not here: tokens, and what is in a file of one's own.
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from nanochat.errors import unknown
from nanochat.tasks import TASKS, make
from nanochat.tasks.task import Split, Task

OWN = "jsonl:"  # what stands before the path of a file of one's own conversations


def parse_mixture(text: str, where: str = "mixture") -> dict[str, int]:
    """Rows by task, in the order written; 0 stands for all rows of a file. `where` names the knob in the messages.

    Raises:
        ValueError: nothing in it, an unknown task, one without training data or named twice, rows that are not a
            positive whole number, or no task that holds conversations out.
    """
    rows: dict[str, int] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        name, count = _own(entry) if entry.startswith(OWN) else _of_task(entry, where)
        if name in rows:
            raise ValueError(f"{where}: task {name!r} is there twice: add up its rows")
        rows[name] = count
    if not rows:
        raise ValueError(
            f"{where} = {text!r}: name tasks and how many rows of each, e.g. identity:1000, arithmetic:4000"
        )
    if not any(name.startswith(OWN) or "test" in TASKS[name].splits for name in rows):
        raise ValueError(
            f"{where} = {text!r}: none of its tasks has a test split, which the validation loss is on; "
            "add one that has, e.g. identity:1000"
        )
    return rows


def _of_task(entry: str, where: str) -> tuple[str, int]:
    name, _, count = (piece.strip() for piece in entry.partition(":"))
    if name not in TASKS:
        raise ValueError(f"{where}: {unknown('task', name, TASKS)}")
    if "train" not in TASKS[name].splits:
        raise ValueError(f"{where}: task {name!r} has nothing to train on, only {', '.join(TASKS[name].splits)}")
    if not _is_number(count) or int(count) == 0:
        raise ValueError(f"{where}: {entry!r} must be TASK:ROWS with a positive whole number of rows, e.g. {name}:1000")
    return name, int(count)


def _own(entry: str) -> tuple[str, int]:
    """`jsonl:PATH` or `jsonl:PATH:ROWS`; what follows the last colon is part of the path where it is no number."""
    path, _, count = (piece.strip() for piece in entry.rpartition(":"))
    return (path, int(count)) if path.startswith(OWN) and _is_number(count) else (entry, 0)


def _is_number(text: str) -> bool:
    return text.replace("_", "").isdecimal()


def own_files(text: str) -> list[str]:
    """What stands for each file of one's own: its path, or NAME@DIGEST once it was looked at."""
    return [name.removeprefix(OWN) for name in parse_mixture(text) if name.startswith(OWN)]


def with_own(text: str, found: Mapping[str, tuple[str, int]]) -> str:
    """The mixture with the paths of one's own files replaced by their names; all their rows, where no number is."""
    pieces = []
    for name, rows in parse_mixture(text).items():
        own, size = found.get(name.removeprefix(OWN), ("", 0))
        pieces.append(f"{OWN}{own}:{rows or size}" if own else f"{name}:{rows}")
    return ", ".join(pieces)


class Mixture:
    """A sequence of conversations: `mixture[i]` is {"messages": [...]}.

    Raises:
        ValueError: the data of a task is missing, or it has none.
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        split: Split,
        data_dir: Path | None,
        seed: int,
        own: Mapping[str, Task] | None = None,
    ) -> None:
        self.tasks = [(own or {}).get(name) or make(name, split, data_dir) for name in rows]
        for task in self.tasks:
            if len(task) == 0:
                raise ValueError(
                    f"task {task.name!r} has no conversations in its {split} split: take it out of the mixture"
                )
        taken = [
            min(count, len(task)) if split == "test" else count  # held-out ones need not come again
            for count, task in zip(rows.values(), self.tasks, strict=True)
        ]
        self.ends = list(accumulate(taken))
        self.order = array("q", range(self.ends[-1]))
        random.Random(seed).shuffle(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = self.order[index]
        which = bisect_right(self.ends, position)
        task = self.tasks[which]
        return task[(position - (self.ends[which - 1] if which else 0)) % len(task)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))
