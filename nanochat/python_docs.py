"""The embedded corpus: what the authors of Python and of the installed packages wrote to explain them.

Docstrings and other triple-quoted text that opens a line, README and other Markdown or reStructuredText files, package
descriptions, the topics of `help()`. Promises: the documents, their order and their shards depend on the text alone,
never on where or in which order it lies on disk; no two of them are equal but for letter case, digits and white space;
held-out documents are in no training shard. It does not parse Python: that takes 90 s for 260 MB, splitting at the quotes 1 s.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterator
from pathlib import Path

from nanochat.corpus import PYTHON_DOCS_SHARDS, environment_digest, python_files

MIN_BYTES = 100  # shorter ones are signatures and one-liners
HELD_OUT_SHARE, HELD_OUT_MOST = 100, 500  # one in a hundred documents, at most so many
MIN_LETTERS = 0.55  # of all bytes; tables, byte dumps and generated code have fewer

_LOWER = bytes(range(256)).translate(bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode()))
_NOT_LETTERS = bytes(sorted(set(range(256)) - set(string.ascii_letters.encode())))
_INDENT = re.compile(rb"\n([ \t]*)[^\s]")
_TRAILING = re.compile(rb"[ \t]+(?=\n)|\s+\Z")
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
    """Held-out documents first, then the training shards; by digest, so that it is a shuffle that anybody can repeat."""
    in_order = sorted(found)
    held_out = min(len(in_order) // HELD_OUT_SHARE, HELD_OUT_MOST)
    shards: list[list[str]] = [[found[key] for key in in_order[:held_out]], *([] for _ in range(PYTHON_DOCS_SHARDS))]
    for key in in_order[held_out:]:
        shards[1 + key[-1] % PYTHON_DOCS_SHARDS].append(found[key])
    return shards


def documents() -> dict[bytes, str]:
    """All documents by the digest of their normalised text; of those that share it, the first in the order of bytes."""
    best: dict[bytes, bytes] = {}
    for path in python_files():
        for text in _texts(path):
            text = clean(text)
            if len(text) < MIN_BYTES or len(text.translate(None, _NOT_LETTERS)) < MIN_LETTERS * len(text):
                continue
            key = digest_of_text(text)
            if key not in best or text < best[key]:
                best[key] = text
    return {key: decoded for key, text in best.items() if (decoded := _decoded(text)) is not None}


def digest_of_text(text: bytes) -> bytes:
    """Equal for texts that differ in ASCII letter case, digits and white space only: versions, dates, re-indented copies."""
    return hashlib.blake2b(text.translate(_LOWER, b"0123456789 \t\r\n\f\v"), digest_size=16).digest()


def _decoded(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:  # a module with a coding line: some twenty of them, all tests of codecs
        return None


def _texts(path: Path) -> Iterator[bytes]:
    if path.suffix == ".py":
        return docstrings(path.read_bytes())
    if path.name == "METADATA":
        return iter([path.read_bytes().partition(b"\n\n")[2]])
    return iter([] if _LICENCE.search(path.name) else [path.read_bytes()])


def docstrings(source: bytes) -> Iterator[bytes]:
    """Triple-quoted strings that open a line.

    Between two quotes lies, in turn, code and text. A comment or string that holds three quotes puts that out of step
    (1 in 2,000 documents against a real lexer), so what follows must not look like code that came before it.
    """
    for quotes in (b'"""', b"'''"):
        pieces = source.split(quotes)
        for before, text in zip(pieces[::2], pieces[1::2], strict=False):
            if not before[before.rfind(b"\n") + 1 :].strip(b" \trRuU"):
                yield text


def clean(text: bytes) -> bytes:
    """Without the indentation that all lines but the first share, trailing blanks and blank ends (as PEP 257 has it)."""
    text = text.replace(b"\r\n", b"\n").expandtabs(8) if b"\t" in text or b"\r" in text else text
    indents = _INDENT.findall(text)
    if indents and (shared := min(map(len, indents))):
        text = text.replace(b"\n" + b" " * shared, b"\n")
    return _TRAILING.sub(b"", text).lstrip()
