"""Turns one shard of text into packed rows of tokens: a flat file that training maps into memory.

Promises: memory is bounded by the packing buffer, whatever the size of the shard; the rows do not depend on the number
of threads; `bytes` counts the text that the kept tokens stand for, so that bits per byte are of real text; no half file
has the final name. Not here: in which order rows are trained on (data/rows.py), how they fill
(data/document_packing.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nanochat.data.document_packing import best_fit, pieces, stream
from nanochat.data.rows import row_dtype

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer
    from nanochat.pipeline import Tokenize
    from nanochat.workflow.stage import StageContext


@dataclasses.dataclass
class RowStats:
    """What went in and what was kept; tokens of text, the beginning-of-sequence tokens not counted."""

    documents: int = 0
    encoded: int = 0
    rows: int = 0
    kept: int = 0
    kept_bytes: int = 0


def run(stage: Tokenize, ctx: StageContext) -> dict[str, float]:
    """Writes rows.bin, rows of sequence_len + 1 tokens each, and stats.json of this part.

    Raises:
        ValueError: the validation shard does not fill a single row; a training shard may, if another one does.
    """
    from nanochat.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(ctx["tokenizer"] / "tokenizer.json")
    written = write_rows(stage, tokenizer, ctx)
    if not written.rows and not ctx.part:
        documents = f"the {written.documents} documents of the validation shard"
        raise ValueError(f"tokenize.sequence_len = {stage.sequence_len}: {documents} do not fill one row: lower it")
    stats = {
        "rows": written.rows,
        "tokens": written.rows * (stage.sequence_len + 1),
        "bytes": written.kept_bytes,
        "documents": written.documents,
        "dropped_tokens": written.encoded - written.kept,
    }
    (ctx.out / "stats.json").write_text(json.dumps(stats), encoding="utf-8")
    return {name: float(value) for name, value in stats.items()}


def write_rows(stage: Tokenize, tokenizer: Tokenizer, ctx: StageContext) -> RowStats:
    """rows.bin of one shard, and the count of what is in it."""
    stats, capacity, bos = RowStats(), stage.sequence_len + 1, tokenizer.bos
    dtype, token_bytes = row_dtype(tokenizer.vocab_size), tokenizer.token_bytes()  # (vocab_size,)
    encoded = encode_documents(stage, tokenizer, ctx, stats)
    if stage.packing == "best_fit":
        split = (piece for ids in encoded for piece in pieces(ids, bos, capacity))
        rows = best_fit(split, capacity, stage.buffer_docs, bos)
    else:
        rows = stream((part for ids in encoded for part in (np.array([bos], np.uint32), ids)), capacity)
    half = ctx.out / "rows.bin.half"
    with half.open("wb", buffering=1 << 20) as file:
        for row in rows:
            file.write(row.astype(dtype).tobytes())
            stats.rows += 1
            stats.kept += int(np.count_nonzero(row != bos))
            stats.kept_bytes += int(token_bytes[row].sum())
    half.replace(ctx.out / "rows.bin")
    return stats


def encode_documents(stage: Tokenize, tokenizer: Tokenizer, ctx: StageContext, stats: RowStats) -> Iterator[np.ndarray]:
    """Ids of every document of the part, uint32 (n,), in order: those of `tokenizer.encode`, only faster."""
    import nanobpe
    import pyarrow.parquet as pq

    encoder = nanobpe.Encoder(tokenizer.tokens, tokenizer.pattern)
    shard = ctx["download"] / "text.parquet"
    total = pq.read_metadata(shard).num_rows
    for texts in nanobpe.read(shard):
        ids, offsets = encoder.encode_batch(texts, stage.threads or None)  # (tokens,), (texts + 1,)
        for start, end in itertools.pairwise(offsets.tolist()):
            stats.documents += 1
            stats.encoded += end - start
            yield ids[start:end]
        ctx.metrics.progress(stats.documents, total, "documents")


def gather(stage: Tokenize, ctx: StageContext) -> dict[str, float]:
    """Writes index.json, which says how to read the parts, and token_bytes.npy (int32, 0 for special tokens)."""
    from nanochat.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(ctx["tokenizer"] / "tokenizer.json")
    parts = [json.loads((part / "stats.json").read_text(encoding="utf-8")) for part in ctx.parts(stage.name)]
    if not any(part["rows"] for part in parts[1:]):
        documents = f"the {sum(part['documents'] for part in parts[1:])} documents of all training shards"
        raise ValueError(
            f"tokenize.sequence_len = {stage.sequence_len}: {documents} do not fill one row: lower it or take more text"
        )
    index = {
        "sequence_len": stage.sequence_len,
        "dtype": row_dtype(tokenizer.vocab_size).name,
        "vocab_size": tokenizer.vocab_size,
        "parts": parts,
    }
    np.save(ctx.out / "token_bytes.npy", tokenizer.token_bytes().astype(np.int32))
    (ctx.out / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    train = parts[1:]
    encoded = sum(part["tokens"] + part["dropped_tokens"] for part in train)
    return {
        "train_rows": float(sum(part["rows"] for part in train)),
        "train_tokens": float(sum(part["tokens"] for part in train)),
        "train_bytes": float(sum(part["bytes"] for part in train)),
        "validation_rows": float(parts[0]["rows"]),
        "dropped_share": sum(part["dropped_tokens"] for part in train) / max(encoded, 1),
    }
