"""Fetches shards that lie behind s3:// for the download stage, whose own process knows no object store.

The shard is put into the stage's work directory as `source.parquet`, where the library looks for it. Everything else
(https, file, datasets) the library fetches itself.
"""

from __future__ import annotations

from pathlib import Path

from flows import store as stores
from nanochat.data.sources import FETCHED, ParquetShards, parse_source
from nanochat.locations import bucket_of
from nanochat.pipeline import Download
from nanochat.workflow.runner import Job


def fetch(job: Job, work: Path) -> None:
    """Brings the shard of a download part that lies in S3; nothing for any other job.

    ValueError: the bucket or the shard does not exist, or the credentials do not reach it.
    """
    stage = job.stage
    if not isinstance(stage, Download) or job.part is None or not stage.url.startswith("s3://"):
        return
    source = parse_source(stage)
    assert isinstance(source, ParquetShards), source
    target = work / FETCHED
    if not target.exists():
        stores.download_object(*bucket_of(source.url_of_part(job.part.index)), target)
