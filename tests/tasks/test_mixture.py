"""A mixture is read or refused with the knob's name, and its order depends on its text and seed alone."""

import subprocess
import sys
from collections import Counter

import pytest

from nanochat.tasks import TASKS, make
from nanochat.tasks.mixture import Mixture, parse_mixture
from nanochat.tasks.task import Task


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("identity:5", {"identity": 5}),
        (" spelling : 1_000,identity:2 , ", {"spelling": 1000, "identity": 2}),
    ],
)
def test_mixtures_are_read(text, rows):
    assert parse_mixture(text) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sft.mixture = '': name tasks"),
        ("identiti:5", "sft.mixture: unknown task 'identiti': did you mean 'identity'"),
        ("identity:5, identity:6", "sft.mixture: task 'identity' is there twice"),
        ("humaneval:5", "sft.mixture: task 'humaneval' has nothing to train on, only test"),
        ("identity", "sft.mixture: 'identity' must be TASK:ROWS"),
        ("identity:0", "sft.mixture: 'identity:0' must be TASK:ROWS with a positive"),
        ("identity:-3", "must be TASK:ROWS"),
        ("identity:0.5", "must be TASK:ROWS"),
        ("identity:many", "must be TASK:ROWS"),
    ],
)
def test_bad_mixtures_are_refused_with_the_knob_and_the_remedy(text, message):
    with pytest.raises(ValueError, match=message):
        parse_mixture(text, "sft.mixture")


def test_every_task_gets_its_rows_and_few_conversations_come_again():
    first = make("first_messages", "train")
    mixture = Mixture({"arithmetic": 30, "first_messages": len(first) + 7}, "train", None, seed=1)
    assert len(mixture) == len(list(mixture)) == 30 + len(first) + 7
    asked = Counter(conversation["messages"][0]["content"] for conversation in mixture)
    times = [asked[first[index]["messages"][0]["content"]] for index in range(len(first))]
    assert times == [2] * 7 + [1] * (len(first) - 7)
    assert sum(asked.values()) - sum(times) == 30


def test_the_order_is_the_seeds():
    one, same, other = (Mixture({"arithmetic": 50, "spelling": 50}, "train", None, seed) for seed in (1, 1, 2))
    assert list(one) == list(same)
    assert list(one) != list(other)
    assert sorted(map(str, one)) == sorted(map(str, other))


def test_a_task_without_conversations_is_refused():
    class Empty(Task):
        name = "empty"
        baseline = 0.0

        def __len__(self):
            return 0

    try:
        with pytest.raises(ValueError, match="task 'empty' has no conversations in its train split"):
            Mixture({"empty": 3}, "train", None, seed=0)
    finally:
        del TASKS["empty"]


def test_mixtures_need_the_standard_library_only():
    code = "import sys; import nanochat.tasks.mixture; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    ).stdout.split()
    assert not set(loaded) - sys.stdlib_module_names - {"nanochat", "__main__", "__mp_main__"}


class Lectures(Task):
    """Has nothing held out; entered in the list by the tests that want it."""

    baseline = 0.0
    splits = ("train",)


def test_a_mixture_must_hold_something_out(monkeypatch):
    monkeypatch.setitem(TASKS, "lectures", Lectures)
    assert parse_mixture("lectures:3, identity:5") == {"lectures": 3, "identity": 5}
    with pytest.raises(ValueError, match=r"sft.mixture = 'lectures:3': none of its tasks has a test split.*; add one"):
        parse_mixture("lectures:3", "sft.mixture")
