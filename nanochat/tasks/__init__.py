"""The list of tasks: importing a module enters its tasks. A new task is one file and one line here.

Standard library only. Promises: every name in TASKS can be made by `make`; an unknown one is refused with its nearest.
"""

from pathlib import Path

from nanochat.errors import unknown
from nanochat.tasks import (  # noqa: F401
    arc,
    arithmetic,
    calculations,
    chitchat,
    counting,
    first_messages,
    gsm8k,
    humaneval,
    identity,
    identity_conversations,
    letter_counting,
    mmlu,
    series,
    smoltalk,
    spelling,
    word_problems,
)
from nanochat.tasks.task import TASKS, Split, Task


def make(name: str, split: Split, data_dir: Path | None = None) -> Task:
    """The task called `name`; `data_dir` holds `<task>_<split>.jsonl` of those that need data.

    Raises:
        ValueError: there is no such task or split, or its data is missing.
    """
    if name not in TASKS:
        raise ValueError(unknown("task", name, TASKS))
    return TASKS[name](split, data_dir)
