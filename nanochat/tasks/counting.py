"""How often a letter occurs in a word, counted while spelling: `s t r1 a w b e r2 r3 y. The answer is 3.`

The running count makes each step one that a small model can take. Some questions ask for all letters of the word, or
for its vowels. Held-out problems ask about held-out words only. Standard library only.
"""

import random
from pathlib import Path
from typing import Any, ClassVar

from nanochat.tasks.answers import last_number
from nanochat.tasks.reserved import is_reserved
from nanochat.tasks.spelling import asked_about
from nanochat.tasks.task import Split, Task, dialogue
from nanochat.tasks.words import words

ASKED = (0.15, 0.35, 0.5)  # any letter (mostly absent), one of the word's, one of those it has most often
LETTERS, VOWELS = "abcdefghijklmnopqrstuvwxyz", "aeiou"
LETTER_QUOTES = ("{}",) * 12 + ("'{}'", "'{}'", '"{}"', "\u201c{}\u201d")


class Counting(Task):
    """`How many r are in strawberry?`; an answer is right if the last number in it is."""

    name = "counting"
    baseline = 0.39  # of always answering 1
    all_share: ClassVar[float] = 0.2  # of the questions are about all letters
    vowels_share: ClassVar[float] = 0.06  # and about the vowels

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        self.known = words(split, data_dir)

    def __len__(self) -> int:
        return 200_000 if self.split == "train" else 2 * len(self.known)

    def __getitem__(self, index: int) -> dict[str, Any]:
        word, letters = self.problem(index)
        dice = random.Random(f"words of {self.name}/{self.split}/{index}")
        messages = iter(lambda: _asked(word, letters, dice), None)
        message = next(message for message in messages if not is_reserved(message))
        return dialogue(message, counted_aloud(word, letters))

    def problem(self, index: int) -> tuple[str, str]:
        """The word of problem `index`, and the letters to count: one, all of them, or the vowels."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        word, dice = self.known[index % len(self.known)], self.dice(index)
        most = max(map(word.count, word))
        among = dice.choices((LETTERS, word, [one for one in word if word.count(one) == most]), ASKED)[0]
        letter, kind = dice.choice(among), random.Random(f"kind of {self.name}/{self.split}/{index}").random()
        if kind < self.all_share:
            return word, LETTERS
        return word, VOWELS if kind < self.all_share + self.vowels_share else letter

    def correct(self, index: int, completion: str) -> bool:
        word, letters = self.problem(index)
        return last_number(completion) == how_many(word, letters)


def how_many(word: str, letters: str) -> int:
    """How many of the word's letters are among `letters`."""
    return sum(map(word.count, letters))


def counted_aloud(word: str, letters: str) -> str:
    """The answer: the count on the way, and the number."""
    return f"{counted(word, letters)}. The answer is {how_many(word, letters)}."


def counted(word: str, letters: str) -> str:
    """The word spelled, with a running count after every occurrence of one of the letters."""
    shown, seen = [], 0
    for one in word:
        seen += one in letters
        shown.append(f"{one}{seen}" if one in letters else one)
    return " ".join(shown)


def _asked(word: str, letters: str, dice: random.Random) -> str:
    if len(letters) > 1:
        return asked_about("count_all" if letters == LETTERS else "count_vowels", word, dice)
    letter = letters.upper() if dice.random() < 0.15 else letters
    return asked_about("count", word, dice, letter=dice.choice(LETTER_QUOTES).format(letter))
