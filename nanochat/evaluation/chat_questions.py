"""Asks a model the problems of a task: generative ones through the engine, multiple choice by the likeliest letter.

Promises: an answer does not depend on the batch; a problem that does not fit the context counts as wrong and is said
so. Not here: which tasks are asked and what is written down of them (stages/chat_eval.py), verdicts (tasks/).
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

TOO_LONG = "(the question does not fit the context of the model)"


@dataclass(frozen=True)
class Answer:
    """What the model said to one problem, and whether it was right."""

    text: str
    correct: bool
    called_tool: bool = False
    finished: bool = True


def ask(
    engine: Engine, task: Task, count: int, *, batch_size: int, max_new_tokens: int, temperature: float = 0.0
) -> Iterator[list[Answer]]:
    """Answers to the first `count` problems, in order, a batch at a time."""
    for start in range(0, count, batch_size):
        indices = range(start, min(start + batch_size, count))
        prompts = {i: render_prompt(engine.tokenizer, task[i]["messages"][:-1]) for i in indices}
        fitting = {i: prompt for i, prompt in prompts.items() if len(prompt) < engine.model.config.sequence_len}
        if not fitting:
            answers = {}
        elif task.kind == "generative":
            answers = _generated(engine, task, fitting, max_new_tokens, temperature)
        else:
            answers = _chosen(engine, task, fitting)
        yield [answers.get(i, Answer(TOO_LONG, correct=False, finished=False)) for i in indices]


def _generated(
    engine: Engine, task: Task, prompts: dict[int, list[int]], max_new_tokens: int, temperature: float
) -> dict[int, Answer]:
    """Sampled answers; a problem's random numbers are its own, whatever it is decoded with."""
    said = engine.generate(list(prompts.values()), max_new_tokens, temperature, seed=list(prompts))
    call = engine.tokenizer.special("<|python_start|>")
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a verdict may wait for a sandbox
        verdicts = list(pool.map(task.correct, prompts, [completion.text for completion in said]))
    return {
        i: Answer(completion.text, correct, call in completion.tokens, completion.finished)
        for i, completion, correct in zip(prompts, said, verdicts, strict=True)
    }


def _chosen(engine: Engine, task: Task, prompts: dict[int, list[int]]) -> dict[int, Answer]:
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
    return model(pad_right(prompts).to(model.wte.weight.device), last=counts - 1).cpu()


def _single_token(tokenizer: Tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    assert len(ids) == 1, (letter, ids)  # every byte is a token
    return ids[0]
