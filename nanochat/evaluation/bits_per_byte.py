"""Bits per byte: the loss on text in a unit that does not depend on the tokenizer.

The nats of all tokens that stand for text, over ln 2 times the raw bytes that they stand for; special tokens have no
bytes and count on neither side. Promises: a fixed number of rows, whatever the device batch or the number of ranks;
sums in fp64, so that the order of rows does not show. Not here: which rows (nanochat/data/rows.py).
"""

from collections.abc import Sequence
from math import log

import numpy as np
import torch
from numpy.typing import NDArray

from nanochat.data.rows import Rows
from nanochat.model.gpt import GPT
from nanochat.training.distributed import World, all_reduce_sum


@torch.no_grad()
def bits_per_byte(
    model: GPT,
    rows: Rows | Sequence[NDArray[np.integer]] | NDArray[np.integer],
    token_bytes: NDArray[np.int32],
    device_batch_size: int,
    max_rows: int,
    world: World | None = None,
) -> float:
    """Bits per byte of the first `max_rows` of `rows` (N, T + 1), in the model's `compute_dtype`, on its device.

    `token_bytes` (V,) is the length of each token in bytes, 0 for special tokens. With a `world` each rank takes its
    share and all get the same number.

    Raises:
        ValueError: there is no row, or no text in the rows.
    """
    count = min(max_rows, len(rows))
    if count < 1:
        raise ValueError("bits per byte of nothing: the validation shard has no row; take a longer one")
    device, world = model.wte.weight.device, world or World()
    lengths = torch.as_tensor(np.asarray(token_bytes), device=device).long()  # (V,)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for start in range(world.rank * device_batch_size, count, world.size * device_batch_size):
        chunk = np.asarray(rows[start : min(start + device_batch_size, count)], dtype=np.int64)
        tokens = torch.from_numpy(chunk).to(device)  # (b, T + 1)
        targets = tokens[:, 1:]
        counted = lengths[targets]  # (b, T)
        losses = model.token_losses(tokens[:, :-1].contiguous(), targets.contiguous())
        sums += torch.stack([(losses.double() * (counted > 0)).sum(), counted.sum().double()])
    nats, size = all_reduce_sum(sums).tolist() if world.size > 1 else sums.tolist()
    if not size:
        raise ValueError(f"bits per byte of {count} rows without text: all their tokens are special")
    return nats / (log(2) * size)
