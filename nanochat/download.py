"""Makes one shard of the corpus: from wherever it comes, to one parquet file with one column `text`.

Promises: the file is whole, every row of it was read once, empty documents are dropped and counted, and invalid text
is refused with its place; a shard that cannot be had fails the stage. It does not clean, filter or deduplicate what it
is given, and does not speak S3 (the flow lays an s3:// shard into the work folder).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import columns
from nanochat.corpus import FETCHED, HuggingFaceDataset, ParquetShards, PythonDocs, parse_source
from nanochat.fetch import Progress, fetch
from nanochat.locations import folder
from nanochat.redaction import redacted

if TYPE_CHECKING:
    from nanochat.metrics import Metrics
    from nanochat.pipeline import Download
    from nanochat.stage import Place

ROW_GROUP = 1024  # documents
HELD_OUT_EVERY = 100  # documents of a dataset without a validation shard


@dataclasses.dataclass
class Tally:
    """What is in the shard."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    dropped_documents: int = 0


def download(stage: Download, place: Place) -> dict[str, float]:
    """Writes text.parquet and stats.json of this part.

    Raises:
        ValueError: the source is not what the knobs say, with the shard in the message.
        ConnectionError: the shard could not be fetched.
    """
    assert place.part is not None
    source, facts = parse_source(stage), {}
    if isinstance(source, PythonDocs):
        from nanochat.python_docs import shard

        texts: Iterator[str | None] = iter(shard(place.part, source.environment))
        what = f"part {place.part} of {source.describe()}"
    elif isinstance(source, HuggingFaceDataset):
        texts, what = dataset_texts(source, place), f"part {place.part} of {source.describe()}"
    else:
        what = redacted(source.url_of_part(place.part))
        path, facts = obtain(stage, source, place)
        texts = parquet_texts(path, source.text_column, what, place)
    tally = write_texts(texts, place.out / "text.parquet", what, may_be_empty=place.part > 0)
    stats = dataclasses.asdict(tally)
    (place.out / "stats.json").write_text(json.dumps(stats | facts), encoding="utf-8")
    (place.work / FETCHED).unlink(missing_ok=True)
    return {name: float(value) for name, value in stats.items()}


def obtain(stage: Download, source: ParquetShards, place: Place) -> tuple[Path, dict[str, str]]:
    """The shard as a file of this machine, and the digest of what was fetched."""
    assert place.part is not None
    url, fetched = source.url_of_part(place.part), place.work / FETCHED
    what = redacted(url)
    if source.scheme == "file":
        path = source.path_of_part(place.part)
        if not path.is_file():
            raise ValueError(f"{what}: there is no such file; check download.url, num_shards and validation_shard")
        return path, {}
    if source.scheme == "s3":
        if not fetched.is_file():
            raise ValueError(f"{what}: only the flow fetches from s3://: start this recipe with `nanochat run`")
        return fetched, {}
    progress = _progress_of(place.metrics)
    sha256 = fetch(url, fetched, timeout=stage.timeout_seconds, attempts=stage.retries, progress=progress)
    return fetched, {"url": what, "sha256": sha256}


def _progress_of(metrics: Metrics) -> Progress:
    """Writes down at most one line a second: blocks come by the thousand."""
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= 1:
            last = time.monotonic()
            metrics.progress(done, total, "bytes")

    return progress


def parquet_texts(path: Path, column: str, what: str, place: Place) -> Iterator[str | None]:
    """Every document of a parquet file, one row group in memory at a time."""
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
                place.metrics.progress(group + 1, groups, "row groups")
            rows = file.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        if path == place.work / FETCHED:
            path.unlink()  # fetched anew by the next attempt
        raise ValueError(f"{what}: not a whole parquet file: {error}") from error
    if seen != rows:
        raise ValueError(f"{what}: its footer promises {rows} rows, {seen} were read: the file is damaged")


def dataset_texts(source: HuggingFaceDataset, place: Place) -> Iterator[str | None]:
    """Documents of one file of the dataset, streamed.

    With validation_shard = -1, part 0 is every hundredth document of the first file, which part 1 then leaves out.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when `datasets` is imported
    from datasets import load_dataset

    where = str(folder(source.path)) if source.path.startswith("~") else source.path
    dataset = load_dataset(where, source.config, split=source.split, streaming=True)
    part, inside = place.part or 0, source.validation_shard < 0
    file = part - 1 if part else max(source.validation_shard, 0)
    if file >= dataset.num_shards:
        raise ValueError(
            f"download.num_shards or validation_shard: {source.describe()} has {dataset.num_shards} files, "
            f"there is no number {file} (they count from 0)"
        )
    for number, row in enumerate(dataset.shard(dataset.num_shards, file)):
        if source.text_column not in row:
            raise ValueError(f"download.text_column = {source.text_column!r}: {source.describe()} has {', '.join(row)}")
        if number % ROW_GROUP == 0:
            place.metrics.progress(number, 0, "documents")  # how many there are is known when they are read
        held_out = inside and file == 0 and number % HELD_OUT_EVERY == 0
        if not inside or held_out == (part == 0):
            yield row[source.text_column]


def write_texts(texts: Iterator[str | None], path: Path, what: str, *, may_be_empty: bool = False) -> Tally:
    """The documents that are not empty, in row groups of 1,024; the file gets its name when it is whole.

    Raises:
        ValueError: not one document where there must be some, or one that is not text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tally, half = Tally(), path.with_name(path.name + ".half")
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    with pq.ParquetWriter(half, schema, compression="zstd", compression_level=3, use_dictionary=False) as writer:
        for group in _groups(texts, tally, what):
            writer.write_table(pa.table({"text": group}, schema=schema), row_group_size=ROW_GROUP)
    if not tally.documents:
        trouble = f"{what}: has no text ({tally.dropped_documents} empty documents)"
        if not may_be_empty:
            raise ValueError(trouble)
        print(f"{trouble}: it adds nothing to the training text", file=sys.stderr)
    half.replace(path)
    return tally


def _groups(texts: Iterator[str | None], tally: Tally, what: str) -> Iterator[list[str]]:
    group: list[str] = []
    for number, text in enumerate(texts):
        if text is None or text == "" or (isinstance(text, str) and text.isspace()):
            tally.dropped_documents += 1
            continue
        tally.bytes += _size(text, f"{what}, document {number}")
        tally.characters += len(text)
        tally.documents += 1
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


def gather(stage: Download, place: Place) -> dict[str, float]:
    """Writes index.json: the source and what each part holds. ValueError: no training shard has any text."""
    parts = [json.loads((part / "stats.json").read_text(encoding="utf-8")) for part in place.parts(stage.name)]
    if not any(part["documents"] for part in parts[1:]):
        shards = f"none of the {len(parts) - 1} training shards of {parse_source(stage).describe()}"
        raise ValueError(f"{shards} has any text: check download.url, text_column and num_shards")
    index = {"source": parse_source(stage).describe(), "parts": parts}
    (place.out / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    train = parts[1:]
    return {
        "train_documents": float(sum(part["documents"] for part in train)),
        "train_bytes": float(sum(part["bytes"] for part in train)),
        "validation_documents": float(parts[0]["documents"]),
        "validation_bytes": float(parts[0]["bytes"]),
    }
