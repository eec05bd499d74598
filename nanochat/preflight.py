"""Refuses what cannot end well, before any work starts: each refusal names the knob, the value and the remedy.

Knobs alone were checked when the stages were built; here is what takes more than one stage or a look at the world: the
store, the corpus, the horizon. Only what still has to be made is looked at. It does not estimate cost (scaling.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from nanochat import scaling
from nanochat.core_questions import load_tasks as load_core_tasks
from nanochat.corpus import preflight as preflight_corpus
from nanochat.mixture import parse_mixture
from nanochat.pipeline import BaseEval, Chat, ChatEval, Download, Pretrain, Rl, TaskData, Tokenize, Tokenizer
from nanochat.plan import Step
from nanochat.runner import Job, find
from nanochat.stage import Stage
from nanochat.store import Store
from nanochat.tasks import TASKS

MIN_BYTES_PER_TOKEN = 2.0  # of English under a small vocabulary; pretraining itself counts exactly


def preflight(steps: Iterable[Step], store: Store) -> None:
    """ValueError, if this plan cannot be carried out."""
    store.check_writable()
    stages = {step.name: step.stage for step in steps if find(Job(step), store) is None}
    every = {step.name: step.stage for step in steps}
    _check_tasks(stages, every)
    base_eval = stages.get("base_eval")
    if isinstance(base_eval, BaseEval):
        load_core_tasks(base_eval.core_data, base_eval.core)
    download = stages.get("download")
    text_bytes = preflight_corpus(download) if isinstance(download, Download) else None
    pretrain, tokenizer, tokenize = stages.get("pretrain"), every.get("tokenizer"), every.get("tokenize")
    if isinstance(pretrain, Pretrain) and isinstance(tokenizer, Tokenizer) and isinstance(tokenize, Tokenize):
        derived = scaling.derive(pretrain, tokenizer.vocab_size, tokenize.sequence_len)  # refuses what does not divide
        if text_bytes is not None:
            _check_horizon(pretrain, derived.num_steps * derived.total_batch_size, text_bytes)


def _check_horizon(stage: Pretrain, tokens: int, text_bytes: int) -> None:
    most = text_bytes / MIN_BYTES_PER_TOKEN * stage.max_epochs
    if tokens > most:
        raise ValueError(
            f"pretrain needs {tokens:,} tokens, the corpus has about {most:,.0f} at the most: lower pretrain.num_steps "
            f"or pretrain.tokens_per_parameter, raise download.num_shards, or allow pretrain.max_epochs"
        )


def _check_tasks(stages: dict[str, Stage], every: dict[str, Stage]) -> None:
    """Every task named anywhere exists, and the data of the real ones is fetched."""
    data = every.get("task_data")
    fetched = names_of(data.tasks) if isinstance(data, TaskData) else set()
    for stage in stages.values():
        if isinstance(stage, Chat):
            knob, names = "mixture", set(parse_mixture(stage.mixture, f"{stage.name}.mixture"))
        elif isinstance(stage, ChatEval):
            knob, names = "tasks", names_of(stage.tasks)
        elif isinstance(stage, Rl):
            knob, names = "task", {stage.task}
        else:
            continue
        if not names:
            raise ValueError(f"{stage.name}.{knob} is empty: name at least one of {', '.join(sorted(TASKS))}")
        for name in sorted(names):
            if name not in TASKS:
                raise ValueError(f"{stage.name}.{knob} names {name!r}: there is {', '.join(sorted(TASKS))}")
            if TASKS[name].needs_data and name not in fetched:
                raise ValueError(
                    f"{stage.name}.{knob} names {name!r}, whose data nobody fetches: add it to task_data.tasks"
                )


def names_of(text: str) -> set[str]:
    """The names of a comma-separated list."""
    return {name.strip() for name in text.split(",") if name.strip()}
