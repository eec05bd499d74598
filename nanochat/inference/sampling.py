"""From logits to tokens: the likeliest one, or one drawn at a temperature among all or the k likeliest.

Every row brings its own random numbers, a function of its seed and sample number alone, so what a row draws does not
depend on which other rows are decoded with it. Promises: no token of probability zero is drawn. Not here: nucleus
sampling, penalties.
"""

from collections.abc import Sequence
from math import inf
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

COLDEST = 1e-30  # logits divided by less than that leave the range of fp32, and a row would hold nan


def check_settings(max_new_tokens: int, temperature: float, top_k: int | None = None) -> None:
    """ValueError for settings that no answer can be drawn with; it names the setting and the range."""
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens!r}: must be a whole number, at least 1")
    if not isinstance(temperature, Real) or not 0 <= temperature < inf:  # nan is neither
        raise ValueError(f"temperature={temperature!r}: must be a finite number, 0 (the likeliest token) or more")
    if top_k is not None and (not isinstance(top_k, Integral) or top_k < 1):
        raise ValueError(f"top_k={top_k!r}: must be a whole number, at least 1, or none at all")


def draws(seeds: Sequence[int], num_samples: int, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) for each sample of each prompt: (prompts * samples, count), float64."""
    keys = [(seed, sample) for seed in seeds for sample in range(num_samples)]
    return np.stack([np.random.default_rng(key).random(count) for key in keys])


def choose(logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None = None) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability, by inversion of the distribution function.

    Args:
        logits: (B, V), fp32.
        uniform: (B,) float64 in [0, 1), one number a row.
        temperature: 0 takes the likeliest token.
        top_k: draw among so many likeliest tokens only; None: all.

    Returns:
        tokens (B,) int64, log-probabilities (B,) in nats of the distribution drawn from; at temperature 0, of the
        softmax itself.
    """
    if temperature == 0:
        best, tokens = logits.max(dim=-1)
        return tokens, best - logits.logsumexp(dim=-1)
    allowed = None
    if top_k is not None and top_k < logits.size(-1):
        logits, allowed = logits.topk(top_k, dim=-1)
    probabilities = (logits / max(temperature, COLDEST)).softmax(dim=-1)  # (B, V or k)
    reached = probabilities.cumsum(dim=-1, dtype=torch.float64)
    target = uniform[:, None] * reached[:, -1:]
    # right=True: the first entry above the target, so a token that adds nothing is never it
    index = torch.searchsorted(reached, target, right=True).clamp_(max=logits.size(-1) - 1)  # (B, 1)
    log_probabilities = probabilities.gather(1, index).log()
    tokens = index if allowed is None else allowed.gather(1, index)
    return tokens[:, 0], log_probabilities[:, 0]
