"""Reads files of texts in blocks, so that no text becomes a Python object: Parquet, JSON lines and plain text.

Promises that memory holds two batches at the most, that missing files and unknown suffixes are refused before any
work, and that an error names the file and its row or line. Does not cover compressed text or remote files.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from nanobpe._nanobpe import (
    FileFormatError,
    NanobpeError,
    Texts,
    arrow_texts,
    json_texts,
    last_cut,
    plain_texts,
)

PARQUET = (".parquet",)
JSON_LINES = (".jsonl", ".ndjson", ".json")
PLAIN = (".txt", ".md")
MOST_ROWS = 1 << 14  # in a batch, whatever the file says of how long its texts are


def read(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    column: str = "text",
    batch_bytes: int = 4 << 20,
    ahead: bool = True,
) -> Iterator[Texts]:
    """The texts of files, a batch at a time, for `count` and `train`.

    By suffix: `.parquet` (the strings of `column`; needs pyarrow, `pip install 'nanobpe[parquet]'`), `.jsonl`,
    `.ndjson` and `.json` (an object a line, the string under the key `column`), `.txt` and `.md` (UTF-8). A null is no
    text. Plain text is cut into documents after line ends that something visible but a slash follows, which no word
    crosses that a pattern of the GPT-4 family makes (cl100k, o200k, `GPT4_PATTERN`); words of other patterns may.

    A batch is about `batch_bytes` of text, but never less than one row, line, or stretch of plain text that cannot be
    cut; memory holds two. With `ahead`, a thread reads the next batch while this one is used.

    Raises at once FileNotFoundError or another OSError for what is no readable file, FileFormatError for another suffix
    or if pyarrow is missing; and when the file is reached, OSError if it has vanished, FileFormatError if it is damaged
    or has no such column, TextError for a row or line (from 0 and from 1) that is not UTF-8, not JSON, or without text.
    """
    if batch_bytes < 1:
        raise NanobpeError(f"batch_bytes={batch_bytes}: give at least 1")
    files = [Path(path) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    for path in files:
        reader_of(path)
        with path.open("rb"):
            pass
    batches = (batch for path in files for batch in reader_of(path)(path, column, batch_bytes))
    return one_ahead(batches) if ahead else batches


def reader_of(path: Path) -> Callable[[Path, str, int], Iterator[Texts]]:
    suffix = path.suffix.lower()
    if suffix in PARQUET:
        import_parquet(path)
        return read_parquet
    if suffix in JSON_LINES:
        return read_json_lines
    if suffix in PLAIN:
        return read_plain
    known = ", ".join(PARQUET + JSON_LINES + PLAIN)
    raise FileFormatError(
        f"{path}: nanobpe reads {known}; convert or decompress it, or hand its texts to `count` itself"
    )


def one_ahead(batches: Iterator[Texts]) -> Iterator[Texts]:
    with ThreadPoolExecutor(1, "nanobpe-read") as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def import_parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise FileFormatError(f"{path}: Parquet needs pyarrow: pip install 'nanobpe[parquet]'") from error
    return pyarrow.parquet


def read_parquet(path: Path, column: str, batch_bytes: int) -> Iterator[Texts]:
    parquet = import_parquet(path)
    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if column not in columns:
                raise FileFormatError(f"{path}: no column {column!r}; it has {', '.join(map(repr, columns))}")
            yield from read_row_groups(file, path, column, batch_bytes)
    except NanobpeError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise type(error)(error.errno, error.strerror or str(error), fspath(path)) from error
        raise FileFormatError(f"{path}: not a whole Parquet file: {error}") from error
    except (ValueError, LookupError, NotImplementedError) as error:  # which those of pyarrow are
        raise FileFormatError(f"{path}: not a whole Parquet file: {error}") from error


def read_row_groups(file: Any, path: Path, column: str, batch_bytes: int) -> Iterator[Texts]:
    first_row = 0
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        places = [group.column(at) for at in range(group.num_columns)]
        own = [place for place in places if f"{place.path_in_schema}.".startswith(f"{column}.")]
        size = max(1, sum(place.total_uncompressed_size for place in own))
        rows = min(MOST_ROWS, max(1, batch_bytes * group.num_rows // size))
        for batch in file.iter_batches(rows, row_groups=[number], columns=[column]):
            yield arrow_texts(strings(batch.column(0), path, column), shown(path), first_row)
            first_row += batch.num_rows


def strings(array: Any, path: Path, column: str) -> Any:
    """The array as one of strings or of bytes, from the ways to encode them that Parquet files ask for."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not any(is_kind(array.type) for is_kind in kinds):
        raise FileFormatError(f"{path}: the column {column!r} holds {array.type}, not text")
    return array


def read_json_lines(path: Path, column: str, batch_bytes: int) -> Iterator[Texts]:
    line = 1
    for lines in blocks(path, batch_bytes, lambda block: block.rfind(b"\n") + 1):
        marked = line == 1 and lines.startswith(b"\xef\xbb\xbf")  # the byte order mark of some editors
        texts, num_lines = json_texts(lines[3:] if marked else lines, shown(column), shown(path), line)
        line += num_lines
        yield texts


def read_plain(path: Path, column: str, batch_bytes: int) -> Iterator[Texts]:
    start = 0
    for block in blocks(path, batch_bytes, last_cut):
        yield plain_texts(block, shown(path), start)
        start += len(block)


def shown(name: Path | str) -> str:
    """A name as UTF-8 has it: names of files may be any bytes."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def blocks(path: Path, num_bytes: int, cut: Callable[[bytes], int]) -> Iterator[bytes]:
    """The bytes of a file in blocks that end where `cut` says; longer ones where it finds nothing (0)."""
    with path.open("rb") as file:
        parts: list[bytes] = []
        while part := file.read(num_bytes):
            end = cut(part)
            if end:
                yield b"".join([*parts, part[:end]])
                parts = []
            parts.append(part[end:])
        if rest := b"".join(parts):
            yield rest
