"""A list of English words that the stage `task_data` fetched: how it is read, checked, and found again by the tasks.

Promises: what is no list of words is refused by line; each word is kept once, in the order of the file, and only where
it has three to twenty letters. Not here: the embedded words and which are held out (nanochat/tasks/words.py), fetching
(nanochat/stages/task_data.py). Standard library only.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from nanochat.errors import shortened
from nanochat.locations import folder
from nanochat.redaction import redacted

FILE = "words.txt"  # in the artifact of task_data
KNOB = "task_data.words_source"
FEWEST = 1000  # usable words: with fewer the embedded list is the better one
SHORTEST, LONGEST = 3, 20  # letters
WORD = re.compile(rb"[a-z]+")


def local_file(source: str) -> Path | None:
    """The file that `task_data.words_source` names; None for an address on the web. ValueError: there is none."""
    if source.startswith(("https://", "http://")):
        return None
    path = folder(source.removeprefix("file://"))
    if not path.is_file():
        raise ValueError(
            f"{KNOB} = {redacted(source)!r}: there is no such file; give an https:// address or a file, one word a line"
        )
    return path


def read(path: Path, where: str) -> list[str]:
    """The usable words of a list; `where` names it in the messages.

    Raises:
        ValueError: a line is no word of the letters a to z, or fewer than a thousand of them can be used.
    """
    kept: dict[str, None] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            word = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
            if word and not WORD.fullmatch(word):
                raise ValueError(
                    f"{where}, line {number}: {shortened(word.decode(errors='replace'))} is no word: {KNOB} needs one "
                    "word a line, in the letters a to z"
                )
            if SHORTEST <= len(word) <= LONGEST:
                kept[word.decode()] = None
    if len(kept) < FEWEST:
        raise ValueError(
            f"{where}: {len(kept):,} words of {SHORTEST} to {LONGEST} letters are too few: {KNOB} needs at least "
            f"{FEWEST:,}; or set task_data.words=embedded"
        )
    return list(kept)


def fetched(data_dir: Path | None) -> Path | None:
    """The list in the artifact of task_data; None where that has none."""
    path = None if data_dir is None else data_dir / FILE
    return path if path and path.is_file() else None
