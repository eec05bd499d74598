"""The optimizer does what its papers say: against torch's AdamW, singular values, and an obvious Muon, one matrix at a time;
its state goes out and in without a trace. Several ranks: tests/training/test_distributed.py.
"""

import dataclasses
from math import sqrt

import pytest
import torch

from nanochat.model.gpt import GPT
from nanochat.training.distributed import World
from nanochat.training.muon import CLASSIC as QUINTIC
from nanochat.training.muon import POLAR_EXPRESS, equal_norm, equal_rows, normuon_scale, orthogonalize
from nanochat.training.optim import AdamWBucket, MuonBucket, OptimSettings, build_optimizer
from tests.model.test_model import CLASSIC, MODERN, shaken, some_tokens

MODERN_SWITCHES = ("polar_express", "equal_rows", "equal_norm", "muon_value_gates")
EVERYTHING = OptimSettings(weight_decay=0.1, cautious=True, normuon_beta2=0.9, **dict.fromkeys(MODERN_SWITCHES, True))


def with_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def is_matrix(name, settings=EVERYTHING):
    return name.startswith("blocks.") and (settings.muon_value_gates or "gate" not in name)


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# --- the mathematics


@pytest.mark.parametrize("steps", [QUINTIC, POLAR_EXPRESS], ids=["quintic", "polar express"])
@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 96, 32), (2, 32, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalized_matrices_have_singular_values_near_one_and_the_same_directions(steps, shape, dtype):
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(stack, steps, dtype).float()
    low, high = (0.5, 1.25) if steps == QUINTIC else (0.6, 1.15)  # the smallest of a square matrix are not there yet
    singular = torch.linalg.svdvals(result)
    assert singular.max() < high
    assert singular.median() > 0.65
    assert (singular > low).float().mean() > 0.95
    left, _, right = torch.linalg.svd(stack, full_matrices=False)
    exact = left @ right
    cosine = (result * exact).sum((1, 2)) / (result.norm(dim=(1, 2)) * exact.norm(dim=(1, 2)))
    assert cosine.min() > 0.97


def test_orthogonalization_ignores_scale_and_keeps_a_zero_matrix_zero():
    stack = torch.randn(1, 16, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalize(stack * 1000), orthogonalize(stack), rtol=0, atol=0.02)
    assert orthogonalize(torch.zeros(2, 8, 8)).count_nonzero() == 0


@pytest.mark.parametrize("shape", [(2, 12, 6), (2, 6, 12)])
def test_even_rows_share_one_size_and_keep_the_size_of_the_whole(shape):
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, max(shape)).view(
        (-1, 1) if shape[1] > shape[2] else (1, -1)
    )
    variance = torch.zeros((2, 12, 1) if shape[1] > shape[2] else (2, 1, 12))
    result = normuon_scale(update, variance, beta=0.9)
    torch.testing.assert_close(result.norm(dim=(1, 2)), update.norm(dim=(1, 2)))
    sizes = result.norm(dim=-1 if shape[1] > shape[2] else -2)
    torch.testing.assert_close(sizes, sizes.mean(1, keepdim=True).expand_as(sizes))


# --- the updates


def test_embeddings_and_head_move_as_torch_adamw_moves_them():
    model, twin = shaken(CLASSIC), shaken(CLASSIC)
    rates = {"embedding_lr": 0.1, "unembedding_lr": 0.01, "embedding_decay": 0.2, "unembedding_decay": 0.3}
    settings = OptimSettings(**rates, embedding_beta2=0.995, unembedding_beta2=0.96)
    by_width = (CLASSIC.n_embd / 768) ** -0.5
    optimizer = build_optimizer(model, settings, World())
    groups = [
        {"params": [twin.wte.weight], "lr": 0.1 * by_width, "weight_decay": 0.2, "betas": (0.8, 0.995)},
        {"params": [twin.lm_head.weight], "lr": 0.01 * by_width, "weight_decay": 0.3, "betas": (0.8, 0.96)},
    ]
    peer = torch.optim.AdamW(groups, eps=1e-10)
    for step in range(5):
        with_gradients(model, step)
        with_gradients(twin, step)
        optimizer.step(lr_scale=1.0)
        peer.step()
    for ours, theirs in ((model.wte, twin.wte), (model.lm_head, twin.lm_head)):
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)


def slow_muon(weight, gradients, settings, momentum, lr_scale, decay_scale):
    """One matrix at a time, from the formulas of the papers, with Newton-Schulz written out in fp32."""
    rows, cols = weight.shape
    average, variance = torch.zeros_like(weight), None
    for gradient in gradients:
        average = momentum * average + (1 - momentum) * gradient
        x = (1 - momentum) * gradient + momentum * average
        if settings.equal_rows:
            x = torch.stack([row / row.norm() for row in x])
        x = x / x.norm() / (1.02 if settings.polar_express else 1.0)
        for a, b, c in POLAR_EXPRESS if settings.polar_express else QUINTIC:
            x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
        if settings.equal_norm:
            x = x * sqrt(min(rows, cols)) / x.norm()
        if settings.normuon_beta2:
            beta, size, along = settings.normuon_beta2, x.norm(), 1 if rows >= cols else 0
            square = x.square().mean(along, keepdim=True)
            variance = (1 - beta) * square if variance is None else beta * variance + (1 - beta) * square
            x = x / variance.sqrt()
            x = x * size / x.norm()
        lr = settings.matrix_lr * sqrt(max(1, rows / cols)) * lr_scale
        allowed = (x * weight >= 0) if settings.cautious else torch.ones_like(x)
        weight = weight - lr * settings.weight_decay * decay_scale * weight * allowed - lr * x
    return weight


@pytest.mark.parametrize(
    "settings",
    [
        OptimSettings(),
        OptimSettings(weight_decay=0.3),
        OptimSettings(weight_decay=0.3, cautious=True),
        OptimSettings(polar_express=True),
        OptimSettings(normuon_beta2=0.9),
        OptimSettings(equal_rows=True),
        OptimSettings(equal_norm=True),
        EVERYTHING,
    ],
    ids=["classic", "decay", "cautious decay", "polar express", "normuon", "equal rows", "equal norm", "everything"],
)
def test_matrices_move_as_the_obvious_muon_moves_them(settings):
    model = shaken(MODERN)
    before, optimizer = weights_of(model), build_optimizer(model, settings, World())
    history = []
    for step in range(3):
        history.append(with_gradients(model, step))
        optimizer.step(lr_scale=0.7, momentum=0.9, weight_decay_scale=0.5)
    for name, parameter in model.named_parameters():
        if is_matrix(name, settings):
            expected = slow_muon(before[name], [g[name] for g in history], settings, 0.9, 0.7, 0.5)
            moved, meant = parameter.detach() - before[name], expected - before[name]
            assert (moved - meant).norm() < 0.06 * meant.norm(), name  # bf16 against fp32


def test_every_parameter_is_in_exactly_one_bucket_and_moves():
    model = shaken(MODERN)
    before, optimizer = weights_of(model), build_optimizer(model, EVERYTHING, World())
    names = [name for bucket in optimizer.buckets for name in bucket.names]
    assert sorted(names) == sorted(before)
    assert {name for bucket in optimizer.buckets if isinstance(bucket, MuonBucket) for name in bucket.names} == {
        name for name in before if is_matrix(name)
    }
    with_gradients(model, 0)
    optimizer.step()
    assert not [name for name, weight in weights_of(model).items() if torch.equal(weight, before[name])]


def test_rows_are_made_equal_and_the_norm_that_of_an_orthogonal_matrix():
    stack = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 9, 5)[:, None]
    torch.testing.assert_close(equal_rows(stack).norm(dim=-1), torch.ones(2, 5))
    torch.testing.assert_close(equal_norm(stack).norm(dim=(1, 2)), torch.full((2,), sqrt(5)))
    assert equal_rows(torch.zeros(1, 3, 3)).count_nonzero() == equal_norm(torch.zeros(1, 3, 3)).count_nonzero() == 0


def test_finetuning_takes_a_fraction_of_every_rate_and_nothing_decays():
    base = OptimSettings(
        weight_decay=0.1, embedding_decay=0.2, residual_decay=0.3, unembedding_decay=0.4, cautious=True
    )
    lowered = dataclasses.asdict(base.for_finetuning(0.5))
    for name, value in dataclasses.asdict(base).items():
        if name.endswith("_decay"):
            assert lowered.pop(name) == 0.0, name
        else:
            assert lowered.pop(name) == (value * 0.5 if name.endswith("_lr") else value), name
    assert base.scaled(0.5).weight_decay == 0.1


def test_learning_rates_of_the_tables_follow_the_width_and_value_embeddings_have_half():
    optimizer = build_optimizer(shaken(MODERN), OptimSettings(), World())
    rates = {name: b.lr for b in optimizer.buckets if isinstance(b, AdamWBucket) for name in b.names}
    by_width = (MODERN.n_embd / 768) ** -0.5
    assert rates["wte.weight"] == pytest.approx(0.2 * by_width)
    assert rates["value_embeddings.2.weight"] == pytest.approx(0.1 * by_width)
    assert rates["lm_head.weight"] == pytest.approx(0.004 * by_width)
    assert rates["x0_lambdas"] == pytest.approx(0.5)
    assert rates["residual_lambdas"] == pytest.approx(0.005)


def test_gradients_are_consumed_and_a_missing_one_counts_as_zero():
    model, twin = shaken(MODERN), shaken(MODERN)
    with_gradients(model, 0)
    with_gradients(twin, 0)
    for name in ("up_proj", "down_proj"):
        getattr(model.blocks[1], name).weight.grad = None
        getattr(twin.blocks[1], name).weight.grad.zero_()
    model.wte.weight.grad = None
    twin.wte.weight.grad.zero_()
    for each in (model, twin):
        build_optimizer(each, EVERYTHING, World()).step()
        assert all(parameter.grad is None for parameter in each.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_loss_falls():
    model = GPT(MODERN)
    model.init_weights(0)
    optimizer, tokens = build_optimizer(model, OptimSettings(embedding_lr=0.05), World()), some_tokens(MODERN, 4, 33)
    losses = []
    for _ in range(20):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:]) / 128
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(5.70, abs=0.01)
    assert losses[-1] < 3


# --- the state


def trained(model, optimizer, steps):
    for step in steps:
        with_gradients(model, step)
        optimizer.step(momentum=0.9)
    return weights_of(model)


@pytest.mark.parametrize("settings", [OptimSettings(), EVERYTHING], ids=["classic", "everything"])
def test_a_reloaded_state_continues_bit_for_bit(settings):
    model = shaken(MODERN)
    optimizer = build_optimizer(model, settings, World())
    half = trained(model, optimizer, range(3))
    state = {name: tensor.clone() for name, tensor in optimizer.state_share().items()}
    whole = trained(model, optimizer, range(3, 6))
    again = shaken(MODERN, seed=5)
    again.load_state_dict(half)
    resumed = build_optimizer(again, settings, World())
    resumed.load_state(state, 3)
    continued = trained(again, resumed, range(3, 6))
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


def test_the_same_seed_and_gradients_give_the_same_bits():
    runs = []
    for _ in range(2):
        model = shaken(MODERN)
        runs.append(trained(model, build_optimizer(model, EVERYTHING, World()), range(4)))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_the_state_is_named_by_parameter_and_as_large():
    model = shaken(MODERN)
    optimizer = build_optimizer(model, EVERYTHING, World())
    trained(model, optimizer, range(2))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for key, tensor in optimizer.state_share().items():
        name, slot = key.rsplit(".", 1)
        assert tensor.shape == ((max(shapes[name]) if slot == "variance" else shapes[name].numel()),), key


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2), (2, 7), (64, 5)])
def test_the_shares_of_any_number_of_ranks_are_those_of_any_other(before, after):
    """Every number is told apart: each rank of `before` holds its places in the rows, and none may move or get lost."""
    model, joined, back = shaken(MODERN), {}, {}
    for rank in range(before):
        optimizer = build_optimizer(model, EVERYTHING, World(rank=rank, size=before))
        for bucket in optimizer.buckets:
            for share in bucket.state.values():
                share.copy_(torch.arange(len(share)) + rank * len(share))
        for name, piece in optimizer.state_share().items():
            joined[name] = torch.cat([joined[name], piece]) if name in joined else piece
    alone = build_optimizer(model, EVERYTHING, World())
    for bucket in alone.buckets:
        for share in bucket.state.values():
            share.copy_(torch.arange(len(share)))
    assert joined.keys() == alone.state_share().keys()
    for rank in range(after):
        optimizer = build_optimizer(model, EVERYTHING, World(rank=rank, size=after))
        optimizer.load_state(joined, 1)
        for name, piece in optimizer.state_share().items():
            back[name] = torch.cat([back[name], piece]) if name in back else piece
    for whole in (joined, back):
        assert all(torch.equal(whole[name], numbers) for name, numbers in alone.state_share().items())


def test_a_state_of_another_model_is_refused():
    optimizer = build_optimizer(shaken(MODERN), EVERYTHING, World())
    state = optimizer.state_share()
    with pytest.raises(ValueError, match=r"wte\.weight\.exp_avg "):
        optimizer.load_state({name: tensor for name, tensor in state.items() if name != "wte.weight.exp_avg"}, 1)
    with pytest.raises(ValueError, match=r"variance.*other optimizer settings"):
        build_optimizer(shaken(MODERN), OptimSettings(), World()).load_state(state, 1)
    wider = build_optimizer(shaken(dataclasses.replace(MODERN, n_embd=64)), EVERYTHING, World())
    with pytest.raises(ValueError, match=r"numbers, not .*of another model"):
        wider.load_state(state, 1)


@pytest.mark.parametrize(
    "setting",
    [
        {"matrix_lr": -1.0},
        {"embedding_lr": float("nan")},
        {"weight_decay": float("inf")},
        {"beta2": 1.0},
        {"normuon_beta2": -0.1},
        {"eps": 0.0},
    ],
    ids=str,
)
def test_settings_that_cannot_train_are_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        OptimSettings(**setting)
