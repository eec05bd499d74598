"""The closed formula of the memory is what the real model and optimizer take on fake tensors, and rows fit by it."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.gpus import MEMORY_BYTES
from nanochat.model.memory import USABLE, peak_memory, rows_that_fit
from nanochat.stages.pretrain import OPTIMIZER
from nanochat.training import memory as counted
from nanochat.training.optim import OptimSettings

FAMILIES = {"modern": (GPTConfig.modern, 32768), "classic": (GPTConfig.classic, 65536)}


def shape(family: str, depth: int) -> GPTConfig:
    make, vocab_size = FAMILIES[family]
    return make(depth, vocab_size, 2048, aspect_ratio=64, head_dim=128)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", [4, 12, 32])
def test_the_formula_is_within_five_percent_of_what_the_real_parts_take(family: str, depth: int) -> None:
    config = shape(family, depth)
    rows = rows_that_fit(config, 256, MEMORY_BYTES["H100"])
    assert rows > 1
    kept = counted.kept_for_backward(config, rows)
    logits = rows * 2048 * config.vocab_size * 6  # of which the forward pass keeps 2 of 8 bytes
    settings = OptimSettings(**OPTIMIZER[family])
    for ranks in (1, 8):
        optimizer = counted.peak_of_optimizer(config, settings, ranks)
        standing = 8 * config.num_parameters() + counted.state_bytes(config, settings, ranks)
        expected = max(optimizer, standing + kept + logits)
        assert peak_memory(config, rows, ranks) == pytest.approx(expected, rel=0.05)
        assert peak_memory(config, 0, ranks) == pytest.approx(optimizer, rel=0.05)


def test_what_saves_memory_is_counted_and_changes_no_gradient() -> None:
    config = shape("modern", 4)
    plain = counted.kept_for_backward(config, 4)
    sparing = {"checkpoint_activations": True, "loss_chunk": 1024}
    saved = counted.kept_for_backward(config, 4, **sparing)
    logits = 4 * 2048 * config.vocab_size
    assert saved < 0.5 * plain
    by_formula = peak_memory(config, 4) - peak_memory(config, 4, **sparing)
    assert by_formula == pytest.approx(plain + 6 * logits - saved - 8 * 1024 * config.vocab_size, rel=0.15)

    small = dataclasses.replace(GPTConfig.modern(3, 300, sequence_len=32, width=64, head_dim=16))
    tokens, targets = torch.randint(0, 300, (2, 3, 32), generator=torch.Generator().manual_seed(0))
    targets[0, :9] = -1
    gradients, losses = [], []
    for switches in ({}, sparing | {"loss_chunk": 7}, {"loss_chunk": 50}):
        model = GPT(small)
        model.init_weights(1)
        for name, value in switches.items():
            setattr(model, name, value)
        loss = model.loss(tokens, targets)
        loss.backward()
        losses.append(loss.detach())
        gradients.append([parameter.grad for parameter in model.parameters()])
    for other_loss, others in zip(losses[1:], gradients[1:], strict=True):
        assert_close(other_loss, losses[0])
        for one, other in zip(gradients[0], others, strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ranks", [1, 8])
def test_the_rows_that_fit_are_the_most_in_equal_passes(family: str, ranks: int) -> None:
    config, card = shape(family, 20), 80 * 10**9
    rows = rows_that_fit(config, 32, card, ranks)
    assert peak_memory(config, rows, ranks) <= USABLE * card
    passes = -(-32 // rows)
    assert rows == -(-32 // passes)
    fewer_passes = -(-32 // (passes - 1)) if passes > 1 else None
    assert fewer_passes is None or peak_memory(config, fewer_passes, ranks) > USABLE * card
    assert rows_that_fit(config, 32, 1) == 1  # nothing fits: the least that can be tried
    assert rows_that_fit(config, 32, card, ranks, checkpoint_activations=True) >= rows


def test_weights_beside_the_trained_ones_are_counted() -> None:
    """As RL keeps those of its start: what the formula adds is what a bf16 copy of the model takes."""
    model = GPT(GPTConfig.modern(3, 300, sequence_len=32, width=64, head_dim=16))
    model.init_weights(1)
    copy = model.inference_copy(torch.bfloat16)
    bytes_of_copy = sum(weight.nbytes for weight in copy.state_dict().values())
    assert peak_memory(model.config, 2, copies=1) - peak_memory(model.config, 2) == bytes_of_copy
    card = peak_memory(model.config, 8, copies=1) / USABLE + 1
    assert rows_that_fit(model.config, 8, card) == rows_that_fit(model.config, 8, card, copies=1) == 8
    assert rows_that_fit(model.config, 8, card - 1e3 / USABLE, copies=1) < 8
