"""Asks a chat model held-out problems and counts the right answers.

Generative tasks are answered through the engine, many problems decoding together; multiple choice takes the likeliest
of the offered letters after the prompt. Promises: problems come from test splits only; an answer does not depend on
the batch; a problem that does not fit the context counts as wrong and is said so; code of a model runs in the sandbox
or the task is reported as not run; the digest says what was asked, so that only like is compared with like. Not here:
what a task asks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nanochat import sandbox, scores
from nanochat.base_eval import load
from nanochat.conversation import render_prompt
from nanochat.engine import Engine
from nanochat.model import GPT
from nanochat.scores import TaskScore
from nanochat.stage import Place
from nanochat.tasks import make
from nanochat.tasks.task import Task
from nanochat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from nanochat.pipeline import ChatEval

TRAINED = ("midtrain", "sft", "rl")
SAMPLES_PER_TASK = 8
TOO_LONG = "(the question does not fit the context of the model)"


@dataclass(frozen=True)
class Answer:
    """What the model said to one problem, and whether it was right."""

    text: str
    correct: bool
    called_tool: bool = False
    finished: bool = True


def chat_eval(stage: ChatEval, place: Place) -> dict[str, float]:
    """Writes scores.json and samples.md; returns accuracies by task, `chatcore` and shares of answers with a tool call.

    Raises:
        ValueError: no task is named, one does not exist or has no data, or all of them need a sandbox that is not
        there.
    """
    tasks, not_run = _tasks(stage, place)
    model, tokenizer = load(_trained(place), stage)
    sizes = {name: min(stage.max_problems, len(task)) for name, task in tasks.items()}
    total, before = sum(sizes.values()), 0
    answers: dict[str, list[Answer]] = {}
    for name, task in tasks.items():
        answers[name] = []
        for some in ask(stage, model, tokenizer, task, sizes[name]):
            answers[name] += some
            place.metrics.progress(before + len(answers[name]), total, "problems")
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
        "decoding": {"temperature": stage.temperature, "max_new_tokens": stage.max_new_tokens},
    }
    (place.out / "samples.md").write_text("\n".join(_samples(tasks, answers, not_run)) + "\n", encoding="utf-8")
    return scores.write(place.out, metrics, results, asked, not_run=not_run)


def _tasks(stage: ChatEval, place: Place) -> tuple[dict[str, Task], dict[str, str]]:
    """The held-out splits of the named tasks, and why some of them cannot be asked on this machine."""
    names = [name.strip() for name in stage.tasks.split(",") if name.strip()]
    if not names:
        raise ValueError(f"{stage.name}.tasks = {stage.tasks!r}: name at least one task, comma-separated")
    tasks = {name: make(name, "test", place["task_data"]) for name in names}
    needing = [name for name, task in tasks.items() if task.runs_code]
    reason = sandbox.unavailable() if needing else None
    not_run = dict.fromkeys(needing, f"not run: {reason}") if reason else {}
    if len(not_run) == len(tasks):
        raise ValueError(f"{stage.name}.tasks = {stage.tasks!r}: none can be asked here ({reason}); name others too")
    return {name: task for name, task in tasks.items() if name not in not_run}, not_run


def _trained(place: Place) -> Path:
    """The artifact of the one trained stage among the inputs."""
    found = [place[name] for name in TRAINED if name in place.inputs]
    assert len(found) == 1, sorted(place.inputs)
    return found[0]


def ask(stage: ChatEval, model: GPT, tokenizer: Tokenizer, task: Task, count: int) -> Iterator[list[Answer]]:
    """Answers to the first `count` problems, in order, a device batch at a time."""
    method = _generated if task.kind == "generative" else _chosen
    engine = Engine(model, tokenizer)
    for start in range(0, count, stage.device_batch_size):
        indices = range(start, min(start + stage.device_batch_size, count))
        prompts = {i: render_prompt(tokenizer, task[i]["messages"][:-1]) for i in indices}
        fitting = {i: prompt for i, prompt in prompts.items() if len(prompt) < model.config.sequence_len}
        answers = method(stage, engine, task, fitting) if fitting else {}
        yield [answers.get(i, Answer(TOO_LONG, correct=False, finished=False)) for i in indices]


def _generated(stage: ChatEval, engine: Engine, task: Task, prompts: dict[int, list[int]]) -> dict[int, Answer]:
    """Sampled answers; a problem's random numbers are its own, whatever it is decoded with."""
    said = engine.generate(list(prompts.values()), stage.max_new_tokens, stage.temperature, seed=list(prompts))
    call = engine.tokenizer.special("<|python_start|>")
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a verdict may wait for a sandbox
        verdicts = list(pool.map(task.correct, prompts, [completion.text for completion in said]))
    return {
        i: Answer(completion.text, correct, call in completion.tokens, completion.finished)
        for i, completion, correct in zip(prompts, said, verdicts, strict=True)
    }


def _chosen(stage: ChatEval, engine: Engine, task: Task, prompts: dict[int, list[int]]) -> dict[int, Answer]:
    """The offered letter with the highest logit at the end of the prompt."""
    logits = last_logits(engine.model, list(prompts.values()))  # (P, V)
    answers = {}
    for i, row in zip(prompts, logits, strict=True):
        letters = task.choices(i)
        ids = [_single_token(engine.tokenizer, letter) for letter in letters]
        letter = letters[int(row[ids].argmax())]
        answers[i] = Answer(letter, task.correct(i, letter))
    return answers


@torch.inference_mode()
def last_logits(model: GPT, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits (P, V) after the last token of each prompt, in one forward."""
    counts = torch.tensor([len(prompt) for prompt in prompts])
    padded = torch.zeros(len(prompts), int(counts.max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt)
    return model(padded.to(model.wte.weight.device), last=counts - 1).cpu()


def _single_token(tokenizer: Tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    assert len(ids) == 1, (letter, ids)  # every byte is a token
    return ids[0]


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
