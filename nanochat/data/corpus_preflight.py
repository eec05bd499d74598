"""How much text a source has, and whether it can be read, as far as this machine can tell without a network.

Promises: a shard, folder or column that is not there is refused before any work, with knob and remedy; small folders
of one's own are read whole, so that no line of them fails later. Sizes that are not counted are estimated from the
beginning of a file. Not here: what the knobs mean (sources.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nanochat.data import columns, own_text
from nanochat.data.own_text import MIB, TextFile
from nanochat.data.sources import (
    PYTHON_DOCS_SHARDS,
    HuggingFaceDataset,
    OwnText,
    ParquetShards,
    PythonDocs,
    SourceKnobs,
    parse_source,
    python_files,
)
from nanochat.locations import folder
from nanochat.redaction import redacted

TEXT_SHARE = 0.19  # text per byte of .py files: 50.4 of 266.9 MB in this project's own environment
READ_WHOLE = 16 * MIB  # of a folder: half a second


def preflight(knobs: SourceKnobs) -> int | None:
    """Bytes of text there are to train on; None where this machine cannot tell.

    Raises:
        ValueError: a shard of a file:// source, a local dataset or a folder is not there, damaged, or has no such
            column.
    """
    source = parse_source(knobs)
    if isinstance(source, PythonDocs):
        size = sum(path.stat().st_size for path in python_files() if path.suffix == ".py")
        return int(TEXT_SHARE * size * knobs.num_shards / PYTHON_DOCS_SHARDS)
    if isinstance(source, OwnText):
        return _own_text_bytes(source)
    if isinstance(source, HuggingFaceDataset):
        if source.path.startswith(("/", ".", "~")) and not folder(source.path).is_dir():
            raise ValueError(f"download.url = {knobs.url!r}: there is no folder {source.path}")
        return None
    if source.scheme != "file":
        return None
    return sum([_shard_bytes(source, part) for part in range(knobs.num_shards + 1)][1:])


def _shard_bytes(source: ParquetShards, part: int) -> int:
    path = source.path_of_part(part)
    what = f"shard {redacted(source.url_of_part(part))} of download.url"
    if not path.is_file():
        raise ValueError(f"{what}: there is no such file; check the pattern, num_shards and validation_shard")
    return _column_size(path, source.text_column, what)[0]


def _column_size(path: Path, column: str, what: str) -> tuple[int, int]:
    """Uncompressed bytes of the text column and rows of a parquet file, from the footer alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer, schema = pq.read_metadata(path), pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{what}: not a readable parquet file: {error}") from error
    columns.check(schema, column, what)
    index = [footer.schema.column(i).path for i in range(footer.num_columns)].index(column)
    groups = (footer.row_group(i).column(index) for i in range(footer.num_row_groups))
    return sum(group.total_uncompressed_size for group in groups), footer.num_rows


def _own_text_bytes(source: OwnText) -> int:
    files, _ = own_text.listing(source.path)
    size = documents = 0
    budget = READ_WHOLE
    for file in files:
        if file.format == own_text.PARQUET:
            found = _column_size(file.path, source.text_column, str(file.path))
        elif file.size <= budget:
            budget -= file.size
            found = _read_whole(file, source.text_column)
        else:
            found = _estimated(file, source.text_column)
        size, documents = size + found[0], documents + found[1]
    if documents < 2:
        raise ValueError(
            f"download.corpus: {source.path} has {documents} documents: one is held out, so there must be two at least"
        )
    return size


def _read_whole(file: TextFile, column: str) -> tuple[int, int]:
    """Bytes of text and documents of a file."""
    from nanochat.data.text_files import documents

    sizes = [len(text.encode()) for text in documents(file, column) if text and not text.isspace()]
    return sum(sizes), len(sizes)


def _estimated(file: TextFile, column: str) -> tuple[int, int]:
    """The same, from the first MiB; how much a compressed file holds is seen by compressing that."""
    import pyarrow as pa

    from nanochat.data.text_files import documents_of, opened

    with opened(file) as stream:
        lines = list(_beginning(stream))
    sizes = [len(text.encode()) for text in documents_of(lines, file, column) if text]
    sample = b"".join(lines)
    codec = {"": None, ".gz": "gzip", ".zst": "zstd"}[file.compression]
    packed = len(pa.compress(sample, codec, asbytes=True)) if codec else len(sample)
    times = max(1.0, file.size / max(1, packed))
    return int(sum(sizes) * times), int(len(sizes) * times)


def _beginning(stream: BinaryIO) -> Iterator[bytes]:
    """Whole lines, until they make a MiB."""
    size = 0
    for line in stream:
        yield line
        size += len(line)
        if size >= MIB:
            return
