"""CORE's tasks as the stage core_data leaves them, and what is read to ask an example (DCLM, arXiv:2406.11794).

A folder with core.json and JSON lines; nothing is fetched. Promises: the prompts and few-shot draws of the reference
implementation, so that figures can be compared; a row that its task cannot ask is refused by file and line. Not here:
the form in which CORE is published (core_published.py), tokens, models and answers (core_metric.py). Standard library
only, so that a plan is checked without torch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.data import json_lines
from nanochat.data.json_lines import Row
from nanochat.locations import folder

INDEX = "core.json"
LABELS = (  # in the order of the published core.yaml
    "hellaswag_zeroshot",
    "jeopardy",
    "bigbench_qa_wikidata",
    "arc_easy",
    "arc_challenge",
    "copa",
    "commonsense_qa",
    "piqa",
    "openbook_qa",
    "lambada_openai",
    "hellaswag",
    "winograd",
    "winogrande",
    "bigbench_dyck_languages",
    "agi_eval_lsat_ar",
    "bigbench_cs_algorithms",
    "bigbench_operators",
    "bigbench_repeat_copy_logic",
    "squad",
    "coqa",
    "boolq",
    "bigbench_language_identification",
)
NUM_TASKS = len(LABELS)
SHUFFLE_SEED, FEWSHOT_SEED = 1337, 1234  # the reference's, so that a capped run asks the same questions
KEYS = {
    "multiple_choice": {"query", "choices", "gold"},
    "schema": {"context_options", "continuation", "gold"},
    "language_modeling": {"context", "continuation"},
}


@dataclass(frozen=True)
class CoreTask:
    """One task of core.json. `baseline` is the accuracy of guessing, as a share."""

    label: str
    path: Path
    kind: str
    shots: int
    delimiter: str
    baseline: float


def load_tasks(artifact: Path) -> list[CoreTask]:
    """The tasks of an artifact of core_data, in the order of the bundle.

    Raises:
        ValueError: it is none.
    """
    index = artifact / INDEX
    try:
        lines = json_lines.parsed_object(index.read_bytes(), str(index))["tasks"]
        return [
            CoreTask(
                line["label"],
                artifact / line["file"],
                line["kind"],
                line["shots"],
                line["delimiter"],
                line["baseline"] / 100,
            )
            for line in lines
        ]
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"{artifact}: is no artifact of core_data ({index.name}: {error!r}): make it again") from None


def load(artifact: Path, limit: int) -> list[tuple[CoreTask, list[Row]]]:
    """All tasks with at most `limit` examples each; raises as `load_tasks` and `load_examples` do."""
    return [(task, load_examples(task, limit)) for task in load_tasks(artifact)]


def load_source(source: str, limit: int) -> list[tuple[CoreTask, list[Row]]]:
    """The same of the folder in `pretrain.core_source`; ValueError also where it was made without tasks."""
    try:
        tasks = load(folder(source), limit)
    except ValueError as error:
        raise ValueError(f"pretrain.core_source = {source!r}: {error}") from None
    if not tasks:
        raise ValueError(f"pretrain.core_source = {source!r}: was made without tasks: set core_data.tasks")
    return tasks


def check_row(kind: str, row: Row, where: str) -> None:
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


def load_examples(task: CoreTask, limit: int) -> list[Row]:
    """At most `limit` examples in shuffled order; as few as the shots need are kept where the limit is lower still.

    Raises:
        ValueError: a line is not what the kind of task needs, or there are too few for the shots.
    """
    examples = []
    for where, row in json_lines.read(task.path):
        check_row(task.kind, row, where)
        examples.append(row)
    check_count(len(examples), task.shots, task.label, str(task.path))
    random.Random(SHUFFLE_SEED).shuffle(examples)
    return examples[: max(limit, task.shots + 1)]


def check_count(rows: int, shots: int, label: str, where: str) -> None:
    """ValueError, where a task has no example beside its shots."""
    if rows <= shots:
        raise ValueError(f"{where}: {rows} examples are too few for {shots} shots; leave {label!r} out")


def prompts(task: CoreTask, examples: Sequence[Row], index: int) -> list[str]:
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


def _solved(task: CoreTask, example: Row) -> str:
    """The example with its right ending, as a shot."""
    if task.kind == "multiple_choice":
        return f"{example['query']}{task.delimiter}{example['choices'][example['gold']]}"
    if task.kind == "schema":
        return f"{example['context_options'][example['gold']]}{task.delimiter}{example['continuation']}"
    return f"{example['context'].strip()}{task.delimiter}{example['continuation']}"
