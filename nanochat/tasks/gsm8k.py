"""GSM8K (arXiv:2110.14168): word problems of primary school, with calculator calls written into the answers.

`<<48/2=24>>` in an answer becomes a tool call and its output; the answer ends with `#### 72`. Promises: numbers are
compared as numbers, so that 72, 72.0, $72 and **72** are equal, and the last `####` counts. Not here: fetching
(nanochat/stages/task_data.py), the calculator. Standard library only.
"""

import re
from decimal import Decimal
from typing import Any, ClassVar

from nanochat.tasks.answers import leading_number
from nanochat.tasks.from_file import FromFile, Origin, text_of
from nanochat.tasks.task import Split, dialogue

CALL = re.compile(r"<<([^<>]*)>>")
MARK = "####"


class Gsm8k(FromFile):
    """Rows of openai/gsm8k: {"question", "answer"}."""

    name = "gsm8k"
    baseline = 0.0
    splits: ClassVar[tuple[Split, ...]] = ("train", "validation", "test")
    origins = {split: Origin("openai/gsm8k", "main", split) for split in ("train", "test")}

    @classmethod
    def normalise(cls, row: dict[str, Any]) -> dict[str, Any]:
        kept = text_of(row, "question", "answer")
        if leading_number(kept["answer"].rpartition(MARK)[2]) is None or MARK not in kept["answer"]:
            raise ValueError(f"answer: needs to end with `#### number`; it ends with {kept['answer'][-20:]!r}")
        return kept

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.row(index)
        return dialogue(row["question"], parts(row["answer"]))

    def correct(self, index: int, completion: str) -> bool:
        return final_number(completion) == final_number(self.row(index)["answer"])


def final_number(text: str) -> Decimal | None:
    """The number after the last `####` that has one; None where none has."""
    numbers = [leading_number(after) for after in text.split(MARK)[1:]]
    return next((number for number in reversed(numbers) if number is not None), None)


def parts(answer: str) -> list[dict[str, str]]:
    """The answer as text, calculator calls and their outputs.

    A mark without a calculation (`<<24>>`, `<<=24>>`) is left out: the text goes on with the number.
    """
    made: list[dict[str, str]] = []
    for number, piece in enumerate(CALL.split(answer)):  # text and call in turn
        if number % 2:
            expression, result = piece.partition("=")[0].strip(), piece.rpartition("=")[2].strip()
            if "=" not in piece or not expression or not result:
                continue
            made += [{"type": "python", "text": expression}, {"type": "python_output", "text": result}]
        elif piece:
            made.append({"type": "text", "text": piece})
    return made
