"""The loss of reinforcement learning with its options: a bounded ratio (PPO) and the distance to the starting policy.

For every token that the policy chose, with its advantage A, its log-probability now, `sampled` when it was drawn, and
`reference` under the policy at the start:

    without clip   - A * now
    with clip      - min(ratio * A, bounded ratio * A), ratio = exp(now - sampled)   (arXiv:1707.06347, eq. 7)
    with kl_coef   + kl_coef * (exp(d) - d - 1), d = reference - now                 (arXiv:2402.03300, eq. 4)

The bounds are 1 - clip and 1 + clip_high (arXiv:2503.14476). The last line is never negative and its mean over tokens
drawn from the policy is KL(policy || start). Promises: what a token does not count for (target -1) adds nothing; with
all log-probabilities equal the gradient of the clipped form is that of the plain one. Not here: advantages.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.model.gpt import GPT
from nanochat.training.distributed import World, all_reduce_sum
from nanochat.training.state import Numbers

FARTHEST = 20.0  # of d: beyond it exp(d) soon leaves fp32, and one token would be the whole gradient


@dataclass(frozen=True)
class PolicyOptions:
    """`clip` 0 is no ratio, `clip_high` 0 the same bound on both sides, `kl_coef` 0 no distance."""

    clip: float = 0.0
    clip_high: float = 0.0
    kl_coef: float = 0.0

    def __bool__(self) -> bool:
        """Whether the loss is another one than the plain policy gradient."""
        return bool(self.clip or self.kl_coef)


def k3(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(policy || reference), in nats a token, of log-probabilities of tokens that the policy drew."""
    d = (reference - log_probs).clamp(max=FARTHEST)
    return d.exp() - d - 1


def policy_terms(
    log_probs: Tensor, advantages: Tensor, sampled: Tensor, reference: Tensor, options: PolicyOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each token, whether the bound held its gradient back, its k3; all of one shape, as the arguments."""
    gain, clipped, distance = log_probs * advantages, torch.zeros_like(log_probs), torch.zeros_like(log_probs)
    if options.clip:
        ratio = (log_probs - sampled).exp()
        bounded = ratio.clamp(1 - options.clip, 1 + (options.clip_high or options.clip))
        gain = torch.minimum(ratio * advantages, bounded * advantages)
        clipped = (gain < ratio * advantages).to(log_probs.dtype)
    if options.kl_coef:
        distance = k3(log_probs, reference)
    return options.kl_coef * distance - gain, clipped, distance


class PolicyLoss:
    """The loss for the training loop, a sum over tokens; it adds up beside what `numbers` tells."""

    def __init__(self, model: GPT, options: PolicyOptions, world: World, compile: bool = False) -> None:
        def sums(tokens: Tensor, targets: Tensor, weights: Tensor, sampled: Tensor, reference: Tensor) -> Tensor:
            log_probs, chosen = -model.token_losses(tokens, targets), targets >= 0
            terms = policy_terms(log_probs, weights, sampled, reference, options)
            return torch.stack([(term * chosen).sum() for term in terms])  # (3,)

        self.options, self.world = options, world
        self.sums: Callable[..., Tensor] = torch.compile(sums, dynamic=False) if compile else sums
        self.start(1.0)

    def start(self, normalizer: float) -> None:
        """Forgets what was added up; `normalizer` tokens follow, over all ranks."""
        self.normalizer, self.seen = normalizer, torch.zeros(2, device=self.world.device)

    def __call__(self, *batch: Tensor) -> Tensor:
        """Of inputs, targets, advantages, `sampled` and `reference`, each (b, T)."""
        loss, *told = self.sums(*batch)
        self.seen += torch.stack(told).detach()
        return loss

    def numbers(self) -> Numbers:
        """A token's mean over all ranks since `start`: the share that the bound held back, the distance in nats."""
        clipped, distance = (all_reduce_sum(self.seen) / self.normalizer).tolist()
        told = {"clipped": clipped} if self.options.clip else {}
        return told | ({"kl_to_start": distance} if self.options.kl_coef else {})
