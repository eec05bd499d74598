"""The loss of reinforcement learning is the formula of the papers, token by token, and its distance is the KL divergence.

Oracles: loops over tokens in Python's own numbers, and the exact divergence of two distributions over a few tokens.
Not here: which rows and advantages it is given (tests/stages/test_rl_options.py).
"""

from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.model.gpt import GPT, GPTConfig
from nanochat.training.distributed import World
from nanochat.training.policy_loss import FARTHEST, PolicyLoss, PolicyOptions, k3, policy_terms

LOG_PROB = st.floats(-6, -0.01)
TOKEN = st.tuples(LOG_PROB, st.floats(-2, 2), LOG_PROB, LOG_PROB)  # now, advantage, when sampled, at the start


def slow_loss(token: tuple[float, float, float, float], options: PolicyOptions) -> float:
    now, advantage, sampled, start = token
    loss = -advantage * now
    if options.clip:
        ratio = exp(now) / exp(sampled)
        low, high = 1 - options.clip, 1 + (options.clip_high or options.clip)
        loss = -min(ratio * advantage, max(low, min(high, ratio)) * advantage)
    if options.kl_coef:
        q = exp(start) / exp(now)
        loss += options.kl_coef * (q - log(q) - 1)
    return loss


@given(
    tokens=st.lists(TOKEN, min_size=1, max_size=8),
    clip=st.sampled_from([0.0, 0.1, 0.2]),
    high=st.sampled_from([0.0, 0.28]),
    kl_coef=st.sampled_from([0.0, 0.04, 1.0]),
)
@settings(deadline=None)
def test_the_loss_is_the_papers(tokens: list, clip: float, high: float, kl_coef: float) -> None:
    options = PolicyOptions(clip, high if clip else 0.0, kl_coef)
    found, _, _ = policy_terms(*torch.tensor(tokens, dtype=torch.float64).T, options)
    torch.testing.assert_close(found.tolist(), [slow_loss(token, options) for token in tokens])


@given(tokens=st.lists(TOKEN, min_size=1, max_size=8), clip=st.floats(0.05, 0.5), high=st.sampled_from([0.0, 0.28]))
@settings(deadline=None)
def test_a_token_is_clipped_where_its_gradient_is_gone(tokens: list, clip: float, high: float) -> None:
    now, *others = torch.tensor(tokens, dtype=torch.float64).T
    now = now.clone().requires_grad_()
    loss, clipped, _ = policy_terms(now, *others, PolicyOptions(clip, high))
    (gradient,) = torch.autograd.grad(loss.sum(), now)
    ratio, advantages = (now - others[1]).exp().detach(), others[0]
    for stopped, slope, r, advantage in zip(clipped, gradient, ratio, advantages, strict=True):
        assert bool(stopped) == (slope == 0 and bool(advantage != 0))
        if not stopped:
            torch.testing.assert_close(slope, -r * advantage)


def test_before_the_first_update_the_clipped_gradient_is_the_plain_one() -> None:
    now = torch.tensor([-0.1, -2.0, -5.0], requires_grad=True)
    advantages = torch.tensor([0.5, -1.0, 2.0])
    plain, clipped = (
        torch.autograd.grad(policy_terms(now, advantages, now.detach(), now.detach(), options)[0].sum(), now)[0]
        for options in (PolicyOptions(), PolicyOptions(clip=0.2, kl_coef=0.5))
    )
    torch.testing.assert_close(clipped, plain)


LOGITS = st.lists(st.floats(-2, 2), min_size=5, max_size=5)


@given(policy=LOGITS, start=LOGITS)
@settings(deadline=None)
def test_the_distance_is_the_divergence_in_expectation(policy: list[float], start: list[float]) -> None:
    p, q = (torch.tensor(logits, dtype=torch.float64).log_softmax(0) for logits in (policy, start))
    exact = (p.exp() * (p - q)).sum()
    estimates = k3(p, q)
    assert estimates.min() >= 0
    torch.testing.assert_close((p.exp() * estimates).sum(), exact)


def test_samples_estimate_the_divergence() -> None:
    p, q = torch.tensor([2.0, 0.0, -1.0, 0.5]).log_softmax(0), torch.tensor([0.5, 0.5, 0.0, 0.0]).log_softmax(0)
    drawn = torch.multinomial(p.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(1))
    exact = (p.exp() * (p - q)).sum().item()
    assert k3(p[drawn], q[drawn]).mean().item() == pytest.approx(exact, rel=0.02)


def test_a_token_that_the_policy_gave_up_does_not_overflow() -> None:
    now = torch.tensor([-200.0], requires_grad=True)
    distance = k3(now, torch.tensor([-1.0]))
    distance.sum().backward()
    assert distance.isfinite().all()
    assert distance > FARTHEST


@pytest.mark.parametrize("compile", [False, True])
def test_the_sum_is_over_chosen_tokens_alone_and_tells_what_it_saw(compile: bool) -> None:
    model = GPT(GPTConfig.classic(1, 272, 8, width=16, head_dim=8))
    model.init_weights(1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.lm_head.weight.normal_(generator=generator)
    tokens, targets = torch.randint(272, (2, 3, 8), generator=generator)
    targets[0, :5] = targets[2] = -1
    now = -model.token_losses(tokens, targets).detach()
    sampled, start = now + 0.4 * torch.randn(2, 3, 8, generator=generator)
    advantages = torch.rand(3, 8, generator=generator) - 0.5
    options = PolicyOptions(0.2, 0.3, 0.1)
    loss_of = PolicyLoss(model, options, World(), compile)
    loss_of.start(4.0)
    found = loss_of(tokens, targets, advantages, sampled, start)
    log_probs = model(tokens).log_softmax(-1)
    expected, clipped, distance = torch.zeros(()), 0, 0.0
    for row in range(3):
        for at in range(8):
            target = int(targets[row, at])
            if target >= 0:
                one = log_probs[row, at, target], advantages[row, at], sampled[row, at], start[row, at]
                loss, bounded, far = policy_terms(*one, options)
                expected, clipped, distance = expected + loss, clipped + int(bounded), distance + far.item()
    torch.testing.assert_close(found, expected)
    assert 0 < clipped < 11
    loss_of(tokens, targets, advantages, sampled, start)  # a second micro-batch
    assert loss_of.numbers() == pytest.approx({"clipped": clipped / 2, "kl_to_start": distance / 2})
    loss_of.start(1.0)
    assert loss_of.numbers() == {"clipped": 0, "kl_to_start": 0}
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    for one, other in zip(torch.autograd.grad(found, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_only_what_was_asked_for_is_told() -> None:
    model = GPT(GPTConfig.classic(1, 272, 8, width=16, head_dim=8))
    assert PolicyLoss(model, PolicyOptions(clip=0.2), World()).numbers() == {"clipped": 0}
    assert PolicyLoss(model, PolicyOptions(kl_coef=0.2), World()).numbers() == {"kl_to_start": 0}
    assert not PolicyOptions()
