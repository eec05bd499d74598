"""The keys and values of what a batch of rows has read so far, each row with its own length.

The protocol is two calls: `model(tokens, cache)` writes T new positions into every row, starting at `lengths[row]`, and
`cache.advance(counts)` says how many of them were real (prompts of different lengths are padded on the right). What was
written beyond a row's length is never seen: a query at position p sees keys j <= p only, and by the time a position is
reached it has been written again. `select` and `repeat` copy rows, so that samples share the reading of their prompt.
Not here: sampling and scheduling of rows (nanochat/inference/engine.py).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.model.config import GPTConfig

GROWTH = 64  # positions


class KVCache:
    """Room for `batch_size` rows of at most `max_len` positions; memory grows with what is used.

    `lengths` (B,) int64 stays on the CPU, so that neither reading it nor checking the room waits for the device.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        max_len: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch_size < 1 or max_len < 1:
            raise ValueError(f"KVCache of batch_size={batch_size}, max_len={max_len}: both must be at least 1")
        self.config, self.max_len = config, max_len
        self.lengths = torch.zeros(batch_size, dtype=torch.int64)  # (B,)
        shape = (config.n_layer, batch_size, config.n_kv_head, 0, config.head_dim)
        # Zeros wherever nothing was written: a NaN would get through the mask.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)  # (L, B, K, S, D)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        # The smear feature mixes in the previous token's embedding: zero before the first token.
        self.last_embedding = torch.zeros(batch_size, config.n_embd, device=device, dtype=dtype)  # (B, C)
        self._forget()

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    def advance(self, counts: Sequence[int] | Tensor | None = None) -> None:
        """Count the first `counts[row]` positions of the last forward as read; None means all of them.

        Raises ValueError where a count is not between 0 and the number of positions written.
        """
        written = self._written
        counts = torch.full_like(self.lengths, written) if counts is None else torch.as_tensor(counts).cpu().long()
        if counts.shape != self.lengths.shape or (counts < 0).any() or (counts > written).any():
            raise ValueError(f"advance({counts.tolist()}): give {self.batch_size} counts between 0 and {written}")
        if self._embedded is not None:
            rows = torch.arange(self.batch_size)
            latest = self._embedded[rows, (counts - 1).clamp(min=0)]  # (B, C)
            moved = (counts > 0).to(latest.device)[:, None]
            self.last_embedding = torch.where(moved, latest, self.last_embedding)
        self.lengths = self.lengths + counts
        self._forget()

    def select(self, rows: Sequence[int] | Tensor) -> "KVCache":
        """A new cache holding a copy of these rows, in this order; a row may be named more than once."""
        rows = torch.as_tensor(rows).cpu().long()
        if rows.numel() == 0 or (rows < 0).any() or (rows >= self.batch_size).any():
            raise ValueError(
                f"select({rows.tolist()}): name at least one row, each between 0 and {self.batch_size - 1}"
            )
        picked = object.__new__(KVCache)
        picked.config, picked.max_len = self.config, self.max_len
        picked.lengths = self.lengths[rows]
        device_rows = rows.to(self.keys.device)
        picked.last_embedding = self.last_embedding[device_rows]
        picked.keys, picked.values = self.keys[:, device_rows], self.values[:, device_rows]
        picked._forget()
        return picked

    def repeat(self, n: int) -> "KVCache":
        """A new cache with each row n times, copies of one row next to each other."""
        if n < 1:
            raise ValueError(f"repeat({n}): take at least 1 copy")
        return self.select(torch.arange(self.batch_size).repeat_interleave(n))

    def begin(self, num_tokens: int) -> Tensor:
        """The positions (B, T) that the next `num_tokens` tokens of each row take; for the model's forward.

        Raises ValueError where they do not fit.
        """
        longest = int(self.lengths.max()) + num_tokens
        if longest > self.max_len:
            raise ValueError(f"the cache holds max_len={self.max_len} positions, {longest} are needed: make it longer")
        self._written = num_tokens
        self._grow(longest)
        return (self.lengths[:, None] + torch.arange(num_tokens)).to(self.keys.device)  # (B, T)

    def write(self, layer: int, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new k and v (B, T, K, D); returns all keys and values (B, S, K, D)."""
        rows = torch.arange(self.batch_size, device=k.device)[:, None]  # (B, 1)
        self.keys[layer][rows, :, positions] = k
        self.values[layer][rows, :, positions] = v
        return self.keys[layer].transpose(1, 2), self.values[layer].transpose(1, 2)

    def previous(self, embedded: Tensor) -> Tensor:
        """The embedding before each of `embedded` (B, T, C), across chunks; remembers them for `advance`."""
        self._embedded = embedded
        return torch.cat((self.last_embedding[:, None], embedded[:, :-1]), dim=1)

    def _grow(self, needed: int) -> None:
        """Room for `needed` positions, in steps: what is used of a larger block would be copied by every product."""
        if missing := max(0, needed - self.keys.size(3)):
            missing = min(-(-missing // GROWTH) * GROWTH, self.max_len - self.keys.size(3))
            self.keys = F.pad(self.keys, (0, 0, 0, missing))
            self.values = F.pad(self.values, (0, 0, 0, missing))

    _embedded: Tensor | None  # (B, T, C) of the forward under way

    def _forget(self) -> None:
        """Nothing is under way: no forward whose positions were not counted yet."""
        self._written = 0  # positions per row
        self.is_empty = not self.lengths.any()  # no row has read anything; still True within the first forward
        self._embedded = None
