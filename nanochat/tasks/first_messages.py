"""What people type first who never read the patterns of the other tasks: a hundred messages, half of them held out.

They are in first_messages.txt, each with what a right answer has. Promises: no task trains on a held-out one
(reserved.py); a random answer is wrong: sums, counts and spellings have to be right, and talk has to have a word of its
topic, and no sum or spelling. Standard library only.
"""

import re
from pathlib import Path
from typing import Any

from nanochat.tasks import arithmetic
from nanochat.tasks.answers import last_number
from nanochat.tasks.counting import LETTERS, counted_aloud, how_many
from nanochat.tasks.phrases import read
from nanochat.tasks.reserved import Row, rows
from nanochat.tasks.series import terms_of
from nanochat.tasks.spelling import letters_of, spelled
from nanochat.tasks.task import Split, Task, dialogue

WORKED = re.compile(r"[0-9]|<\||\b[b-hj-z] [b-hj-z]\b")  # a number, a call or letters in a row: of sums and spellings
PRETENDED = re.compile(r"\bi am (chatgpt|gpt|claude|gemini|siri|alexa|a person|human|a human|openai)", re.IGNORECASE)


class FirstMessages(Task):
    """`hi`, `81/9`, `can you spell "friend"?`"""

    name = "first_messages"
    baseline = 0.16  # of saying to all that it cannot help, and what the model can do

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        self.rows = rows(split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return dialogue(self.rows[index].message, _answer(self.rows[index]))

    def correct(self, index: int, completion: str) -> bool:
        row = self.rows[index]
        return _VERDICTS[row.kind](row, completion)


def _answer(row: Row) -> str | list[dict[str, str]]:
    """The answer that other tasks give to such a message."""
    if row.kind == "sum":
        return arithmetic.answer(row.subject, called=True)
    if row.kind == "count":
        return counted_aloud(*_counted(row))
    if row.kind == "say":
        file, _, name = row.subject.partition(" ")
        return next(topic.answer for topic in read(f"{file}.txt")[0] if topic.name == name)
    return spelled(row.subject) if row.kind == "spell" else row.subject


def _counted(row: Row) -> tuple[str, str]:
    word, _, letter = row.subject.partition(" ")
    return word, letter or LETTERS


def _said_well(row: Row, completion: str) -> bool:
    said = completion.lower()
    expected = any(word in said for word in row.accepted.split(", "))
    return expected and not WORKED.search(said) and not PRETENDED.search(said)


_VERDICTS = {
    "sum": lambda row, completion: arithmetic.is_right(row.subject, completion),
    "count": lambda row, completion: last_number(completion) == how_many(*_counted(row)),
    "spell": lambda row, completion: letters_of(completion, row.subject) == list(row.subject),
    "series": lambda row, completion: terms_of(completion) == terms_of(row.subject),
    "say": _said_well,
}
