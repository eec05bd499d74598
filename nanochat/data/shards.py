"""Shards of text as files: read from parquet or a Hugging Face data set, written as one column `text`, read again in
batches.

Promises: every row is read once, empty documents are dropped and counted, invalid text is refused with its place, a
written file has its name only when it is whole; memory is bounded by a row group. Not here: fetching (fetch.py), which
shard is which (sources.py).
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nanochat.data import columns
from nanochat.data.sources import HuggingFaceDataset
from nanochat.locations import folder

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int, int, str], None]  # done, in total (0: unknown), of what
Text = TypeVar("Text", str, str | None)
ROW_GROUP = 1024  # documents
HELD_OUT_EVERY = 100  # documents of a source without a validation shard
COUNTS = "words.counts"  # of a counted shard


@dataclasses.dataclass
class ShardStats:
    """What is in the shard."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    dropped_documents: int = 0


def parquet_texts(
    path: Path, column: str, what: str, progress: Progress, *, disposable: bool = False
) -> Iterator[str | None]:
    """Every document of a parquet file, one row group in memory at a time.

    Args:
        what: how errors call the file.
        disposable: a damaged file is deleted, so that the next attempt fetches it anew.

    Raises:
        ValueError: it is not whole, or the column holds no text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    seen = 0
    try:
        with pq.ParquetFile(path) as file:
            columns.check(file.schema_arrow, column, what)
            groups = file.metadata.num_row_groups
            for group in range(groups):
                for batch in file.iter_batches(ROW_GROUP, row_groups=[group], columns=[column]):
                    yield from columns.texts(batch, column, f"{what}, row group {group}")
                    seen += len(batch)
                progress(group + 1, groups, "row groups")
            rows = file.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        if disposable:
            path.unlink()
        raise ValueError(f"{what}: not a whole parquet file: {error}") from error
    if seen != rows:
        raise ValueError(f"{what}: its footer promises {rows} rows, {seen} were read: the file is damaged")


def dataset_texts(source: HuggingFaceDataset, part: int, progress: Progress) -> Iterator[str | None]:
    """Documents of one file of the dataset, streamed; part 0 is for validation.

    With validation_shard = -1, part 0 is every hundredth document of the first file, which part 1 then leaves out.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when `datasets` is imported
    from datasets import load_dataset

    where = str(folder(source.path)) if source.path.startswith("~") else source.path
    dataset = load_dataset(where, source.config, split=source.split, streaming=True)
    inside = source.validation_shard < 0
    file = part - 1 if part else max(source.validation_shard, 0)
    if file >= dataset.num_shards:
        raise ValueError(
            f"download.num_shards or validation_shard: {source.describe()} has {dataset.num_shards} files, "
            f"there is no number {file} (they count from 0)"
        )
    texts = _column(dataset.shard(dataset.num_shards, file), source, progress)
    yield from held_out(texts, part) if inside and file == 0 else texts


def _column(rows: Iterable[dict[str, Any]], source: HuggingFaceDataset, progress: Progress) -> Iterator[str | None]:
    for number, row in enumerate(rows):
        if source.text_column not in row:
            raise ValueError(f"download.text_column = {source.text_column!r}: {source.describe()} has {', '.join(row)}")
        if number % ROW_GROUP == 0:
            progress(number, 0, "documents")  # how many there are is known when they are read
        yield row[source.text_column]


def held_out(texts: Iterable[Text], part: int) -> Iterator[Text]:
    """Of the first shard of a source that pins none: every hundredth document for part 0, the others for part 1."""
    return (text for number, text in enumerate(texts) if (number % HELD_OUT_EVERY == 0) == (part == 0))


def write_texts(texts: Iterator[str | None], path: Path, what: str, *, may_be_empty: bool = False) -> ShardStats:
    """The documents that are not empty, in row groups of 1,024; the file gets its name when it is whole.

    Raises:
        ValueError: not one document where there must be some, or one that is not text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stats, half = ShardStats(), path.with_name(path.name + ".half")
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    with pq.ParquetWriter(half, schema, compression="zstd", compression_level=3, use_dictionary=False) as writer:
        for group in _groups(texts, stats, what):
            writer.write_table(pa.table({"text": group}, schema=schema), row_group_size=ROW_GROUP)
    if not stats.documents:
        trouble = f"{what}: has no text ({stats.dropped_documents} empty documents)"
        if not may_be_empty:
            raise ValueError(trouble)
        print(f"{trouble}: it adds nothing to the training text", file=sys.stderr)
    half.replace(path)
    return stats


def _groups(texts: Iterator[str | None], stats: ShardStats, what: str) -> Iterator[list[str]]:
    group: list[str] = []
    for number, text in enumerate(texts):
        if text is None or text == "" or (isinstance(text, str) and text.isspace()):
            stats.dropped_documents += 1
            continue
        stats.bytes += _size(text, f"{what}, document {number}")
        stats.characters += len(text)
        stats.documents += 1
        group.append(text)
        if len(group) == ROW_GROUP:
            yield group
            group = []
    if group:
        yield group


def _size(text: Any, what: str) -> int:
    if not isinstance(text, str):
        raise ValueError(f"{what} is no text but of type {type(text).__name__}: check download.text_column")
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can spell
        raise ValueError(f"{what} cannot be written as UTF-8: {error}") from error


def text_batches(file: Path) -> Iterator[pa.Array]:
    """The texts of a shard, in order, never more than a batch in memory."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as shard:
        for batch in shard.iter_batches(batch_size=ROW_GROUP, columns=["text"]):
            yield batch.column(0)


def truncated_texts(batches: Iterable[pa.Array], most: int, most_per_text: int) -> Iterator[pa.Array]:
    """The beginnings of the texts, up to `most_per_text` characters each, until they make `most` together."""
    import pyarrow.compute as pc

    for batch in (some.drop_null() for some in batches):
        texts = pc.utf8_slice_codeunits(batch, 0, min(most, most_per_text))
        ends = pc.cumulative_sum(pc.utf8_length(texts).cast("int64"))  # characters up to the end of each text
        whole = pc.sum(pc.less_equal(ends, most)).as_py() or 0
        yield texts[:whole]
        most -= ends[whole - 1].as_py() if whole else 0
        if whole < len(texts):
            yield pc.utf8_slice_codeunits(texts[whole : whole + 1], 0, most)
            return
        if not most:
            return
