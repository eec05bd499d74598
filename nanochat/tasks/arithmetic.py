"""Sums, differences and products of numbers of one to three digits, answered at once or with the calculator.

Three of four training answers are given at once, which a small model mostly gets wrong, one calls the calculator: so
reinforcement learning has something to find out, when to call it. Promises: a problem and its mirror image (2 + 3,
3 + 2) are in the same split. Not here: the calculator itself (nanochat/tools/calculator.py). Standard library only.
"""

import operator
import random
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from nanochat.tasks.answers import last_number
from nanochat.tasks.task import Split, Task, dialogue, held_out

TOOL_SHARE = 0.25  # of the training answers: too few for SFT to settle on the tool, enough for RL to find it
TEST_SHARE = 0.1
TEST_SIZE = 1000
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
WORDS = {"+": "plus", "-": "minus", "*": "times"}
QUESTIONS = (
    "What is {a} {sign} {b}?",
    "What is {a} {word} {b}?",
    "How much is {a} {sign} {b}?",
    "How much is {a} {word} {b}?",
    "Calculate {a} {sign} {b}.",
    "Calculate {a} {word} {b}.",
    "{a} {sign} {b} = ?",
)


class Arithmetic(Task):
    """`What is 12 * 34?`; an answer is right if the last number in it is."""

    name = "arithmetic"
    baseline = 0.0

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        # a fixed list of different problems to test on, an endless supply to train on
        self.fixed = None if split == "train" else self._fixed(split)

    def __len__(self) -> int:
        return 100_000 if self.fixed is None else len(self.fixed)

    def __getitem__(self, index: int) -> dict[str, Any]:
        a, sign, b = self.problem(index)
        dice = self.dice(index)
        question = dice.choice(QUESTIONS).format(a=a, b=b, sign=sign, word=WORDS[sign])
        result = str(OPERATORS[sign](a, b))
        said = f"That makes {result}."
        if dice.random() >= TOOL_SHARE:
            return dialogue(question, said)
        call, output = {"type": "python", "text": f"{a}{sign}{b}"}, {"type": "python_output", "text": result}
        return dialogue(question, [call, output, {"type": "text", "text": said}])

    def problem(self, index: int) -> tuple[int, str, int]:
        """The two numbers of problem `index` and the sign between them."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.fixed is not None:
            return self.fixed[index]
        dice = random.Random(f"problem {index}")
        return next(problem for problem in iter(lambda: _draw(dice), None) if not _held_out(*problem))

    @classmethod
    def _fixed(cls, split: Split) -> list[tuple[int, str, int]]:
        """The first held-out problems to test on; to validate on the next ones that are no mirror images of these."""
        tested = list(islice(cls._different(), TEST_SIZE))
        if split == "test":
            return tested
        keys = {_key(*problem) for problem in tested}
        return list(islice((problem for problem in cls._different() if _key(*problem) not in keys), TEST_SIZE))

    @staticmethod
    def _different() -> Iterator[tuple[int, str, int]]:
        seen = set()
        for index in count():
            problem = _draw(random.Random(f"test problem {index}"))
            if problem not in seen and _held_out(*problem):
                seen.add(problem)
                yield problem

    def correct(self, index: int, completion: str) -> bool:
        a, sign, b = self.problem(index)
        return last_number(completion.rpartition("<|output_end|>")[2]) == OPERATORS[sign](a, b)


def _draw(dice: random.Random) -> tuple[int, str, int]:
    a, b = (dice.randrange(10 ** dice.choice((1, 2, 3))) for _ in range(2))
    sign = dice.choice("+-*")
    return (max(a, b), sign, min(a, b)) if sign == "-" else (a, sign, b)


def _held_out(a: int, sign: str, b: int) -> bool:
    return held_out(_key(a, sign, b), TEST_SHARE)


def _key(a: int, sign: str, b: int) -> str:
    return f"{min(a, b)} {sign} {max(a, b)}"
