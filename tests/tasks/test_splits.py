"""No two splits of a task share a problem, however it is worded: what is validated on was neither learned nor tested.

Held against a key of each task's own, made here of what a problem is about. Every task with a validation split has to
have one. Not here: questions that two published data sets share (tests/stages/test_task_data.py).
"""

import itertools
import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tasks import TASKS, make
from nanochat.tasks.gsm8k import Gsm8k
from nanochat.tasks.identity import FACTS, OPENERS
from nanochat.tasks.spelling import Spelling
from nanochat.tasks.task import Split, Task, in_split
from nanochat.tasks.words import words

GENERATED = sorted(name for name, task in TASKS.items() if "validation" in task.splits and not task.needs_data)


def key(task: Task, index: int) -> Any:
    """What a problem is about: two that have it in common are one problem."""
    if task.name == "arithmetic":
        a, sign, b = task.problem(index)  # type: ignore[attr-defined]
        return sign, *sorted((a, b))
    if isinstance(task, Spelling):
        return task.word(index)
    if task.name in ("counting", "letter_counting"):
        return task.problem(index)[0]  # type: ignore[attr-defined]
    asked = task[index]["messages"][0]["content"].lower()
    if task.name == "identity":
        asked = min((asked.removeprefix(opener.lower()) for opener in OPENERS), key=len)
    return "".join(filter(str.isalpha, asked))


@cache
def made(name: str, split: Split) -> Task:
    return make(name, split)


@cache
def keys(name: str, split: Split) -> set[Any]:
    task = made(name, split)
    return {key(task, index) for index in range(len(task))}


@pytest.mark.parametrize("name", GENERATED)
def test_validation_and_test_share_nothing_and_there_is_enough_of_both(name: str) -> None:
    assert not keys(name, "validation") & keys(name, "test")
    assert len(made(name, "validation")) >= 25
    assert len(keys(name, "validation")) >= 0.1 * len(made(name, "validation"))


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_no_training_problem_is_held_out(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(GENERATED))
    task = made(name, "train")
    found = key(task, data.draw(st.integers(0, len(task) - 1)))
    assert found not in keys(name, "validation")
    assert found not in keys(name, "test")


@pytest.mark.parametrize("name", [name for name in GENERATED if len(made(name, "train")) < 50_000])
def test_of_a_short_task_every_training_problem_was_looked_at(name: str) -> None:
    assert not keys(name, "train") & (keys(name, "validation") | keys(name, "test"))


def test_every_word_is_in_one_split() -> None:
    train, validation, test = (set(words(split)) for split in ("train", "validation", "test"))
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_every_fact_is_validated_on() -> None:
    task = made("identity", "validation")
    assert {task[index]["messages"][1]["content"] for index in range(len(task))} <= {fact.answer for fact in FACTS}


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_key_is_in_exactly_one_split(text: str, test_share: float, validation_share: float) -> None:
    belongs = [in_split(text, split, test_share, validation_share) for split in ("train", "validation", "test")]
    assert sum(belongs) == 1
    assert belongs[2] == in_split(text, "test", test_share, 0.0)  # whatever is kept for validation


ROWS = st.lists(st.text("abc XY", min_size=1).filter(str.strip), min_size=1, max_size=60)


@given(questions=ROWS)
@settings(max_examples=60, deadline=None)
def test_a_share_of_a_published_training_file_is_kept_for_validation(
    tmp_path_factory: pytest.TempPathFactory, questions: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("gsm8k")
    lines = [json.dumps({"question": text, "answer": f"#### {number}"}) for number, text in enumerate(questions)]
    (folder / "gsm8k_train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits = [Gsm8k(split, folder) for split in ("train", "validation")]
    rows = [[task.row(index) for index in range(len(task))] for task in splits]
    assert sorted(map(str, itertools.chain(*rows))) == sorted(map(str, map(json.loads, lines)))
    train, validation = ({" ".join(row["question"].lower().split()) for row in some} for some in rows)
    assert not train & validation
    assert len(validation) == -(-(len(train) + len(validation)) // 20)  # one in twenty, one at the least
