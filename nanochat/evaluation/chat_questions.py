"""Asks a model the problems of a task: generative ones through the engine, multiple choice by the likeliest letter.

Promises: an answer does not depend on the batch, nor on how many ranks share the problems; a problem that does not fit
the context counts as wrong and is said so. Not here: which tasks are asked and what is written down of them
(stages/chat_eval.py), verdicts (tasks/).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.engine import Engine, pad_right
from nanochat.model.gpt import GPT
from nanochat.tasks.task import Task
from nanochat.training.distributed import World

TOO_LONG = "(the question does not fit the context of the model)"


@dataclass(frozen=True)
class Answer:
    """What the model said to one problem, and whether it was right."""

    text: str
    correct: bool
    called_tool: bool = False
    finished: bool = True


@dataclass(frozen=True)
class Decoding:
    """How generative problems are answered: `num_samples` answers each; `top_k` 0 draws among all tokens."""

    max_new_tokens: int
    temperature: float = 0.0
    num_samples: int = 1
    top_k: int = 0

    def as_dict(self) -> dict[str, float]:
        """What makes an answer beside its question: without what is as it always was, so that digests stay."""
        content: dict[str, float] = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        content |= {"num_samples": self.num_samples} if self.num_samples != 1 else {}
        return content | ({"top_k": self.top_k} if self.top_k else {})


def ask(
    engine: Engine, task: Task, count: int, *, batch_size: int, decoding: Decoding, world: World | None = None
) -> Iterator[list[list[Answer]]]:
    """The answers to each of this rank's problems, a batch at a time: of the first `count` every so-many-th, in order.

    Neighbours go to different ranks, so that long and short problems are spread; nothing waits for another rank.
    A generative problem has `num_samples` answers, another one.
    """
    world = world or World()
    mine = range(world.rank, count, world.size)
    together = max(1, batch_size // decoding.num_samples) if task.kind == "generative" else batch_size
    for start in range(0, len(mine), together):
        indices = mine[start : start + together]
        prompts = {i: render_prompt(engine.tokenizer, task[i]["messages"][:-1]) for i in indices}
        fitting = {i: prompt for i, prompt in prompts.items() if len(prompt) < engine.model.config.sequence_len}
        if not fitting:
            answers = {}
        elif task.kind == "generative":
            answers = _generated(engine, task, fitting, decoding, world)
        else:
            answers = _chosen(engine, task, fitting)
        samples = decoding.num_samples if task.kind == "generative" else 1
        yield [answers.get(i, [Answer(TOO_LONG, correct=False, finished=False)] * samples) for i in indices]


def _generated(
    engine: Engine, task: Task, prompts: dict[int, list[int]], decoding: Decoding, world: World
) -> dict[int, list[Answer]]:
    """Sampled answers; a problem's random numbers are its own, whatever it is decoded with."""
    samples = decoding.num_samples
    said = engine.generate(
        list(prompts.values()),
        decoding.max_new_tokens,
        decoding.temperature,
        decoding.top_k or None,
        seed=list(prompts),
        num_samples=samples,
    )
    asked = [i for i in prompts for _ in range(samples)]
    call = engine.tokenizer.special("<|python_start|>")
    # a verdict may wait for a sandbox; the ranks share the cores, or right programs would run out of time
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // world.size)) as pool:
        verdicts = list(pool.map(task.correct, asked, [completion.text for completion in said]))
    answers: dict[int, list[Answer]] = {i: [] for i in prompts}
    for i, completion, correct in zip(asked, said, verdicts, strict=True):
        answers[i].append(Answer(completion.text, correct, call in completion.tokens, completion.finished))
    return answers


def _chosen(engine: Engine, task: Task, prompts: dict[int, list[int]]) -> dict[int, list[Answer]]:
    """The offered letter with the highest logit at the end of the prompt."""
    logits = last_logits(engine.model, list(prompts.values()))  # (P, V)
    answers = {}
    for i, row in zip(prompts, logits, strict=True):
        letters = task.choices(i)
        ids = [_single_token(engine.tokenizer, letter) for letter in letters]
        letter = letters[int(row[ids].argmax())]
        answers[i] = [Answer(letter, task.correct(i, letter))]
    return answers


@torch.inference_mode()
def last_logits(model: GPT, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits (P, V) after the last token of each prompt, in one forward."""
    counts = torch.tensor([len(prompt) for prompt in prompts])
    return model(pad_right(prompts).to(model.wte.weight.device), last=counts - 1).cpu()


def _single_token(tokenizer: Tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    assert len(ids) == 1, (letter, ids)  # every byte is a token
    return ids[0]
