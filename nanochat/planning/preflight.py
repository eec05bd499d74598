"""Refuses what cannot end well, before any work starts: each refusal names the knob, the value and the remedy.

Knobs alone were checked when the stages were built; here is what takes more than one stage or a look at the world: the
store, the corpus, the horizon. Only what still has to be made is looked at. It does not estimate cost (scaling.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from nanochat import scaling
from nanochat.artifacts.store import Store
from nanochat.data.corpus_preflight import preflight as preflight_corpus
from nanochat.evaluation.core_bundle import load_source as load_core_source
from nanochat.evaluation.core_published import preflight as preflight_core
from nanochat.evaluation.scores import pass_counts, pass_name
from nanochat.locations import is_bucket
from nanochat.pipeline import (
    Chat,
    ChatData,
    ChatEval,
    CoreData,
    Download,
    Pretrain,
    Register,
    Rl,
    TaskData,
    Tokenize,
    Tokenizer,
)
from nanochat.planning.costs import chat_rows
from nanochat.scaling import FEWEST_STEPS, too_short
from nanochat.tasks import TASKS
from nanochat.tasks.mixture import OWN, parse_mixture
from nanochat.tasks.published import named
from nanochat.tasks.task import Task, asked_problems, comma_separated, weighted_tasks
from nanochat.tasks.word_file import local_file
from nanochat.workflow.plan import Step
from nanochat.workflow.runner import Job, find
from nanochat.workflow.stage import Stage

MIN_BYTES_PER_TOKEN = 2.0  # of English under a small vocabulary; pretraining itself counts exactly
Stages = Mapping[str, Stage]


def preflight(
    steps: Iterable[Step],
    store: Store,
    force: Collection[str] = frozenset(),
    *,
    reads_buckets: bool = True,
    gpu_stages_here: bool = True,
) -> None:
    """ValueError, if this plan cannot be carried out.

    Args:
        force: stages that are made even if they are there.
        reads_buckets: whether the runner brings shards from s3://, as the flow does.
        gpu_stages_here: whether they run on this machine, so that what they need can be looked for.
    """
    store.check_writable()
    every = {step.name: step.stage for step in steps}
    stages = {step.name: step.stage for step in steps if step.name in force or find(Job(step), store) is None}
    _check_tasks(stages, every)
    if gpu_stages_here:
        _check_sandbox(stages)
    _check_metric(stages, every)
    core_data = stages.get("core_data")
    if isinstance(core_data, CoreData):
        preflight_core(core_data.tasks, core_data.source)
    pretrain = stages.get("pretrain")
    if gpu_stages_here and isinstance(pretrain, Pretrain) and pretrain.core_every:
        load_core_source(pretrain.core_source, limit=1)
    download = stages.get("download")
    if isinstance(download, Download) and is_bucket(download.url) and not reads_buckets:
        raise ValueError(f"download.url = {download.url!r}: only the flow reads s3://: start it with `nanochat run`")
    text_bytes = preflight_corpus(download) if isinstance(download, Download) else None
    _check_sizes(stages, every, text_bytes)


def _check_sizes(stages: Stages, every: Stages, text_bytes: int | None) -> None:
    """The model can be built, the corpus is long enough, and every batch is whole rows on every rank."""
    pretrain, tokenizer, tokenize = (every.get(name) for name in ("pretrain", "tokenizer", "tokenize"))
    if not (isinstance(pretrain, Pretrain) and isinstance(tokenizer, Tokenizer) and isinstance(tokenize, Tokenize)):
        return
    # What is already made was made on as many ranks as it took; now only its batch matters.
    asked = pretrain if "pretrain" in stages else pretrain.replaced(num_ranks=1)
    derived = scaling.derive(asked, tokenizer.vocab_size, tokenize.sequence_len)
    if "pretrain" in stages and text_bytes is not None:
        _check_horizon(pretrain, derived.num_steps * derived.total_batch_size, text_bytes)
    batch = derived.total_batch_size
    for name, stage in every.items():
        if isinstance(stage, ChatData) and name in stages and stage.sequence_len != tokenize.sequence_len:
            raise ValueError(
                f"{name}.sequence_len = {stage.sequence_len}, tokenize.sequence_len = {tokenize.sequence_len}: the "
                f"model has one context: set sequence_len={tokenize.sequence_len}, without a stage's name"
            )
        if isinstance(stage, Chat):
            batch = stage.total_batch_size or batch  # else as in the stage before
            if name in stages:
                rows_per_step = scaling.rows_per_step(batch, tokenize.sequence_len, stage.num_ranks, name)
                _check_length(stage, every.get(f"{name}_data"), rows_per_step)


def _check_length(stage: Chat, data: Stage | None, rows_per_step: int) -> None:
    """One epoch is long enough to learn from, by the mean lengths of conversations; the stage itself counts exactly."""
    rows = chat_rows(data)[1] if isinstance(data, ChatData) else None
    if not stage.num_steps and rows is not None:
        steps = -(-int(rows) // rows_per_step)
        if steps < FEWEST_STEPS:
            raise ValueError(
                f"{stage.name}: one epoch of {stage.name}_data.mixture is about {steps} steps of {rows_per_step:,} "
                f"rows, {too_short(stage.name)}"
            )


def _check_horizon(stage: Pretrain, tokens: int, text_bytes: int) -> None:
    most = text_bytes / MIN_BYTES_PER_TOKEN * stage.max_epochs
    if tokens > most:
        raise ValueError(
            f"pretrain needs {tokens:,} tokens, the corpus has about {most:,.0f} at the most: lower pretrain.num_steps "
            f"or pretrain.tokens_per_parameter, take more text (download.num_shards), or allow pretrain.max_epochs"
        )


def _check_tasks(stages: Stages, every: Stages) -> None:
    """Every task named anywhere exists and can do what is asked of it, and the data of the real ones is fetched."""
    data = every.get("task_data")
    if isinstance(making := stages.get("task_data"), TaskData):
        named(making.tasks, making.source)
        if making.words == "english":
            local_file(making.words_source)
    fetched = comma_separated(data.tasks) if isinstance(data, TaskData) else []
    for stage in stages.values():
        if isinstance(stage, ChatData):
            knob, names = "mixture", [name for name in parse_mixture(stage.mixture) if not name.startswith(OWN)]
        elif isinstance(stage, ChatEval):
            knob, names = "tasks", list(_asked(stage))
        elif isinstance(stage, Rl):
            knob, names = "task", list(weighted_tasks(stage.task, "rl.task"))
        else:
            continue
        if not names:
            raise ValueError(f"{stage.name}.{knob} is empty: name at least one of {', '.join(sorted(TASKS))}")
        for name in sorted(names):
            where = f"{stage.name}.{knob} names {name!r}"
            if name not in TASKS:
                raise ValueError(f"{where}: there is {', '.join(sorted(TASKS))}")
            if TASKS[name].needs_data and name not in fetched:
                raise ValueError(f"{where}, whose data nobody fetches: add it to task_data.tasks")
            if isinstance(stage, ChatEval | Rl):
                _check_task(stage, where, TASKS[name])


def _asked(stage: ChatEval) -> dict[str, int | None]:
    return asked_problems(stage.tasks, f"{stage.name}.tasks")


def _check_task(stage: ChatEval | Rl, where: str, task: type[Task]) -> None:
    """The task can be asked; for reinforcement learning it can also be sampled and trained on."""
    learned = isinstance(stage, Rl)
    if inability := _inability(task, learned=learned):
        able = sorted(name for name, other in TASKS.items() if not _inability(other, learned=learned))
        raise ValueError(f"{where}, which {inability}: take one of {', '.join(able)}")


def _inability(task: type[Task], *, learned: bool) -> str:
    """Why the task cannot be asked (and learned by reinforcement), or nothing."""
    if task.correct is Task.correct and not (learned and task.reward is not Task.reward):
        return "has no right answers"
    if learned and task.kind != "generative":
        return f"is {task.kind}: its answers are not sampled"
    missing = [split for split in (("train", "validation") if learned else ("test",)) if split not in task.splits]
    return f"has no {missing[0]} split" if missing else ""


def _check_sandbox(stages: Stages) -> None:
    """Of several tasks, those whose answers nothing can run here are left out; that all are should be known early."""
    from nanochat.tools import sandbox  # here, so that a stage's process does not import it for every stage

    for stage in stages.values():
        if isinstance(stage, ChatEval):
            where, names, remedy = f"{stage.name}.tasks = {stage.tasks!r}", list(_asked(stage)), "name others too"
            hopeless = bool(names) and all(TASKS[name].runs_code for name in names)
        elif isinstance(stage, Rl):
            where, names, remedy = (
                f"rl.task = {stage.task!r}",
                list(weighted_tasks(stage.task, "")),
                "take another task",
            )
            hopeless = any(TASKS[name].runs_code for name in names)
        else:
            continue
        if hopeless and (reason := sandbox.unavailable()):
            raise ValueError(
                f"{where}: its answers are programs, and there is no sandbox to run them in: {reason}; install "
                f"bubblewrap, or {remedy}"
            )


def _check_metric(stages: Stages, every: Stages) -> None:
    """Every chat evaluation measures the score that the gate compares."""
    register = stages.get("register")
    if not isinstance(register, Register):
        return
    for stage in every.values():
        if isinstance(stage, ChatEval):
            names = sorted(_asked(stage).keys() & TASKS.keys())
            generative = [name for name in names if TASKS[name].kind == "generative"]
            calls = [f"{name}_tool_call_share" for name in generative]
            passes = [pass_name(name, k) for name in generative for k in pass_counts(stage.num_samples)]
            if register.metric not in (known := ["chatcore", *names, *calls, *passes]):
                raise ValueError(
                    f"register.metric = {register.metric!r}: {stage.name} does not measure it; take one of "
                    f"{', '.join(known)}, or add its task to {stage.name}.tasks"
                )
