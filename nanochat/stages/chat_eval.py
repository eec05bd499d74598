"""Asks a chat model held-out problems and counts the right answers.

Generative tasks are answered through the engine, many problems decoding together; multiple choice takes the likeliest
of the offered letters after the prompt. Promises: problems come from test splits only; an answer does not depend on
the batch; a problem that does not fit the context counts as wrong and is said so; code of a model runs in the sandbox
or the task is reported as not run; the digest says what was asked, so that only like is compared with like. Not here:
what a task asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.evaluation import scores
from nanochat.evaluation.chat_questions import Answer, ask
from nanochat.evaluation.scores import TaskScore
from nanochat.inference.engine import Engine
from nanochat.inference.load import load
from nanochat.model.weights import WEIGHTS
from nanochat.tasks import make
from nanochat.tasks.task import Task, comma_separated
from nanochat.tools import sandbox
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import ChatEval

SAMPLES_PER_TASK = 8


def run(stage: ChatEval, ctx: StageContext) -> dict[str, float]:
    """Writes scores.json and samples.md; returns accuracies by task, `chatcore` and shares of answers with a tool call.

    Raises:
        ValueError: no task is named, one does not exist or has no data, or all of them need a sandbox that is not
        there.
    """
    tasks, not_run = _tasks(stage, ctx)
    engine = Engine(*load(_trained(stage, ctx), stage.device, stage.dtype))
    sizes = {name: min(stage.max_problems, len(task)) for name, task in tasks.items()}
    decoding: dict[str, Any] = {"temperature": stage.temperature, "max_new_tokens": stage.max_new_tokens}
    total, before = sum(sizes.values()), 0
    answers: dict[str, list[Answer]] = {}
    for name, task in tasks.items():
        answers[name] = []
        for some in ask(engine, task, sizes[name], batch_size=stage.device_batch_size, **decoding):
            answers[name] += some
            ctx.metrics.progress(before + len(answers[name]), total, "problems")
        before += sizes[name]
    results = {
        name: TaskScore(sum(a.correct for a in given), len(given), tasks[name].baseline)
        for name, given in answers.items()
    }
    metrics = {name: score.accuracy for name, score in results.items()}
    metrics["chatcore"] = scores.mean_centered(results.values())
    for name, given in answers.items():
        if tasks[name].kind == "generative":
            metrics[f"{name}_tool_call_share"] = sum(a.called_tool for a in given) / len(given)
    asked = {
        "tasks": {
            name: scores.text_digest(map(_problem_text, map(task.__getitem__, range(sizes[name]))))
            for name, task in tasks.items()
        },
        "decoding": decoding,
    }
    (ctx.out / "samples.md").write_text("\n".join(_samples(tasks, answers, not_run)) + "\n", encoding="utf-8")
    return scores.write(ctx.out, metrics, results, asked, not_run=not_run)


def _tasks(stage: ChatEval, ctx: StageContext) -> tuple[dict[str, Task], dict[str, str]]:
    """The held-out splits of the named tasks, and why some of them cannot be asked on this machine."""
    names = comma_separated(stage.tasks)
    if not names:
        raise ValueError(f"{stage.name}.tasks = {stage.tasks!r}: name at least one task, comma-separated")
    tasks = {name: make(name, "test", ctx["task_data"]) for name in names}
    needing = [name for name, task in tasks.items() if task.runs_code]
    reason = sandbox.unavailable() if needing else None
    not_run = dict.fromkeys(needing, f"not run: {reason}") if reason else {}
    if len(not_run) == len(tasks):
        raise ValueError(f"{stage.name}.tasks = {stage.tasks!r}: none can be asked here ({reason}); name others too")
    return {name: task for name, task in tasks.items() if name not in not_run}, not_run


def _trained(stage: ChatEval, ctx: StageContext) -> Path:
    """The artifact of the one trained stage among the inputs."""
    (model,) = (taken.name for taken in stage.takes if WEIGHTS in taken.makes)
    return ctx[model]


def _problem_text(conversation: dict[str, Any]) -> str:
    """Question and reference answer."""
    return json.dumps(conversation["messages"], sort_keys=True)


def _samples(tasks: dict[str, Task], answers: dict[str, list[Answer]], not_run: dict[str, str]) -> Iterator[str]:
    yield "# Questions and answers"
    for name, reason in not_run.items():
        yield f"\n## {name}\n\n{reason}"
    for name, given in answers.items():
        unfinished = sum(not answer.finished for answer in given)
        right = sum(answer.correct for answer in given)
        yield f"\n## {name}: {right} of {len(given)} right, {unfinished} not finished"
        for index, answer in enumerate(given[:SAMPLES_PER_TASK]):
            *_, asked, expected = tasks[name][index]["messages"]
            yield f"\n**{'right' if answer.correct else 'wrong'}** {_quoted(asked['content'])}\n"
            yield f"- said: {_quoted(answer.text)}\n- reference: {_quoted(_flat(expected['content']))}"


def _flat(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


def _quoted(text: str) -> str:
    """On one line, and shown as it is."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
