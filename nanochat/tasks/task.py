"""What a task promises: a fixed list of conversations, and a verdict on an answer to each of them.

One class serves training (its conversations) and evaluation (its verdicts). Promises: `task[i]` depends on nothing but
split, data and `i`; no two splits share a problem; nothing is fetched. `validation` is what reinforcement learning
looks at on its way, so that nobody chooses by `test`. Not here: sampling answers, rendering. Standard library only, so
that a recipe's mixture is checked without torch.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

Split = Literal["train", "validation", "test"]
VALIDATION_SHARE = 0.05  # of all keys
TASKS: dict[str, type[Task]] = {}


class Task:
    """Base of all tasks. A subclass with a `name` enters the list of tasks when its module is imported.

    `kind` says how it is asked: "generative" answers are sampled and given to `correct`; for "multiple_choice" the
    likeliest of the letters `choices(i)` is given to it. `baseline` is the accuracy of guessing.

    Raises:
        ValueError: the task has no such split.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[Literal["generative", "multiple_choice"]] = "generative"
    baseline: ClassVar[float]
    splits: ClassVar[tuple[Split, ...]] = ("train", "validation", "test")
    needs_data: ClassVar[bool] = False  # whether the stage `task_data` must have fetched something
    runs_code: ClassVar[bool] = False  # whether its answers are programs, which a sandbox runs to judge them

    def __init_subclass__(cls) -> None:
        if not cls.name:
            return  # a base of several tasks
        if not hasattr(cls, "baseline"):
            raise ValueError(
                f"task {cls.name!r} has no baseline: set the accuracy of guessing (0.0 where it is hopeless)"
            )
        if cls.name in TASKS:
            raise ValueError(f"two tasks are called {cls.name!r}: rename one of them")
        TASKS[cls.name] = cls

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        if split not in self.splits:
            raise ValueError(f"task {self.name!r} has no split {split!r}: it has only {', '.join(self.splits)}")
        self.split, self.data_dir = split, data_dir

    def __len__(self) -> int:
        raise NotImplementedError(self.name)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"messages": [...]} of conversation `index`; the last message is the assistant's reference answer."""
        raise NotImplementedError(self.name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def correct(self, index: int, completion: str) -> bool:
        """Whether `completion`, the text after the last user message with special tokens by name, is right."""
        raise NotImplementedError(self.name)

    def reward(self, index: int, completion: str) -> float:
        """What reinforcement learning maximises; 1 for a correct answer unless a task knows better."""
        return float(self.correct(index, completion))

    def choices(self, index: int) -> tuple[str, ...]:
        """The letters of a multiple choice problem."""
        raise ValueError(f"task {self.name!r} is {self.kind}: it has no choices")

    def dice(self, index: int) -> random.Random:
        """Random numbers that belong to conversation `index`, the same on every machine."""
        return random.Random(f"{self.name}/{self.split}/{index}")


def comma_separated(text: str) -> list[str]:
    """The names of a list such as `arithmetic, spelling`, each once, in order."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def asked_problems(text: str, where: str) -> dict[str, int | None]:
    """Tasks to ask, in order, and of each at most how many problems: `mmlu, letter_counting:256`; None: no limit.

    `where` names the knob in the messages. Raises ValueError for a limit that is not a positive whole number, and for a
    task with two limits; whether there is such a task is not looked at.
    """
    limits: dict[str, int | None] = {}
    for entry in comma_separated(text):
        name, colon, number = (piece.strip() for piece in entry.partition(":"))
        if colon and not (number.isascii() and number.isdecimal() and int(number)):
            raise ValueError(f"{where}: {entry!r}: after the colon stands at most how many problems, e.g. {name}:256")
        if name in limits:
            raise ValueError(f"{where}: task {name!r} is there twice: name it once")
        limits[name] = int(number) if colon else None
    return limits


def weighted_tasks(text: str, where: str) -> dict[str, float]:
    """Tasks with the shares in which they are asked, summing to 1: `arithmetic, spelling:0.5`, without a number 1.

    `where` names the knob in the messages. Raises ValueError for no task, one that is named twice, and a weight that is
    not a positive number; whether there is such a task is not looked at.
    """
    weights: dict[str, float] = {}
    for entry in comma_separated(text):
        name, colon, number = (piece.strip() for piece in entry.partition(":"))
        weight = _number(number) if colon else 1.0
        if not 0 < weight < math.inf:
            raise ValueError(f"{where}: {entry!r}: after the colon stands a weight above 0, e.g. {name}:0.5")
        if name in weights:
            raise ValueError(f"{where}: task {name!r} is there twice: name it once")
        weights[name] = weight
    if not weights:
        raise ValueError(f"{where} = {text!r}: name at least one task, e.g. arithmetic, spelling:0.5")
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def held_out(key: str, share: float) -> bool:
    """Whether the thing called `key` belongs to the test split: a fixed `share` of all keys, chosen by their digest."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) < share * 2**32


def in_split(key: str, split: Split, test_share: float, validation_share: float = VALIDATION_SHARE) -> bool:
    """Whether the thing called `key` belongs to `split`, by its digest; `test` depends on `test_share` alone."""
    if held_out(key, test_share):
        return split == "test"
    return split == ("validation" if held_out(key, test_share + validation_share) else "train")


def in_random_order(keys: Iterable[str]) -> list[str]:
    """The keys by their digests, so that the first few of them are a fair sample."""
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())


def dialogue(question: str, answer: str | list[dict[str, str]]) -> dict[str, Any]:
    """A conversation of one question and one answer (text, or parts of text and tool calls)."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
