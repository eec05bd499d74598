"""Where the data of real tasks is published, and where it lies in a folder of one's own.

It fetches nothing (stages/task_data.py does). Standard library only, so that a plan is checked without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanochat.errors import unknown
from nanochat.locations import folder
from nanochat.tasks.task import TASKS


@dataclass(frozen=True)
class Origin:
    """Where a split is published: id, configuration and split at Hugging Face, and other names of local files."""

    dataset: str
    config: str | None
    split: str
    also: tuple[str, ...] = ()


ORIGINS: Mapping[str, Mapping[str, Origin]] = {
    "smoltalk": {
        "train": Origin("HuggingFaceTB/smol-smoltalk", None, "train"),
        "test": Origin("HuggingFaceTB/smol-smoltalk", None, "test"),
    },
    "mmlu": {
        "train": Origin("cais/mmlu", "auxiliary_train", "train", ("mc_aux_train.jsonl",)),
        "test": Origin("cais/mmlu", "all", "test"),
    },
    "gsm8k": {
        "train": Origin("openai/gsm8k", "main", "train"),
        "test": Origin("openai/gsm8k", "main", "test"),
    },
    "arc_easy": {
        "train": Origin("allenai/ai2_arc", "ARC-Easy", "train"),
        "test": Origin("allenai/ai2_arc", "ARC-Easy", "test"),
    },
    "arc_challenge": {
        "train": Origin("allenai/ai2_arc", "ARC-Challenge", "train"),
        "test": Origin("allenai/ai2_arc", "ARC-Challenge", "test"),
    },
    "humaneval": {"test": Origin("openai/openai_humaneval", None, "test", ("humaneval.jsonl",))},
}


def named(tasks: str, source: str, origins: Mapping[str, Mapping[str, Origin]] = ORIGINS) -> list[str]:
    """The names in `tasks`, each once.

    Raises:
        ValueError: one is unknown or needs no data, or `source` is no folder or lacks a file of one.
    """
    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
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
