"""Reads the files of a folder of one's own: documents of parquet, JSON lines and prose, and which part has which.

Promises: whatever the number of shards, every document that has text is in exactly one part; one file at a time is open
and a document in memory; what is cut off, not UTF-8 or not JSON is refused with the file's name and the line. Prose is
cut at blank lines. Not here: which files there are (own_text.py), counting and writing the documents (shards.py).
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, cast

from nanochat.data import json_lines
from nanochat.data.own_text import LINES, PARQUET, TextFile
from nanochat.data.shards import Progress, held_out, parquet_texts

DOCUMENT = 2_000  # characters of prose, at which the next blank line ends a document
LONGEST = 100_000  # characters without a blank line, at which any line does


def part_texts(
    files: list[TextFile], column: str, part: int, num_shards: int, progress: Progress
) -> Iterator[str | None]:
    """Documents of one part; part 0 is every hundredth of the first shard, part i the i-th shard without those.

    Shard s has the files s, s + num_shards, ...; of fewer files than shards it has the documents of these numbers. What
    has no text gets no number; it comes last, as None.
    """
    shard, blank = max(part - 1, 0), 0
    by_file = len(files) >= num_shards
    mine = files[shard::num_shards] if by_file else files

    def with_text() -> Iterator[str]:
        nonlocal blank
        for number, file in enumerate(mine):
            progress(number, len(mine), "files")
            for text in documents(file, column):
                if text and not text.isspace():
                    yield text
                else:
                    blank += 1

    texts = with_text()
    if not by_file:
        texts = (text for number, text in enumerate(texts) if number % num_shards == shard)
    yield from held_out(texts, part) if shard == 0 else texts
    progress(len(mine), len(mine), "files")
    if part == 1 or (part and by_file):
        yield from [None] * blank


def documents(file: TextFile, column: str) -> Iterator[str | None]:
    """Every document of a file, also those without text.

    Raises:
        ValueError: the file is damaged or cut off, its text is not UTF-8, or it has no such column or field.
    """
    if file.format == PARQUET:
        yield from parquet_texts(file.path, column, str(file.path), lambda *_: None)
        return
    with opened(file) as stream:
        yield from documents_of(stream, file, column)


def documents_of(lines: Iterable[bytes], file: TextFile, column: str) -> Iterator[str | None]:
    """The same from the lines of a file that is no parquet."""
    if file.format in LINES:
        return (_field(row, column, where) for where, row in _rows(lines, file))
    return cut(_decoded(lines, file))


def _rows(lines: Iterable[bytes], file: TextFile) -> Iterator[tuple[str, json_lines.Row]]:
    try:
        yield from json_lines.read_lines(lines, str(file.path))
    except ValueError as error:
        remedy = "write one object a line, or keep the file out of the folder"
        raise ValueError(f"download.corpus: {error}: {remedy}") from None


@contextmanager
def opened(file: TextFile) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed. ValueError, if they cannot be read to the end."""
    import pyarrow as pa

    try:
        with ExitStack() as stack:
            if file.compression == ".zst":
                raw = stack.enter_context(pa.OSFile(str(file.path)))
                plain = stack.enter_context(pa.CompressedInputStream(raw, "zstd"))
                yield stack.enter_context(io.BufferedReader(plain))
            elif file.compression == ".gz":
                yield cast(BinaryIO, stack.enter_context(gzip.open(file.path)))
            else:
                yield stack.enter_context(file.path.open("rb"))
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise ValueError(f"download.corpus: {file.path}: is damaged or cut off: {error}") from error


def _field(row: json_lines.Row, column: str, where: str) -> str | None:
    """The text of a row; null is none."""
    if column not in row:
        able = ", ".join(name for name, value in row.items() if isinstance(value, str)) or "none of its fields is text"
        raise ValueError(f"download.text_column = {column!r}: {where} has no such field: take {able}")
    value = row[column]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"download.text_column = {column!r}: {where}: it is of type {type(value).__name__}, not text")
    return value


def _decoded(lines: Iterable[bytes], file: TextFile) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"download.corpus: {file.path}, line {number}: is not UTF-8 ({error.reason} at byte {error.start}): "
                "save it as UTF-8"
            ) from None
        yield text.removesuffix("\n").removesuffix("\r")


def cut(lines: Iterable[str]) -> Iterator[str]:
    """Prose as documents of at least 2,000 characters that end at a blank line; a shorter rest goes with the last.

    What has no blank line within 100,000 characters is cut at the end of a line.
    """
    complete, size = "", 0  # complete: a document that may still get the rest
    held: list[str] = []
    for line in lines:
        blank = not line or line.isspace()
        if held or not blank:
            held.append(line)
            size += len(line) + 1
        if size >= (DOCUMENT if blank else LONGEST) and len(text := "\n".join(held).rstrip()) >= DOCUMENT:
            if complete:
                yield complete
            complete, held, size = text, [], 0
    rest = "\n".join(held).rstrip()
    if complete and rest and len(rest) < DOCUMENT:
        complete, rest = f"{complete}\n\n{rest}", ""
    yield from (text for text in (complete, rest) if text)
