"""A folder of one's own as a corpus, or a single file: which files of it are read, its label and its digest.

Parquet, JSON lines and plain text or Markdown, the latter two also as .gz and .zst. Promises: hidden files are passed
over, and beside other text a .json that is no lines; the order is that of relative paths; the digest depends on names,
sizes and content, never on where the folder lies, and what it is refused for names knob, path and remedy. Standard
library only. Not here: reading the files (text_files.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nanochat.locations import folder

SCHEME = "folder:"  # of download.url, before the absolute path; also of a single file
COMPRESSED = (".gz", ".zst")
LINES = (".jsonl", ".json")
PROSE = (".txt", ".md")
PARQUET = ".parquet"
READABLE = f"{PARQUET}, {', '.join((*LINES, *PROSE))}, the latter four also with {' or '.join(COMPRESSED)}"
MIB = 1 << 20
HASHED_WHOLE = 64 * MIB  # of a larger file: its size and three MiB of it


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file that can be read, with its name within the folder."""

    path: Path
    name: str
    size: int  # bytes on disk

    @property
    def compression(self) -> str:
        """`.gz`, `.zst`, or nothing."""
        return _suffixes(self.name)[1]

    @property
    def format(self) -> str:
        """`.parquet`, `.jsonl`, `.json`, `.txt` or `.md`."""
        return _suffixes(self.name)[0]


def is_path(corpus: str) -> bool:
    """Whether download.corpus is a place on this machine and no name."""
    return corpus in (".", "..", "~") or corpus.startswith(("/", "~", "./", "../"))


def absolute(path: str) -> Path:
    """The path as it is written, from the root on; links stay links."""
    return Path(os.path.normpath(folder(path).absolute()))


def label(path: Path) -> str:
    """What addresses call the folder or file: its own name in the letters that they take."""
    name = path.name
    format, compression = _suffixes(name)
    name = name[: len(name) - len(format) - len(compression)] if format else name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:60] or "folder"


def listing(path: Path) -> tuple[list[TextFile], str]:
    """The files to read, by relative path, and what else lies there, as `3 .pdf, 1 .doc`.

    Raises:
        ValueError: there is no such folder or file, it cannot be looked into, or nothing in it can be read.
    """
    where = f"download.corpus: {path}"
    if not path.exists():
        raise ValueError(f"{where}: there is no such folder or file; give one of your own, or the name of a corpus")
    found: list[TextFile] = []
    others: Counter[str] = Counter()
    try:
        for each in [path] if path.is_file() else _walk(path, ()):
            name = each.name if each == path else each.relative_to(path).as_posix()
            format, compression = _suffixes(name)
            size = each.stat().st_size if each.is_file() else 0
            if format and size and not (format == PARQUET and compression):
                found.append(TextFile(each, name, size))
            else:
                others[each.suffix if size or not each.is_file() else "empty"] += 1
    except OSError as error:
        raise ValueError(f"{where}: cannot be looked into: {error}") from error
    lines = [file for file in found if _is_text(file)]
    if lines:  # what lies beside text is about it: an index, a description
        others[".json"] += len(found) - len(lines)
        found = lines
    often = sorted((+others).items(), key=lambda item: (-item[1], item[0]))[:9]
    ignored = ", ".join(f"{count} {kind or 'without a suffix'}" for kind, count in often)
    if not found:
        raise ValueError(f"{where}: no readable file: found {ignored or 'nothing'}; it takes {READABLE}")
    return sorted(found, key=lambda file: file.name), ignored


def _is_text(file: TextFile) -> bool:
    """Not so a small .json whose first line is no whole object: that is one value over many lines."""
    if file.format != ".json" or file.compression or file.size >= MIB:  # too much for a description
        return True
    try:
        with file.path.open("rb") as opened:
            return isinstance(json.loads(next(filter(bytes.strip, opened), b"")), dict)
    except ValueError:
        return False


def _walk(directory: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """Everything below but hidden files; links to folders are followed, unless they lead up again."""
    here = os.path.realpath(directory)
    if here in above:
        return
    for each in directory.iterdir():
        if each.name.startswith("."):
            continue
        if each.is_dir():
            yield from _walk(each, (*above, here))
        else:
            yield each


def _suffixes(name: str) -> tuple[str, str]:
    """The format and the compression that a file's name promises; two times nothing for other files."""
    lower = name.lower()
    compression = next((suffix for suffix in COMPRESSED if lower.endswith(suffix)), "")
    bare = lower.removesuffix(compression)
    format = next((suffix for suffix in (PARQUET, *LINES, *PROSE) if bare.endswith(suffix)), "")
    return (format, compression) if format else ("", "")


def digest(path: Path, num_shards: int) -> str:
    """12 hex digits of the files' names, sizes and content, and of the number of shards they are dealt out to.

    Of a file of more than 64 MiB, the content is its first, middle and last MiB. ValueError as for `listing`, or a
    file that cannot be opened.
    """
    from concurrent.futures import ThreadPoolExecutor  # hashing lets other threads run

    files, _ = listing(path)
    try:
        with ThreadPoolExecutor() as pool:
            contents = list(pool.map(_content, files))
    except OSError as error:
        raise ValueError(f"download.corpus: {path}: cannot be read: {error}") from error
    lines = [f"{file.name}\0{file.size}\0{content}" for file, content in zip(files, contents, strict=True)]
    whole = "\n".join([f"shards {num_shards}", *lines])
    return hashlib.sha256(whole.encode(errors="surrogateescape")).hexdigest()[:12]


def _content(file: TextFile) -> str:
    with file.path.open("rb") as opened:
        if file.size <= HASHED_WHOLE:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        hashed = hashlib.sha256()
        for start in (0, file.size // 2, file.size - MIB):
            opened.seek(start)
            hashed.update(opened.read(MIB))
        return hashed.hexdigest()


def check_unchanged(path: Path, num_shards: int, planned: str) -> None:
    """ValueError, if the files are not those of which the digest was taken."""
    if planned != "auto" and (found := digest(path, num_shards)) != planned:
        raise ValueError(
            f"download.corpus: {path} has changed since the run was planned (environment {planned}, now {found}): "
            "start it again"
        )
