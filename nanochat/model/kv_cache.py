"""The keys and values of what rows of tokens have read so far, each row with its own length, in bounded memory.

A layer with a window keeps a ring of its newest positions, position p at index p mod room; the others keep all. Two
ways to read on, both given to the model in place of a cache: `Reading` takes several tokens into any rows (prompts, in
chunks of any width, padded on the right), `DecodeStep` one token into each of the first B rows, with shapes that stay,
so that it can be compiled. `copy` gives a row's beginning to other rows, so that what is shared is read once. Promises:
what a row reads does not depend on the other rows; what was never written is never seen. Not here: which row belongs to
whom (inference/scheduler.py), sampling.

Shapes: N rows of the cache, B rows and T tokens of a forward, K key heads, R room of a layer, D channels of a head.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.model.attention import KEY_BLOCK, attention, fused, grouped, in_blocks, products, ungrouped
from nanochat.model.config import WINDOW_MULTIPLE, GPTConfig

STEP = KEY_BLOCK  # positions: memory and the part of it that a step looks at grow by so many
SPARE = 1  # position that is never used: so no view is contiguous, and one compilation serves all of them
SLACK = WINDOW_MULTIPLE  # positions kept beyond the window: a row's beginning can still be shared so long after it


def room_of(config: GPTConfig, layer: int, max_len: int) -> int:
    """How many positions a layer keeps."""
    window = config.window(layer)
    return max_len if window >= config.sequence_len else min(window + SLACK, max_len)


def row_bytes(config: GPTConfig, dtype: torch.dtype, max_len: int | None = None) -> int:
    """Memory of one row of so many positions, None: of the whole context."""
    longest = config.sequence_len if max_len is None else max_len
    positions = sum(room_of(config, layer, longest) + SPARE for layer in range(config.n_layer))
    return 2 * positions * config.kv_dim * dtype.itemsize


def in_steps(positions: int) -> int:
    """The next multiple of STEP."""
    return -(-positions // STEP) * STEP


class KVCache:
    """At most `max_rows` rows of at most `max_len` positions; on a CPU memory grows with what is used.

    `lengths` and `latest`, (N,) int64, say on the CPU how many tokens each row has read and which one it read last.
    """

    def __init__(
        self,
        config: GPTConfig,
        max_rows: int,
        max_len: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        max_len = config.sequence_len if max_len is None else max_len
        if max_rows < 1 or not 1 <= max_len <= config.sequence_len:
            raise ValueError(
                f"KVCache of max_rows={max_rows}, max_len={max_len}: take at least 1 row, and 1 to "
                f"{config.sequence_len} positions"
            )
        self.config, self.max_rows, self.max_len = config, max_rows, max_len
        self.device, self.dtype = torch.device(device), dtype
        self.rooms = [room_of(config, layer, max_len) for layer in range(config.n_layer)]
        self.lengths, self.latest = np.zeros(max_rows, np.int64), np.full(max_rows, -1)
        self._peaks = np.zeros(max_rows, np.int64)  # how far each row was written, also if it was shortened since
        # Zeros wherever nothing was written: a NaN would get through the mask.
        shape = (0, config.n_kv_head, SPARE, config.head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in self.rooms]  # each (rows, K, R, D)
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in self.rooms]
        self._views: dict[tuple[int, int], tuple[list[Tensor], list[Tensor]]] = {}
        if self.device.type != "cpu":
            self._hold(max_rows, max_len)  # addresses that a CUDA graph may keep

    def reading(
        self, tokens: Tensor, rows: Sequence[int] | np.ndarray, counts: Sequence[int] | np.ndarray
    ) -> "Reading":
        """For `model(tokens, reading)`: of tokens (B, T) the first `counts[i]` are read on by row `rows[i]`.

        Raises ValueError where they do not fit.
        """
        where, many = np.asarray(rows, np.int64), np.asarray(counts, np.int64)
        longest = int((self.lengths[where] + many).max())
        if longest > self.max_len:
            raise ValueError(f"the cache holds max_len={self.max_len} positions, {longest} are needed: make it longer")
        if many.min() < 0 or many.max() > tokens.size(1) or where.min() < 0 or where.max() >= self.max_rows:
            raise ValueError(
                f"reading rows {where.tolist()}, {many.tolist()} of {tokens.size(1)} tokens: take rows below "
                f"{self.max_rows} and no more tokens than there are"
            )
        self._hold(int(where.max()) + 1, longest)
        return Reading(self, tokens, where, many)

    def views(self, num_rows: int, longest: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values (B, K, S, D) of the first rows, of every layer, as far as `longest` positions reach."""
        self._hold(num_rows, longest)
        span = min(in_steps(longest), self.max_len)
        key = (num_rows, span)
        if key not in self._views:
            keys, values = (
                [x[:num_rows, :, : min(span, room)] for x, room in zip(each, self.rooms, strict=True)]
                for each in (self.keys, self.values)
            )
            self._views[key] = keys, values
        return self._views[key]

    def can_share(self, row: int, length: int) -> bool:
        """Whether the row still holds all that its first `length` tokens leave behind."""
        peak = int(self._peaks[row])  # positions below peak - room were written over
        return length <= self.lengths[row] and all(
            max(length - window, 0) >= peak - room for room, window in self._windows()
        )

    def advance(self, rows: Sequence[int] | np.ndarray, counts: np.ndarray | int, latest: np.ndarray) -> None:
        """These rows have read `counts` tokens more, `latest` the last of them."""
        self.lengths[rows] += counts
        self.latest[rows] = latest
        self._peaks[rows] = np.maximum(self._peaks[rows], self.lengths[rows])

    def shorten(self, row: int, length: int, latest: int) -> None:
        """The row has read no more than its first `length` tokens, `latest` the last of them."""
        assert self.can_share(row, length), (row, length, int(self.lengths[row]))
        self.lengths[row], self.latest[row] = length, latest

    def copy(
        self, sources: Sequence[int], targets: Sequence[int], lengths: Sequence[int], latest: Sequence[int]
    ) -> None:
        """Row `targets[i]` has read the first `lengths[i]` tokens of `sources[i]`, the last of them `latest[i]`."""
        longest = int(self.lengths[list(sources)].max())
        self._hold(max(targets) + 1, longest)
        used = min(in_steps(longest), self.max_len)
        given, taken = (torch.tensor(rows, device=self.device) for rows in (sources, targets))
        self.forget(targets)  # an interrupted copy is neither
        for each in (*self.keys, *self.values):
            each[taken, :, :used] = each[given, :, :used]
        self.lengths[list(targets)], self.latest[list(targets)] = lengths, latest
        self._peaks[list(targets)] = self._peaks[list(sources)]

    def forget(self, rows: Sequence[int]) -> None:
        """These rows have read nothing."""
        self.lengths[list(rows)], self.latest[list(rows)], self._peaks[list(rows)] = 0, -1, 0

    def _windows(self) -> set[tuple[int, int]]:
        """(room, window) of the layers that keep less than everything."""
        pairs = {(room, self.config.window(layer)) for layer, room in enumerate(self.rooms)}
        return {(room, window) for room, window in pairs if room < self.max_len}

    def _hold(self, num_rows: int, longest: int) -> None:
        """Room for so many rows and positions; both grow by doubling, so that little is copied."""
        rows, reach = self.keys[0].size(0), max(x.size(2) for x in self.keys) - SPARE
        if num_rows <= rows and longest <= reach:
            return
        rows = rows if num_rows <= rows else min(max(num_rows, 2 * rows), self.max_rows)
        reach = reach if longest <= reach else min(max(in_steps(longest), 2 * reach), self.max_len)
        for each in (self.keys, self.values):
            for layer, room in enumerate(self.rooms):
                missing = (min(room, reach) + SPARE - each[layer].size(2), rows - each[layer].size(0))
                each[layer] = F.pad(each[layer], (0, 0, 0, missing[0], 0, 0, 0, missing[1]))
        self._views = {}


class Reading:
    """Several tokens of several rows, on their way through the model; `finish` counts them as read.

    On a CPU a row's keys stand in the order of their positions, in blocks that begin at multiples of 64 however the row
    is cut into chunks: sums are made in the same order whatever is read beside it, and give the same bits.
    """

    def __init__(self, cache: KVCache, tokens: Tensor, rows: np.ndarray, counts: np.ndarray) -> None:
        self.cache, self.rows, self.counts = cache, rows, counts
        starts, width, device = cache.lengths[rows], tokens.size(1), cache.device
        self.starts = torch.from_numpy(starts).to(device)  # (B,)
        self.before = torch.from_numpy(cache.latest[rows]).to(device)  # (B,) the token before the first; -1: none
        # beyond the context only the padding of other rows
        self.positions = (self.starts[:, None] + torch.arange(width, device=device)).clamp(max=cache.max_len - 1)
        self.device_rows = torch.from_numpy(rows).to(device)
        self.reach = in_steps(int(starts.max()))
        self.written = {room: self._written(room, width) for room in set(cache.rooms)}
        latest = tokens.cpu()[torch.arange(len(rows)), torch.from_numpy(counts - 1).clamp(min=0)].numpy()
        self.latest = np.where(counts > 0, latest, cache.latest[rows])
        # said before it is written: who is interrupted (Ctrl-C) before `finish` has overwritten the rings all the same
        cache._peaks[rows] = np.maximum(cache._peaks[rows], starts + counts)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Attention of q (B, T, H, D) over what the rows have read, k and v (B, T, K, D) included; writes these."""
        cache = self.cache
        if not self.reach and q.device.type != "cpu":
            y = attention(q, k, v, window)  # causality alone hides the padding on the right
        else:
            y = self._over_all(layer, q, k, v, window)
        row, column, into, at = self.written[cache.rooms[layer]]
        cache.keys[layer][into, :, at] = k[row, column]
        cache.values[layer][into, :, at] = v[row, column]
        return y

    def finish(self) -> None:
        """The rows have read their tokens."""
        self.cache.advance(self.rows, self.counts, self.latest)

    def _over_all(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Attention over the past positions that a query may see, and the chunk; key j is at start - past + j."""
        past = min(self.reach, in_steps(window))
        positions = self.starts[:, None] + torch.arange(-past, 0, device=q.device)  # (B, P), below 0: nothing
        at = positions.clamp(min=0) % self.cache.rooms[layer]
        row = self.device_rows[:, None]
        held = (each[layer][row, :, at] for each in (self.cache.keys, self.cache.values))  # (B, P, K, D)
        keys, values = (torch.cat(pair, dim=1) for pair in zip(held, (k, v), strict=True))
        age = torch.arange(past, past + q.size(1), device=q.device)[:, None]
        age = age - torch.arange(past + q.size(1), device=q.device)  # (T, P + T)
        visible = ((age >= 0) & (age < window)).expand(len(q), -1, -1).clone()
        visible[:, :, :past] &= (positions >= 0)[:, None]
        if q.device.type == "cpu":
            return in_blocks(q, keys, values, visible, past, window)
        return fused(q, keys, values, visible[:, None])

    def _written(self, room: int, width: int) -> tuple[Tensor, ...]:
        """What a layer with that room keeps of the chunk: (row, column) in it, row of the cache, index in the row."""
        column = np.arange(width)
        kept = (column < self.counts[:, None]) & (column >= self.counts[:, None] - room)  # (B, T)
        row, column = np.nonzero(kept)
        at = (self.cache.lengths[self.rows][row] + column) % room
        return tuple(torch.from_numpy(x).to(self.cache.device) for x in (row, column, self.rows[row], at))


class DecodeStep:
    """One token more in each of B rows: tensors in, tensors out, and the cache written in place.

    Args:
        lengths: (B,) int64, tokens that each row has read; -1 for a row that idles and keeps what it has.
        before: (B,) int64, the last of them; -1 where there is none.
        keys, values: of every layer, (B, K, S, D), as `KVCache.views` gives them.
        rooms: of every layer.
    """

    def __init__(
        self, lengths: Tensor, before: Tensor, keys: list[Tensor], values: list[Tensor], rooms: Sequence[int]
    ) -> None:
        self.before, self.keys, self.values, self.rooms = before, keys, values, rooms
        self.active, self.lengths = (lengths >= 0)[:, None, None], lengths.clamp(min=0)
        self.positions = self.lengths[:, None]  # (B, 1)
        self.rows = torch.arange(len(lengths), device=lengths.device)
        self._places: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """As `Reading.attend`, of q (B, 1, H, D)."""
        keys, values = self.keys[layer], self.values[layer]
        at, visible = self._place(keys.size(2), self.rooms[layer], window)
        keys[self.rows, :, at] = torch.where(self.active, k[:, 0], keys[self.rows, :, at])
        values[self.rows, :, at] = torch.where(self.active, v[:, 0], values[self.rows, :, at])
        if q.device.type == "cpu":  # in bf16 the fused kernel took twice as long for one query
            return ungrouped(products(grouped(q, keys.size(1)), keys, values, visible[:, None, None, None]))
        return fused(q, keys.transpose(1, 2), values.transpose(1, 2), visible[:, None, None])

    def _place(self, span: int, room: int, window: int) -> tuple[Tensor, Tensor]:
        """Where the new token goes (B,), and what is visible (B, S): the same for all layers of a kind."""
        if (room, window) not in self._places:  # not the span, which a compiled step must not look at as a number
            held = held_positions(self.lengths, span, room)  # (B, S)
            self._places[room, window] = self.lengths % room, (held >= 0) & (held > self.positions - window)
        return self._places[room, window]


def held_positions(newest: Tensor, span: int, room: int) -> Tensor:
    """Which position (B, S) each of the first `span` indices holds, when `newest` (B,) was written last; < 0: none."""
    newest = newest[:, None]
    return newest - (newest - torch.arange(span, device=newest.device)) % room
