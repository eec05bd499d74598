"""The memory of a training step on a GPU, by a closed formula, and the rows that a card holds.

Standard library only, so that a plan says it before anything runs. Promises: within 5 % of what the real model and
optimizer take when they run on fake tensors (nanochat/training/memory.py), for d4 to d32 of both families on 1 to 8
ranks; `rows_that_fit` never gives rows that the formula does not fit into the card. Not here: what kernels and the
allocator take beside it, for which a tenth of the card is left free.
"""

from __future__ import annotations

from typing import Any

from nanochat.model.config import GPTConfig

# Bytes a token and channel that the compiled bf16 loss keeps for its backward pass: of each layer, and once. Counted by
# nanochat/training/memory.py of torch 2.12; docs/memory.md has the table.
LAYER_BYTES = {"modern": 39.1, "classic": 36.1}
MODEL_BYTES = {"modern": 8.2, "classic": 4.2}
BLOCK_INPUT_BYTES = 2.0  # all that a layer keeps whose activations are computed again
LOGIT_BYTES = 8  # a token and entry of the vocabulary: bf16 logits, their fp32 soft-capped form, the bf16 gradient
MUON_BYTES = {"modern": 16, "classic": 7}  # a number of the largest bucket: what Muon's update makes on its way
ADAMW_BYTES = 4  # the same of AdamW's, a number of the head
COPY_BYTES = 2  # a number of a set of weights that is only read
CPU_ROWS = 16  # of a forward pass on a CPU
USABLE = 0.9  # of a card's memory: the rest is for CUDA's context, workspaces and what the allocator cannot use


def peak_memory(
    config: GPTConfig,
    rows: int,
    num_ranks: int = 1,
    *,
    checkpoint_activations: bool = False,
    loss_chunk: int = 0,
    copies: int = 0,
) -> int:
    """Bytes on each rank at the most, with forward passes of so many rows: in the backward pass or in the optimizer.

    `copies` are sets of weights in bf16 beside the trained ones, as RL keeps one of its start.
    """
    backward = _backward(config, rows, checkpoint_activations, loss_chunk)
    standing = _standing(config, num_ranks) + copies * COPY_BYTES * config.num_parameters()
    return standing + max(backward, _optimizer(config, num_ranks))


def rows_of_a_pass(config: GPTConfig, rows_per_rank: int, card: int | None, num_ranks: int = 1, **sparing: Any) -> int:
    """Rows of a forward pass where nobody chose them: `rows_that_fit` a card of so many bytes; None for a CPU, whose
    memory others share: 16 at the most.
    """
    if card is None:
        return min(rows_per_rank, CPU_ROWS)
    return rows_that_fit(config, rows_per_rank, card, num_ranks, **sparing)


def rows_that_fit(
    config: GPTConfig,
    rows_per_rank: int,
    memory: int,
    num_ranks: int = 1,
    *,
    checkpoint_activations: bool = False,
    loss_chunk: int = 0,
    copies: int = 0,
) -> int:
    """The rows of a forward pass: as few equal passes over `rows_per_rank` as a card with `memory` bytes allows; 1 at
    the least, also where even that does not fit.
    """
    for passes in range(1, rows_per_rank + 1):
        rows = -(-rows_per_rank // passes)
        needed = peak_memory(
            config,
            rows,
            num_ranks,
            checkpoint_activations=checkpoint_activations,
            loss_chunk=loss_chunk,
            copies=copies,
        )
        if needed <= USABLE * memory:
            return rows
    return 1


def _standing(config: GPTConfig, num_ranks: int) -> int:
    """Masters and gradients in fp32, and this rank's share of the optimizer's state."""
    others = config.num_parameters() - config.num_matrix_parameters()
    return 8 * config.num_parameters() + (4 * _padded_matrices(config, num_ranks) + 8 * others) // num_ranks


def _padded_matrices(config: GPTConfig, num_ranks: int) -> int:
    """Numbers of all matrices, where those of the feed-forward, one of each shape a layer, are shared out whole."""
    per_rank = -(-config.n_layer // num_ranks)
    return config.num_matrix_parameters() + 8 * config.n_embd**2 * (per_rank * num_ranks - config.n_layer)


def _backward(config: GPTConfig, rows: int, checkpoint_activations: bool, loss_chunk: int) -> int:
    family = _family(config)
    tokens, layer = rows * config.sequence_len, LAYER_BYTES[family]
    head = config.vocab_size * config.n_embd
    copies = 2 * (config.num_matrix_parameters() + head)  # of the weights in bf16
    a_channel = config.n_layer * layer + MODEL_BYTES[family]
    if checkpoint_activations:  # one layer at a time is whole
        a_channel = config.n_layer * BLOCK_INPUT_BYTES + layer + MODEL_BYTES[family]
    logits = min(tokens, loss_chunk or tokens) * config.vocab_size * LOGIT_BYTES
    return int(copies + tokens * config.n_embd * a_channel + logits)


def _optimizer(config: GPTConfig, num_ranks: int) -> int:
    """Rows of weights laid end to end, on several ranks also gathered, and what Muon makes."""
    matrices = _padded_matrices(config, num_ranks)
    others = config.num_parameters() - config.num_matrix_parameters()
    rows = 4 * matrices if num_ranks == 1 else 8 * matrices + 4 * others + 4 * (matrices + others) // num_ranks
    muon = MUON_BYTES[_family(config)] * 4 * config.n_embd**2 * config.n_layer
    return rows + max(muon, ADAMW_BYTES * config.vocab_size * config.n_embd) // num_ranks


def _family(config: GPTConfig) -> str:
    return "modern" if config.value_embeddings else "classic"
