"""Sums of two numbers, in signs and in words, answered at once or with the calculator.

Most training answers are given at once, which a small model mostly gets wrong, one of four calls the calculator: so
reinforcement learning has something to find out, when to call it. Promises: a problem and its mirror image (2 + 3,
3 + 2) are in the same split; no held-out first message is trained on. Not here: how a sum is asked for (sums.py),
longer ones (calculations.py), the calculator itself (nanochat/tools/calculator.py). Standard library only.
"""

import random
import re
from decimal import Decimal
from typing import Any, ClassVar

from nanochat.tasks import sums
from nanochat.tasks.answers import last_number
from nanochat.tasks.drawn import DrawnTask
from nanochat.tasks.phrases import typed
from nanochat.tasks.task import Split, dialogue, held_out
from nanochat.tools.calculator import evaluate

TOOL_SHARE = 0.25  # of the training answers: too few for SFT to settle on the tool, enough for RL to find it
TEST_SHARE = 0.1
NO_ANSWER = "That has no answer."
OUTPUT_END = "<|output_end|>"


class Arithmetic(DrawnTask):
    """`what's 12 times 34`; an answer is right if the last number in it is."""

    name = "arithmetic"
    baseline = 0.0
    test_size = 1000
    tool_share: ClassVar[float] = TOOL_SHARE

    def __getitem__(self, index: int) -> dict[str, Any]:
        message, call = self.problem(index)
        dice = random.Random(f"answer of {self.name}/{self.split}/{index}")
        return dialogue(message, answer(call, called=dice.random() < self.tool_share))

    def drawn_sum(self, dice: random.Random) -> sums.Sum:
        """A sum of the kind that this task is about."""
        return sums.plain(dice)

    def draw(self, dice: random.Random, split: Split) -> tuple[str, str]:
        """A message, and what the calculator reads of the sum that it asks for."""
        while True:
            wanted = self.drawn_sum(dice)
            possible = evaluate(wanted.call) is not None or wanted.call.endswith("/0")
            if possible and is_held_out(wanted.call) == (split == "test"):
                return typed(sums.question(wanted, dice), dice, slips=False), wanted.call

    def correct(self, index: int, completion: str) -> bool:
        return is_right(self.problem(index)[1], completion)


def answer(call: str, *, called: bool) -> str | list[dict[str, str]]:
    """The answer to a sum, at once or with the calculator."""
    result = evaluate(call)
    said = NO_ANSWER if result is None else f"That makes {result}."
    if not called:
        return said
    output = {"type": "python_output", "text": "error" if result is None else result}
    return [{"type": "python", "text": call}, output, {"type": "text", "text": said}]


def is_right(call: str, completion: str) -> bool:
    """Whether the last number after what a tool said is the result; for a sum without one, whether that is said."""
    said, result = completion.rpartition(OUTPUT_END)[2], evaluate(call)
    return NO_ANSWER.lower()[:-1] in said.lower() if result is None else last_number(said) == Decimal(result)


def key(call: str) -> str:
    """What a sum has in common with its mirror image."""
    call = call.replace(",", "")
    two = re.fullmatch(r"([0-9.]+)([-+*/])([0-9.]+)", call)
    return call if two is None else f" {two[2]} ".join(sorted((two[1], two[3])))


def is_held_out(call: str) -> bool:
    """Whether a sum is one of the test split."""
    return held_out(key(call), TEST_SHARE)
