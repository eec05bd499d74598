"""The hundred first messages, and which of them no task may train on: every second one of first_messages.txt.

Promises: a message that differs from a held-out one in nothing but capitals, blanks and marks is reserved like it.
Not here: what is right to answer (first_messages.py). Standard library only.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from nanochat.tasks.phrases import letters
from nanochat.tasks.task import Split

FILE = Path(__file__).with_name("first_messages.txt")


class Row(NamedTuple):
    """A message, the kind of answer that it wants, of what, and words of which a right answer has one."""

    kind: str
    subject: str
    accepted: str
    message: str


@cache
def rows(split: Split) -> tuple[Row, ...]:
    """The messages of a split, in the order of the file."""
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    every = [Row(*line.split(" | ", 3)) for line in lines]
    return tuple(every[1::2] if split == "test" else every[::2])


def is_reserved(message: str) -> bool:
    """Whether a message is one of the held-out ones."""
    return letters(message) in _reserved()


@cache
def _reserved() -> frozenset[str]:
    return frozenset(letters(row.message) for row in rows("test"))
