"""Mixtures: conversations of several tasks in one shuffled order.

A mixture is written `smoltalk:460000, identity:2000`: rows taken of each task, from its beginning and, where it has
fewer, from its beginning again. Promises: the order depends on the mixture and the seed alone; a task that does not
exist is refused before any work. Standard library only, so that a plan is checked without torch. Not here: tokens.
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
from nanochat.tasks.task import Split


def parse_mixture(text: str, where: str = "mixture") -> dict[str, int]:
    """Rows by task, in the order written; `where` names the knob in the messages.

    Raises:
        ValueError: nothing in it, an unknown task, one without training data or named twice, rows that are not a
            positive whole number, or no task that holds conversations out.
    """
    rows: dict[str, int] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        name, _, count = (piece.strip() for piece in entry.partition(":"))
        if name not in TASKS:
            raise ValueError(f"{where}: {unknown('task', name, TASKS)}")
        if "train" not in TASKS[name].splits:
            raise ValueError(f"{where}: task {name!r} has nothing to train on, only {', '.join(TASKS[name].splits)}")
        if name in rows:
            raise ValueError(f"{where}: task {name!r} is there twice: add up its rows")
        if not count.replace("_", "").isdecimal() or int(count) == 0:
            raise ValueError(
                f"{where}: {entry!r} must be TASK:ROWS with a positive whole number of rows, e.g. {name}:1000"
            )
        rows[name] = int(count)
    if not rows:
        raise ValueError(
            f"{where} = {text!r}: name tasks and how many rows of each, e.g. identity:1000, arithmetic:4000"
        )
    if not any("test" in TASKS[name].splits for name in rows):
        raise ValueError(
            f"{where} = {text!r}: none of its tasks has a test split, which the validation loss is on; "
            "add one that has, e.g. identity:1000"
        )
    return rows


class Mixture:
    """A sequence of conversations: `mixture[i]` is {"messages": [...]}.

    Raises:
        ValueError: the data of a task is missing, or it has none.
    """

    def __init__(self, rows: Mapping[str, int], split: Split, data_dir: Path | None, seed: int) -> None:
        self.tasks = [make(name, split, data_dir) for name in rows]
        for task in self.tasks:
            if len(task) == 0:
                raise ValueError(
                    f"task {task.name!r} has no conversations in its {split} split: take it out of the mixture"
                )
        self.ends = list(accumulate(rows.values()))
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
