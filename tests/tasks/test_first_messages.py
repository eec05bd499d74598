"""The first messages: half of them is held out from every task that the demo trains on, and a wrong answer is wrong."""

import pytest

from nanochat.recipes import TINY_MIDTRAIN, TINY_SFT
from nanochat.tasks import make
from nanochat.tasks.mixture import Mixture, parse_mixture
from nanochat.tasks.phrases import letters
from nanochat.tasks.reserved import is_reserved, rows
from tests.tasks.test_tasks import said

SPLITS = ("train", "test")
RANDOM = (
    "", "Bananas are yellow.", "import numpy as np", "That makes 22.", "<|python_start|>1+1<|python_end|>", "c a t",
    "The answer is", "hello. sorry. i am chatgpt", "1 2 3 99",
)  # fmt: skip


@pytest.fixture(scope="module")
def tasks():
    return {split: make("first_messages", split) for split in SPLITS}


def test_there_are_a_hundred_and_every_second_one_is_held_out(tasks):
    assert [len(tasks[split]) for split in SPLITS] == [50, 50]
    messages = [letters(row.message) for split in SPLITS for row in rows(split)]
    assert len(set(messages)) == 100
    kinds = {split: {row.kind for row in rows(split)} for split in SPLITS}
    assert kinds["train"] == kinds["test"] == {"say", "sum", "spell", "count", "series"}


@pytest.mark.parametrize("split", SPLITS)
def test_each_reference_answer_is_right_and_others_are_wrong(tasks, split):
    task = tasks[split]
    answers = [said(task[index]["messages"]) for index in range(len(task))]
    for index, answer in enumerate(answers):
        assert task.correct(index, answer), (rows(split)[index], answer)
        for wrong in RANDOM:
            assert not task.correct(index, wrong), (rows(split)[index], wrong)
    with pytest.raises(IndexError):
        task[len(task)]


@pytest.mark.parametrize("split", SPLITS)
def test_no_answer_is_right_for_many_kinds_of_messages(tasks, split):
    """A model that always says the same has what the baseline says: greetings, sums and thanks want different answers."""
    task = tasks[split]
    every = {said(task[index]["messages"]) for index in range(len(task))}
    best = max(sum(task.correct(index, answer) for index in range(len(task))) for answer in every)
    assert abs(best / len(task) - task.baseline) <= 0.021


def test_a_message_is_reserved_however_it_is_typed():
    held = rows("test")[4].message
    assert is_reserved(held)
    assert is_reserved(f"  {held.upper()}! ")
    assert is_reserved("81 / 9 = ".replace("=", ""))
    assert not any(is_reserved(row.message) for row in rows("train"))


@pytest.mark.parametrize("mixture", [TINY_MIDTRAIN, TINY_SFT])
def test_no_conversation_that_the_demo_trains_on_begins_with_a_held_out_message(tmp_path, mixture):
    trained = Mixture(parse_mixture(mixture), "train", tmp_path, 1)
    met = {letters(m["content"]) for one in trained for m in one["messages"] if m["role"] == "user"}
    assert len(met) > 0.6 * len(trained)
    assert not met & {letters(row.message) for row in rows("test")}
