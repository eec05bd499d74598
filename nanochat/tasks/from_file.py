"""Tasks whose problems are lines of a file: `<task>_<split>.jsonl` in the artifact of the stage `task_data`.

Promises: rows come in one fixed shuffled order (files are sorted by subject), so that the first n are a fair sample;
a line is read when it is asked for, so that half a million conversations cost no memory. The rows were checked when
they were fetched (nanochat/stages/task_data.py). Standard library only.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from nanochat.tasks.task import Split, Task, dialogue

SHUFFLE_SEED = 1337
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Origin:
    """Where a split is published: id, configuration and split at Hugging Face, and other names of local files."""

    dataset: str
    config: str | None
    split: str
    also: tuple[str, ...] = ()


class FromFile(Task):
    """A task that reads its rows from a file. `origins` says for each of its splits where it is published.

    Raises:
        ValueError: the task has no such split, or its file is missing.
    """

    needs_data = True
    origins: ClassVar[Mapping[str, Origin]] = {}

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        if split not in self.splits:
            raise ValueError(f"task {self.name!r} has no split {split!r}: it has only {', '.join(self.splits)}")
        path = None if data_dir is None else data_dir / f"{self.name}_{split}.jsonl"
        if path is None or not path.is_file():
            raise ValueError(f"task {self.name!r}: {path or 'its file'} is missing; add {self.name} to task_data.tasks")
        self.path = path
        self.starts = _line_starts(path)
        self.order = list(range(len(self.starts)))
        random.Random(SHUFFLE_SEED).shuffle(self.order)

    @classmethod
    def normalise(cls, row: dict[str, Any]) -> dict[str, Any]:
        """A row of the published data set in this task's own form. ValueError says what is wrong with it."""
        raise NotImplementedError(cls.name)

    def __len__(self) -> int:
        return len(self.order)

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` of the shuffled file."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self.path.open("rb") as file:
            file.seek(self.starts[self.order[index]])
            return json.loads(file.readline())


class MultipleChoice(FromFile):
    """Questions with offered answers; the row is {"question": str, "choices": [str], "answer": index}."""

    kind: ClassVar[Literal["generative", "multiple_choice"]] = "multiple_choice"

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.row(index)
        # The letter stands after its choice, and right after "=": the same token as in the answer.
        offered = "".join(f"- {choice}={letter}\n" for choice, letter in zip(row["choices"], LETTERS, strict=False))
        question = (
            f"Multiple choice question: {row['question']}\n{offered}\nRespond only with the letter of the right answer."
        )
        return dialogue(question, LETTERS[row["answer"]])

    def choices(self, index: int) -> tuple[str, ...]:
        return tuple(LETTERS[: len(self.row(index)["choices"])])

    def correct(self, index: int, completion: str) -> bool:
        return completion.strip() == LETTERS[self.row(index)["answer"]]


def text_of(row: dict[str, Any], *keys: str) -> dict[str, str]:
    """The named fields, which must be text that says something."""
    for key in keys:
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(f"{key} = {row.get(key)!r}: needs text")
    return {key: row[key] for key in keys}


def choice_row(question: Any, choices: Any, answer: Any) -> dict[str, Any]:
    """A row of a multiple choice task, checked."""
    row = text_of({"question": question}, "question")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"choices = {choices!r}: needs a list of 2 to {len(LETTERS)} texts")
    if not all(isinstance(choice, str | int | float) and type(choice) is not bool for choice in choices):
        raise ValueError(f"choices = {choices!r}: each needs to be a text")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"answer = {answer!r}: needs the index of one of the {len(choices)} choices")
    return {**row, "choices": [str(choice) for choice in choices], "answer": answer}


def _line_starts(path: Path) -> array[int]:
    starts, at = array("Q"), 0
    with path.open("rb") as file:
        for line in file:
            starts.append(at)
            at += len(line)
    return starts
