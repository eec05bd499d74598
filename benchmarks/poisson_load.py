"""Requests that arrive at random, the same ones for every contestant, and what each of them waits.

Arrivals are a Poisson process; the lengths of prompts and answers are spread evenly over their logarithm, and an answer
has exactly its length. Served by the scheduler, many at once, or first come, first served. Not here: who is compared.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nanochat.inference.requests import Delta
from nanochat.inference.sampling import Sampling
from nanochat.inference.scheduler import Scheduler

PROMPT_TOKENS, ANSWER_TOKENS = (16, 256), (16, 128)


@dataclass(frozen=True)
class Load:
    """Seconds of arrival, prompts and lengths of answers."""

    arrivals: list[float]
    prompts: list[list[int]]
    lengths: list[int]

    @classmethod
    def drawn(cls, count: int, per_second: float, vocab_size: int, context: int, seed: int = 0) -> "Load":
        """`count` requests at a mean rate, that fit into the context."""
        dice = np.random.default_rng(seed)
        arrivals = np.cumsum(dice.exponential(1 / per_second, count)).tolist()
        sizes = [spread(dice, limits, count, context // 2) for limits in (PROMPT_TOKENS, ANSWER_TOKENS)]
        prompts = [dice.integers(0, vocab_size, size).tolist() for size in sizes[0]]
        return cls(arrivals, prompts, sizes[1])


def spread(dice: np.random.Generator, limits: tuple[int, int], count: int, most: int) -> list[int]:
    """Lengths, evenly over their logarithm."""
    low, high = np.log(np.minimum(limits, most - 1))
    return np.exp(dice.uniform(low, high, count)).astype(int).tolist()


@dataclass(frozen=True)
class Waited:
    """Seconds since the beginning at which each request's first and last token came."""

    first: list[float]
    last: list[float]

    def summary(self, load: Load) -> dict[str, float]:
        """Tokens per second from the first arrival to the last token; median and 95th percentile of the wait."""
        waits = np.array(self.first) - np.array(load.arrivals)
        seconds = max(self.last) - load.arrivals[0]
        return {
            "tokens/s": sum(load.lengths) / seconds,
            "first token, median s": float(np.median(waits)),
            "first token, p95 s": float(np.percentile(waits, 95)),
        }


def together(scheduler: Scheduler, load: Load) -> Waited:
    """Every request joins the batch as soon as a row is free."""
    count = len(load.arrivals)
    first, last, left = [0.0] * count, [0.0] * count, count
    begun = time.perf_counter()

    def heard(index: int) -> Callable[[Delta], None]:
        def deliver(delta: Delta) -> None:
            last[index] = time.perf_counter() - begun
            first[index] = first[index] or last[index]

        return deliver

    while left or scheduler.busy:
        while left and load.arrivals[count - left] <= time.perf_counter() - begun:
            index = count - left
            scheduler.submit(load.prompts[index], Sampling(load.lengths[index]), 1, heard(index))
            left -= 1
        if scheduler.busy:
            scheduler.step()
        elif left:
            time.sleep(max(0.0, load.arrivals[count - left] - (time.perf_counter() - begun)))
    return Waited(first, last)


def one_by_one(tokens: Callable[[Sequence[int], int], object], load: Load) -> Waited:
    """First come, first served; `tokens(prompt, length)` yields an answer."""
    begun, first, last = time.perf_counter(), [], []
    for arrival, prompt, length in zip(load.arrivals, load.prompts, load.lengths, strict=True):
        time.sleep(max(0.0, arrival - (time.perf_counter() - begun)))
        for at, _ in enumerate(tokens(prompt, length)):  # type: ignore[arg-type]
            if not at:
                first.append(time.perf_counter() - begun)
        last.append(time.perf_counter() - begun)
    return Waited(first, last)
