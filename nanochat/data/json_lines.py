"""Reads JSON lines that somebody else wrote: every row with its place, every refusal with file and line.

Promises: blank lines and a byte-order mark are passed over; a line ends at a newline only (U+2028 is a part of a text);
what is not UTF-8, not JSON, or holds half a surrogate pair (which no file could hold again) is a ValueError that names
the line, and so is a field that is not what `text`, `texts` or `index` want. Nothing else is raised but OSError.
Standard library only.
"""

from __future__ import annotations

import codecs
import json
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path | zipfile.Path) -> Iterator[tuple[str, Row]]:
    """The objects of a file, each with where it stands: `FILE, line N`."""
    return ((where, _object(value, where)) for where, value in read_values(path))


def read_lines(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, Row]]:
    """The same from the lines of a file that is open already."""
    return ((where, _object(value, where)) for where, value in _values(lines, name))


def read_values(path: Path | zipfile.Path) -> Iterator[tuple[str, Any]]:
    """The values of a file, whatever they are, each with where it stands."""
    with path.open("rb") as file:
        yield from _values(file, str(path))


def _values(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, start=1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if content.strip():
            where = f"{name}, line {number}"
            yield where, parsed(content, where)


def parsed_object(content: bytes, where: str) -> Row:
    """The object that a line spells."""
    return _object(parsed(content, where), where)


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: needs an object, found {type(value).__name__}")
    return value


def parsed(content: bytes, where: str) -> Any:
    """The value that some JSON spells, which could be written as UTF-8 again."""
    try:
        value = json.loads(
            content.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once_each
        )
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: is not UTF-8 ({error.reason} at byte {error.start})") from None
    except UnicodeEncodeError as error:
        pair = error.object[error.start : error.start + 1]
        raise ValueError(f"{where}: {pair!r} is half of a character (a surrogate): correct the text") from None
    except RecursionError:
        raise ValueError(f"{where}: is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits} is too large a number")
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> Row:
    """Of two fields of one name a reader would take one without a word."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in row if names.count(name) > 1)!r} is there twice")
    return row


def text(row: Row, key: str, where: str, *, may_be_empty: bool = False) -> str:
    """A field that is a text."""
    value = row.get(key)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise ValueError(f"{where}: {key} = {_shown(value)}: needs a text")
    return value


def texts(row: Row, key: str, where: str, at_least: int = 2) -> list[str]:
    """A field that is a list of texts."""
    value = row.get(key)
    if not isinstance(value, list) or len(value) < at_least or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{where}: {key} = {_shown(value)}: needs a list of at least {at_least} texts")
    return value


def index(row: Row, key: str, where: str, count: int) -> int:
    """A field that numbers one of `count` things, from 0."""
    value = row.get(key)
    if type(value) is not int or not 0 <= value < count:
        raise ValueError(f"{where}: {key} = {_shown(value)}: needs the number of one of {count}, from 0 to {count - 1}")
    return value


def _shown(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:80]}…"
