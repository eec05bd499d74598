"""How often a letter occurs in a word, counted while spelling: `s t r1 a w b e r2 r3 y. The answer is 3.`

The running count makes each step one that a small model can take. Held-out problems ask about held-out words only.
Standard library only.
"""

from pathlib import Path
from typing import Any

from nanochat.tasks.answers import last_number
from nanochat.tasks.task import Split, Task, dialogue
from nanochat.tasks.words import words

ASKED = (0.15, 0.35, 0.5)  # any letter (mostly absent), one of the word's, one of those it has most often
LETTERS = "abcdefghijklmnopqrstuvwxyz"
QUESTIONS = (
    "How many times does {letter} occur in {word}?",
    "How many {letter} are in {word}?",
    "How many times does the letter {letter} occur in {word}?",
    "How many letters {letter} are in the word {word}?",
    "Count the letter {letter} in {word}.",
    "How often is {letter} in {word}?",
)


class Counting(Task):
    """`How many r are in strawberry?`; an answer is right if the last number in it is."""

    name = "counting"
    baseline = 0.49  # of always answering 1

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        self.known = words(split, data_dir)

    def __len__(self) -> int:
        return 200_000 if self.split == "train" else 2 * len(self.known)

    def __getitem__(self, index: int) -> dict[str, Any]:
        word, letter = self.problem(index)
        question = self.dice(index).choice(QUESTIONS).format(word=word, letter=letter)
        return dialogue(question, f"{counted(word, letter)}. The answer is {word.count(letter)}.")

    def problem(self, index: int) -> tuple[str, str]:
        """The word and the letter of problem `index`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        word, dice = self.known[index % len(self.known)], self.dice(index)
        most = max(map(word.count, word))
        among = dice.choices((LETTERS, word, [one for one in word if word.count(one) == most]), ASKED)[0]
        return word, dice.choice(among)

    def correct(self, index: int, completion: str) -> bool:
        word, letter = self.problem(index)
        return last_number(completion) == word.count(letter)


def counted(word: str, letter: str) -> str:
    """The word spelled, with a running count after every occurrence of the letter."""
    shown, seen = [], 0
    for one in word:
        seen += one == letter
        shown.append(f"{one}{seen}" if one == letter else one)
    return " ".join(shown)
