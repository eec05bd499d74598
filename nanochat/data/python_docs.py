"""The embedded corpus: what the authors of Python and of the installed packages wrote to explain them.

Docstrings and other triple-quoted text that opens a line, README and other Markdown or reStructuredText files, package
descriptions, the topics of `help()`. Promises: the documents, their order and their shards depend on the text alone,
never on where or in which order it lies on disk; no two of them differ in letter case, digits and white space only;
held-out documents are in no training shard. It does not parse Python (80 s for 260 MB), it splits at the quotes (1 s).
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterator
from pathlib import Path

from nanochat.data.sources import PYTHON_DOCS_SHARDS, environment_digest, python_files

MIN_BYTES = 100  # shorter ones are signatures and one-liners
HELD_OUT_SHARE, HELD_OUT_MOST = 100, 500  # one in a hundred documents, at most so many
MIN_LETTERS = 0.55  # ASCII ones, of all bytes: tables, dumps and other languages than English have fewer

_LOWER = bytes(range(256)).translate(bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode()))
_NOT_LETTERS = bytes(sorted(set(range(256)) - set(string.ascii_letters.encode())))
_INDENT = re.compile(rb"\n( *)[^\s]")
_TRAILING = re.compile(rb" +\n")
_LICENCE = re.compile(r"licen[cs]e|copying|notice|authors|contributors", re.IGNORECASE)


def shard(part: int, environment: str) -> list[str]:
    """Documents of one part: 0 the held-out ones, i the i-th of PYTHON_DOCS_SHARDS training shards.

    Raises:
        ValueError: this machine's packages are not those of `environment`.
    """
    here = environment_digest()
    if environment not in ("auto", here):
        raise ValueError(
            f"download.environment = {environment!r}, but the Python and packages of this machine are {here!r}: "
            "run where the plan was made, install the same lock, or plan again with auto"
        )
    return split(documents())[part]


def split(found: dict[bytes, str]) -> list[list[str]]:
    """Held-out documents first, then the training shards; in the order of digests, which is as good as a shuffle."""
    in_order = sorted(found)
    held_out = min(len(in_order) // HELD_OUT_SHARE, HELD_OUT_MOST)
    shards: list[list[str]] = [[found[key] for key in in_order[:held_out]], *([] for _ in range(PYTHON_DOCS_SHARDS))]
    for key in in_order[held_out:]:
        shards[1 + key[-1] % PYTHON_DOCS_SHARDS].append(found[key])
    return shards


def documents() -> dict[bytes, str]:
    """All documents by the digest of their normalised text; of those that share it, the first in the order of bytes."""
    best: dict[bytes, bytes] = {}
    for raw in _raw_texts():
        if len(raw) < MIN_BYTES or len(text := clean(raw)) < MIN_BYTES or not is_prose(text):
            continue
        key = digest_of_text(text)
        if key not in best or text < best[key]:
            best[key] = text
    return {key: text.decode() for key, text in best.items()}


def is_prose(text: bytes) -> bool:
    """Mostly letters, and valid UTF-8: a few modules with a coding line of their own are not."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return len(text.translate(None, _NOT_LETTERS)) >= MIN_LETTERS * len(text)


def digest_of_text(text: bytes) -> bytes:
    """Equal for texts that differ in ASCII case, digits and white space only: versions, dates, re-indented copies."""
    return hashlib.blake2b(text.translate(_LOWER, b"0123456789 \t\r\n\f\v"), digest_size=16).digest()


def _raw_texts() -> Iterator[bytes]:
    from pydoc_data.topics import topics  # the language reference, as help() shows it

    yield from (text.encode() for text in topics.values())
    for path in python_files():
        yield from _texts(path)


def _texts(path: Path) -> Iterator[bytes]:
    source = path.read_bytes().replace(b"\r\n", b"\n")
    if path.suffix == ".py":
        return docstrings(source)
    if path.name == "METADATA":
        return iter([source.partition(b"\n\n")[2]])  # behind the fields stands the project's README
    return iter([] if _LICENCE.search(path.name) else [source])


def docstrings(source: bytes) -> Iterator[bytes]:
    """Triple-quoted strings that open a line, as they are written.

    Between two quotes lies, in turn, code and text. What holds three quotes without being such a string puts that out
    of step until the end of the file: 3 of 6,668 texts of 1,500 files, against a lexer that takes 20 times as long.
    """
    for quotes in (b'"""', b"'''"):
        pieces = source.split(quotes)
        for before, text in zip(pieces[:-1:2], pieces[1::2], strict=False):
            if not before[before.rfind(b"\n") + 1 :].strip(b" \trRuU"):
                yield text


def clean(text: bytes) -> bytes:
    """Without the indentation that all lines but the first share, and without trailing blanks (as PEP 257 has it)."""
    if b"\t" in text:
        text = text.expandtabs(8)
    indents = _INDENT.findall(text)
    if indents and (shared := min(map(len, indents))):
        text = text.replace(b"\n" + b" " * shared, b"\n")
    if b" \n" in text:
        text = _TRAILING.sub(b"\n", text)
    return text.strip()
