"""Folders, buckets and databases as text and back: one function in each direction, used by everything.

Promises: a path reads as it was written, whatever characters it holds: `file:///data/run #1` is the folder `run #1`,
`s3://bucket/run?1` the prefix `run?1`. Nothing after `file://` or `s3://` is decoded, so that what a person typed, what
`ls` finds and what a worker is given are one place. Whoever needs a URL in the sense of RFC 3986 makes it from the path
(`Path.as_uri`, `sqlite_uri`). It touches no disk.
"""

from __future__ import annotations

import re
from pathlib import Path

FILE, S3 = "file://", "s3://"
INDEX = re.compile(r"\{index(?::0?\d*d)?\}")  # where the number of a shard stands in an address
FORMS = "give a folder, file:///FOLDER or s3://BUCKET/PREFIX"


def folder(text: str | Path) -> Path:
    """A path as people write it: `~` is their home directory. ValueError: there is no user of that name."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{str(text)!r}: {error}") from error


def file_uri(path: Path) -> str:
    """The store URI of a folder."""
    return f"{FILE}{path.absolute()}"


def folder_of(uri: str) -> Path:
    """The folder of a store URI, or of a plain path. ValueError: it is another kind of store, or none."""
    if uri.startswith(FILE):
        path = uri.removeprefix(FILE).removeprefix("localhost")
        if path.startswith(("/", "~")):
            return folder(path)
        raise ValueError(f"store = {uri!r}: write the absolute path after three slashes, {FILE}/{path}, or {FORMS}")
    if uri and "://" not in uri and not uri.startswith(("s3:", "file:")):
        return folder(uri)
    raise ValueError(f"store = {uri!r}: {FORMS}")


def is_bucket(uri: str) -> bool:
    """Whether it is a store in S3."""
    return uri.startswith(S3)


def bucket_of(uri: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://BUCKET/PREFIX`, that without slashes at its ends. ValueError without a bucket."""
    bucket, _, prefix = uri.removeprefix(S3).partition("/")
    if not is_bucket(uri) or not bucket:
        raise ValueError(f"store = {uri!r}: {FORMS}")
    return bucket, prefix.strip("/")


def sqlite_uri(database: Path) -> str:
    """The address of a SQLite file as SQLAlchemy reads it: a query begins at `?`, and `%` begins an escape."""
    return f"sqlite:///{str(database.absolute()).replace('%', '%25').replace('?', '%3F')}"
