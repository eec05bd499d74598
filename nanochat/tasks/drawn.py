"""Tasks whose problems are drawn: an endless supply to train on, and a fixed list of different ones to test on.

Promises: a message that is trained on is none of the held-out first messages; no two messages of the test split are
the same, however they are typed. What keeps the splits apart is the subclass's: `draw` is told which one it is for.
Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, ClassVar

from nanochat.tasks.phrases import letters
from nanochat.tasks.reserved import is_reserved
from nanochat.tasks.task import Split, Task

Problem = tuple[str, Any]  # the message, and what it is about


class DrawnTask(Task):
    """A subclass has `draw`; its problem `index` is a message and what the message is about."""

    train_size: ClassVar[int] = 100_000
    test_size: ClassVar[int] = 500

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        self.fixed = list(islice(self._different(), self.test_size)) if split == "test" else None

    def __len__(self) -> int:
        return self.train_size if self.fixed is None else len(self.fixed)

    def draw(self, dice: random.Random, split: Split) -> Problem:
        """A problem of a split."""
        raise NotImplementedError(self.name)

    def problem(self, index: int) -> Problem:
        """Problem `index`: the message, and what it is about."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.fixed is not None:
            return self.fixed[index]
        dice = self.dice(index)
        while is_reserved((drawn := self.draw(dice, "train"))[0]):
            pass
        return drawn

    def _different(self) -> Iterator[Problem]:
        seen = set()
        for index in count():
            message, about = self.draw(self.dice(index), "test")
            if letters(message) not in seen:
                seen.add(letters(message))
                yield message, about
