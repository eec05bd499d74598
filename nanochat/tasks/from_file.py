"""Tasks whose problems are lines of a file: `<task>_<split>.jsonl` in the artifact of the stage `task_data`.

Promises: rows come in one fixed shuffled order (files are sorted by subject), so that the first n are a fair sample;
a line is read when it is asked for, so that half a million conversations cost no memory; a task that learns by
reinforcement keeps a share of the training file for validation. The rows were checked when they were fetched
(nanochat/stages/task_data.py). Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from nanochat.tasks.task import VALIDATION_SHARE, Split, Task, dialogue

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
    """A task that reads its rows from a file. `origins` says for each published split where it is.

    Where `validation` is among the splits and not published, it is the `validation_share` of the different questions of
    the training file whose digests are smallest, one at the least.

    Raises:
        ValueError: the task has no such split, or its file is missing.
    """

    needs_data = True
    splits: ClassVar[tuple[Split, ...]] = ("train", "test")
    origins: ClassVar[Mapping[str, Origin]] = {}
    validation_share: ClassVar[float] = VALIDATION_SHARE

    def __init__(self, split: Split, data_dir: Path | None = None) -> None:
        super().__init__(split, data_dir)
        if split not in self.splits:
            raise ValueError(f"task {self.name!r} has no split {split!r}: it has only {', '.join(self.splits)}")
        divided = split != "test" and "validation" in self.splits and "validation" not in self.origins
        path = None if data_dir is None else data_dir / f"{self.name}_{'train' if divided else split}.jsonl"
        if path is None or not path.is_file():
            raise ValueError(f"task {self.name!r}: {path or 'its file'} is missing; add {self.name} to task_data.tasks")
        self.path = path
        self.starts = _line_starts(path)
        self.order = list(range(len(self.starts)))
        if divided:
            chosen = _validation_lines(path, self.validation_share)
            self.order = [line for line in self.order if (line in chosen) == (split == "validation")]
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


def _validation_lines(path: Path, share: float) -> set[int]:
    """The lines of a training file that are kept for validation: a question that comes twice is in one split."""
    with path.open("rb") as file:
        digests = [hashlib.sha256(_question(json.loads(line)).encode()).digest() for line in file]
    kept = sorted(set(digests))
    chosen = set(kept[: math.ceil(share * len(kept))])
    return {number for number, digest in enumerate(digests) if digest in chosen}


def _question(row: Mapping[str, Any]) -> str:
    """What a row asks, however it is spaced and capitalised."""
    return " ".join((row.get("question") or row["prompt"]).lower().split())


def _line_starts(path: Path) -> array[int]:
    starts, at = array("Q"), 0
    with path.open("rb") as file:
        for line in file:
            starts.append(at)
            at += len(line)
    return starts
