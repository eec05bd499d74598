"""Forces what was written to the disk, so that after a power cut no name stands for half a file.

A file is written under another name, synced and renamed; the rename lasts once its directory is synced. Does not cover
writing.
"""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Waits until a file's bytes, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
