"""What is asked of the scheduler and what comes back: a request, its answers as they end, and what each step adds.

Not here: settings (sampling.py), what is done with them (scheduler.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nanochat.inference.sampling import Sampling
from nanochat.inference.text_stream import TextStream


@dataclass(frozen=True)
class Completion:
    """One answer: what follows the prompt.

    `mask` is 1 where the model chose the token and 0 where a tool's answer was forced upon it. `log_probs` are in nats,
    of the distribution drawn from; 0 where forced. `text` is without the token that ended the turn and what a stop
    string cut off, special tokens within it by name. `finished` is False where the answer was cut by max_new_tokens or
    the end of the context.
    """

    tokens: list[int]
    mask: list[int]
    log_probs: list[float]
    text: str
    finished: bool


@dataclass(frozen=True)
class Delta:
    """What one step added to one answer.

    `text` is what became readable: nothing while a character is incomplete or a stop string may be beginning.
    `log_prob` is in nats, of the model's own distribution where `top_log_probs` asks for it, else of the one drawn
    from; `top` has the likeliest tokens with theirs. `finish` is None until the last one: stop, length, or cancelled or
    error, which have no token (-1).
    """

    sample: int
    token: int
    text: str
    forced: bool = False
    log_prob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    finish: str | None = None


Deliver = Callable[[Delta], None]


@dataclass(eq=False)
class Request:
    """A prompt with what is wanted of it. `completions` has its answers as they end; `done` when all have."""

    prompt: np.ndarray
    sampling: Sampling
    samples: range
    deliver: Deliver | None
    completions: dict[int, Completion] = field(default_factory=dict)
    cancelled: bool = False
    error: Exception | None = None  # why there is no more of it
    shared: int = 0  # tokens of the prompt that were not read again

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.cancelled or self.error is not None or len(self.completions) == len(self.samples)

    def cancel(self) -> None:
        """No more of it; its rows are free after the next step."""
        self.cancelled = True


@dataclass(eq=False)
class Answer:
    """One row's part of a request."""

    request: Request
    sample: int
    text: TextStream | None


@dataclass
class Counts:
    """What was done since the beginning."""

    steps: int = 0
    read: int = 0  # tokens of prompts
    shared: int = 0  # tokens of prompts that some row had read already
    generated: int = 0
    ended: int = 0  # answers
