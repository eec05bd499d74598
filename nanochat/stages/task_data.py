"""Fetches the data of the real chat tasks once, checks it and writes it in each task's own form; and the list of words.

From a folder of JSON lines, or from Hugging Face `datasets`; the words from an address or a file. Promises:
`<task>_<split>.jsonl` holds only rows that the task can read; a row that it cannot, and a word that is none, is named
by file and line; what was fetched is written down with count and sha256; training and test rows come from splits that
the publishers keep apart, and a row to train or validate on whose question is also tested, in whatever task, is left
out and counted, as is one to train on that is validated on.
No stage with a model fetches anything. The forms are documented at the tasks (`normalise`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.artifacts.files import sha256_of
from nanochat.data import json_lines
from nanochat.data.fetch import fetch
from nanochat.redaction import redacted
from nanochat.tasks import word_file
from nanochat.tasks.from_file import FromFile, Origin
from nanochat.tasks.published import ORIGINS, Origins, file_of, named
from nanochat.tasks.task import TASKS
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import TaskData

Rows = Iterator[tuple[str, Any]]  # with where they stand
PROGRESS_EVERY = 10_000
TIMEOUT, ATTEMPTS = 60.0, 5  # of the list of words: seconds without a byte, and how often it is asked for


def run(stage: TaskData, ctx: StageContext, origins: Origins = ORIGINS) -> dict[str, float]:
    """Writes `<task>_<split>.jsonl` for every named task, words.txt, and index.json; returns rows and words in all.

    Raises:
        ValueError: as `named`, a missing or empty file, a row that the task cannot read, a list that is none of words.
        ConnectionError: the words could not be fetched.
    """
    names = named(stage.tasks, stage.source, origins)
    index: dict[str, Any] = {}
    tested: set[str] = set()
    for split in ("test", "validation", "train"):  # of all tasks: another one may test what this one trains on
        for name in (name for name in names if split in origins[name]):
            task = TASKS[name]
            assert issubclass(task, FromFile), (name, task)
            path, origin = ctx.out / f"{name}_{split}.jsonl", origins[name][split]
            file = file_of(stage.source, name, split, origin) if stage.source else None
            rows = json_lines.read(file) if file else _published(origin)
            index[path.name] = _write(task, path, rows, ctx, set() if split == "test" else tested)
        for name in (name for name in names if split in origins[name] and split != "train"):
            tested |= _tested(ctx.out / f"{name}_{split}.jsonl")
    numbers = {"rows": float(sum(entry["rows"] for entry in index.values()))}
    about: dict[str, Any] = {"tasks": names, "files": index}
    if stage.words == "english":
        about["words"] = _words(stage.words_source, ctx)
        numbers["words"] = float(about["words"]["count"])
    (ctx.out / "index.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return numbers


def _words(source: str, ctx: StageContext) -> dict[str, Any]:
    """Writes words.txt; returns where the list is from, its digest as it came, and how many words of it are kept."""
    path, where = word_file.local_file(source), redacted(source)
    if path is None:
        path = ctx.work / word_file.FILE
        fetch(source, path, timeout=TIMEOUT, attempts=ATTEMPTS, knob=word_file.KNOB)
    words = word_file.read(path, where)
    (ctx.out / word_file.FILE).write_text("\n".join(words) + "\n", encoding="ascii")
    return {"source": where, "count": len(words), "sha256": sha256_of(path)}


def _published(origin: Origin) -> Rows:
    """Rows from Hugging Face, or from a folder laid out like a data set, with where they stand."""
    import datasets

    rows = datasets.load_dataset(origin.dataset, origin.config, split=origin.split)
    for number, row in enumerate(rows, start=1):
        yield f"{origin.dataset} ({origin.split}), row {number}", row


def _write(task: type[FromFile], path: Path, rows: Rows, ctx: StageContext, tested: set[str]) -> dict[str, Any]:
    """Writes the rows whose question is not `tested`; returns how many, how many not, and their digest."""
    sha, count, dropped = hashlib.sha256(), 0, 0
    with path.open("wb") as file:
        for where, published in rows:
            row = _normalised(task, where, published)
            if not tested.isdisjoint(_questions(row)):
                dropped += 1
                continue
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            sha.update(line)
            count += 1
            if count % PROGRESS_EVERY == 0:
                ctx.metrics.progress(count, count, f"rows of {path.stem}")
    if not count:
        raise ValueError(f"{path.name} came out empty: look at where it was fetched from")
    return {"rows": count, "in_test": dropped, "sha256": sha.hexdigest()}


def _tested(path: Path) -> set[str]:
    with path.open("rb") as file:
        return {_questions(json.loads(line))[0] for line in file}


def _questions(row: dict[str, Any]) -> list[str]:
    """What a row asks, however it is spaced and capitalised; of a conversation the whole, then what the user says."""
    texts = [row.get("question") or row.get("prompt") or json.dumps(row["messages"])]
    texts += [message["content"] for message in row.get("messages", ()) if message["role"] == "user"]
    return [" ".join(text.lower().split()) for text in texts]


def _normalised(task: type[FromFile], where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: needs an object, found {type(row).__name__}")
    try:
        return task.normalise(row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
