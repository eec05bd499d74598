"""Counting up and down, and the alphabet: `Count to 5` is answered `1, 2, 3, 4, 5`.

Promises: from where to where is counted in the test split is nothing that is trained on. Standard library only.
"""

import random
from typing import Any

from nanochat.tasks.drawn import DrawnTask
from nanochat.tasks.phrases import asked, typed
from nanochat.tasks.sums import in_words
from nanochat.tasks.task import Split, dialogue, held_out

TEST_SHARE = 0.15
LONGEST = 20
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class Series(DrawnTask):
    """`Count from 3 to 7`; right if the answer is the numbers in order, whatever stands between them."""

    name = "series"
    baseline = 0.0
    test_size = 300

    def __getitem__(self, index: int) -> dict[str, Any]:
        message, terms = self.problem(index)
        return dialogue(message, ", ".join(terms))

    def draw(self, dice: random.Random, split: Split) -> tuple[str, list[str]]:
        """A message, and the terms that it asks for."""
        while True:
            first, last, questions = _bounds(dice)
            if questions == "alphabet":
                message = _asked(dice, questions)
                if held_out(message.lower(), TEST_SHARE) == (split == "test"):
                    return message, list(ALPHABET)
            elif held_out(f"{first} to {last}", TEST_SHARE) == (split == "test"):
                step = 1 if first <= last else -1
                terms = [str(number) for number in range(first, last + step, step)]
                return _asked(dice, questions, first=first, last=last), terms

    def correct(self, index: int, completion: str) -> bool:
        return terms_of(completion) == self.problem(index)[1]


def terms_of(text: str) -> list[str]:
    """What stands in a row, whatever is between."""
    return text.replace(",", " ").replace(".", " ").lower().split()


def _asked(dice: random.Random, questions: str, **bounds: int) -> str:
    """A message, its numbers now and then in words."""
    words = dice.random() < 0.25 and max(bounds.values(), default=0) < 100
    shown = {name: in_words(number) if words else str(number) for name, number in bounds.items()}
    return typed(asked(questions, dice).format(**shown), dice, slips=False)


def _bounds(dice: random.Random) -> tuple[int, int, str]:
    """The first and the last number, and how they are asked for."""
    kind = dice.random()
    if kind < 0.1:
        return 0, 0, "alphabet"
    if kind < 0.45:
        return 1, dice.randrange(2, LONGEST + 1), "series_to"
    if kind < 0.75:
        first = dice.randrange(0, dice.choice((10, 100)))
        return first, first + dice.randrange(2, 12), "series_up"
    first, last = dice.randrange(3, dice.choice((11, LONGEST + 1))), dice.choice((1, 1, 0))
    return first, last, dice.choice(("series_down", "series_down_to_one")) if last else "series_down"
