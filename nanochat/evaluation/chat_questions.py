"""Asks a model the problems of tasks: generative ones through the engine, multiple choice by the likeliest letter.

The generative problems of all tasks stand in one queue, so that the batch is full until the last of them, and verdicts
are given while others are still being answered. Promises: an answer does not depend on the batch, nor on how many ranks
share the problems; a problem that does not fit the context counts as wrong and is said so. Not here: which tasks are
asked and what is written down of them (stages/chat_eval.py), verdicts (tasks/).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import torch

from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.engine import Completion, Engine, Sampling, pad_right
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

    def sampling(self, problem: int) -> Sampling:
        """Of the answers to one problem."""
        return Sampling(self.max_new_tokens, self.temperature, self.top_k or None, seed=problem)

    def as_dict(self) -> dict[str, float]:
        """What makes an answer beside its question: without what is as it always was, so that digests stay."""
        content: dict[str, float] = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        content |= {"num_samples": self.num_samples} if self.num_samples != 1 else {}
        return content | ({"top_k": self.top_k} if self.top_k else {})


def ask(
    engine: Engine,
    tasks: Mapping[str, Task],
    sizes: Mapping[str, int],
    *,
    batch_size: int,
    decoding: Decoding,
    world: World | None = None,
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, list[list[Answer]]]:
    """By task, the answers to each of this rank's problems: of the first `sizes[name]` every so-many-th, in order.

    Neighbours go to different ranks, so that long and short problems are spread; nothing waits for another rank.
    A generative problem has `num_samples` answers, another one; `batch_size` of those are read together. `told` hears
    now and then how many problems are done.
    """
    world = world or World()
    mine = {name: range(world.rank, sizes[name], world.size) for name in tasks}
    answers: dict[str, dict[int, list[Answer]]] = {name: {} for name in tasks}
    done = 0
    for name, index, given in chain(
        _generated(engine, _of_kind(tasks, "generative"), mine, decoding, world),
        _chosen(engine, _of_kind(tasks, "multiple_choice"), mine, batch_size),
    ):
        answers[name][index] = given
        done += 1
        if done % batch_size == 0:
            told(done)
    if done % batch_size:
        told(done)
    return {name: [answers[name][index] for index in mine[name]] for name in tasks}


Asked = Iterator[tuple[str, int, list[Answer]]]  # task, problem, answers


def _of_kind(tasks: Mapping[str, Task], kind: str) -> dict[str, Task]:
    return {name: task for name, task in tasks.items() if task.kind == kind}


def _prompts(engine: Engine, task: Task, indices: Iterable[int]) -> Iterator[tuple[int, list[int] | None]]:
    """The prompt of each problem, None where it leaves no room for an answer."""
    for index in indices:
        prompt = render_prompt(engine.tokenizer, task[index]["messages"][:-1])
        yield index, prompt if len(prompt) < engine.model.config.sequence_len else None


def _generated(
    engine: Engine, tasks: Mapping[str, Task], mine: Mapping[str, range], decoding: Decoding, world: World
) -> Asked:
    """Sampled answers, as they end; a problem's random numbers are its own, whatever it is decoded with."""
    which: list[tuple[str, int]] = []
    prompts: list[list[int]] = []
    for name, task in tasks.items():
        for index, prompt in _prompts(engine, task, mine[name]):
            if prompt is None:
                yield name, index, [Answer(TOO_LONG, correct=False, finished=False)] * decoding.num_samples
            else:
                which.append((name, index))
                prompts.append(prompt)
    settings = [decoding.sampling(index) for _, index in which]
    call = engine.tokenizer.special("<|python_start|>")
    # a verdict may wait for a sandbox; the ranks share the cores, or right programs would run out of time
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // world.size)) as pool:
        judged: deque[tuple[str, int, list[Completion], list[Future[bool]]]] = deque()
        for number, said in engine.as_completed(prompts, settings, decoding.num_samples):
            name, index = which[number]
            verdicts = [pool.submit(tasks[name].correct, index, completion.text) for completion in said]
            judged.append((name, index, said, verdicts))
            while judged and all(verdict.done() for verdict in judged[0][3]):
                yield _answered(*judged.popleft(), call)
        while judged:
            yield _answered(*judged.popleft(), call)


def _answered(
    name: str, index: int, said: list[Completion], verdicts: list[Future[bool]], call: int
) -> tuple[str, int, list[Answer]]:
    pairs = zip(said, verdicts, strict=True)
    return name, index, [Answer(one.text, right.result(), call in one.tokens, one.finished) for one, right in pairs]


def _chosen(engine: Engine, tasks: Mapping[str, Task], mine: Mapping[str, range], batch_size: int) -> Asked:
    """The offered letter with the highest logit at the end of the prompt; prompts of like length are read together."""
    asked = [
        (name, index, prompt) for name, task in tasks.items() for index, prompt in _prompts(engine, task, mine[name])
    ]
    for name, index, prompt in asked:
        if prompt is None:
            yield name, index, [Answer(TOO_LONG, correct=False, finished=False)]
    fitting = sorted(((name, i, prompt) for name, i, prompt in asked if prompt), key=lambda one: len(one[2]))
    for start in range(0, len(fitting), batch_size):
        some = fitting[start : start + batch_size]
        logits = last_logits(engine.model, [prompt for _, _, prompt in some])  # (P, V)
        for (name, index, _), row in zip(some, logits, strict=True):
            letters = tasks[name].choices(index)
            ids = [_single_token(engine.tokenizer, letter) for letter in letters]
            letter = letters[int(row[ids].argmax())]
            yield name, index, [Answer(letter, tasks[name].correct(index, letter))]


@torch.inference_mode()
def last_logits(model: GPT, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits (P, V) after the last token of each prompt, in one forward."""
    counts = torch.tensor([len(prompt) for prompt in prompts])
    return model(pad_right(prompts).to(model.wte.weight.device), last=counts - 1).cpu()


def _single_token(tokenizer: Tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    assert len(ids) == 1, (letter, ids)  # every byte is a token
    return ids[0]
