"""From logits to tokens: `Sampling` says how, `choose` does it for rows that all want the same, `penalised` before it.

Every row brings its own random numbers, a function of its seed and sample number alone, so what a row draws does not
depend on which other rows are decoded with it. Promises: no token of probability zero is drawn; the likeliest token is
never cut off. Not here: stop strings (text_stream.py), beams.
"""

from dataclasses import dataclass
from math import inf
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

COLDEST = 1e-30  # logits divided by less than that leave the range of fp32, and a row would hold nan
HEAD = 256  # nucleus sampling looks at so many likeliest tokens first, and sorts all only where they are not enough
MAX_TOP_LOG_PROBS = 20  # as OpenAI's API


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. Raises ValueError naming the setting and its range.

    temperature: 0 takes the likeliest token each time. top_k: draw among so many likeliest tokens; None: all. top_p:
    among the fewest likeliest tokens whose probabilities reach it (nucleus, arXiv:1904.09751). min_p: among those at
    least so many times as likely as the likeliest (arXiv:2407.01082). repetition_penalty: positive logits of tokens
    that are already there are divided by it, negative ones multiplied (arXiv:1909.05858); 1: none. stop: texts that end
    the answer and do not belong to it. top_log_probs: also the log-probabilities of the so many likeliest tokens.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    top_log_probs: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no answer can be drawn with."""
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            if not isinstance(getattr(self, name), Real):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be a number")
        _whole("max_new_tokens", self.max_new_tokens, 1)
        _number("temperature", self.temperature, 0 <= self.temperature < inf, "finite, 0 (the likeliest token) or more")
        if self.top_k is not None:
            _whole("top_k", self.top_k, 1, ", or none at all")
        _number("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (all tokens)")
        _number("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 (all tokens) to 1")
        penalty = self.repetition_penalty
        _number("repetition_penalty", penalty, 0 < penalty < inf, "finite and above 0; 1 changes nothing")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop={self.stop!r}: give a list of texts, none of them empty")
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise ValueError(f"seed={self.seed!r}: must be a whole number, 0 or more")
        if self.top_log_probs is not None:
            _whole("top_log_probs", self.top_log_probs, 0)
            if self.top_log_probs > MAX_TOP_LOG_PROBS:
                raise ValueError(f"top_log_probs={self.top_log_probs!r}: at most {MAX_TOP_LOG_PROBS}")

    @property
    def greedy(self) -> bool:
        """Whether chance plays no part."""
        return self.temperature == 0

    @property
    def cut(self) -> tuple[float, int | None, float, float]:
        """What rows that are drawn together must have in common, as `choose` takes it."""
        return self.temperature, self.top_k, self.top_p, self.min_p


def _whole(name: str, value: object, least: int, more: str = "") -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: must be a whole number, at least {least}{more}")


def _number(name: str, value: object, in_range: bool, wanted: str) -> None:
    if not in_range or isinstance(value, bool):  # nan is in no range
        raise ValueError(f"{name}={value!r}: must be {wanted}")


def check_settings(max_new_tokens: int, temperature: float, top_k: int | None = None) -> None:
    """ValueError for settings that no answer can be drawn with; it names the setting and the range."""
    Sampling(max_new_tokens, temperature, top_k)


def draws(seed: int, sample: int, count: int) -> np.ndarray:
    """The uniform numbers in [0, 1) of one sample of one seed: (count,) float64."""
    return np.random.default_rng((seed, sample)).random(count)


def choose(
    logits: Tensor,
    uniform: Tensor,
    temperature: float,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One token a row and its log-probability, by inversion of the distribution function.

    Args:
        logits: (B, V), fp32.
        uniform: (B,) float64 in [0, 1), one number a row.
        temperature, top_k, top_p, min_p: as in `Sampling`; top_k first, then top_p among what it leaves, then min_p.

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
    if top_p < 1:
        probabilities, allowed = _nucleus(probabilities, allowed, top_p)
    if min_p > 0:
        least = min_p * probabilities.amax(dim=-1, keepdim=True)
        probabilities = torch.where(probabilities >= least, probabilities, 0)
    reached = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = reached[:, -1:]
    # right=True: the first entry above the target, so a token that adds nothing is never it
    index = torch.searchsorted(reached, uniform[:, None] * total, right=True)
    index = index.clamp_(max=probabilities.size(-1) - 1)  # (B, 1)
    chosen = probabilities.gather(1, index).double()
    log_probabilities = (chosen / total).log().float() if top_p < 1 or min_p > 0 else chosen.float().log()
    tokens = index if allowed is None else allowed.gather(1, index)
    return tokens[:, 0], log_probabilities[:, 0]


def _nucleus(probabilities: Tensor, allowed: Tensor | None, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens, most likely first, up to the one with which they reach top_p; the rest have 0."""
    width = min(HEAD, probabilities.size(-1))
    kept, index = probabilities.topk(width, dim=-1)  # topk gives the largest first
    short = kept.sum(dim=-1) < top_p
    if width < probabilities.size(-1) and short.any():
        missing = probabilities.size(-1) - width
        kept, index = torch.nn.functional.pad(kept, (0, missing)), torch.nn.functional.pad(index, (0, missing))
        kept[short], index[short] = probabilities[short].sort(dim=-1, descending=True, stable=True)
    before = kept.cumsum(dim=-1, dtype=torch.float64) - kept
    kept = torch.where(before < top_p, kept, 0)
    return kept, index if allowed is None else allowed.gather(1, index)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (V,) of one row in which the tokens `seen` (n,) are less likely; see `Sampling.repetition_penalty`."""
    tokens = seen.unique()
    old = logits[tokens]
    return logits.index_put((tokens,), torch.where(old > 0, old / penalty, old * penalty))
