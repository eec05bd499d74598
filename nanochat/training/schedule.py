"""How the learning rate, Muon's momentum and the weight decay move over a run: pure functions of (step, num_steps).

`step` is the number of the update that is about to be made, 0 .. num_steps - 1. Promises: every multiplier is finite
and never negative, whatever the lengths (a run shorter than its warm-up still warms down); the last update is never
wasted on a learning rate of 0. Not here: the rates themselves (nanochat/scaling.py) and the updates
(nanochat/training/optim.py).
"""

from dataclasses import dataclass
from math import ceil, cos, pi


@dataclass(frozen=True)
class Momentum:
    """Muon's momentum: from `start` to `peak` over `steps` steps, or the first quarter of a run of fewer than 4 times
    as many; then, while the learning rate falls, from `peak` to `end`.
    """

    start: float
    peak: float
    end: float
    steps: int


CLASSIC_MOMENTUM = Momentum(0.85, 0.95, 0.95, 300)  # the speed runs of github.com/KellerJordan/modded-nanogpt
MODERN_MOMENTUM = Momentum(0.85, 0.97, 0.90, 400)  # nanochat, July 2026


def lr_multiplier(
    step: int, num_steps: int, *, warmup_steps: int = 0, warmdown_ratio: float = 0.0, final_lr_frac: float = 0.0
) -> float:
    """Linear warm-up, constant, linear warm-down over the last `warmdown_ratio` of the steps towards `final_lr_frac`.

    Where the two ramps meet in a short run the lower one counts. The end of the ramp lies one step after the last
    update.
    """
    _inside(step, num_steps)
    up = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    warmdown_steps = ceil(warmdown_ratio * num_steps)
    left = (num_steps - step) / (warmdown_steps + 1) if warmdown_steps else 1.0
    down = final_lr_frac + (1 - final_lr_frac) * left if left < 1 else 1.0
    return min(up, down)


def muon_momentum(
    step: int, num_steps: int, momentum: Momentum = CLASSIC_MOMENTUM, *, warmdown_ratio: float = 0.0
) -> float:
    """Muon's momentum itself. Where the two ramps meet in a short run, the lower one counts."""
    _inside(step, num_steps)
    rise = max(1, min(momentum.steps, num_steps // 4))
    up = momentum.start + (momentum.peak - momentum.start) * min(1.0, step / rise)
    warmdown_steps = ceil(warmdown_ratio * num_steps)
    gone = max(0.0, 1 - (num_steps - step) / warmdown_steps) if warmdown_steps else 0.0
    return min(up, momentum.peak + (momentum.end - momentum.peak) * gone)


def weight_decay_multiplier(step: int, num_steps: int) -> float:
    """Half a cosine, from 1 to nearly 0: decay is worth most while the learning rate is high (nanochat, July 2026)."""
    _inside(step, num_steps)
    return 0.5 * (1 + cos(pi * step / num_steps))


@dataclass(frozen=True)
class Schedule:
    """The three multipliers of one run, bound to its length. Fractions lie in [0, 1].

    Raises:
        ValueError: a length or a fraction that is none.
    """

    num_steps: int
    warmup_steps: int = 0
    warmdown_ratio: float = 0.0
    final_lr_frac: float = 0.0
    muon: Momentum = CLASSIC_MOMENTUM

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps = {self.num_steps}: a run has at least 1 step")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps = {self.warmup_steps}: take 0 or more")
        for name in ("warmdown_ratio", "final_lr_frac"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: take a fraction from 0 to 1")

    def lr(self, step: int) -> float:
        """Multiplier of all learning rates."""
        return lr_multiplier(
            step,
            self.num_steps,
            warmup_steps=self.warmup_steps,
            warmdown_ratio=self.warmdown_ratio,
            final_lr_frac=self.final_lr_frac,
        )

    def momentum(self, step: int) -> float:
        """Muon's momentum itself, not a multiplier."""
        return muon_momentum(step, self.num_steps, self.muon, warmdown_ratio=self.warmdown_ratio)

    def weight_decay(self, step: int) -> float:
        """Multiplier of the weight decay."""
        return weight_decay_multiplier(step, self.num_steps)


def _inside(step: int, num_steps: int) -> None:
    assert 0 <= step < num_steps, f"step {step} of a run of {num_steps} steps"
