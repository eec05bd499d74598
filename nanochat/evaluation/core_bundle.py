"""The CORE bundle: which tasks it has and what is read to ask an example (DCLM, arXiv:2406.11794; 22 tasks).

A folder with core_meta.json and one JSON-lines file per task; nothing is fetched. Promises: the prompts and few-shot
draws of the reference implementation, so that figures can be compared; what is named and not at hand is refused. Not
here: tokens, models and answers (core_metric.py). Standard library only, so that a plan is checked without torch.
"""

from __future__ import annotations

import codecs
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.data import json_lines
from nanochat.errors import unknown
from nanochat.locations import folder
from nanochat.tasks.task import comma_separated

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
    labels = comma_separated(wanted)
    if not labels:
        return []
    meta = folder(bundle) / META
    if not bundle or not meta.is_file():
        raise ValueError(
            f"base_eval.core_data = {bundle!r}: there is no {META}, and base_eval.core = {wanted!r} needs it; "
            "give the folder of the CORE bundle"
        )
    lines = json_lines.parsed(meta.read_bytes().removeprefix(codecs.BOM_UTF8), str(meta))
    if not isinstance(lines, list):
        raise ValueError(f"{meta}: needs a list of tasks, found {type(lines).__name__}")
    read = [_task(line, f"{meta}, task {number}", meta) for number, line in enumerate(lines)]
    tasks = {task.label: task for task in read}
    if len(tasks) < len(read):
        given = [task.label for task in read]
        raise ValueError(f"{meta}: {next(each for each in tasks if given.count(each) > 1)!r} is there twice")
    labels = list(tasks) if labels == ["all"] else labels
    for label in labels:
        if label not in tasks:
            raise ValueError(f"base_eval.core: {unknown('CORE task', label, tasks)}")
        if not tasks[label].path.is_file():
            raise ValueError(
                f"base_eval.core: {tasks[label].path} is missing; complete the bundle or leave {label!r} out"
            )
    return [task for label, task in tasks.items() if label in labels]


def _task(line: Any, where: str, meta: Path) -> CoreTask:
    if not isinstance(line, dict):
        raise ValueError(f"{where}: needs an object, found {type(line).__name__}")
    label, kind = json_lines.text(line, "label", where), json_lines.text(line, "icl_task_type", where)
    if kind not in KEYS:
        raise ValueError(f"{meta}, task {label!r}: {unknown('task type', kind, KEYS)}")
    shots, baseline = line.get("num_fewshot"), line.get("random_baseline")
    shots = shots[0] if isinstance(shots, list) and shots else shots
    if not isinstance(shots, int) or isinstance(shots, bool) or shots < 0:
        raise ValueError(f"{meta}, task {label!r}: num_fewshot = {shots!r}: needs a number, or a list of one")
    if not isinstance(baseline, int | float) or isinstance(baseline, bool) or not 0 <= baseline < 100:
        raise ValueError(f"{meta}, task {label!r}: random_baseline = {baseline!r}: needs a percentage below 100")
    delimiter = json_lines.text(line, "continuation_delimiter", where, may_be_empty=True)
    return CoreTask(label, meta.parent / json_lines.text(line, "file", where), kind, shots, delimiter, baseline / 100)


def _check(kind: str, row: dict[str, Any], where: str) -> None:
    """ValueError, where an example is not what its kind of task asks."""
    if missing := KEYS[kind] - set(row):
        raise ValueError(f"{where}: no {', '.join(sorted(missing))}, which a {kind} task needs")
    if kind == "language_modeling":
        json_lines.text(row, "context", where, may_be_empty=True)
        json_lines.text(row, "continuation", where)
        return
    options = "choices" if kind == "multiple_choice" else "context_options"
    json_lines.text(row, "query" if kind == "multiple_choice" else "continuation", where)
    json_lines.index(row, "gold", where, len(json_lines.texts(row, options, where)))


def load_examples(task: CoreTask, limit: int) -> list[dict[str, Any]]:
    """At most `limit` examples in shuffled order; as few as the shots need are kept where the limit is lower still.

    Raises:
        ValueError: a line is not what the kind of task needs, or there are too few for the shots.
    """
    examples = []
    for where, row in json_lines.read(task.path):
        _check(task.kind, row, where)
        examples.append(row)
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
