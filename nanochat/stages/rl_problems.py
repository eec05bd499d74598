"""The problems of reinforcement learning: which are asked in which order, their prompts, and the verdicts on answers.

Problems of several tasks stand behind each other under one number. Promises: at every position of the order each task
has had its share to within one problem; every epoch of a task asks each of its problems once; an answer is right where
its reward is above 0; programs are judged in threads, since a verdict waits for its sandbox. Not here: sampling.
"""

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite

import numpy as np

from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.engine import Completion, Engine
from nanochat.tasks.task import Task
from nanochat.tools import sandbox


@dataclass(frozen=True)
class Group:
    """A problem's prompt, its sampled answers, their rewards and the task that the problem is of."""

    prompt: list[int]
    answers: list[Completion]
    rewards: list[float]
    task: str = ""

    def advantages(self) -> np.ndarray:
        """Reward above the group's mean, (S,) float64; exactly zero where all fared alike."""
        rewards = np.array(self.rewards)
        return np.zeros(len(rewards)) if self.flat else rewards - rewards.mean()

    @property
    def flat(self) -> bool:
        return min(self.rewards) == max(self.rewards)


class Problems:
    """The problems of tasks as prompts; `shares` of the tasks, by default equal ones.

    Raises:
        ValueError: a task's answers are not sampled, it has no problems, or nothing can run its programs here.
    """

    def __init__(self, tasks: Sequence[Task], tokenizer: Tokenizer, shares: Sequence[float] = ()) -> None:
        for task in tasks:
            if task.kind != "generative":
                raise ValueError(f"rl.task = {task.name!r} is {task.kind}: choose a task whose answers are generated")
            if not len(task):
                raise ValueError(f"rl.task = {task.name!r} has no problems in its {task.split} split: check its data")
            if task.runs_code and (reason := sandbox.unavailable()):
                raise ValueError(
                    f"rl.task = {task.name!r}: its answers are programs, and there is no sandbox to run them in: "
                    f"{reason}; install bubblewrap, or take another task"
                )
        self.tasks, self.tokenizer = tasks, tokenizer
        self.shares = shares or [1 / len(tasks)] * len(tasks)
        self.ends = list(accumulate(map(len, tasks)))

    def __len__(self) -> int:
        return self.ends[-1]

    def place(self, problem: int) -> tuple[int, int]:
        """Which of the tasks a problem belongs to, and its index there."""
        which = bisect_right(self.ends, problem)
        return which, problem - (self.ends[which - 1] if which else 0)

    def name(self, problem: int) -> str:
        """The task of a problem, by name."""
        return self.tasks[self.place(problem)[0]].name

    def first(self, count: int) -> list[int]:
        """The first `count` problems of each task, or all."""
        starts = (end - len(task) for end, task in zip(self.ends, self.tasks, strict=True))
        return [start + i for start, task in zip(starts, self.tasks, strict=True) for i in range(min(count, len(task)))]

    def prompt(self, problem: int) -> list[int]:
        """Everything before the reference answer, up to <|assistant_start|>."""
        which, index = self.place(problem)
        return render_prompt(self.tokenizer, self.tasks[which][index]["messages"][:-1])

    def order(self, seed: int, count: int) -> np.ndarray:
        """The first `count` problems to ask, every epoch of a task in an order of its own: (count,) int."""
        which, found = turns(self.shares, count), np.empty(count, dtype=np.int64)
        for number, task in enumerate(self.tasks):
            positions = np.flatnonzero(which == number)
            found[positions] = self.ends[number] - len(task) + _epochs((seed, number), len(task), len(positions))
        return found

    def rewards(self, asked: Sequence[int], answers: Sequence[Completion], num_ranks: int = 1) -> list[float]:
        """The verdicts on answers to the problems `asked`. Raises ValueError where one is not a finite number."""
        if not any(task.runs_code for task in self.tasks):
            return list(map(self._reward, asked, answers))
        # the ranks share the cores, or right programs would run out of time
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // num_ranks)) as pool:
            return list(pool.map(self._reward, asked, answers))

    def _reward(self, problem: int, answer: Completion) -> float:
        which, index = self.place(problem)
        task = self.tasks[which]
        value = float(task.reward(index, answer.text))
        if not isfinite(value):
            raise ValueError(f"task {task.name!r} rewards problem {index} with {value}: rewards must be finite")
        return value


def turns(shares: Sequence[float], count: int) -> np.ndarray:
    """Whose turn it is at each of `count` positions, (count,) int: always that of whom most is missing."""
    given, which = np.zeros(len(shares)), np.zeros(count, dtype=np.int64)
    for position in range(count if len(shares) > 1 else 0):
        which[position] = np.argmax(np.array(shares) * (position + 1) - given)
        given[which[position]] += 1
    return which


def _epochs(key: tuple[int, int], size: int, count: int) -> np.ndarray:
    """The first `count` of the numbers below `size`, shuffled anew each time that all of them were there."""
    seed, number = key
    keys = [(seed, epoch, number) if number else (seed, epoch) for epoch in range(-(-count // size))]
    parts = [np.random.default_rng(each).permutation(size) for each in keys]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])[:count]


def answers_to(
    engine: Engine,
    prompts: Mapping[int, list[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] = (),
    num_samples: int = 1,
) -> dict[int, list[Completion]]:
    """`num_samples` answers to each prompt, under its key."""
    if not prompts:
        return {}
    seed = list(seeds) or 0
    answers = engine.generate(list(prompts.values()), max_new_tokens, temperature, seed=seed, num_samples=num_samples)
    return {key: answers[at * num_samples : (at + 1) * num_samples] for at, key in enumerate(prompts)}
