"""Reads packed rows of tokens and says in which order to train on them.

The rows of all parts are one long array, mapped into memory and never loaded. Promises: the row behind sample number n
depends on the number of rows, the seed and n alone, so the position in the data is one integer, whatever the ranks and
the device batch; a file of another size than its record says is refused. It does not make batches of rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def row_dtype(vocab_size: int) -> np.dtype:
    """The smallest of the two file formats that holds every id: little-endian uint16 or uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class Rows:
    """Rows of sequence_len + 1 tokens, in one or more parts: `rows[i]`, `rows[3:7]` and `rows[indices]` read some.

    Args:
        whole: directory with the index.json of the tokenized corpus.
        parts: directories with rows.bin and stats.json.
    """

    def __init__(self, whole: Path, parts: Sequence[Path]) -> None:
        index = json.loads((whole / "index.json").read_text(encoding="utf-8"))
        self.sequence_len: int = index["sequence_len"]
        self.vocab_size: int = index["vocab_size"]
        maps = [_open(part, self.sequence_len + 1, row_dtype(self.vocab_size)) for part in parts]
        self.rows = Joined(maps, self.sequence_len + 1)
        self.num_bytes: int = sum(
            json.loads((part / "stats.json").read_text(encoding="utf-8"))["bytes"] for part in parts
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_tokens(self) -> int:
        return len(self) * (self.sequence_len + 1)

    def __getitem__(self, index: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """int64: (T+1,) for a number, (n, T+1) for several. IndexError for a row that does not exist."""
        return self.rows[index]


class Joined:
    """Arrays (n_i, width) of several files as one: `joined[indices]` reads some rows of it."""

    def __init__(self, arrays: Sequence[np.ndarray], width: int) -> None:
        self.arrays, self.width = arrays, width
        self.ends = np.cumsum([len(rows) for rows in arrays], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """int64: (width,) for a number, (n, width) for several. IndexError for a row that does not exist."""
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        wanted = np.asarray(index, dtype=np.int64)  # () or (n,)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        flat = wanted.reshape(-1)
        found = np.empty((len(flat), self.width), np.int64)
        part_of = np.searchsorted(self.ends, flat, side="right")  # (n,)
        for part in np.unique(part_of):
            here = part_of == part
            start = self.ends[part] - len(self.arrays[part])
            found[here] = self.arrays[part][flat[here] - start]
        return found.reshape(*wanted.shape, self.width)


def _open(part: Path, capacity: int, dtype: np.dtype) -> np.ndarray:
    path, stats = part / "rows.bin", json.loads((part / "stats.json").read_text(encoding="utf-8"))
    expected, actual = stats["rows"] * capacity * dtype.itemsize, path.stat().st_size
    if actual != expected:
        raise ValueError(
            f"{path} has {actual} bytes, but {stats['rows']} rows of {capacity} tokens as {dtype.name} take "
            f"{expected}: it is damaged or of another sequence_len; delete this artifact and tokenize again"
        )
    if not stats["rows"]:  # an empty file cannot be mapped
        return np.zeros((0, capacity), dtype)
    return np.memmap(path, dtype, mode="r", shape=(stats["rows"], capacity))


class EpochOrder:
    """The order of training: a fresh permutation of all rows in every epoch, each row once an epoch.

    The keys are raw PCG64 output, which numpy keeps stable between its versions (NEP 19 says so of bit generators and
    not of `permutation`), so that a run can be resumed under another numpy.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        if num_rows < 1:
            raise ValueError(f"there are {num_rows} rows to train on: take more text (download.num_shards)")
        self.num_rows, self.seed = num_rows, seed
        self._epoch, self._order = -1, np.empty(0, np.uint32)

    def epoch(self, number: int) -> np.ndarray:
        """Row numbers (num_rows,) of one epoch, uint32."""
        if number != self._epoch:
            keys = np.random.PCG64(np.random.SeedSequence([self.seed, number])).random_raw(self.num_rows)
            self._epoch, self._order = number, np.argsort(keys, kind="stable").astype(np.uint32)
        return self._order

    def __getitem__(self, samples: slice) -> np.ndarray:
        """Row numbers int64 (b - a,) of the samples [a, b), counted over all epochs."""
        a, b = samples.start or 0, samples.stop
        assert samples.step in (None, 1), samples
        assert 0 <= a <= b, samples
        taken = []
        while a < b:
            number, offset = divmod(a, self.num_rows)
            some = self.epoch(number)[offset : offset + b - a]
            taken.append(some)
            a += len(some)
        return np.concatenate(taken).astype(np.int64) if taken else np.empty(0, np.int64)
