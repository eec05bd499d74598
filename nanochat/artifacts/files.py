"""Files that are whole or not there: forced to the disk, so that after a power cut no name stands for half a one.

A file is written under another name, synced and renamed; the rename lasts once its directory is synced.
"""

import hashlib
import os
from pathlib import Path


def write_aside(path: Path, text: str, suffix: str = "fresh") -> None:
    """Writes a small file under another name and renames it, so that no reader finds half of it.

    `suffix` tells those apart who may write it at the same time; of one writer, what a kill left is written over.
    """
    fresh = path.with_name(f".{path.name}.{suffix}")
    fresh.write_text(text, encoding="utf-8")
    sync(fresh)
    fresh.replace(path)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Digest of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
