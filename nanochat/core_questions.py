"""The CORE bundle: which tasks it has and what is read to ask an example (DCLM, arXiv:2406.11794; 22 tasks).

A folder with core_meta.json and one JSON-lines file per task; nothing is fetched. Promises: the prompts and few-shot
draws of the reference implementation, so that figures can be compared; what is named and not at hand is refused. Not
here: tokens, models and answers (nanochat/core.py). Standard library only, so that a plan is checked without torch.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.stage import unknown

META = "core_meta.json"
NUM_TASKS = 22  # of the whole of CORE
SHUFFLE_SEED, FEWSHOT_SEED = 1337, 1234  # the reference's, so that a capped run asks the same questions
KEYS = {
    "multiple_choice": {"query", "choices", "gold"},
    "schema": {"context_options", "continuation", "gold"},
    "language_modeling": {"context", "continuation"},
}


@dataclass(frozen=True)
class CoreTask:
    """One line of core_meta.json. `baseline` is the accuracy of guessing, as a share."""

    label: str
    path: Path
    kind: str
    shots: int
    delimiter: str
    baseline: float


def load_tasks(bundle: str, wanted: str) -> list[CoreTask]:
    """The tasks named in `wanted` (comma-separated labels, `all`, or none), in the order of the folder `bundle`.

    Raises:
        ValueError: there is no bundle, no such task in it, a task of unknown kind, or one whose file is missing.
    """
    labels = [label.strip() for label in wanted.split(",") if label.strip()]
    if not labels:
        return []
    meta = Path(bundle) / META
    if not bundle or not meta.is_file():
        raise ValueError(
            f"base_eval.core_data = {bundle!r}: there is no {META}, and base_eval.core = {wanted!r} needs it; "
            "give the folder of the CORE bundle"
        )
    tasks = {line["label"]: _task(line, meta) for line in json.loads(meta.read_text(encoding="utf-8"))}
    labels = list(tasks) if labels == ["all"] else labels
    for label in labels:
        if label not in tasks:
            raise ValueError(f"base_eval.core: {unknown('CORE task', label, tasks)}")
        if not tasks[label].path.is_file():
            raise ValueError(
                f"base_eval.core: {tasks[label].path} is missing; complete the bundle or leave {label!r} out"
            )
    return [task for label, task in tasks.items() if label in labels]


def _task(line: dict[str, Any], meta: Path) -> CoreTask:
    label, kind, shots = line["label"], line["icl_task_type"], line["num_fewshot"]
    if kind not in KEYS:
        raise ValueError(f"{meta}, task {label!r}: {unknown('task type', kind, KEYS)}")
    return CoreTask(
        label=label,
        path=meta.parent / line["file"],
        kind=kind,
        shots=shots[0] if isinstance(shots, list) else shots,
        delimiter=line["continuation_delimiter"],
        baseline=line["random_baseline"] / 100,
    )


def load_examples(task: CoreTask, limit: int) -> list[dict[str, Any]]:
    """At most `limit` examples in shuffled order; as few as the shots need are kept where the limit is lower still.

    Raises:
        ValueError: a line is not what the kind of task needs, or there are too few for the shots.
    """
    examples = []
    with task.path.open(encoding="utf-8") as file:  # not splitlines(), which also cuts at U+2028, a part of the text
        for number, line in enumerate(file, start=1):
            examples.append(json.loads(line))
            if missing := KEYS[task.kind] - set(examples[-1]):
                what = ", ".join(sorted(missing))
                raise ValueError(f"{task.path}, line {number}: no {what}, which a {task.kind} task needs")
    if len(examples) <= task.shots:
        raise ValueError(
            f"{task.path}: {len(examples)} examples are too few for {task.shots} shots; leave {task.label!r} out"
        )
    random.Random(SHUFFLE_SEED).shuffle(examples)
    return examples[: max(limit, task.shots + 1)]


def prompts(task: CoreTask, examples: Sequence[dict[str, Any]], index: int) -> list[str]:
    """The texts to be read for example `index`: one per option; for language modeling without and with the ending."""
    others = [i for i in range(len(examples)) if i != index]
    drawn = random.Random(FEWSHOT_SEED + index).sample(others, task.shots) if task.shots else []
    before = "".join(_solved(task, examples[i]) + "\n\n" for i in drawn)
    example = examples[index]
    if task.kind == "multiple_choice":
        return [f"{before}{example['query']}{task.delimiter}{choice}" for choice in example["choices"]]
    if task.kind == "schema":
        return [f"{before}{context}{task.delimiter}{example['continuation']}" for context in example["context_options"]]
    asked = f"{before}{example['context'].strip()}{task.delimiter}"
    return [asked.strip(), asked + example["continuation"]]  # a space at the end would be a token of its own


def _solved(task: CoreTask, example: dict[str, Any]) -> str:
    """The example with its right ending, as a shot."""
    if task.kind == "multiple_choice":
        return f"{example['query']}{task.delimiter}{example['choices'][example['gold']]}"
    if task.kind == "schema":
        return f"{example['context_options'][example['gold']]}{task.delimiter}{example['continuation']}"
    return f"{example['context'].strip()}{task.delimiter}{example['continuation']}"
