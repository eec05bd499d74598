"""Small stories with a sum of one or two steps in them, from the patterns of word_problems.txt.

Every training answer calls the calculator: what is to be learned is which sum a story means. Promises: the same story
with other numbers may be in both splits, the same numbers in the same pattern may not; no held-out first message is
trained on. Not here: sums that are written as such (arithmetic.py). Standard library only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from nanochat.tasks.arithmetic import answer, is_right
from nanochat.tasks.drawn import DrawnTask
from nanochat.tasks.phrases import expanded, typed
from nanochat.tasks.sums import in_words
from nanochat.tasks.task import Split, dialogue, held_out
from nanochat.tools.calculator import evaluate

FILE = Path(__file__).with_name("word_problems.txt")
TEST_SHARE = 0.1
SPELLED_SHARE = 0.2  # of the stories have their small numbers in words
CENTS_SHARE = 0.3  # of the stories about sums of money are not in whole dollars
LARGEST = {"+": 100, "-": 100, "*": 20, "/": 144}


class Story(NamedTuple):
    """What the calculator reads, with names for the numbers, and the pattern of its text; `sign` is its last step."""

    sign: str
    call: str
    text: str


class WordProblems(DrawnTask):
    """`Tom has 5 marbles and finds 4 more. How many does he have?`; right if the last number of the answer is."""

    name = "word_problems"
    baseline = 0.0

    def __getitem__(self, index: int) -> dict[str, Any]:
        message, call = self.problem(index)
        return dialogue(message, answer(call, called=True))

    def draw(self, dice: random.Random, split: Split) -> tuple[str, str]:
        """A story, and what the calculator reads of its sum."""
        every, lists = stories()
        while True:
            sign = dice.choice(tuple(LARGEST))
            story = dice.choice([one for one in every if one.sign == sign])
            numbers = _numbers(story, dice)
            # the story anew as well: one with few numbers may have none in a split
            if held_out(f"{story.text} {sorted(numbers.items())}", TEST_SHARE) == (split == "test"):
                break
        text = expanded(story.text, dice, {**lists, **_same(dice)})
        if dice.random() < SPELLED_SHARE:
            text = re.sub(r"(?<!\$)\{([a-d])\}", lambda found: _in_words(numbers[found[1]]), text)
        sentences = [sentence[:1].upper() + sentence[1:] for sentence in text.format(**numbers).split(". ")]
        return typed(". ".join(sentences), dice, slips=False), story.call.format(**numbers)

    def correct(self, index: int, completion: str) -> bool:
        return is_right(self.problem(index)[1], completion)


@cache
def stories() -> tuple[tuple[Story, ...], Mapping[str, str]]:
    """The stories and the lists that they name."""
    found, lists = list[Story](), dict[str, str]()
    for line in FILE.read_text(encoding="utf-8").splitlines():
        mark, _, text = line.partition(" ")
        if mark == "@":
            name, _, lists[name] = text.partition(" ")
        elif mark in LARGEST:
            call, _, pattern = text.partition(" : ")
            found.append(Story(mark, call, pattern))
        else:
            assert mark in ("", "#"), line
    return tuple(found), lists


def _same(dice: random.Random) -> dict[str, str]:
    """What is the same wherever a story names it: the things that are counted, who has them, and what they are in."""
    _, lists = stories()
    same = {name: expanded(lists[name], dice) for name in ("t", "kids", "buy", "he")}
    places = [lists[name].strip("()").split("|") for name in ("box", "boxes")]
    same["box"], same["boxes"] = dice.choice(list(zip(*places, strict=True)))
    return same


def _numbers(story: Story, dice: random.Random) -> dict[str, str]:
    """Numbers for a story with which every result on the way is whole and not negative, or an amount of money."""
    while True:
        largest = dice.choice((10, LARGEST[story.sign]))
        numbers = {name: str(dice.randrange(1, largest + 1)) for name in re.findall(r"\{([a-d])\}", story.call)}
        if story.call.startswith("{a}/{b}") and dice.random() < 0.9:
            numbers["b"] = str(dice.randrange(2, 13))
            numbers["a"] = str(int(numbers["b"]) * dice.randrange(1, 13))
        if "$" in story.text and dice.random() < CENTS_SHARE:
            name = dice.choice(re.findall(r"\$\{([a-d])\}", story.text))
            numbers[name] += dice.choice((".50", ".5", ".25", ".99", ".75", ".20"))
        elif not _whole(story.call, numbers):
            continue
        result = evaluate(story.call.format(**numbers))
        if result is not None and not result.startswith("-"):
            return numbers


def _whole(call: str, numbers: Mapping[str, str]) -> bool:
    """Whether the results of all beginnings of a sum that are sums are whole numbers and not negative."""
    filled = call.format(**numbers)
    begun = [filled[: match.start()].lstrip("(") for match in re.finditer(r"[-+*/)]", filled)]
    results = [evaluate(part) for part in [*begun, filled]]
    return all(result is None or result.isdecimal() for result in results)


def _in_words(number: str) -> str:
    return in_words(int(number)) if number.isdecimal() and int(number) <= 20 else number
