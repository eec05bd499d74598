"""Makes one shard of the corpus: from wherever it comes, to one parquet file with one column `text`.

Promises: the file is whole, every row of it was read once, empty documents are dropped and counted, and invalid text
is refused with its place; a shard that cannot be had fails the stage. It does not clean, filter or deduplicate what it
is given, and does not speak S3 (the flow lays an s3:// shard into the work folder).
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.data import own_text
from nanochat.data.fetch import Progress, fetch
from nanochat.data.shards import dataset_texts, parquet_texts, write_texts
from nanochat.data.sources import FETCHED, HuggingFaceDataset, OwnText, ParquetShards, PythonDocs, parse_source
from nanochat.data.text_files import part_texts
from nanochat.redaction import redacted

if TYPE_CHECKING:
    from nanochat.artifacts.metrics import Metrics
    from nanochat.pipeline import Download
    from nanochat.workflow.stage import StageContext


def run(stage: Download, ctx: StageContext) -> dict[str, float]:
    """Writes text.parquet and stats.json of this part.

    Raises:
        ValueError: the source is not what the knobs say, with the shard in the message.
        ConnectionError: the shard could not be fetched.
    """
    assert ctx.part is not None
    source = parse_source(stage)
    facts: dict[str, str] = {}
    if isinstance(source, PythonDocs):
        from nanochat.data.python_docs import shard

        texts: Iterator[str | None] = iter(shard(ctx.part, source.environment))
        what = f"part {ctx.part} of {source.describe()}"
    elif isinstance(source, OwnText):
        what = f"part {ctx.part} of {source.describe()}"
        own_text.check_unchanged(source.path, source.num_shards, source.environment)
        files, ignored = own_text.listing(source.path)
        if ignored:
            print(f"{source.path}: {ignored} ignored: it takes {own_text.READABLE}", file=sys.stderr)
        texts = part_texts(files, source.text_column, ctx.part, source.num_shards, ctx.metrics.progress)
        facts = {"files": str(len(files)), "ignored": ignored}
    elif isinstance(source, HuggingFaceDataset):
        what = f"part {ctx.part} of {source.describe()}"
        texts = dataset_texts(source, ctx.part, ctx.metrics.progress)
    else:
        what = redacted(source.url_of_part(ctx.part))
        path, facts = obtain(stage, source, ctx)
        disposable = path == ctx.work / FETCHED
        texts = parquet_texts(path, source.text_column, what, ctx.metrics.progress, disposable=disposable)
    written = write_texts(texts, ctx.out / "text.parquet", what, may_be_empty=ctx.part > 0)
    stats = dataclasses.asdict(written)
    (ctx.out / "stats.json").write_text(json.dumps(stats | facts), encoding="utf-8")
    (ctx.work / FETCHED).unlink(missing_ok=True)
    return {name: float(value) for name, value in stats.items()}


def obtain(stage: Download, source: ParquetShards, ctx: StageContext) -> tuple[Path, dict[str, str]]:
    """The shard as a file of this machine, and the digest of what was fetched."""
    assert ctx.part is not None
    url, fetched = source.url_of_part(ctx.part), ctx.work / FETCHED
    what = redacted(url)
    if source.scheme == "file":
        path = source.path_of_part(ctx.part)
        if not path.is_file():
            raise ValueError(f"{what}: there is no such file; check download.url, num_shards and validation_shard")
        return path, {}
    if source.scheme == "s3":
        if not fetched.is_file():
            raise ValueError(f"{what}: only the flow fetches from s3://: start this recipe with `nanochat run`")
        return fetched, {}
    progress = progress_of(ctx.metrics)
    sha256 = fetch(
        url,
        fetched,
        timeout=stage.timeout_seconds,
        attempts=stage.retries,
        knob="download.retries",
        progress=progress,
    )
    return fetched, {"url": what, "sha256": sha256}


def progress_of(metrics: Metrics) -> Progress:
    """Writes down at most one line a second: blocks come by the thousand."""
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= 1:
            last = time.monotonic()
            metrics.progress(done, total, "bytes")

    return progress


def gather(stage: Download, ctx: StageContext) -> dict[str, float]:
    """Writes index.json: the source and what each part holds. ValueError: no training shard has any text."""
    parts = [json.loads((part / "stats.json").read_text(encoding="utf-8")) for part in ctx.parts(stage.name)]
    if not any(part["documents"] for part in parts[1:]):
        shards = f"none of the {len(parts) - 1} training shards of {parse_source(stage).describe()}"
        raise ValueError(f"{shards} has any text: check download.url, text_column and num_shards")
    index = {"source": parse_source(stage).describe(), "parts": parts}
    (ctx.out / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    train = parts[1:]
    return {
        "train_documents": float(sum(part["documents"] for part in train)),
        "train_bytes": float(sum(part["bytes"] for part in train)),
        "validation_documents": float(parts[0]["documents"]),
        "validation_bytes": float(parts[0]["bytes"]),
    }
