"""Asks a chat model held-out problems and counts the right answers.

Generative problems of all tasks are answered through the engine in one queue; multiple choice takes the likeliest of
the offered letters after the prompt. Promises: problems come from test splits only; an answer does not depend on the
batch, nor on how many ranks share the problems, and every rank returns the same numbers; only rank 0 writes; a problem
that does not fit the context counts as wrong and is said so; code of a model runs in the sandbox or the task is
reported as not run; the digest says what was asked, so that only like is compared with like. Ranks meet when the
answers are there, through files, since one may take longer than a collective waits. Not here: what a task asks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.evaluation import scores
from nanochat.evaluation.chat_questions import Answer, Decoding, ask
from nanochat.evaluation.scores import TaskScore
from nanochat.inference.engine import Engine
from nanochat.inference.load import load
from nanochat.model.weights import WEIGHTS
from nanochat.stages.trainer import process_group
from nanochat.tasks import make
from nanochat.tasks.task import Task, asked_problems
from nanochat.tools import sandbox
from nanochat.training.distributed import World, barrier, broadcast_object, gather_files
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
    with process_group(stage) as world:
        tasks, not_run = _tasks(stage, ctx)
        limits = asked_problems(stage.tasks, f"{stage.name}.tasks")
        sizes = {name: min(stage.max_problems, limits[name] or len(task), len(task)) for name, task in tasks.items()}
        decoding = Decoding(stage.max_new_tokens, stage.temperature, stage.num_samples, stage.top_k)
        answers = _answers(stage, ctx, tasks, sizes, decoding, world)
        results, metrics = _measured(tasks, answers)
        if world.rank == 0:
            texts = {
                name: map(_problem_text, map(task.__getitem__, range(sizes[name]))) for name, task in tasks.items()
            }
            digests = {name: scores.text_digest(some) for name, some in texts.items()}
            asked = {"tasks": digests, "decoding": decoding.as_dict()}
            samples = "\n".join(_samples(tasks, answers, not_run)) + "\n"
            (ctx.out / "samples.md").write_text(samples, encoding="utf-8")
            errors = {"chatcore": scores.standard_error(results.values())}
            scores.write(ctx.out, metrics, results, asked, errors, not_run=not_run)
        barrier()
    return metrics


def _tasks(stage: ChatEval, ctx: StageContext) -> tuple[dict[str, Task], dict[str, str]]:
    """The held-out splits of the named tasks, and why some of them cannot be asked on this machine."""
    names = asked_problems(stage.tasks, f"{stage.name}.tasks")
    if not names:
        raise ValueError(f"{stage.name}.tasks = {stage.tasks!r}: name at least one task, comma-separated")
    tasks = {name: make(name, "test", ctx["task_data"]) for name in names}
    needing = [name for name, task in tasks.items() if task.runs_code]
    # rank 0's finding is that of all: they must ask the same tasks
    reason = broadcast_object(sandbox.unavailable() if needing else None)
    not_run = dict.fromkeys(needing, f"not run: {reason}") if reason else {}
    if len(not_run) == len(tasks):
        raise ValueError(f"{stage.name}.tasks = {stage.tasks!r}: none can be asked here ({reason}); name others too")
    return {name: task for name, task in tasks.items() if name not in not_run}, not_run


def _answers(
    stage: ChatEval,
    ctx: StageContext,
    tasks: dict[str, Task],
    sizes: dict[str, int],
    decoding: Decoding,
    world: World,
) -> dict[str, list[list[Answer]]]:
    """By task, the answers to each of its problems in order; on every rank those of all."""
    place = ctx.work / broadcast_object(f"answers-{uuid.uuid4().hex}")  # of this attempt alone
    model = load(_trained(stage, ctx), stage.device, stage.dtype, world.local_rank)
    engine, total = Engine(*model, max_rows=stage.device_batch_size), sum(sizes.values())

    def told(done: int) -> None:  # about: the others are taken to be as far as this one
        ctx.metrics.progress(min(done * world.size, total), total, "problems")

    mine = ask(engine, tasks, sizes, batch_size=stage.device_batch_size, decoding=decoding, world=world, told=told)
    plain = {name: [[astuple(answer) for answer in given] for given in some] for name, some in mine.items()}
    shares = gather_files(plain, place, world)
    return {
        name: [
            [Answer(*answer) for answer in shares[i % world.size][name][i // world.size]] for i in range(sizes[name])
        ]
        for name in tasks
    }


def _measured(
    tasks: dict[str, Task], answers: dict[str, list[list[Answer]]]
) -> tuple[dict[str, TaskScore], dict[str, float]]:
    """Scores and metrics by task. Of several answers to a problem the accuracy is the mean, and there is pass@k."""
    right = {name: [sum(answer.correct for answer in some) for some in given] for name, given in answers.items()}
    samples = {name: len(given[0]) for name, given in answers.items()}
    results = {
        name: TaskScore(sum(counts), len(counts), tasks[name].baseline, samples[name]) for name, counts in right.items()
    }
    metrics = {name: score.accuracy for name, score in results.items()}
    metrics["chatcore"] = scores.mean_centered(results.values())
    for name, given in answers.items():
        for k in scores.pass_counts(samples[name]):
            rates = [scores.pass_at_k(samples[name], count, k) for count in right[name]]
            metrics[scores.pass_name(name, k)] = sum(rates) / len(rates)
        if tasks[name].kind == "generative":
            called = [answer.called_tool for some in given for answer in some]
            metrics[f"{name}_tool_call_share"] = sum(called) / len(called)
    return results, metrics


def _trained(stage: ChatEval, ctx: StageContext) -> Path:
    """The artifact of the one trained stage among the inputs."""
    (model,) = (taken.name for taken in stage.takes if WEIGHTS in taken.makes)
    return ctx[model]


def _problem_text(conversation: dict[str, Any]) -> str:
    """Question and reference answer."""
    return json.dumps(conversation["messages"], sort_keys=True)


def _samples(tasks: dict[str, Task], answers: dict[str, list[list[Answer]]], not_run: dict[str, str]) -> Iterator[str]:
    """The first answer to each of the first problems."""
    yield "# Questions and answers"
    for name, reason in not_run.items():
        yield f"\n## {name}\n\n{reason}"
    for name, given in answers.items():
        every = [answer for some in given for answer in some]
        unfinished = sum(not answer.finished for answer in every)
        right = sum(answer.correct for answer in every)
        yield f"\n## {name}: {right} of {len(every)} right, {unfinished} not finished"
        for index, (answer, *_others) in enumerate(given[:SAMPLES_PER_TASK]):
            *_, asked, expected = tasks[name][index]["messages"]
            yield f"\n**{'right' if answer.correct else 'wrong'}** {_quoted(asked['content'])}\n"
            yield f"- said: {_quoted(answer.text)}\n- reference: {_quoted(_flat(expected['content']))}"


def _flat(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


def _quoted(text: str) -> str:
    """On one line, and shown as it is."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
