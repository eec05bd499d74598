"""Turns one shard of text into packed rows of tokens: a flat file that training maps into memory.

Promises: memory is bounded by the buffer, whatever the shard's size; the rows do not depend on the number of threads;
`bytes` counts the text that the kept tokens stand for, so that bits per byte are of real text; no half file has the
final name. It does not decide the order in which rows are trained on (rows.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nanochat.row_packing import best_fit, pieces, stream
from nanochat.stage import Place

if TYPE_CHECKING:
    from nanochat.pipeline import Tokenize
    from nanochat.tokenizer import Tokenizer

BATCH_DOCS = 1024  # documents handed to the encoder at a time: one row group of text.parquet


def row_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def tokenize_shard(stage: Tokenize, place: Place) -> dict[str, float]:
    """Writes rows.bin, rows of sequence_len + 1 tokens each, and stats.json of this part.

    Raises:
        ValueError: the shard does not fill a single row.
    """
    from nanochat.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(place["tokenizer"] / "tokenizer.json")
    text = TextShard(place["download"] / "text.parquet")
    stats = write_rows(stage, tokenizer, text, place)
    if not stats["rows"]:
        raise ValueError(
            f"tokenize.sequence_len = {stage.sequence_len}: part {place.part} has {stats['documents']} documents, which do not "
            "fill one row: lower it or take more text"
        )
    (place.out / "stats.json").write_text(json.dumps(stats))
    return {name: float(value) for name, value in stats.items()}


class TextShard:
    """The documents of one text.parquet, a batch at a time."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        with pq.ParquetFile(path) as file:
            self.num_documents = file.metadata.num_rows

    def batches(self) -> Iterator[list[str]]:
        """Documents in their order, at most BATCH_DOCS together."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(BATCH_DOCS, columns=["text"]):
                yield batch.column(0).to_pylist()


def write_rows(stage: Tokenize, tokenizer: Tokenizer, text: TextShard, place: Place) -> dict[str, int]:
    """rows.bin of one shard, and what is in it."""
    dtype, capacity = row_dtype(tokenizer.vocab_size), stage.sequence_len + 1
    token_bytes = tokenizer.token_bytes()  # (vocab_size,)
    counted = _Counted(stage, tokenizer, text, place)
    documents = counted.documents(capacity)
    if stage.packing == "best_fit":
        rows = best_fit(documents, capacity, stage.buffer_docs, tokenizer.bos)
    else:
        rows = stream(documents, capacity)
    kept_bytes = num_rows = added = 0
    half = place.out / "rows.bin.half"
    with half.open("wb", buffering=1 << 20) as file:
        for row in rows:
            kept_bytes += int(token_bytes[row].sum())
            num_rows += 1
            file.write(row.astype(dtype).tobytes())
    half.replace(place.out / "rows.bin")
    tokens = num_rows * capacity
    return {
        "rows": num_rows,
        "tokens": tokens,
        "bytes": kept_bytes,
        "documents": counted.num_documents,
        "text_bytes": counted.text_bytes,
    }
