"""The tasks whose data `task_data` fetches, and where it lies in a folder of one's own. Each task says its origins.

It fetches nothing (stages/task_data.py does). Standard library only, so that a plan is checked without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nanochat.errors import unknown
from nanochat.locations import folder
from nanochat.tasks import TASKS
from nanochat.tasks.from_file import FromFile, Origin
from nanochat.tasks.task import comma_separated

Origins = Mapping[str, Mapping[str, Origin]]  # task -> split -> where it is published
ORIGINS: Origins = {name: task.origins for name, task in TASKS.items() if issubclass(task, FromFile)}


def named(tasks: str, source: str, origins: Origins = ORIGINS) -> list[str]:
    """The names in `tasks`, each once.

    Raises:
        ValueError: one is unknown or needs no data, or `source` is no folder or lacks a file of one.
    """
    names = comma_separated(tasks)
    for name in names:
        if name in TASKS and not TASKS[name].needs_data:
            raise ValueError(f"task_data.tasks names {name!r}, which needs no data: take it out")
        if name not in origins:
            raise ValueError(f"task_data.tasks: {unknown('task with data', name, origins)}")
    if source and not folder(source).is_dir():
        raise ValueError(
            f"task_data.source = {source!r}: is not a folder; give one with TASK_SPLIT.jsonl files, or leave it "
            "empty for Hugging Face `datasets`"
        )
    if source:
        for name in names:
            for split, origin in origins[name].items():
                file_of(source, name, split, origin)
    return names


def file_of(source: str, name: str, split: str, origin: Origin) -> Path:
    """The JSON-lines file of a split in a folder of them."""
    candidates = [folder(source) / file for file in (f"{name}_{split}.jsonl", *origin.also)]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise ValueError(f"task_data.source = {source!r}: there is no {' or '.join(path.name for path in candidates)}")
    return path
