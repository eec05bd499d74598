"""Spelling a word letter by letter: `strawberry` is `s t r a w b e r r y`.

A model sees words in pieces of several letters, so it has to learn the letters of every piece. Letters are separated by
spaces, which makes each one token. Training covers every word that is not held out, and fragments of them, so that a
piece is met in many surroundings. Not here: the words (nanochat/tasks/words.py), of which there are a hundred times as
many where `task_data` has fetched a list. Standard library only.
"""

import random
import re
import unicodedata
from pathlib import Path
from typing import Any

from nanochat.tasks.phrases import asked, typed
from nanochat.tasks.reserved import is_reserved
from nanochat.tasks.task import Split, Task, dialogue
from nanochat.tasks.words import words

FRAGMENT_SHARE = 0.2
NUMBERING = re.compile(r"(?<!\w)[0-9]+[.):]")
QUOTES = ("{}",) * 24 + ("'{}'", "'{}'", '"{}"', '"{}"', "\u2018{}\u2019", "\u201c{}\u201d", "`{}`")


class Spelling(Task):
    """`How do you spell cat?` - `c a t`"""

    name = "spelling"
    baseline = 0.0

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        self.known, self.held = words(split, data_dir), frozenset(words("test", data_dir))

    def __len__(self) -> int:
        return 200_000 if self.split == "train" else len(self.known)

    def __getitem__(self, index: int) -> dict[str, Any]:
        word, dice = self.word(index), random.Random(f"words of {self.name}/{self.split}/{index}")
        messages = iter(lambda: asked_about("spell", word, dice), None)
        return dialogue(next(message for message in messages if not is_reserved(message)), spelled(word))

    def word(self, index: int) -> str:
        """The word of problem `index`: all of them in turn, so that each is spelled equally often."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        word = self.known[index % len(self.known)]
        dice = self.dice(index)
        if self.split == "test" or dice.random() >= FRAGMENT_SHARE or len(word) < 4:
            return word
        length = dice.randrange(3, len(word))
        start = dice.randrange(len(word) - length + 1)
        fragment = word[start : start + length]
        return word if fragment in self.held else fragment

    def correct(self, index: int, completion: str) -> bool:
        return letters_of(completion, self.word(index)) == list(self.word(index))


def asked_about(questions: str, word: str, dice: random.Random, **more: str) -> str:
    """One of these questions about a word, as somebody types it, the word now and then in quotes or with a capital."""
    shown = dice.choices((word, word.capitalize(), word.upper()), (30, 2, 1))[0]
    text = asked(questions, dice)
    return typed(text.format(word=dice.choice(QUOTES).format(shown), **more), dice, slips=False)


def spelled(word: str) -> str:
    """The letters of a word with spaces between them."""
    return " ".join(word)


def letters_of(answer: str, word: str) -> list[str]:
    """What an answer spells, whatever stands between the letters, after the word itself and without a list's numbers.

    A piece of several letters, or a digit that numbers nothing, stays one item and is wrong.
    """
    shown = NUMBERING.sub(" ", unicodedata.normalize("NFKC", answer).lower())
    pieces = re.findall(r"[^\W\d_]+|[0-9]+", shown)
    if len(pieces) > 1 and pieces[0] == word:
        del pieces[0]
    if pieces[-2:-1] == ["and"]:
        del pieces[-2]
    return pieces
