"""Bits per byte equal a slow obvious sum, whatever the device batch; special tokens count on neither side."""

from math import log

import numpy as np
import pytest
import torch

from nanochat.evaluation.bits_per_byte import bits_per_byte
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT

VOCAB = 270
TOKEN_BYTES = np.where(np.arange(VOCAB) < VOCAB - 9, 1 + np.arange(VOCAB) % 5, 0).astype(np.int32)
ROWS = np.random.default_rng(0).integers(0, VOCAB, (11, 9)).astype("<u2")


def model(spread: float = 0.5) -> GPT:
    made = GPT(GPTConfig.classic(1, VOCAB, 8, width=16, head_dim=8))
    made.init_weights(1)
    torch.nn.init.normal_(made.lm_head.weight, std=spread, generator=torch.Generator().manual_seed(1))
    return made


@torch.no_grad()
def obvious(gpt: GPT, rows: np.ndarray) -> float:
    """Token by token, in Python floats."""
    nats, size = 0.0, 0
    for row in rows.astype(np.int64):
        log_probabilities = gpt(torch.from_numpy(row[None, :-1])).log_softmax(-1)[0]
        for position, token in enumerate(row[1:]):
            if TOKEN_BYTES[token]:
                nats -= float(log_probabilities[position, token])
                size += int(TOKEN_BYTES[token])
    return nats / log(2) / size


@pytest.mark.parametrize("device_batch_size", [1, 4, 100])
def test_it_is_the_obvious_sum_for_every_device_batch(device_batch_size: int) -> None:
    gpt = model()
    assert bits_per_byte(gpt, ROWS, TOKEN_BYTES, device_batch_size, 11) == pytest.approx(obvious(gpt, ROWS), rel=1e-6)
    assert bits_per_byte(gpt, ROWS, TOKEN_BYTES, device_batch_size, 7) == pytest.approx(
        obvious(gpt, ROWS[:7]), rel=1e-6
    )


def test_a_model_that_knows_nothing_pays_for_the_vocabulary() -> None:
    rows = np.full((2, 9), 4)  # tokens of 5 bytes
    assert bits_per_byte(model(spread=0.0), rows, TOKEN_BYTES, 2, 2) == pytest.approx(np.log2(VOCAB) / 5)


def test_more_rows_than_there_are_means_all() -> None:
    gpt = model()
    assert bits_per_byte(gpt, ROWS, TOKEN_BYTES, 4, 999) == bits_per_byte(gpt, ROWS, TOKEN_BYTES, 4, 11)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="no row"):
        bits_per_byte(model(), ROWS[:0], TOKEN_BYTES, 4, 10)
    with pytest.raises(ValueError, match="without text"):
        bits_per_byte(model(), np.full((2, 9), VOCAB - 1), TOKEN_BYTES, 4, 10)
